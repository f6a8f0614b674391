"""Gradients against numeric ones: `check_grads`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lazyflow import device as devices
from lazyflow.derive.grad import jvp, vjp
from lazyflow.derive.inputs import AnyFunction, Argnum, check_function, evaluated, numbers_of
from lazyflow.derive.structure import leaves, mapped, rebuilt
from lazyflow.device import Array
from lazyflow.errors import DTypeError
from lazyflow.record.expr import Expr, constant

__all__ = ["check_grads"]

EPSILON, TOLERANCE = 1e-6, 1e-6
MODES = ("fwd", "rev")


def check_grads(
    f: AnyFunction, argnum: Argnum = 0, *, modes: Sequence[str] = MODES, order: int = 2, tolerance: float = TOLERANCE
) -> AnyFunction:
    """A function of the arguments of ``f`` that raises ``AssertionError`` where a derivative is not the numeric one.

    By a random projection against central differences, as autograd's ``test_util.check_grads``: forward and reverse
    mode (``modes``), and their own derivatives, up to ``order``. Everything must be float64; float32 has too few
    digits.

    >>> import lazyflow.numpy as np
    >>> from lazyflow import check_grads
    >>> check_grads(np.tanh, modes=["fwd", "rev"], order=2)(np.array([0.1, 0.2]))
    """
    check_function("check_grads", f, argnum)
    unknown = [mode for mode in modes if mode not in MODES]
    if isinstance(modes, str) or unknown or order < 1:
        raise ValueError(
            f"check_grads: modes are a list of 'fwd' and 'rev', and order at least 1; got {modes}, {order}"
        )

    def check(*args: object, **kwargs: object) -> None:
        numbers = numbers_of("check_grads", argnum, len(args))
        for i in numbers:
            for path, leaf in leaves(args[i], f"check_grads: argument {i}"):
                _require_double(path, leaf)

        def of_inputs(*inputs: object) -> object:
            replaced = dict(zip(numbers, inputs, strict=True))
            return f(*(replaced.get(i, arg) for i, arg in enumerate(args)), **kwargs)

        given = tuple(args[i] for i in numbers)
        inputs = mapped(lambda x: np.array(x.numpy() if isinstance(x, Expr) else devices.to_host(x)), given)
        _check(of_inputs, inputs, tuple(modes), order, tolerance, np.random.default_rng(0))

    return check


def _require_double(path: str, leaf: object) -> None:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    if dtype != np.float64:
        raise DTypeError(f"{path} holds {dtype}; numeric derivatives need float64, see .astype('float64')")


def _check(
    f: AnyFunction, x: tuple[object, ...], modes: Sequence[str], order: int, tolerance: float, rng: np.random.Generator
) -> None:
    """Compare ``f``'s derivatives at ``x``, a tuple of arguments, in every mode."""
    draw: Callable[[object], Any] = lambda tree: mapped(lambda leaf: rng.standard_normal(np.shape(leaf)), tree)  # noqa: E731
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


def _numeric(f: AnyFunction, x: object, v: object) -> list[Array]:
    """The derivative along ``v`` by central differences."""
    ahead, behind = (evaluated(f(*_moved_by(x, v, sign * EPSILON / 2))) for sign in (1, -1))
    pairs = zip(leaves(ahead), leaves(behind), strict=True)
    return [(devices.to_host(a) - devices.to_host(b)) / EPSILON for (_, a), (_, b) in pairs]


def _moved_by(x: object, v: object, distance: float) -> Any:
    pairs = zip(leaves(x), leaves(v), strict=True)
    return rebuilt(x, iter([constant(np.asarray(a + distance * b)) for (_, a), (_, b) in pairs]))


def _inner(a: object, b: object) -> float:
    pairs = zip(leaves(a), leaves(b), strict=True)
    return float(sum(np.vdot(devices.to_host(p), devices.to_host(q)) for (_, p), (_, q) in pairs))


def _compare(mode: str, f: AnyFunction, exact: float, numeric: float, tolerance: float) -> None:
    if not abs(exact - numeric) <= tolerance * max(1.0, abs(exact) + abs(numeric)):
        raise AssertionError(
            f"check_grads: the {mode} derivative of {getattr(f, '__name__', 'the function')} along a random direction "
            f"is {exact!r}, the numeric one {numeric!r}"
        )
