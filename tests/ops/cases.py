"""Rows for `lazyflow.ops.elementwise`, `reduce` and `loss`. References are NumPy and ``math``, on one example."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lazyflow.errors import DTypeError, ShapeError
from tests.ops import derived
from tests.ops.harness import Case, ErrorCase, Spec

INF = math.inf
ERF = np.vectorize(math.erf, otypes=[float])
LGAMMA = np.vectorize(math.lgamma, otypes=[float])


def x(*shape: int, dtype: str = "float64", **more: Any) -> Spec:
    return Spec(shape, dtype, **more)


def classes(n: int, *shape: int, dtype: str = "int64") -> Spec:
    return Spec(shape, dtype, 0, n)


BOOL = Spec((2, 3), "bool")
INT = Spec((2, 3), "int64", -4, 5)
SMALL = Spec((3,), "int8", 1, 5)
ODD = Spec((2, 4), choices=(-INF, INF, math.nan, 0.0, 1.0))
WIDE = Spec((50,), low=-700.0, high=700.0)
F16, F32 = (Spec((5,), t) for t in ("float16", "float32"))


# Elementwise, one operand: name, reference, domain. What has a row in `accuracy` alone is behind these.

UNARY: tuple[tuple[str, Callable[..., Any], tuple[float, float]], ...] = (
    ("negative", np.negative, (-2, 2)),
    ("reciprocal", lambda x: x**-1.0, (0.5, 2)),
    ("square", np.square, (-2, 2)),
    ("sqrt", np.sqrt, (0.2, 3)),
    ("abs", np.abs, (-2, 2)),
    ("sign", np.sign, (-2, 2)),
    ("floor", np.floor, (-3, 3)),
    ("ceil", np.ceil, (-3, 3)),
    ("round", np.round, (-3, 3)),
    ("exp", np.exp, (-2, 2)),
    ("expm1", np.expm1, (-2, 2)),
    ("log", np.log, (0.2, 3)),
    ("log1p", np.log1p, (-0.7, 3)),
    ("sin", np.sin, (-4, 4)),
    ("cos", np.cos, (-4, 4)),
    ("tan", np.tan, (-1.2, 1.2)),
    ("arcsin", np.arcsin, (-0.9, 0.9)),
    ("arccos", np.arccos, (-0.9, 0.9)),
    ("arctan", np.arctan, (-3, 3)),
    ("sinh", np.sinh, (-2, 2)),
    ("cosh", np.cosh, (-2, 2)),
    ("tanh", np.tanh, (-2, 2)),
    ("arcsinh", np.arcsinh, (-2, 2)),
    ("arccosh", np.arccosh, (1.2, 3)),
    ("arctanh", np.arctanh, (-0.9, 0.9)),
    ("erf", ERF, (-3, 3)),
    ("ndtr", lambda x: (1 + ERF(x / math.sqrt(2))) / 2, (-3, 3)),
    ("cbrt", np.cbrt, (0.2, 3)),
    ("exp2", np.exp2, (-2, 2)),
    ("log2", np.log2, (0.2, 3)),
    ("log10", np.log10, (0.2, 3)),
    ("deg2rad", np.deg2rad, (-90, 90)),
    ("rad2deg", np.rad2deg, (-2, 2)),
    ("sinc", np.sinc, (-3, 3)),
    ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), (-4, 4)),
    ("logsigmoid", lambda x: -np.log(1 + np.exp(-x)), (-4, 4)),
    ("softplus", lambda x: np.log(1 + np.exp(x)), (-4, 4)),
    ("softsign", lambda x: x / (1 + np.abs(x)), (-2, 2)),
    ("tanhshrink", lambda x: x - np.tanh(x), (-3, 3)),
    ("relu", lambda x: np.where(x < 0, np.zeros_like(x), x), (-2, 2)),
    ("selu", lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(x) - 1)), (-2, 2)),
    ("gelu", lambda x: x * (1 + ERF(x / math.sqrt(2))) / 2, (-3, 3)),
    ("gelu_tanh", lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2, (-3, 3)),
    ("silu", lambda x: x / (1 + np.exp(-x)), (-4, 4)),
)
UNARY += tuple((n, derived.reference(n, "y"), derived.domain(n)) for n in derived.names([name for name, *_ in UNARY]))

DIFFERENTIABLE = tuple(
    Case(name, (Spec(shape, low=low, high=high),), reference)
    for name, reference, (low, high) in UNARY
    for shape in ((), (2, 3), (1, 0))
)
STORED = tuple(
    Case(name, (Spec((4,), dtype, low, high),), reference, dtype=dtype, tolerance=tolerance)
    for name, reference, (low, high) in UNARY
    for dtype, tolerance in (("float32", 4e-6), ("float16", 3e-2 if name == "tan" else 8e-3))
)

# Far from zero, where the plain formulas overflow, cancel or lose everything.
EXTREME = (
    Case("sigmoid", (WIDE,), lambda x: np.exp(-np.logaddexp(0, -x))),
    Case("logsigmoid", (WIDE,), lambda x: -np.logaddexp(0, -x)),
    Case("softplus", (WIDE,), lambda x: np.logaddexp(0, x)),
    Case("softsign", (WIDE,), lambda x: x / (1 + np.abs(x))),
    Case("silu", (WIDE,), lambda x: x * np.exp(-np.logaddexp(0, -x)), tolerance=1e-10),
    Case(
        "selu",
        (WIDE,),
        lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))),
    ),
    Case("gelu", (x(40, low=-40, high=40),), lambda x: x * (1 + ERF(x / math.sqrt(2))) / 2),
    Case("erf", (x(400, low=-8, high=8),), ERF, tolerance=1e-15),
    Case("erf", (x(400, low=-1e-3, high=1e-3),), ERF, tolerance=1e-15),
    Case("erf", (x(400, dtype="float32", low=-8, high=8),), ERF, dtype="float32", tolerance=2.5e-7),
    Case("erf", (x(40, dtype="float16", low=-8, high=8),), ERF, dtype="float16", tolerance=1e-3),
    Case("erf", (Spec((9,), choices=(-INF, INF, math.nan, 0.0)),), ERF, gradient=False),
    Case("lgamma", (x(2, 3, low=0.05, high=12.0),), LGAMMA),
    Case("lgamma", (x(40, low=1.0, high=1e6),), LGAMMA, gradient=False),
    Case("lgamma", (x(40, dtype="float32", low=0.05, high=40.0),), LGAMMA, dtype="float32", tolerance=8e-6),
    Case("lgamma", (x(40, dtype="float16", low=0.2, high=12.0),), LGAMMA, dtype="float16", tolerance=8e-2),
    Case("lgamma", (Spec((7,), "int64", 1, 20),), LGAMMA),
    Case("tanh", (Spec((9,), choices=(-INF, INF, math.nan, 0.0)),), np.tanh, gradient=False),
)

# Integers and truth values: NumPy's own dtypes.
OTHER_DTYPES = (
    *(
        Case(n, (INT,), f)
        for n, f in (("negative", np.negative), ("abs", np.abs), ("sign", np.sign), ("square", np.square))
    ),
    *(
        Case(n, (INT,), f)
        for n, f in (("floor", np.floor), ("ceil", np.ceil), ("round", np.round), ("tanh", np.tanh), ("sin", np.sin))
    ),
    *(Case(n, (SMALL,), f, tolerance=4e-3) for n, f in (("exp", np.exp), ("sqrt", np.sqrt), ("log1p", np.log1p))),
    Case("relu", (INT,), lambda x: x * (x > 0)),
    Case("sigmoid", (INT,), lambda x: 1 / (1 + np.exp(-x))),
    Case("softplus", (INT,), lambda x: np.log(1 + np.exp(x))),
    Case("gelu", (INT,), lambda x: x * (1 + ERF(x / math.sqrt(2))) / 2),
    Case("erf", (INT,), ERF),
    Case("reciprocal", (SMALL,), lambda x: 1 / x),
    Case("abs", (BOOL,), lambda x: x),
    Case("exp", (BOOL,), np.exp, tolerance=4e-3),
    Case("logical_not", (BOOL,), lambda x: x ^ True),
    Case("logical_not", (INT,), lambda x: x == 0),
    Case("isfinite", (ODD,), np.vectorize(math.isfinite)),
    Case("isfinite", (INT,), lambda x: x == x),
    Case("isnan", (ODD,), lambda x: x != x),
    *(
        Case("astype", (x(2, 3),), lambda x, t=t: np.array(x, t), attrs={"dtype": t})
        for t in ("float64", "int32", "bool")
    ),
    Case("astype", (x(2, 3),), lambda x: np.array(x, "float32"), attrs={"dtype": "float32"}, gradient=False),
    *(
        Case("astype", (s,), lambda x: np.array(x, "float64"), attrs={"dtype": "float64"})
        for s in (BOOL, INT, F16, x())
    ),
)

KINKS = (
    Case("relu", (Spec((9,), choices=(-1.0, 0.0, 1.0)),), lambda x: np.clip(x, 0, None), gradient=False),
    Case("abs", (Spec((9,), choices=(-1.0, 0.0, 1.0)),), lambda x: np.sqrt(x * x), gradient=False),
    Case("maximum", (Spec((9,), choices=(-INF, 0.0, 1.0)),) * 2, np.maximum, gradient=False),
    Case("minimum", (Spec((9,), choices=(-INF, 0.0, 1.0)),) * 2, np.minimum, gradient=False),
)


# Elementwise, several operands: every way to broadcast.

BROADCASTS = (
    ((), ()),
    ((2, 3), (2, 3)),
    ((2, 3), (3,)),
    ((3,), (2, 3)),
    ((), (2, 3)),
    ((2, 1), (3,)),
    ((4, 1, 3), (2, 1)),
)
BINARY: tuple[tuple[str, Callable[..., Any], tuple[float, float]], ...] = (
    ("add", np.add, (-2, 2)),
    ("subtract", np.subtract, (-2, 2)),
    ("multiply", np.multiply, (-2, 2)),
    ("multiply_no_nan", np.multiply, (-2, 2)),
    ("multiply_or_zero", np.multiply, (-2, 2)),
    ("logaddexp", np.logaddexp, (-2, 2)),
    ("logaddexp2", np.logaddexp2, (-2, 2)),
    ("fmax", np.fmax, (-2, 2)),
    ("fmin", np.fmin, (-2, 2)),
    ("divide", np.divide, (0.5, 3)),
    ("floor_divide", np.floor_divide, (0.5, 3)),
    ("remainder", np.mod, (0.5, 3)),
    ("power", np.power, (0.3, 2)),
    ("hypot", np.hypot, (0.3, 2)),
    ("maximum", np.maximum, (-2, 2)),
    ("minimum", np.minimum, (-2, 2)),
)
COMPARISONS: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("equal", lambda a, b: a == b),
    ("not_equal", lambda a, b: a != b),
    ("less", lambda a, b: a < b),
    ("less_equal", lambda a, b: a <= b),
    ("greater", lambda a, b: a > b),
    ("greater_equal", lambda a, b: a >= b),
)
TWO_OPERANDS = (
    *(
        Case(n, (Spec(a, low=lo, high=hi), Spec(b, low=lo, high=hi)), f)
        for n, f, (lo, hi) in BINARY
        for a, b in BROADCASTS
    ),
    *(
        Case(n, (Spec((2, 3), t, lo, hi), Spec((3,), u, lo, hi)), f, tolerance=1e-2 if t == "float16" == u else 4e-6)
        for n, f, (lo, hi) in BINARY
        for t, u in (("float32", "float32"), ("float16", "float16"), ("float32", "float64"), ("float16", "float32"))
        if not (n in ("floor_divide", "remainder") and t == "float16" == u)
    ),
    *(
        Case(n, (Spec((2, 3), t, 1, 6), Spec((3,), u, 1, 6)), f)
        for n, f, _ in BINARY
        for t, u in (("int64", "int64"), ("int32", "float32"), ("int8", "int8"), ("uint8", "int16"))
    ),
    *(
        Case(n, (Spec((2, 3), t, 0, 3), Spec((3,), t, 0, 3, choices=(0, 1, 2))), f)
        for n, f in COMPARISONS
        for t in ("float64", "float32", "int64")
    ),
    *(Case(n, (BOOL, BOOL), f) for n, f in COMPARISONS),
    *(Case(n, (x(2, 3), x(2, 1)), f) for n, f in COMPARISONS),
    *(
        Case(n, (BOOL, Spec((3,), "bool")), f)
        for n, f in (("logical_and", np.bitwise_and), ("logical_or", np.bitwise_or))
    ),
    *(Case(n, (BOOL, INT), f) for n, f in (("logical_and", np.logical_and), ("logical_or", np.logical_or))),
    *(
        Case(n, (BOOL, BOOL), f)
        for n, f in (("add", np.bitwise_or), ("multiply", np.bitwise_and), ("maximum", np.bitwise_or))
    ),
    Case(
        "power",
        (x(6), Spec((6,), choices=(0.0, 1.0, 2.0, 3.0))),
        lambda a, b: np.array([u**v for u, v in zip(a, b, strict=True)]),
        gradient=False,
    ),
    Case("power", (Spec((6,), choices=(0.0,)), Spec((6,), choices=(2.0, 3.0))), np.power),
    Case("remainder", (x(2, 3, low=-9, high=9), x(3, low=-2, high=-1)), lambda a, b: a - b * np.floor(a / b)),
    *(
        Case(n, (Spec((2, 3), t, 0, 3), Spec((3,), t, 0, 3)), getattr(np, n))
        for n in ("bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift")
        for t in ("int64", "uint8")
    ),
    *(Case(n, (BOOL, Spec((3,), "bool")), getattr(np, n)) for n in ("bitwise_and", "bitwise_or", "bitwise_xor")),
    *(Case("invert", (spec,), np.invert) for spec in (INT, SMALL, BOOL)),
    Case("where", (BOOL, x(2, 3), x(3)), np.where),
    Case("where", (Spec((2, 1), "bool"), x(), x(3)), np.where),
    Case("where", (Spec((), "bool"), F32, F32), np.where),
    Case("where", (BOOL, INT, x(3, dtype="float32")), np.where),
    Case("where", (BOOL, INT, INT), np.where),
    Case("where", (BOOL, BOOL, BOOL), np.where),
)

PARAMETERS = (
    *(
        Case("leaky_relu", (x(2, 3), Spec(s, low=0.1, high=3)), lambda x, a: np.where(x > 0, x, a * x))
        for s in ((), (3,))
    ),
    *(
        Case("elu", (x(2, 3), Spec(s, low=0.1, high=3)), lambda x, a: np.where(x > 0, x, a * (np.exp(x) - 1)))
        for s in ((), (3,))
    ),
    Case("elu", (x(2, 3), Spec((), low=-3, high=-0.1)), lambda x, a: np.where(x > 0, x, a * (np.exp(x) - 1))),
    *(
        Case(
            "celu", (x(2, 3), Spec(s, low=low, high=low + 3)), lambda x, a: np.where(x > 0, x, a * (np.exp(x / a) - 1))
        )
        for s, low in (((), 0.3), ((3,), 0.3), ((), -3.3))
    ),
    *(
        Case(n, (x(4, 3), x(low=-1, high=-0.5), x(low=0.5, high=1)), lambda x, lo, hi: np.clip(x, lo, hi))
        for n in ("hardtanh", "clip")
    ),
    Case("leaky_relu", (F32, x(dtype="float32")), lambda x, a: np.maximum(x, 0) + a * np.minimum(x, 0)),
    Case("elu", (F32, x(dtype="float32")), lambda x, a: np.maximum(x, 0) + a * (np.exp(np.minimum(x, 0)) - 1)),
    Case("hardtanh", (F16, x(dtype="float16", low=-1, high=0), x(dtype="float16", low=0.5, high=1)), np.clip),
    Case("clip", (INT, Spec((), "int64", -2, -1), Spec((), "int64", 1, 2)), np.clip),
    Case("clip", (F32, x(dtype="float32", low=-1, high=0), x(dtype="float32", low=0.5, high=1)), np.clip),
)

ELEMENTWISE = (*DIFFERENTIABLE, *STORED, *EXTREME, *OTHER_DTYPES, *KINKS, *TWO_OPERANDS, *PARAMETERS)


# Reductions.

AXES: tuple[tuple[tuple[int, ...], Any, bool], ...] = (
    ((), None, False),
    ((4,), None, False),
    ((4,), 0, True),
    ((2, 3), None, False),
    ((2, 3), None, True),
    ((2, 3), 0, False),
    ((2, 3), 0, True),
    ((2, 3), -1, False),
    ((2, 3, 4), 1, False),
    ((2, 3, 4), (0, 2), False),
    ((2, 3, 4), (-1, 0), True),
    ((2, 3), (), False),
    ((1, 3), 0, False),
)


def reduced(
    name: str, reference: Callable[..., Any], axes: Any = AXES, dtype: str = "float64", **more: Any
) -> tuple[Case, ...]:
    """One row for each shape and axis, ``reference`` taking NumPy's arguments."""
    extreme = name in ("max", "min", "argmax", "argmin", "norm")
    spec: dict[str, Any] = {"distinct": True, "high": 2.7} if extreme and dtype != "bool" else {}
    return tuple(
        Case(
            name,
            (Spec(shape, dtype, **spec),),
            lambda x, a=axis, k=keepdims: reference(x, axis=a, keepdims=k),
            attrs={"axis": axis, "keepdims": keepdims, **more},
            tolerance={"float16": 1e-2, "float32": 4e-6}.get(dtype),
        )
        for shape, axis, keepdims in axes
    )


