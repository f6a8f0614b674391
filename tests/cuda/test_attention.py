"""Attention on the device: one launch forward and two back, the numbers of NumPy's form."""

import sys

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import core
from lazyflow import device as devices
from lazyflow.cuda.rows import Places
from lazyflow.ops.attention import ATTENTION, ATTENTION_BY_PARTS, ATTENTIONS, ATTENTIONS_BY_PARTS
from lazyflow.ops.base import joint_of
from tests import simcupy

pytestmark = pytest.mark.gpu
CUDA = "cuda:0"
# Lengths of queries and keys, heads, and the widths of keys and values: less than a warp, more, and many columns.
SIZES = [
    ([3, 1, 40], [2, 5, 33], 2, 3, 2),
    ([2, 2], [3, 1], 1, 140, 5),
    ([4], [2], 3, 1, 33),
    ([35, 3], [1, 1], 1, 2, 130),
]


@pytest.fixture
def without_core(monkeypatch):
    monkeypatch.setattr(core, "machine", None)


def drawn(rows, keys, heads, d, e, dtype):
    rng = np.random.default_rng(4)
    shapes = (sum(rows), d), (sum(keys), d), (sum(keys), e), (sum(rows), e)
    return [rng.normal(size=(n, heads * width)).astype(dtype) for n, width in shapes]


def of_all(op, xp, g, operands, ends, how):
    """The result, and all cotangents at once."""
    given = (*operands, ends)
    y = op.forward(xp, *given, **how)
    joint = joint_of(op.vjps[:3])
    return [y, *joint((0, 1, 2), (None,) * 3, xp, g, y, *given, **how)]


