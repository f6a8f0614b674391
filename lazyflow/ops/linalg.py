"""Products: matmul, affine, dot, outer, einsum and bilinear, all of them contractions of two lettered operands.

Every axis has a letter, as in ``einsum``; the batch axis is the letter ``Z``, which a shared operand does not have. So
who is shared needs no case of its own: a weight without ``Z`` and an input with it contract into ONE matrix product
over the whole minibatch, the gradient of that weight (``Z`` in both operands, not in the answer) into one product that
has summed over the batch already, and a matrix per example (``Z`` everywhere) into a batched product.

Letters become a product in the usual way of tensor contractions (transpose, transpose, GEMM, transpose): those in both
operands and in the result are batch, those in both but not in the result are summed (K), the others belong to the left
(M) or the right (N). A product never broadcasts: NumPy would run one small product per example, and CuPy takes a slow
path.
"""

from __future__ import annotations

import functools
import operator
import string
from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lazyflow import core
from lazyflow.cuda import products
from lazyflow.cuda import rows as there
from lazyflow.device import Array, ArrayModule, DType
from lazyflow.errors import DTypeError, ShapeError
from lazyflow.ops.base import (
    ALL,
    OPS,
    Abstract,
    Op,
    Result,
    Shape,
    adding,
    at_host,
    beginning,
    looking_at,
    register,
    symbolic,
    total,
)
from lazyflow.ops.formula import has_nan

if TYPE_CHECKING:
    from lazyflow.ops.base import Subscript

BATCH = "Z"
LETTERS = string.ascii_letters.replace(BATCH, "")
HALF = np.dtype(np.float16)

# From so many rows on, summing a tall matrix as a product with ones is two to six times faster than its .sum(0).
TALL = 32
# Rows that are summed by one product at most: BLAS adds them one after another.
TALLEST = 1024


class ContractionPlan(NamedTuple):
    """A contraction as a matrix product. ``None``: nothing to do at that step."""

    swap: bool  # the result begins with a letter of the right operand: exchange the two, and the product is in order
    alone: tuple[str | None, str | None]  # einsum of each operand by itself: sums and diagonals
    axes: tuple[Shape | None, Shape | None]  # transpositions to (batch, M, K) and (batch, K, N)
    # indices that put an axis of 1 in place of no letters: operands and product
    views: tuple[Subscript | None, Subscript | None, Subscript | None]
    counts: tuple[int, int, int, int]  # letters in batch, M, N and K
    order: Shape | None  # transposition from (batch, M, N) to the result
    inverse: Shape | None
    dots: str | None  # einsum for M and N without letters
    simple: bool  # a product of two matrices as they are, or transposed


def _permutation(source: str, target: str) -> Shape | None:
    return None if source == target else tuple(source.index(letter) for letter in target)


def _alone(letters: str, kept: str) -> str | None:
    return None if letters == kept else f"{letters}->{kept}"


@functools.lru_cache(maxsize=512)
def _kept(letters: str, others: str) -> str:
    return "".join(dict.fromkeys(letter for letter in letters if letter in others))


def _filled(batch: int, first: str, second: str) -> Subscript | None:
    """The index that gives each of two groups of letters, which stand behind the batch letters, one axis at least."""
    if first:
        return None if second else (..., None)
    return (*(ALL,) * batch, None) if second else (*(ALL,) * batch, None, ..., None)


@functools.lru_cache(maxsize=512)
def _plan(left: str, right: str, result: str) -> ContractionPlan:
    swap = result[:1] not in left and result[:1] in right
    if swap:
        left, right = right, left
    a, b = _kept(left, right + result), _kept(right, left + result)
    batch = "".join(letter for letter in result if letter in a and letter in b)
    m = "".join(letter for letter in result if letter not in b)
    n = "".join(letter for letter in result if letter not in a)
    k = "".join(letter for letter in a if letter in b and letter not in result)
    order = _permutation(batch + m + n, result)
    ones = (None,) * len(n)
    return ContractionPlan(
        swap,
        (_alone(left, a), _alone(right, b)),
        (_permutation(a, batch + m + k), _permutation(b, batch + k + n)),
        ((..., *ones), (ALL,) * len(batch) + (None,) * len(m), None)
        if not k
        else (_filled(len(batch), m, k), _filled(len(batch), k, n), _filled(len(batch), m, n)),
        (len(batch), len(m), len(n), len(k)),
        order,
        None if order is None else tuple(int(i) for i in np.argsort(order)),
        f"{batch}{k},{batch}{k}->{batch}" if batch and k and not m and not n else None,
        (left, right) == (a, b) and order is None and not batch and len(m) == len(n) == len(k) == 1,
    )