def _logsumexp(x: Any, axis: Any, keepdims: bool) -> Any:
    return np.log(np.exp(x).sum(axis=axis, keepdims=keepdims))


def _variance(x: Any, axis: Any, keepdims: bool, ddof: int = 0) -> Any:
    squares, n = (x * x).sum(axis=axis, keepdims=keepdims), x.size // max(1, x.sum(axis=axis).size)
    return (squares - x.sum(axis=axis, keepdims=keepdims) ** 2 / n) / (n - ddof)


def _norm(ord: float) -> Callable[..., Any]:
    power: dict[float, Callable[..., Any]] = {
        1: lambda x, **k: np.abs(x).sum(**k),
        2: lambda x, **k: (x**2).sum(**k) ** 0.5,
        INF: lambda x, **k: np.abs(x).max(**k),
    }
    return power[ord]


def _softmax(x: Any, axis: int = -1) -> Any:
    return np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)


def _standardised(x: Any, axis: Any = -1, eps: float = 1e-5) -> Any:
    off = x - x.mean(axis=axis, keepdims=True)
    return off / np.sqrt((off * off).mean(axis=axis, keepdims=True) + eps)


MANY = tuple(row for row in AXES if math.prod(row[0]) > 1 and row[1] != () and row[0] != (1, 3))
SOME = (((2, 3), None, False), ((2, 3), -1, True), ((2, 3, 4), (0, 2), False))
POSITIONS = tuple(row for row in AXES if row[1] is None or isinstance(row[1], int))
TIES = Spec((3, 4), choices=(-1.0, 0.0, 1.0))
MASKED = Spec((3, 4), choices=(-INF, 0.0, 1.0, 2.0))
BIG = Spec((3, 4), low=-800.0, high=800.0)

