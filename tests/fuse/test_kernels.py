"""Fused kernels: all printers compute what the instructions say, of arguments of every kind, and every formula as
accurately as it can be told, over its whole domain."""

import functools
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazyflow import core
from lazyflow.cells.program import elementwise_formulas
from lazyflow.fuse import blocks, machine
from lazyflow.fuse.scalar import ARG_BLOCK, ARG_NUMBER, ARG_ROWS, ARG_VECTOR, TRUTH, Builder
from lazyflow.ops import OPS
from lazyflow.ops.formula import Constant, Name, StepResult, evaluate, function_of, parse, pullback, result_dtype

from . import emulated

PRINTERS = {
    "numpy": blocks.numpy_function,
    "core": machine.core_function,
    "cuda": emulated.compiled,
}
needs_core = pytest.mark.skipif(core.machine is None, reason="the core was not compiled")
CUDA = pytest.param("cuda", marks=emulated.needs_compiler)
COMPILED = [pytest.param("core", marks=needs_core), CUDA]
BOTH = [pytest.param("numpy"), *COMPILED]  # and the third, whose text is compiled as C++
WIDTH = 64


# Formulas. Truth values are no floating numbers: an operation that makes or takes them is not fused.


BITS = ("bitwise_and", "bitwise_or", "bitwise_xor", "invert", "left_shift", "right_shift")


def _is_real(name):
    formula = parse(OPS[name].formula["y"])
    if formula.steps and formula.steps[-1].ufunc in BITS:
        return False
    return (
        "condition" not in formula.operands and result_dtype(formula, (np.dtype("f4"),) * len(formula.operands)) == "f4"
    )


FORMULAS = sorted(name for name, op in OPS.items() if op.formula and elementwise_formulas(op) and _is_real(name))


def test_all_real_formulas_are_fused():
    rest = {name for name, op in OPS.items() if op.formula and not elementwise_formulas(op)}
    assert not {name for name in rest if _is_real(name)}
    assert rest >= set(BITS)
    assert len(FORMULAS) > 50


def kinds_of(name):
    """The formulas of an operation: its value and its derivatives, by operand."""
    return {key: parse(text) if key == "y" else pullback(text) for key, text in OPS[name].formula.items()}


def grid(dtype):
    """The whole domain: infinities, NaN, zeros of both signs, huge, tiny and subnormal numbers, and ordinary ones."""
    info = np.finfo(dtype)
    tiny = [info.smallest_subnormal, info.tiny, info.eps, 1e-3, 0.5, 1.0, 2.0, 7.9, 20.0, 88.0, 700.0, info.max, np.inf]
    some = np.concatenate([tiny, np.geomspace(float(info.tiny), float(info.max) / 2, 60), np.linspace(0.01, 30, 100)])
    some = np.concatenate([some, -some, [0.0, -0.0, np.nan]])
    return some.astype(dtype)


def operands(name, key, dtype):
    """Columns for each operand of a formula, pairs of all kinds of numbers among them."""
    rng = np.random.default_rng(0)
    values = grid(dtype)
    names = list(parse(OPS[name].formula["y"]).operands)
    first, second = (g.ravel() for g in np.meshgrid(values[::3], values[::4]))
    columns = {names[0]: np.concatenate([values, first])}
    for n in names[1:]:
        columns[n] = np.concatenate([rng.permutation(values), second])
    if {"lo", "hi"} <= set(names):
        columns["lo"], columns["hi"] = np.full_like(columns["x"], -0.5), np.full_like(columns["x"], 0.75)
    with np.errstate(all="ignore"):
        columns["y"] = evaluate(parse(OPS[name].formula["y"]), np, **columns)
    columns["g"] = rng.choice(np.array([1.0, -0.7, 0.0, 3.0], dtype), len(columns["y"]))
    return {n: c for n, c in columns.items() if n in kinds_of(name)[key].operands}


