"""Adam and its variants."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

from lazyflow.device import module
from lazyflow.optim.base import Array, Optimizer, Options

__all__ = ["AMSGrad", "Adam", "AdamW"]


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1), with the numbers of ``torch.optim.Adam``.

    With ``t`` the parameter's count of steps and ``g`` its gradient::

        exp_avg    = beta1 * exp_avg    + (1 - beta1) * g
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g**2
        parameter -= lr * (exp_avg / (1 - beta1**t)) / (sqrt(exp_avg_sq / (1 - beta2**t)) + eps)

    With ``amsgrad`` (Reddi et al. 2018) the root is taken of the largest ``exp_avg_sq`` so far instead.

    How the moments behave when the gradient is row-sparse (a table that was only looked up in):

    - ``sparse=True`` (lazy Adam): for the touched rows all of the above happens, once. A row that is not touched is not
      moved, and its ``exp_avg`` and ``exp_avg_sq`` (and the maximum) stay exactly as they are; the decay that it missed
      is not made up for when it is touched again. ``t`` counts the parameter's steps, not the row's, so a row that is
      first touched late has its moments hardly corrected: its first move is about ``lr * (1 - beta1) / sqrt(1 -
      beta2)`` (3.2 ``lr`` with the default betas) where a row touched at ``t = 1`` moves by ``lr``. This is
      ``torch.optim.SparseAdam``, up to ``eps``: there it is added before the bias correction, and weighs ``1 / sqrt(1 -
      beta2**t)`` times as much.
    - ``sparse=False``: the gradient is made dense. At every step the moments of all rows decay, and rows without a
      gradient go on moving as long as their ``exp_avg`` lasts: plain Adam, at the cost of the whole table a step.

    ``weight_decay`` is added to the gradient (L2); see `AdamW`. See `Optimizer` for parameter groups and for what holds
    for all optimizers.

    >>> import lazyflow as lf, numpy as np
    >>> w = lf.Parameter([1.0, 2.0])
    >>> w.grad = np.array([0.1, -7.0], np.float32)
    >>> Adam([w], lr=0.5).step()
    >>> w.numpy().round(3)
    array([0.5, 2.5], dtype=float32)
    """

    defaults: ClassVar[Options] = {"betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        sparse: bool = True,
    ) -> None:
        super().__init__(params, lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, sparse=sparse)

    def init_single(self, parameter: Array, options: Options) -> dict[str, Array]:
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if options["amsgrad"] else ("exp_avg", "exp_avg_sq")
        return {name: module(parameter).zeros(parameter.shape, parameter.dtype) for name in names}

    def formulas(self, options: Options, step: int) -> dict[str, str]:
        rule = {
            "exp_avg": "exp_avg * beta1 + gradient * rest1",
            "exp_avg_sq": "exp_avg_sq * beta2 + gradient * gradient * rest2",
        }
        square = "exp_avg_sq"
        if options["amsgrad"]:
            square = "max_exp_avg_sq"
            rule[square] = "maximum(exp_avg_sq, max_exp_avg_sq)"
        return {**rule, "parameter": f"parameter - exp_avg / (sqrt({square}) + eps) * rate"}

    def numbers(self, options: Options, step: int) -> dict[str, float]:
        beta1, beta2 = map(float, options["betas"])
        # both bias corrections in two scalars: m/c1 / (sqrt(v/c2) + eps) = m * (sqrt(c2)/c1) / (sqrt(v) + eps*sqrt(c2))
        root = math.sqrt(1.0 - beta2**step)
        eps, rate = float(options["eps"]) * root, float(options["lr"]) * root / (1.0 - beta1**step)
        return {"beta1": beta1, "rest1": 1.0 - beta1, "beta2": beta2, "rest2": 1.0 - beta2, "eps": eps, "rate": rate}


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019).

    First ``parameter *= 1 - lr * weight_decay``, then `Adam`. The decay is not part of the gradient, so it does not
    enter the moments. With a row-sparse gradient and ``sparse=True`` only the touched rows decay. The numbers are those
    of ``torch.optim.AdamW``; everything else is as in `Adam`.

    >>> import lazyflow as lf, numpy as np
    >>> w = lf.Parameter([1.0, 2.0])
    >>> w.grad = np.zeros(2, np.float32)
    >>> AdamW([w], lr=0.5, weight_decay=0.2).step()
    >>> w.numpy().round(3)
    array([0.9, 1.8], dtype=float32)
    """

    decoupled: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        sparse: bool = True,
    ) -> None:
        super().__init__(params, lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, sparse=sparse)


class AMSGrad(Adam):
    """`Adam` with ``amsgrad=True``: divides by the root of the largest second moment so far (Reddi et al. 2018).

    >>> import lazyflow as lf, numpy as np
    >>> w = lf.Parameter([1.0])
    >>> w.grad = np.array([3.0], np.float32)
    >>> AMSGrad([w], lr=0.5).step()
    >>> w.numpy().round(3)
    array([0.5], dtype=float32)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        sparse: bool = True,
    ) -> None:
        super().__init__(params, lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=True, sparse=sparse)
