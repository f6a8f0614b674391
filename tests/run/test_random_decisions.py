"""Random programs that decide give by `lf.map` what they give one example at a time: values, gradients and draws.

What they decide, they decide with a margin, for batching changes last bits.
"""

import hypothesis
import numpy as np
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow import nn
from tests.programs import INPUTS, N, Program, arrays, example_inputs, programs

# Of a margin, and of what differs, by dtype.
MARGINS = {"float32": 1e-3, "float64": 1e-7}
CLOSE = {"float32": {"rtol": 2e-3, "atol": 2e-4}, "float64": {"rtol": 1e-7, "atol": 1e-8}}


class Parts(nn.Module):
    """What the programs share: parameters, cells and layers."""

    def __init__(self, seed, dtype):
        super().__init__()
        lf.seed(seed)
        with lf.using(dtype=dtype):
            self.W, self.p, self.E = (lf.Parameter(array.astype(dtype)) for array in arrays(seed).values())
            self.lstm, self.gru, self.rows = nn.LSTM(N, N, num_layers=2), nn.GRUCell(N, N), nn.Linear(N, N)

    @lf.cell
    def pair(self, a, b):
        """Of two results."""
        c = lf.tanh(lf.affine(self.W, self.p, a) + b)
        return c * lf.sigmoid(b), a - c

    @lf.cell
    def scaled(self, a, k):
        return {"up": a * (k + 0.5) + self.p, "down": lf.relu(self.W @ a)}

    def by_name(self):
        return {"W": self.W, "p": self.p, "E": self.E}


def both(parts, a, b, n):
    c, d = parts.pair(a, b)
    return lf.tanh(c + parts.pair(d, c)[n % 2])


def first_alone(parts, a, b, n):
    return parts.pair(a, b)[0] + b * 0.5


def scaled(parts, a, b, n):
    found = parts.scaled(a, n)
    return found["up"] * 0.1 + found["down"]


def over_a_list(parts, a, b, n):
    outputs, [_, (h, c)] = parts.lstm([a, b] + [a * b] * n)
    return lf.sum(outputs) * 0.3 + h * c


def recurrence(parts, a, b, n):
    for _ in range(n + 1):
        b = parts.gru(a, b)
    return b


def layer_over_rows(parts, a, b, n):
    return lf.max(lf.tanh(parts.rows(lf.stack([a, b] + [a - b] * n))), axis=0)


def attention(parts, a, b, n):
    rows = lf.constant(np.sin(np.arange((n + 1) * N)).reshape(-1, N).astype(a.dtype)) + b
    return lf.softmax(rows @ a) @ rows


def looked_up(parts, a, b, n):
    return lf.mean(lf.embedding(parts.E, np.arange(n + 1) * 2 % 5) * a, axis=0)


def looked_up_by_array(parts, a, b, n):
    return lf.embedding(parts.E, np.array([[n, 0], [1, n]])).sum(axis=(0, 1)) * 0.2 + a


def looked_up_by_a_value(parts, a, b, n):
    return a * 0.5 + lf.embedding(parts.E, lf.argmax(lf.stack([b[0], b[1] + n])))


def joined(parts, a, b, n):
    whole = lf.concatenate([a, b, *[a * 0.1] * n])
    return lf.sum(whole * whole) * 0.1 + whole[n : n + N]


MORE = [
    both, first_alone, scaled, over_a_list, recurrence, layer_over_rows, attention, looked_up, looked_up_by_array,
    looked_up_by_a_value, joined,
]  # fmt: skip
RULES = [
    "if", "argmax", "rows", "several", "draw", "sample", "dropout", "no_grad", "inner", "backward", "pile", "end",
]  # fmt: skip


@st.composite
def deciding(draw):
    """Pieces of programs; behind each, which one follows is decided by what it has computed."""
    one = st.one_of(programs(most=3), st.lists(st.sampled_from(MORE), min_size=1, max_size=2))
    pieces = draw(st.lists(one, min_size=2, max_size=4))
    return pieces, draw(st.lists(st.sampled_from(RULES), min_size=2, max_size=6))