def rows_of(column, dtype):
    padded = np.resize(column, -(-len(column) // WIDTH) * WIDTH)
    return padded.reshape(-1, WIDTH).astype(dtype)


@functools.cache
def kernel_of(name, dtype):
    """All formulas of an operation as one kernel, and what it reads."""
    b = Builder(WIDTH, np.dtype(dtype))
    given = {}
    for key, formula in kinds_of(name).items():
        columns = {(key, n): rows_of(c, dtype) for n, c in operands(name, key, np.dtype(dtype)).items()}
        loaded = {n: b.load(ARG_BLOCK, ("in", key, n), 0, WIDTH) for _, n in columns}
        b.store(ARG_BLOCK, ("out", key), 0, WIDTH, b.formula(formula, loaded), adds=False)
        given.update(columns)
    return b.kernel(), given


@functools.cache
def emulated_formulas(dtype):
    """Those of all operations, of one source: to compile it takes seconds."""
    found = emulated.together([kernel_of(name, dtype)[0] for name in FORMULAS])
    return dict(zip(FORMULAS, found, strict=True))


@functools.cache
def results_of(name, dtype, printer):
    kernel, given = kernel_of(name, dtype)
    function = emulated_formulas(dtype)[name] if printer == "cuda" else PRINTERS[printer](kernel)
    rows = max(len(m) for m in given.values())
    results = {key: np.full((rows, WIDTH), 7, dtype) for key in kinds_of(name)}
    arrays = [
        results[a.key[1]] if a.key[0] == "out" else np.resize(given[a.key[1:]], (rows, WIDTH)) for a in kernel.arguments
    ]
    with np.errstate(all="ignore"):
        function(0, rows, 0, *arrays)
    return {key: found[: max(len(m) for (k, _), m in given.items() if k == key)] for key, found in results.items()}


# Running error analysis (Wilkinson 1963, chapter 1): a bound of the error of every step of a formula, from those of its
# operands, where each step is off by its own few units in the last place. The rational tanh of the compiled float32
# kernels is off by 3e-7 of its value.
UNITS = {"add": 1, "subtract": 1, "multiply": 1, "divide": 2, "sqrt": 1}
OTHER_UNITS = 4
OF_TANH = 3e-7
HANDED_ON = {
    "add": lambda r, a, ea, b, eb: ea + eb,
    "subtract": lambda r, a, ea, b, eb: ea + eb,
    "multiply": lambda r, a, ea, b, eb: times(a, eb) + times(b, ea) + times(ea, eb),
    "divide": lambda r, a, ea, b, eb: over(ea + times(r, eb), np.abs(b) - eb),
    "maximum": lambda r, a, ea, b, eb: np.maximum(ea, eb),
    "minimum": lambda r, a, ea, b, eb: np.maximum(ea, eb),
    "multiply_or_zero": lambda r, a, ea, b, eb: times(a, eb) + times(b, ea) + times(ea, eb),
    "where": lambda r, c, ec, a, ea, b, eb: np.where(c, ea, eb),
    "where_nonzero": lambda r, a, ea, b, eb: eb,
    "negative": lambda r, a, ea: ea,
    "abs": lambda r, a, ea: ea,
    "magnitude": lambda r, a, ea: ea,
    "sin": lambda r, a, ea: ea,
    "cos": lambda r, a, ea: ea,
    "arctan": lambda r, a, ea: ea,
    "tanh": lambda r, a, ea: times(1 - r * r, ea),
    "exp": lambda r, a, ea: times(r, np.expm1(ea)),
    "expm1": lambda r, a, ea: times(r + 1, np.expm1(ea)),
    "sinh": lambda r, a, ea: times(np.cosh(a), np.expm1(ea)),
    "cosh": lambda r, a, ea: times(np.cosh(a), np.expm1(ea)),
    "sqrt": lambda r, a, ea: over(ea, 2 * r),
    "log": lambda r, a, ea: over(ea, np.abs(a) - ea),
    "log1p": lambda r, a, ea: over(ea, np.abs(1 + a) - ea),
}


def times(a, error):
    return np.where(error == 0, 0, np.abs(a) * error)


def over(error, b):
    return np.where(error == 0, 0, np.where(b > 0, error / b, np.inf))


def bounded(formula, dtype, given):
    """The value of a formula of exact operands in a wider format, and the bound of its error in ``dtype``."""
    info, steps = np.finfo(dtype), []

    def value(v):
        if isinstance(v, Name):
            return given[v.name], 0.0
        rounding = 0.0 if np.isinf(v.value) else abs(float(v.value)) * info.eps if isinstance(v, Constant) else 0.0
        return (v.value, rounding)

    for step in formula.steps:
        pairs = [steps[v.step] if isinstance(v, StepResult) else value(v) for v in step.inputs]
        exact = np.asarray(function_of(np, step.ufunc)(*(p[0] for p in pairs)), given_type(given))
        handed = HANDED_ON.get(step.ufunc)
        if handed is None:  # a comparison, a sign: of operands that are exact
            steps.append((exact, 0.0))
            continue
        unit = OF_TANH if step.ufunc == "tanh" and dtype == "float32" else UNITS.get(step.ufunc, OTHER_UNITS) * info.eps
        own = (
            0.0
            if step.ufunc in ("maximum", "minimum", "negative", "abs", "magnitude", "where", "where_nonzero")
            else unit * np.abs(exact) + info.tiny * info.eps
        )
        steps.append((exact, handed(exact, *(x for p in pairs for x in p)) + own))
    return steps[-1] if isinstance(formula.result, StepResult) else value(formula.result)


def given_type(given):
    return next(iter(given.values())).dtype


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FORMULAS)
def test_numpy_kernels_compute_what_numpy_computes(name, dtype):
    for key, found in results_of(name, dtype, "numpy").items():
        given = {n: rows_of(c, dtype) for n, c in operands(name, key, np.dtype(dtype)).items()}
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(found, evaluate(kinds_of(name)[key], np, **given), err_msg=key)


# The others are beside references in 60 digits only (`tests/ops/test_elementwise.py`).
EXACT = TRUTH | {"sign", "isfinite", "isnan"}
ANALYSED = [
    name for name in FORMULAS if {s.ufunc for f in kinds_of(name).values() for s in f.steps} <= {*HANDED_ON, *EXACT}
]


@pytest.mark.parametrize("printer", COMPILED)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ANALYSED)
def test_compiled_kernels_over_the_whole_domain(name, dtype, printer):
    wide = np.float64 if dtype == "float32" else np.longdouble
    for key, found in results_of(name, dtype, printer).items():
        given = {n: rows_of(c, dtype) for n, c in operands(name, key, np.dtype(dtype)).items()}
        formula = kinds_of(name)[key]
        with np.errstate(all="ignore"):
            plain = np.broadcast_to(np.asarray(evaluate(formula, np, **given), dtype), found.shape)
            exact, bound = bounded(formula, dtype, {n: c.astype(wide) for n, c in given.items()})
            fits = (np.abs(found - exact) <= bound) | (found == plain) | (np.isnan(found) & np.isnan(plain))
        where = np.unravel_index(np.argmin(fits), fits.shape)
        shown = {n: c[where] for n, c in given.items()}
        assert fits.all(), (key, shown, found[where], plain[where], np.broadcast_to(exact, fits.shape)[where])


