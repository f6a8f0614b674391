"""Between batches and examples. A model sees one example, so a batch is taken apart, and the engine puts it together.

A batch comes as a list of pairs ``(x, y)``, as `lazyflow.data.batches` makes them, or as a pair ``(xs, ys)`` with a
leading batch axis, as other libraries' loaders make them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lazyflow.device import HostArray, is_on_gpu, to_host
from lazyflow.errors import ShapeError
from lazyflow.functions import mean
from lazyflow.record.expr import Expr, is_evaluated
from lazyflow.run.engine import forward
from lazyflow.run.map import map as map_examples
from lazyflow.state import is_array

__all__ = ["examples", "host", "mean_loss", "mean_of", "rows", "values"]


def examples(batch: Any) -> list[tuple[Any, Any]]:
    """The examples ``(x, y)`` of a batch.

    ``batch``: a list of pairs, one an example, which is what `lazyflow.data.batches` gives; or a tuple ``(xs, ys)`` of
    two arrays or sequences with an entry for each example (also a list of two arrays, as PyTorch's ``DataLoader``
    gives). Integer labels in an array become Python's.

    Raises ``TypeError`` for anything else and `ShapeError` for ``xs`` and ``ys`` of different length.

    >>> examples([("a", 0), ("b", 1)])
    [('a', 0), ('b', 1)]
    >>> examples((["a", "b"], np.array([0, 1])))
    [('a', 0), ('b', 1)]
    """
    if _in_columns(batch):
        xs, ys = map(rows, batch)
        if len(xs) != len(ys):
            raise ShapeError(f"a batch (xs, ys) needs as many xs as ys, got {len(xs)} and {len(ys)}")
        return list(zip(xs, ys, strict=True))
    if not isinstance(batch, list):
        raise TypeError(
            f"a batch is a list of examples (x, y) or a tuple (xs, ys), got a {type(batch).__name__}; "
            "prepare_batch= may be a function that makes such a list of it"
        )
    for position, example in enumerate(batch):
        if not (isinstance(example, tuple | list) and len(example) == 2):
            raise TypeError(f"an example is a pair (x, y); number {position} of the batch is {_shown(example)}")
    return [(x, y) for x, y in batch]


def _in_columns(batch: Any) -> bool:
    pair = isinstance(batch, tuple | list) and len(batch) == 2
    return pair and (isinstance(batch, tuple) or all(map(is_array, batch)))


def _shown(value: Any) -> str:
    return f"{value!r:.60}" if not is_array(value) else f"an array of shape {tuple(value.shape)}"


def rows(column: Any) -> Sequence[Any]:
    """The entries of an array or a sequence, one an example.

    >>> rows(np.array([3, 4])), rows(np.zeros((2, 3)))[0].shape
    ([3, 4], (3,))
    """
    if not is_array(column):
        return list(column)
    if is_on_gpu(column):
        return list(column)  # stays on its device
    array = np.asarray(column)
    if not array.ndim:
        raise ShapeError("an array of a batch needs a leading axis, one entry an example; got one without axes")
    return array.tolist() if array.ndim == 1 and array.dtype.kind in "iu" else list(array)


def host(value: Any) -> HostArray:
    """An expression's value, or anything that NumPy makes an array of, as a NumPy array."""
    if isinstance(value, Expr):
        return value.numpy()
    return np.asarray(to_host(value))


def values(outputs: Any) -> Any:
    """Lists, tuples and dicts of expressions as the same of NumPy arrays; what was not computed yet runs together.

    A value that was computed keeps the numbers it had then, whatever has become of the parameters since.

    >>> import lazyflow as lf
    >>> values([(lf.constant(1.0) + 1, "kept")])
    [(array(2., dtype=float32), 'kept')]
    """
    found: list[Expr] = []
    _visit(outputs, found.append)
    forward([e for e in found if not is_evaluated(e)])
    return _visit(outputs, lambda e: e.numpy())


def _visit(tree: Any, visit: Callable[[Expr], Any]) -> Any:
    """``tree`` with ``visit(e)`` in place of every expression."""
    if isinstance(tree, Expr):
        return visit(tree)
    if isinstance(tree, dict):
        return {key: _visit(value, visit) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        items = [_visit(value, visit) for value in tree]
        return items if isinstance(tree, list) else tuple(items)
    return tree


def mean_loss(loss_fn: Callable[[Any, Any], Any], outputs: Sequence[Any], targets: Sequence[Any]) -> Expr:
    """The mean over examples of ``loss_fn(output, target)``. Raises `ShapeError` unless that is one number each.

    >>> import lazyflow as lf
    >>> mean_loss(lf.mse, [lf.constant(1.0), lf.constant(3.0)], [0.0, 0.0]).item()
    5.0
    """
    if len(outputs) != len(targets):
        raise ShapeError(f"as many outputs as targets are needed, got {len(outputs)} and {len(targets)}")
    return mean_of(map_examples(loss_fn, outputs, targets))


def mean_of(losses: Sequence[Any]) -> Expr:
    """The mean of the losses of examples. Raises `ShapeError` unless they are one number each.

    >>> import lazyflow as lf
    >>> mean_of([lf.constant(1.0), lf.constant(3.0)]).item()
    2.0
    """
    loss = mean(losses)
    if loss.shape:
        raise ShapeError(
            f"the loss of one example must be a single number, shape (), got shape {loss.shape}; "
            "reduce it in the loss function, for example with lf.sum"
        )
    return loss