REDUCTIONS = (
    *(c for n in ("sum", "mean", "prod", "max", "min") for c in reduced(n, getattr(np, n))),
    *(
        c
        for n in ("sum", "mean", "max", "min")
        for t in ("float32", "float16")
        for c in reduced(n, getattr(np, n), SOME, t)
    ),
    *(
        c
        for n in ("sum", "prod", "max", "min")
        for t in ("int64", "int32", "bool")
        for c in reduced(n, getattr(np, n), SOME, t)
    ),
    *(c for n in ("mean", "var", "std") for t in ("int64", "bool") for c in reduced(n, getattr(np, n), SOME, t)),
    *(c for n in ("any", "all") for t in ("bool", "int64", "float64") for c in reduced(n, getattr(np, n), AXES, t)),
    *(c for n in ("argmax", "argmin") for t in ("float64", "int64") for c in reduced(n, getattr(np, n), POSITIONS, t)),
    *reduced("var", _variance, MANY),
    *reduced("var", lambda x, axis, keepdims: _variance(x, axis, keepdims, 1), MANY, ddof=1),
    *reduced("std", lambda x, axis, keepdims: _variance(x, axis, keepdims) ** 0.5, MANY),
    *reduced("std", lambda x, axis, keepdims: _variance(x, axis, keepdims, 1) ** 0.5, MANY, ddof=1),
    *(c for n in ("var", "std") for t in ("float32", "float16") for c in reduced(n, getattr(np, n), SOME, t)),
    *(c for o in (1, 2, INF) for c in reduced("norm", _norm(o), AXES, ord=o)),
    *(c for o in (1, 2, INF) for c in reduced("norm", _norm(o), SOME, "float32", ord=o)),
    *reduced("logsumexp", _logsumexp),
    *(c for t in ("float32", "float16") for c in reduced("logsumexp", _logsumexp, SOME, t)),
    Case("sum", (x(0, 3),), lambda x: np.zeros(3), attrs={"axis": 0}),
    Case("prod", (x(0, 3),), lambda x: np.ones(3), attrs={"axis": 0}),
    Case("prod", (Spec((3, 4), choices=(0.0, 1.0, 2.0, -3.0)),), lambda x: x.prod(1), attrs={"axis": 1}),
    Case("prod", (Spec((2, 2), choices=(0.0, 2.0)),), lambda x: x.prod(), attrs={}),
    *(Case(n, (TIES,), lambda x, n=n: getattr(x, n)(1), attrs={"axis": 1}, gradient=False) for n in ("max", "min")),
    *(Case(n, (TIES,), lambda x, n=n: getattr(x, n)(0), attrs={"axis": 0}) for n in ("argmax", "argmin")),
    Case("norm", (TIES,), lambda x: np.abs(x).max(1), attrs={"axis": 1, "ord": INF}, gradient=False),
    Case("max", (MASKED,), lambda x: x.max(1), attrs={"axis": 1}, gradient=False),
    Case("logsumexp", (BIG,), lambda x: np.logaddexp.reduce(x, 1), attrs={"axis": 1}),
    Case("logsumexp", (MASKED,), lambda x: np.logaddexp.reduce(x, None), gradient=False),
    *(
        Case(n, (Spec(s, t),), lambda x, f=f, a=a: f(x, a), attrs={"axis": a}, tolerance=tolerance)
        for n, f in (("softmax", _softmax), ("log_softmax", lambda x, a: np.log(_softmax(x, a))))
        for s, a in (((4,), -1), ((2, 3), 0), ((2, 3), 1), ((2, 3, 4), -2), ((2, 1), 1))
        for t, tolerance in (("float64", None), ("float32", 4e-6), ("float16", 1e-2))
    ),
    *(
        Case(
            "standardise",
            (Spec(s, t),),
            lambda x, a=a, eps=eps: _standardised(x.astype(float), a, eps).astype(x.dtype),
            attrs={"axis": a, "eps": eps},
            tolerance=tolerance,
        )
        for s, a, eps in (
            ((4,), -1, 1e-5),
            ((17, 3), 0, 1e-5),
            ((2, 3), 1, 0.1),
            ((2, 3, 4), (-2, -1), 1e-3),
            ((2, 3, 4), (0, 2), 1e-3),
            ((2, 35), 1, 0.0),
            ((3, 2), None, 1.0),
        )
        for t, tolerance in (("float64", None), ("float32", 2e-5), ("float16", 1e-2))
    ),
    Case("softmax", (BIG,), lambda x: np.exp(x - np.logaddexp.reduce(x, 1)[:, None])),
    Case("log_softmax", (BIG,), lambda x: x - np.logaddexp.reduce(x, 1)[:, None]),
    *(
        Case("cumsum", (Spec(s, t, -3, 4),), lambda x, a=a: np.cumsum(x, a), attrs={"axis": a}, tolerance=tolerance)
        for s, a in (((4,), 0), ((2, 3), 0), ((2, 3), -1), ((2, 3), None), ((), None), ((2, 3, 4), 1))
        for t, tolerance in (("float64", None), ("float32", 4e-6), ("int32", None), ("bool", None))
    ),
)

