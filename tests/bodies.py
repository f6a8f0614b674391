"""Random bodies of cells, and the ways in which they are called: the same function, decorated and not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow.device import to_host
from tests import programs as P

N = P.N


def _gated(P: Any, k: int, a: Any, b: Any) -> Any:
    i, f, g = lf.split(lf.affine(P["G"], P["g"], lf.concatenate([a, b])), 3)
    return lf.sigmoid(i) * lf.tanh(g) + lf.sigmoid(f) * a


def _attention(P: Any, k: int, a: Any, b: Any) -> Any:
    rows = lf.stack([a, b, a * b])
    return lf.softmax(rows @ a) @ rows


# What bodies do besides `programs.STEPS`; ``P`` holds the numbers among the arguments, too: an index ``n`` and a factor
# ``t``.
STEPS: dict[str, tuple[int, Callable[..., Any]]] = {
    **{name: (step.arity, step.lazy) for name, step in P.STEPS.items()},
    "gated": (2, _gated),
    "attention": (2, _attention),
    "factor": (1, lambda P, k, a: a * P["t"] - 0.5),
    "added number": (1, lambda P, k, a: lf.tanh(P["t"] + a)),
    "number alone": (1, lambda P, k, a: a + P["t"] * P["t"]),
    "integer factor": (1, lambda P, k, a: a * P["n"] * 0.25),
    "index": (1, lambda P, k, a: a * lf.pick(a, P["n"])),
    "word": (1, lambda P, k, a: a + lf.embedding(P["E"], P["n"])),
    "class": (1, lambda P, k, a: a * lf.cross_entropy(a, P["n"])),
    "classes": (1, lambda P, k, a: a + lf.cross_entropy(P["W"] @ a, P["n"])),
    "branch": (1, lambda P, k, a: a * 2 if P["n"] > 1 else a + 1),
    "range": (1, lambda P, k, a: lf.sum([a * (i + 1) for i in range(P["n"] + 1)])),
    "subscript": (1, lambda P, k, a: a + a[P["n"]]),
    "scalar parameter": (1, lambda P, k, a: a * P["s"] + lf.exp(P["s"])),
    "part of a parameter": (1, lambda P, k, a: a * P["g"][k : k + N] - P["W"][k % N]),
    "weight norm": (1, lambda P, k, a: lf.matmul(P["W"] / lf.norm(P["W"]), a)),
    "joined parameters": (
        2,
        lambda P, k, a, b: (
            lf.concatenate([P["W"], P["V"]], axis=1) @ lf.concatenate([a, b]) + lf.stack([P["p"], P["p"]])[1]
        ),
    ),
    "sum of parameters": (1, lambda P, k, a: lf.sum([P["W"], P["V"], P["W"] * 2]) @ a),
    "part of shared": (1, lambda P, k, a: a * lf.tanh(P["G"] @ P["g"][: 2 * N])[k : k + N] + lf.softmax(P["g"])[k]),
    "look-up by a constant": (1, lambda P, k, a: a * lf.embedding(P["E"], k) + lf.pick(P["p"], k % N)),
    "own table": (2, lambda P, k, a, b: lf.embedding(lf.stack([a, b, P["p"]]), P["n"] % 3)),
    "matrix of a vector": (1, lambda P, k, a: lf.sum(P["V"] * a, axis=0) + lf.sum(P["V"] + a.reshape(N, 1), axis=1)),
    "product from the left": (1, lambda P, k, a: a @ P["W"]),
    "mean over rows": (2, lambda P, k, a, b: lf.mean(lf.stack([a, b, P["p"]]), axis=0)),
    "two products": (2, lambda P, k, a, b: lf.tanh(P["W"] @ a) * (P["V"] @ a) - P["V"] @ b),
    "product twice": (2, lambda P, k, a, b: (P["W"] @ a) * (P["W"] @ b) + P["W"] @ a),
    "wide": (1, lambda P, k, a: lf.split(lf.relu(P["G"] @ lf.concatenate([a, a])), 3)[k % 3]),
    "scalar in the middle": (2, lambda P, k, a, b: lf.sigmoid(lf.dot(a, b)) * a + lf.sum(b) * 0.1),
    "slice": (1, lambda P, k, a: lf.concatenate([lf.tanh(a)[k % 3 :], a[: k % 3]])),
    "reversed": (1, lambda P, k, a: lf.exp(-a * a)[::-1]),
    "maximum": (2, lambda P, k, a, b: lf.maximum(a, b) / (1 + lf.abs(b))),
    "layer norm": (1, lambda P, k, a: (a - lf.mean(a)) / lf.sqrt(lf.var(a) + 0.1)),
    "truth": (2, lambda P, k, a, b: lf.where((a > 0) & (b < 1), a, -b)),
    "column": (2, lambda P, k, a, b: lf.sum(lf.outer(a, lf.tanh(b)) * P["V"], axis=1)),
    "single": (2, lambda P, k, a, b: lf.tanh(a) + lf.tanh(b[k % N : k % N + 1])),
    "constant alone": (1, lambda P, k, a: a + lf.exp(lf.constant(np.arange(4.0)))),
    "clip": (1, lambda P, k, a: lf.clip(a, -0.5, 0.5 + 0.1 * k) + lf.softplus(a)),
    "divided": (2, lambda P, k, a, b: a / (2 + lf.tanh(b))),
    "one result is an input": (2, lambda P, k, a, b: a),
}


def arrays(seed: int) -> dict[str, Any]:
    """The parameters' values."""
    rng = np.random.default_rng(seed)
    shapes = {"W": (N, N), "V": (N, N), "p": N, "E": (5, N), "G": (3 * N, 2 * N), "g": 3 * N, "s": ()}
    return {name: rng.normal(size=shape) * 0.4 for name, shape in shapes.items()}


