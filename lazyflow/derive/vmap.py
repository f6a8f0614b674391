"""Functions of one example as functions of many: `vmap`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyflow import device as devices
from lazyflow import functions
from lazyflow import numpy as names
from lazyflow.derive.cotangents import Walk
from lazyflow.derive.inputs import AnyFunction, finished, is_inside, reads_expressions
from lazyflow.derive.structure import leaves, mapped, rebuilt
from lazyflow.errors import ShapeError
from lazyflow.record.expr import Expr, constant, unstacked

__all__ = ["vmap"]


def vmap(f: AnyFunction, in_axes: int | Sequence[int | None] | None = 0, out_axes: int = 0) -> AnyFunction:
    """A function over stacks of arguments, from ``f`` of one: examples along an axis, and results stacked along one.

    ``in_axes``: the axis that counts the examples, of all arguments or one for each; None for an argument that all
    share. ``f`` is called once for every example, and what the calls have in common runs batched, as everything does:
    they need not even do the same. Arguments and results may be dicts, lists and tuples. Results of arrays are arrays,
    unless a gradient can flow through them, to a parameter that ``f`` reads: then they are expressions.

    >>> import lazyflow as lf, lazyflow.numpy as np
    >>> lf.vmap(np.dot, in_axes=(0, None))(np.arange(6.0).reshape(3, 2), np.ones(2))
    array([1., 5., 9.])
    """
    if not callable(f):
        raise TypeError(f"vmap takes a function, got {type(f).__name__}")

    def function(*args: object) -> object:
        axes = _axes_of(in_axes, len(args))
        count = _example_count(args, axes)
        columns = [
            [_for_all(arg)] * count if axis is None else _examples(arg, axis)
            for arg, axis in zip(args, axes, strict=True)
        ]
        results = [f(*(column[i] for column in columns)) for i in range(count)]
        stacked = _stacked_results(results, out_axes)
        walk = Walk([leaf for _, leaf in leaves(stacked)], inline=False)
        return finished(stacked, reads_expressions(args) or walk.reads_parameters() or is_inside(walk))

    return function


def _axes_of(in_axes: object, count: int) -> tuple[Any, ...]:
    axes = tuple(in_axes) if isinstance(in_axes, list | tuple) else (in_axes,) * count
    if len(axes) != count:
        raise TypeError(f"vmap: in_axes names {len(axes)} arguments, the function was called with {count}")
    if all(axis is None for axis in axes):
        raise TypeError("vmap: in_axes must name an axis of one argument at least")
    return axes


def _example_count(args: Sequence[object], axes: Sequence[Any]) -> int:
    """How many examples there are: the one size of all of the named axes."""
    sizes = {}
    for i, (arg, axis) in enumerate(zip(args, axes, strict=True)):
        for path, leaf in leaves(arg, f"argument {i}") if axis is not None else ():
            shape = leaf.shape if isinstance(leaf, Expr) else np.shape(leaf)
            if not -len(shape) <= axis < len(shape):
                raise ShapeError(f"vmap: {path} of shape {shape} has no axis {axis} to count examples along")
            sizes[path] = shape[axis]
    if len(set(sizes.values())) != 1:
        raise ShapeError(f"vmap: the axes that count the examples must have one size, got {sizes}")
    count = int(next(iter(sizes.values())))
    if not count:
        raise ShapeError("vmap: there are no examples, the axis has size 0")
    return count


def _examples(tree: object, axis: int) -> list[object]:
    """The arguments of every example."""
    parts = [unstacked(constant(_examples_first(leaf, axis))) for _, leaf in leaves(tree)]
    return [rebuilt(tree, iter(example)) for example in zip(*parts, strict=True)]


def _for_all(tree: object) -> object:
    """An argument of all examples: floating arrays are recorded once, not once for each."""
    return mapped(lambda x: constant(x) if devices.is_array(x) and x.dtype.kind == "f" else x, tree)


def _examples_first(leaf: object, axis: int) -> object:
    if devices.is_on_gpu(leaf):
        return devices.module(leaf).moveaxis(leaf, axis, 0)
    return names.moveaxis(leaf if isinstance(leaf, Expr) else np.asarray(leaf), axis, 0)


def _stacked_results(results: list[object], axis: int) -> object:
    rows = [[constant(leaf) for _, leaf in leaves(result)] for result in results]
    if len({len(row) for row in rows}) > 1:
        raise ShapeError("vmap: the function's results must have one structure for all examples")
    return rebuilt(results[0], iter([functions.stack(list(column), axis) for column in zip(*rows, strict=True)]))
