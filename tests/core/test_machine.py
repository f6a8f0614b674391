"""The machine: its functions over their whole domains, and programs of any form beside the instructions' own words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyflow.core import machine
from lazyflow.fuse.scalar import ARG_BLOCK, ARG_VECTOR, Builder
from tests.fuse import test_kernels as kernels

if machine is None:
    pytest.skip("the core was not compiled", allow_module_level=True)

from lazyflow.fuse.machine import core_function
from lazyflow.optim import Adam, rule

SETS = ["avx512", "avx2", "baseline"]


def use(name):
    try:
        machine.use_instruction_set(name)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def as_before():
    before = machine.instruction_set()
    yield
    machine.use_instruction_set(before)


def result(name, *columns):
    """A function of columns of numbers, as one row."""
    n, dtype = len(columns[0]), columns[0].dtype
    b = Builder(n, dtype)
    loaded = [b.load(ARG_BLOCK, ("in", k), 0, n) for k in range(len(columns))]
    b.store(ARG_BLOCK, ("out",), 0, n, b.call(name, *loaded), adds=False)
    out = np.empty((1, n), dtype)
    core_function(b.kernel())(0, 1, 0, *(c.reshape(1, n) for c in columns), out)
    return out[0]


def domain(dtype):
    """Numbers of all sizes and signs, some near the points where functions change, zeros, infinities, NaN."""
    info = np.finfo(dtype)
    sizes = np.geomspace(float(info.smallest_subnormal), float(info.max) * 0.99, 3000)
    near_one = [1 + np.linspace(-0.6, 0.6, 601), 1 + np.geomspace(1e-8, 0.1, 200), 1 - np.geomspace(1e-8, 0.1, 200)]
    some = np.concatenate([sizes, np.geomspace(1e-8, 800, 3000), np.linspace(0, 30, 3000), *near_one]).astype(dtype)
    return np.concatenate([some, -some, np.array([0.0, -0.0, np.inf, -np.inf, np.nan], dtype)])


UNARY = (
    *("negative", "abs", "sign", "sqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tan", "arcsin", "arccos"),
    *("arctan", "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh", "floor", "ceil", "isfinite", "isnan"),
    *("cbrt", "exp2", "log2", "log10", "deg2rad", "rad2deg"),
)
EXACT = ("negative", "abs", "sign", "sqrt", "floor", "ceil", "round", "isfinite", "isnan", "logical_not")
ULPS = 3.0


def check(found, exact, dtype, ulps, what):
    """``exact``: in a wider format."""
    with np.errstate(over="ignore"):
        rounded = exact.astype(dtype)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(rounded), what)
    np.testing.assert_array_equal(found[np.isinf(rounded)], rounded[np.isinf(rounded)], what)
    zeros = exact == 0
    np.testing.assert_array_equal(np.signbit(found[zeros]), np.signbit(exact[zeros]), what)
    ordinary = np.isfinite(rounded)
    unit = np.spacing(np.maximum(np.abs(rounded[ordinary]), np.finfo(dtype).tiny)).astype(exact.dtype)
    error = np.abs(found[ordinary].astype(exact.dtype) - exact[ordinary]) / unit
    assert error.max() <= ulps, (what, float(error.max()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("instructions", SETS)
def test_functions_of_one_number(instructions, name, dtype):
    use(instructions)
    x = domain(dtype)
    wide = np.float64 if dtype == "float32" else np.longdouble
    with np.errstate(all="ignore"):
        exact = np.asarray(getattr(np, name)(x.astype(wide)), wide)
    check(result(name, x), exact, dtype, 0.5 if name in EXACT else ULPS, name)


@pytest.mark.parametrize("instructions", SETS)
def test_rounding_to_integers(instructions):
    use(instructions)
    x = np.concatenate([np.linspace(-4, 4, 65), domain("float32")]).astype(np.float32)
    np.testing.assert_array_equal(result("round", x), np.round(x))


BINARY = (
    *("add", "subtract", "multiply", "divide", "maximum", "minimum", "arctan2", "power", "remainder", "floor_divide"),
    *("equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "logical_and", "logical_or"),
    *("hypot", "fmax", "fmin"),
)
ROUNDED = ("arctan2", "power", "hypot")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("instructions", SETS)
def test_functions_of_two_numbers(instructions, name, dtype):
    use(instructions)
    some = np.concatenate(
        [domain(dtype)[::400], np.array([0, -0.0, 1, -1, 2, -3, 0.5, np.inf, -np.inf, np.nan], dtype)]
    )
    a, b = (column.ravel() for column in np.meshgrid(some, some))
    with np.errstate(all="ignore"):
        expected = np.asarray(getattr(np, name)(a, b), dtype)
    found = result(name, a, b)
    if name in ROUNDED:
        wide = np.float64 if dtype == "float32" else np.longdouble
        with np.errstate(all="ignore"):
            expected = np.asarray(getattr(np, name)(a.astype(wide), b.astype(wide))).astype(dtype)
            close = np.abs(found - expected) <= 4 * np.spacing(np.abs(expected))
        assert (close | (found == expected) | (np.isnan(found) & np.isnan(expected))).all()
    else:
        np.testing.assert_array_equal(found, expected)
        ordinary = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(found[ordinary]), np.signbit(expected[ordinary]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_an_element_becomes_does_not_depend_on_its_neighbours(dtype):
    x = domain(dtype)
    for name in UNARY:
        alone = np.array([result(name, x[i : i + 1])[0] for i in range(0, len(x), 97)])
        np.testing.assert_array_equal(result(name, x)[::97], alone, name)


@kernels.SLOW
@given(kernels.kernels(), st.integers(0, 4), st.sampled_from(SETS))
def test_programs_run_the_instructions(kernel, n, instructions):
    use(instructions)
    rng = np.random.default_rng(0)
    arrays = kernels.arguments_of(kernel, n, rng)
    expected = [a.copy() for a in arrays]
    kernels.interpreted(kernel, n, expected)
    core_function(kernel)(0, n, 0, *arrays)
    for a, e in zip(arrays, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 63, 500, 5000])
@pytest.mark.parametrize("rows", [0, 1, 2, 7, 300])
def test_rows_of_any_width(width, rows):
    """Blocks of several rows, of one, and of parts of one."""
    rng = np.random.default_rng(width)
    b = Builder(width, np.dtype("float32"))
    x, y = b.load(ARG_BLOCK, ("x",), 1, width), b.load("vector", ("y",), 0, width)
    z = b.load("number", ("z",), 0, 1)
    value = b.call("add", b.call("multiply", x, y), z)
    b.store(ARG_BLOCK, ("out",), 0, width, value, adds=False)
    b.store(ARG_BLOCK, ("sum",), 0, 1, value, adds=True)
    x, y, z = (rng.normal(size=s).astype("f4") for s in ((rows, width + 3), width, rows))
    out, total = np.zeros((rows, width), "f4"), np.ones((rows, 1), "f4")
    core_function(b.kernel())(0, rows, 0, x, y, z, out, total)
    expected = x[:, 1 : 1 + width] * y + z[:, None]
    np.testing.assert_array_equal(out, expected)
    if width == 1:
        np.testing.assert_array_equal(total, expected + 1)
    else:
        np.testing.assert_allclose(total[:, 0], 1 + expected.astype(float).sum(1), rtol=1e-5, atol=1e-5)


def after_a_step(dtype, begin, n, pieces):
    """A parameter and its moments after a step of Adam, on arrays that begin at an element, by pieces."""
    rng = np.random.default_rng(n)
    names = ("parameter", "gradient", "exp_avg", "exp_avg_sq")
    arrays = {name: np.abs(rng.normal(size=n + 64)).astype(dtype)[begin : begin + n] for name in names}
    options = {"betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False, "lr": 1e-3}
    adam = object.__new__(Adam)
    assignments, numbers = list(adam.formulas(options, 3).items()), adam.numbers(options, 3)
    for i in range(0, n, pieces):
        some = {name: a[i : i + pieces] for name, a in arrays.items()}
        rule.Rule(assignments, numbers).run(some, lambda name, like: np.empty_like(like))
    return np.stack([arrays[name] for name in names])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("begin", [0, 1, 4, 13])
@pytest.mark.parametrize("instructions", SETS)
def test_arrays_beyond_the_cache_are_what_their_pieces_are(instructions, begin, dtype, monkeypatch):
    """Fetching ahead, beginning with a whole line, and writing at once change no bit; nor does NumPy."""
    use(instructions)
    whole = after_a_step(dtype, begin, 70_001, 70_001)
    np.testing.assert_array_equal(whole, after_a_step(dtype, begin, 70_001, 97))
    monkeypatch.setattr("lazyflow.core.machine", None)
    np.testing.assert_array_equal(whole, after_a_step(dtype, begin, 70_001, 70_001))


@pytest.mark.parametrize("n", [5, 64, 3000])
def test_what_is_read_again_is_not_overwritten_before(n):
    """Two arguments may be one array unless a program is told otherwise."""
    b = Builder(n, np.dtype("float32"))
    x, other = b.load(ARG_BLOCK, ("x",), 0, n), b.load(ARG_BLOCK, ("other",), 0, n)
    b.store(ARG_BLOCK, ("x",), 0, n, b.call("add", x, 1.0), adds=False)
    b.store(ARG_BLOCK, ("out",), 0, n, b.call("multiply", other, 2.0), adds=False)
    x, out = np.arange(2 * n, dtype="f4").reshape(2, n), np.empty((2, n), "f4")
    before = x.copy()
    core_function(b.kernel())(0, 2, 0, x, x, out)
    np.testing.assert_array_equal(x, before + 1)
    np.testing.assert_array_equal(out, before * 2)


@pytest.mark.parametrize("n", [5, 64, 3000])
def test_of_two_stores_into_one_place_the_last_counts(n):
    b = Builder(n, np.dtype("float32"))
    x = b.load(ARG_BLOCK, ("x",), 0, n)
    one, two = b.call("add", x, 1.0), b.call("add", x, 2.0)
    b.store(ARG_BLOCK, ("out",), 0, n, two, adds=False)
    b.store(ARG_BLOCK, ("out",), 0, n, one, adds=False)
    x, out = np.arange(2 * n, dtype="f4").reshape(2, n), np.empty((2, n), "f4")
    core_function(b.kernel())(0, 2, 0, x, out)
    np.testing.assert_array_equal(out, x + 1)


PRODUCTS = {
    "a + b c": lambda b, x, y, z: b.call("add", x, b.call("multiply", y, z)),
    "b c + a": lambda b, x, y, z: b.call("add", b.call("multiply", y, z), x),
    "a - b c": lambda b, x, y, z: b.call("subtract", x, b.call("multiply", y, z)),
    "b c - a": lambda b, x, y, z: b.call("subtract", b.call("multiply", y, z), x),
    "b c - b c": lambda b, x, y, z: b.call("subtract", *2 * [b.call("multiply", y, z)]),
    "b c + a c": lambda b, x, y, z: b.call("add", b.call("multiply", y, z), b.call("multiply", x, z)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("formula", PRODUCTS)
@pytest.mark.parametrize("instructions", SETS)
def test_products_and_sums_are_rounded_one_after_the_other(instructions, formula, dtype):
    use(instructions)
    rng, b = np.random.default_rng(0), Builder(2000, np.dtype(dtype))
    x, y, z = (b.load(ARG_BLOCK, (name,), 0, 2000) for name in "xyz")
    b.store(ARG_BLOCK, ("out",), 0, 2000, PRODUCTS[formula](b, x, y, z), adds=False)
    some = rng.normal(size=(3, 1, 2000)).astype(dtype)
    special = [0, -0.0, 1, -1, 1e30, -1e30, np.inf, -np.inf, np.nan]
    some[:, 0, :729] = np.stack(np.meshgrid(*3 * [special])).reshape(3, -1)
    out = np.empty((1, 2000), dtype)
    kernel = b.kernel()
    core_function(kernel)(0, 1, 0, *[some["xyz".index(a.key[0])] for a in kernel.arguments if a.key != ("out",)], out)
    with np.errstate(all="ignore"):
        x, y, z = some
        expected = {"a + b c": x + y * z, "b c + a": y * z + x, "a - b c": x - y * z, "b c - a": y * z - x}
        expected |= {"b c - b c": y * z - y * z, "b c + a c": y * z + x * z}
    np.testing.assert_array_equal(out, expected[formula])
    numbers = ~np.isnan(out)
    np.testing.assert_array_equal(np.signbit(out[numbers]), np.signbit(expected[formula][numbers]))


def a_program(rng, n, dtype):
    """Sums, products, quotients and roots of rows and of numbers: as a kernel that reads ``x``, ``y`` and ``numbers``,
    and writes ``x`` and ``out``, and as a function of the first three, in NumPy's steps, that returns these two."""
    b = Builder(n, np.dtype(dtype))
    values = [b.load(ARG_BLOCK, (name,), 0, n) for name in "xy"]
    values += [b.load(ARG_VECTOR, ("numbers",), k, 1) for k in range(2)] + [1.5, -0.0]
    steps = []
    for _ in range(int(rng.integers(3, 14))):
        name = str(rng.choice(["add", "subtract", "multiply", "multiply", "divide", "sqrt"]))
        recent = rng.random(1 if name == "sqrt" else 2) < 0.6
        read = [int(rng.integers(len(values) - 3 if late else 0, len(values))) for late in recent]
        steps.append((name, read))
        values.append(b.call(name, *[values[k] for k in read]))
    stored = [len(values) - 1, int(rng.integers(len(values) - len(steps), len(values)))]
    for name, value in zip(("x", "out"), stored, strict=True):
        b.store(ARG_BLOCK, (name,), 0, n, values[value], adds=False)

    def by_numpy(x, y, numbers):
        found = [x, y, *numbers, x.dtype.type(1.5), x.dtype.type(-0.0)]
        for name, read in steps:
            found.append(getattr(np, name)(*[found[k] for k in read]))
        return [np.broadcast_to(found[k], x.shape) for k in stored]

    return b.kernel(), by_numpy


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("n", [1, 5, 64, 3000])
def test_what_is_computed_in_one_loop_is_what_steps_of_their_own_give(n, instructions, dtype):
    use(instructions)
    rng = np.random.default_rng(n)
    for distinct in 40 * [False, True]:
        kernel, by_numpy = a_program(rng, n, dtype)
        rows = 7 if n < 3000 else 1
        x, y, numbers = (rng.normal(size=size).astype(dtype) for size in ((rows, n), (rows, n), 2))
        with np.errstate(all="ignore"):
            expected = [a.copy() for a in by_numpy(x, y, numbers)]
        given = {"x": x, "y": y, "numbers": numbers, "out": np.empty_like(x)}
        core_function(kernel, distinct=distinct)(0, rows, 0, *[given[a.key[0]] for a in kernel.arguments])
        for found, wanted in zip((given["x"], given["out"]), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
            known = ~np.isnan(wanted)
            np.testing.assert_array_equal(np.signbit(found[known]), np.signbit(wanted[known]))


LOOPS = {
    "parameter - gradient * rate": 1,
    "parameter * rate + gradient * other": 1,
    "gradient * other - parameter * rate": 1,
    "sqrt(parameter) + rate": 1,
    "rate + sqrt(parameter)": 1,
    "sqrt(parameter) - rate": 2,
    "parameter - gradient / (sqrt(gradient) + rate) * other": 2,
    "parameter - gradient * rate * other": 2,
    "(gradient * rate + other) * (gradient * rate)": 3,  # which is read twice
}


@pytest.mark.parametrize("formula", LOOPS)
def test_what_one_sum_reads_is_computed_in_its_loop(formula):
    names, numbers = ("parameter", "gradient"), ("rate", "other")
    kernel = rule.kernel_of((("parameter", formula),), names, numbers, np.dtype("float32"), 0)
    assert core_function(kernel, distinct=True).loops == LOOPS[formula]


def test_a_step_of_adam_is_five_loops():
    options = {"betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False, "lr": 1e-3}
    adam = object.__new__(Adam)
    assignments, numbers = tuple(adam.formulas(options, 3).items()), tuple(adam.numbers(options, 3))
    names = ("parameter", "gradient", "exp_avg", "exp_avg_sq")
    assert core_function(rule.kernel_of(assignments, names, numbers, np.dtype("float32"), 0)).loops == 5


def unwritable(a):
    a = a.copy()
    a.flags.writeable = False
    return a


UPDATES = {
    "contiguous": (lambda x, g: (x, g), True),
    "by columns": (lambda x, g: (x.T, g.T), True),
    "flat": (lambda x, g: (x.reshape(-1), g.reshape(-1)), True),
    "empty": (lambda x, g: (x[:0], g[:0]), True),
    "gradient not to be written": (lambda x, g: (x, unwritable(g)), True),
    "of two orders": (lambda x, g: (x.T, np.ascontiguousarray(g.T)), False),
    "with gaps": (lambda x, g: (x[:, ::2], g[:, ::2]), False),
    "of two dtypes": (lambda x, g: (x, g.astype("f8")), False),
    "of another byte order": (lambda x, g: (x, g.astype(">f4")), False),
    "of two sizes": (lambda x, g: (x, g[:1]), False),
    "no array": (lambda x, g: (x, g.tolist()), False),
    "one too few": (lambda x, g: (x,), False),
    "not to be written": (lambda x, g: (unwritable(x), g), False),
}


@pytest.mark.parametrize("case", UPDATES)
def test_an_update_is_of_arrays_of_one_kind_or_nothing(case):
    kernel = rule.kernel_of((("x", "x - gradient * rate"),), ("x", "gradient"), ("rate",), np.dtype("f4"), 0)
    change, does = UPDATES[case]
    given = change(np.ones((3, 4), "f4"), np.arange(12, dtype="f4").reshape(3, 4))
    expected = given[0] - np.float32(0.5) * given[1] if does else given[0].copy()
    assert core_function(kernel, distinct=True).update((*given, np.array([0.5], "f4"))) is does
    np.testing.assert_array_equal(given[0], expected)


@pytest.mark.parametrize("index", ["int64", "int32", "int64, every second"])
@pytest.mark.parametrize(
    ("where", "does"),
    [([2, 0], True), ([], True), ([3, 1], False), ([-1, 1], False), ([0, 1, 2], False)],
    ids=str,
)
def test_an_update_of_rows_is_of_rows_that_there_are(where, does, index):
    kernel = rule.kernel_of((("x", "x - gradient * rate"),), ("x", "gradient"), ("rate",), np.dtype("f4"), 4)
    x, gradient = np.ones((3, 4), "f4"), np.arange(8, dtype="f4").reshape(2, 4)[: len(where)]
    expected = x.copy()
    if does:
        expected[where] -= np.float32(0.5) * gradient
    rows = np.repeat(where, 2).astype(np.int64)[::2] if "," in index else np.array(where, index)
    program, rate = core_function(kernel, distinct=True), np.array([0.5], "f4")
    assert not program.update((np.asfortranarray(x), gradient, rate), rows)
    assert program.update((x, gradient, rate), rows) is does
    np.testing.assert_array_equal(x, expected)
