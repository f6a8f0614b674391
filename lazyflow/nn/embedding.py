"""`Embedding`: a table of vectors, looked up by index; `EmbeddingBag`: sums, means and largest elements of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from lazyflow import device as devices
from lazyflow.device import to_host
from lazyflow.errors import ShapeError
from lazyflow.functions.elementwise import where
from lazyflow.functions.index import embedding, take
from lazyflow.functions.segment import segment_max, segment_mean, segment_sum
from lazyflow.nn import init
from lazyflow.nn.module import Module, checked_sizes, new_parameter
from lazyflow.ops.base import require_integer
from lazyflow.record.expr import Expr, checked_range, constant, in_dtype, index_array, looked_up
from lazyflow.record.frames import COMPILED

__all__ = ["Embedding", "EmbeddingBag"]


class Embedding(Module):
    """Row ``index`` of a table ``weight`` (num_embeddings, embedding_dim); an array of indices gives an array of rows.

    The rows start normally distributed with variance 1, as in PyTorch. With ``sparse`` (the default) the gradient is a
    `RowSparse` of the rows touched, with ``sparse=False`` an array. Row ``padding_idx`` starts at zero and gets no
    gradient. Raises ``IndexError``, at the line of the call, or, of an index that is computed, when it runs, for one
    below 0 or not below num_embeddings; `DTypeError` for one that is not of integers.

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
        if self.sparse:
            rows = looked_up(self.weight, index) if COMPILED else None
            if rows is None:
                rows = embedding(self.weight, index)
        else:
            rows = self._dense(index)
        return rows if self.padding_idx is None else self._without_padding(rows, index)

    def _dense(self, index: Any) -> Expr:
        if not isinstance(index, Expr):
            index = np.asarray(to_host(index))
            require_integer("Embedding", "an index", index)
            n = self.num_embeddings
            checked_range("Embedding", index, n, f"a table of shape {self.weight.shape}, with indices 0 to {n - 1}", 0)
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


_REDUCTIONS = {"sum": segment_sum, "mean": segment_mean, "max": segment_max}


class EmbeddingBag(Module):
    """The mean, ``mode="mean"``, sum or largest elements, ``"max"``, of the rows of a table at the indices of a bag.

    Called with a bag, a list or an array of any number of indices, it returns (embedding_dim,); with an array (b, k)
    of b bags, or one (n,) with ``offsets`` (b,), where each begins, (b, embedding_dim), as
    ``torch.nn.EmbeddingBag``. An empty bag is zero, and so is one of nothing but ``padding_idx``, which takes no part.
    ``per_sample_weights``: numbers of the shape of the indices by which the rows are multiplied, for a sum. Bags of all
    sizes share launches. Raises ``IndexError``, at the line of the call, for an index out of range, `DTypeError` for
    what is not of integers.

    >>> import lazyflow as lf
    >>> words = lf.nn.EmbeddingBag(100, 8)
    >>> words([7, 3, 7]).shape, words([7, 3, 7], offsets=[0, 1]).shape
    ((8,), (2, 8))
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, mode: str = "mean", padding_idx: int | None = None
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = checked_sizes(
            "EmbeddingBag", num_embeddings=num_embeddings, embedding_dim=embedding_dim
        )
        if mode not in _REDUCTIONS:
            raise ValueError(f"EmbeddingBag: mode must be {', '.join(_REDUCTIONS)}, got {mode!r}")
        if padding_idx is not None and not 0 <= padding_idx < self.num_embeddings:
            raise ValueError(
                f"EmbeddingBag: padding_idx must be from 0 to {self.num_embeddings - 1}, got {padding_idx}"
            )
        self.mode, self.padding_idx = mode, padding_idx
        self.weight = new_parameter(self.num_embeddings, self.embedding_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial rows anew."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with devices.on(self.weight.device):
                self.weight.data[self.padding_idx] = 0

    def forward(self, input: Any, offsets: Any = None, per_sample_weights: Any = None) -> Expr:
        """The vector of a bag, or of each."""
        index = _indices("input", input)
        bags, n = _bags(index, offsets)
        flat = index.reshape(-1)
        kept: Any = slice(None) if self.padding_idx is None else np.flatnonzero(flat != self.padding_idx)
        rows = embedding(self.weight, flat[kept])
        if per_sample_weights is not None:
            rows = rows * self._weights(per_sample_weights, index.shape, kept)
        found = _REDUCTIONS[self.mode](rows, bags[kept], n)
        if self.mode == "max":
            found = where((np.bincount(bags[kept], minlength=n) == 0)[:, None], 0.0, found)
        return found if index.ndim > 1 or offsets is not None else found[0]

    def _weights(self, given: Any, shape: tuple[int, ...], kept: Any) -> Expr:
        if self.mode != "sum":
            raise ValueError(f"EmbeddingBag: per_sample_weights are for mode='sum', not {self.mode!r}")
        weights = in_dtype(given, self.weight.dtype)
        if weights.shape != shape:
            raise ShapeError(f"EmbeddingBag: per_sample_weights must have the shape {shape}, got {weights.shape}")
        weights = weights.reshape(-1, 1)
        return weights if isinstance(kept, slice) else take(weights, kept)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}, mode={self.mode!r}{padding}"


def _indices(what: str, given: Any) -> Any:
    if isinstance(given, Expr):
        raise TypeError(f"EmbeddingBag: {what} must be an array or a list of integers, not an expression")
    array = index_array(given)
    require_integer("EmbeddingBag", f"an element of {what}", array)
    return array


def _bags(index: Any, offsets: Any) -> tuple[Any, int]:
    """Of each index which bag it is in, and how many bags there are."""
    if index.ndim not in (1, 2) or (index.ndim == 2 and offsets is not None):
        raise ShapeError(
            f"EmbeddingBag takes indices (n,), with offsets or without, or (b, k); got shape {index.shape}"
            + ("" if offsets is None else " and offsets")
        )
    if index.ndim == 2:
        return np.repeat(np.arange(len(index)), index.shape[1]), len(index)
    if offsets is None:
        return np.zeros(len(index), np.int64), 1
    begins = _indices("offsets", offsets)
    if begins.ndim != 1 or not len(begins) or begins[0] or (np.diff(begins) < 0).any() or begins[-1] > len(index):
        raise ValueError(
            f"EmbeddingBag: offsets must be (b,), where bags begin, rising from 0 up to {len(index)}, got {begins}"
        )
    return np.searchsorted(begins, np.arange(len(index)), side="right") - 1, len(begins)
