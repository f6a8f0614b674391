"""Every function of `lazyflow.numpy` against NumPy's: the same values, shapes and dtypes from expressions, and
gradients that are the numeric ones."""

import numpy as np
import pytest

import lazyflow as lf
import lazyflow.numpy as anp
from lazyflow.numpy.dispatch import EXPRESSIONS, LINALG

RNG = np.random.default_rng(0)
M = RNG.uniform(0.2, 0.9, (3, 4))
N = RNG.uniform(0.2, 0.9, (3, 4))
V = np.array([0.3, 0.9, 0.5, 0.7])
W = np.array([0.8, 0.2, 0.6])
T = RNG.uniform(0.2, 0.9, (2, 3, 4))
S = RNG.uniform(0.1, 0.3, (2, 3, 3)) + 2 * np.eye(3)
B = np.array([[True, False, True, True]] * 3)
COUNTS = np.array([0, 1, 2, 5, 7])
I = np.array([[3, 0, 1], [1, 1, 2], [0, 3, 3]])  # noqa: E741

ONE = (
    "abs", "absolute", "fabs", "arccos", "arcsin", "arctan", "arctanh", "arcsinh", "acos", "asin", "atan",
    "atanh", "asinh", "cbrt", "ceil", "cos", "cosh", "deg2rad", "degrees", "exp", "exp2", "expm1", "floor",
    "isfinite", "isinf", "isnan", "log", "log10", "log1p", "log2", "logical_not", "negative", "positive",
    "rad2deg", "radians", "reciprocal", "rint", "sign", "sin", "sinc", "sinh", "sqrt", "square", "tan", "tanh",
    "trunc", "conjugate", "conj", "round", "around", "nan_to_num",
)  # fmt: skip
TWO = (
    "add", "arctan2", "atan2", "divide", "true_divide", "equal", "float_power", "floor_divide", "fmax", "fmin",
    "greater", "greater_equal", "hypot", "less", "less_equal", "logaddexp", "logaddexp2", "logical_and", "logical_or",
    "logical_xor", "maximum", "minimum", "mod", "multiply", "not_equal", "pow", "power", "remainder",
    "subtract",
)  # fmt: skip
REDUCED = (
    "sum", "prod", "mean", "max", "min", "amax", "amin", "all", "any", "var", "std", "argmax", "argmin",
    "median", "ptp", "count_nonzero", "average",
)  # fmt: skip

