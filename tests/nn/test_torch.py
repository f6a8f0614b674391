"""Every layer against PyTorch with the same weights: values, and the gradients of all parameters and inputs."""

from itertools import chain

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from tests.nn.support import (
    TOLERANCE,
    ChildSumTreeLSTM,
    TreeLSTM,
    assert_close,
    dependency_trees,
    factors,
    gradients,
    scrambled,
    sequences,
    trees,
    vectors,
    weighted,
)

torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")
pytestmark = [pytest.mark.peer, pytest.mark.parametrize("dtype", ["float32", "float64"])]


def copied(ours, theirs, dtype):
    """The peer, in this dtype, with our weights under the same names."""
    theirs = theirs.to(getattr(torch, dtype))
    theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})
    return theirs


def peer_gradients(module):
    return {name: p.grad.to_dense().numpy() for name, p in module.named_parameters()}


def peer_weighted(outputs):
    fs = [torch.tensor(f, dtype=o.dtype) for o, f in zip(outputs, factors(outputs), strict=True)]
    return sum((o * f).sum() for o, f in zip(outputs, fs, strict=True))


# One example's outputs, from the module and the example's arrays as expressions or tensors.


def each(layer, xs):
    return [layer(x) for x in xs]


def steps(cell, xs):
    state, outputs = None, []
    for x in xs:
        state = cell(x, state)
        outputs.extend(state if isinstance(state, tuple) else [state])
    return outputs


def our_list(lstm, xs):
    outputs, states = lstm(xs)
    return [*outputs, *(h for h, _ in states), *(c for _, c in states)]


def their_list(lstm, xs):
    outputs, (hs, cs) = lstm(torch.stack(xs))
    return [*outputs, *hs, *cs]


WORDS = sequences(5, 4, (3, 1, 5, 2))
# ours, theirs, the examples, one example's outputs in ours and in theirs
LAYERS = {
    "Linear": (lambda: nn.Linear(4, 3), lambda: torch.nn.Linear(4, 3), WORDS, each, each),
    "Linear without bias": (
        lambda: nn.Linear(4, 3, bias=False), lambda: torch.nn.Linear(4, 3, bias=False), WORDS, each, each,
    ),
    "Linear over rows": (
        lambda: nn.Linear(4, 3), lambda: torch.nn.Linear(4, 3), [vectors(n, (n, 4)) for n in (1, 2)], each, each,
    ),
    "Linear over rows without bias": (
        lambda: nn.Linear(4, 3, bias=False), lambda: torch.nn.Linear(4, 3, bias=False),
        [vectors(n, (n, 2, 4)) for n in (1, 2)], each, each,
    ),
    "LayerNorm": (lambda: nn.LayerNorm(4, eps=1e-3), lambda: torch.nn.LayerNorm(4, eps=1e-3), WORDS, each, each),
    "LayerNorm over two axes": (
        lambda: nn.LayerNorm((2, 3)), lambda: torch.nn.LayerNorm((2, 3)),
        [vectors(n, (n, 2, 3)) for n in (1, 3)], each, each,
    ),
    "LayerNorm without bias": (
        lambda: nn.LayerNorm(4, bias=False), lambda: torch.nn.LayerNorm(4, bias=False), WORDS, each, each,
    ),
    "LayerNorm without weights": (
        lambda: nn.LayerNorm(4, elementwise_affine=False), lambda: torch.nn.LayerNorm(4, elementwise_affine=False),
        WORDS, each, each,
    ),
    "RNNCell": (lambda: nn.RNNCell(4, 3), lambda: torch.nn.RNNCell(4, 3), WORDS, steps, steps),
    "RNNCell relu": (
        lambda: nn.RNNCell(4, 3, nonlinearity="relu"), lambda: torch.nn.RNNCell(4, 3, nonlinearity="relu"),
        WORDS, steps, steps,
    ),
    "LSTMCell": (lambda: nn.LSTMCell(4, 3), lambda: torch.nn.LSTMCell(4, 3), WORDS, steps, steps),
    "LSTMCell without bias": (
        lambda: nn.LSTMCell(4, 3, bias=False), lambda: torch.nn.LSTMCell(4, 3, bias=False), WORDS, steps, steps,
    ),
    "GRUCell": (lambda: nn.GRUCell(4, 3), lambda: torch.nn.GRUCell(4, 3), WORDS, steps, steps),
    "GRUCell without bias": (
        lambda: nn.GRUCell(4, 3, bias=False), lambda: torch.nn.GRUCell(4, 3, bias=False), WORDS, steps, steps,
    ),
    "LSTM": (lambda: nn.LSTM(4, 3), lambda: torch.nn.LSTM(4, 3), WORDS, our_list, their_list),
    "LSTM of three layers": (lambda: nn.LSTM(4, 3, 3), lambda: torch.nn.LSTM(4, 3, 3), WORDS, our_list, their_list),
    "LSTM without bias": (
        lambda: nn.LSTM(4, 3, 2, bias=False), lambda: torch.nn.LSTM(4, 3, 2, bias=False), WORDS, our_list, their_list,
    ),
    "BiLSTM": (
        lambda: nn.BiLSTM(4, 3), lambda: torch.nn.LSTM(4, 3, bidirectional=True), WORDS, our_list, their_list,
    ),
    "BiLSTM of two layers": (
        lambda: nn.BiLSTM(4, 3, 2), lambda: torch.nn.LSTM(4, 3, 2, bidirectional=True), WORDS, our_list, their_list,
    ),
    "Sequential": (
        lambda: nn.Sequential(nn.Linear(4, 5), lf.tanh, nn.Linear(5, 3)),
        lambda: torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)), WORDS, each, each,
    ),
}  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS)
def test_layers(layer, dtype):
    make, peer, examples, ours, theirs = LAYERS[layer]
    with lf.using(dtype=dtype):
        module = scrambled(make())
        twin = copied(module, peer(), dtype)
        inputs = [[lf.Parameter(x.astype(dtype)) for x in example] for example in examples]
        tensors = [[torch.tensor(x.astype(dtype), requires_grad=True) for x in example] for example in examples]
        values = [o for example in inputs for o in ours(module, example)]
        expected = [o for example in tensors for o in theirs(twin, example)]
        weighted(values).backward()
        peer_weighted(expected).backward()
    for value, other in zip(values, expected, strict=True):
        assert value.dtype == dtype
        assert_close(value.numpy(), other.detach(), TOLERANCE[dtype])
    found, wanted = gradients(module), peer_gradients(twin)
    assert list(found) == list(wanted)
    for name in wanted:
        assert found[name].dtype == dtype
        assert_close(found[name], wanted[name], TOLERANCE[dtype])
    for x, tensor in zip(chain(*inputs), chain(*tensors), strict=True):
        assert_close(x.grad, tensor.grad, TOLERANCE[dtype])


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("padding_idx", [None, 2])
def test_embedding(padding_idx, sparse, dtype):
    indices = [1, 5, 2, [1, 2, 2], [4], [[2, 0], [5, 5]]]
    with lf.using(dtype=dtype):
        ours = scrambled(nn.Embedding(6, 3, padding_idx=padding_idx, sparse=sparse))
        theirs = copied(ours, torch.nn.Embedding(6, 3, padding_idx=padding_idx), dtype)
        values, expected = [ours(i) for i in indices], [theirs(torch.tensor(i)) for i in indices]
        weighted(values).backward()
        peer_weighted(expected).backward()
    for value, other in zip(values, expected, strict=True):
        assert_close(value.numpy(), other.detach(), TOLERANCE[dtype])
    assert_close(gradients(ours)["weight"], peer_gradients(theirs)["weight"], TOLERANCE[dtype])


