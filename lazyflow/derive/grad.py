"""Functions that differentiate functions: reverse mode, forward mode, and any order of both.

The functions differentiated are plain Python: NumPy code through `lazyflow.numpy`, the functions of `lazyflow`,
operators, loops, and branches on values. Called with arrays, what these functions return are arrays; called with
expressions, or inside another function that is differentiated, they are expressions. So they nest.

The names are those of HIPS/autograd; `jvp`, `vjp` and `vmap` have the form of JAX. Forward mode transposes twice: what
a vector-Jacobian product does to the cotangent is linear, and the vjp of *that* is a Jacobian-vector product
(J. Townsend, "A new trick for calculating Jacobian vector products", 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from lazyflow import functions
from lazyflow.derive.cotangents import cotangents
from lazyflow.derive.inputs import (
    AnyFunction,
    Argnum,
    Traced,
    check_function,
    finished,
    matching,
    output,
    reads_expressions,
    recording,
    scalar,
    zeros,
)
from lazyflow.derive.structure import leaves, rebuilt
from lazyflow.errors import GradientError
from lazyflow.record.expr import Expr

__all__ = [
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
]


def _differentiating(name: str, f: AnyFunction, argnum: Argnum, compute: Callable[[Traced], object]) -> AnyFunction:
    """The function of the arguments of ``f`` that traces a call and returns what ``compute`` makes of it."""
    check_function(name, f, argnum)

    @wraps(f, assigned=("__module__", "__name__", "__qualname__"), updated=())
    def function(*args: object, **kwargs: object) -> object:
        traced = Traced(name, f, argnum, args, kwargs)
        return finished(compute(traced), traced.lazy)

    function.__doc__ = f"{name} of {getattr(f, '__name__', 'a function')}, by argument {argnum}."
    return function


def _one_output(traced: Traced) -> Expr:
    return output(traced.y, traced.name)


# What users call.


def grad(f: AnyFunction, argnum: Argnum = 0) -> AnyFunction:
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

    def compute(traced: Traced) -> object:
        y = scalar(traced.y, "grad")
        return traced.structured(traced.pulled_back([np.ones(y.shape, y.dtype)]))

    return _differentiating("grad", f, argnum, compute)


def value_and_grad(f: AnyFunction, argnum: Argnum = 0) -> AnyFunction:
    """As `grad`, returning the value of ``f`` and the gradient, both from one run.

    >>> from lazyflow import value_and_grad
    >>> value_and_grad(lambda x: x * x)(3.0)
    (np.float64(9.0), np.float64(6.0))
    """

    def compute(traced: Traced) -> object:
        y = scalar(traced.y, "value_and_grad")
        return y, traced.structured(traced.pulled_back([np.ones(y.shape, y.dtype)]))

    return _differentiating("value_and_grad", f, argnum, compute)


def elementwise_grad(f: AnyFunction, argnum: Argnum = 0) -> AnyFunction:
    """The derivative of a function that works elementwise: the gradient of the sum of its result.

    >>> import lazyflow.numpy as np
    >>> from lazyflow import elementwise_grad
    >>> elementwise_grad(np.square)(np.arange(3.0))
    array([0., 2., 4.])
    """

    def compute(traced: Traced) -> object:
        y = _one_output(traced)
        return traced.structured(traced.pulled_back([np.ones(y.shape, y.dtype)]))

    return _differentiating("elementwise_grad", f, argnum, compute)


def jacobian(f: AnyFunction, argnum: Argnum = 0) -> AnyFunction:
    """All derivatives of all elements of the result: of shape ``result.shape + argument.shape``.

    One walk back for each element of the result; the engine runs them as one.

    >>> import lazyflow.numpy as np
    >>> from lazyflow import jacobian
    >>> jacobian(lambda x: np.array([x[0] * x[1], x[0]]))(np.array([2.0, 3.0]))
    array([[3., 2.],
           [1., 0.]])
    """

    def compute(traced: Traced) -> object:
        y = _one_output(traced)
        rows = [traced.pulled_back([seed]) for seed in np.eye(y.size, dtype=y.dtype).reshape((y.size, *y.shape))]
        columns = [[row[i] for row in rows] for i in range(len(traced.inputs))]
        if not rows:
            return traced.structured([np.zeros(y.shape + e.shape, e.dtype) for e in traced.inputs])
        return traced.structured(
            [
                functions.reshape(functions.stack(c), y.shape + e.shape)
                for c, e in zip(columns, traced.inputs, strict=True)
            ]
        )

    return _differentiating("jacobian", f, argnum, compute)


def hessian(f: AnyFunction, argnum: int = 0) -> AnyFunction:
    """The second derivatives of a function to one number: of shape ``argument.shape * 2``.

    >>> import lazyflow.numpy as np
    >>> from lazyflow import hessian
    >>> hessian(lambda x: x[0] * x[1] ** 2)(np.array([2.0, 3.0]))
    array([[0., 6.],
           [6., 4.]])
    """
    return jacobian(grad(f, argnum), argnum)


def hessian_vector_product(f: AnyFunction, argnum: int = 0) -> AnyFunction:
    """A function of the arguments of ``f`` and a vector: the second derivatives times the vector, never their matrix.

    >>> import lazyflow.numpy as np
    >>> from lazyflow import hessian_vector_product
    >>> product = hessian_vector_product(lambda x: x[0] * x[1] ** 2)
    >>> product(np.array([2.0, 3.0]), np.array([1.0, 0.0]))
    array([0., 6.])
    """
    gradient = grad(f, argnum)

    def along(*args_and_vector: object, **kwargs: object) -> object:
        *args, vector = args_and_vector
        pairs = zip(leaves(gradient(*args, **kwargs)), leaves(vector), strict=True)
        return functions.sum([functions.sum(functions.multiply(g, v)) for (_, g), (_, v) in pairs])

    return grad(along, argnum)


def vjp(f: AnyFunction, *args: object) -> tuple[Any, AnyFunction]:
    """The value of ``f`` at ``args``, and a function from a cotangent of it to those of all arguments, a tuple.

    >>> import lazyflow.numpy as np
    >>> from lazyflow import vjp
    >>> y, pull = vjp(np.multiply, 2.0, 3.0)
    >>> y, pull(1.0)
    (np.float64(6.0), (np.float64(3.0), np.float64(2.0)))
    """
    check_function("vjp", f, 0)
    traced = Traced("vjp", f, tuple(range(len(args))), args, {})

    def pull(cotangent: object) -> object:
        seeds = matching("vjp", "cotangent", cotangent, traced.outputs)
        found = traced.structured(traced.pulled_back(seeds))
        return finished(found, traced.lazy or reads_expressions([cotangent]))

    return finished(traced.y, traced.lazy), pull


def jvp(f: AnyFunction, primals: Sequence[object], tangents: Sequence[object]) -> tuple[Any, Any]:
    """The value of ``f`` at ``primals``, and its derivative along ``tangents``; both are sequences, one an argument.

    >>> import lazyflow.numpy as np
    >>> from lazyflow import jvp
    >>> jvp(np.multiply, (2.0, 3.0), (1.0, 0.0))
    (np.float64(6.0), np.float64(3.0))
    """
    check_function("jvp", f, 0)
    if not isinstance(primals, list | tuple) or not isinstance(tangents, list | tuple):
        raise TypeError("jvp takes a tuple of arguments and a tuple of their tangents, as in jvp(f, (x,), (v,))")
    traced = Traced("jvp", f, tuple(range(len(primals))), tuple(primals), {})
    found = matching("jvp", "tangents", tuple(tangents), traced.inputs)
    pushed = rebuilt(traced.y, iter(traced.pushed_forward(found)))
    value, tangent = finished((traced.y, pushed), traced.lazy or reads_expressions(tangents))
    return value, tangent


def make_vjp(f: AnyFunction, argnum: Argnum = 0) -> AnyFunction:
    """As in autograd: ``make_vjp(f)(x)`` returns the function from cotangents to cotangents, and the value."""
    check_function("make_vjp", f, argnum)

    def function(*args: object, **kwargs: object) -> tuple[AnyFunction, Any]:
        traced = Traced("make_vjp", f, argnum, args, kwargs)

        def pull(cotangent: object) -> object:
            seeds = matching("make_vjp", "cotangent", cotangent, traced.outputs)
            found = traced.structured(traced.pulled_back(seeds))
            return finished(found, traced.lazy or reads_expressions([cotangent]))

        return pull, finished(traced.y, traced.lazy)

    return function


def make_jvp(f: AnyFunction, argnum: Argnum = 0) -> AnyFunction:
    """As in autograd: ``make_jvp(f)(x)(v)`` returns the value and the derivative along ``v``."""
    check_function("make_jvp", f, argnum)

    def function(*args: object, **kwargs: object) -> AnyFunction:
        traced = Traced("make_jvp", f, argnum, args, kwargs)

        def push(tangent: object) -> object:
            found = matching("make_jvp", "tangent", tangent, traced.inputs)
            pushed = rebuilt(traced.y, iter(traced.pushed_forward(found)))
            return finished((traced.y, pushed), traced.lazy or reads_expressions([tangent]))

        return push

    return function


def gradients(root: Expr, wrt: Sequence[Expr], cotangent: object = None) -> list[Expr]:
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
    root = output(root, "gradients")
    if cotangent is None:
        cotangent = np.ones(scalar(root, "gradients").shape, root.dtype)
    (seed,) = matching("gradients", "cotangent", [cotangent], [root])
    for e in wrt:
        if not isinstance(e, Expr) or not e.requires_grad:
            raise GradientError(
                f"gradients by {e!r}: no gradient flows there; take a Parameter, what was computed from one, or lf.grad"
            )
    with recording():
        found = cotangents([(root, seed)], wrt)
    return [zeros(e) if g is None else g for g, e in zip(found, wrt, strict=True)]