@pytest.mark.parametrize("printer", BOTH)
def test_special_values_of_tanh(printer):
    x = np.array([[np.nan, np.inf, -np.inf, 0.0, -0.0, 100.0, -100.0, 8.0]], np.float32)
    b = Builder(8, np.dtype("float32"))
    b.store(ARG_BLOCK, ("out",), 0, 8, b.call("tanh", b.load(ARG_BLOCK, ("in",), 0, 8)), adds=False)
    out = np.empty_like(x)
    PRINTERS[printer](b.kernel())(0, 1, 0, x, out)
    np.testing.assert_allclose(out, [[np.nan, 1, -1, 0, -0.0, 1, -1, 1]], rtol=3e-7)


# Kernels of any form.

UNARY = ["negative", "abs", "tanh", "sin", "exp", "sign", "logical_not", "arctan"]
BINARY = ["add", "subtract", "multiply", "maximum", "minimum", "less", "equal", "logical_and", "logical_or"]


def interpreted(kernel, n, arrays):
    """The kernel, element by element."""
    at = {}
    position = 0
    for a, argument in enumerate(kernel.arguments):
        at[a] = position
        position += 2 if argument.kind == ARG_ROWS else 1

    def place(a, shift, i, j):
        argument, array = kernel.arguments[a], arrays[at[a]]
        column = shift + (0 if argument.columns == 1 else j)
        if argument.kind == ARG_ROWS:
            return array, int(arrays[at[a] + 1][i]) + column
        return array, {ARG_BLOCK: (i, column), ARG_VECTOR: column, ARG_NUMBER: i}[argument.kind]

    for i in range(n):
        sums = {}
        for j in range(kernel.width):
            values = []

            def value(v, values=values):
                return v if isinstance(v, float) else values[v]

            for step in kernel.instructions:
                if step.name == "load":
                    array, index = place(step.argument, step.shift, i, j)
                    values.append(float(array[index]))
                else:
                    values.append(float(function_of(np, step.name)(*map(value, step.inputs))))
            for k, store in enumerate(kernel.stores):
                array, index = place(store.argument, store.shift, i, j)
                if kernel.arguments[store.argument].columns == 1 and kernel.width > 1:
                    sums[k] = sums.get(k, 0.0) + value(store.value)
                elif store.adds:
                    array[index] += value(store.value)
                else:
                    array[index] = value(store.value)
        for k, total in sums.items():
            store = kernel.stores[k]
            array, index = place(store.argument, store.shift, i, 0)
            array[index] = total + (array[index] if store.adds else 0.0)