LISTS = tuple(
    Case(
        name,
        (Spec(shape, dtype, -3, 4),) * n,
        lambda *a, f=f: f(a, axis=0),
        tolerance={"float16": 1e-2, "float32": 4e-6}.get(dtype),
    )
    for name, f in (("sum_list", np.sum), ("mean_list", np.mean))
    for n, shape, dtype in (
        (1, (), "float64"),
        (4, (), "float64"),
        (3, (2, 3), "float64"),
        (40, (), "float32"),
        (3, (2,), "float32"),
        (3, (2,), "float16"),
        (3, (2,), "int32"),
        (3, (), "bool"),
    )
)


# Losses.


def _reduce(losses: Any, reduction: str) -> Any:
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()


def _rows(one: Callable[..., float]) -> Callable[..., Any]:
    """A loss of one row of scores and its class, applied to every row."""

    def all_rows(scores: Any, index: Any, reduction: str) -> Any:
        places = list(np.ndindex(index.shape))
        losses = np.array([one(scores[p], index[p]) for p in places], scores.dtype).reshape(index.shape)
        return scores.dtype.type(_reduce(losses, reduction)) if reduction != "none" else losses

    return all_rows


def _hinge(margin: float) -> Callable[..., Any]:
    return _rows(lambda s, i: sum(max(0.0, margin - s[i] + s[j]) for j in range(len(s)) if j != i))


