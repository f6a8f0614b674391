"""Adagrad, Adadelta and RMSprop: steps divided by a root of past squared gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from lazyflow.device import module
from lazyflow.optim.base import Array, Optimizer, Options

__all__ = ["Adadelta", "Adagrad", "RMSprop"]


class Adagrad(Optimizer):
    """Adagrad (Duchi et al. 2011), with the numbers of ``torch.optim.Adagrad``.

    ``sum += g**2``; ``parameter -= lr / (1 + (t - 1) * lr_decay) * g / (sqrt(sum) + eps)``, with ``t`` the parameter's
    count of steps. ``sum`` starts at ``initial_accumulator_value``.

    Row-sparse gradients give, without weight decay, exactly what dense ones give: where the gradient is zero nothing
    changes.

    >>> import lazyflow as lf, numpy as np
    >>> w = lf.Parameter([1.0, 2.0])
    >>> w.grad = np.array([0.1, -7.0], np.float32)
    >>> Adagrad([w], lr=0.5).step()
    >>> w.numpy().round(3)
    array([0.5, 2.5], dtype=float32)
    """

    defaults: ClassVar[Options] = {"lr_decay": 0.0, "initial_accumulator_value": 0.0, "eps": 1e-10}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        *,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        sparse: bool = True,
    ) -> None:
        options = {"lr_decay": lr_decay, "initial_accumulator_value": initial_accumulator_value, "eps": eps}
        super().__init__(params, lr, weight_decay=weight_decay, sparse=sparse, **options)

    def init_single(self, parameter: Array, options: Options) -> dict[str, Array]:
        start = float(options["initial_accumulator_value"])
        return {"sum": module(parameter).full(parameter.shape, start, parameter.dtype)}

    def formulas(self, options: Options, step: int) -> dict[str, str]:
        return {
            "sum": "sum + gradient * gradient",
            "parameter": "parameter - gradient / (sqrt(sum) + eps) * rate",
        }

    def numbers(self, options: Options, step: int) -> dict[str, float]:
        rate = float(options["lr"]) / (1.0 + (step - 1) * float(options["lr_decay"]))
        return {"eps": float(options["eps"]), "rate": rate}


class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012, algorithm 1), with the numbers of ``torch.optim.Adadelta``.

    ``square_avg`` and ``acc_delta`` are running averages (of weight ``rho``) of the squared gradients and squared
    moves; the move is ``sqrt(acc_delta + eps) / sqrt(square_avg + eps) * g``, and ``parameter -= lr * move``.

    Row-sparse gradients: rows that are not touched keep both averages undecayed.

    >>> import lazyflow as lf, numpy as np
    >>> w = lf.Parameter([1.0])
    >>> w.grad = np.array([1.0], np.float32)
    >>> Adadelta([w], lr=100.0).step()
    >>> w.numpy().round(3)
    array([0.684], dtype=float32)
    """

    defaults: ClassVar[Options] = {"rho": 0.9, "eps": 1e-6}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        *,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        sparse: bool = True,
    ) -> None:
        super().__init__(params, lr, rho=rho, eps=eps, weight_decay=weight_decay, sparse=sparse)

    def init_single(self, parameter: Array, options: Options) -> dict[str, Array]:
        return {name: module(parameter).zeros(parameter.shape, parameter.dtype) for name in ("square_avg", "acc_delta")}

    def formulas(self, options: Options, step: int) -> dict[str, str]:
        return {
            "square_avg": "square_avg * rho + gradient * gradient * rest",
            "move": "sqrt(acc_delta + eps) / sqrt(square_avg + eps) * gradient",
            "acc_delta": "acc_delta * rho + move * move * rest",
            "parameter": "parameter - move * lr",
        }

    def numbers(self, options: Options, step: int) -> dict[str, float]:
        return {**super().numbers(options, step), "rest": 1.0 - float(options["rho"])}


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012; centered: Graves 2013), with the numbers of ``torch.optim.RMSprop``.

    ``square_avg`` is a running average (of weight ``alpha``) of the squared gradients; the move is ``g /
    (sqrt(square_avg) + eps)``. ``centered`` takes the root of the variance instead, ``square_avg - grad_avg**2``, with
    ``grad_avg`` the running average of the gradients (never below zero, where rounding would bring it). With
    ``momentum``, ``momentum_buffer = momentum * momentum_buffer + move`` is the move.

    Row-sparse gradients: rows that are not touched keep the averages undecayed and their momentum, and do not move.

    >>> import lazyflow as lf, numpy as np
    >>> w = lf.Parameter([1.0, 2.0])
    >>> w.grad = np.array([0.1, -7.0], np.float32)
    >>> RMSprop([w], lr=0.05).step()
    >>> w.numpy().round(3)
    array([0.5, 2.5], dtype=float32)
    """

    defaults: ClassVar[Options] = {"alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "centered": False}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        sparse: bool = True,
    ) -> None:
        options = {"alpha": alpha, "eps": eps, "momentum": momentum, "centered": centered}
        super().__init__(params, lr, weight_decay=weight_decay, sparse=sparse, **options)

    def init_single(self, parameter: Array, options: Options) -> dict[str, Array]:
        wanted = {"square_avg": True, "grad_avg": options["centered"], "momentum_buffer": options["momentum"]}
        return {
            name: module(parameter).zeros(parameter.shape, parameter.dtype) for name, kept in wanted.items() if kept
        }

    def formulas(self, options: Options, step: int) -> dict[str, str]:
        rule = {"square_avg": "square_avg * alpha + gradient * gradient * rest"}
        square = "square_avg"
        if options["centered"]:
            rule["grad_avg"] = "grad_avg * alpha + gradient * rest"
            square = "maximum(square_avg - grad_avg * grad_avg, 0)"
        move = f"gradient / (sqrt({square}) + eps)"
        if options["momentum"]:
            rule["momentum_buffer"], move = f"momentum_buffer * momentum + {move}", "momentum_buffer"
        return {**rule, "parameter": f"parameter - {move} * lr"}

    def numbers(self, options: Options, step: int) -> dict[str, float]:
        return {**super().numbers(options, step), "rest": 1.0 - float(options["alpha"])}