@st.composite
def kernels(draw):
    """A kernel over arguments of every kind, some of one column, and stores that add or not."""
    width = draw(st.sampled_from([1, 2, 3, 8]))
    b = Builder(width, np.dtype("float64"))
    values = [b.load(ARG_BLOCK, ("block",), draw(st.integers(0, 2)), width)]
    sources = {
        ARG_BLOCK: lambda: b.load(ARG_BLOCK, ("block",), draw(st.integers(0, 2)), width),
        ARG_ROWS: lambda: b.load(ARG_ROWS, ("rows",), draw(st.integers(0, 2)), width),
        ARG_VECTOR: lambda: b.load(ARG_VECTOR, ("vector",), draw(st.integers(0, 2)), width),
        ARG_NUMBER: lambda: b.load(ARG_NUMBER, ("number",), 0, 1),
        "one": lambda: b.load(ARG_BLOCK, ("block",), draw(st.integers(0, 2)), 1),
        "one of rows": lambda: b.load(ARG_ROWS, ("rows",), draw(st.integers(0, 2)), 1),
        "constant": lambda: draw(st.sampled_from([0.5, -2.0, 3.0])),
    }
    values += [sources[name]() for name in draw(st.lists(st.sampled_from(sorted(sources)), max_size=4))]
    for _ in range(draw(st.integers(0, 6))):
        pick = functools.partial(draw, st.integers(0, len(values) - 1))
        name = draw(st.sampled_from([*UNARY, *BINARY, "where"]))
        arity = 1 if name in UNARY else 3 if name == "where" else 2
        found = b.call(name, *(values[pick()] for _ in range(arity)))
        values.append(b.call("tanh", found))
    stores = {
        "put": lambda v: b.store(ARG_BLOCK, ("out",), 0, width, v, adds=False),
        "add": lambda v: b.store(ARG_BLOCK, ("added",), 1, width, v, adds=True),
        "add rows": lambda v: b.store(ARG_ROWS, ("row out",), 1, width, v, adds=True),
        "sum": lambda v: b.store(ARG_BLOCK, ("sums",), 0, 1, v, adds=False),
        "add sum": lambda v: b.store(ARG_ROWS, ("row sums",), 0, 1, v, adds=True),
    }
    for name in draw(st.lists(st.sampled_from(sorted(stores)), min_size=1, max_size=4, unique=True)):
        stores[name](values[draw(st.integers(0, len(values) - 1))])
    return b.kernel()


def arguments_of(kernel, n, rng):
    arrays = []
    for argument in kernel.arguments:
        if argument.kind == ARG_ROWS:
            arrays += [rng.normal(size=200), rng.integers(0, 180, n)]
        elif argument.kind == ARG_VECTOR:
            arrays.append(rng.normal(size=12))
        elif argument.kind == ARG_NUMBER:
            arrays.append(rng.normal(size=n))
        else:
            arrays.append(rng.normal(size=(n, 12)))
    return arrays


def check_kernel(kernel, printer, n, seed=0):
    rng = np.random.default_rng(seed)
    arrays = arguments_of(kernel, n, rng)
    expected = [a.copy() for a in arrays]
    interpreted(kernel, n, expected)
    PRINTERS[printer](kernel)(0, n, 0, *arrays)
    for a, e in zip(arrays, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-12)


SLOW = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@SLOW
@given(kernels(), st.integers(0, 4))
def test_numpy_runs_the_instructions(kernel, n):
    check_kernel(kernel, "numpy", n)


# The builder.


# Row adds.


@pytest.mark.parametrize("printer", BOTH)
def test_constants_of_any_value_can_be_printed(printer):
    b = Builder(2, np.dtype("float64"))
    x = b.load(ARG_BLOCK, ("in",), 0, 2)
    for k, value in enumerate((math.inf, -math.inf, math.nan, 1e-310, -0.0)):
        b.store(ARG_BLOCK, ("out", k), 0, 2, b.call("maximum", b.call("minimum", x, value), -1e300), adds=False)
    kernel = b.kernel()
    given = np.array([[0.5, -0.5]])
    out = [np.empty((1, 2)) for _ in range(5)]
    PRINTERS[printer](kernel)(0, 1, 0, given, *out)
    np.testing.assert_array_equal(out[0], given)
    np.testing.assert_array_equal(out[1], [[-1e300] * 2])
    np.testing.assert_array_equal(out[2], [[math.nan] * 2])
    np.testing.assert_array_equal(out[3], [[1e-310, -0.5]])
