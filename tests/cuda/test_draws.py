"""Random numbers of a device: one launch, the bits of NumPy's form, normals to their last bits."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import device as devices
from lazyflow.ops.base import OPS, brought
from lazyflow.ops.random import DRAWN_BY_PARTS
from lazyflow.record.expr import ENGINE
from tests import simcupy
from tests.counted import is_simulated

pytestmark = pytest.mark.gpu
CUDA = "cuda:0"
GIVEN = {
    "uniform": [(-1.0, 0.0, 2.5), (3.0, 0.1, 2.75)],
    "normal": [(2.0, 0.0, -1.0), (0.5, 1.0, 2.0)],
    "gumbel": [(1.0, 0.0, 0.3), (0.5, 1.0, 3.0)],
    "bernoulli": [(0.3, 0.0, 1.0)],
    "dropout_mask": [(0.3, 1.0, 0.1)],
}
LAST_BITS = {"float16": 4e-3, "float32": 4e-6, "float64": 4e-15}
SEEDS, COUNTERS = np.array([3, -7, 2**62]), np.array([0, 5, 2**40])


def there(array):
    return devices.to_device(np.asarray(array), CUDA)


def taken(name, dtype, found, expected):
    """Normals and what is of two logarithms may differ in their last bits."""
    assert found.dtype == dtype and found.shape == expected.shape
    bound = LAST_BITS[dtype] if name in ("normal", "gumbel") else 0
    np.testing.assert_allclose(
        devices.to_host(found).astype(np.float64), expected.astype(np.float64), rtol=bound, atol=bound
    )


FORMS = {
    "payload": lambda a: brought(a, there(a)),
    "computed": there,
    "host": lambda a: a,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", LAST_BITS)
@pytest.mark.parametrize("name", GIVEN)
def test_numbers_of_every_node(name, dtype, form):
    static = {"shape": (2, 7), "dtype": np.dtype(dtype)}
    columns = [np.array(column).reshape(3, 1, 1) for column in GIVEN[name]]
    alike = [column[0, 0, 0] for column in columns]
    xp = devices.array_module(CUDA)
    with devices.on(CUDA):
        seeds, counters = FORMS[form](SEEDS), FORMS[form](COUNTERS)
        for given, shared in ((columns, 1), (alike, 0)):
            theirs = [there(column) for column in given] if shared else given
            expected = OPS[name].forward(np, SEEDS, COUNTERS, *given, **static)
            taken(name, dtype, OPS[name].forward(xp, seeds, counters, *theirs, **static), expected)
            memory = there(np.full((3, 20), -7.0, dtype))
            out = devices.strided(memory.reshape(-1), 0, (3, 2, 7), 20)
            assert OPS[name].forward(xp, seeds, counters, *theirs, out=out, **static) is out
            taken(name, dtype, out, expected)
            assert (devices.to_host(memory)[:, 14:] == -7).all()


@pytest.mark.parametrize("dtype", LAST_BITS)
@pytest.mark.parametrize("name", GIVEN)
def test_numbers_of_one_node_and_of_nodes_that_share(name, dtype):
    static, xp = {"shape": (9,), "dtype": np.dtype(dtype)}, devices.array_module(CUDA)
    numbers = [column[0] for column in GIVEN[name]]
    with devices.on(CUDA):
        for seeds, counters in ((np.array(4), np.array(9)), (SEEDS, np.array(9)), (SEEDS[:1], COUNTERS)):
            expected = OPS[name].forward(np, seeds, counters, *numbers, **static)
            taken(name, dtype, OPS[name].forward(xp, there(seeds), there(counters), *numbers, **static), expected)


@pytest.mark.parametrize("dtype", LAST_BITS)
@pytest.mark.parametrize("name", GIVEN)
def test_as_many_numbers_as_each_node_wants(name, dtype):
    xp, counts = devices.array_module(CUDA), np.array([5, 0, 8])
    columns = [np.array(column) for column in GIVEN[name]]
    expected = np.empty(13, dtype)
    DRAWN_BY_PARTS[name].forward(np, SEEDS, COUNTERS, *columns, counts, out=expected, dtype=np.dtype(dtype))
    with devices.on(CUDA):
        for ends in (None, there(np.cumsum(counts))):
            out = xp.empty(13, dtype)
            known = brought(counts, there(counts), ends)
            given = [there(column) for column in columns]
            DRAWN_BY_PARTS[name].forward(xp, SEEDS, COUNTERS, *given, known, out=out, dtype=np.dtype(dtype))
            taken(name, dtype, out, expected)


@pytest.mark.parametrize("name", ["uniform", "normal", "gumbel", "bernoulli", "dropout"])
def test_a_draw_is_one_launch(name):
    """And of dropout all that is elementwise from the mask on is one more, beside what all nodes share."""
    if not is_simulated():
        pytest.skip("only the simulator counts: --device simulated")
    shaped = {"bernoulli": lambda: lf.bernoulli(0.5, (4, 5)), "dropout": lambda: lf.dropout(lf.tanh(x), 0.5) + 1.0}
    with lf.using(device=CUDA):
        x = lf.Parameter(np.ones((4, 5), np.float32))
        for _ in range(2):
            roots = [shaped.get(name, lambda: getattr(lf, name)((4, 5)))() for _ in range(8)]
            with simcupy.counting() as seen:
                ENGINE[0].forward(roots)
    assert seen.kinds["RawKernel draw_float"] == 1, seen.kinds
    assert (seen.launches, seen.h2d, seen.syncs) == (3 if name == "dropout" else 1, 1, 0), seen.kinds