CLASS_LOSSES: tuple[tuple[str, Callable[..., Any], dict[str, Any]], ...] = (
    ("cross_entropy", _rows(lambda s, i: -math.log(_softmax(s.astype(float))[i])), {}),
    ("nll", _rows(lambda s, i: -s[i]), {}),
    ("hinge", _hinge(1.0), {}),
    ("hinge", _hinge(0.3), {"margin": 0.3}),
)
REDUCED = ("mean", "sum", "none")
ELEMENT_LOSSES: tuple[tuple[str, Callable[..., Any], dict[str, Any]], ...] = (
    ("mse", lambda x, t: (x - t) ** 2, {}),
    (
        "bce_with_logits",
        lambda x, t: -t * np.log(1 / (1 + np.exp(-x))) - (1 - t) * np.log(1 - 1 / (1 + np.exp(-x))),
        {},
    ),
    ("huber", lambda x, t: np.where(abs(x - t) < 1, (x - t) ** 2 / 2, abs(x - t) - 0.5), {}),
    ("huber", lambda x, t: np.where(abs(x - t) < 0.4, (x - t) ** 2 / 2, 0.4 * (abs(x - t) - 0.2)), {"delta": 0.4}),
)

LOSSES = (
    *(
        Case(
            n,
            (x(*s, 5, dtype=t), classes(5, *s)),
            lambda a, i, f=f, r=r: f(a, i, r),
            {"reduction": r, **more},
            tolerance=tolerance,
        )
        for n, f, more in CLASS_LOSSES
        for s in ((), (3,), (2, 3))
        for r in REDUCED
        for t, tolerance in (("float64", None), ("float32", 4e-6))
    ),
    *(
        Case(
            n,
            (x(3, 5, dtype="float16"), classes(5, 3, dtype="uint8")),
            lambda a, i, f=f: f(a, i, "mean"),
            more,
            tolerance=1e-2,
        )
        for n, f, more in CLASS_LOSSES
    ),
    Case("cross_entropy", (x(1), classes(1)), lambda a, i: np.float64(0)),
    Case(
        "cross_entropy",
        (x(4, low=-900.0, high=900.0), classes(4, dtype="int32")),
        lambda a, i: np.logaddexp.reduce(a) - a[i],
    ),
    *(
        Case(
            "soft_cross_entropy",
            (x(*s, 4), x(*s, 4, low=0.0, high=1.0)),
            lambda a, p, r=r: _reduce(-(p * np.log(_softmax(a))).sum(-1), r),
            {"reduction": r},
        )
        for s in ((), (3,), (2, 3))
        for r in REDUCED
    ),
    *(
        Case(
            "soft_cross_entropy",
            (x(4, dtype=t), x(4, dtype=u)),
            lambda a, p: -(p * np.log(_softmax(a))).sum(),
            tolerance=tolerance,
        )
        for t, u, tolerance in (
            ("float32", "float32", 4e-6),
            ("float32", "float64", 4e-6),
            ("float16", "float16", 2e-2),
        )
    ),
    *(
        Case(n, (x(*s), x(*s, low=0.0, high=1.0)), lambda a, t, f=f, r=r: _reduce(f(a, t), r), {"reduction": r, **more})
        for n, f, more in ELEMENT_LOSSES
        for s in ((), (3,), (2, 3))
        for r in REDUCED
    ),
    *(
        Case(
            n,
            (x(3, dtype=t), x(3, dtype=u, low=0.0, high=1.0)),
            lambda a, t, f=f: f(a, t).mean(dtype=a.dtype),
            more,
            u,
            tolerance,
        )
        for n, f, more in ELEMENT_LOSSES
        for t, u, tolerance in (
            ("float32", "float32", 4e-6),
            ("float32", "float64", 4e-6),
            ("float16", "float16", 1e-2),
        )
    ),
    Case("bce_with_logits", (WIDE, x(50, low=0.0, high=1.0)), lambda a, t: (np.logaddexp(0, a) - a * t).mean()),
    *(
        Case(
            "binary_cross_entropy",
            (x(*s, low=0.05, high=0.95), x(*s, low=0.05, high=0.95)),
            lambda p, t, r=r: _reduce(-t * np.log(p) - (1 - t) * np.log(1 - p), r),
            {"reduction": r},
        )
        for s in ((), (3,), (2, 3))
        for r in REDUCED
    ),
    Case("mse", (x(3), Spec((3,), "int64", -3, 4)), lambda a, t: ((a - t) ** 2).mean()),
)

