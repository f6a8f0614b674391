"""Convolutions and pooling, with every instruction set here, beside sums over the kernel in NumPy."""

import itertools
import random

import numpy as np
import pytest

from lazyflow.core import machine
from lazyflow.ops import conv

if machine is None:
    pytest.skip("the core was not compiled", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("instruction_set")

DTYPES = ["float32", "float64"]
SEED = 7


def some_windows(chance, axes):
    """Random windows that fit, paddings larger than the kernel and elements that no window reaches among them."""
    while True:
        size, kernel, stride, dilation = (tuple(chance.randint(1, most) for _ in range(axes)) for most in (9, 4, 3, 3))
        padding = tuple((chance.randint(0, 4), chance.randint(0, 4)) for _ in range(axes))
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        if all(s + sum(p) >= r for s, p, r in zip(size, padding, reach, strict=True)):
            return conv.windows_of("conv", size, kernel, stride, padding, dilation)


def terms(x, w):
    """Of each element of the kernel the padded image at all places."""
    pads = [(b, max(a, 0)) for b, a in w.pads]
    padded = np.pad(x, [(0, 0)] * (x.ndim - len(w.size)) + pads)
    for at in itertools.product(*map(range, w.kernel)):
        rows = zip(at, w.dilation, w.stride, w.out, strict=True)
        yield at, padded[(..., *(slice(a * d, a * d + s * (n - 1) + 1, s) for a, d, s, n in rows))]


def correlated(x, W, w, groups):
    """In float64, a group and an element of the kernel at a time."""
    found = np.zeros((len(x), len(W), *w.out))
    c, o = W.shape[1], len(W) // groups
    for at, part in terms(x.astype("float64"), w):
        for g in range(groups):
            weight = W[(slice(g * o, (g + 1) * o), slice(None), *at)].astype("float64")
            found[:, g * o : (g + 1) * o] += np.einsum("oc,bc...->bo...", weight, part[:, g * c : (g + 1) * c])
    return found


def close(found, expected, dtype):
    np.testing.assert_allclose(found, expected, rtol=1e-4 if dtype == "float32" else 1e-11, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_three_products(axes, dtype):
    chance, rng = random.Random(SEED + axes), np.random.default_rng(SEED)
    for _ in range(25):
        w, groups, count = some_windows(chance, axes), chance.choice([1, 1, 2, 3]), chance.choice([1, 2, 5])
        channels, maps = chance.randint(1, 9), chance.randint(1, 13)
        x = rng.standard_normal((count, groups * channels, *w.size)).astype(dtype)
        W = rng.standard_normal((groups * maps, channels, *w.kernel)).astype(dtype)
        g = rng.standard_normal((count, groups * maps, *w.out)).astype(dtype)
        b, c = (rng.standard_normal(n).astype(dtype) for n in (groups * maps, groups * channels))
        found = conv._correlated(w, groups, x, W, b)
        close(found, correlated(x, W, w, groups) + b.reshape(-1, *[1] * axes), dtype)
        # The other two are its transposes.
        way = rng.standard_normal(x.shape)
        back = conv._spread_by_core(w, groups, g, W, c) - c.reshape(-1, *[1] * axes)
        close((back * way).sum(), (correlated(way, W, w, groups) * g).sum(), dtype)
        direction = rng.standard_normal(W.shape)
        slopes = conv._weighed(w, groups, x, g)
        close((slopes * direction).sum(), (correlated(x, direction, w, groups) * g).sum(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_example_is_the_same_alone_and_among_others(dtype):
    rng = np.random.default_rng(SEED)
    w = conv.windows_of("conv", (30, 31), (3, 3), 1, 1, 1)
    x, W = rng.standard_normal((70, 8, *w.size)).astype(dtype), rng.standard_normal((11, 8, 3, 3)).astype(dtype)
    g = rng.standard_normal((70, 11, *w.out)).astype(dtype)
    maps, back = conv._correlated(w, 1, x, W), conv._spread_by_core(w, 1, g, W)
    for i in (0, 33, 69):
        np.testing.assert_array_equal(maps[i], conv._correlated(w, 1, x[i], W))
        np.testing.assert_array_equal(back[i], conv._spread_by_core(w, 1, g[i], W))


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_change_no_bit(dtype):
    rng = np.random.default_rng(SEED)
    w = conv.windows_of("conv", (40, 40), (3, 3), 2, 1, 1)
    p = conv.windows_of("max_pool", (40, 40), (3, 3), 2, 1, 1)
    x, W = rng.standard_normal((40, 16, *w.size)).astype(dtype), rng.standard_normal((40, 16, 3, 3)).astype(dtype)
    g = rng.standard_normal((40, 40, *w.out)).astype(dtype)
    share = rng.standard_normal((40, 16, *p.out)).astype(dtype)

    def all_of_it():
        y = conv._max_pool(np, x, w=p)
        products = conv._correlated(w, 1, x, W), conv._spread_by_core(w, 1, g, W), conv._weighed(w, 1, x, g)
        return *products, y, conv._max_pool_x(np, share, y, x, w=p)

    expected = all_of_it()
    before = machine.use_threads(2)
    try:
        for found, wanted in zip(all_of_it(), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    finally:
        machine.use_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_pooling(axes, dtype, monkeypatch):
    chance, rng = random.Random(SEED + axes), np.random.default_rng(SEED)
    for step in range(25):
        w = some_windows(chance, axes)
        while any(2 * b > k or a < 0 for (b, a), k in zip(w.pads, w.kernel, strict=True)):
            w = some_windows(chance, axes)
        x = rng.integers(-3, 4, (2, 3, *w.size)).astype(dtype)  # many are equal
        if step % 5 == 4:
            x[rng.random(x.shape) < 0.05] = np.nan
        g = rng.standard_normal((2, 3, *w.out)).astype(dtype)
        y = conv._max_pool(np, x, w=w)
        back = conv._max_pool_x(np, g, y, x, w=w)
        with monkeypatch.context() as without_core:
            without_core.setattr(conv.core, "machine", None)
            np.testing.assert_array_equal(y, conv._max_pool(np, x, w=w))
            close(back, conv._max_pool_x(np, g, y, x, w=w), dtype)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_of_rows_that_follow_each_other(stride):
    w = conv.windows_of("max_pool", (4 * stride, 6 * stride), (stride, stride), stride, 0, 1)
    x = np.random.default_rng(SEED).standard_normal((2, *w.size)).astype("float32")
    expected = x.reshape(2, 4, stride, 6, stride).max((2, 4))
    np.testing.assert_array_equal(conv._max_pool(np, x, w=w), expected)


def test_shapes_that_do_not_fit_are_refused():
    w = conv.windows_of("conv", (5, 5), (3, 3), 1, 1, 1)
    places, ones = conv.windows_in_core(w), lambda *shape: np.ones(shape, np.float32)
    with pytest.raises(ValueError, match="as many images as maps"):
        machine.correlate(places, 1, ones(2, 3, 5, 5), ones(4, 3, 3, 3), ones(1, 4, 5, 5))
    with pytest.raises(ValueError, match="the weight does not fit"):
        machine.correlate(places, 3, ones(2, 3, 5, 5), ones(4, 3, 3, 3), ones(2, 4, 5, 5))
    with pytest.raises(ValueError, match="the bias does not fit"):
        machine.spread(places, 1, ones(2, 4, 5, 5), ones(4, 3, 3, 3), ones(2, 3, 5, 5), ones(4))
    with pytest.raises(ValueError, match="examples of 75 elements"):
        machine.weigh(places, 1, ones(2, 3, 4, 5), ones(2, 4, 5, 5), ones(4, 3, 3, 3))
    with pytest.raises(ValueError, match="the shapes do not fit"):
        machine.max_pool(conv.pool_axes(w), ones(2, 25), ones(2, 24))


def flat(arrays, gap=3):
    """Arrays one behind the other, with gaps, and where each begins."""
    begins = np.cumsum([0, *(a.size + gap for a in arrays)])
    memory = np.full(begins[-1], 7.0, arrays[0].dtype)
    for begin, a in zip(begins, arrays, strict=False):
        memory[begin : begin + a.size] = a.ravel()
    return memory, begins[:-1].copy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_images_of_any_sizes_are_as_one_by_one(stride, dtype):
    rng = np.random.default_rng(SEED)
    some = [conv.windows_of("conv", size, (3, 2), stride, 1, 1) for size in ((4, 9), (30, 31), (1, 1), (7, 5))]
    W = rng.standard_normal((6, 5, 3, 2)).astype(dtype)
    xs = [rng.standard_normal((5, *w.size)).astype(dtype) for w in some]
    gs = [rng.standard_normal((6, *w.out)).astype(dtype) for w in some]
    (x, at), (g, to) = flat(xs), flat(gs)
    images = machine.Images(tuple(conv.windows_in_core(w) for w in some), at, to)
    maps, back, slopes, more = g.copy(), x.copy(), np.empty_like(W), x.copy()
    assert images.correlate(1, x, W, maps) == []
    assert images.spread(1, g, W, back) == []
    assert images.spread(1, g, W, more, add=True, nans=True) == []
    images.weigh(1, x, g, slopes)
    for w, one, its, k, m in zip(some, xs, gs, at, to, strict=True):
        np.testing.assert_array_equal(maps[m : m + its.size], conv._correlated(w, 1, one, W).ravel())
        np.testing.assert_array_equal(back[k : k + one.size], conv._spread_by_core(w, 1, its, W).ravel())
    np.testing.assert_array_equal(more, np.where(back == 7, 7, x + np.where(back == 7, 0, back)))
    assert (maps == 7).sum() == (back == 7).sum() == 3 * len(some), "what lies between is left"
    close(slopes, sum(conv._weighed(w, 1, a, b) for w, a, b in zip(some, xs, gs, strict=True)), dtype)


def test_nothing_is_added_where_a_result_may_be_nan():
    w = conv.windows_of("conv", (4, 4), (3, 3), 1, 1, 1)
    g, W, out = np.ones((3, 2 * 16)), np.ones((2, 3, 3, 3)), np.zeros((3, 3 * 16))
    g[1, 5] = np.nan
    at, to = 48 * np.arange(3), 32 * np.arange(3)
    images = machine.Images((conv.windows_in_core(w),) * 3, at, to)
    assert images.spread(1, g.ravel(), W, out.reshape(-1), add=True, nans=True) == [1]
    assert (out[1] == 0).all()
    assert (out[[0, 2]] != 0).all()


def test_places_outside_of_the_memory_are_refused():
    w = conv.windows_of("conv", (4, 4), (3, 3), 1, 1, 1)
    places, W = conv.windows_in_core(w), np.ones((2, 3, 3, 3))
    with pytest.raises(ValueError, match="inside of the memory"):
        machine.Images((places,), np.array([1]), np.array([0])).correlate(1, np.ones(48), W, np.ones(32))
    with pytest.raises(ValueError, match="inside of the memory"):
        machine.Images((places,), np.array([-1]), np.array([0]))
    other = conv.windows_in_core(conv.windows_of("conv", (4, 4), (2, 2), 1, 1, 1))
    with pytest.raises(ValueError, match="kernels of one size"):
        machine.Images((places, other), np.array([0, 0]), np.array([0, 0]))
    images = machine.Images((places,), np.array([0]), np.array([0]))
    with pytest.raises(ValueError, match="one group expected"):
        images.spread(2, np.ones(64), np.ones((4, 3, 3, 3)), np.ones(96), add=True)
    pools = machine.Pools([conv.pool_axes(w)], [3], np.array([0]), np.array([4]))
    with pytest.raises(ValueError, match="inside of the memory"):
        pools.max_pool(np.ones(48), np.ones(50))
    table = np.array([[0, 1, 1, 1, 2, 3, 0, 0, 3, 1, 0, 0, 1, 2]])
    machine.move(np.ones(6), np.ones(7), table)
    for sizes in ((5, 7), (6, 6)):
        with pytest.raises(ValueError, match="inside of the memory"):
            machine.move(np.ones(sizes[0]), np.ones(sizes[1]), table)
    with pytest.raises(ValueError, match="no steps back"):
        machine.move(np.ones(6), np.ones(7), -table)


def test_moves():
    x = np.arange(6.0)
    found, table = np.zeros(7), np.array([[1, 0, 1, 1, 3, 2, 0, 0, 2, 1, 0, 0, 1, 3]])
    machine.move(found, x, table)
    assert found.tolist() == [0, 0, 3, 1, 4, 2, 5]
    machine.move(found, x, table, True)
    assert found.tolist() == [0, 0, 6, 2, 8, 4, 10]
