"""Zeros at random while training: elements, or whole channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lazyflow.nn.functional import maps as f
from lazyflow.nn.module import Module, checked_probability
from lazyflow.random import Stream
from lazyflow.record.expr import Expr

__all__ = ["Dropout", "Dropout1d", "Dropout2d"]


class Dropout(Module):
    """While training, each element is zero with probability ``p`` and else divided by ``1 - p``; after `eval`, the
    identity.

    ``stream``: where the random numbers come from, by default the stream that `lazyflow.seed` restarts, read at each
    call. Raises ``ValueError`` for ``p`` outside [0, 1).

    >>> import lazyflow as lf
    >>> layer = lf.nn.Dropout(0.5).eval()
    >>> layer(lf.constant([1.0, 2.0])).numpy()
    array([1., 2.], dtype=float32)
    """

    quiet = True

    function: Callable[..., Expr] = staticmethod(f.dropout)

    def __init__(self, p: float = 0.5, inplace: bool = False, *, stream: Stream | None = None) -> None:
        super().__init__()
        self.p = checked_probability(type(self).__name__, p)
        self.stream = stream

    def forward(self, x: Any) -> Expr:
        """``x`` with some of its elements dropped."""
        return type(self).function(x, self.p, self.training, False, self.stream)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout1d(Dropout):
    """`Dropout` of whole channels of one example ``x`` (c, t) (Tompson et al. 2015).

    >>> import lazyflow as lf
    >>> lf.nn.Dropout1d()(lf.constant([[1.0, 1.0]])).shape
    (1, 2)
    """

    quiet = True

    function = staticmethod(f.dropout1d)


class Dropout2d(Dropout):
    """`Dropout` of whole channels of one example ``x`` (c, h, w) (Tompson et al. 2015).

    >>> import lazyflow as lf
    >>> lf.nn.Dropout2d()(lf.constant([[[1.0, 1.0]]])).shape
    (1, 1, 2)
    """

    quiet = True

    function = staticmethod(f.dropout2d)