# A cotangent times a number: with 1 it is the derivative; that the number counts is tested in
# tests/functions/test_elementwise.py.
SCALED = tuple(
    Case("scale_gradient", (x(*shape, dtype=t), Spec((), choices=(1.0,))), lambda a, scale: a)
    for shape in ((), (2, 3))
    for t in ("float64", "float32")
)

CASES = (*SCALED, *ELEMENTWISE, *REDUCTIONS, *LISTS, *LOSSES)


# What is refused.


def error(
    op: str, operands: tuple[Spec, ...], message: str, error: type[Exception] = ShapeError, **attrs: Any
) -> ErrorCase:
    return ErrorCase(op, operands, error, message, attrs)


NAMED = tuple(dict.fromkeys(c.op for c in ELEMENTWISE))
ARITY = {c.op: len(c.operands) for c in ELEMENTWISE}
TEXT = Spec((3,), "U3")
AXIS_OPS = ("sum", "mean", "prod", "max", "min", "any", "all", "var", "std", "norm", "logsumexp", "standardise")
FLOATING_OPS = ("norm", "logsumexp", "softmax", "log_softmax", "standardise")
NONE_OPS = ("mean", "max", "min", "var", "std", "logsumexp", "argmax", "argmin", "standardise")
CLASS_OPS = ("cross_entropy", "nll", "hinge")
PAIR_OPS = ("soft_cross_entropy", "mse", "bce_with_logits", "binary_cross_entropy", "huber")