# name -> calls, each a function of the namespace and its operands; the operands are those to differentiate by.
CALLS = {
    **{name: [(lambda f, x: f(x), M)] for name in ONE},
    **{name: [(lambda f, a, b: f(a, b), M, N), (lambda f, a, b: f(a, b), M, V)] for name in TWO},
    **{
        name: [
            (lambda f, x: f(x), M),
            (lambda f, x: f(x, axis=1), M),
            (lambda f, x: f(x, 0), T),
            (lambda f, x: f(x, axis=1, keepdims=True), T),
        ]
        for name in REDUCED
    },
    "isclose": [
        (lambda f, a, b: f(a, b), M, N),
        (lambda f, a, b: f(a, b), M, V),
        (lambda f, a, b: f(a > 0.5, b > 0.5), M, N),
    ],
    "arccosh": [(lambda f, x: f(x + 1), M)],
    "acosh": [(lambda f, x: f(x + 1), M)],
    **{
        name: [(lambda f, x: f(x > 0.5), M), (lambda f, k: f(k), COUNTS)]
        for name in ("invert", "bitwise_not", "bitwise_invert")
    },
    **{
        name: [
            (lambda f, x: f(x > 0.5, x < 0.7), M),
            (lambda f, k: f(k, 6), COUNTS),
            (lambda f, k: f(6, k), COUNTS),
            (lambda f, a, b: f(a, b), COUNTS, COUNTS[::-1].copy()),
        ]
        for name in ("bitwise_and", "bitwise_or", "bitwise_xor")
    },
    **{
        name: [(lambda f, k: f(k, 2), COUNTS), (lambda f, a, b: f(a, b), COUNTS, COUNTS)]
        for name in ("left_shift", "right_shift", "bitwise_left_shift", "bitwise_right_shift")
    },
    "clip": [
        (lambda f, x: f(x, 0.4, 0.6), M),
        (lambda f, x: f(x, 0.5, None), M),
        (lambda f, x: f(x, None, 0.5), M),
        (lambda f, x: x.clip(0.5), M),
        (lambda f, x: x.clip(None, 0.5), M),
        (lambda f, x: f(x, None, None), M),
    ],
    "where": [(lambda f, a, b: f(B, a, b), M, N), (lambda f, a, b: f(a > b, a, 0.0), M, N)],
    "sort": [(lambda f, x: f(x), M), (lambda f, x: f(x, axis=0), T), (lambda f, x: f(x, axis=None), M)],
    "argsort": [(lambda f, x: f(x), M), (lambda f, x: f(x, axis=1), T)],
    "cumsum": [(lambda f, x: f(x), M), (lambda f, x: f(x, axis=0), M)],
    "diff": [(lambda f, x: f(x), M), (lambda f, x: f(x, 2, axis=0), M), (lambda f, x: f(x > 0.5), M)],
    "dot": [(lambda f, a, b: f(a, b), *p) for p in ((M, V), (V, V), (M, N.T), (T, V), (T, T.swapaxes(1, 2)), (V, 2.0))],
    "vdot": [(lambda f, a, b: f(a, b), M, N)],
    "inner": [(lambda f, a, b: f(a, b), *p) for p in ((V, V), (M, N), (M, V), (2.0, V))],
    "outer": [(lambda f, a, b: f(a, b), V, W), (lambda f, a, b: f(a, b), M, W)],
    "matmul": [(lambda f, a, b: f(a, b), *p) for p in ((M, V), (M, N.T), (T, N.T), (W, M))],
    "vecdot": [(lambda f, a, b: f(a, b), M, N), (lambda f, a, b: f(a, b), T, V)],
    "tensordot": [
        (lambda f, a, b: f(a, b), T, T.transpose(1, 2, 0)),
        (lambda f, a, b: f(a, b, axes=1), M, V),
        (lambda f, a, b: f(a, b, axes=((0, 2), (1, 0))), T, RNG.uniform(size=(4, 2, 3))),
        (lambda f, a, b: f(a, b, axes=0), V, W),
    ],
    "kron": [(lambda f, a, b: f(a, b), *p) for p in ((V, W), (M, N[:2]), (V, M))],
    "cross": [(lambda f, a, b: f(a, b), W, W[::-1].copy()), (lambda f, a, b: f(a, b, axis=0), M, N)],
    "trace": [(lambda f, x: f(x), M), (lambda f, x: f(x, 1), M), (lambda f, x: f(x, axis1=1, axis2=2), T)],
    "einsum": [
        (lambda f, a, b: f("ij,kj->ik", a, b), M, N),
        (lambda f, a: f("ij->ji", a), M),
        (lambda f, a: f("...ij->...", a), T),
        (lambda f, a, b: f("...j,j", a, b), T, V),
        (lambda f, a, b, c: f("ij,j,i->", a, b, c), M, V, W),
        (lambda f, a, b, c: f("tij,j,i->tj", a, b, c), T, V, W),
    ],
    "concatenate": [
        (lambda f, a, b: f([a, b]), M, N),
        (lambda f, a, b: f((a, b), axis=1), M, N[:, :2]),
        (lambda f, a, b: f([a, b], axis=None), M, V),
    ],
    "concat": [(lambda f, a, b: f([a, b]), M, N)],
    "stack": [(lambda f, a, b: f([a, b]), M, N), (lambda f, a, b: f([a, b], axis=-1), M, N)],
    "hstack": [
        (lambda f, a, b: f([a, b]), M, N),
        (lambda f, a, b: f([a, b]), V, W),
        (lambda f, a, b: f([a, b]), 1.0, V),
    ],
    "vstack": [(lambda f, a, b: f([a, b]), M, V)],
    "dstack": [(lambda f, a, b: f([a, b]), M, N)],
    "column_stack": [(lambda f, a, b: f([a, b]), M, W)],
    "append": [(lambda f, a, b: f(a, b), M, V), (lambda f, a, b: f(a, b, axis=0), M, N)],
    "split": [(lambda f, x: f(x, 2, axis=1)[1], M), (lambda f, x: f(x, [1, 3])[1], V)],
    "array_split": [(lambda f, x: f(x, 3)[0], V), (lambda f, x: f(x, [1], axis=1)[1], M)],
    "hsplit": [(lambda f, x: f(x, 2)[0], M), (lambda f, x: f(x, 2)[1], V)],
    "vsplit": [(lambda f, x: f(x, 3)[2], M)],
    "dsplit": [(lambda f, x: f(x, 2)[1], T)],
    "unstack": [(lambda f, x: f(x, axis=1)[2], M)],
    "moveaxis": [(lambda f, x: f(x, 0, -1), T), (lambda f, x: f(x, (0, 1), (2, 0)), T)],
    "rollaxis": [(lambda f, x: f(x, 2), T), (lambda f, x: f(x, 0, 3), T), (lambda f, x: f(x, 1, 2), T)],
    "transpose": [(lambda f, x: f(x), T), (lambda f, x: f(x, (1, 0, 2)), T)],
    "permute_dims": [(lambda f, x: f(x, (1, 0, 2)), T)],
    "matrix_transpose": [(lambda f, x: f(x), T)],
    "swapaxes": [(lambda f, x: f(x, 0, 2), T)],
    "fliplr": [(lambda f, x: f(x), M)],
    "flipud": [(lambda f, x: f(x), M)],
    "flip": [(lambda f, x: f(x), M), (lambda f, x: f(x, 1), M)],
    "rot90": [(lambda f, x, k=k: f(x, k), M) for k in (1, 2, 3, -1)],
    "roll": [(lambda f, x: f(x, 1), M), (lambda f, x: f(x, 2, axis=1), M)],
    "broadcast_to": [(lambda f, x: f(x, (3, 4)), V)],
    "broadcast_arrays": [(lambda f, a, b: f(a, b)[0], V, M)],
    "expand_dims": [(lambda f, x: f(x, 1), M)],
    "squeeze": [(lambda f, x: f(x), M[None])],
    "reshape": [(lambda f, x: f(x, (2, -1)), M)],
    "ravel": [(lambda f, x: f(x), M)],
    "tile": [(lambda f, x: f(x, (2, 2)), V)],
    "repeat": [(lambda f, x: f(x, 2, axis=0), M), (lambda f, x: f(x, 3), M)],
    "pad": [(lambda f, x: f(x, 1), M), (lambda f, x: f(x, ((1, 0), (0, 2)), mode="edge"), M)],
    "tril": [(lambda f, x: f(x), M)],
    "triu": [(lambda f, x: f(x, 1), M)],
    "diag": [(lambda f, x: f(x), V), (lambda f, x: f(x, -1), V), (lambda f, x: f(x, 1), M)],
    "diagonal": [(lambda f, x: f(x), M)],
    "atleast_1d": [(lambda f, x: f(x), x) for x in (2.0, V)],
    "atleast_2d": [(lambda f, x: f(x), x) for x in (2.0, V, M)],
    "atleast_3d": [(lambda f, x: f(x), x) for x in (2.0, V, M, T)],
    "take": [(lambda f, x: f(x, I), M), (lambda f, x: f(x, [2, 0], axis=0), M)],
    "take_along_axis": [(lambda f, x: f(x, I, axis=1), M), (lambda f, x: f(x, I[:, :1] - 3, axis=0), M)],
    "linspace": [(lambda f, a, b: f(a, b, 5), 0.5, 2.0), (lambda f, a, b: f(a, b, 3, endpoint=False), V, 2 * V)],
    "array": [(lambda f, a, b: f([[a, b], [b, 2.0]]), 1.0, 3.0), (lambda f, a: f([a, a]), V)],
    "asarray": [(lambda f, a: f(a, dtype="float32") * 1.0, V)],
    "asanyarray": [(lambda f, a: f(a), V)],
    "copy": [(lambda f, a: f(a), V)],
    "astype": [(lambda f, a: f(a, np.dtype("int64")), 5 * M)],
    "zeros_like": [(lambda f, a: f(a), M)],
    "ones_like": [(lambda f, a: f(a, dtype="int32"), M)],
    "empty_like": [(lambda f, a: f(a).shape, M)],
    "full_like": [(lambda f, a: f(a, 3), M)],
    "shape": [(lambda f, a: f(a), M)],
    "ndim": [(lambda f, a: f(a), M)],
    "size": [(lambda f, a: f(a), M), (lambda f, a: f(a, 1), M)],
    "result_type": [(lambda f, a: f(a, np.float32), M)],
    "allclose": [(lambda f, a, b: f(a, b), M, N), (lambda f, a, b: f(a, b), M, M + 1e-12)],
    "array_equal": [(lambda f, a, b: f(a, b), M, M)],
}
WEIGHTED = {
    "average": [
        (lambda f, x, w: f(x, weights=w), M, N),
        (lambda f, x, w: f(x, 0, weights=w), M, W),
        (lambda f, x, w: f(x, 1, weights=w, keepdims=True), M, N),
    ]
}
CALLS = {**CALLS, "average": CALLS["average"] + WEIGHTED["average"]}