@pytest.mark.parametrize("causal", [False, True], ids=["whole", "causal"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_nodes_of_any_lengths(sizes, dtype, causal, without_core):
    rows, keys, heads, *widths = sizes
    *operands, g = drawn(rows, keys, heads, *widths, dtype)
    ends, how = np.stack([np.cumsum(rows), np.cumsum(keys)]), {"heads": heads, "causal": causal}
    expected = of_all(ATTENTION_BY_PARTS, np, g, operands, ends, how)
    with devices.on(CUDA):
        there = [devices.to_device(x, CUDA) for x in (g, *operands)]
        found = of_all(ATTENTION_BY_PARTS, devices.array_module(CUDA), there[0], there[1:], ends, how)
    bound = 2e-4 if dtype == "float32" else 1e-10
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype and a.shape == b.shape
        np.testing.assert_allclose(devices.to_host(a), b, rtol=bound, atol=bound)


@pytest.mark.parametrize("each", [True, False], ids=["of each", "of all"])
@pytest.mark.parametrize("of", ["keys", "all", "heads"])
@pytest.mark.parametrize("mask", ["seen", "hidden", "added"])
def test_masks_and_factors(mask, of, each, without_core):
    """Of nodes of any lengths each has its own, of others all have one; some queries see nothing."""
    rng, heads = np.random.default_rng(8), 2
    rows, keys = ([3, 1, 40], [2, 5, 37]) if each else ([4] * 3, [6] * 3)
    *operands, g = drawn(rows, keys, heads, 3, 2, "float64")
    sizes = [{"keys": m, "all": n * m, "heads": heads * n * m}[of] for n, m in zip(rows, keys, strict=True)]
    pairs = [heads * n * m for n, m in zip(rows, keys, strict=True)]
    said = rng.random(sum(sizes if each else sizes[:1])) < 0.3
    if mask == "added":
        said = np.where(said, rng.normal(size=said.shape), -np.inf)
    kept = rng.choice([0, 2.0], sum(pairs if each else pairs[:1]))
    how = {"heads": heads, "causal": of == "all", "mask": mask, "of": of}
    name, ends, wanted = "masked_dropped_attention", np.stack([np.cumsum(rows), np.cumsum(keys)]), (0, 1, 2)
    wanted = (*wanted, 3) if mask == "added" else wanted
    op = ATTENTIONS_BY_PARTS[name] if each else ATTENTIONS[name]
    if not each:
        g, *operands = [x.reshape(3, -1, x.shape[1]) for x in (g, *operands)]

    def found(xp, g, *given):
        rest = (ends,) if each else ()
        y = op.forward(xp, *given, *rest, **how)
        return [y, *joint_of(op.vjps[: len(wanted)])(wanted, (None,) * len(wanted), xp, g, y, *given, *rest, **how)]

    with np.errstate(all="ignore"):
        expected = found(np, g, *operands, said, kept)
    with devices.on(CUDA):
        there = [devices.to_device(x, CUDA) for x in (g, *operands, said, kept)]
        answers = found(devices.array_module(CUDA), *there)
    for a, b in zip(answers, expected, strict=True):
        np.testing.assert_allclose(devices.to_host(a), b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_not_finite_goes_where_it_goes_on_the_host(which, kind, without_core):
    *operands, g = drawn([3, 2], [4, 2], 2, 3, 2, "float64")
    operands[which][1, 0], g[2] = kind, 0
    ends, how = np.array([[3, 5], [4, 6]]), {"heads": 2, "causal": True}
    with np.errstate(all="ignore"):
        expected = ATTENTION_BY_PARTS.forward(np, *operands, ends, **how)
    xp = devices.array_module(CUDA)
    with devices.on(CUDA):
        found = ATTENTION_BY_PARTS.forward(xp, *[devices.to_device(x, CUDA) for x in operands], ends, **how)
    np.testing.assert_allclose(devices.to_host(found), expected, rtol=1e-10)


def test_of_no_cotangents_nothing_comes():
    xp, how = devices.array_module(CUDA), {"heads": 1, "causal": False}
    with devices.on(CUDA):
        x, zero = (devices.to_device(np.full((1, 2, 3), value, np.float32), CUDA) for value in (np.nan, 0.0))
        found = joint_of(ATTENTION.vjps)((0, 1, 2), (None,) * 3, xp, zero, x, x, x, x, **how)
    for answer in found:
        np.testing.assert_array_equal(devices.to_host(answer), np.zeros((1, 2, 3)))


@pytest.mark.parametrize("how", ["put", "evenly", "at rows"])
def test_cotangents_are_brought_where_they_belong(how):
    xp, static = devices.array_module(CUDA), {"heads": 2, "causal": True}
    *operands, g = drawn([3, 2], [4, 2], 2, 3, 2, "float64")
    ends = np.array([[3, 5], [4, 6]])
    with devices.on(CUDA):
        g, *operands = [devices.to_device(x, CUDA) for x in (g, *operands)]
        _, *answers = of_all(ATTENTION_BY_PARTS, xp, g, operands, ends, static)
        memory, into, right = [], [], []
        for answer in map(devices.to_host, answers):
            count, width = answer.shape
            at = np.arange(count)[::-1] if how == "at rows" else np.arange(count)
            before = np.random.default_rng(1).normal(size=(count, width + 1))
            memory.append(xp.asarray(before))
            where = devices.to_device(at.astype(np.int64), CUDA) if how == "at rows" else None
            into.append(Places(memory[-1].reshape(-1), width + 1, count, width, where, how != "put"))
            expected = before.copy()
            expected[at, :width] = answer + (0 if how == "put" else before[at, :width])
            right.append(expected)
        joint = joint_of(ATTENTION_BY_PARTS.vjps[:3])
        left = joint((0, 1, 2), into, xp, g, g, *operands, ends, **static)
    assert left == [None] * 3
    for found, expected in zip(memory, right, strict=True):
        np.testing.assert_allclose(devices.to_host(found), expected, rtol=1e-10)


def of_many_lengths(p=0.0, masked=False):
    """A step over examples of many lengths, with dropout and masks; the gradients of two tables."""
    lf.seed(3)
    rng = np.random.default_rng(6)
    tables = [lf.Parameter(rng.normal(size=(9, 4)).astype("float32")) for _ in range(2)]
    found = []
    for n, m in ((1, 2), (3, 3), (9, 1), (4, 7)):
        q, k = (lf.tanh(lf.embedding(t, np.arange(size))) for t, size in zip(tables, (n, m), strict=True))
        mask = rng.random((n, m)) < 0.7 if masked else None
        found.append(lf.nn.functional.scaled_dot_product_attention(q, k, lf.tanh(k), mask, p, not masked))
    lf.sum([lf.sum(y, axis=0) for y in found])[0].backward()
    return [devices.to_host(t.grad.to_dense()) for t in tables]


@pytest.mark.parametrize("p", [0.0, 0.25])
@pytest.mark.parametrize("masked", [False, True])
def test_a_step_is_one_launch_forward_and_two_back(masked, p):
    """The cotangents of all operands are added where they belong by these."""
    if sys.modules.get("cupy") is not simcupy.namespace.CUPY:
        pytest.skip("only the simulator counts: --device simulated")
    with lf.using(device=CUDA), simcupy.counting() as seen:
        of_many_lengths(p, masked)
    kernels = {kind: count for kind, count in seen.kinds.items() if "attend" in kind}
    assert kernels == dict.fromkeys(
        ("RawKernel attend_float", "RawKernel attend_back_float", "RawKernel attend_back_of_keys_float"), 1
    )


@pytest.mark.parametrize(("p", "masked"), [(0.0, False), (0.5, False), (0.25, True)])
@pytest.mark.parametrize("deterministic", [False, True])
def test_gradients_are_those_of_the_host(deterministic, p, masked):
    """And so are the weights that are dropped."""
    expected = of_many_lengths(p, masked)
    with lf.using(device=CUDA, deterministic=deterministic):
        found = of_many_lengths(p, masked)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)