ERRORS = (
    *(error(n, (x(3), x(2), x(1))[: ARITY[n]], r"do not broadcast; aligned") for n in NAMED if ARITY[n] == 2),
    *(error(n, (x(3), x(2), x(1)), r"\(3,\) and \(2,\) and \(1,\) do not broadcast") for n in ("clip", "hardtanh")),
    error("where", (BOOL, x(3), x(2)), r"\(2, 3\) and \(3,\) and \(2,\) do not broadcast"),
    *(
        error(n, (TEXT,) * ARITY[n], rf"{n} does not take .* <U3: .*convert with \.astype", DTypeError)
        for n in NAMED
        if n not in ("astype", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
        and n not in ("logical_not", "logical_and", "logical_or", "maximum", "minimum", "add")
    ),
    *(error(n, (BOOL,), rf"{n} does not take x bool", DTypeError) for n in ("negative", "sign", "logsigmoid")),
    error("subtract", (BOOL, BOOL), "subtract does not take a bool, b bool", DTypeError),
    error("where", (x(3), x(3), x(3)), "condition must be bool", DTypeError),
    *(error(n, (x(3),) * (ARITY[n] + 1), rf"{n} takes {ARITY[n]} operands", TypeError) for n in NAMED if n != "astype"),
    error("astype", (x(3),), "bool, integer or floating, not complex64", DTypeError, dtype="complex64"),
    *(error(n, (x(2, 3),), rf"{n}: axis 2 is out of range", axis=2) for n in (*AXIS_OPS, "argmax", "argmin", "cumsum")),
    *(error(n, (x(2, 3),), rf"{n}: axis -3 is out of range", axis=-3) for n in ("softmax", "log_softmax")),
    *(error(n, (x(2, 3),), "names an axis twice", axis=(0, -2)) for n in AXIS_OPS),
    *(error(n, (x(2, 3),), "takes one axis", axis=(0, 1)) for n in ("argmax", "argmin", "cumsum")),
    *(error(n, (x(),), "out of range for an operand of 0 axes") for n in ("softmax", "log_softmax")),
    *(error(n, (INT,), rf"{n} takes floating numbers, got int64", DTypeError) for n in FLOATING_OPS),
    *(error(n, (x(0, 3),), rf"{n} of no elements", axis=0) for n in (*NONE_OPS, "softmax", "log_softmax")),
    error(
        "norm",
        (
            x(
                0,
            ),
        ),
        "norm of no elements",
        ord=INF,
    ),
    error("norm", (x(3),), "ord must be 1, 2 or inf, got 3", ValueError, ord=3),
    *(error(n, (x(2, 3),), "2 elements need a smaller ddof than 2", axis=0, ddof=2) for n in ("var", "std")),
    *(error(n, (), f"{n} needs at least one operand") for n in ("sum_list", "mean_list")),
    *(
        error(n, (x(3), x(2)), rf"{n} needs operands of one shape, got \(2,\) and \(3,\)")
        for n in ("sum_list", "mean_list")
    ),
    *(error(n, (x(3), x(3), x(3, dtype="float32")), "one dtype", DTypeError) for n in ("sum_list", "mean_list")),
    *(error(n, (x(3, 5), classes(5, 2)), r"need indices of shape \(3,\), got \(2,\)") for n in CLASS_OPS),
    *(error(n, (x(), classes(5)), r"at least one class") for n in CLASS_OPS),
    *(error(n, (x(3, 0), classes(5, 3)), r"at least one class") for n in CLASS_OPS),
    *(error(n, (x(5), x()), r"index must be an integer, got float64", DTypeError) for n in CLASS_OPS),
    *(error(n, (Spec((5,), "int64"), classes(5)), r"takes floating numbers", DTypeError) for n in CLASS_OPS),
    *(
        error(n, (x(5), classes(5)), "reduction must be one of mean, sum, none", ValueError, reduction="all")
        for n in CLASS_OPS
    ),
    *(error(n, (x(0, 5), classes(5, 0)), "the mean of no losses") for n in CLASS_OPS),
    *(error(n, (x(5), x(4)), rf"{n} takes two operands of one shape, got \(5,\) and \(4,\)") for n in PAIR_OPS),
    *(error(n, (INT, INT), rf"{n} takes floating numbers, got int64 and int64", DTypeError) for n in PAIR_OPS),
    *(error(n, (x(5), x(5)), "reduction must be one of", ValueError, reduction="max") for n in PAIR_OPS),
    *(error(n, (x(0, 5), x(0, 5)), "the mean of no losses") for n in PAIR_OPS),
    error("soft_cross_entropy", (x(), x()), "at least one class"),
    error("scale_gradient", (x(3), x(3)), r"one number as the scale, of shape \(\), got shape \(3,\)"),
    error("scale_gradient", (INT, x()), "takes floating numbers, got int64", DTypeError),
    error("huber", (x(5), x(5)), "delta must be positive, got 0", ValueError, delta=0),
)