SYMMETRIC = lambda a: a + a.swapaxes(-1, -2)  # noqa: E731
LINALG_CALLS = {
    "inv": [(lambda f, a: f(a), S)],
    "det": [(lambda f, a: f(a), S)],
    "slogdet": [(lambda f, a: f(a)[0], S), (lambda f, a: f(a)[1], S)],
    "cholesky": [(lambda f, a: f(SYMMETRIC(a)), S)],
    "eigh": [(lambda f, a, i=i: f(SYMMETRIC(a))[i], S) for i in (0, 1)],
    "eigvalsh": [(lambda f, a: f(SYMMETRIC(a)), S)],
    "svd": [(lambda f, a, i=i: f(a, full_matrices=False)[i], M) for i in (0, 1, 2)]
    + [(lambda f, a: f(a, compute_uv=False), S)],
    "svdvals": [(lambda f, a: f(a), M)],
    "solve": [
        (lambda f, a, b: f(a, b), S[0], W),
        (lambda f, a, b: f(a, b), S, M),
        (lambda f, a, b: f(a, b), S[0], S),
        (lambda f, a, b: f(a, b), S, W),
    ],
    "norm": [(lambda f, a: f(a), T), (lambda f, a: f(a, axis=1), T), (lambda f, a: f(a, "fro", (0, 1), True), T)]
    + [(lambda f, a, o=o: f(a, o), M) for o in ("fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf)]
    + [(lambda f, a, o=o: f(a, o), V) for o in (0, 1, 2, 3, 0.5, np.inf, -np.inf)]
    + [(lambda f, a: f(a, 1, (1, 2)), T), (lambda f, a: f(a, 2, (0, 2), keepdims=True), T)],
    "vector_norm": [(lambda f, a: f(a), M), (lambda f, a: f(a, axis=1, ord=3, keepdims=True), M)],
    "matrix_norm": [(lambda f, a: f(a), T), (lambda f, a: f(a, ord=1), T)],
    "matrix_power": [(lambda f, a, n=n: f(a, n), S[0]) for n in (-2, 0, 1, 2, 3, 5)],
    "matmul": [(lambda f, a, b: f(a, b), M, V)],
    "outer": [(lambda f, a, b: f(a, b), V, W)],
    "cross": [(lambda f, a, b: f(a, b), W, W[::-1].copy())],
    "vecdot": [(lambda f, a, b: f(a, b), M, N)],
    "tensordot": [(lambda f, a, b: f(a, b, axes=1), M, V)],
    "matrix_transpose": [(lambda f, a: f(a), T)],
    "trace": [(lambda f, a: f(a), T), (lambda f, a: f(a, offset=1), T)],
    "diagonal": [(lambda f, a: f(a), T)],
}
OFFERED = {name for name in EXPRESSIONS if hasattr(np, name)}
ROWS = [
    pytest.param(module, name, call, operands, id=f"{module}{name}-{i}")
    for module, table in (("", CALLS), ("linalg.", LINALG_CALLS))
    for name, calls in table.items()
    if hasattr(np.linalg if module else np, name)
    for i, (call, *operands) in enumerate(calls)
]


def function(namespace, module, name):
    return getattr(namespace.linalg if module else namespace, name)


def value(x):
    return x.numpy() if isinstance(x, lf.Expr) else x


@pytest.mark.parametrize(("module", "name", "call", "operands"), ROWS)
def test_expressions_and_arrays_give_what_numpy_gives(module, name, call, operands):
    want = call(function(np, module, name), *operands)
    ours = function(anp, module, name)
    given = call(ours, *operands)
    assert not isinstance(given, lf.Expr) and type(given) is type(want)
    got = call(ours, *(lf.constant(np.asarray(o)) for o in operands))
    if isinstance(want, np.ndarray | np.generic) and name not in ("zeros_like", "ones_like", "full_like", "allclose"):
        assert isinstance(got, lf.Expr)
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
    for x in (given, value(got)):
        np.testing.assert_allclose(x, want, rtol=1e-12, atol=1e-12) if not isinstance(want, np.dtype) else None
    assert not isinstance(want, np.dtype) or got == want


@pytest.mark.parametrize(("module", "name", "call", "operands"), ROWS)
def test_gradients_of_what_is_differentiable(module, name, call, operands):
    expressions = [lf.Parameter(x) if x.dtype.kind == "f" else lf.constant(x) for x in map(np.asarray, operands)]
    y = call(function(anp, module, name), *expressions)
    if isinstance(y, lf.Expr) and y.dtype == np.float64 and y.requires_grad and name not in ("floor_divide", "mod"):
        lf.check_grads(
            lambda *xs: call(function(anp, module, name), *xs),
            argnum=tuple(range(len(operands))),
            order=1,
            tolerance=1e-5,
        )(*(np.asarray(o) for o in operands))


POSITIONS = {
    **dict.fromkeys(("sum", "prod", "mean", "var", "std"), (I, 0, np.float64)),
    "nan_to_num": (np.array([np.nan, np.inf]), True, 7.0, 8.0),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_what_stands_at_a_position_is_what_numpy_has_there(name):
    operand, *rest = POSITIONS[name]
    got, want = getattr(anp, name)(lf.constant(operand), *rest).numpy(), getattr(np, name)(operand, *rest)
    np.testing.assert_allclose(got, want, rtol=1e-12, strict=True)


def test_every_function_has_a_row():
    assert set(CALLS) >= OFFERED
    assert {n for n in LINALG if hasattr(np.linalg, n)} <= set(LINALG_CALLS)
    assert all(hasattr(anp, name) for name in anp.__all__)


BAD = (
    ("unknown", lambda: anp.fft, AttributeError, "does not offer 'fft'; NumPy's own"),
    ("unknown in linalg", lambda: anp.linalg.pinv, AttributeError, "does not offer 'pinv'; it has"),
    ("no shape from values", lambda: anp.where(lf.constant(M) > 0.5), TypeError, "shape may not depend on values"),
    ("cross of pairs", lambda: anp.cross(lf.constant(V), V), lf.ShapeError, "vectors of three elements"),
    ("tensordot", lambda: anp.tensordot(lf.constant(M), V, ((0, 1), (0,))), lf.ShapeError, "2 axes of a and 1 of b"),
    ("einsum", lambda: anp.einsum("ij,jk", lf.constant(M)), lf.ShapeError, "names 2 operands, got 1"),
    ("axis", lambda: anp.moveaxis(lf.constant(M), 2, 0), lf.ShapeError, "axis 2 is out of range"),
    ("norm", lambda: anp.linalg.norm(lf.constant(M), 3), ValueError, "ord of a matrix is"),
    ("diag", lambda: anp.diag(lf.constant(T)), lf.ShapeError, "a vector or a matrix"),
    ("norm of three axes", lambda: anp.linalg.norm(lf.constant(T), 2), lf.ShapeError, "an axis must be named"),
    ("full svd", lambda: anp.linalg.svd(lf.constant(M)), lf.ShapeError, "pass full_matrices=False"),
)  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