def contract(xp: ArrayModule, a: Array, left: str, b: Array, right: str, result: str, out: Array = None) -> Array:
    """``einsum(f"{left},{right}->{result}", a, b)`` through one matrix product; all of ``result`` occurs in an operand.

    Written to ``out`` where that has the letters of ``result`` and holds the product as a matrix; else a fresh array.

    >>> x, W = np.ones((4, 3)), np.arange(6.0).reshape(2, 3)
    >>> contract(np, x, "Zk", W, "mk", "Zm")[0].tolist()
    [3.0, 12.0]
    """
    if symbolic(xp):
        return xp.record_op(EINSUM, (a, b), subscripts=f"{left},{right}->{result}")
    if HALF in (a.dtype, b.dtype) and a.dtype == b.dtype:  # summed in float32, which has BLAS, too
        wider = contract(xp, a.astype(np.float32), left, b.astype(np.float32), right, result)
        return wider.astype(HALF)
    plan = _plan(left, right, result)
    if plan.swap:
        a, b = b, a
    if out is not None and out.ndim != len(result):
        out = None
    if plan.simple:
        left_axes, right_axes = plan.axes
        return _multiply(xp, a if left_axes is None else a.T, b if right_axes is None else b.T, out)
    a, b = _prepared_operand(xp, a, plan, 0), _prepared_operand(xp, b, plan, 1)
    if plan.dots:
        return xp.einsum(plan.dots, a, b)
    if not plan.counts[3]:
        return _outer_product(xp, a, b, plan, out)
    return _matrix_product(xp, a, b, plan, out)


def _prepared_operand(xp: ArrayModule, operand: Array, plan: ContractionPlan, side: int) -> Array:
    alone, axes = plan.alone[side], plan.axes[side]
    if alone is not None:
        letters, kept = alone.split("->")
        single = len(set(letters)) == len(letters)
        summed = tuple(i for i, letter in enumerate(letters) if letter not in kept)
        operand = total(operand, summed) if single else xp.einsum(alone, operand)
    return operand if axes is None else operand.transpose(axes)


def _outer_product(xp: ArrayModule, a: Array, b: Array, plan: ContractionPlan, out: Array) -> Array:
    if out is None:
        return _ordered(a[plan.views[0]] * b[plan.views[1]], plan.order)
    xp.multiply(a[plan.views[0]], b[plan.views[1]], out=_ordered(out, plan.inverse))
    return out


def _ordered(array: Array, order: Shape | None) -> Array:
    return array if order is None else array.transpose(order)


def _matrix_product(xp: ArrayModule, a: Array, b: Array, plan: ContractionPlan, out: Array) -> Array:
    batch, m, n, k = plan.counts
    shape = a.shape[: batch + m] + b.shape[b.ndim - n :]
    a, b = _viewed(a, plan.views[0]), _viewed(b, plan.views[1])
    if m > 1 or k > 1:
        a = a.reshape((*a.shape[:batch], prod(a.shape[batch : a.ndim - k]), prod(a.shape[a.ndim - k :])))
    if n > 1 or k > 1:
        b = b.reshape((*b.shape[:batch], prod(b.shape[batch : batch + k]), prod(b.shape[batch + k :])))
    place = _place_for(out, plan, (*a.shape[:-1], b.shape[-1]))
    product = _multiply(xp, a, b, place)
    if product is place:
        return out
    return _ordered(product if product.shape == shape else product.reshape(shape), plan.order)


def _viewed(array: Array, index: Subscript | None) -> Array:
    return array if index is None else array[index]


def _place_for(out: Array, plan: ContractionPlan, shape: Shape) -> Array | None:
    """``out`` as the product's matrix, if that is the same memory: letters merge only where rows are packed."""
    if out is None:
        return None
    place = _viewed(_ordered(out, plan.inverse), plan.views[2])
    if place.ndim == len(shape):
        return place
    return place.reshape(shape) if place.flags.c_contiguous else None


def _multiply(xp: ArrayModule, a: Array, b: Array, out: Array | None) -> Array:
    if b.shape[-2] == 1:  # NumPy runs products over one element outside BLAS, three times slower than this
        return xp.multiply(a, b, out=out)
    return _matmul(xp, a, b, out)