class Run:
    """One example's run of a program. ``path``: what it has decided; ``seen``: values that it has asked for; ``pile``:
    losses that it never looks at."""

    def __init__(self, parts, inputs, margins):
        self.parts, self.margins = parts, margins
        self.a, self.b = map(lf.constant, inputs)
        self.path, self.seen, self.pile = [0], [], []

    def computes(self, piece):
        n = len(self.path) % 3 + self.path[-1] % 3
        if isinstance(piece, Program):
            values = piece.run(False, self.parts.by_name(), [self.a, self.b])
        else:
            values = [self.a]
            for function in piece:
                values.append(function(self.parts, values[-1], self.b, n))
        self.a, self.b = lf.tanh(values[-1]), self.b + (values[-2] if len(values) > 1 else self.a) * 0.1

    def positive(self, value):
        self.margins.append(abs(value))
        return int(value > 0)

    def decides(self, rule):
        """What comes next; None at the end."""
        found = getattr(self, f"by_{rule}")()
        self.path.append(found)
        return found

    def by_if(self):
        return self.positive(lf.sum(self.a).item())

    def by_argmax(self):
        two = np.sort(self.a.numpy())[-2:]
        self.margins.append(two[1] - two[0])
        return self.a.argmax().item()

    def by_rows(self):
        """Asks for as many rows as it has decided so far."""
        rows = lf.stack([self.a * (k + 1) for k in range(len(self.path))]) @ self.parts.W
        self.seen.append(rows.numpy())
        return self.positive(self.seen[-1].sum())

    def by_several(self):
        self.seen += lf.forward([lf.sum(self.a), lf.outer(self.a, self.b), self.a])
        return self.positive(self.seen[-3])

    def by_draw(self):
        self.a = self.a + lf.normal((N,), dtype=self.a.dtype) * 0.1
        return int(lf.uniform(dtype="float64").item() * 4)

    def by_sample(self):
        return lf.sample(self.a).item()

    def by_dropout(self):
        self.a = lf.dropout(self.a, 0.5)
        self.seen.append(self.a.numpy())
        return int((self.seen[-1] == 0).sum())

    def by_no_grad(self):
        with lf.no_grad():
            v = lf.sum(self.a * self.b).item()
            self.a = self.a + lf.tanh(self.b)
        return self.positive(v)

    def by_inner(self):
        return sum(lf.map(self.count_down, [self.a[0], self.a[1]]))

    def count_down(self, x):
        n = 0
        while n < 4 and self.positive(x.item() - 0.1):
            x, n = x * 0.5, n + 1
        return n

    def by_backward(self):
        loss = lf.sum(self.a * self.a)
        if loss.requires_grad:
            loss.backward()
        return self.positive(loss.item() - 1)

    def by_pile(self):
        self.pile.append(lf.sum(self.a * self.b))
        self.pile.append(lf.sum(lf.stack([self.a] * len(self.path))) * 0.1)
        return len(self.path) % 2

    def by_end(self):
        return None if self.by_if() else 0

    def result(self):
        return lf.sum([lf.sum(self.a), lf.sum(self.b), *self.pile])


def run(pieces, rules, example):
    which = 0
    for rule in rules:
        example.computes(pieces[which % len(pieces)])
        which = example.decides(rule)
        if which is None:
            break
    return example.result(), example


def outcome(program, seed, dtype, together):
    parts, margins = Parts(seed, dtype), []
    lf.seed(seed)
    inputs = [[x.astype(dtype) for x in pair] for pair in example_inputs(seed, 5)]
    found = lf.map(lambda x: run(*program, Run(parts, x, margins)), inputs, together=together)
    losses = [loss for loss, _ in found if loss.requires_grad]
    if losses:
        lf.sum(losses).backward()
    return found, {name: p.grad for name, p in parts.named_parameters()}, min(margins, default=1), lf.normal().item()


def dense(gradient):
    return gradient.to_dense() if hasattr(gradient, "to_dense") else gradient


@hypothesis.given(
    deciding(), st.integers(0, 50), st.sampled_from(["float64", "float32"]), st.sampled_from([None, 2, 3])
)
@hypothesis.settings(max_examples=80)
def test_a_map_gives_what_one_at_a_time_gives(program, seed, dtype, together):
    assert INPUTS == 2
    found, gradients, margin, following = outcome(program, seed, dtype, together)
    hypothesis.assume(margin > MARGINS[dtype])
    expected, others, _, then = outcome(program, seed, dtype, 1)
    for (loss, mine), (other, alone) in zip(found, expected, strict=True):
        assert mine.path == alone.path
        for a, b in zip([loss.numpy(), *mine.seen], [other.numpy(), *alone.seen], strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            np.testing.assert_allclose(a, b, **CLOSE[dtype])
    for name, gradient in gradients.items():
        assert (gradient is None) == (others[name] is None), name
        if gradient is not None:
            np.testing.assert_allclose(dense(gradient), dense(others[name]), err_msg=name, **CLOSE[dtype])
    assert following == then