def parameters(seed: int, dtype: str = "float64") -> dict[str, lf.Parameter]:
    return {name: lf.Parameter(array.astype(dtype)) for name, array in arrays(seed).items()}


@dataclass(frozen=True)
class Body:
    """``steps`` as in `programs.Program`, with operations of `STEPS`. ``results``: which of the values come back
    besides the last, which is the state of a recurrence."""

    steps: tuple[tuple[str, int, tuple[int, ...]], ...]
    results: tuple[int, ...] = ()

    def function(self, parameters: dict[str, Any]) -> Callable[..., Any]:
        """The body as a function of two vectors, an index and a factor."""

        def body(x: Any, h: Any, n: int, t: float) -> Any:
            given = {**parameters, "n": n, "t": t}
            values = [x, h]
            for name, payload, operands in self.steps:
                values.append(STEPS[name][1](given, payload, *(values[i] for i in operands)))
            return values[-1], {"more": [values[i] for i in self.results], "sum": lf.sum(values[len(values) // 2])}

        return body


def body(*steps: Any, results: tuple[int, ...] = ()) -> Body:
    return Body(tuple(steps), results)


@st.composite
def bodies(draw: Any, names: tuple[str, ...] = tuple(STEPS), most: int = 8) -> Body:
    steps = []
    for i in range(draw(st.integers(1, most))):
        name = draw(st.sampled_from(names))
        operands = tuple(draw(st.integers(0, 1 + i)) for _ in range(STEPS[name][0]))
        steps.append((name, draw(st.integers(0, 4)), operands))
    results = draw(st.lists(st.integers(0, len(steps) + 1), max_size=2))
    return Body(tuple(steps), tuple(results))


# Ways of calling it: one example's loss.


def _bounded(h: Any) -> Any:
    return lf.tanh(h)


def chain(step: Any, rng: Any, results: bool) -> Any:
    """A recurrence; the other results are used or not."""
    h, found = lf.constant(rng.normal(size=N)), []
    for _ in range(rng.integers(1, 5)):
        h, others = step(lf.constant(rng.normal(size=N)), h, int(rng.integers(0, N)), float(rng.normal()))
        found += [lf.sum(_bounded(v)) for v in others["more"] if results] + (
            [_bounded(others["sum"])] if results else []
        )
        h = _bounded(h)
    return lf.sum([*found, lf.sum(h)])


def bare_chain(step: Any, rng: Any, results: bool) -> Any:
    """A recurrence in which a cell reads nothing but results of cells."""
    h = x = lf.constant(rng.normal(size=N) * 0.1)
    for _ in range(rng.integers(1, 4)):
        h, others = step(h, x, int(rng.integers(0, N)), float(rng.normal() * 0.1))
        x = others["more"][0] if results and others["more"] else x
    return lf.sum(_bounded(h)) + lf.sum(_bounded(x))


def tree(step: Any, rng: Any, results: bool) -> Any:
    """A tree whose leaves are inputs, with the same child twice here and there."""

    def build(depth: int) -> Any:
        if depth == 0 or rng.random() < 0.2:
            return lf.constant(rng.normal(size=N))
        left = build(depth - 1)
        right = left if rng.random() < 0.25 else build(depth - 1)
        h, others = step(left, right, int(rng.integers(0, N)), float(rng.normal()))
        return _bounded(h) * (1 + _bounded(others["sum"])) if results else _bounded(h)

    return lf.sum(build(3))


def alone(step: Any, rng: Any, results: bool) -> Any:
    """Calls that do not read each other."""
    x, y = (lf.constant(rng.normal(size=N)) for _ in range(2))
    h, others = step(x, y, int(rng.integers(0, N)), float(rng.normal()))
    g, _ = step(y, y, 0, 0.5)
    return lf.sum(_bounded(h) * _bounded(g)) + (_bounded(others["sum"]) if results else 0.0)


USES = {f.__name__: f for f in (chain, bare_chain, tree, alone)}


def loss_of(step: Any, use: str, seed: int, examples: int = 4, results: bool = True) -> Any:
    """The mean loss of some examples, which are the same for a seed."""
    rng = np.random.default_rng(seed)
    return lf.mean([USES[use](step, rng, results) for _ in range(examples)])


def dense(gradient: Any) -> Any:
    """A gradient as a NumPy array."""
    return to_host(gradient.to_dense() if hasattr(gradient, "to_dense") else gradient)


def gradients(parameters: dict[str, Any]) -> dict[str, Any]:
    return {n: np.zeros(p.shape) if p.grad is None else np.array(dense(p.grad)) for n, p in parameters.items()}