def _matmul(xp: ArrayModule, a: Array, b: Array, out: Array | None = None) -> Array:
    """``xp.matmul``, which the core calls without NumPy's look at its arguments, and on several threads where these are
    allowed. ``out`` shares no memory with the operands."""
    if xp is np and core.machine is not None:
        return core.machine.multiply(a, b, out)
    return xp.matmul(a, b, out=out)


# Columns that a transpose fills at a time.
STRIP = 64
# Up to so many rows the core multiplies by the transpose of weights as fast as by a copy of it that has been made.
BRIEF = 128


def is_brief(xp: ArrayModule, rows: int) -> bool:
    """Whether a product of so many rows with the transpose of a matrix needs no copy of it by columns."""
    return xp is np and core.machine is not None and rows <= BRIEF


def outer_sum(xp: ArrayModule, g: Array, x: Array) -> Array:
    """``g.T @ x`` of two float matrices.

    >>> outer_sum(np, np.ones((5, 3)), np.ones((5, 2))).tolist()[2]
    [5.0, 5.0]
    """
    if not isinstance(g, np.ndarray):
        return outer_sum_of_shown(xp, g, shown_all(xp, [(g, x)])[0])
    return without_nan(lambda g, x: _matmul(xp, g.T, x), g, x)


def outer_sum_of_shown(xp: ArrayModule, g: Array, x: Array, stored: bool = False) -> Array:
    """The same on a device, of what `shown_all` has answered, in float32 if both may be ``stored`` in 16 bits."""
    out = xp.empty((g.shape[1], x.shape[1]), there.computed_in(x.dtype) if stored else x.dtype)
    if not products.are_multiplied(out, g.T, x, stored):
        return _matmul(xp, g.T, x)
    products.multiply_into(out, g.T, x)
    return out


def shown_all(xp: ArrayModule, pairs: Sequence[tuple[Array, Array]], stored: bool = False) -> list[Array]:
    """`where_shown` of pairs of matrices of a device: one launch for all that kernels take. ``stored``: they may be
    stored in 16 bits."""
    kinds = {x.dtype for _, x in pairs}
    if len(kinds) == 1 and all(_are_shown_at_once(g, x, stored) for g, x in pairs):
        return there.shown_rows(pairs)
    return [where_shown(xp, g, BATCH + "m", x, BATCH + "n") for g, x in pairs]


def _are_shown_at_once(g: Array, x: Array, stored: bool = False) -> bool:
    return bool(x.size and there.is_matrix(g, stored) and there.is_matrix(x, stored) and g.dtype == x.dtype)


def without_nan(product: Callable[[Array, Array], Array], g: Array, x: Array) -> Array:
    """A sum of products of cotangents with an operand, in which a zero cotangent makes nothing of an infinite operand.

    So an example that a mask has hidden leaves no NaN in the gradient of what it shares with the others. Looked for on
    the host, in the answer, which is small beside the work of making it; on a device see `where_shown`.

    >>> without_nan(lambda g, x: g.T @ x, np.array([[0.0], [2.0]]), np.array([[np.nan], [3.0]])).tolist()
    [[6.0]]
    """
    answer: Array = product(g, x)
    if not isinstance(answer, np.ndarray) or answer.dtype.kind != "f" or not has_nan(answer):
        return answer
    if np.isfinite(x).all():
        return answer
    return _by_kinds_of_terms(product, g, x)


def _by_kinds_of_terms(product: Callable[[Array, Array], Array], g: Array, x: Array) -> Array:
    """A sum of products from its finite terms, the signs of its infinite ones, and how many are not a number."""

    def terms(of_g: Array, of_x: Array) -> Array:
        return product(of_g.astype(g.dtype), of_x.astype(x.dtype))

    finite_g, finite_x = np.where(np.isfinite(g), g, 0), np.where(np.isfinite(x), x, 0)
    infinite_g, infinite_x = np.where(np.isinf(g), np.sign(g), 0), np.where(np.isinf(x), np.sign(x), 0)
    sign_g = np.where(np.isnan(g), 0, np.sign(g))
    sign = terms(sign_g, infinite_x) + terms(infinite_g, np.sign(finite_x))
    count = terms(abs(sign_g), abs(infinite_x)) + terms(abs(infinite_g), finite_x != 0)
    nan = terms(np.isnan(g), np.ones_like(x)) + terms(g != 0, np.isnan(x)) + terms(infinite_g != 0, x == 0)
    answer = product(finite_g, finite_x)
    answer = np.where(count > 0, answer + np.copysign(np.inf, sign), answer)
    return np.where((nan > 0) | (abs(sign) != count), g.dtype.type(np.nan), answer)


