"""What brings the answer of a vjp where it belongs, on a device, against the vjp and NumPy's additions."""

import numpy as np
import pytest

from lazyflow import device as devices
from lazyflow.cuda.rows import Places
from lazyflow.ops.base import adder_of, unbroadcast
from tests.ops.harness import draw, host, launch_of, sharings
from tests.ops.test_ops import CASES

pytestmark = pytest.mark.gpu
CUDA = "cuda:0"
ADDING = [
    c for c in CASES if any(v is not None and adder_of(v) for v, _ in zip(c.record.vjps, c.operands, strict=False))
]
# These are worth it: of matrices with a vector, losses with a class, and lists, some case of each must be done so.
DONE = {"affine", "matmul", "cross_entropy", "sum_list", "mean_list"}


def brought(launch, operand, g, y, how):
    """The memory that an answer was brought to, and what it should be; None if it was not done."""
    vjp = launch.op.vjps[operand]
    answer = host(
        unbroadcast(launch.xp, vjp(launch.xp, g, y, *launch.arrays, **launch.result.static), shape(launch, operand))
    )
    rows = answer.reshape(len(answer), -1)
    (count, width), pitch = rows.shape, rows.shape[1] + (how != "at rows")
    at = np.arange(count)[::-1] // 2 if how == "at rows" else np.arange(count)
    before = np.random.default_rng(1).normal(size=(count, pitch)).astype(rows.dtype)
    memory = launch.xp.asarray(before)
    places = Places(
        memory.reshape(-1), pitch, count, width, launch.xp.asarray(at) if how == "at rows" else None, how != "put"
    )
    if not adder_of(vjp)(places, launch.xp, g, y, *launch.arrays, **launch.result.static):
        np.testing.assert_array_equal(host(memory), before)
        return None
    if how == "put":
        before[:, :width] = 0
    np.add.at(before[:, :width], at, rows)
    return host(memory), before


def shape(launch, operand):
    return launch.arrays[operand].shape


@pytest.mark.parametrize("how", ["put", "evenly", "at rows"])
@pytest.mark.parametrize("case", ADDING, ids=lambda c: c.id)
def test_an_answer_is_brought_where_it_belongs(case, how):
    with devices.on(CUDA):
        for shared in [(), *sharings(case)]:
            launch = launch_of(case, draw(case, 5), devices.array_module(CUDA), shared)
            y = launch.xp.array(launch.forward())
            g = launch.xp.asarray(np.random.default_rng(3).normal(size=y.shape).astype(y.dtype))
            for operand in launch.differentiable():
                if adder_of(launch.op.vjps[operand]) is None or launch.shared[operand]:
                    continue
                found = brought(launch, operand, g, y, how)
                if found is not None:
                    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-5)


def test_what_is_worth_it_is_done_so():
    done = set()
    with devices.on(CUDA):
        for case in ADDING:
            for shared in [(), *sharings(case)]:
                launch = launch_of(case, draw(case, 5), devices.array_module(CUDA), shared)
                y = launch.xp.array(launch.forward())
                for operand in launch.differentiable():
                    if adder_of(launch.op.vjps[operand]) is not None and not launch.shared[operand]:
                        done |= {case.op} if brought(launch, operand, y, y, "evenly") is not None else set()
    assert done >= DONE
