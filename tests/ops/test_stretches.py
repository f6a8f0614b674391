"""Operations along stretches of rows: of each stretch what the operation gives of that value by itself."""

import numpy as np
import pytest

from lazyflow.ops.base import OPS
from lazyflow.ops.segment import largest_of, smallest_of
from lazyflow.ops.stretches import ALONG_STRETCHES, LOSSES_OF_ELEMENTS, _position_there, _running_there

COUNTS = np.array([3, 1, 40, 2, 2, 7, 1])
FLOATING = ("float16", "float32", "float64")
ALONG = {"argmax": {"flat": False, "keepdims": False}, "argmin": {"flat": False, "keepdims": False}}
ALONG |= {"logsumexp": {"keepdims": False}, "cumsum": {"flat": False}, "flip": {}}
PICKS = {"pick": {"axis": -1, "name": "pick", "ndim": 1, "index_ndim": 0}}
PICKS |= {name: {"reduction": "mean", "ndim": 0} for name in ("nll", "cross_entropy")}
DTYPES = [(n, d) for n in ALONG for d in (FLOATING if n == "logsumexp" else (*FLOATING, "int64", "uint8", "bool"))]
KINDS = ("plain", "ties", "special")


def rows_of(kind, dtype, shape=(3,)):
    rng = np.random.default_rng(4)
    size = (int(COUNTS.sum()), *shape)
    if np.dtype(dtype).kind != "f" or kind == "ties":
        return rng.integers(0, 3, size).astype(dtype)
    if kind == "plain":
        return rng.normal(size=size).astype(dtype)
    return rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 2.0], size).astype(dtype)


def parts_of(x):
    return np.split(x, np.cumsum(COUNTS)[:-1])


def close(found, expected, dtype):
    tolerance = {"float16": 2e-3, "float32": 1e-5}.get(str(dtype), 1e-12)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.host
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "dtype"), DTYPES)
@pytest.mark.parametrize("shape", [(), (3,)], ids=["numbers", "rows"])
def test_along_the_first_axis(name, dtype, kind, shape):
    x, op, whole = rows_of(kind, dtype, shape), ALONG_STRETCHES[name], OPS[name]
    static = {"axis": (-1 - len(shape),), **ALONG[name]}
    with np.errstate(all="ignore"):
        y = op.forward(np, x, COUNTS)
        right = [whole.forward(np, part[None], **static)[0] for part in parts_of(x)]
        joined = np.concatenate(right) if name in ("cumsum", "flip") else np.stack(right)
        close(y, joined, dtype)
        if op.vjps[0] is not None and dtype in FLOATING:
            g = rows_of("plain", dtype, shape)[: len(y)]
            answers = []
            gs = parts_of(g) if name in ("cumsum", "flip") else g
            for part, gp, yp in zip(parts_of(x), gs, right, strict=True):
                gp = gp.astype("float64") if name == "cumsum" else gp  # there they are added as they are
                answers.append(whole.vjps[0](np, gp[None], yp[None], part[None], **static)[0])
            close(op.vjps[0](np, g, y, x, COUNTS), np.concatenate(answers).astype(dtype), dtype)


@pytest.mark.host
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize("name", PICKS)
def test_one_of_each(name, dtype, kind):
    x, op, whole, static = rows_of(kind, dtype, ()), ALONG_STRETCHES[name], OPS[name], PICKS[name]
    index = np.array([2, 0, 17, 1, 0, 6, 0])
    g = np.arange(len(COUNTS)).astype(dtype) - 2  # of one stretch nobody asks
    with np.errstate(all="ignore"):
        y = op.forward(np, x, index, COUNTS)
        slopes = op.vjps[0](np, g, y, x, index, COUNTS)
        for i, (part, slope) in enumerate(zip(parts_of(x), parts_of(slopes), strict=True)):
            given = part[None], index[i : i + 1]
            right = whole.forward(np, *given, **static)
            close(y[i : i + 1], right, dtype)
            close(slope, whole.vjps[0](np, g[i : i + 1], right, *given, **static)[0], dtype)


@pytest.mark.host
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(), (3,)], ids=["numbers", "rows"])
@pytest.mark.parametrize("name", LOSSES_OF_ELEMENTS)
def test_losses_of_elements(name, shape, reduction):
    x, target = (np.abs(np.tanh(rows_of("plain", "float64", shape) * k)) for k in (0.7, 1.1))
    op, whole, static = ALONG_STRETCHES[name], OPS[name], {"delta": 0.3} if name == "huber" else {}
    y, g = op.forward(np, x, target, COUNTS, reduction=reduction, **static), np.arange(len(COUNTS)) - 2.0
    for which in (0, 1):
        slopes = op.vjps[which](np, g, y, x, target, COUNTS, reduction=reduction, **static)
        for i, slope in enumerate(parts_of(slopes)):
            given = parts_of(x)[i][None], parts_of(target)[i][None]
            of_one = {"reduction": reduction, "ndim": 1 + len(shape), **static}
            right = whole.forward(np, *given, **of_one)
            close(y[i : i + 1], right, "float64")
            close(slope, whole.vjps[which](np, g[i : i + 1], right, *given, **of_one)[0], "float64")


def test_an_index_that_is_out_of_range():
    x, counts = np.arange(5.0), np.array([3, 2])
    pick, loss = ALONG_STRETCHES["pick"].forward, ALONG_STRETCHES["cross_entropy"].forward
    assert pick(np, x, np.array([-1, -2]), counts).tolist() == [2.0, 3.0]
    with pytest.raises(IndexError, match="index 2 is out of range for an axis of 2 elements"):
        pick(np, x, np.array([0, 2]), counts)
    for wrong in (-1, 3):
        with pytest.raises(IndexError, match=f"class {wrong} is out of range for 3 scores"):
            loss(np, x, np.array([wrong, 1]), counts)


@pytest.mark.host
def test_running_sums_as_a_device_makes_them():
    """In steps of doubled length, and nothing of one stretch gets into another."""
    for kind in KINDS:
        x = rows_of(kind, "float64")
        with np.errstate(all="ignore"):
            right = np.concatenate([part.cumsum(0) for part in parts_of(x)])
            close(_running_there(np, x, COUNTS), right, "float64")


@pytest.mark.host
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8", "bool"])
def test_positions_as_a_device_finds_them(dtype):
    for kind in KINDS:
        x = rows_of(kind, dtype)
        for extreme, name in ((largest_of, "argmax"), (smallest_of, "argmin")):
            right = np.stack([getattr(part, name)(axis=0) for part in parts_of(x)])
            close(_position_there(extreme, np, x, COUNTS), right, "int64")
