"""Every name of `lazyflow.numpy` against NumPy where it is difficult: special values, all dtypes, numbers and empty
arrays, and both derivatives.

The calls are those of the table in ``test_functions.py``, which every name must be in. Here their operands are made of
special values, or converted, or emptied; what NumPy refuses, ours must refuse.
"""

import numpy as np
import pytest

import lazyflow as lf
import lazyflow.numpy as anp
from tests.numpy.test_functions import ROWS, function, value

INF, NAN = np.inf, np.nan
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, NAN, INF, -INF, 0.5, -2.5, 1e300, 1e-310, 3.0])
DTYPES = ("bool", "int8", "uint8", "int32", "int64", "float16", "float32")
TOLERANCE = {"float16": 4e-3, "float32": 4e-6, "float64": 1e-12}

# LAPACK raises for NaN and infinities, or does not come back; what else these names refuse stands in their own tests.
DECOMPOSED = ("inv", "det", "slogdet", "cholesky", "eigh", "eigvalsh", "svd", "svdvals", "solve", "matrix_power")
# No values come out, or other ones each time.
NO_VALUES = ("empty_like", "shape", "ndim", "size", "result_type")
# Equal elements are sorted in their order here, and in NumPy as it comes.
UNSTABLE = ("argsort",)
# Where Python's numbers stand beside truth values, they have the default dtype and not float64.
WEAK = {("clip", "bool"), ("where", "bool"), ("array", None)}
# NumPy looks at values, or has BLAS skip what a zero multiplies.
QUIRKS = ("average", "dot")


def both(module, name, call, operands):
    """What NumPy makes of the call and what we do: a value, or the exception."""
    found = []
    for namespace, given in ((np, operands), (anp, [lf.constant(o) for o in operands])):
        with np.errstate(all="ignore"):
            try:
                found.append(value(call(function(namespace, module, name), *given)))
            except Exception as error:
                found.append(error)
    return found


def check(module, name, call, operands):
    want, got = both(module, name, call, operands)
    if isinstance(got, lf.DTypeError) and all(o.dtype.kind != "f" for o in operands):
        return  # norms of integers, products of truth values: refused, with what to write instead
    if isinstance(want, Exception):
        assert isinstance(got, Exception), (want, got)
        return
    assert not isinstance(got, Exception), got
    if isinstance(want, np.ndarray | np.generic):
        want, got = np.asarray(want), np.asarray(got)
        assert got.dtype == want.dtype and got.shape == want.shape, (got, want)
        tolerance = TOLERANCE.get(want.dtype.name, 0)
        np.testing.assert_allclose(
            got.astype(np.float64), want.astype(np.float64), rtol=tolerance, atol=tolerance if tolerance else 0
        )
    else:
        assert got == want


def rows(*left_out):
    return [row for row in ROWS if row.values[1] not in left_out]


def special(operand, shift):
    return np.resize(np.roll(SPECIAL, shift), np.shape(operand))


