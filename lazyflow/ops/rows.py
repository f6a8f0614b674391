"""What operations do row by row: where the first axis of a value is nothing but a batch of rows.

``tanh`` of a matrix of n rows is n times ``tanh`` of a row. So a node that works row by row can share a launch with
nodes of the same rows and of other numbers of them (see `lazyflow.graph.joined`): the launch sees all rows of all nodes
as one batch, and the operation is the same, of values with an axis less. Here stands for which operations that holds,
along which operands, and which static attributes the operation of rows has.

Others work on all rows of an operand that has as many as it likes: a sum over them, reading some, adding them by
segments. Of these a launch sees the rows of all nodes end to end, too, and is told where those of each are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

from lazyflow.ops.attention import ATTENTION_WEIGHTS, ATTENTIONS
from lazyflow.ops.base import OPS, Op, Shape
from lazyflow.ops.segment import BY_PARTS
from lazyflow.ops.stretches import ALONG_STRETCHES, LOSSES_OF_ELEMENTS, OVER_MORE_AXES


class ByRows(NamedTuple):
    """The operation on rows that an operation is made of: with its static attributes, and of each operand whether it
    has a row for each row of the result (it *walks*) or is one for all of them."""

    op: Op
    walks: tuple[bool, ...]
    static: Mapping[str, Any]


class ByParts(NamedTuple):
    """The operation on rows of many nodes end to end that stands for one on each, whose result has rows of the shape
    ``row``. ``sizes``: numbers of rows; ``spans``: of each operand which of them is its own.

    ``payload``: what the operation is given as its last operand: ``"place"``, for each of ``sizes[0]`` rows the start
    of its node among the ``sizes[1]`` of all and how many these are; ``"count"``, the number of each node's rows,
    ``sizes[0]``; ``"ends"``, where the rows of each node end, ``sizes[0]`` and ``sizes[1]`` of them; or nothing.
    ``of_list``: it has one operand, the rows of all that the node reads, ``sizes[k]`` of the k-th, of the shape
    ``row``."""

    op: Op
    spans: tuple[int, ...]
    sizes: Shape
    payload: str
    static: Mapping[str, Any]
    row: Shape
    of_list: bool = False


Static = Mapping[str, Any]
Rule = Callable[[Op, Sequence[Shape], Shape, Static], "ByRows | None"]


def by_rows(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByRows | None:
    """How an operation on operands of these shapes is one on rows, the first axis of its result; None if it is not.

    >>> matmul, shapes = OPS["matmul"], [(5, 3), (3, 2)]
    >>> by_rows(matmul, shapes, (5, 2), {"letters": ("ab", "bc", "ac")})[1:]
    ((True, False), {'letters': ('b', 'bc', 'c')})
    """
    rule = _elementwise if op.elementwise else RULES.get(op.name)
    if rule is None or not result or not result[0]:
        return None
    found = rule(op, operands, result, static)
    if found is None or not any(found.walks):
        return None
    heads = [shape[:1] for shape, walks in zip(operands, found.walks, strict=True) if walks]
    return found if all(head == result[:1] for head in heads) else None


def by_parts(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByParts | None:
    """How an operation on operands of these shapes is one on rows, of which each operand has a number of its own; None
    if it is not.

    >>> by_parts(OPS["take"], [(5, 3), (2,)], (2, 3), {"name": "take", "axis": -2, "ndim": 2, "index_ndim": 1})[1:4]
    ((1, 0), (2, 5), 'place')
    """
    rule = PART_RULES.get(op.name)
    return None if rule is None else rule(OPS_OF_PARTS[op.name], operands, result, static)


def _elementwise(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByRows | None:
    walks = tuple([len(shape) == len(result) and shape[0] == result[0] for shape in operands])
    return ByRows(op, walks, static)


def _every(op: Op, operands: Sequence[Shape], **static: object) -> ByRows:
    return ByRows(op, (True,) * len(operands), static)


def _other_axes(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByRows | None:
    """An operation along axes: of rows, if the first is not among them."""
    axis, first = static["axis"], -len(operands[0])
    return _every(op, operands, **static) if first not in (axis if isinstance(axis, tuple) else (axis,)) else None


def _lettered(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByRows | None:
    """A product: rows are the letter that is the first of the result, where it is the first of operands, too."""
    *groups, answer = static["letters"]
    row = answer[0]
    if any(row in group[1:] for group in groups):
        return None
    letters = tuple([group[group[:1] == row :] for group in (*groups, answer)])
    return ByRows(op, tuple([group[:1] == row for group in groups]), {"letters": letters})


def _affine_by_rows(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByRows | None:
    heads = static["heads"]
    return ByRows(op, (False, False, True), {"heads": heads[1:]}) if heads else None


def _losses(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByRows | None:
    return _every(op, operands, **{**static, "ndim": static["ndim"] - 1}) if static["reduction"] == "none" else None


def _indexed(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByRows | None:
    """Reading at indices: by the rows of the indices where these come first, else by those of the array."""
    before = static["ndim"] + static["axis"]
    if before:
        return ByRows(op, (True, False), {**static, "ndim": static["ndim"] - 1})
    count = static["index_ndim"]
    return ByRows(op, (False, True), {**static, "index_ndim": count - 1}) if count else None


def _concatenate_by_rows(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByRows | None:
    ndim = static["ndim"]
    return _every(op, operands, **{**static, "ndim": ndim - 1}) if static["axis"] != -ndim else None


def _concatenate_same_by_rows(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByRows | None:
    """Of rows there is no need to have the operands as one array."""
    axis, ndim = static["axis"], len(result)
    if axis == -ndim:
        return None
    size = operands[0][axis]
    ends = tuple(range(0, size * (len(operands) + 1), size)) if size else (0,) * (len(operands) + 1)
    return _every(OPS["concatenate"], operands, axis=axis, ndim=ndim - 1, ends=ends)


def _transpose_by_rows(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByRows | None:
    order, inverse = static["order"], static["inverse"]
    return _every(op, operands, order=order[1:], inverse=inverse[1:]) if order[0] == -len(order) else None


def _swapaxes_by_rows(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByRows | None:
    return _every(op, operands, **static) if -len(result) not in static.values() else None


def _getitem_by_rows(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByRows | None:
    key, ndim = static["key"], static["ndim"]
    whole = ndim > 0 and key[0] == ("slice", 0, operands[0][0], 1)
    return _every(op, operands, key=key[1:], ndim=ndim - 1) if whole else None


def _broadcast_by_rows(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByRows | None:
    """Along other axes; a vector for all rows would have no rows of its own."""
    ndim = static["ndim"]
    walks = ndim == len(result) and operands[0][0] == result[0]
    return _every(op, operands, shape=result[1:], ndim=ndim - 1) if walks else None


def _pad_by_rows(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByRows | None:
    pads = static["pads"]
    return _every(op, operands, **{**static, "pads": pads[1:]}) if pads[0] == (0, 0) else None


def _same_axes(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByRows | None:
    return _every(op, operands, **static)


def _added(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByParts | None:
    """Rows and an index for each."""
    if static.get("index_ndim", 1) != 1:
        return None
    return ByParts(op, (0, 0), (operands[1][0], static["n"]), "place", {"name": static["name"]}, result[1:])


def _read_parts(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByParts | None:
    if static["ndim"] + static["axis"] or not static["index_ndim"]:
        return None
    sizes = operands[1][0], operands[0][0]
    return ByParts(op, (1, 0), sizes, "place", {"name": static["name"]}, result[1:])


def _over_parts(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByParts | None:
    (shape,), axes = operands, static["axis"]
    if axes != tuple(range(-len(shape), len(axes) - len(shape))) or not axes or not shape[0]:
        return None
    own = {key: static[key] for key in ("ddof", "ord") if key in static}
    if len(axes) == 1:
        return ByParts(op, (0,), shape[:1], "count", own, result[1:] if static["keepdims"] else result)
    if static["keepdims"]:
        return None
    return ByParts(OVER_MORE_AXES[op.name], (0,), shape[:1], "count", {**own, "more": len(axes) - 1}, result)


def _along_parts(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByParts | None:
    return ByParts(op, (0,), result[:1], "count", {}, result[1:]) if static["axis"] == -len(result) else None


def _running_parts(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByParts | None:
    axis = static["axis"] == (-len(result),) and operands[0] == result
    return ByParts(op, (0,), result[:1], "count", {}, result[1:]) if axis else None


def _ordered_parts(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByParts | None:
    return ByParts(op, (0,), result[:1], "count", {}, result[1:]) if static["axis"] == -len(result) else None


def _padded_parts(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByParts | None:
    """With rows of one number before and behind, and nothing along other axes."""
    (pair, *others), fill = static["pads"], static["fill"]
    if fill is None or any(map(any, others)) or not any(pair) or not operands[0][0]:
        return None
    return ByParts(op, (0,), operands[0][:1], "count", {"pair": pair, "fill": fill}, result[1:])


def _one_of_parts(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByParts | None:
    """One element of a vector."""
    return None if len(operands[0]) > 1 or result else ByParts(op, (0, 1), (operands[0][0], 1), "count", {}, ())


def _losses_of_parts(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByParts | None:
    if static["reduction"] == "none" or not operands[0] or not operands[0][0]:
        return None
    rest = {key: value for key, value in static.items() if key != "ndim"}
    return ByParts(op, (0, 0), operands[0][:1], "count", rest, ())


def _drawn_parts(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByParts | None:
    if not result:
        return None
    return ByParts(op, (0,) * len(operands), (prod(result),), "count", {"dtype": static["dtype"]}, ())


def _attention_by_parts(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByParts | None:
    """Queries, keys and values, and the elements of a mask and of factors of the weights."""
    beside = [shape[0] for shape in operands[3:]]
    spans = (0, 1, 1, *range(2, 2 + len(beside)))
    return ByParts(op, spans, (operands[0][0], operands[1][0], *beside), "ends", static, result[1:])


def _attention_weights_by_parts(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByParts | None:
    """Queries and keys, and the elements of a mask and of factors."""
    beside = [shape[0] for shape in operands[2:]]
    spans = (0, 1, *range(2, 2 + len(beside)))
    return ByParts(op, spans, (operands[0][0], operands[1][0], *beside), "ends", static, ())


def _end_to_end(op: Op, operands: Sequence[Shape], result: Shape, static: Static) -> ByParts | None:
    """Values side by side along the first axis."""
    stacks = op.name in ("stack", "stack_rows")
    if static.get("axis", -len(result)) != -len(result):
        return None
    whole = stacks and len(operands[0]) < 2
    sizes = (1,) * len(operands) if whole else tuple([shape[0] for shape in operands])
    return ByParts(op, (0,), sizes, "", {}, operands[0] if whole else operands[0][1:], of_list=True)


OPS_OF_PARTS = {**BY_PARTS, **ALONG_STRETCHES}
PART_RULES: dict[str, Callable[[Op, Sequence[Shape], Shape, Static], ByParts | None]] = {
    **dict.fromkeys(("scatter", "segment_mean", "segment_max", "segment_softmax"), _added),
    **dict.fromkeys(("lookup", "take"), _read_parts),
    **dict.fromkeys(("argmax", "argmin", "logsumexp", "max", "mean", "min", "norm", "std", "sum", "var"), _over_parts),
    "argsort": _ordered_parts,
    "pad": _padded_parts,
    **dict.fromkeys(("cumsum", "flip"), _running_parts),
    **dict.fromkeys(("cross_entropy", "nll", "pick"), _one_of_parts),
    **dict.fromkeys(LOSSES_OF_ELEMENTS, _losses_of_parts),
    **dict.fromkeys(("log_softmax", "softmax"), _along_parts),
    **dict.fromkeys(ATTENTIONS, _attention_by_parts),
    **dict.fromkeys(ATTENTION_WEIGHTS, _attention_weights_by_parts),
    **dict.fromkeys(("bernoulli", "dropout_mask", "gumbel", "normal", "uniform"), _drawn_parts),
    **dict.fromkeys(("concatenate", "concatenate_rows", "concatenate_same", "stack", "stack_rows"), _end_to_end),
}

ALONG = (
    "sum", "mean", "prod", "max", "min", "any", "all", "argmax", "argmin", "var", "std", "norm", "logsumexp", "softmax",
    "log_softmax", "sparsemax", "flip", "standardise",
)  # fmt: skip
RULES: dict[str, Rule] = {
    **dict.fromkeys((*ALONG, "argsort"), _other_axes),
    **dict.fromkeys(("matmul", "dot", "outer", "einsum", "einsum_or_zero"), _lettered),
    **dict.fromkeys(("cross_entropy", "nll", "hinge", *LOSSES_OF_ELEMENTS), _losses),
    **dict.fromkeys(("lookup", "take", "pick"), _indexed),
    **dict.fromkeys(("astype", "one_hot"), _same_axes),
    "affine": _affine_by_rows,
    "broadcast_to": _broadcast_by_rows,
    "concatenate": _concatenate_by_rows,
    "concatenate_same": _concatenate_same_by_rows,
    "getitem": _getitem_by_rows,
    "pad": _pad_by_rows,
    "swapaxes": _swapaxes_by_rows,
    "transpose": _transpose_by_rows,
}
