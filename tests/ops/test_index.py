"""Indices out of range are named, by whoever sees them first."""

from typing import Any

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.ops.base import OPS, Aval


@pytest.mark.host  # a device would have to be waited for: there it wraps around
@pytest.mark.parametrize("index", [-1, 3])
@pytest.mark.parametrize(
    "use", [lf.cross_entropy, lf.nll, lf.hinge, lambda x, i: lf.embedding(lf.Parameter(np.eye(3)), i)]
)
def test_a_computed_index_out_of_range(use, index):
    with pytest.raises(IndexError, match=f"{index} is out of range"):
        use(lf.constant([1.0, 2.0, 3.0]), lf.constant(index) + 0).numpy()


OUT_OF_RANGE = [
    ("lookup", (5, 3), (), {}, 5),
    ("lookup", (5, 3), (), {}, -6),
    ("lookup", (0, 3), (), {}, 0),
    ("take", (5, 3), (2,), {"axis": 1}, 3),
    ("take", (2, 5), (2,), {"axis": -1}, -6),
    ("pick", (5,), (), {}, 5),
    ("pick", (5, 2), (), {"axis": 0}, 77),
]


@pytest.mark.parametrize(("op", "shape", "of", "attrs", "wrong"), OUT_OF_RANGE)
@pytest.mark.parametrize("dtype", ["int64", "int8"])
def test_an_index_out_of_range_is_named(op: str, shape: Any, of: Any, attrs: Any, wrong: int, dtype: str) -> None:
    result = OPS[op].infer(Aval(shape, np.dtype(np.float32)), Aval(of, np.dtype(dtype)), **attrs)
    index = np.zeros((4, *of), dtype)
    index[2:] = wrong
    size = shape[attrs.get("axis", -1 if op == "pick" else 0)]
    for x in (np.zeros(shape, np.float32), np.zeros((4, *shape), np.float32)):
        with pytest.raises(IndexError, match=rf"{op}: index {wrong} is out of range for an axis of {size} elements"):
            OPS[op].forward(np, x, index, **result.static)


def test_an_index_out_of_range_is_named_by_one_hot() -> None:
    with pytest.raises(IndexError, match="one_hot: index 4 is out of range"):
        OPS["one_hot"].forward(np, np.array([0, 4]), n=4, dtype=np.dtype(np.float32))


def test_no_index_is_in_range() -> None:
    result = OPS["take"].infer(Aval((0, 2), np.dtype(np.float32)), Aval((0,), np.dtype(np.int64)), axis=0)
    got = OPS["take"].forward(np, np.zeros((3, 0, 2), np.float32), np.zeros((3, 0), np.int64), **result.static)
    assert got.shape == (3, 0, 2)
