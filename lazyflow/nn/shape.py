"""Modules that rearrange an example, or compare two, and train nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lazyflow.errors import ShapeError
from lazyflow.nn.functional import maps as f
from lazyflow.nn.module import Module
from lazyflow.nn.wrapped import FunctionModule, wrapped
from lazyflow.record.expr import Expr, constant

__all__ = ["CosineSimilarity", "Flatten", "Identity", "PairwiseDistance", "Unflatten"]

CosineSimilarity: type[FunctionModule]
PairwiseDistance: type[FunctionModule]
globals().update(
    CosineSimilarity=wrapped(__name__, "CosineSimilarity", f.cosine_similarity, 2),
    PairwiseDistance=wrapped(__name__, "PairwiseDistance", f.pairwise_distance, 2),
)


class Identity(Module):
    """What it is called with; made with anything, as a placeholder of any layer.

    >>> import lazyflow as lf
    >>> lf.nn.Identity(54, unused=0.1)(7)
    7
    """

    quiet = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        """``x``."""
        return x


def _axis(name: str, dim: int, ndim: int) -> int:
    if not -ndim <= dim < ndim:
        raise ShapeError(f"{name}: axis {dim} is out of range for an example of {ndim} axes")
    return dim % ndim


class Flatten(Module):
    """The axes from ``start_dim`` to ``end_dim`` of one example as one; free.

    ``start_dim`` is 0 by default, where PyTorch has 1: an example has no batch axis to spare. Raises `ShapeError` for
    an axis out of range.

    >>> import lazyflow as lf
    >>> lf.nn.Flatten()(lf.constant([[1.0, 2.0], [3.0, 4.0]])).shape
    (4,)
    """

    quiet = True

    def __init__(self, start_dim: int = 0, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = int(start_dim), int(end_dim)

    def forward(self, x: Any) -> Expr:
        """``x`` with fewer axes."""
        value = constant(x)
        if not value.ndim:
            return value.reshape(1)
        start, end = (_axis("Flatten", dim, value.ndim) for dim in (self.start_dim, self.end_dim))
        if start > end:
            raise ShapeError(f"Flatten: start_dim {self.start_dim} is behind end_dim {self.end_dim} in {value.shape}")
        return value.reshape(*value.shape[:start], -1, *value.shape[end + 1 :])

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Axis ``dim`` of one example as several, of sizes ``unflattened_size``; free. Raises `ShapeError`.

    >>> import lazyflow as lf
    >>> lf.nn.Unflatten(0, (2, 2))(lf.constant([1.0, 2.0, 3.0, 4.0])).shape
    (2, 2)
    """

    quiet = True

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        self.dim, self.unflattened_size = int(dim), tuple(unflattened_size)

    def forward(self, x: Any) -> Expr:
        """``x`` with more axes."""
        value = constant(x)
        at = _axis("Unflatten", self.dim, value.ndim)
        return value.reshape(*value.shape[:at], *self.unflattened_size, *value.shape[at + 1 :])

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
