"""Dtypes in cells: results, and gradients, have the dtypes of the same code without the decorator."""

import itertools

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.device import to_host
from lazyflow.nn import functional as F

VALUES = np.array([0.5, 0.25, 0.75])


def of(dtype):
    return {"b": VALUES > 0.4, "i": np.array([1, 2, 1])}.get(np.dtype(dtype).kind, VALUES).astype(dtype)


KINDS = {
    **{f"expression {d}": (lambda d=d: lf.constant(of(d))) for d in ("float32", "float64", "int32")},
    **{f"array {d}": (lambda d=d: of(d)) for d in ("float32", "float64", "int32", "bool")},
    "a parameter": lambda: lf.Parameter(of("float64")),
    "a gradient": lambda: lf.Parameter(of("float32")) * 1.0,
    "a scalar of float64": lambda: np.float64(1),
    "a scalar of int64": lambda: np.int64(1),
    "int": lambda: 2,
    "float": lambda: 0.5,
    "list": lambda: [0.5, 0.25, 0.5],
}
TRUE = np.array([True, False, True])
BODIES = {
    "add": lambda x, y: lf.add(x, y),
    "divide": lambda x, y: lf.divide(x, y),
    "functions": lambda x, y: lf.tanh(x) + lf.sqrt(y),
    "where": lambda x, y: lf.where(TRUE, x, y),
    "where with a number": lambda x, y: lf.where(x, y, 1),
    "clip": lambda x, y: lf.clip(x, 0, y),
    "stack": lambda x, y: lf.stack([x, y]),
    "concatenate": lambda x, y: lf.concatenate([lf.reshape(x, (-1,)), lf.reshape(y, (-1,))]),
    "constants": lambda x, y: lf.constant(x) * lf.constant(y),
    "an array of the closure": lambda x, y: lf.add(np.multiply(np.float32([1, 2, 3]), x), y),
    "embedding": lambda x, y: lf.embedding(lf.stack([x, x, x]), y),
    "matmul": lambda x, y: lf.matmul(x, y),
    "mse": lambda x, y: lf.mse(x, y),
    "huber": lambda x, y: lf.huber(x, y),
    "bce": lambda x, y: lf.bce_with_logits(x, y),
    "l1": lambda x, y: F.l1_loss(x, y),
    "cosine": lambda x, y: F.cosine_similarity(x, y),
    "layer norm": lambda x, y: F.layer_norm(x, (3,), y),
    "linear": lambda x, y: F.linear(x, lf.stack([y, y])),
    "affine": lambda x, y: lf.affine(np.eye(3, dtype=np.float32), x, y),
    "in a list": lambda x, y: lf.mse(*[x, y]) + lf.sum(lf.stack([y, x])),
}


def outcome(function, x, y):
    """What is recorded of arguments of these kinds: value and gradients with their dtypes, or the error."""
    given = KINDS[x](), KINDS[y]()
    try:
        found = function(*given)
    except (lf.LazyflowError, TypeError, ValueError, IndexError) as error:
        return type(error)
    value = found.numpy()
    if found.requires_grad:
        lf.sum(found * found).backward()
    grads = [to_host(p.grad) for p in given if isinstance(p, lf.Parameter) and p.grad is not None]
    return [(a.dtype, a.shape, a) for a in (value, *grads)]


def agree(one, other):
    if isinstance(one, type) or isinstance(other, type):
        return one == other
    return all(
        a[:2] == b[:2] and np.allclose(a[2], b[2], rtol=2e-3 if a[0] == np.float16 else 1e-5, equal_nan=True)
        for a, b in zip(one, other, strict=True)
    )


def in_a_cell(body):
    inner = lf.cell(body)
    return lf.cell(lambda x, y: inner(x, y))


WAYS = {
    "a cell": lf.cell,
    "a cell in a cell": in_a_cell,
    "check_finite": lambda body: lf.using(check_finite=True)(lf.cell(body)),
}
CASES = [*[(name, "a cell") for name in BODIES], *[(n, way) for n in ("mse", "layer norm") for way in [*WAYS][1:]]]


@pytest.mark.parametrize(("name", "way"), CASES)
def test_dtypes_are_those_of_the_plain_function(name, way):
    body, cell = BODIES[name], WAYS[way](BODIES[name])
    with np.errstate(all="ignore"):
        for x, y in itertools.product(KINDS, KINDS):
            expected = outcome(body, x, y)
            assert agree(expected, outcome(cell, x, y)), (x, y, expected)


@pytest.mark.parametrize("first", ["array", "expression"])
def test_an_array_and_an_expression_in_one_place_are_told_apart_in_every_call(first):
    """By code that was made for one of them, too."""
    cell = lf.cell(lambda x, y: lf.mse(x, y))
    y = lf.constant(of("float32"))
    kinds = [(KINDS["array float64"], "float32"), (KINDS["expression float64"], "float64")]
    for make, dtype in kinds[:: 1 if first == "array" else -1] * 4:
        assert cell(make(), y).dtype == dtype
        assert cell(make(), y).dtype == dtype
