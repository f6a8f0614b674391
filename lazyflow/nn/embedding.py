"""`Embedding`: a table of vectors, looked up by index."""

from __future__ import annotations

from typing import Any

import numpy as np

from lazyflow import device as devices
from lazyflow.device import to_host
from lazyflow.errors import DTypeError
from lazyflow.expr import Expr, constant
from lazyflow.functions.elementwise import where
from lazyflow.functions.index import embedding, take
from lazyflow.nn import init
from lazyflow.nn.module import Module, checked_sizes, new_parameter

__all__ = ["Embedding"]


class Embedding(Module):
    """Row ``index`` of a table ``weight`` (num_embeddings, embedding_dim); an array of indices gives an array of rows.

    The rows start normally distributed with variance 1, as in PyTorch. With ``sparse`` (the default) the gradient is a
    `RowSparse` of the rows touched, with ``sparse=False`` an array. Row ``padding_idx`` starts at zero and gets no
    gradient. Raises ``IndexError``, at the line of the call, for an index below 0 or not below num_embeddings.

    >>> import lazyflow as lf
    >>> words = lf.nn.Embedding(100, 8)
    >>> words(7).shape, words([7, 3]).shape
    ((8,), (2, 8))
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, padding_idx: int | None = None, sparse: bool = True
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = checked_sizes(
            "Embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim
        )
        if padding_idx is not None and not 0 <= padding_idx < self.num_embeddings:
            raise ValueError(f"Embedding: padding_idx must be from 0 to {self.num_embeddings - 1}, got {padding_idx}")
        self.padding_idx, self.sparse = padding_idx, bool(sparse)
        self.weight = new_parameter(self.num_embeddings, self.embedding_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial rows anew."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with devices.on(self.weight.device):
                self.weight.data[self.padding_idx] = 0

    def forward(self, index: Any) -> Expr:
        """The row, or rows, at ``index``: an integer, an array of them, or an integer expression."""
        rows = embedding(self.weight, index) if self.sparse else self._dense(index)
        return rows if self.padding_idx is None else self._without_padding(rows, index)

    def _dense(self, index: Any) -> Expr:
        if not isinstance(index, Expr):
            index = np.asarray(to_host(index))
            if index.dtype.kind not in "iu":
                raise DTypeError(f"Embedding: an index must be an integer, got {index.dtype}")
            if index.size and index.min() < 0:  # which to `take` would count from the end
                raise IndexError(
                    f"Embedding: index {index.min()} is out of range, indices are 0 to {self.num_embeddings - 1}"
                )
        return take(self.weight, index)

    def _without_padding(self, rows: Expr, index: Any) -> Expr:
        """The same rows, of which those of the padding pass no gradient on."""
        if not isinstance(index, Expr):
            padding = np.asarray(to_host(index)) == self.padding_idx
            if not padding.any():
                return rows
            if padding.all():
                return rows.detach()
            return where(padding[..., None], rows.detach(), rows)
        return where((constant(index) == self.padding_idx).reshape(*index.shape, 1), rows.detach(), rows)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}" + ("" if self.sparse else ", sparse=False")
