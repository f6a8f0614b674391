"""`Dropout`: zeros at random while training."""

from __future__ import annotations

from typing import Any

from lazyflow.expr import Expr
from lazyflow.functions.random import dropout
from lazyflow.nn.module import Module, checked_probability
from lazyflow.random import Stream

__all__ = ["Dropout"]


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

    def __init__(self, p: float = 0.5, *, stream: Stream | None = None) -> None:
        super().__init__()
        self.p = checked_probability("Dropout", p)
        self.stream = stream

    def forward(self, x: Any) -> Expr:
        """``x`` with some of its elements dropped."""
        return dropout(x, self.p, training=self.training, stream=self.stream)

    def extra_repr(self) -> str:
        return f"p={self.p}"