def where_shown(xp: ArrayModule, g: Array, letters: str, x: Array, others: str) -> Array:
    """An operand of a product with cotangents ``g``, zero where all cotangents that it is multiplied by are.

    What `without_nan` is for, on a device: there a look at the answer would be a wait. An operand without a batch axis,
    a parameter, is taken to be finite.

    >>> where_shown(np, np.array([[0.0], [2.0]]), "Za", np.array([[np.nan], [3.0]]), "Zb").tolist()
    [[0.0], [3.0]]
    """
    repeats = len({*letters}) < len(letters) or len({*others}) < len(others)  # a diagonal
    if BATCH not in letters or BATCH not in others or x.dtype.kind != "f" or repeats:
        return x
    by_rows = letters[0] == others[0] == BATCH and letters[1:] != others[1:]
    if by_rows and _are_shown_at_once(g, x):
        return there.shown_rows([(g, x)])[0]  # one launch
    apart = tuple(i for i, letter in enumerate(letters) if letter not in others)
    shown = g.any(axis=apart) if apart else g != 0
    common = [letter for letter in letters if letter in others]
    shown = shown.transpose(tuple(common.index(letter) for letter in others if letter in common))
    shape = tuple(n if letter in common else 1 for letter, n in zip(others, x.shape, strict=True))
    return xp.where(shown.reshape(shape), x, 0)


def contract_or_zero(
    xp: ArrayModule, left: tuple[Array, str], right: tuple[Array, str], result: str, cotangent: int = 0
) -> Array:
    """`contract` of a cotangent, the first of the two or the second, with an operand: see `without_nan`."""
    if symbolic(xp):
        (g, letters), (x, others) = (left, right) if cotangent == 0 else (right, left)
        return xp.record_op(OPS["einsum_or_zero"], (g, x), subscripts=f"{letters},{others}->{result}")
    if not isinstance(left[0], np.ndarray):
        if cotangent == 0:
            right = where_shown(xp, *left, *right), right[1]
        else:
            left = where_shown(xp, *right, *left), left[1]
    if cotangent == 0:
        return without_nan(lambda g, x: contract(xp, g, left[1], x, right[1], result), left[0], right[0])
    return without_nan(lambda g, x: contract(xp, x, left[1], g, right[1], result), right[0], left[0])


