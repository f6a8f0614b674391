"""Random programs, as data: run them on expressions, or, by a naive interpreter, eagerly on NumPy arrays of one
example at a time.

A program is a list of steps; each applies one operation of `STEPS` to earlier values. The interpreter shares no code
with lazyflow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

import lazyflow as lf

N = 4  # every vector has this size


@dataclass(frozen=True)
class Step:
    """One operation: on expressions, and the same on arrays. ``arity`` vectors of size N in, one out; ``payload`` is
    a small integer."""

    arity: int
    lazy: Callable[..., Any]
    eager: Callable[..., Any]


def _numpy_softmax(x: Any) -> Any:
    e = np.exp(x - x.max())
    return e / e.sum()


def _matrix(P: Any) -> Any:
    return P["W"]


STEPS: dict[str, Step] = {
    "add": Step(2, lambda P, k, a, b: a + b, lambda P, k, a, b: a + b),
    "multiply": Step(2, lambda P, k, a, b: a * b, lambda P, k, a, b: a * b),
    "same operand twice": Step(1, lambda P, k, a: a * a, lambda P, k, a: a * a),
    "tanh": Step(1, lambda P, k, a: lf.tanh(a), lambda P, k, a: np.tanh(a)),
    "sigmoid": Step(1, lambda P, k, a: lf.sigmoid(a), lambda P, k, a: 1 / (1 + np.exp(-a))),
    "scalar": Step(1, lambda P, k, a: a * (k + 0.5) - 1, lambda P, k, a: a * (k + 0.5) - 1),
    "reversed scalar": Step(1, lambda P, k, a: 1.5 - a, lambda P, k, a: 1.5 - a),
    "elu": Step(
        1,
        lambda P, k, a: lf.elu(a, 0.5 + k),
        lambda P, k, a: np.where(a > 0, a, (0.5 + k) * (np.exp(np.minimum(a, 0)) - 1)),
    ),
    "parameter as data": Step(1, lambda P, k, a: a * P["p"], lambda P, k, a: a * P["p"]),
    "parameter alone": Step(1, lambda P, k, a: a + lf.tanh(P["p"]), lambda P, k, a: a + np.tanh(P["p"])),
    "shared matrix": Step(1, lambda P, k, a: P["W"] @ a, lambda P, k, a: P["W"] @ a),
    "affine": Step(1, lambda P, k, a: lf.affine(P["W"], P["p"], a), lambda P, k, a: P["W"] @ a + P["p"]),
    "own matrix": Step(2, lambda P, k, a, b: lf.outer(a, b) @ b, lambda P, k, a, b: np.outer(a, b) @ b),
    "dot": Step(2, lambda P, k, a, b: a * lf.dot(a, b), lambda P, k, a, b: a * (a @ b)),
    "softmax": Step(1, lambda P, k, a: lf.softmax(a), lambda P, k, a: _numpy_softmax(a)),
    "sum": Step(1, lambda P, k, a: a + lf.sum(a), lambda P, k, a: a + a.sum()),
    "norm": Step(1, lambda P, k, a: a / (1 + lf.sum(a * a)), lambda P, k, a: a / (1 + (a * a).sum())),
    "element": Step(1, lambda P, k, a: a * a[k % N], lambda P, k, a: a * a[k % N]),
    "pick": Step(1, lambda P, k, a: a - lf.pick(a, k % N), lambda P, k, a: a - a[k % N]),
    "halves": Step(
        2,
        lambda P, k, a, b: lf.concatenate([lf.split(a, 2)[k % 2], lf.split(b, 2)[1]]),
        lambda P, k, a, b: np.concatenate([np.split(a, 2)[k % 2], np.split(b, 2)[1]]),
    ),
    "window": Step(
        1,
        lambda P, k, a: lf.concatenate([a[k % 2 : k % 2 + 3], a[1:2]]) + lf.concatenate([a[0:3], a[k % N : k % N + 1]]),
        lambda P, k, a: np.concatenate([a[k % 2 : k % 2 + 3], a[1:2]]) + np.concatenate([a[0:3], a[k % N : k % N + 1]]),
    ),
    "reshape": Step(
        2,
        lambda P, k, a, b: (a.reshape(2, 2) @ b.reshape(2, 2)).reshape(N),
        lambda P, k, a, b: (a.reshape(2, 2) @ b.reshape(2, 2)).reshape(N),
    ),
    "transpose": Step(1, lambda P, k, a: a.reshape(2, 2).T.reshape(N), lambda P, k, a: a.reshape(2, 2).T.reshape(N)),
    "stack": Step(
        2,
        lambda P, k, a, b: lf.sum(lf.stack([a, b]), axis=k % 2 - 2)[0] * b,
        lambda P, k, a, b: np.stack([a, b]).sum(axis=k % 2 - 2)[0] * b,
    ),
    "list sum": Step(
        2, lambda P, k, a, b: lf.sum([a, b, a] + [b] * (k % 3)), lambda P, k, a, b: a + b + a + b * (k % 3)
    ),
    "embedding": Step(1, lambda P, k, a: a + lf.embedding(P["E"], k), lambda P, k, a: a + P["E"][k]),
    "row of a table": Step(
        2,
        lambda P, k, a, b: lf.take(lf.stack([a, b]), lf.argmax(lf.stack([a[0], b[0]]))),
        lambda P, k, a, b: np.stack([a, b])[int(b[0] > a[0])],
    ),
    "constant": Step(
        1, lambda P, k, a: a - np.arange(N, dtype=a.dtype) * k, lambda P, k, a: a - np.arange(N, dtype=a.dtype) * k
    ),
    "where": Step(2, lambda P, k, a, b: lf.where(a > b, a, b * 2), lambda P, k, a, b: np.where(a > b, a, b * 2)),
    "mixed dtype": Step(1, lambda P, k, a: (a.astype("float64") * 0.5).astype(a.dtype), lambda P, k, a: a * 0.5),
    "detach": Step(2, lambda P, k, a, b: a * b.detach(), lambda P, k, a, b: a * b),
}


@dataclass(frozen=True)
class Program:
    """``steps[i]``: operation, payload, and the positions of its operands among the inputs and earlier steps."""

    steps: tuple[tuple[str, int, tuple[int, ...]], ...]

    def run(self, eager: bool, parameters: dict[str, Any], inputs: list[Any]) -> list[Any]:
        values = list(inputs)
        for name, payload, operands in self.steps:
            step = STEPS[name]
            values.append((step.eager if eager else step.lazy)(parameters, payload, *(values[i] for i in operands)))
        return values[len(inputs) :]


INPUTS = 2


@st.composite
def programs(draw: Any, names: tuple[str, ...] = tuple(STEPS), most: int = 12) -> Program:
    steps = []
    for i in range(draw(st.integers(1, most))):
        name = draw(st.sampled_from(names))
        operands = tuple(draw(st.integers(0, INPUTS + i - 1)) for _ in range(STEPS[name].arity))
        steps.append((name, draw(st.integers(0, 4)), operands))
    return Program(tuple(steps))


def arrays(seed: int) -> dict[str, Any]:
    """The parameters' values, float64."""
    rng = np.random.default_rng(seed)
    return {"W": rng.normal(size=(N, N)) * 0.5, "p": rng.normal(size=N), "E": rng.normal(size=(5, N))}


def example_inputs(seed: int, examples: int) -> list[list[Any]]:
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=N) for _ in range(INPUTS)] for _ in range(examples)]
