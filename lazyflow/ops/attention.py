"""Attention of the rows of one matrix to those of another, by heads (Vaswani et al. 2017).

Products, softmax and products again are one operation, and the cotangents of its three operands come in one call. A
launch of many examples is their rows end to end, with the numbers of each: of examples of one size by a batch axis, of
others by where the rows of each end (`ATTENTION_BY_PARTS` and `lazyflow.graph.joined`). Scores and weights are made for
some rows at a time, and again for the cotangents (Dao et al. 2022); nothing of their size is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lazyflow import core
from lazyflow.cuda import attention as there
from lazyflow.cuda.rows import Groups, Places, has_rows
from lazyflow.device import Array, ArrayModule
from lazyflow.errors import ShapeError
from lazyflow.ops.base import (
    Abstract,
    Op,
    Result,
    jointly,
    looking_at,
    on_device,
    register,
    require_floating,
    symbolic,
    written,
)
from lazyflow.ops.formula import has_nan
from lazyflow.ops.linalg import BATCH, contract, contract_or_zero, lettered
from lazyflow.ops.reduce import SOFTMAX
from lazyflow.ops.sparse import core_has

_softmax_slopes: Any = SOFTMAX.vjps[0]
Wanted = Sequence[int]
Into = Sequence[Places | None]


class _How(NamedTuple):
    heads: int
    causal: bool


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

    def groups(self, xp: ArrayModule) -> tuple[Groups, Groups]:
        """The same as kernels of a device have it."""
        if self.ends is None:
            return Groups(None, self.sizes[0]), Groups(None, self.sizes[1])
        ends = on_device(xp, self.ends)
        return Groups(ends[0]), Groups(ends[1])

    def nodes_of(self, operands: Sequence[Array]) -> Iterator[list[Array]]:
        """Queries, or what has as many rows, and keys, or such, of some nodes at a time, with a batch axis."""
        kinds = (0, 1, 1)[: len(operands)]
        if self.ends is None:
            yield [
                x.reshape(self.nodes, self.sizes[kind], x.shape[-1]) for x, kind in zip(operands, kinds, strict=True)
            ]
            return
        low = (0, 0)
        for high in zip(*self.ends.tolist(), strict=True):
            yield [x[None, low[kind] : high[kind]] for x, kind in zip(operands, kinds, strict=True)]
            low = high


def _attention_infer(q: Abstract, k: Abstract, v: Abstract, *, heads: int = 1, causal: bool = False) -> Result:
    for operand in (q, k, v):
        require_floating("attention", operand)
    if not len(q.shape) == len(k.shape) == len(v.shape) == 2 or q.shape[1] != k.shape[1] or k.shape[0] != v.shape[0]:
        raise ShapeError(
            f"attention takes queries (t, d), keys (s, d) and values (s, e), got {q.shape}, {k.shape} and {v.shape}"
        )
    if heads < 1 or q.shape[1] % heads or v.shape[1] % heads or not q.shape[1] or not k.shape[0]:
        raise ShapeError(f"attention: {heads} heads of queries {q.shape}, keys {k.shape} and values {v.shape}")
    dtype = np.result_type(q.dtype, k.dtype, v.dtype)
    return Result((q.shape[0], v.shape[1]), dtype, {"heads": heads, "causal": causal})


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


def _weights(xp: ArrayModule, q: Array, k: Array, causal: bool) -> Array:
    """(heads, n, m), of queries and keys."""
    scores = contract(xp, q, lettered(q, "nhd"), k, lettered(k, "mhd"), _letters("hnm", q, k)) * _scale(q.shape[-1])
    if causal:
        scores = xp.where(_seen_keys(xp, scores), scores, -math.inf)
    if symbolic(xp):
        return xp.record_op(SOFTMAX, (scores,), axis=-1)
    return SOFTMAX.forward(xp, scores, axis=-1)


def _seen_keys(xp: ArrayModule, scores: Array) -> Array:
    return on_device(xp, np.tri(*scores.shape[-2:], dtype=bool))


def _composed(xp: ArrayModule, operands: Sequence[Array], how: _How) -> Array:
    q, k, v = (_by_heads(x, how.heads) for x in operands)
    weights = _weights(xp, q, k, how.causal)
    return _of_heads(
        contract(xp, weights, lettered(weights, "hnm"), v, lettered(v, "mhe"), _letters("nhe", weights, v))
    )


def _composed_back(xp: ArrayModule, wanted: Wanted, g: Array, operands: Sequence[Array], how: _How) -> list[Array]:
    """The cotangents of the operands ``wanted``."""
    g, q, k, v = (_by_heads(x, how.heads) for x in (g, *operands))
    weights, scale = _weights(xp, q, k, how.causal), _scale(q.shape[-1])
    w, of_g = lettered(weights, "hnm"), lettered(g, "nhe")
    of_weights = contract_or_zero(xp, (g, of_g), (v, lettered(v, "mhe")), BATCH + "hnm")
    whole = weights if weights.ndim == of_weights.ndim else xp.broadcast_to(weights, of_weights.shape)
    slopes = _softmax_slopes(xp, of_weights, whole, whole, axis=-1) * scale
    if how.causal:
        slopes = xp.where(_seen_keys(xp, slopes), slopes, 0.0)
    found = {
        0: lambda: contract_or_zero(xp, (slopes, BATCH + "hnm"), (k, lettered(k, "mhd")), lettered(q, "nhd")),
        1: lambda: contract_or_zero(xp, (slopes, BATCH + "hnm"), (q, lettered(q, "nhd")), lettered(k, "mhd")),
        2: lambda: contract_or_zero(xp, (g, of_g), (weights, w), lettered(v, "mhe")),
    }
    return [_of_heads(found[i]()) for i in wanted]


# Arrays of all nodes, end to end.


def _attended(xp: ArrayModule, operands: Sequence[Array], parts: _Parts, how: _How, out: Array = None) -> Array:
    """The rows of the result, in ``out`` if there is one."""
    first, last = operands[0], operands[2]
    if first.dtype == np.float16:
        return written(out, _attended(xp, [x.astype(np.float32) for x in operands], parts, how).astype(np.float16))
    if not _has_kernels(xp, first):
        return written(out, _by_nodes(xp, operands, parts, how))
    if out is None:
        out = xp.empty((len(first), last.shape[-1]), first.dtype)
    given, scale = [xp.ascontiguousarray(x) for x in operands], _scale(first.shape[-1] // how.heads)
    if xp is np:
        core.machine.attend((*how, scale), parts.here(), *given, out)
    else:
        there.attend(there.Heads(*how, scale), parts.groups(xp), given, out)
    return out


def _has_kernels(xp: ArrayModule, x: Array) -> bool:
    return core_has(x) if xp is np else bool(x.size) and has_rows(x.dtype)


def _by_nodes(xp: ArrayModule, operands: Sequence[Array], parts: _Parts, how: _How) -> Array:
    found = [_composed(xp, some, how) for some in parts.nodes_of(operands)]
    return xp.concatenate([y.reshape(-1, y.shape[-1]) for y in found])


def _pulled_back(
    wanted: Wanted, into: Into, xp: ArrayModule, g: Array, operands: Sequence[Array], parts: _Parts, how: _How
) -> list[Array | None]:
    """The cotangents of the operands ``wanted``; None for those that were brought into their places."""
    first = operands[0]
    if first.dtype == np.float16:
        wide = [x.astype(np.float32) for x in (g, *operands)]
        found = _pulled_back(wanted, [None] * len(wanted), xp, wide[0], wide[1:], parts, how)
        return [x.astype(np.float16) for x in found if x is not None]
    if not _has_kernels(xp, first):
        return _back_by_nodes(xp, wanted, g, operands, parts, how)
    given, scale = [xp.ascontiguousarray(x) for x in (g, *operands)], _scale(first.shape[-1] // how.heads)
    if xp is not np:
        return there.attend_back(there.Heads(*how, scale), parts.groups(xp), given, wanted, into)
    to = [np.zeros(x.shape, x.dtype) if i in wanted else None for i, x in enumerate(operands)]
    core.machine.attend((*how, scale), parts.here(), *given[1:], given[0], tuple(to))
    if any(x is not None and has_nan(x) for x in to):  # maybe of a cotangent of zero and what is infinite
        return _back_by_nodes(xp, wanted, g, operands, parts, how)
    return [to[i] for i in wanted]


def _back_by_nodes(
    xp: ArrayModule, wanted: Wanted, g: Array, operands: Sequence[Array], parts: _Parts, how: _How
) -> list[Array | None]:
    pairs = zip(parts.nodes_of([g, operands[1]]), parts.nodes_of(operands), strict=True)
    found = [_composed_back(xp, wanted, some[0], of, how) for some, of in pairs]
    return [xp.concatenate([x.reshape(-1, x.shape[-1]) for x in each]) for each in zip(*found, strict=True)]


# The operation, of examples of one size, and of any sizes.


def _in_one_dtype(xp: ArrayModule, arrays: Sequence[Array]) -> list[Array]:
    dtype = np.result_type(*[x.dtype for x in arrays])
    return [x.astype(dtype, copy=False) for x in arrays]


def _laid(xp: ArrayModule, arrays: Sequence[Array], batch: int) -> list[Array]:
    """Arrays of one dtype, with the rows of all examples end to end."""
    whole = [x if x.ndim > 2 else xp.broadcast_to(x, (batch, *x.shape)) for x in _in_one_dtype(xp, arrays)]
    return [x.reshape(x.shape[0] * x.shape[1], x.shape[2]) for x in whole]


def _attention_forward(xp: ArrayModule, *operands: Array, out: Array = None, heads: int, causal: bool) -> Array:
    batch = max([len(x) for x in operands if x.ndim > 2], default=1)
    q, k, v = _laid(xp, operands, batch)
    parts = _Parts(None, (operands[0].shape[-2], operands[1].shape[-2]), batch)
    shape = (batch, parts.sizes[0], v.shape[-1])
    fits = out is not None and out.shape == shape and out.dtype == q.dtype and out.flags.c_contiguous
    place = out.reshape(len(q), v.shape[-1]) if fits else None
    found = _attended(xp, (q, k, v), parts, _How(heads, causal), place)
    return out if fits else found.reshape(shape)


def _attention_back(
    wanted: Wanted, into: Into, xp: ArrayModule, g: Array, y: Array, *operands: Array, heads: int, causal: bool
) -> list[Array | None]:
    how = _How(heads, causal)
    if symbolic(xp):
        return list(_composed_back(xp, wanted, g, operands, how))
    parts = _Parts(None, (operands[0].shape[-2], operands[1].shape[-2]), len(g))
    g, *rows = _laid(xp, (g, *operands), len(g))
    into = [_as_rows_of_places(place, *operands[i].shape[-2:]) for i, place in zip(wanted, into, strict=True)]
    found = _pulled_back(wanted, into, xp, g, rows, parts, how)
    shapes = [(parts.nodes, *operands[i].shape[-2:]) for i in wanted]
    return [None if x is None else x.reshape(shape) for x, shape in zip(found, shapes, strict=True)]


def _as_rows_of_places(places: Places | None, rows: int, width: int) -> Places | None:
    """Places of matrices as those of their rows, where these lie one behind the other."""
    if places is None or places.at is not None or places.pitch != rows * width:
        return None
    return Places(places.memory, width, places.rows * rows, width, None, places.adds)


def _attention_forward_by_parts(
    xp: ArrayModule, q: Array, k: Array, v: Array, ends: Array, out: Array = None, *, heads: int, causal: bool
) -> Array:
    rows = _in_one_dtype(xp, (q, k, v))
    return _attended(xp, rows, _Parts(ends, (0, 0), ends.shape[1]), _How(heads, causal), out)


def _attention_back_by_parts(
    wanted: Wanted, into: Into, xp: ArrayModule, g: Array, y: Array, *operands: Array, heads: int, causal: bool
) -> list[Array | None]:
    *given, ends = operands
    g, *rows = _in_one_dtype(xp, (g, *given))
    return _pulled_back(wanted, into, xp, g, rows, _Parts(ends, (0, 0), ends.shape[1]), _How(heads, causal))


def _vjp_alone(joint: Callable[..., list[Array | None]], operand: int, count: int) -> Callable[..., Array]:
    def vjp(xp: ArrayModule, g: Array, y: Array, *operands: Array, **static: Any) -> Array:
        return joint((operand,), (None,), xp, g, y, *operands, **static)[0]

    return looking_at(vjp, range(1, count + 1))


def _attention(forward: Callable[..., Array], joint: Callable[..., list[Array | None]], count: int) -> Op:
    vjps = jointly(tuple([_vjp_alone(joint, i, count) for i in range(3)]), joint)
    return Op("attention", _attention_infer, forward, (*vjps, None)[:count])


ATTENTION = register(_attention(_attention_forward, _attention_back, 3))
# Of rows of many examples end to end; ``ends`` (2, nodes), on the host: where those of each end, of queries and keys.
ATTENTION_BY_PARTS = _attention(_attention_forward_by_parts, _attention_back_by_parts, 4)