# Whole models, recursive in both


class PeerTreeLSTM(torch.nn.Module):
    """`TreeLSTM` in PyTorch, with the equations of the cell written out."""

    def __init__(self, dim=4, hidden=3, classes=5):
        super().__init__()
        self.words = torch.nn.Embedding(10, dim)
        self.cell = torch.nn.ModuleDict(
            {"leaf_gates": torch.nn.Linear(dim, 3 * hidden), "inner_gates": torch.nn.Linear(2 * hidden, 5 * hidden)}
        )
        self.head = torch.nn.Linear(hidden, classes)

    def state(self, tree):
        if isinstance(tree, int):
            i, o, u = self.cell["leaf_gates"](self.words(torch.tensor(tree))).chunk(3)
            c = torch.sigmoid(i) * torch.tanh(u)
        else:
            (hl, cl), (hr, cr) = [self.state(child) for child in tree]
            i, fl, fr, o, u = self.cell["inner_gates"](torch.cat([hl, hr])).chunk(5)
            c = torch.sigmoid(i) * torch.tanh(u) + torch.sigmoid(fl) * cl + torch.sigmoid(fr) * cr
        return torch.sigmoid(o) * torch.tanh(c), c

    def forward(self, tree):
        return self.head(self.state(tree)[0])


class PeerChildSumTreeLSTM(torch.nn.Module):
    """`ChildSumTreeLSTM` in PyTorch, with the equations of the cell written out."""

    def __init__(self, dim=4, hidden=3, classes=5):
        super().__init__()
        self.words = torch.nn.Embedding(10, dim)
        self.hidden = hidden
        self.cell = torch.nn.ModuleDict({
            "input_gates": torch.nn.Linear(dim, 4 * hidden),
            "hidden_gates": torch.nn.Linear(hidden, 3 * hidden, bias=False),
            "forget_gate": torch.nn.Linear(hidden, hidden, bias=False),
        })  # fmt: skip
        self.head = torch.nn.Linear(hidden, classes)

    def state(self, tree):
        word, children = tree
        x = self.words(torch.tensor(word))
        below = [self.state(child) for child in children]
        s = sum((h for h, _ in below), torch.zeros(self.hidden, dtype=x.dtype))
        wi, wo, wu, wf = self.cell["input_gates"](x).chunk(4)
        ui, uo, uu = self.cell["hidden_gates"](s).chunk(3)
        c = torch.sigmoid(wi + ui) * torch.tanh(wu + uu)
        for h, ck in below:
            c = c + torch.sigmoid(wf + self.cell["forget_gate"](h)) * ck
        return torch.sigmoid(wo + uo) * torch.tanh(c), c

    def forward(self, tree):
        return self.head(self.state(tree)[0])


