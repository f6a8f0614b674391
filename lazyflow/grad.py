"""Functions that differentiate functions: reverse mode, forward mode, and any order of both.

The functions differentiated are plain Python: NumPy code through `lazyflow.numpy`, the functions of `lazyflow`,
operators, loops, and branches on values. Called with arrays, what these functions return are arrays; called with
expressions, or inside another function that is differentiated, they are expressions. So they nest.

The names are those of HIPS/autograd; `jvp`, `vjp` and `vmap` have the form of JAX. Forward mode transposes twice: what
a vector-Jacobian product does to the cotangent is linear, and the vjp of *that* is a Jacobian-vector product
(J. Townsend, "A new trick for calculating Jacobian vector products", 2017).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any

import numpy as np

from lazyflow import functions, settings
from lazyflow import numpy as names
from lazyflow.cotangents import Node, Walk, cotangents, fitted, node_of
from lazyflow.errors import DTypeError, GradientError, ShapeError
from lazyflow.expr import Expr, constant, record, view
from lazyflow.numpy.dispatch import has_expressions
from lazyflow.ops import OPS
from lazyflow.structure import leaves, mapped, rebuilt
from lazyflow.tape import intern_type

__all__ = [
    "check_grads",
    "elementwise_grad",
    "grad",
    "gradients",
    "hessian",
    "hessian_vector_product",
    "jacobian",
    "jvp",
    "make_jvp",
    "make_vjp",
    "value_and_grad",
    "vjp",
    "vmap",
]

Function = Callable[..., Any]
Argnum = int | Sequence[int]


class _Live(threading.local):
    """The inputs of the functions that this thread is in the middle of differentiating."""

    def __init__(self) -> None:
        self.nodes: set[Node] = set()


_live = _Live()


@contextmanager
def _alive(inputs: Sequence[Expr]) -> Iterator[None]:
    mine = {node_of(e) for e in inputs}
    _live.nodes |= mine
    try:
        yield
    finally:
        _live.nodes -= mine


# Inputs and outputs.


def _input(x: Any, what: str) -> Expr:
    """A value as an input to differentiate by: a node of its own, through which gradients flow. Free."""
    if not isinstance(x, Expr | np.ndarray | np.generic | float) and not hasattr(x, "__cuda_array_interface__"):
        raise TypeError(f"{what} is no array, number or expression but {type(x).__name__}; differentiate by others")
    e = constant(np.float64(x) if isinstance(x, float) and not isinstance(x, np.generic) else x)
    if e.dtype.kind != "f":
        raise DTypeError(
            f"{what} holds {e.dtype}; only floating values can be differentiated by, see .astype('float64')"
        )
    if e.type.parameter is not None:
        e = record(OPS["identity"], (e,))
    return view(e, intern_type(e.shape, e.dtype, e.device, True), 0)


def _inputs(tree: Any, what: str) -> list[Expr]:
    return [_input(leaf, path) for path, leaf in leaves(tree, what)]


def _output(y: Any, name: str) -> Expr:
    if not isinstance(y, Expr):
        raise GradientError(
            f"{name}: the function returned {_article(y)}, which is no expression: its result does not depend on the "
            "arguments, or was computed from their values (.numpy(), .item(), float()); compute with lazyflow.numpy, "
            "lazyflow or operators"
        )
    return y


def _article(y: Any) -> str:
    return "an array" if isinstance(y, np.ndarray) else f"a {type(y).__name__}"


def _scalar(y: Any, name: str) -> Expr:
    e = _output(y, name)
    if e.size != 1:
        raise GradientError(
            f"{name} of a function whose result has shape {e.shape}: it must be one number; sum it, or use jacobian, "
            "elementwise_grad or vjp"
        )
    return _floating(e, name)


def _floating(e: Expr, name: str) -> Expr:
    if e.dtype.kind != "f":
        raise DTypeError(f"{name}: the function returned {e.dtype}, which has no derivative; it must be floating")
    return e


def _value(e: Expr) -> Any:
    """The value as an array on its device, or as a NumPy number."""
    value = e.engine.value(e)
    return value[()] if isinstance(value, np.ndarray) and not e.shape else value


def _evaluated(tree: Any) -> Any:
    found = [leaf for _, leaf in leaves(tree) if isinstance(leaf, Expr)]
    Expr.engine.forward(found)
    return mapped(lambda leaf: _value(leaf) if isinstance(leaf, Expr) else leaf, tree)


def _has_expressions(args: Sequence[Any]) -> bool:
    return has_expressions(leaf for arg in args for _, leaf in leaves(arg))


def _finished(tree: Any, lazy: bool) -> Any:
    return tree if lazy else _evaluated(tree)


def _is_inside(walk: Walk) -> bool:
    """Whether what was walked over rests on an input of a function that is being differentiated further out."""
    return bool(_live.nodes) and any(node in _live.nodes for node in walk.order)


# Calling the function.


class _Traced:
    """One call of a function with inputs in place of some arguments."""

    def __init__(self, name: str, f: Function, argnum: Argnum, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.name = name
        self.numbers = _numbers(name, argnum, len(args))
        self.trees = tuple(args[i] for i in self.numbers)
        given = [*args, *kwargs.values()]
        with _recording():
            self.inputs = [
                e
                for i, tree in zip(self.numbers, self.trees, strict=True)
                for e in _inputs(tree, f"{name}: argument {i}")
            ]
            traced = rebuilt(self.trees, iter(self.inputs))
            replaced = dict(zip(self.numbers, traced, strict=True))
            with _alive(self.inputs):
                self.y = f(*(replaced.get(i, arg) for i, arg in enumerate(args)), **kwargs)
        self.outputs = [_floating(_output(y, name), name) for _, y in leaves(self.y)]
        self.walk = Walk(self.outputs, [node_of(e) for e in self.inputs])
        self.lazy = _has_expressions(given) or _is_inside(self.walk)
        self.one = isinstance(argnum, int)

    def pulled_back(self, seeds: Sequence[Any]) -> list[Expr]:
        """The gradient of every input."""
        with _recording():
            found = cotangents(list(zip(self.outputs, seeds, strict=True)), self.inputs, self.walk)
            return [_zeros(e) if g is None else g for g, e in zip(found, self.inputs, strict=True)]

    def pushed_forward(self, tangents: Sequence[Any]) -> list[Expr]:
        """The tangent of every output, for those of the inputs: the vjp of the vjp."""
        with _recording():
            seeds = [_input(np.zeros(y.shape, y.dtype), self.name) for y in self.outputs]
            pulled = self.pulled_back(seeds)
            again = Walk(pulled, [node_of(e) for e in seeds])
            found = cotangents(list(zip(pulled, tangents, strict=True)), seeds, again)
            return [_zeros(y) if t is None else t for t, y in zip(found, self.outputs, strict=True)]

    def structured(self, values: Sequence[Any]) -> Any:
        """Values of the inputs in the structure of the arguments."""
        trees = rebuilt(self.trees, iter(values))
        return trees[0] if self.one else trees


def _recording() -> Any:
    """What is differentiated must be recorded with gradients, even inside of ``lf.no_grad()``."""
    return nullcontext() if settings.current().grad else settings.using(grad=True)


def _zeros(e: Expr) -> Expr:
    return constant(np.zeros(e.shape, e.dtype))


def _numbers(name: str, argnum: Argnum, count: int) -> tuple[int, ...]:
    numbers = (argnum,) if isinstance(argnum, int) else tuple(argnum)
    for n in numbers:
        if not -count <= n < count:
            raise TypeError(f"{name}: argnum {n} names no argument, the function was called with {count} of them")
    return tuple(n % count for n in numbers)


def _checked(name: str, f: Any, argnum: Any) -> None:
    if not callable(f):
        raise TypeError(f"{name} takes a function, got {type(f).__name__}; for an expression there is lf.gradients")
    numbers = argnum if isinstance(argnum, list | tuple) else (argnum,)
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int) for n in numbers):
        raise TypeError(f"{name}: argnum is the number of an argument, or a tuple of them, got {argnum!r}")


def _differentiating(name: str, f: Function, argnum: Argnum, compute: Callable[[_Traced], Any]) -> Function:
    """The function of the arguments of ``f`` that traces a call and returns what ``compute`` makes of it."""
    _checked(name, f, argnum)

    @wraps(f, assigned=("__module__", "__name__", "__qualname__"), updated=())
    def function(*args: Any, **kwargs: Any) -> Any:
        traced = _Traced(name, f, argnum, args, kwargs)
        return _finished(compute(traced), traced.lazy)

    function.__doc__ = f"{name} of {getattr(f, '__name__', 'a function')}, by argument {argnum}."
    return function


def _one_output(traced: _Traced) -> Expr:
    return _output(traced.y, traced.name)


# What users call.


def grad(f: Function, argnum: Argnum = 0) -> Function:
    """A function that returns the gradient of ``f``, which returns one number, by its ``argnum``-th argument.

    The argument may be a number, an array, an expression, or dicts, lists and tuples of them; the gradient has the same
    structure. A tuple of argument numbers gives a tuple of gradients. Python numbers count as float64.

    Raises `GradientError` if ``f`` returns more than one number, or no expression; ``DTypeError`` for integers.

    >>> import lazyflow.numpy as np
    >>> from lazyflow import grad
    >>> grad(np.tanh)(0.0), grad(grad(grad(np.sin)))(0.0)
    (np.float64(1.0), np.float64(-1.0))
    >>> grad(lambda w: np.sum(w["a"] * w["b"][0]))({"a": np.ones(2), "b": [np.arange(2.0)]})
    {'a': array([0., 1.]), 'b': [array([1., 1.])]}
    """

    def compute(traced: _Traced) -> Any:
        y = _scalar(traced.y, "grad")
        return traced.structured(traced.pulled_back([np.ones(y.shape, y.dtype)]))

    return _differentiating("grad", f, argnum, compute)


def value_and_grad(f: Function, argnum: Argnum = 0) -> Function:
    """As `grad`, returning the value of ``f`` and the gradient, both from one run.

    >>> from lazyflow import value_and_grad
    >>> value_and_grad(lambda x: x * x)(3.0)
    (np.float64(9.0), np.float64(6.0))
    """

    def compute(traced: _Traced) -> Any:
        y = _scalar(traced.y, "value_and_grad")
        return y, traced.structured(traced.pulled_back([np.ones(y.shape, y.dtype)]))

    return _differentiating("value_and_grad", f, argnum, compute)


def elementwise_grad(f: Function, argnum: Argnum = 0) -> Function:
    """The derivative of a function that works elementwise: the gradient of the sum of its result.

    >>> import lazyflow.numpy as np
    >>> from lazyflow import elementwise_grad
    >>> elementwise_grad(np.square)(np.arange(3.0))
    array([0., 2., 4.])
    """

    def compute(traced: _Traced) -> Any:
        y = _one_output(traced)
        return traced.structured(traced.pulled_back([np.ones(y.shape, y.dtype)]))

    return _differentiating("elementwise_grad", f, argnum, compute)


def jacobian(f: Function, argnum: Argnum = 0) -> Function:
    """All derivatives of all elements of the result: of shape ``result.shape + argument.shape``.

    One walk back for each element of the result; the engine runs them as one.

    >>> import lazyflow.numpy as np
    >>> from lazyflow import jacobian
    >>> jacobian(lambda x: np.array([x[0] * x[1], x[0]]))(np.array([2.0, 3.0]))
    array([[3., 2.],
           [1., 0.]])
    """

    def compute(traced: _Traced) -> Any:
        y = _one_output(traced)
        rows = [traced.pulled_back([seed]) for seed in np.eye(y.size, dtype=y.dtype).reshape((y.size, *y.shape))]
        columns = [[row[i] for row in rows] for i in range(len(traced.inputs))]
        return traced.structured(
            [
                functions.reshape(functions.stack(c), y.shape + e.shape)
                for c, e in zip(columns, traced.inputs, strict=True)
            ]
        )

    return _differentiating("jacobian", f, argnum, compute)


def hessian(f: Function, argnum: int = 0) -> Function:
    """The second derivatives of a function to one number: of shape ``argument.shape * 2``.

    >>> import lazyflow.numpy as np
    >>> from lazyflow import hessian
    >>> hessian(lambda x: x[0] * x[1] ** 2)(np.array([2.0, 3.0]))
    array([[0., 6.],
           [6., 4.]])
    """
    return jacobian(grad(f, argnum), argnum)


def hessian_vector_product(f: Function, argnum: int = 0) -> Function:
    """A function of the arguments of ``f`` and a vector: the second derivatives times the vector, never their matrix.

    >>> import lazyflow.numpy as np
    >>> from lazyflow import hessian_vector_product
    >>> product = hessian_vector_product(lambda x: x[0] * x[1] ** 2)
    >>> product(np.array([2.0, 3.0]), np.array([1.0, 0.0]))
    array([0., 6.])
    """
    gradient = grad(f, argnum)

    def along(*args_and_vector: Any, **kwargs: Any) -> Any:
        *args, vector = args_and_vector
        return names.tensordot(gradient(*args, **kwargs), vector, np.ndim(vector))

    return grad(along, argnum)


def vjp(f: Function, *args: Any) -> tuple[Any, Function]:
    """The value of ``f`` at ``args``, and a function from a cotangent of it to those of all arguments, a tuple.

    >>> import lazyflow.numpy as np
    >>> from lazyflow import vjp
    >>> y, pull = vjp(np.multiply, 2.0, 3.0)
    >>> y, pull(1.0)
    (np.float64(6.0), (np.float64(3.0), np.float64(2.0)))
    """
    _checked("vjp", f, 0)
    traced = _Traced("vjp", f, tuple(range(len(args))), args, {})

    def pull(cotangent: Any) -> Any:
        seeds = _matching("vjp", "cotangent", cotangent, traced.outputs)
        found = traced.structured(traced.pulled_back(seeds))
        return _finished(found, traced.lazy or _has_expressions([cotangent]))

    return _finished(traced.y, traced.lazy), pull


def jvp(f: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """The value of ``f`` at ``primals``, and its derivative along ``tangents``; both are sequences, one an argument.

    >>> import lazyflow.numpy as np
    >>> from lazyflow import jvp
    >>> jvp(np.multiply, (2.0, 3.0), (1.0, 0.0))
    (np.float64(6.0), np.float64(3.0))
    """
    _checked("jvp", f, 0)
    if not isinstance(primals, list | tuple) or not isinstance(tangents, list | tuple):
        raise TypeError("jvp takes a tuple of arguments and a tuple of their tangents, as in jvp(f, (x,), (v,))")
    traced = _Traced("jvp", f, tuple(range(len(primals))), tuple(primals), {})
    found = _matching("jvp", "tangents", tuple(tangents), traced.inputs)
    pushed = rebuilt(traced.y, iter(traced.pushed_forward(found)))
    return _finished((traced.y, pushed), traced.lazy or _has_expressions(tangents))


def make_vjp(f: Function, argnum: Argnum = 0) -> Function:
    """As in autograd: ``make_vjp(f)(x)`` returns the function from cotangents to cotangents, and the value."""
    _checked("make_vjp", f, argnum)

    def function(*args: Any, **kwargs: Any) -> tuple[Function, Any]:
        traced = _Traced("make_vjp", f, argnum, args, kwargs)

        def pull(cotangent: Any) -> Any:
            seeds = _matching("make_vjp", "cotangent", cotangent, traced.outputs)
            found = traced.structured(traced.pulled_back(seeds))
            return _finished(found, traced.lazy or _has_expressions([cotangent]))

        return pull, _finished(traced.y, traced.lazy)

    return function


def make_jvp(f: Function, argnum: Argnum = 0) -> Function:
    """As in autograd: ``make_jvp(f)(x)(v)`` returns the value and the derivative along ``v``."""
    _checked("make_jvp", f, argnum)

    def function(*args: Any, **kwargs: Any) -> Function:
        traced = _Traced("make_jvp", f, argnum, args, kwargs)

        def push(tangent: Any) -> Any:
            found = _matching("make_jvp", "tangent", tangent, traced.inputs)
            pushed = rebuilt(traced.y, iter(traced.pushed_forward(found)))
            return _finished((traced.y, pushed), traced.lazy or _has_expressions([tangent]))

        return push

    return function


def _matching(name: str, what: str, tree: Any, like: Sequence[Expr]) -> list[Expr]:
    """The leaves of a cotangent or tangent, which must have the shapes of what it belongs to."""
    found = [leaf for _, leaf in leaves(tree)]
    shapes = [np.shape(leaf) if not isinstance(leaf, Expr) else leaf.shape for leaf in found]
    wanted = [e.shape for e in like]
    if shapes != wanted:
        raise ShapeError(f"{name}: the {what} must have the shapes {wanted} of what it belongs to, got {shapes}")
    return [fitted(leaf, e.type) for leaf, e in zip(found, like, strict=True)]


def gradients(root: Expr, wrt: Sequence[Expr], cotangent: Any = None) -> list[Expr]:
    """The gradients of an expression by parameters or other expressions, as expressions: a graph like any other.

    ``cotangent``: what to start from, of the root's shape; one by default, for a root of one element. What ``root``
    does not rest on gets zeros. Nothing runs before a value is asked for, and a graph that is kept runs again under the
    parameters of the day.

    >>> import lazyflow as lf
    >>> w = lf.Parameter([1.0, 2.0])
    >>> loss = lf.sum(w * w)
    >>> (gradient,) = lf.gradients(loss, [w])
    >>> gradient.numpy(), lf.gradients(lf.sum(gradient * gradient), [w])[0].numpy()
    (array([2., 4.], dtype=float32), array([ 8., 16.], dtype=float32))
    """
    if isinstance(wrt, Expr):
        raise TypeError("gradients takes a list of parameters or expressions, as in gradients(loss, [w])")
    root = _output(root, "gradients")
    if cotangent is None:
        cotangent = np.ones(_scalar(root, "gradients").shape, root.dtype)
    (seed,) = _matching("gradients", "cotangent", [cotangent], [root])
    for e in wrt:
        if not isinstance(e, Expr) or not e.requires_grad:
            raise GradientError(
                f"gradients by {e!r}: no gradient flows there; take a Parameter, what was computed from one, or lf.grad"
            )
    with _recording():
        found = cotangents([(root, seed)], wrt)
    return [_zeros(e) if g is None else g for g, e in zip(found, wrt, strict=True)]


def vmap(f: Function, in_axes: Any = 0, out_axes: int = 0) -> Function:
    """A function over stacks of arguments, from ``f`` of one: examples along an axis, and results stacked along one.

    ``in_axes``: the axis that counts the examples, of all arguments or one for each; None for an argument that all
    share. ``f`` is called once for every example, and what the calls have in common runs batched, as everything does:
    they need not even do the same. Arguments and results may be dicts, lists and tuples.

    >>> import lazyflow as lf, lazyflow.numpy as np
    >>> lf.vmap(np.dot, in_axes=(0, None))(np.arange(6.0).reshape(3, 2), np.ones(2))
    array([1., 5., 9.])
    """
    if not callable(f):
        raise TypeError(f"vmap takes a function, got {type(f).__name__}")

    def function(*args: Any) -> Any:
        axes = _axes_of(in_axes, len(args))
        count = _count(args, axes)
        columns = [
            [arg] * count if axis is None else _examples(arg, axis) for arg, axis in zip(args, axes, strict=True)
        ]
        results = [f(*(column[i] for column in columns)) for i in range(count)]
        stacked = _stacked(results, out_axes)
        found = [leaf for _, leaf in leaves(stacked)]
        return _finished(stacked, _has_expressions(args) or _is_inside(Walk(found)))

    return function


def _axes_of(in_axes: Any, count: int) -> tuple[Any, ...]:
    axes = tuple(in_axes) if isinstance(in_axes, list | tuple) else (in_axes,) * count
    if len(axes) != count:
        raise TypeError(f"vmap: in_axes names {len(axes)} arguments, the function was called with {count}")
    if all(axis is None for axis in axes):
        raise TypeError("vmap: in_axes must name an axis of one argument at least")
    return axes


def _count(args: Sequence[Any], axes: Sequence[Any]) -> int:
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
    count = next(iter(sizes.values()))
    if not count:
        raise ShapeError("vmap: there are no examples, the axis has size 0")
    return count


def _examples(tree: Any, axis: int) -> list[Any]:
    """The arguments of every example."""
    parts = [list(constant(names.moveaxis(_arrayed(leaf), axis, 0))) for _, leaf in leaves(tree)]
    return [rebuilt(tree, iter(example)) for example in zip(*parts, strict=True)]


def _arrayed(leaf: Any) -> Any:
    return leaf if isinstance(leaf, Expr) else np.asarray(leaf)


def _stacked(results: list[Any], axis: int) -> Any:
    rows = [[constant(leaf) for _, leaf in leaves(result)] for result in results]
    if len({len(row) for row in rows}) > 1:
        raise ShapeError("vmap: the function's results must have one structure for all examples")
    return rebuilt(results[0], iter([functions.stack(list(column), axis) for column in zip(*rows, strict=True)]))


# Numeric checks.

EPSILON, TOLERANCE = 1e-6, 1e-6
MODES = ("fwd", "rev")


def check_grads(
    f: Function, argnum: Argnum = 0, *, modes: Sequence[str] = MODES, order: int = 2, tolerance: float = TOLERANCE
) -> Function:
    """A function of the arguments of ``f`` that raises ``AssertionError`` where a derivative is not the numeric one.

    By a random projection against central differences, as autograd's ``test_util.check_grads``: forward and reverse
    mode (``modes``), and their own derivatives, up to ``order``. Everything must be float64; float32 has too few
    digits.

    >>> import lazyflow.numpy as np
    >>> from lazyflow import check_grads
    >>> check_grads(np.tanh, modes=["fwd", "rev"], order=2)(np.array([0.1, 0.2]))
    """
    _checked("check_grads", f, argnum)
    unknown = [mode for mode in modes if mode not in MODES]
    if isinstance(modes, str) or unknown or order < 1:
        raise ValueError(
            f"check_grads: modes are a list of 'fwd' and 'rev', and order at least 1; got {modes}, {order}"
        )

    def check(*args: Any, **kwargs: Any) -> None:
        numbers = _numbers("check_grads", argnum, len(args))
        for i in numbers:
            for path, leaf in leaves(args[i], f"check_grads: argument {i}"):
                _require_double(path, leaf)

        def of_inputs(*inputs: Any) -> Any:
            replaced = dict(zip(numbers, inputs, strict=True))
            return f(*(replaced.get(i, arg) for i, arg in enumerate(args)), **kwargs)

        inputs = mapped(lambda x: np.array(x.numpy() if isinstance(x, Expr) else x), tuple(args[i] for i in numbers))
        _check(of_inputs, inputs, tuple(modes), order, tolerance, np.random.default_rng(0))

    return check


def _require_double(path: str, leaf: Any) -> None:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    if dtype != np.float64:
        raise DTypeError(f"{path} holds {dtype}; numeric derivatives need float64, see .astype('float64')")


def _check(f: Function, x: Any, modes: Sequence[str], order: int, tolerance: float, rng: np.random.Generator) -> None:
    """Compare ``f``'s derivatives at ``x``, a tuple of arguments, in every mode."""
    draw: Callable[[Any], Any] = lambda tree: mapped(lambda leaf: rng.standard_normal(np.shape(leaf)), tree)  # noqa: E731
    v = draw(x)
    y, pushed = jvp(f, x, v) if "fwd" in modes else (vjp(f, *x)[0], None)
    u = draw(y)
    numeric = _inner(u, _numeric(f, x, v))
    if "fwd" in modes:
        _compare("forward", f, _inner(u, pushed), numeric, tolerance)
    if "rev" in modes:
        _compare("reverse", f, _inner(vjp(f, *x)[1](u), v), numeric, tolerance)
    if order > 1 and "fwd" in modes:
        _check(lambda x, v: jvp(f, x, v)[1], (x, v), modes, order - 1, tolerance, rng)
    if order > 1 and "rev" in modes:
        _check(lambda x, u: vjp(f, *x)[1](u), (x, u), modes, order - 1, tolerance, rng)


def _numeric(f: Function, x: Any, v: Any) -> Any:
    """The derivative along ``v`` by central differences."""
    ahead, behind = (_evaluated(f(*_moved(x, v, sign * EPSILON / 2))) for sign in (1, -1))
    pairs = zip(leaves(ahead), leaves(behind), strict=True)
    return [(np.asarray(a) - np.asarray(b)) / EPSILON for (_, a), (_, b) in pairs]


def _moved(x: Any, v: Any, distance: float) -> Any:
    pairs = zip(leaves(x), leaves(v), strict=True)
    return rebuilt(x, iter([constant(np.asarray(a + distance * b)) for (_, a), (_, b) in pairs]))


def _inner(a: Any, b: Any) -> float:
    return float(sum(np.vdot(p, q) for (_, p), (_, q) in zip(leaves(a), leaves(b), strict=True)))


def _compare(mode: str, f: Function, exact: float, numeric: float, tolerance: float) -> None:
    if not abs(exact - numeric) <= tolerance * max(1.0, abs(exact) + abs(numeric)):
        raise AssertionError(
            f"check_grads: the {mode} derivative of {getattr(f, '__name__', 'the function')} along a random direction "
            f"is {exact!r}, the numeric one {numeric!r}"
        )
