"""Rows for products, shapes, indexing and random numbers: `lazyflow.ops.linalg`, `shape`, `index` and `random`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lazyflow.errors import DTypeError, ShapeError
from tests.ops.harness import Case, ErrorCase, Spec

F32, F16, INT = "float32", "float16", "int64"


def x(*shape: int, dtype: str = "float64") -> Spec:
    return Spec(shape, dtype)


def index(n: int, *shape: int, dtype: str = INT, low: int = 0) -> Spec:
    return Spec(shape, dtype, low, n)


def product(*shapes: tuple[int, ...]) -> Case:
    return Case("matmul", tuple(x(*s) for s in shapes), np.matmul)


MATMUL = (
    product((2, 3), (3,)),
    product((3,), (3, 4)),
    product((3,), (3,)),
    product((2, 3), (3, 4)),
    product((1, 3), (3, 4)),
    product((2, 1), (1, 4)),
    product((2, 3), (3, 1)),
    product((5, 2, 3), (3,)),
    product((5, 2, 3), (3, 4)),
    product((3,), (5, 3, 4)),
    product((2, 3), (5, 3, 4)),
    product((5, 2, 3), (5, 3, 4)),
    product((5, 2, 3), (1, 3, 4)),
    product((1, 2, 3), (5, 3, 4)),
    product((6, 1, 2, 3), (5, 3, 4)),
    product((1, 5, 2, 3), (6, 1, 3, 4)),
    product((0, 3), (3, 2)),
    product((2, 0), (0, 3)),
    product((40, 70), (70, 3)),
    Case("matmul", (x(2, 3, dtype=F32), x(3, dtype=F32)), np.matmul),
    Case("matmul", (x(2, 3, dtype=F32), x(3)), np.matmul),
    Case("matmul", (x(2, 3, dtype=F16), x(3, dtype=F16)), np.matmul, tolerance=1e-2),
    Case("matmul", (index(9, 2, 3), index(9, 3)), np.matmul),
    Case("matmul", (index(9, 2, 3, dtype="int32"), x(3, dtype=F32)), np.matmul),
)


def affine(
    W: tuple[int, ...], b: tuple[int, ...], v: tuple[int, ...], *dtypes: str, tolerance: float | None = None
) -> Case:
    operands = tuple(Spec(shape, dtype) for shape, dtype in zip((W, b, v), dtypes or ("float64",) * 3, strict=True))
    return Case("affine", operands, lambda W, b, v: np.einsum("mk,...k->...m", W, v) + b, tolerance=tolerance)


AFFINE = (
    affine((2, 3), (2,), (3,)),
    affine((2, 3), (2,), (4, 3)),
    affine((2, 3), (2,), (5, 4, 3)),
    affine((2, 3), (2,), (1, 3)),
    affine((1, 1), (1,), (1,)),
    affine((2, 0), (2,), (0,)),
    affine((2, 3), (2,), (40, 3)),
    affine((2, 3), (2,), (3,), F32, F32, F32),
    affine((2, 3), (2,), (3,), F32, "float64", F32, tolerance=2e-6),
    affine((2, 3), (2,), (3,), F16, F16, F16, tolerance=1e-2),
)

EINSUM = tuple(
    Case(op, (x(*a), x(*b)), lambda a, b, s=subscripts: np.einsum(s, a, b), attrs={"subscripts": subscripts})
    for op in ("einsum", "einsum_or_zero")
    for subscripts, a, b in (
        ("ij,jk->ik", (2, 3), (3, 4)),
        ("ij,jk", (2, 3), (3, 4)),
        ("ij,jk->ki", (2, 3), (3, 4)),
        ("i,i", (3,), (3,)),
        ("i,i->i", (3,), (3,)),
        ("i,j->ji", (3,), (2,)),
        (",->", (), ()),
        (",i->i", (), (3,)),
        ("ij,->", (2, 3), ()),
        ("ij,k->k", (2, 3), (4,)),
        ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
        ("abc,cbd->adb", (2, 3, 4), (4, 3, 5)),
        ("abcd,cdba->", (2, 3, 4, 5), (4, 5, 3, 2)),
        ("abcd,dc->ba", (2, 3, 4, 5), (5, 4)),
        ("ii,i->i", (3, 3), (3,)),
        ("ii,jj->ij", (3, 3), (2, 2)),
        ("iij,jk->ik", (3, 3, 2), (2, 4)),
        ("iji,kj->", (2, 3, 2), (4, 3)),
        (" z a , Z a -> Z z ", (2, 3), (4, 3)),
    )
)  # fmt: skip

PRODUCTS = (
    Case("dot", (x(3), x(3)), np.dot),
    Case("dot", (x(1), x(1)), np.dot),
    Case("dot", (x(3, dtype=F16), x(3, dtype=F16)), np.dot, tolerance=1e-2),
    Case("outer", (x(3), x(2)), np.outer),
    Case("outer", (x(3, dtype=F32), x(2)), np.outer),
    Case("bilinear", (x(3), x(2, 3, 4), x(4)), lambda a, W, b: np.array([a @ M @ b for M in W])),
    Case("bilinear", (x(3), x(2, 3, 4), x(4), x(2)), lambda a, W, b, c: np.array([a @ M @ b for M in W]) + c),
    Case("bilinear", (x(1), x(1, 1, 1), x(1)), lambda a, W, b: np.array([a @ M @ b for M in W])),
)

Reference = Callable[..., Any]


def unary(op: str, shape: tuple[int, ...], reference: Reference, /, **attrs: Any) -> Case:
    return Case(op, (x(*shape),), reference, attrs)


def numpys(op: str, shape: tuple[int, ...], /, **attrs: Any) -> Case:
    """A row whose reference is the NumPy function of the same name and attributes."""
    return unary(op, shape, lambda v: getattr(np, op)(v, **attrs), **attrs)


JOINS = (
    *(
        Case("concatenate", tuple(x(*s) for s in shapes), lambda *v, axis=axis: np.concatenate(v, axis), {"axis": axis})
        for axis, shapes in (
            (0, ((2,), (3,), (1,))),
            (0, ((2, 3), (1, 3))),
            (1, ((2, 3), (2, 1), (2, 3))),
            (-1, ((2, 2, 3), (2, 2, 4))),
            (0, ((2,),)),
            (0, ((0,), (2,))),
        )
    ),
    Case("concatenate", (x(2, dtype=F32), x(3)), lambda *v: np.concatenate(v)),
    *(
        Case(op, (x(*shape),) * count, lambda *v, f=f, a=attrs: f(v, **a), attrs)
        for op, f, shape, count, attrs in (
            ("concatenate_same", np.concatenate, (2,), 3, {"axis": 0}),
            ("concatenate_same", np.concatenate, (2, 3), 2, {"axis": 1}),
            ("concatenate_same", np.concatenate, (2, 3, 4), 3, {"axis": -2}),
            ("concatenate_rows", np.concatenate, (2,), 3, {}),
            ("concatenate_rows", np.concatenate, (2, 3), 2, {}),
            ("stack", np.stack, (), 3, {"axis": 0}),
            ("stack", np.stack, (2, 3), 2, {"axis": 0}),
            ("stack", np.stack, (2, 3), 2, {"axis": 1}),
            ("stack", np.stack, (2, 3), 4, {"axis": -1}),
            ("stack_rows", np.stack, (), 3, {}),
            ("stack_rows", np.stack, (2, 3), 1, {}),
        )
    ),
)

PADS = ((1, 2), (0, 3))


def reshaped(shape: tuple[int, ...], to: Any) -> Case:
    return unary("reshape", shape, lambda v: v.reshape(to), shape=to)


MOVES = (
    reshaped((2, 3), (3, 2)),
    reshaped((2, 3), (-1,)),
    reshaped((2, 3), 6),
    reshaped((1, 1), ()),
    reshaped((), (1, 1)),
    reshaped((0, 3), (-1, 3)),
    numpys("transpose", (2, 3, 4)),
    numpys("transpose", (2, 3, 4), axes=(1, 2, 0)),
    numpys("transpose", (2, 3, 4), axes=(0, -1, 1)),
    numpys("transpose", (3,)),
    numpys("swapaxes", (2, 3, 4), axis1=0, axis2=-1),
    numpys("swapaxes", (2, 3), axis1=1, axis2=1),
    numpys("expand_dims", (2, 3), axis=0),
    numpys("expand_dims", (2, 3), axis=(1, -1)),
    numpys("expand_dims", (), axis=0),
    numpys("squeeze", (1, 3, 1)),
    numpys("squeeze", (1, 3, 1), axis=-1),
    numpys("squeeze", (1, 1), axis=(0, 1)),
    numpys("squeeze", (2, 3)),
    numpys("flip", (2, 3)),
    numpys("flip", (2, 3), axis=1),
    numpys("flip", (2, 3, 2), axis=(0, -1)),
    numpys("roll", (2, 3), shift=2),
    numpys("roll", (2, 3), shift=-1, axis=1),
    numpys("roll", (2, 3), shift=(1, 2), axis=(0, 1)),
    numpys("tril", (3, 4)),
    numpys("tril", (3, 4), k=1),
    numpys("triu", (2, 3, 4), k=-1),
    numpys("diagonal", (3, 3)),
    numpys("diagonal", (3, 4), offset=2),
    numpys("diagonal", (3, 4), offset=-1),
    numpys("diagonal", (2, 3, 4), axis1=-1, axis2=1),
    unary("identity", (2, 3), lambda v: v),
    unary("detach", (2, 3), lambda v: v),
    Case("identity", (index(9, 2),), lambda v: v),
    numpys("broadcast_to", (3,), shape=(2, 3)),
    numpys("broadcast_to", (2, 1), shape=(4, 2, 3)),
    numpys("broadcast_to", (), shape=3),
    numpys("repeat", (2, 3), repeats=2, axis=0),
    numpys("repeat", (2, 3), repeats=3, axis=-1),
    numpys("repeat", (2, 3), repeats=0, axis=0),
    numpys("tile", (2, 3), reps=2),
    numpys("tile", (2, 3), reps=(2, 1)),
    numpys("tile", (3,), reps=(2, 2)),
    numpys("pad", (2, 3), pad_width=1),
    unary("pad", (2, 3), lambda v: np.pad(v, PADS, constant_values=1.5), pad_width=PADS, constant_value=1.5),
    numpys("pad", (3,), pad_width=(2, 1), mode="constant"),
    numpys("pad", (2, 3), pad_width=((0, 2), (3, 1)), mode="edge"),
    numpys("pad", (3, 4), pad_width=((1, 2), (3, 1)), mode="reflect"),
    numpys("pad", (3,), pad_width=(7, 5), mode="reflect"),
    numpys("pad", (1,), pad_width=(2, 2), mode="reflect"),
    numpys("pad", (3, 4), pad_width=((1, 2), (3, 1)), mode="symmetric"),
    numpys("pad", (3,), pad_width=(7, 5), mode="symmetric"),
    numpys("pad", (1,), pad_width=(2, 2), mode="symmetric"),
    numpys("pad", (3, 4), pad_width=((1, 2), (3, 1)), mode="wrap"),
    numpys("pad", (3,), pad_width=(7, 5), mode="wrap"),
)


def sliced(part: Any) -> Any:
    return slice(*part[1:]) if isinstance(part, tuple) else part


SLICES = tuple(
    unary("getitem", shape, lambda v, key=key: v[tuple(map(sliced, key)) if isinstance(key, tuple) else key], key=key)
    for shape, key in (
        ((4, 3), 1),
        ((4, 3), -1),
        ((4, 3), (("slice", 1, 3, None),)),
        ((4, 3), (("slice", None, None, -1), 2)),
        ((4, 3), (("slice", -2, None, None), None, ("slice", 0, 10, 2))),
        ((4, 3, 2), (Ellipsis, 0)),
        ((4, 3, 2), (1, Ellipsis, ("slice", 1, None, None))),
        ((4, 3, 2), (None, 0, 1, 1)),
        ((4, 3), ()),
        ((4, 3), (Ellipsis,)),
        ((4,), (("slice", 3, 1, None),)),
        ((5,), (("slice", 4, 0, -2),)),
        ((), (None,)),
    )
)


def take(shape: tuple[int, ...], of: tuple[int, ...], axis: int, dtype: str = INT, low: int = 0) -> Case:
    operands = x(*shape), index(min(shape[axis], 100), *of, dtype=dtype, low=low)
    return Case("take", operands, lambda v, i: np.take(v, i, axis), {"axis": axis})


INDEXING = (
    Case("lookup", (x(5, 3), index(5)), lambda t, i: t[i]),
    Case("lookup", (x(5, 3), index(5, 4, low=0)), lambda t, i: t[i]),
    Case("lookup", (x(5), index(5, 2, 3)), lambda t, i: t[i]),
    Case("lookup", (x(5, 2, 3), index(5, 20)), lambda t, i: t[i]),
    Case("lookup", (x(300, 20), index(3, 40, dtype="uint64")), lambda t, i: t[i]),
    Case("lookup", (index(9, 5, 3), index(5)), lambda t, i: t[i]),
    take((5,), (), 0),
    take((5,), (3,), 0, "int32", low=-5),
    take((5, 3), (4,), 0, "int8"),
    take((5, 3), (4,), 1),
    take((5, 3), (), 1, low=-3),
    take((2, 5, 3), (2, 2), 1),
    take((2, 5, 3), (6,), -1, "uint8"),
    take((200, 20), (4,), 0, "int8"),
    Case("pick", (x(5), index(5)), lambda v, i: v[i]),
    Case("pick", (x(2, 5), index(5, low=-5)), lambda v, i: v[..., i]),
    Case("pick", (x(5, 3), index(5)), lambda v, i: v[i], {"axis": 0}),
    Case("pick", (x(2, 5, 3), index(5)), lambda v, i: v[:, i], {"axis": 1}),
    Case("one_hot", (index(4),), lambda i: np.eye(4, dtype=F32)[i], {"n": 4}),
    Case("one_hot", (index(4, 2, 3),), lambda i: np.eye(4)[i], {"n": 4, "dtype": "float64"}),
    Case("one_hot", (index(4, 2),), lambda i: np.eye(4, dtype=bool)[i], {"n": 4, "dtype": "bool"}),
)  # fmt: skip

# Random numbers against SplitMix64 in plain Python integers.


def splitmix(state: int) -> int:
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
    return state ^ state >> 31


def splitmix_words(seed: int, counter: int, count: int) -> list[int]:
    gamma = 0x9E3779B97F4A7C15
    key = splitmix((splitmix(int(seed) % 2**64) + int(counter) * gamma) % 2**64)
    return [splitmix((key + i * gamma) % 2**64) for i in range(1, count + 1)]


def halves(seed: int, counter: int, count: int) -> list[int]:
    return [half for word in splitmix_words(seed, counter, count) for half in (word % 2**32, word >> 32)][:count]


def fractions(dtype: str, seed: int, counter: int, count: int) -> list[float]:
    """Numbers in [0, 1) with as many bits as ``dtype`` holds."""
    if dtype == "float64":
        return [(word >> 11) / 2**53 for word in splitmix_words(seed, counter, count)]
    bits = {F32: 24, F16: 11}[dtype]
    return [(half >> (32 - bits)) / 2**bits for half in halves(seed, counter, count)]


def normals(dtype: str, seed: int, counter: int, count: int) -> list[float]:
    draws, bits = (halves, 32) if dtype != "float64" else (lambda *a: [w >> 11 for w in splitmix_words(*a)], 53)
    u = [draw / 2**bits for draw in draws(seed, counter, count + count % 2)]
    pairs = [(math.sqrt(-2 * math.log(a + 2**-bits)), 2 * math.pi * b) for a, b in zip(u[::2], u[1::2], strict=True)]
    return [r * f(angle) for r, angle in pairs for f in (math.cos, math.sin)][:count]


def random_reference(op: str, dtype: str, shape: tuple[int, ...]) -> Callable[..., Any]:
    def reference(seed: int, counter: int, *params: float) -> Any:
        count = math.prod(shape)
        if op == "normal":
            values = [z * params[1] + params[0] for z in normals(dtype, seed, counter, count)]
        elif op == "gumbel":
            u = [((word >> 12) + 0.5) / 2**52 for word in splitmix_words(seed, counter, count)]
            values = [params[0] - params[1] * math.log(-math.log(v)) for v in u]
        elif op == "uniform":
            values = [params[0] + u * (params[1] - params[0]) for u in fractions(dtype, seed, counter, count)]
        else:
            p = params[0] if op == "bernoulli" else 1 - params[0]
            hit = [(half >> 8) < round(p * 2**24) for half in halves(seed, counter, count)]
            values = [h / p if op == "dropout_mask" and h else float(h) for h in hit]
        return np.array(values).reshape(shape).astype(dtype)

    return reference


def random_case(op: str, params: tuple[Spec, ...], shape: tuple[int, ...], dtype: str, tolerance: float) -> Case:
    operands = (Spec((), INT, -9, 2**62), Spec((), INT, 0, 1000), *params)
    return Case(op, operands, random_reference(op, dtype, shape), {"shape": shape, "dtype": dtype}, tolerance=tolerance)


RANDOM = tuple(
    random_case(op, params, shape, dtype, tolerance)
    for op, params in (
        ("uniform", (Spec((), low=-3, high=-1), Spec((), low=1, high=3))),
        ("normal", (Spec((), low=-3, high=3), Spec((), low=1, high=2))),
        ("gumbel", (Spec((), low=-3, high=3), Spec((), low=1, high=2))),
        ("bernoulli", (Spec((), choices=(0.0, 0.3, 1.0)),)),
        ("dropout_mask", (Spec((), choices=(0.0, 0.3, 1.0)),)),
    )
    for shape, dtype, tolerance in (((5,), F32, 2e-5), ((2, 3), "float64", 1e-12), ((), F16, 1e-2), ((0,), F32, 1e-6))
)

CASES = (*MATMUL, *AFFINE, *EINSUM, *PRODUCTS, *JOINS, *MOVES, *SLICES, *INDEXING, *RANDOM)


def error(
    op: str, operands: tuple[Spec, ...], message: str, kind: type[Exception] = ShapeError, /, **attrs: Any
) -> ErrorCase:
    return ErrorCase(op, operands, kind, message, attrs)


def types(op: str, operands: tuple[Spec, ...], message: str, /, **attrs: Any) -> ErrorCase:
    return error(op, operands, message, DTypeError, **attrs)


BOOLEAN = Spec((3,), "bool")
SCALARS = (x(dtype=INT), x(dtype=INT))

ERRORS = (
    error("matmul", (x(), x(3)), "left operand is a scalar"),
    error("matmul", (x(3), x()), "right operand is a scalar"),
    error("matmul", (x(2, 3), x(2)), r"\(2, 3\) @ \(2,\) sums over 3 and 2"),
    error("matmul", (x(2, 2, 3), x(5, 3, 1)), "do not broadcast"),
    types("matmul", (x(2, 3), BOOLEAN), "matmul takes numbers, got bool"),
    error("dot", (x(3), x(4)), "two vectors of one length"),
    error("dot", (x(3, 1), x(3, 1)), "two vectors of one length"),
    types("dot", (BOOLEAN, BOOLEAN), "got bool"),
    error("outer", (x(3), x(2, 2)), "two vectors"),
    types("outer", (x(3), BOOLEAN), "got bool"),
    error("affine", (x(2, 3), x(3), x(3)), r"b \(3,\)"),
    error("affine", (x(2, 3), x(2), x(2)), r"x \(2,\)"),
    error("affine", (x(3), x(2), x(3)), r"W \(3,\)"),
    error("affine", (x(2, 3), x(2), x()), r"x \(\)"),
    types("affine", (x(2, 3), x(2), BOOLEAN), "got bool"),
    error("einsum", (x(3), x(3)), "two operands", subscripts="i->i"),
    error("einsum_or_zero", (x(3), x(3)), "two operands", subscripts="i->i"),
    error("einsum", (x(3), x(3)), "by letters", subscripts="...i,i"),
    error("einsum", (x(3), x(3)), "'k' in an operand", subscripts="i,i->k"),
    error("einsum", (x(3), x(3)), "'i' in an operand, and once", subscripts="i,i->ii"),
    error("einsum", (x(3), x(3)), "names 2 axes, 'ij'", subscripts="ij,i"),
    error("einsum", (x(3), x(4)), "'i' of 'i,i' is both 3 and 4", subscripts="i,i"),
    types("einsum", (x(3), BOOLEAN), "got bool", subscripts="i,i"),
    error("bilinear", (x(3), x(2, 3, 4), x(3)), r"y \(3,\)"),
    error("bilinear", (x(3), x(2, 3, 4), x(4), x(3)), r"b \(3,\)"),
    types("bilinear", (BOOLEAN, x(2, 3, 4), x(4)), "got bool"),
    error("concatenate", (), "at least one operand"),
    error("concatenate", (x(), x()), "use stack"),
    error("concatenate", (x(2, 3), x(3, 2)), "equal except along axis 0"),
    error("concatenate", (x(2), x(3)), "axis 1 is out of range", axis=1),
    error("concatenate_same", (x(2), x(3)), "one shape"),
    types("concatenate_same", (x(2), x(2, dtype=F32)), "one dtype"),
    error("concatenate_rows", (x(), x()), "use stack"),
    error("stack", (), "at least one operand"),
    error("stack", (x(2), x(3)), "one shape"),
    error("stack", (x(2), x(2)), "axis 2 is out of range", axis=2),
    types("stack_rows", (x(2), x(2, dtype=F32)), "one dtype"),
    error("reshape", (x(2, 3),), "6 elements", shape=(4, 2)),
    error("reshape", (x(2, 3),), "at most one size may be -1", shape=(-1, -1)),
    error("reshape", (x(2, 3),), "6 elements", shape=(-1, 4)),
    error("reshape", (x(2, 3),), "must be an integer", TypeError, shape=(2.0, 3.0)),
    error("transpose", (x(2, 3),), "each of the 2 axes", axes=(0, 0)),
    error("transpose", (x(2, 3),), "each of the 2 axes", axes=(0,)),
    error("swapaxes", (x(2, 3),), "axis 2 is out of range", axis1=0, axis2=2),
    error("expand_dims", (x(2, 3),), "axis 4 is out of range", axis=4),
    error("expand_dims", (x(2, 3),), "names an axis twice", axis=(0, 0)),
    error("squeeze", (x(2, 1),), "longer than 1", axis=0),
    error("flip", (x(2, 3),), "axis 2 is out of range", axis=2),
    error("roll", (x(2, 3),), "2 shifts for 1 axes", shift=(1, 2), axis=0),
    error("roll", (x(2, 3),), "axis 2 is out of range", shift=1, axis=2),
    error("tril", (x(3),), "tril takes a matrix"),
    error("triu", (x(3),), "triu takes a matrix"),
    error("diagonal", (x(3),), "diagonal takes a matrix"),
    error("diagonal", (x(3, 3),), "must differ", axis1=0, axis2=-2),
    *(error(op, (), "missing 1 required positional argument", TypeError) for op in ("identity", "detach")),
    error("broadcast_to", (x(3),), "does not broadcast", shape=(3, 2)),
    error("broadcast_to", (x(2, 3),), "does not broadcast", shape=(3,)),
    error("repeat", (x(3),), "must not be negative", repeats=-1, axis=0),
    error("repeat", (x(3),), "axis 1 is out of range", repeats=1, axis=1),
    error("tile", (x(3),), "must not be negative", reps=-1),
    error("pad", (x(3),), "mode must be one of", ValueError, pad_width=1, mode="mean"),
    error("pad", (x(3),), "none negative", pad_width=-1),
    error("pad", (x(3),), "none negative", pad_width=((1, 1), (1, 1))),
    error("pad", (x(0),), "nothing to repeat", pad_width=1, mode="edge"),
    error("getitem", (x(3),), "index 3 is out of range", IndexError, key=3),
    error("getitem", (x(3),), "2 indices", IndexError, key=(0, 0)),
    error("getitem", (x(3),), "2 '...'", IndexError, key=(Ellipsis, Ellipsis)),
    error("getitem", (x(3),), "integers, slices, None", TypeError, key=1.5),
    error("lookup", (x(), index(5)), "no axis to select from"),
    types("lookup", (x(5, 3), x()), "index must be an integer"),
    types("take", (x(5), x(2)), "index must be an integer", axis=0),
    error("take", (x(5), index(5)), "axis 1 is out of range", axis=1),
    error("pick", (x(5), index(5, 2)), "one index"),
    types("pick", (x(5), x()), "index must be an integer"),
    types("one_hot", (x(),), "index must be an integer", n=3),
    error("one_hot", (index(3),), "at least 1", n=0),
    types("one_hot", (index(3),), "a number's or bool", n=3, dtype="complex64"),
    *(
        row
        for op, params in (("uniform", 2), ("normal", 2), ("gumbel", 2), ("bernoulli", 1), ("dropout_mask", 1))
        for row in (
            types(op, (x(), x(dtype=INT)) + (x(),) * params, "seed must be an integer", shape=(2,)),
            types(op, (x(dtype=INT), x()) + (x(),) * params, "counter must be an integer", shape=(2,)),
            error(op, SCALARS, "takes the scalars seed, counter", shape=(2,)),
            error(op, SCALARS + (x(3),) * params, "takes the scalars seed, counter", shape=(2,)),
            error(op, SCALARS + (x(),) * params, "must not be negative", shape=(-1,)),
            types(op, SCALARS + (x(),) * params, "not int32", shape=(2,), dtype="int32"),
        )
    ),
)
