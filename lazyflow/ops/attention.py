"""Attention of the rows of one matrix to those of another, by heads (Vaswani et al. 2017).

Products, softmax and products again are one operation, with what a mask hides or adds, and what is dropped of the
weights; and the cotangents of its operands come in one call. A launch of many examples is their rows end to end, with
the numbers of each: of examples of one size by a batch axis, of others by where the rows of each end
(`ATTENTION_BY_PARTS` and `lazyflow.graph.joined`). Scores and weights are made for some rows at a time, and again for
the cotangents (Dao et al. 2022); nothing of their size is kept.

A mask is a vector: a number for each key, for each query and key, or for these by heads, row after row. So are the
factors that weights are multiplied by, zero for what is dropped. Of masks of many lengths the elements lie end to end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from lazyflow import core
from lazyflow.cuda import attention as there
from lazyflow.cuda.rows import Groups, Places, has_rows
from lazyflow.device import Array, ArrayModule, HostArray
from lazyflow.errors import DTypeError, ShapeError
from lazyflow.ops.base import (
    Abstract,
    Op,
    Result,
    Shape,
    jointly,
    looking_at,
    on_device,
    register,
    require_floating,
    symbolic,
    written,
)
from lazyflow.ops.elementwise import MULTIPLY_NO_NAN, MULTIPLY_OR_ZERO
from lazyflow.ops.formula import has_nan
from lazyflow.ops.linalg import BATCH, contract, contract_or_zero, lettered
from lazyflow.ops.reduce import SOFTMAX
from lazyflow.ops.sparse import core_has

_softmax_slopes: Any = SOFTMAX.vjps[0]
Wanted = Sequence[int]
Into = Sequence[Places | None]
MASK = 3  # the place of a mask among the operands


class _How(NamedTuple):
    """``mask``: what it says, ``"seen"`` or ``"hidden"`` of truth values, ``"added"`` of numbers, or nothing without
    one; ``of``: of what, ``"keys"``, ``"all"`` pairs of queries and keys, or these by ``"heads"``."""

    heads: int
    causal: bool
    mask: str = ""
    of: str = ""

    def axes(self, n: int, m: int) -> Shape:
        """The mask's, of ``n`` queries and ``m`` keys, as it meets scores by heads."""
        return {"keys": (1, 1, m), "all": (1, n, m), "heads": (self.heads, n, m)}[self.of]


class _Beside(NamedTuple):
    """A mask, and factors of the weights, or None: of nodes of one size each (nodes, elements) or (elements,), of
    others (elements,), those of all nodes."""

    mask: Array
    kept: Array

    def cast(self, dtype: Any) -> _Beside:
        """With numbers of a dtype."""
        return _Beside(*[x if x is None or x.dtype.kind == "b" else x.astype(dtype, copy=False) for x in self])


NOTHING_BESIDE = _Beside(None, None)


class _Parts(NamedTuple):
    """The nodes of a launch, whose rows lie end to end: where those of each end, of queries and of keys, (2, nodes), on
    the host; None where each has ``sizes`` of them."""

    ends: Array
    sizes: tuple[int, int]
    nodes: int

    def here(self) -> Array:
        """Where rows end, on the host."""
        if self.ends is not None:
            return np.ascontiguousarray(self.ends, np.int64)
        return np.arange(1, self.nodes + 1) * np.array(self.sizes)[:, None]

    def shapes(self) -> list[list[int]]:
        """How many queries and keys each node has."""
        found: list[list[int]] = np.diff(self.here(), axis=1, prepend=0).T.tolist()
        return found

    def pairs(self) -> int:
        """Queries and keys of all nodes that may meet."""
        return sum(n * m for n, m in self.shapes()) if self.ends is not None else self.nodes * math.prod(self.sizes)

    def has_each(self, x: Array) -> bool:
        """Whether each node has a mask of its own, or factors."""
        return self.ends is not None or x.ndim > 1

    def groups(self, xp: ArrayModule) -> tuple[Groups, Groups]:
        """The same as kernels of a device have it."""
        if self.ends is None:
            return Groups(None, self.sizes[0]), Groups(None, self.sizes[1])
        ends = on_device(xp, self.ends)
        return Groups(ends[0]), Groups(ends[1])

    def nodes_of(self, operands: Sequence[Array], beside: _Beside, how: _How) -> Iterator[tuple[list[Array], _Beside]]:
        """Queries, or what has as many rows, and keys, or such, of some nodes at a time, with a batch axis; and what
        stands beside them."""
        kinds = (0, 1, 1)[: len(operands)]
        if self.ends is None:
            sizes = [self.sizes[kind] for kind in kinds]
            given = [x.reshape(self.nodes, n, x.shape[-1]) for x, n in zip(operands, sizes, strict=True)]
            yield given, beside
            return
        low, taken = (0, 0), [0, 0]
        for high, (n, m) in zip(zip(*self.ends.tolist(), strict=True), self.shapes(), strict=True):
            sizes = [math.prod(how.axes(n, m)) if how.mask else 0, how.heads * n * m]
            until = [begin + size for begin, size in zip(taken, sizes, strict=True)]
            spans = zip(beside, taken, until, strict=True)
            some = [None if x is None else x[None, begin:end] for x, begin, end in spans]
            yield (
                [x[None, low[kind] : high[kind]] for x, kind in zip(operands, kinds, strict=True)],
                _Beside(*some),
            )
            low, taken = high, until