@pytest.mark.parametrize("shift", range(0, 12, 3))
@pytest.mark.parametrize(("module", "name", "call", "operands"), rows(*DECOMPOSED, *NO_VALUES, *UNSTABLE, *QUIRKS))
def test_special_values(module, name, call, operands, shift):
    if any(np.asarray(o).dtype.kind != "f" for o in operands):
        pytest.skip("integers have no special values")
    check(module, name, call, [special(o, shift + 5 * i) for i, o in enumerate(operands)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("module", "name", "call", "operands"), rows(*DECOMPOSED, *NO_VALUES, *UNSTABLE))
def test_dtypes(module, name, call, operands, dtype):
    if {(name, dtype), (name, None)} & WEAK:
        pytest.skip("numbers beside truth values have the default dtype")
    check(module, name, call, [(4 * np.asarray(o)).astype(dtype) for o in operands])


@pytest.mark.parametrize(("module", "name", "call", "operands"), ROWS)
def test_second_derivatives(module, name, call, operands):
    """Where nothing is special, numerically; each function with itself behind it, so that it is not linear."""
    inputs = [np.asarray(o) for o in operands]
    which = tuple(i for i, x in enumerate(inputs) if x.dtype.kind == "f")
    if not which or name in ("floor_divide", "mod", "remainder"):
        pytest.skip("steps")
    y = call(function(anp, module, name), *(lf.Parameter(x) if x.dtype.kind == "f" else lf.constant(x) for x in inputs))
    if not isinstance(y, lf.Expr) or y.dtype != np.float64 or not y.requires_grad:
        pytest.skip("no derivative")

    def squared(*given):
        value = call(function(anp, module, name), *given)
        return value * value

    lf.check_grads(squared, argnum=which, order=2, tolerance=1e-4)(*inputs)


# Both derivatives at points that are special, from analysis: at zero, at ties, at the ends of a domain.
F = {
    "sinc": (anp.sinc, [0.0, 1.0, 1e-9, -0.1], None, None),
    "cbrt": (anp.cbrt, [0.0, 8.0, -8.0], [INF, 1 / 12, 1 / 12], [-INF, -1 / 144, 1 / 144]),
    "norm": (lambda x: anp.linalg.norm(x * np.ones(3)), [0.0, 2.0], [0.0, np.sqrt(3)], [0.0, 0.0]),
    "norm of one axis": (lambda x: anp.linalg.norm(anp.stack([x, x]), axis=0), [0.0], [0.0], [0.0]),
    "norm of order 1": (lambda x: anp.linalg.norm(anp.stack([x, x]), 1), [0.0, 3.0], [0.0, 2.0], [0.0, 0.0]),
    "norm of order 3": (lambda x: anp.linalg.norm(anp.stack([x, x]), 3), [0.0, 1.0], [0.0, 2 ** (1 / 3)], [0.0, 0.0]),
    "largest norm": (lambda x: anp.linalg.norm(anp.stack([x, x / 2]), INF), [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]),
    "hypot": (lambda x: anp.hypot(x, x), [0.0, 1.0], [0.0, np.sqrt(2)], [0.0, 0.0]),
    "std": (lambda x: anp.std(anp.stack([x, x * 0 + 1])), [1.0, 3.0], [0.0, 0.5], [0.0, 0.0]),
    "sqrt": (anp.sqrt, [0.0, 4.0], [INF, 0.25], [-INF, -1 / 32]),
    "log": (anp.log, [0.0, 2.0], [INF, 0.5], [-INF, -0.25]),
    "log2": (anp.log2, [2.0], [1 / np.log(4)], [-1 / np.log(16)]),
    "log10": (anp.log10, [10.0], [0.1 / np.log(10)], [-0.01 / np.log(10)]),
    "exp2": (anp.exp2, [0.0, 3.0], [np.log(2), 8 * np.log(2)], [np.log(2) ** 2, 8 * np.log(2) ** 2]),
    "abs": (anp.abs, [0.0, -1.0], [0.0, -1.0], [0.0, 0.0]),
    "power 2": (lambda x: x**2, [0.0, -3.0], [0.0, -6.0], [2.0, 2.0]),
    "power 1": (lambda x: x**1, [0.0, -3.0], [1.0, 1.0], [0.0, 0.0]),
    "power 0": (lambda x: x**0, [0.0, -3.0], [0.0, 0.0], [0.0, 0.0]),
    "power 3": (lambda x: x**3, [0.0, -2.0], [0.0, 12.0], [0.0, -12.0]),
    "prod": (lambda x: anp.prod(anp.stack([x, x, x])), [0.0, 2.0], [0.0, 12.0], [0.0, 12.0]),
    "determinant": (lambda x: anp.linalg.det(anp.stack([anp.stack([x, x]), anp.stack([x, x * x])])),
                    [1.0, 0.0, 2.0], [1.0, 0.0, 8.0], [4.0, -2.0, 10.0]),
    "logaddexp": (lambda x: anp.logaddexp(x, 0.0), [0.0, -INF, INF], [0.5, 0.0, 1.0], [0.25, 0.0, 0.0]),
    "logaddexp of nothing": (lambda x: anp.logaddexp(x, -INF), [0.0, -INF], [1.0, 0.5], None),
    "fmax": (lambda x: anp.fmax(x, NAN), [1.0], [1.0], [0.0]),
    "fmin of a tie": (lambda x: anp.fmin(x, 2 * x), [0.0, 1.0], [1.5, 1.0], [0.0, 0.0]),
    "median": (lambda x: anp.median(anp.stack([x, 2 * x, 3 * x])), [1.0], [2.0], [0.0]),
    "nan_to_num": (lambda x: anp.nan_to_num(x) * 2, [NAN, INF, 1.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]),
    "arctan2": (lambda x: anp.arctan2(x, 1.0), [0.0], [1.0], [0.0]),
}  # fmt: skip


def sinc_by_series(x):
    """Both derivatives of ``sum (-1)^k (pi x)^2k / (2k + 1)!``."""
    first = second = 0.0
    term = 1.0  # (-1)^k pi^2k / (2k + 1)!
    for k in range(1, 40):
        term *= -(np.pi**2) / ((2 * k) * (2 * k + 1))
        first += term * 2 * k * x ** (2 * k - 1)
        second += term * 2 * k * (2 * k - 1) * x ** (2 * k - 2)
    return first, second


@pytest.mark.parametrize("name", F)
def test_derivatives_at_special_points(name):
    f, points, first, second = F[name]
    if name == "sinc":
        first, second = zip(*map(sinc_by_series, points), strict=True)
    for i, x in enumerate(points):
        p = lf.Parameter(np.array(x))
        (gradient,) = lf.gradients(f(p), [p])
        np.testing.assert_allclose(gradient.item(), first[i], rtol=1e-9, atol=1e-9, err_msg=f"at {x}")
        f(p).backward()
        np.testing.assert_allclose(p.grad, first[i], rtol=1e-9, atol=1e-9, err_msg=f"at {x}")
        if second is not None:
            got = lf.gradients(gradient, [p])[0].item() if gradient.requires_grad else 0.0
            np.testing.assert_allclose(got, second[i], rtol=1e-9, atol=1e-9, err_msg=f"second, at {x}")


def test_what_is_computed_of_python_numbers_is_numpys():
    for name in ("bitwise_and", "bitwise_or", "bitwise_xor", "fmax", "fmin", "logaddexp", "hypot", "left_shift"):
        want = getattr(np, name)(6, 3)
        got = getattr(anp, name)(6, 3)
        assert got == want and type(got) is type(want)


@pytest.mark.parametrize("index", [[3], [-4], [[0, 5]], [2**40]])
def test_indices_out_of_range(index):
    x = lf.constant(np.arange(3.0))
    given = np.array(index).reshape(-1)
    computed = lf.constant(given) + 0
    calls = {
        "take_along_axis": lambda i: anp.take_along_axis(x, i, 0),
        "take": lambda i: anp.take(x, i, 0),
        "one_hot": lambda i: lf.one_hot(i, 3),
        "scatter": lambda i: lf.scatter(lf.constant(np.ones(len(given))), i, 3),
        "embedding": lambda i: lf.embedding(lf.constant(np.ones((3, 2))), i),
        "getitem": lambda i: x[i],
    }
    for name, call in calls.items():
        for indices in (given, computed) if x.device == "cpu" else (given,):  # on a GPU, those computed wrap around
            with pytest.raises(IndexError, match="out of range"):
                call(indices).numpy()
            assert name
    for name in ("one_hot", "scatter", "embedding") if x.device == "cpu" else ():
        with pytest.raises(IndexError, match="index -1 is out of range"):
            calls[name](lf.constant(np.full(given.shape, -1)) + 0).numpy()


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int64", "uint64", "float32"])
def test_the_largest_elements(dtype):
    info = {"b": (0, 1), "f": (-INF, INF)}.get(np.dtype(dtype).kind)
    low, high = info or (np.iinfo(dtype).min, np.iinfo(dtype).max)
    x = np.array([low, 0, high, 1, low, high], dtype)
    values, places = lf.topk(lf.constant(x), 6)
    np.testing.assert_array_equal(values.numpy(), np.sort(x)[::-1])
    np.testing.assert_array_equal(x[places.numpy()], values.numpy())
    assert places.numpy().tolist()[-1] == 4 if dtype != "uint8" else True
    np.testing.assert_array_equal(
        np.sort(lf.kmax_pool(lf.constant(x), 2).numpy()), [high, high] if dtype != "bool" else [1, 1]
    )


def test_nan_is_the_largest():
    values, places = lf.topk(lf.constant([1.0, NAN, INF, -INF]), 3)
    assert places.numpy().tolist()[0] == 1 and np.isnan(values.numpy()[0])
    np.testing.assert_array_equal(values.numpy()[1:], [INF, 1.0])


def test_sorting_special_values():
    x = np.array([NAN, 1.0, -0.0, 0.0, INF, -INF, NAN])
    np.testing.assert_array_equal(anp.sort(lf.constant(x)).numpy(), np.sort(x))
    np.testing.assert_array_equal(anp.argsort(lf.constant(x)).numpy(), np.argsort(x, kind="stable"))


@pytest.mark.parametrize(("module", "name", "call", "operands"), ROWS)
def test_empty_arrays(module, name, call, operands):
    """With the first axis empty, as far as NumPy takes it: the same, or an error."""
    if name in (
        *NO_VALUES,
        "inv",
        "slogdet",
        "cholesky",
        "eigh",
        "eigvalsh",
        "svd",
        "svdvals",
        "solve",
        "matrix_power",
    ):
        pytest.skip("not of empty matrices")
    given = [np.asarray(o)[:0] if np.ndim(o) else np.asarray(o) for o in operands]
    if not any(o.size == 0 for o in given):
        pytest.skip("numbers")
    want, got = both(module, name, call, given)
    if isinstance(want, Exception) or isinstance(got, lf.ShapeError | IndexError):
        assert isinstance(got, Exception) or isinstance(want, Exception)
        return
    assert not isinstance(got, Exception), got
    if isinstance(want, np.ndarray | np.generic):
        np.testing.assert_array_equal(got, want)
        assert np.asarray(got).dtype == np.asarray(want).dtype


LISTS = {
    "vectors": lambda x, y: [x, y],
    "a tuple": lambda x, y: (x * 1, y),
    "scalars": lambda x, y: [x[0], y[1]],
    "nested": lambda x, y: [[x, y], [y, x]],
    "with a number": lambda x, y: [x[0], 2.0],
    "with an array": lambda x, y: [x, np.array([0.5, 4.0])],
}


@pytest.mark.parametrize("make", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("options", [{}, {"axis": 0}, {"axis": -1}, {"axis": 0, "keepdims": True}], ids=str)
@pytest.mark.parametrize("name", ["all", "any", "average", "max", "mean", "min", "prod", "ptp", "sum", "amax", "amin"])
def test_a_list_is_the_array_that_it_is_in_numpy(name, options, make):
    """`lf.sum` of a list is elementwise; NumPy's of a list is one number."""
    x, y = np.array([1.0, 2.0]), np.array([3.0, 0.0])
    expected = getattr(np, name)(make(x, y), **options)
    found = getattr(anp, name)(make(lf.Parameter(x), lf.Parameter(y)), **options).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected)