MODELS = {
    "binary": (TreeLSTM, PeerTreeLSTM, trees(8, (1, 2, 3, 7, 12, 20))),
    "child sum": (ChildSumTreeLSTM, PeerChildSumTreeLSTM, dependency_trees(8, (1, 2, 3, 7, 12, 20))),
}


@pytest.mark.parametrize("model", MODELS)
def test_tree_lstms(model, dtype):
    make, peer, examples = MODELS[model]
    labels = [int(i) for i in np.random.default_rng(0).integers(0, 5, len(examples))]
    with lf.using(dtype=dtype):
        ours = scrambled(make())
        theirs = copied(ours, peer(), dtype)
        loss = lf.mean([lf.cross_entropy(ours(tree), label) for tree, label in zip(examples, labels, strict=True)])
        logits = torch.stack([theirs(tree) for tree in examples])
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
        loss.backward()
        expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=TOLERANCE[dtype])
    found, wanted = gradients(ours), peer_gradients(theirs)
    assert list(found) == list(wanted)
    for name in wanted:
        assert_close(found[name], wanted[name], TOLERANCE[dtype])


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.lstm = nn.BiLSTM(6, 5, 2)
        self.head = nn.Linear(10, 4)

    def losses(self, words, tags):
        outputs, _ = self.lstm([self.words(word) for word in words])
        return [lf.cross_entropy(self.head(h), tag) for h, tag in zip(outputs, tags, strict=True)]


class PeerTagger(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(20, 6)
        self.lstm = torch.nn.LSTM(6, 5, 2, bidirectional=True)
        self.head = torch.nn.Linear(10, 4)

    def loss(self, words, tags):
        outputs, _ = self.lstm(self.words(torch.tensor(words)))
        return torch.nn.functional.cross_entropy(self.head(outputs), torch.tensor(tags), reduction="sum")


def test_a_tagger_over_sentences(dtype):
    rng = np.random.default_rng(4)
    sentences = [(rng.integers(0, 20, n).tolist(), rng.integers(0, 4, n).tolist()) for n in (1, 9, 4, 6, 2)]
    with lf.using(dtype=dtype):
        ours = scrambled(Tagger())
        theirs = copied(ours, PeerTagger(), dtype)
        loss = lf.sum([loss for words, tags in sentences for loss in ours.losses(words, tags)])
        expected = sum(theirs.loss(words, tags) for words, tags in sentences)
        loss.backward()
        expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=TOLERANCE[dtype])
    found, wanted = gradients(ours), peer_gradients(theirs)
    assert list(found) == list(wanted)
    for name in wanted:
        assert_close(found[name], wanted[name], TOLERANCE[dtype])


def test_a_tied_language_model(dtype):
    """The embedding is the output layer's weight too: a table that is looked up in and multiplied with."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(9, 4)
            self.lstm = nn.LSTM(4, 4)
            self.output = nn.Linear(4, 9)
            self.output.weight = self.words.weight

    class PeerTied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.Embedding(9, 4)
            self.lstm = torch.nn.LSTM(4, 4)
            self.output = torch.nn.Linear(4, 9)
            self.output.weight = self.words.weight

    sentences = [[1, 2, 3, 2], [4, 1], [8, 8, 0, 1, 2]]
    with lf.using(dtype=dtype):
        ours = scrambled(Tied())
        theirs = copied(ours, PeerTied(), dtype)
        losses, expected = [], 0
        for words in sentences:
            hs, _ = ours.lstm([ours.words(word) for word in words[:-1]])
            losses += [lf.cross_entropy(ours.output(h), word) for h, word in zip(hs, words[1:], strict=True)]
            logits = theirs.output(theirs.lstm(theirs.words(torch.tensor(words[:-1])))[0])
            expected += torch.nn.functional.cross_entropy(logits, torch.tensor(words[1:]), reduction="sum")
        loss = lf.sum(losses)
        loss.backward()
        expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=TOLERANCE[dtype])
    assert list(ours.state_dict()) == list(theirs.state_dict())
    found, wanted = gradients(ours), peer_gradients(theirs)
    assert list(found) == list(wanted)
    for name in wanted:
        assert_close(found[name], wanted[name], TOLERANCE[dtype])