def _attention_infer(
    masked: bool,
    q: Abstract,
    k: Abstract,
    v: Abstract,
    *beside: Abstract,
    heads: int = 1,
    causal: bool = False,
    **mask: str,
) -> Result:
    for operand in (q, k, v):
        require_floating("attention", operand)
    if not len(q.shape) == len(k.shape) == len(v.shape) == 2 or q.shape[1] != k.shape[1] or k.shape[0] != v.shape[0]:
        raise ShapeError(
            f"attention takes queries (t, d), keys (s, d) and values (s, e), got {q.shape}, {k.shape} and {v.shape}"
        )
    if heads < 1 or q.shape[1] % heads or v.shape[1] % heads or not q.shape[1] or not k.shape[0]:
        raise ShapeError(f"attention: {heads} heads of queries {q.shape}, keys {k.shape} and values {v.shape}")
    _check_beside(beside, _How(heads, causal, **mask), masked, q.shape[0], k.shape[0])
    dtype = np.result_type(q.dtype, k.dtype, v.dtype)
    return Result((q.shape[0], v.shape[1]), dtype, {"heads": heads, "causal": causal, **mask})


def _check_beside(beside: Sequence[Abstract], how: _How, masked: bool, n: int, m: int) -> None:
    kept = beside[masked:]
    if masked:
        wanted = "f" if how.mask == "added" else "b"
        if beside[0].dtype.kind != wanted:
            raise DTypeError(f"attention: a mask of what is {how.mask} is of {beside[0].dtype}")
        if beside[0].shape != (math.prod(how.axes(n, m)),):
            raise ShapeError(f"attention: a mask of {how.of} of {n} queries and {m} keys, got {beside[0].shape}")
    for factors in kept:
        require_floating("attention", factors)
        if factors.shape != (how.heads * n * m,):
            raise ShapeError(f"attention: factors of {how.heads} heads, {n} queries and {m} keys, got {factors.shape}")


# As other operations make it, of arrays or expressions by heads, (n, heads, width), each with a batch axis or without.


