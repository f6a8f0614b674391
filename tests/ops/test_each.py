"""Nodes of many shapes in one call of the core, beside the same nodes each in a run of its own."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow import core
from lazyflow.ops import each

pytestmark = pytest.mark.host  # on a device nodes are not taken one by one

SIZES = [(4, 6), (5, 3), (7, 7), (6, 4), (9, 8), (3, 3), (8, 4)]
LABELS = [np.arange(h * w).reshape(h, w) % 4 for h, w in SIZES]
CHANNELS = 4


def parameters(seed, dtype):
    rng = np.random.default_rng(seed)
    shapes = {
        "W": (6, 4, 3, 3), "G": (6, 2, 3, 2), "b": (6,), "T": (4, 3, 3, 2), "D": (4, 1, 3, 3), "c": (4, 1, 1), "s": (),
        "t": (3,), "d": (4,),
    }  # fmt: skip
    return SimpleNamespace(**{k: lf.Parameter(rng.normal(size=n).astype(dtype)) for k, n in shapes.items()})


# Of parameters, an image (4, height, width) and its labels, with the operations that take all nodes in one call.
FUNCTIONS = {
    "conv": (lambda p, x, i: lf.conv(x, p.W, padding=1), ["conv"]),
    "conv with a bias": (lambda p, x, i: lf.conv(x, p.W, p.b, padding=1), ["conv"]),
    "conv in steps": (lambda p, x, i: lf.conv(x, p.W, p.b, stride=2, padding=1), ["conv"]),
    "conv of groups": (lambda p, x, i: lf.conv(x, p.G, p.b, padding=(2, 1), dilation=(2, 1), groups=2), ["conv"]),
    "conv of channels": (lambda p, x, i: lf.conv(x, p.D, padding=1, groups=4), ["conv"]),
    "conv of other steps": (lambda p, x, i: lf.conv(x, p.W, stride=1 + i % 2, padding=1 + i % 3), ["conv"]),
    "conv_transpose": (lambda p, x, i: lf.conv_transpose(x, p.T), ["conv_transpose"]),
    "conv_transpose in steps": (
        lambda p, x, i: lf.conv_transpose(x, p.T, p.t, stride=(2, 3), padding=1, output_padding=(1, 0)),
        ["conv_transpose"],
    ),
    "max_pool": (lambda p, x, i: lf.max_pool(x, (2, 2)), ["max_pool"]),
    "max_pool that overlaps": (lambda p, x, i: lf.max_pool(x, (3, 2), stride=1, padding=(1, 1)), ["max_pool"]),
    "transpose": (lambda p, x, i: lf.transpose(x, (2, 0, 1)), ["transpose"]),
    "two channels and four": (lambda p, x, i: lf.concatenate([x[:2] * 1.0, x * p.s]), ["concatenate"]),
    "side by side": (lambda p, x, i: lf.concatenate([x * p.s, x], axis=2), []),
    "alike one below the other": (lambda p, x, i: lf.concatenate([x * p.s, x, x]), ["concatenate_rows"]),
    "stack": (lambda p, x, i: lf.stack([x, x * p.s]), ["stack_rows"]),
    "cross_entropy": (lambda p, x, i: lf.nn.functional.cross_entropy(x, LABELS[i], dim=0), ["cross_entropy"]),
    "sum of cross_entropy": (
        lambda p, x, i: lf.cross_entropy(lf.transpose(x, (1, 2, 0)), LABELS[i], reduction="sum"), ["cross_entropy"],
    ),
    "relu": (lambda p, x, i: lf.relu(x), []),
    "a number": (lambda p, x, i: x * 2.5 + i, []),
    "a parameter": (lambda p, x, i: lf.tanh(x * p.s), []),
    "a bias": (lambda p, x, i: x + p.c, ["add"]),
    "a bias of a number": (lambda p, x, i: lf.tanh(lf.conv(x, p.W)) + p.s, ["conv", "add"]),
    "a vector of each": (lambda p, x, i: x * lf.max(x, axis=0), ["multiply", "max"]),
    "a row of each": (lambda p, x, i: x - lf.min(x, axis=(0, 1)), ["subtract", "min"]),
    "a column of each": (lambda p, x, i: x / (1 + lf.sum(x * x, axis=2, keepdims=True)), ["divide", "sum"]),
    "a number of each": (lambda p, x, i: x * lf.mean(x), ["multiply", "mean"]),
    "sum": (lambda p, x, i: lf.sum(lf.relu(x), axis=(1, 2)), ["sum"]),
    "mean over the middle": (lambda p, x, i: lf.mean(x, axis=1), ["mean"]),
    "max over all": (lambda p, x, i: lf.max(x, keepdims=True), ["max"]),
    "max that several are": (lambda p, x, i: lf.max(lf.relu(x - 4), axis=(1, 2)), ["max"]),
    "var": (lambda p, x, i: lf.var(x, axis=(1, 2)), ["var"]),
    "var of a row of each": (lambda p, x, i: x * lf.var(x, axis=(0, 1), keepdims=True, ddof=1), ["var"]),
    "var with several ddof": (lambda p, x, i: lf.var(x, axis=1, ddof=i % 2), []),
    "var of equal ones": (lambda p, x, i: lf.std(lf.relu(x) * 0.0 + p.s, axis=1), ["std"]),
    "std over the middle": (lambda p, x, i: lf.std(x, axis=1), ["std"]),
    "norm over all": (lambda p, x, i: x / lf.norm(x), ["norm"]),
    "norm of absolute values": (lambda p, x, i: lf.norm(x, axis=0, ord=1), ["norm"]),
    "norm of the largest": (lambda p, x, i: lf.norm(x, axis=2, ord=float("inf")), ["norm"]),
    "logsumexp": (lambda p, x, i: lf.logsumexp(x, axis=(1, 2)), ["logsumexp"]),
    "logsumexp over channels": (lambda p, x, i: lf.logsumexp(x, axis=0), ["logsumexp"]),
    "sum over axes apart": (lambda p, x, i: lf.sum(x, axis=(0, 2)), []),
    "softmax": (lambda p, x, i: lf.softmax(x, axis=-1), ["softmax"]),
    "log_softmax": (lambda p, x, i: lf.log_softmax(x), ["log_softmax"]),
    "softmax over channels": (lambda p, x, i: lf.softmax(x, axis=0), []),
    "instance norm": (lambda p, x, i: lf.nn.functional.instance_norm(x, eps=0.1 * (1 + i % 2)), ["standardise"]),
    "group norm": (
        lambda p, x, i: lf.nn.functional.group_norm(x, 2, p.d, p.d, eps=0.01), ["standardise", "multiply", "add"],
    ),
    "avg_pool": (lambda p, x, i: lf.avg_pool(x, (2, 2)), ["avg_pool"]),
    "avg_pool of many kinds": (
        lambda p, x, i: lf.avg_pool(
            x, (3, 2), stride=1 + i % 2, padding=(1, 1), ceil_mode=i % 3 == 0, count_include_pad=i % 2 == 0
        ),
        ["avg_pool"],
    ),
    "avg_pool over a number": (lambda p, x, i: lf.avg_pool(x, (2,), divisor_override=3), ["avg_pool"]),
    "adaptive_avg_pool": (lambda p, x, i: lf.adaptive_avg_pool(x, (2, None)), ["adaptive_avg_pool"]),
    "adaptive_avg_pool of one": (lambda p, x, i: lf.adaptive_avg_pool(x, 1), ["adaptive_avg_pool"]),
    "leaky_relu": (lambda p, x, i: lf.leaky_relu(x, 0.1), []),
    "a cast": (lambda p, x, i: x.astype("float16").astype("float64"), []),
    "of two": (lambda p, x, i: lf.conv(x, p.D, padding=1, groups=4) * x, []),
    "of two that are not side by side": (lambda p, x, i: lf.relu(lf.flip(x, 1)[1:] * x[:3]), []),
}  # fmt: skip


def images(dtype):
    rng = np.random.default_rng(5)
    return [(rng.normal(size=(CHANNELS, *size)) * 3).astype(dtype) for size in SIZES]


def results(f, p, arrays, together, shares=None):
    """Values, cotangents of the images, and gradients of the parameters, of all in one run, or each in its own."""
    for parameter in vars(p).values():
        parameter.grad = None
    values, slopes = [], []
    rng = np.random.default_rng(6)
    losses = []
    for i, array in enumerate(arrays):
        x = lf.constant(array) * lf.constant(np.ones((), array.dtype)) + p.s * 0.0
        x.retain_grad()
        y = f(p, x, i)
        share = rng.normal(size=y.shape).astype(y.dtype) * (1 if shares is None else shares[i])
        losses.append((x, y, lf.sum(y * share)))
        if not together:
            losses[-1][-1].backward()
    if together:
        lf.sum([loss.astype("float64") for _, _, loss in losses]).backward()
    for x, y, _ in losses:
        values.append(y.numpy())
        slopes.append(x.grad)
    return values, slopes, {name: parameter.grad for name, parameter in vars(p).items()}


def assert_alike(found, expected, dtype, exactly=False):
    rtol = 2e-3 if dtype == "float32" else 1e-10
    for one, other in zip(found[0], expected[0], strict=True):
        (np.testing.assert_array_equal if exactly else np.testing.assert_allclose)(
            one, other, **({} if exactly else {"rtol": rtol, "atol": rtol})
        )
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol)
    assert found[2].keys() == expected[2].keys()
    for name, other in expected[2].items():
        one = found[2][name]
        assert (one is None) == (other is None), name
        if one is not None:
            np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * 10, err_msg=name)


@pytest.fixture
def calls(monkeypatch):
    """What was computed in one call, by operation, and how many nodes were left."""
    seen = []

    class Watched:
        def __init__(self, name, made):
            self.name, self.made = name, made

        def forward(self, *arrays):
            return self.note("forward", self.made.forward(*arrays))

        def back(self, *arrays):
            return self.note("back", self.made.back(*arrays))

        def gradient(self, *arrays):
            return self.made.gradient(*arrays)

        def note(self, what, left):
            seen.append((self.name, what, "all" if left is None else len(left)))
            return left

    def watched(name, make):
        def made(*nodes):
            found = make(*nodes)
            return None if found is None else Watched(name, found)

        return made

    for name, make in list(each.FOR_EACH.items()):
        monkeypatch.setitem(each.FOR_EACH, name, watched(name, make))
    by_elements = each._by_elements
    monkeypatch.setattr(each, "_by_elements", lambda forms, *more: watched(forms[0].op.name, by_elements)(forms, *more))
    return seen


SOME_SIZES = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=4, max_size=9)
OF_ANY_SIZE = [
    *("a vector of each", "a row of each", "a column of each", "a number of each", "a bias", "sum"),
    *("mean over the middle", "max over all", "max that several are", "softmax", "log_softmax", "group norm"),
    *("adaptive_avg_pool", "adaptive_avg_pool of one"),
    *("var", "std over the middle", "norm over all", "norm of absolute values", "logsumexp", "logsumexp over channels"),
]


@pytest.mark.parametrize("name", OF_ANY_SIZE)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(sizes=SOME_SIZES, seed=st.integers(0, 99))
def test_images_of_any_sizes_are_as_each_alone(name, sizes, seed):
    f, _ = FUNCTIONS[name]
    rng = np.random.default_rng(seed)
    p, arrays = parameters(seed, "float64"), [rng.normal(size=(CHANNELS, *size)) * 3 for size in sizes]
    assert_alike(results(f, p, arrays, together=True), results(f, p, arrays, together=False), "float64")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nodes_of_many_shapes_are_as_each_alone(name, dtype, calls):
    f, operations = FUNCTIONS[name]
    p, arrays = parameters(3, dtype), images(dtype)
    expected = results(f, p, arrays, together=False)
    calls.clear()
    found = results(f, p, arrays, together=True)
    assert_alike(found, expected, dtype, exactly=name.startswith(("conv", "max_pool", "transpose")))
    for operation in operations if core.machine is not None else ():
        mine = {(what, left) for name, what, left in calls if name == operation}
        grouped = operation == "conv" and name.endswith(("groups", "channels"))
        assert mine == {("forward", 0), ("back", "all" if grouped else 0)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_without_the_core(name, monkeypatch):
    f, _ = FUNCTIONS[name]
    p, arrays = parameters(3, "float64"), images("float64")
    expected = results(f, p, arrays, together=False)
    monkeypatch.setattr(core, "machine", None)
    assert_alike(results(f, p, arrays, together=True), expected, "float64")


SPECIAL = {
    "an infinite weight": (lambda p, arrays: p.W.assign(np.where(np.arange(9).reshape(3, 3) == 4, np.inf, p.W.array))),
    "an infinite filter": (lambda p, arrays: p.T.assign(np.where(np.arange(6).reshape(3, 2) == 2, np.inf, p.T.array))),
    "an infinite image": (lambda p, arrays: arrays[1].__setitem__((2, 1, 1), np.inf)),
    "a NaN": (lambda p, arrays: arrays[2].__setitem__((0, 3, 3), np.nan)),
    "minus infinities": (lambda p, arrays: arrays[3].__setitem__((slice(None), slice(0, 4)), -np.inf)),
}


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("name", [name for name, (_, operations) in FUNCTIONS.items() if operations])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_special_values_and_cotangents_of_zero(name, special):
    """What a share of zero hides makes no NaN of an infinity, together as alone."""
    f, _ = FUNCTIONS[name]
    p, arrays = parameters(3, "float64"), images("float64")
    SPECIAL[special](p, arrays)
    shares = [0.0 if i in (1, 2) else 1.0 for i in range(len(arrays))]
    expected = results(f, p, arrays, together=False, shares=shares)
    assert_alike(results(f, p, arrays, together=True, shares=shares), expected, "float64")


def test_a_class_that_there_is_not():
    xs = [lf.constant(np.ones((n, 3))) * 1.0 for n in (2, 3, 4, 5)]
    losses = [lf.cross_entropy(x, lf.argmax(x, axis=1) + x.shape[0]) for x in xs]
    with pytest.raises(IndexError, match="class 3 is out of range for 3 scores"):
        lf.forward(losses)


def test_images_that_are_read_twice():
    """What is added to one place comes one after the other, whatever the threads."""
    p = parameters(1, "float64")
    xs = [lf.constant(x) * p.s for x in images("float64")]
    for x in xs:
        x.retain_grad()
    lf.sum([lf.sum(lf.conv(x, p.W)) for x in xs for _ in range(2)]).backward()
    together = [x.grad for x in xs]
    for x, found in zip(xs, together, strict=True):
        y = lf.constant(x.numpy()) + p.s * 0.0
        y.retain_grad()
        (lf.sum(lf.conv(y, p.W)) * 2.0).backward()
        np.testing.assert_allclose(found, y.grad)


def test_stretches_that_lie_apart():
    assert each.lie_apart(np.array([8, 0, 4]), np.array([2, 4, 4]))
    assert not each.lie_apart(np.array([8, 0, 4]), np.array([2, 5, 4]))
    assert not each.lie_apart(np.array([4, 4]), np.array([1, 1]))