def transposed(xp: ArrayModule, matrix: Array) -> Array:
    """The transpose of a matrix, with contiguous rows. NumPy copies a strip of columns faster than whole rows.

    >>> transposed(np, np.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    if xp is not np:
        return xp.ascontiguousarray(matrix.T)
    out = np.empty(matrix.shape[::-1], matrix.dtype)
    for low in range(0, len(matrix), STRIP):
        out[:, low : low + STRIP] = matrix[low : low + STRIP].T
    return out


def lettered(operand: Array, letters: str) -> str:
    """The letters of an operand in a launch: a batch axis more than one example has, or none if it is shared."""
    return BATCH + letters if operand.ndim > len(letters) else letters


def contraction_pullback(
    xp: ArrayModule, g: Array, result: str, other: Array, right: str, operand: Array, letters: str
) -> Array:
    """The cotangent of ``operand`` in `contract`: the product of ``g`` with the other one, by the operand's letters.

    A letter that the operand alone has was summed, so the cotangent is the same all along it; one that it has twice is
    a diagonal, off which the cotangent is zero.
    """
    kept = _kept(letters, result + right)
    answer = contract_or_zero(xp, (g, result), (other, right), kept)
    return answer if kept == letters else _spread_letters(xp, answer, kept, letters, operand.shape)


def _spread_letters(xp: ArrayModule, answer: Array, kept: str, letters: str, shape: Shape) -> Array:
    done: list[str] = []
    for axis, (letter, length) in enumerate(zip(letters, shape, strict=True)):
        if letter in done:
            first = done.index(letter)
            eye = xp.eye(length, dtype=answer.dtype)
            answer = xp.expand_dims(answer, axis)
            answer = answer * eye.reshape(tuple(length if i in (first, axis) else 1 for i in range(answer.ndim)))
        elif letter not in kept:
            answer = xp.expand_dims(answer, axis)
        done.append(letter)
    return xp.broadcast_to(answer, shape)


def _product(xp: ArrayModule, a: Array, b: Array, out: Array = None, *, letters: tuple[str, str, str]) -> Array:
    left, right = lettered(a, letters[0]), lettered(b, letters[1])
    batch = BATCH if BATCH in (left[:1], right[:1]) else ""
    return contract(xp, a, left, b, right, batch + letters[2], out)


def _product_left(xp: ArrayModule, g: Array, y: Array, a: Array, b: Array, *, letters: tuple[str, str, str]) -> Array:
    return contraction_pullback(xp, g, BATCH + letters[2], b, lettered(b, letters[1]), a, lettered(a, letters[0]))


def _product_right(xp: ArrayModule, g: Array, y: Array, a: Array, b: Array, *, letters: tuple[str, str, str]) -> Array:
    return contraction_pullback(xp, g, BATCH + letters[2], a, lettered(a, letters[0]), b, lettered(b, letters[1]))


def numeric(name: str, *operands: Abstract) -> DType:
    """NumPy's promotion of the operands' dtypes; booleans have no product of sums."""
    for operand in operands:
        if operand.dtype.kind not in "iuf":
            raise DTypeError(f"{name} takes numbers, got {operand.dtype}; convert with .astype('float32')")
    return np.result_type(*(o.dtype for o in operands))


def _matmul_letters(a: Shape, b: Shape) -> tuple[tuple[str, str, str], Shape]:
    """Letters for NumPy's ``matmul``, and the result's shape: leading axes share one where they have the same size."""
    fresh = iter(LETTERS)
    m, k, n = (next(fresh) for _ in range(3))
    left, right, result = m * (len(a) > 1) + k, k + n * (len(b) > 1), m * (len(a) > 1) + n * (len(b) > 1)
    shape = a[-2:-1] + (b[-1:] if len(b) > 1 else ())
    heads = a[:-2], b[:-2]
    for axis in range(1, max(map(len, heads)) + 1):
        sizes = [head[-axis] if axis <= len(head) else None for head in heads]
        ours, theirs, both = next(fresh), next(fresh), next(fresh)
        if sizes[0] == sizes[1]:
            ours = theirs = both
        longest = max(size for size in sizes if size is not None) if 0 not in sizes else 0
        left = ours * (sizes[0] is not None) + left
        right = theirs * (sizes[1] is not None) + right
        result = (ours if sizes[0] == longest else theirs) + result
        shape = (longest, *shape)
    return (left, right, result), shape


def _matmul_shape(a: Abstract, b: Abstract) -> Result:
    dtype = numeric("matmul", a, b)
    for side, operand in (("left", a), ("right", b)):
        if not operand.shape:
            raise ShapeError(f"matmul: the {side} operand is a scalar; multiply with *")
    inner = a.shape[-1], b.shape[-2:][0]
    if inner[0] != inner[1]:
        raise ShapeError(
            f"matmul: {a.shape} @ {b.shape} sums over {inner[0]} and {inner[1]} elements, which must be equal; "
            "a matrix W of shape (m, k) times a vector of k elements is W @ x"
        )
    try:
        np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ShapeError(f"matmul: the leading axes of {a.shape} and {b.shape} do not broadcast") from None
    letters, shape = _matmul_letters(a.shape, b.shape)
    return Result(shape, dtype, {"letters": letters})


def _dot_shape(a: Abstract, b: Abstract) -> Result:
    if len(a.shape) != 1 or a.shape != b.shape:
        raise ShapeError(f"dot takes two vectors of one length, got {a.shape} and {b.shape}; for matrices use matmul")
    return Result((), numeric("dot", a, b), {"letters": ("k", "k", "")})


def _outer_shape(a: Abstract, b: Abstract) -> Result:
    if len(a.shape) != 1 or len(b.shape) != 1:
        raise ShapeError(f"outer takes two vectors, got {a.shape} and {b.shape}; flatten with .reshape(-1)")
    return Result((*a.shape, *b.shape), numeric("outer", a, b), {"letters": ("m", "n", "mn")})


def split_subscripts(subscripts: str) -> tuple[str, str, str]:
    """The three groups of letters; without an arrow the result has the letters that occur once, in alphabetic order."""
    if not isinstance(subscripts, str):
        raise TypeError(f"einsum: subscripts are a text such as 'ij,jk->ik', got {subscripts!r}")
    inputs, arrow, result = subscripts.replace(" ", "").partition("->")
    left, comma, right = inputs.partition(",")
    if not comma or not all(letter in string.ascii_letters for letter in left + right + result):
        raise ShapeError(
            f"einsum: subscripts must name the axes of two operands by letters, as in 'ij,jk->ik', got {subscripts!r}"
        )
    if not arrow:
        result = "".join(sorted(letter for letter in set(left + right) if (left + right).count(letter) == 1))
    wrong = [letter for letter in result if letter not in left + right or result.count(letter) > 1]
    if wrong:
        raise ShapeError(f"einsum: {subscripts!r} must name {wrong[0]!r} in an operand, and once in the result")
    return left, right, result


def _einsum_shape(a: Abstract, b: Abstract, *, subscripts: str) -> Result:
    dtype = numeric("einsum", a, b)
    left, right, result = split_subscripts(subscripts)
    sizes: dict[str, int] = {}
    for group, operand in ((left, a), (right, b)):
        if len(group) != len(operand.shape):
            raise ShapeError(f"einsum: {subscripts!r} names {len(group)} axes, {group!r}, of a shape {operand.shape}")
        for letter, size in zip(group, operand.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ShapeError(f"einsum: {letter!r} of {subscripts!r} is both {sizes[letter]} and {size} long")
    names = str.maketrans(dict(zip(sizes, LETTERS, strict=False)))
    letters = left.translate(names), right.translate(names), result.translate(names)
    return Result(tuple(sizes[letter] for letter in result), dtype, {"letters": letters})


def _product_or_zero(xp: ArrayModule, g: Array, x: Array, out: Array = None, *, letters: tuple[str, str, str]) -> Array:
    if not isinstance(g, np.ndarray):
        x = where_shown(xp, g, lettered(g, letters[0]), x, lettered(x, letters[1]))
    return without_nan(lambda g, x: _product(xp, g, x, letters=letters), g, x)


def _add_left(
    places: there.Places, xp: ArrayModule, g: Array, y: Array, a: Array, b: Array, *, letters: tuple[str, str, str]
) -> bool:
    """`_product_left` of a vector and a parameter, where it belongs."""
    left, right, result = letters
    fits = len(left) == len(result) == 1 and left != result and right == left + result
    return fits and b.ndim == 2 and _add_products(places, g, b.T)


def _add_right(
    places: there.Places, xp: ArrayModule, g: Array, y: Array, a: Array, b: Array, *, letters: tuple[str, str, str]
) -> bool:
    """`_product_right` of a parameter and a vector, where it belongs."""
    left, right, result = letters
    fits = len(right) == len(result) == 1 and right != result and left == result + right
    return fits and a.ndim == 2 and _add_products(places, g, a)


def _add_products(places: there.Places, g: Array, weight: Array) -> bool:
    """``g @ weight``, added to evenly spaced rows or put there."""
    if places.at is not None or g.ndim != 2 or weight.ndim != 2:
        return False
    out = places.matrix()
    if not products.are_multiplied(out, g, weight):
        return False
    products.multiply_into(out, g, weight, places.adds)
    return True


adding(looking_at(_product_left, (2,), (1,)), _add_left)
adding(looking_at(_product_right, (1,), (2,)), _add_right)


def _einsum(name: str, infer: Callable[..., Result], forward: Callable[..., Array] = _product, **flags: Any) -> Op:
    return register(Op(name, infer, forward, (_product_left, _product_right), **flags))


MATMUL = _einsum("matmul", _matmul_shape, by_columns=(0,))
DOT = _einsum("dot", _dot_shape)
OUTER = _einsum("outer", _outer_shape)
EINSUM = _einsum("einsum", _einsum_shape)
# Of a cotangent with an operand: what vjps record that are differentiated again.
_einsum("einsum_or_zero", _einsum_shape, _product_or_zero)


def _affine_shape(W: Abstract, b: Abstract, x: Abstract) -> Result:
    dtype = numeric("affine", W, b, x)
    if len(W.shape) != 2 or b.shape != W.shape[:1] or x.shape[-1:] != W.shape[1:]:
        raise ShapeError(
            f"affine is W x + b and takes W (m, k), b (m,) and x (..., k); got W {W.shape}, b {b.shape} and x {x.shape}"
        )
    heads = LETTERS[2 : 1 + len(x.shape)]
    return Result((*x.shape[:-1], *b.shape), dtype, {"heads": heads})


def _affine(xp: ArrayModule, W: Array, b: Array, x: Array, out: Array = None, *, heads: str) -> Array:
    if not heads and xp is np and x.ndim == W.ndim == 2 and x.dtype == W.dtype != HALF:
        # What the general way comes to for vectors and a parameter.
        product = _multiply(np, x, W.T, out if out is None or out.ndim == 2 else None)
    else:
        product = _product(xp, x, W, out, letters=(heads + "b", "ab", heads + "a"))
    bias = b if b.ndim == 1 else b.reshape(b.shape[:1] + (1,) * len(heads) + b.shape[1:])
    return xp.add(product, bias, out=out)


def _add_to_bias(out: Array, xp: ArrayModule, W: Array, b: Array, x: Array, *, heads: str) -> bool:
    """``W x``, added to rows that are the bias."""
    if heads or not products.are_multiplied(out, x, W.T):
        return False
    products.multiply_into(out, x, W.T, add=True)
    return True


beginning(_affine, 1, _add_to_bias)


def _affine_at_host(heads: str) -> Callable[..., object] | None:
    return None if heads or core.machine is None else core.machine.affine


at_host(_affine, _affine_at_host)


def _affine_W(xp: ArrayModule, g: Array, y: Array, W: Array, b: Array, x: Array, *, heads: str) -> Array:
    return contraction_pullback(xp, g, BATCH + heads + "a", x, lettered(x, heads + "b"), W, lettered(W, "ab"))


def _affine_x(xp: ArrayModule, g: Array, y: Array, W: Array, b: Array, x: Array, *, heads: str) -> Array:
    if not heads and xp is np and x.ndim == W.ndim == 2 and g.dtype == W.dtype != HALF:
        return without_nan(lambda g, W: _multiply(np, g, W, None), g, W)  # the same for vectors and a parameter
    return contraction_pullback(xp, g, BATCH + heads + "a", W, lettered(W, "ab"), x, lettered(x, heads + "b"))


def _add_affine(
    places: there.Places, xp: ArrayModule, g: Array, y: Array, W: Array, b: Array, x: Array, *, heads: str
) -> bool:
    """`_affine_x` of a vector, where it belongs."""
    return not heads and _add_products(places, g, W)


def _affine_b(xp: ArrayModule, g: Array, y: Array, W: Array, b: Array, x: Array, *, heads: str) -> Array:
    if b.ndim == 1:
        return column_sums(xp, g.reshape(prod(g.shape[:-1]), g.shape[-1]))
    return total(g, tuple(range(1, g.ndim - 1))) if heads else g


looking_at(_affine_W, (3,), (1,))
looking_at(_affine_b, (), (2,))
adding(looking_at(_affine_x, (1,), (3,)), _add_affine)


def column_sums(xp: ArrayModule, rows: Array) -> Array:
    """``rows.sum(0)`` of a matrix.

    >>> column_sums(np, np.ones((100, 2)))
    array([100., 100.])
    """
    if rows.dtype == HALF:  # a sum in float16 stands still at 2048 ones
        return column_sums(xp, rows.astype(np.float32)).astype(HALF)
    if len(rows) < TALL or not isinstance(rows, np.ndarray):
        return rows.sum(0)
    whole = len(rows) // TALLEST * TALLEST
    rest = xp.ones(len(rows) - whole, rows.dtype) @ rows[whole:]
    if not whole:
        return rest
    parts = xp.ones(TALLEST, rows.dtype) @ rows[:whole].reshape(-1, TALLEST, rows.shape[1])
    return total(parts, 0) + rest


def sums_of_columns(xp: ArrayModule, groups: Sequence[Sequence[Array]]) -> list[Array]:
    """Of each group of matrices of one width the sum of all their rows; on a device as few launches as that takes, and
    in float32 what is stored in 16 bits.

    >>> [a.tolist() for a in sums_of_columns(np, [[np.ones((3, 2)), np.ones((1, 2))], [np.zeros((4, 1))]])]
    [[4.0, 4.0], [0.0]]
    """
    if len({rows.dtype for group in groups for rows in group}) > 1 or any(not _are_summed_there(g) for g in groups):
        return [functools.reduce(operator.add, [column_sums(xp, rows) for rows in group]) for group in groups]
    found, some, parts = list[Array](), list[Sequence[Array]](), 0
    for group in groups:
        if parts + len(group) > there.MOST_OPERANDS:
            found += there.column_sums_of(some)
            some, parts = [], 0
        some.append(group)
        parts += len(group)
    return found + (there.column_sums_of(some) if some else [])


def _are_summed_there(group: Sequence[Array]) -> bool:
    return len(group) <= there.MOST_OPERANDS and all(there.is_matrix(rows, stored=True) for rows in group)


AFFINE = register(Op("affine", _affine_shape, _affine, (_affine_W, _affine_b, _affine_x), by_columns=(0,)))


def _bilinear_shape(x: Abstract, W: Abstract, y: Abstract, b: Abstract | None = None) -> Result:
    given = (x, W, y) if b is None else (x, W, y, b)
    dtype = numeric("bilinear", *given)
    wanted = len(W.shape) == 3 and x.shape == W.shape[1:2] and y.shape == W.shape[2:]
    if not wanted or (b is not None and b.shape != W.shape[:1]):
        shapes = ", ".join(f"{name} {o.shape}" for name, o in zip("xWyb", given, strict=False))
        raise ShapeError(f"bilinear takes x (k1,), W (o, k1, k2), y (k2,) and optionally b (o,); got {shapes}")
    return Result(W.shape[:1], dtype)


@functools.lru_cache(maxsize=512)
def _first_pair(letters: tuple[str, str, str], shapes: tuple[Shape, Shape, Shape], result: str) -> tuple[Shape, str]:
    """Which two of three operands to contract first, and the letters between: those with the fewest elements for one
    example. However many examples there are, the order is the same: infinities come out alike."""
    sizes = dict(zip("".join(letters), (size for shape in shapes for size in shape), strict=True))
    sizes |= {BATCH: 1} if BATCH in sizes else {}
    orders = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
    kept = [
        "".join(c for c in sorted(sizes) if c in letters[i] + letters[j] and c in letters[k] + result)
        for i, j, k in orders
    ]
    return min(zip(orders, kept, strict=True), key=lambda choice: prod(sizes[c] for c in choice[1]))


def contract_three(xp: ArrayModule, operands: Sequence[tuple[Array, str]], result: str, out: Array = None) -> Array:
    """`contract` of three lettered operands, in the order that makes the smaller array between."""
    order, between = _order_of_three(operands, result)
    a, b, c = (operands[i] for i in order)
    return contract(xp, contract(xp, *a, *b, between), between, *c, result, out)


def _order_of_three(operands: Sequence[tuple[Array, str]], result: str) -> tuple[Shape, str]:
    return _first_pair(tuple(name for _, name in operands), tuple(array.shape for array, _ in operands), result)


def contract_three_or_zero(xp: ArrayModule, operands: Sequence[tuple[Array, str]], result: str) -> Array:
    """The same where the last is a cotangent, whose zeros make nothing of infinite operands: see `without_nan`."""
    order, between = _order_of_three(operands, result)
    a, b, c = (operands[i] for i in order)
    if order[2] == 2:  # the cotangent comes last, to what became of the others
        return contract_or_zero(xp, (contract(xp, *a, *b, between), between), c, result, cotangent=1)
    first = contract_or_zero(xp, a, b, between, cotangent=order.index(2))
    return contract_or_zero(xp, (first, between), c, result)


def _bilinear_operands(g: Array, x: Array, W: Array, y: Array) -> tuple[tuple[Array, str], ...]:
    return (g, BATCH + "o"), (x, lettered(x, "i")), (W, lettered(W, "oij")), (y, lettered(y, "j"))


def _bilinear(xp: ArrayModule, x: Array, W: Array, y: Array, b: Array = None, out: Array = None) -> Array:
    operands = ((W, lettered(W, "oij")), (y, lettered(y, "j")), (x, lettered(x, "i")))
    batch = BATCH * any(BATCH in letters for _, letters in operands)
    product = contract_three(xp, operands, batch + "o", out)
    return product if b is None else xp.add(product, b, out=out)


def _bilinear_x(xp: ArrayModule, g: Array, out: Array, x: Array, W: Array, y: Array, *b: Array) -> Array:
    cotangent, (_, letters), weight, right = _bilinear_operands(g, x, W, y)
    return contract_three_or_zero(xp, (weight, right, cotangent), letters)


def _bilinear_W(xp: ArrayModule, g: Array, out: Array, x: Array, W: Array, y: Array, *b: Array) -> Array:
    cotangent, left, (_, letters), right = _bilinear_operands(g, x, W, y)
    return contract_three_or_zero(xp, (left, right, cotangent), letters)


def _bilinear_y(xp: ArrayModule, g: Array, out: Array, x: Array, W: Array, y: Array, *b: Array) -> Array:
    cotangent, left, weight, (_, letters) = _bilinear_operands(g, x, W, y)
    return contract_three_or_zero(xp, (weight, left, cotangent), letters)


def _bilinear_b(xp: ArrayModule, g: Array, out: Array, x: Array, W: Array, y: Array, b: Array) -> Array:
    return column_sums(xp, g) if b.ndim == 1 else g


BILINEAR = register(Op("bilinear", _bilinear_shape, _bilinear, (_bilinear_x, _bilinear_W, _bilinear_y, _bilinear_b)))