def _by_heads(x: Array, heads: int) -> Array:
    return x.reshape((*x.shape[:-1], heads, x.shape[-1] // heads))


def _of_heads(x: Array) -> Array:
    return x.reshape((*x.shape[:-2], x.shape[-2] * x.shape[-1]))


def _scale(width: int) -> float:
    return 1.0 / math.sqrt(width)


def _letters(letters: str, *operands: Array) -> str:
    """Those of a product: with a batch axis if an operand has one."""
    return BATCH + letters if max(x.ndim for x in operands) > 3 else letters


def _by_axes(x: Array, axes: Shape) -> Array:
    return x.reshape((*x.shape[:-1], *axes))


def _weights(xp: ArrayModule, q: Array, k: Array, mask: Array, how: _How) -> Array:
    """(heads, n, m), of queries and keys."""
    scores = contract(xp, q, lettered(q, "nhd"), k, lettered(k, "mhd"), _letters("hnm", q, k)) * _scale(q.shape[-1])
    if how.causal:
        scores = xp.where(_seen_keys(xp, scores), scores, -math.inf)
    if how.mask:
        said = _by_axes(mask, how.axes(*scores.shape[-2:]))
        scores = scores + said if how.mask == "added" else _but_hidden(xp, said, scores, -math.inf, how)
        sees = xp.max(scores, axis=-1, keepdims=True) != -math.inf
        return xp.where(sees, _softmax(xp, xp.where(sees, scores, 0.0)), 0.0)
    return _softmax(xp, scores)


def _softmax(xp: ArrayModule, scores: Array) -> Array:
    if symbolic(xp):
        return xp.record_op(SOFTMAX, (scores,), axis=-1)
    return SOFTMAX.forward(xp, scores, axis=-1)


def _but_hidden(xp: ArrayModule, said: Array, x: Array, other: float, how: _How) -> Array:
    """What a mask of truth values lets see, and another number elsewhere."""
    return xp.where(said, other, x) if how.mask == "hidden" else xp.where(said, x, other)


def _seen_keys(xp: ArrayModule, scores: Array) -> Array:
    return on_device(xp, np.tri(*scores.shape[-2:], dtype=bool))


def _dropped(xp: ArrayModule, op: Op, weights: Array, kept: Array, how: _How) -> Array:
    """Weights times their factors, zero where these are, or the cotangents of weights, zero where they are, too."""
    if kept is None:
        return weights
    factors = _by_axes(kept, (how.heads, *weights.shape[-2:]))
    return xp.record_op(op, (factors, weights)) if symbolic(xp) else op.forward(xp, factors, weights)


def _composed(xp: ArrayModule, operands: Sequence[Array], beside: _Beside, how: _How) -> Array:
    q, k, v = (_by_heads(x, how.heads) for x in operands)
    weights = _dropped(xp, MULTIPLY_NO_NAN, _weights(xp, q, k, beside.mask, how), beside.kept, how)
    return _of_heads(
        contract(xp, weights, lettered(weights, "hnm"), v, lettered(v, "mhe"), _letters("nhe", weights, v))
    )


def _composed_back(
    xp: ArrayModule, wanted: Wanted, g: Array, operands: Sequence[Array], beside: _Beside, how: _How
) -> list[Array]:
    """The cotangents of the operands ``wanted``."""
    g, q, k, v = (_by_heads(x, how.heads) for x in (g, *operands))
    weights, of_g = _weights(xp, q, k, beside.mask, how), lettered(g, "nhe")
    of_weights = contract_or_zero(xp, (g, of_g), (v, lettered(v, "mhe")), BATCH + "hnm")
    slopes, scores = _of_scores(xp, of_weights, weights, beside, how, _scale(q.shape[-1]))

    def of_values() -> Array:
        kept = _dropped(xp, MULTIPLY_NO_NAN, weights, beside.kept, how)
        return contract_or_zero(xp, (g, of_g), (kept, lettered(kept, "hnm")), lettered(v, "mhe"))

    found = [lambda: _of_queries(xp, scores, q, k), lambda: _of_keys(xp, scores, q, k), of_values]
    return [_of_mask(xp, slopes, how) if i == MASK else _of_heads(found[i]()) for i in wanted]


def _of_scores(
    xp: ArrayModule, of_weights: Array, weights: Array, beside: _Beside, how: _How, scale: float
) -> tuple[Array, Array]:
    """The cotangents of what softmax is of, and of the products, from those of the weights that are left."""
    of_weights = _dropped(xp, MULTIPLY_OR_ZERO, of_weights, beside.kept, how)
    whole = weights if weights.ndim == of_weights.ndim else xp.broadcast_to(weights, of_weights.shape)
    slopes = _softmax_slopes(xp, of_weights, whole, whole, axis=-1)
    if how.causal:
        slopes = xp.where(_seen_keys(xp, slopes), slopes, 0.0)
    if how.mask in ("seen", "hidden"):
        slopes = _but_hidden(xp, _by_axes(beside.mask, how.axes(*slopes.shape[-2:])), slopes, 0.0, how)
    return slopes, slopes * scale


def _of_queries(xp: ArrayModule, scores: Array, q: Array, k: Array) -> Array:
    return contract_or_zero(xp, (scores, BATCH + "hnm"), (k, lettered(k, "mhd")), lettered(q, "nhd"))


def _of_keys(xp: ArrayModule, scores: Array, q: Array, k: Array) -> Array:
    return contract_or_zero(xp, (scores, BATCH + "hnm"), (q, lettered(q, "nhd")), lettered(k, "mhd"))


def _of_mask(xp: ArrayModule, slopes: Array, how: _How) -> Array:
    """The cotangents of a mask of numbers, from those by heads, (..., heads, n, m)."""
    axes = {"keys": (-3, -2), "all": (-3,), "heads": ()}[how.of]
    found = xp.sum(slopes, axis=axes) if axes else slopes
    return found.reshape((*slopes.shape[:-3], math.prod(how.axes(*slopes.shape[-2:]))))


# Arrays of all nodes, end to end.


class _Given(NamedTuple):
    """Queries, keys and values of all nodes, in one dtype, what stands beside them, and how all this is meant."""

    operands: Sequence[Array]
    beside: _Beside
    parts: _Parts
    how: _How

    def cast(self, dtype: Any) -> _Given:
        """In another dtype."""
        operands = [x.astype(dtype) for x in self.operands]
        return self._replace(operands=operands, beside=self.beside.cast(dtype))

    def for_kernels(self, xp: ArrayModule) -> _Given:
        """With contiguous arrays of one dtype."""
        beside = self.beside.cast(self.operands[0].dtype)
        laid = [None if x is None else xp.ascontiguousarray(x) for x in beside]
        return self._replace(operands=[xp.ascontiguousarray(x) for x in self.operands], beside=_Beside(*laid))

    def scale(self) -> float:
        return _scale(self.operands[0].shape[-1] // self.how.heads)

    def for_core(self) -> dict[str, Any]:
        """What stands beside, as the core takes it."""
        mask, kept = self.beside
        found: dict[str, Any] = {}
        if mask is not None:
            found["mask"] = (self.how.mask, self.how.of, self.parts.has_each(mask), mask)
        if kept is not None:
            found["kept"] = (self.parts.has_each(kept), kept)
        return found

    def heads(self) -> there.Heads:
        """The same as kernels of a device take it."""
        each = [x is not None and self.parts.has_each(x) for x in self.beside]
        return there.Heads(*self.how, self.scale(), *self.beside, *each)


def _attended(xp: ArrayModule, given: _Given, out: Array = None) -> Array:
    """The rows of the result, in ``out`` if there is one."""
    first, last = given.operands[0], given.operands[2]
    if first.dtype == np.float16:
        return written(out, _attended(xp, given.cast(np.float32)).astype(np.float16))
    if not _has_kernels(xp, first):
        return written(out, _by_nodes(xp, given))
    if out is None:
        out = xp.empty((len(first), last.shape[-1]), first.dtype)
    given = given.for_kernels(xp)
    if xp is np:
        how, ends = (*given.how[:2], given.scale()), given.parts.here()
        core.machine.attend(how, ends, *given.operands, out, **given.for_core())
    else:
        there.attend(given.heads(), given.parts.groups(xp), given.operands, out)
    return out


def _has_kernels(xp: ArrayModule, x: Array) -> bool:
    return core_has(x) if xp is np else bool(x.size) and has_rows(x.dtype)


def _by_nodes(xp: ArrayModule, given: _Given) -> Array:
    operands, beside, parts, how = given
    found = [_composed(xp, some, rest, how) for some, rest in parts.nodes_of(operands, beside, how)]
    return xp.concatenate([y.reshape(-1, y.shape[-1]) for y in found])


def _pulled_back(wanted: Wanted, into: Into, xp: ArrayModule, g: Array, given: _Given) -> list[Array | None]:
    """The cotangents of the operands ``wanted``, of a mask (elements,) of all nodes; None for those that were brought
    into their places."""
    first = given.operands[0]
    if first.dtype == np.float16:
        found = _pulled_back(wanted, [None] * len(wanted), xp, g.astype(np.float32), given.cast(np.float32))
        return [x.astype(np.float16) for x in found if x is not None]
    if not _has_kernels(xp, first):
        return _back_by_nodes(xp, wanted, g, given)
    g, given = xp.ascontiguousarray(g), given.for_kernels(xp)
    pairs = given.parts.pairs() * given.how.heads if MASK in wanted else 0
    if xp is not np:
        answers = there.attend_back(
            given.heads(), given.parts.groups(xp), (g, *given.operands), wanted, into, xp.empty(pairs, g.dtype)
        )
        return [_of_masks(xp, x, given) if i == MASK else x for i, x in zip(wanted, answers, strict=True)]
    to = [np.zeros(x.shape, x.dtype) if i in wanted else None for i, x in enumerate(given.operands)]
    to.append(np.zeros(pairs, g.dtype) if MASK in wanted else None)
    how, ends = (*given.how[:2], given.scale()), given.parts.here()
    core.machine.attend(how, ends, *given.operands, g, tuple(to), **given.for_core())
    if any(x is not None and has_nan(x) for x in to):  # maybe of a cotangent of zero and what is infinite
        return _back_by_nodes(xp, wanted, g, given)
    return [_of_masks(xp, to[i], given) if i == MASK else to[i] for i in wanted]


def _of_masks(xp: ArrayModule, by_heads: Array, given: _Given) -> Array:
    """The cotangents of a mask, from those by heads of all nodes."""
    parts, how = given.parts, given.how
    if how.of == "heads" or (how.of == "all" and how.heads == 1):
        return by_heads
    if parts.ends is None:
        return _of_mask(xp, by_heads.reshape(parts.nodes, how.heads, *parts.sizes), how).reshape(-1)
    shapes = [(how.heads, n, m) for n, m in parts.shapes()]
    begins = np.cumsum([0, *map(math.prod, shapes)]).tolist()
    spans = zip(pairwise(begins), shapes, strict=True)
    return xp.concatenate([_of_mask(xp, by_heads[i:j].reshape(shape), how) for (i, j), shape in spans])


def _back_by_nodes(xp: ArrayModule, wanted: Wanted, g: Array, given: _Given) -> list[Array | None]:
    operands, beside, parts, how = given
    of_g = parts.nodes_of([g], NOTHING_BESIDE, how)
    both = zip(of_g, parts.nodes_of(operands, beside, how), strict=True)
    found = [_composed_back(xp, wanted, some[0], of, rest, how) for (some, _), (of, rest) in both]
    return [
        xp.concatenate([x.reshape(-1) if i == MASK else x.reshape(-1, x.shape[-1]) for x in each])
        for i, each in zip(wanted, zip(*found, strict=True), strict=True)
    ]


# The operation, of examples of one size, and of any sizes.


def _in_one_dtype(arrays: Sequence[Array]) -> list[Array]:
    dtype = np.result_type(*[x.dtype for x in arrays])
    return [x.astype(dtype, copy=False) for x in arrays]


def _laid(xp: ArrayModule, arrays: Sequence[Array], batch: int) -> list[Array]:
    """Arrays of one dtype, with the rows of all examples end to end."""
    whole = [x if x.ndim > 2 else xp.broadcast_to(x, (batch, *x.shape)) for x in _in_one_dtype(arrays)]
    return [x.reshape(x.shape[0] * x.shape[1], x.shape[2]) for x in whole]


def _beside_of(rest: Sequence[Array], masked: bool) -> _Beside:
    """What stands behind queries, keys and values: a mask, factors, both or nothing."""
    return _Beside(rest[0] if masked else None, rest[masked] if len(rest) > masked else None)


def _attention_forward(masked: bool, xp: ArrayModule, *operands: Array, out: Array = None, **static: Any) -> Array:
    batch = max([len(x) for i, x in enumerate(operands) if x.ndim > (2 if i < MASK else 1)], default=1)
    q, k, v = _laid(xp, operands[:MASK], batch)
    parts = _Parts(None, (operands[0].shape[-2], operands[1].shape[-2]), batch)
    shape = (batch, parts.sizes[0], v.shape[-1])
    fits = out is not None and out.shape == shape and out.dtype == q.dtype and out.flags.c_contiguous
    place = out.reshape(len(q), v.shape[-1]) if fits else None
    found = _attended(xp, _Given((q, k, v), _beside_of(operands[MASK:], masked), parts, _How(**static)), place)
    return out if fits else found.reshape(shape)


def _attention_back(
    masked: bool, wanted: Wanted, into: Into, xp: ArrayModule, g: Array, y: Array, *operands: Array, **static: Any
) -> list[Array | None]:
    how, beside = _How(**static), _beside_of(operands[MASK:], masked)
    if symbolic(xp):
        return list(_composed_back(xp, wanted, g, operands[:MASK], beside, how))
    parts = _Parts(None, (operands[0].shape[-2], operands[1].shape[-2]), len(g))
    g, *rows = _laid(xp, (g, *operands[:MASK]), len(g))
    into = [
        None if i == MASK else _as_rows_of_places(place, *operands[i].shape[-2:])
        for i, place in zip(wanted, into, strict=True)
    ]
    found = _pulled_back(wanted, into, xp, g, _Given(rows, beside, parts, how))
    shapes = [operands[i].shape[-1:] if i == MASK else operands[i].shape[-2:] for i in wanted]
    return [None if x is None else x.reshape((parts.nodes, *shape)) for x, shape in zip(found, shapes, strict=True)]


def _as_rows_of_places(places: Places | None, rows: int, width: int) -> Places | None:
    """Places of matrices as those of their rows, where these lie one behind the other."""
    if places is None or places.at is not None or places.pitch != rows * width:
        return None
    return Places(places.memory, width, places.rows * rows, width, None, places.adds)


def _given_by_parts(own: int, masked: bool, operands: Sequence[Array], static: Mapping[str, Any]) -> _Given:
    """Operands of nodes that have rows of their own numbers: ``own`` of rows, what stands beside them, and ends."""
    *given, ends = operands
    parts = _Parts(ends, (0, 0), ends.shape[1])
    return _Given(_in_one_dtype(given[:own]), _beside_of(given[own:], masked), parts, _How(**static))


def _attention_forward_by_parts(
    masked: bool, xp: ArrayModule, *operands: Array, out: Array = None, **static: Any
) -> Array:
    return _attended(xp, _given_by_parts(MASK, masked, operands, static), out)


def _attention_back_by_parts(
    masked: bool, wanted: Wanted, into: Into, xp: ArrayModule, g: Array, y: Array, *operands: Array, **static: Any
) -> list[Array | None]:
    *given, ends = operands
    g, *rows = _in_one_dtype((g, *given[:MASK]))
    parts = _Parts(ends, (0, 0), ends.shape[1])
    return _pulled_back(wanted, into, xp, g, _Given(rows, _beside_of(given[MASK:], masked), parts, _How(**static)))


def _vjp_alone(joint: Callable[..., list[Array | None]], operand: int, count: int) -> Callable[..., Array]:
    def vjp(xp: ArrayModule, g: Array, y: Array, *operands: Array, **static: Any) -> Array:
        return joint((operand,), (None,), xp, g, y, *operands, **static)[0]

    return looking_at(vjp, range(1, count + 1))


# The weights by themselves, of queries and keys, a mask and factors: by heads, queries and keys, (heads * n * m,), or
# their mean over heads, (n * m,).

MASK_OF_WEIGHTS = 2


def _weights_infer(
    masked: bool,
    q: Abstract,
    k: Abstract,
    *beside: Abstract,
    heads: int = 1,
    causal: bool = False,
    average: bool = False,
    **mask: str,
) -> Result:
    require_floating("attention_weights", q)
    require_floating("attention_weights", k)
    if not len(q.shape) == len(k.shape) == 2 or q.shape[1] != k.shape[1]:
        raise ShapeError(f"attention_weights takes queries (t, d) and keys (s, d), got {q.shape} and {k.shape}")
    if heads < 1 or q.shape[1] % heads or not q.shape[1] or not k.shape[0]:
        raise ShapeError(f"attention_weights: {heads} heads of queries {q.shape} and keys {k.shape}")
    _check_beside(beside, _How(heads, causal, **mask), masked, q.shape[0], k.shape[0])
    size = (1 if average else heads) * q.shape[0] * k.shape[0]
    static = {"heads": heads, "causal": causal, "average": average, **mask}
    return Result((size,), np.result_type(q.dtype, k.dtype), static)


def _weights_made(xp: ArrayModule, given: _Given, average: bool) -> Array:
    """The weights of all nodes, end to end."""
    q, k = given.operands
    if q.dtype == np.float16:
        return _weights_made(xp, given.cast(np.float32), average).astype(np.float16)
    if _has_kernels(xp, q):
        given = given.for_kernels(xp)
        return _weighed_here(given, average) if xp is np else _weighed_there(xp, given, average)
    found = []
    for operands, beside in given.parts.nodes_of(given.operands, given.beside, given.how):
        q, k = (_by_heads(x, given.how.heads) for x in operands)
        weights = _weights(xp, q, k, beside.mask, given.how)
        weights = _dropped(xp, MULTIPLY_NO_NAN, weights, beside.kept, given.how)
        found.append((xp.mean(weights, axis=-3) if average else weights).reshape(-1))
    return xp.concatenate(found)


def _weighed_there(xp: ArrayModule, given: _Given, average: bool) -> Array:
    size = given.parts.pairs() * (1 if average else given.how.heads)
    out: Array = xp.empty(size, given.operands[0].dtype)
    there.attention_weights(given.heads(), given.parts.groups(xp), given.operands, average, out)
    return out


def _weighed_here(given: _Given, average: bool) -> Array:
    (q, k), heads = given.operands, given.how.heads
    out = np.empty(given.parts.pairs() * heads, q.dtype)
    how, columns = (*given.how[:2], given.scale()), [np.empty((len(x), 0), q.dtype) for x in (q, k)]
    core.machine.attend(how, given.parts.here(), q, k, columns[1], columns[0], **given.for_core(), weights=out)
    if not average or heads == 1:
        return out
    mean, table = np.empty(len(out) // heads, q.dtype), _table_of_heads(given)
    core.machine.reduce_each(core.machine.REDUCED["mean"], mean, out, table)
    return mean


def _table_of_heads(given: _Given) -> HostArray:
    """Of each node where a number for each query and key begins, and those by heads, as `core.machine.reduce_each` has
    them."""
    pairs = np.array([n * m for n, m in given.parts.shapes()])
    pairs, one = pairs[pairs > 0], np.ones_like(pairs[pairs > 0])
    begins = np.cumsum(pairs) - pairs
    return np.stack([begins, begins * given.how.heads, one, one * given.how.heads, pairs], 1).astype(np.int64)


def _weighed_back_here(wanted: Wanted, g: Array, given: _Given, average: bool) -> list[Array | None] | None:
    (q, k), heads = given.operands, given.how.heads
    if average and heads > 1:
        whole, table = np.zeros(given.parts.pairs() * heads, g.dtype), _table_of_heads(given)
        core.machine.reduce_each_back(core.machine.REDUCED["mean"], whole, g, g, whole, table)
        g = whole
    to = [np.zeros(x.shape, x.dtype) if i in wanted else None for i, x in enumerate(given.operands)]
    of_mask = np.zeros(given.parts.pairs() * heads, g.dtype) if MASK_OF_WEIGHTS in wanted else None
    how, columns = (*given.how[:2], given.scale()), [np.empty((len(x), 0), q.dtype) for x in (q, k)]
    places, beside = (*to, None, of_mask), given.for_core()
    core.machine.attend(how, given.parts.here(), q, k, columns[1], columns[0], places, **beside, weights=g)
    found = [*to, of_mask]
    if any(x is not None and has_nan(x) for x in found):  # maybe of a cotangent of zero and what is infinite
        return None
    return [_of_masks(np, found[i], given) if i == MASK_OF_WEIGHTS else found[i] for i in wanted]


def _weighed_back(
    wanted: Wanted, into: Into, xp: ArrayModule, g: Array, given: _Given, average: bool
) -> list[Array | None]:
    """The cotangents of the operands ``wanted``, from those of the weights of all nodes, end to end."""
    q = given.operands[0]
    if q.dtype == np.float16:
        wide = given.cast(np.float32)
        found = _weighed_back(wanted, [None] * len(wanted), xp, g.astype(np.float32), wide, average)
        return [x.astype(np.float16) for x in found if x is not None]
    g = xp.ascontiguousarray(g)
    if not _has_kernels(xp, q):
        return _weighed_back_by_nodes(xp, wanted, g, given, average)
    if xp is not np:
        return _weighed_back_there(wanted, into, xp, g, given.for_kernels(xp), average)
    here = _weighed_back_here(wanted, g, given.for_kernels(xp), average)
    return _weighed_back_by_nodes(xp, wanted, g, given, average) if here is None else here


def _weighed_back_there(
    wanted: Wanted, into: Into, xp: ArrayModule, g: Array, given: _Given, average: bool
) -> list[Array | None]:
    of_mask = xp.empty(given.parts.pairs() * given.how.heads if MASK_OF_WEIGHTS in wanted else 0, g.dtype)
    columns = [xp.empty((len(x), 0), g.dtype) for x in given.operands]  # no values, and of results no columns
    arrays = columns[0], *given.operands, columns[1]
    places = [MASK if i == MASK_OF_WEIGHTS else i for i in wanted]
    groups = given.parts.groups(xp)
    answers = there.attend_back(given.heads(), groups, arrays, places, into, of_mask, (g, average))
    return [_of_masks(xp, x, given) if i == MASK else x for i, x in zip(places, answers, strict=True)]


def _weighed_back_by_nodes(
    xp: ArrayModule, wanted: Wanted, g: Array, given: _Given, average: bool
) -> list[Array | None]:
    found, begin = [], 0
    for operands, beside in given.parts.nodes_of(given.operands, given.beside, given.how):
        size = math.prod((len(operands[0]), 1 if average else given.how.heads, *[x.shape[1] for x in operands]))
        some = g[begin : begin + size].reshape(len(operands[0]), -1)
        found.append(_composed_weights_back(xp, wanted, some, operands, beside, given.how, average))
        begin += size
    rows = [[x.reshape(-1, x.shape[-1]) if i != MASK_OF_WEIGHTS else x.reshape(-1) for x in each]
            for i, each in zip(wanted, zip(*found, strict=True), strict=True)]  # fmt: skip
    return [xp.concatenate(each) for each in rows]


def _composed_weights_back(
    xp: ArrayModule, wanted: Wanted, g: Array, operands: Sequence[Array], beside: _Beside, how: _How, average: bool
) -> list[Array]:
    q, k = (_by_heads(x, how.heads) for x in operands)
    n, m = q.shape[-3], k.shape[-3]
    weights = _weights(xp, q, k, beside.mask, how)
    if average:
        g = g.reshape((*g.shape[:-1], 1, n, m)) * (1.0 / how.heads)
        of_weights = xp.broadcast_to(g, (*g.shape[:-3], how.heads, n, m))
    else:
        of_weights = g.reshape((*g.shape[:-1], how.heads, n, m))
    slopes, scores = _of_scores(xp, of_weights, weights, beside, how, _scale(q.shape[-1]))
    of = _of_queries, _of_keys
    return [_of_mask(xp, slopes, how) if i == MASK_OF_WEIGHTS else _of_heads(of[i](xp, scores, q, k)) for i in wanted]


def _weights_forward(
    masked: bool, xp: ArrayModule, *operands: Array, out: Array = None, average: bool, **static: Any
) -> Array:
    count = MASK_OF_WEIGHTS
    batch = max([len(x) for i, x in enumerate(operands) if x.ndim > (2 if i < count else 1)], default=1)
    parts = _Parts(None, (operands[0].shape[-2], operands[1].shape[-2]), batch)
    given = _Given(_laid(xp, operands[:count], batch), _beside_of(operands[count:], masked), parts, _How(**static))
    return _weights_made(xp, given, average).reshape(batch, -1)


def _weights_back(
    masked: bool,
    wanted: Wanted,
    into: Into,
    xp: ArrayModule,
    g: Array,
    y: Array,
    *operands: Array,
    **static: Any,
) -> list[Array | None]:
    average = static.pop("average")
    how, own, beside = _How(**static), operands[:MASK_OF_WEIGHTS], _beside_of(operands[MASK_OF_WEIGHTS:], masked)
    if symbolic(xp):
        return list(_composed_weights_back(xp, wanted, g, own, beside, how, average))
    parts = _Parts(None, (own[0].shape[-2], own[1].shape[-2]), len(g))
    given = _Given(_laid(xp, own, len(g)), beside, parts, how)
    found = _weighed_back(wanted, [None] * len(wanted), xp, g.reshape(-1), given, average)
    shapes = [operands[i].shape[-1:] if i == MASK_OF_WEIGHTS else operands[i].shape[-2:] for i in wanted]
    return [None if x is None else x.reshape((parts.nodes, *shape)) for x, shape in zip(found, shapes, strict=True)]


def _weights_forward_by_parts(
    masked: bool, xp: ArrayModule, *operands: Array, out: Array = None, average: bool, **static: Any
) -> Array:
    return _weights_made(xp, _given_by_parts(MASK_OF_WEIGHTS, masked, operands, static), average)


def _weights_back_by_parts(
    masked: bool,
    wanted: Wanted,
    into: Into,
    xp: ArrayModule,
    g: Array,
    y: Array,
    *operands: Array,
    **static: Any,
) -> list[Array | None]:
    average = static.pop("average")
    whole = _given_by_parts(MASK_OF_WEIGHTS, masked, operands, static)
    into = [None if i == MASK_OF_WEIGHTS else place for i, place in zip(wanted, into, strict=True)]
    return _weighed_back(wanted, into, xp, g, whole, average)


def _attention(name: str, masked: bool, dropping: bool, by_parts: bool) -> Op:
    both = (
        (_attention_forward_by_parts, _attention_back_by_parts) if by_parts else (_attention_forward, _attention_back)
    )
    return _with_beside(name, _attention_infer, both, MASK, masked, dropping + by_parts)


def _attention_weights(name: str, masked: bool, dropping: bool, by_parts: bool) -> Op:
    both = (_weights_forward_by_parts, _weights_back_by_parts) if by_parts else (_weights_forward, _weights_back)
    return _with_beside(name, _weights_infer, both, MASK_OF_WEIGHTS, masked, dropping + by_parts)


def _with_beside(
    name: str, infer: Callable[..., Result], both: tuple[Any, Any], own: int, masked: bool, without: int
) -> Op:
    """The operation of so many operands of its own, and a mask if there is one; ``without`` cotangents are others."""
    forward, back = both
    joint, count = partial(back, masked), own + masked + without
    vjps = jointly(tuple([_vjp_alone(joint, i, count) for i in range(own + masked)]), joint)
    return Op(name, partial(infer, masked), partial(forward, masked), (*vjps, *(None,) * without))


_BESIDE_OF = {"": (False, False), "masked_": (True, False), "dropped_": (False, True), "masked_dropped_": (True, True)}


def _each(make: Callable[..., Op], name: str, by_parts: bool) -> list[Op]:
    return [make(f"{prefix}{name}", *kind, by_parts=by_parts) for prefix, kind in _BESIDE_OF.items()]


ATTENTIONS = {op.name: register(op) for op in _each(_attention, "attention", by_parts=False)}
ATTENTION_WEIGHTS = {op.name: register(op) for op in _each(_attention_weights, "attention_weights", by_parts=False)}
# Of rows of many examples end to end; ``ends`` (2, nodes), on the host: where those of each end, of queries and keys.
ATTENTIONS_BY_PARTS = {
    op.name: op for op in (*_each(_attention, "attention", True), *_each(_attention_weights, "attention_weights", True))
}
ATTENTION, ATTENTION_BY_PARTS = ATTENTIONS["attention"], ATTENTIONS_BY_PARTS["attention"]
