"""Every elementwise function keeps the bounds of the table, over its whole domain, in each form in which it is run."""

import functools
from unittest import mock

import numpy as np
import pytest

from lazyflow import core
from lazyflow.cells.program import elementwise_formulas
from lazyflow.fuse import blocks, machine
from lazyflow.fuse.scalar import ARG_BLOCK, Builder
from lazyflow.ops import OPS
from lazyflow.ops.formula import compile_forward, compile_vjp, parse, pullback

mp = pytest.importorskip("mpmath", reason="references are computed by mpmath (extra test)")

from .accuracy import TABLE  # noqa: E402

DTYPES = ["float32", "float64"]
WIDTH = 16

# Operations that compute nothing, or are rounded once, or whose derivatives are; and those of several operands, below.
EXACT = {
    *("add", "subtract", "multiply", "negative", "abs", "sign", "maximum", "minimum", "clip", "hardtanh", "relu"),
    *(
        "where",
        "floor",
        "ceil",
        "round",
        "remainder",
        "floor_divide",
        "leaky_relu",
        "multiply_no_nan",
        "multiply_or_zero",
    ),
    *("bitwise_and", "bitwise_or", "bitwise_xor", "fmax", "fmin", "invert", "left_shift", "right_shift"),
    *("equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "isfinite", "isnan"),
    *("logical_and", "logical_or", "logical_not"),
}


def test_every_function_has_a_row():
    known = {name for name, op in OPS.items() if op.formula}
    assert known == EXACT | set(TABLE), known ^ (EXACT | set(TABLE))


def around(points, dtype):
    """Neighbours of points, and what is near them at every scale."""
    found = []
    for point in np.asarray(points, dtype):
        below = above = point
        for _ in range(4):
            below, above = np.nextafter(below, dtype(-np.inf)), np.nextafter(above, dtype(np.inf))
            found += [below, above]
        found += [point, *(point + np.geomspace(1e-12, 0.3, 12)), *(point - np.geomspace(1e-12, 0.3, 12))]
    return np.array(found, dtype)


def samples(row, dtype):
    """Numbers of all sizes and signs in the domain of a function, subnormal ones, and those close to special points."""
    dtype, info = np.dtype(dtype).type, np.finfo(dtype)
    count, last = {2: (60, 12), 4: (160, 110), 8: (60, 760)}[np.dtype(dtype).itemsize]
    sizes = np.geomspace(float(info.smallest_subnormal), float(info.max), count, dtype=np.longdouble).astype(dtype)
    some = np.concatenate([sizes, np.linspace(0, last, count), np.geomspace(1e-3, 50, count), [info.tiny, info.max]])
    rng = np.random.default_rng(0)
    some = np.concatenate([some, rng.uniform(0, 8, count)]).astype(dtype)
    values = np.concatenate([some, -some, around([0.0, *row.points], dtype), some + dtype(min(row.domain[0], 1))])
    values = values[np.isfinite(values)] + dtype(0)  # mpmath knows one zero
    wide = values.astype(np.longdouble)
    return values[(wide >= row.domain[0]) & (wide <= row.domain[1])]


@functools.cache
def columns(name, dtype):
    """The operands of a function: the first with every number that the second may be."""
    row = TABLE[name]
    first, *second = parse(OPS[name].formula["y"]).operands
    x = samples(row, dtype)[:: 3 if second else 1]
    if not second:
        found = {first: x}
    else:
        info = np.finfo(dtype)
        numbers = [v for v in row.others[second[0]] if float(info.tiny) <= abs(v) <= float(info.max)]
        found = {first: np.tile(x, len(numbers)), second[0]: np.repeat(np.array(numbers, dtype), len(x))}
    return {n: np.resize(a, -(-a.size // WIDTH) * WIDTH).reshape(-1, WIDTH) for n, a in found.items()}


def at_pole(reference):
    def function(*x):
        try:
            return mp.re(reference(*x))
        except (ZeroDivisionError, ValueError):
            return mp.inf

    return function


@functools.cache
def exact(name, key, dtype):
    """The right results, infinity of either sign at poles."""
    given = columns(name, dtype)
    reference = at_pole(TABLE[name].references[key])
    with mp.workdps(60):
        return [
            reference(*map(mp.mpf, map(float, row))) for row in zip(*(a.ravel() for a in given.values()), strict=True)
        ]


# Forms.


def unfused(name, given):
    op, arrays = OPS[name], list(given.values())
    y = op.forward(np, *arrays)
    slopes = zip(parse(op.formula["y"]).operands, op.vjps, strict=True)
    return {"y": y, **{n: vjp(np, np.ones_like(y), y, *arrays) for n, vjp in slopes if vjp is not None}}


def calls(name, given):
    """Unfused, by NumPy calls alone: what there is without the core."""
    op = OPS[name]
    forward = parse(op.formula["y"])
    with mock.patch.object(core, "machine", None):
        kernel = compile_forward(name, forward)
        slopes = {
            n: compile_vjp(n, pullback(op.formula[n]), forward.operands) for n in forward.operands if n in op.formula
        }
        y = kernel(np, *given.values())
        return {"y": y, **{n: vjp(np, np.ones_like(y), y, *given.values()) for n, vjp in slopes.items()}}


def fused(function_of, name, given):
    """Value and slopes by one kernel."""
    op, some = OPS[name], next(iter(given.values()))
    forward, slopes = elementwise_formulas(op)
    b = Builder(WIDTH, some.dtype)
    names = {n: b.load(ARG_BLOCK, ("in", n), 0, WIDTH) for n in forward.operands}
    names["y"] = b.formula(forward, names)
    wanted = {"y": names["y"]}
    for n, slope in zip(forward.operands, slopes, strict=True):
        if slope is not None:
            wanted[n] = b.formula(slope, {"g": b.load(ARG_BLOCK, ("one",), 0, WIDTH), **names})
    for key, value in wanted.items():
        b.store(ARG_BLOCK, ("out", key), 0, WIDTH, value, adds=False)
    kernel, out = b.kernel(), {key: np.empty_like(some) for key in wanted}
    arrays = {("one",): np.ones_like(some), **{("in", n): a for n, a in given.items()}}
    arrays |= {("out", key): a for key, a in out.items()}
    function_of(kernel)(0, len(some), 0, *(arrays[a.key] for a in kernel.arguments))
    return out


FORMS = {
    "unfused": unfused,
    "calls": calls,
    "numpy": functools.partial(fused, blocks.numpy_function),
    "core": functools.partial(fused, machine.core_function),
}
NEEDS = {
    "core": [pytest.mark.skipif(core.machine is None, reason="the core was not compiled")],
}
CASES = [
    pytest.param(name, form, dtype, marks=NEEDS.get(form, []), id=f"{name}-{form}-{dtype}")
    for name in TABLE
    for form in FORMS
    if form in ("unfused", "calls") or elementwise_formulas(OPS[name])
    for dtype in DTYPES
]


# Errors.


def ulp(value, dtype):
    """The distance of the numbers around a value."""
    info = np.finfo(dtype)
    if abs(value) >= float(np.nextafter(info.max, info.dtype.type(0))):
        return mp.mpf(float(info.max - np.nextafter(info.max, info.dtype.type(0))))
    return mp.mpf(float(np.spacing(np.abs(np.dtype(dtype).type(float(value))))))


def errors(name, key, dtype, found):
    """Of each sample the error over the bound."""
    row, given = TABLE[name], columns(name, dtype)
    computed = "float32" if dtype == "float16" and key == "y" else dtype
    near, largest, least = row.near.get(key, 0.0), float(np.finfo(dtype).max), float(np.finfo(dtype).smallest_subnormal)
    operands = zip(*(a.ravel().tolist() for a in given.values()), strict=True)
    for x, got, right in zip(operands, found.ravel().tolist(), exact(name, key, dtype), strict=True):
        if mp.isnan(right) or mp.isinf(right):
            yield x, got, right, 0.0 if abs(got) == abs(float(right)) or (mp.isnan(right) and got != got) else np.inf
            continue
        error = abs(right) - largest if abs(got) == np.inf else abs(mp.mpf(got) - right)
        error = -error if abs(got) == np.inf and got * right > 0 else error
        bound = (row.bounds[key] + row.further(*map(mp.mpf, x))) * ulp(max(abs(right), near), computed)
        bound += ulp(right, dtype) / 2 * (computed != dtype)
        yield x, got, right, float(error / (bound + row.factor(*x) * least))


def worst_of(name, key, dtype, found):
    """The operands, result, right result, and error over the bound where that is largest."""
    return max(errors(name, key, dtype, found), key=lambda e: e[-1] if e[-1] == e[-1] else np.inf)


@pytest.mark.parametrize(("name", "form", "dtype"), CASES)
def test_bounds(name, form, dtype):
    with np.errstate(all="ignore"):
        found = FORMS[form](name, columns(name, dtype))
    for key in TABLE[name].references:
        x, got, right, worst = worst_of(name, key, dtype, found[key])
        assert worst <= 1, f"{key} of {name}{x}: {got}, right is {mp.nstr(right, 17)}: {worst:.2f} times the bound"


@pytest.mark.parametrize("name", TABLE)
def test_float16_is_computed_in_float32(name):
    """Values are rounded once; slopes may read a value that was rounded, and keep the bounds in ulps of float16."""
    given = columns(name, "float16")
    with np.errstate(all="ignore"):
        found = unfused(name, given)
    for key in TABLE[name].references:
        assert found[key].dtype == np.float16
        x, got, right, worst = worst_of(name, key, "float16", found[key])
        assert worst <= 1, f"{key} of {name}{x}: {got}, right is {mp.nstr(right, 17)}: {worst:.2f} times the bound"


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_in_blocks_and_at_once_are_the_same(name, dtype):
    """A formula that needs memory is computed in blocks where there is much."""
    given = {n: np.resize(a, (600, 130)) for n, a in columns(name, dtype).items()}
    with np.errstate(all="ignore"):
        whole = unfused(name, given)
        parts = [unfused(name, {n: a[low : low + 100] for n, a in given.items()}) for low in range(0, 600, 100)]
    for key, found in whole.items():
        np.testing.assert_array_equal(found, np.concatenate([part[key] for part in parts]))
