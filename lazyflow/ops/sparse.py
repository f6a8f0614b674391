"""Sums of rows at repeated indices, and the row-sparse gradient of a table.

Adding rows one at a time (``np.add.at``) is ten times slower than adding arrays of them, and an array may only be added
where its indices are distinct. `scatter_rounds` makes such arrays: an index that occurs ``c`` times takes part once for
every binary digit of ``c`` that is set, in digit ``j`` with ``2**j`` of its rows, which are summed first. So there are
as many rounds as binary digits in the largest count, every row is read once, and a few frequent words cost no more than
many rare ones.

Measured on 1,216 x 300 with the word frequencies of text: ``np.add.at`` 2,370 us, sort and ``reduceat`` 1,180, one
round for each repetition 500, these rounds 250.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lazyflow import core
from lazyflow import device as devices
from lazyflow.cuda import rows as there
from lazyflow.device import Array, ArrayModule, DType, HostArray
from lazyflow.errors import ShapeError
from lazyflow.ops.base import Shape, on_device, total

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

AddRounds = Sequence[tuple[Array, Array]]

# Rows up to this wide, and repeated rows of up to so many elements together, are added element by element: NumPy's
# ``add_sparse.at`` is slow on rows but takes 2 to 3 ns for an element of a flat array (5,000 x 16: 250 us, rounds 630).
NARROW_ROW, FEW_ELEMENTS = 16, 1 << 15

# Rows that are added to others one after another, at most; beyond, those of one index are summed in rounds before.
MOST_ADDED = 1 << 15

# Elements that a round reads at a time, to stay in cache: 1,010 instead of 1,240 us for 5,000 x 300.
ROUND_ELEMENTS = 1 << 16


def sorted_groups(index: Array) -> tuple[Array, Array, Array, Array]:
    """Positions in the order of their indices, where each group of equal ones starts, its length, and its index.

    Index and position are packed into one integer, because NumPy sorts values several times faster than it argsorts.
    """
    bits = len(index).bit_length()
    packed = (index.astype(np.int64) << bits) | np.arange(len(index))
    packed.sort()
    index = packed >> bits
    starts = np.flatnonzero(np.concatenate(([True], index[1:] != index[:-1]))) if len(index) else np.arange(0)
    return packed & ((1 << bits) - 1), starts, np.diff(starts, append=len(index)), index[starts]


def _rounds(positions: Array, starts: Array, counts: Array, index: Array) -> AddRounds:
    """The rounds of groups: group ``i`` is ``counts[i]`` positions from ``starts[i]`` on, to add at ``index[i]``."""
    if len(positions) == len(index):
        return [(positions[:, None], index)] if len(index) else []
    rounds, size = [], 1
    while len(counts):
        odd = (counts & 1).astype(np.bool_)
        if odd.any():
            rounds.append((positions[starts[odd, None] + np.arange(size)], index[odd]))
        more = counts > 1
        starts, counts, index = (starts + size * odd)[more], counts[more] >> 1, index[more]
        size *= 2
    return rounds


def scatter_rounds(index: Array) -> AddRounds:
    """Rounds ``(positions, indices)`` that together add row ``i`` at ``index[i]``, for all ``i``.

    ``index``: a host array of non-negative integers, one axis. In each round ``indices`` (n,) are distinct, and
    ``positions`` (n, 2**j) says which rows to sum for each of them. Depends on the indices only, so a plan can keep it.

    >>> for positions, indices in scatter_rounds(np.array([7, 5, 7, 7])):
    ...     print(positions.tolist(), indices.tolist())
    [[1], [0]] [5, 7]
    [[2, 3]] [7]
    """
    return _rounds(*sorted_groups(index))


def add_rounds(target: Array, rounds: AddRounds, rows: Array) -> None:
    """``target[i] += rows[p]`` for every position and index of the rounds, in place; both arrays have one axis of rows.

    >>> target = np.zeros((3, 1))
    >>> add_rounds(target, scatter_rounds(np.array([2, 0, 2])), np.array([[1.0], [2.0], [4.0]]))
    >>> target.ravel().tolist()
    [2.0, 0.0, 5.0]
    """
    for positions, indices in _cut_rounds(rounds, rows):
        _add_distinct(target, indices, _summed_rows(rows, positions))


def _add_distinct(target: Array, index: Array, rows: Array) -> None:
    """``target[index] += rows`` for indices that are distinct: on a GPU one launch instead of three."""
    if isinstance(target, np.ndarray):
        target[index] += rows
    else:
        add: Any = devices.module(target).add
        add.at(target, index, rows)


def _cut_rounds(rounds: AddRounds, rows: Array) -> Iterator[tuple[Array, Array]]:
    """The rounds, on the CPU cut so that what they read stays in cache."""
    for positions, indices in rounds:
        step = ROUND_ELEMENTS // max(positions.shape[1] * rows[:1].size, 1) or 1
        if step >= len(indices) or not isinstance(rows, np.ndarray):
            yield positions, indices
        else:
            yield from ((positions[i : i + step], indices[i : i + step]) for i in range(0, len(indices), step))


def _summed_rows(rows: Array, positions: Array) -> Array:
    if positions.shape[1] == 1:
        return rows_at(rows, positions[:, 0])
    return total(rows_at(rows, positions), 1)


def rows_at(rows: Array, index: Array) -> Array:
    """``rows[index]`` for valid indices along the first axis; ``take`` is faster, but copies what is not contiguous."""
    packed = isinstance(rows, np.ndarray) and rows.flags.c_contiguous
    return rows.take(index, 0, mode="clip") if packed else rows[index]


def scatter_add_rows(
    xp: ArrayModule, target: Array, index: Array, rows: Array, bring: Callable[[Array], Array] | None = None
) -> None:
    """``target[index[i]] += rows[i]`` for all ``i``, in place, where indices may repeat.

    ``target`` (N, ...), ``index`` (B,) of integers in ``range(N)``, ``rows`` (B, ...). Sums are not in the rows' order.
    ``bring``: gives ``index`` where the target is, if that has been copied there before.

    >>> target = np.zeros(3)
    >>> scatter_add_rows(np, target, np.array([2, 0, 2]), np.array([1.0, 2.0, 4.0]))
    >>> target.tolist()
    [2.0, 0.0, 5.0]
    """
    if _add_there(target, index, rows, bring):
        return
    index = devices.to_host(index)
    if (rows.dtype == np.float16 or len(index) > MOST_ADDED) and not is_distinct(index):
        merged = RowSparse.coalesce(xp, index, rows, target.shape)
        _add_distinct(target, merged.indices, merged.values)
        return
    flat = xp is np and target.flags.c_contiguous
    if flat and core_has(rows) and rows.dtype == target.dtype:
        width = rows[:1].size
        core.machine.add_rows(target.reshape(-1), index.astype(np.int64) * width, rows.reshape(len(rows), width))
    elif flat and rows[:1].size <= NARROW_ROW:
        _add_elements(target, index, rows)
    elif is_distinct(index):
        _add_distinct(target, bring(index) if bring else xp.asarray(index), rows)
    elif flat and rows.size <= FEW_ELEMENTS:
        _add_elements(target, index, rows)
    else:
        add_rounds(target, _on(xp, scatter_rounds(index)), rows)


def _add_there(target: Array, index: Array, rows: Array, bring: Callable[[Array], Array] | None) -> bool:
    """Whether rows of a device could be added, by one launch. Additions are atomic."""
    if isinstance(target, np.ndarray) or rows.dtype != target.dtype or not rows.size:
        return False
    if target.ndim != 2:
        target = target.reshape(len(target), -1) if target.flags.c_contiguous else target
    flat = rows.reshape(len(rows), -1)
    if not (there.is_matrix(target) and there.is_matrix(flat)):
        return False
    at = index if devices.is_on_gpu(index) else bring(index) if bring else on_device(devices.module(target), index)
    scale = target.strides[0] // target.itemsize
    host = None if devices.is_on_gpu(index) else index
    there.add_parts(target, flat, [there.Part(at.astype(np.int64, copy=False), scale, 0, 0, flat.shape[1], host)])
    return True


def core_has(rows: Array) -> bool:
    """Whether the compiled core adds such rows."""
    known = core.machine is not None and rows.dtype.name in ("float32", "float64")
    return bool(known and rows.ndim > 0 and rows.size > 0 and (rows.flags.c_contiguous or _is_matrix(rows)))


def _is_matrix(rows: Array) -> bool:
    return bool(rows.ndim == 2 and rows.strides[1] == rows.itemsize and rows.strides[0] >= 0)


def is_distinct(index: Array) -> bool:
    """Whether no element of a host array occurs twice; sorting is the faster way for many.

    >>> is_distinct(np.array([3, 1])), is_distinct(np.array([3, 1, 3]))
    (True, False)
    """
    if len(index) < 64:
        return len(set(index.tolist())) == len(index)
    index = np.sort(index)
    return bool((index[1:] != index[:-1]).all())


def _add_elements(target: Array, index: Array, rows: Array) -> None:
    width, flat = rows[:1].size, index.astype(np.int64, copy=False)
    if width > 1:
        flat = (flat[:, None] * width + np.arange(width)).reshape(-1)
    np.add.at(target.reshape(-1), flat if width else flat[:0], rows.reshape(-1))


def _on(xp: ArrayModule, rounds: AddRounds) -> AddRounds:
    """The rounds where the rows are, copied there at once."""
    if xp is np or not rounds:
        return rounds
    whole = xp.asarray(np.concatenate([part.ravel() for pair in rounds for part in pair]))
    found, start = [], 0
    for positions, indices in rounds:
        middle, end = start + positions.size, start + positions.size + indices.size
        found.append((whole[start:middle].reshape(positions.shape), whole[middle:end]))
        start = end
    return found


def sums_of_segments(xp: ArrayModule, index: Array, rows: Array, n: int) -> Array:
    """An array of ``n`` rows, row ``i`` the sum of the ``rows`` whose ``index`` is ``i``.

    >>> sums_of_segments(np, np.array([2, 0, 2]), np.array([1.0, 2.0, 4.0]), 4).tolist()
    [2.0, 0.0, 5.0, 0.0]
    """
    sums = xp.zeros((n, *rows.shape[1:]), rows.dtype)
    scatter_add_rows(xp, sums, index, rows)
    return sums


@dataclass(frozen=True, eq=False)
class RowSparse:
    """The gradient of a table of which few rows were read: row ``indices[i]`` is ``values[i]``, all others are zero.

    ``indices``: int64, sorted, distinct. ``values``: ``(len(indices), *shape[1:])``. ``shape``: that of the table.
    ``host``: indices of a device as the host has them, where they came from there: to ask the device would be to wait.

    >>> gradient = RowSparse.coalesce(np, np.array([3, 1, 3]), np.ones((3, 2)), (4, 2))
    >>> gradient.indices.tolist(), gradient.values.tolist()
    ([1, 3], [[1.0, 1.0], [2.0, 2.0]])
    """

    indices: Array
    values: Array
    shape: Shape
    host: HostArray | None = None

    @classmethod
    def coalesce(cls, xp: ArrayModule, indices: Array, values: Array, shape: Shape) -> RowSparse:
        """From rows whose indices come in any order and may repeat: the values of equal indices are summed.

        ``indices`` (B,) of integers in ``range(shape[0])``, ``values`` ``(B, *shape[1:])``; neither is changed.
        """
        if values.dtype == np.float16:  # sums of these stand still early
            return cls.coalesce(xp, indices, values.astype(np.float32), shape).astype(np.float16)
        positions, starts, counts, unique = sorted_groups(devices.to_host(indices))
        if xp is np and core_has(values):
            merged = np.empty((len(unique), *values.shape[1:]), values.dtype)
            rows = values.reshape(len(values), -1)
            core.machine.sum_groups(merged.reshape(len(unique), -1), rows, positions, np.append(starts, len(positions)))
            return cls(unique, merged, shape)
        if xp is not np and len(unique) and there.has_rows(values.dtype):
            return cls._coalesced_there(xp, positions, starts, unique, values, shape)
        merged = xp.ascontiguousarray(rows_at(values, xp.asarray(positions[starts])))
        repeats = len(positions) - len(unique)
        if repeats and xp is np and repeats * values[:1].size <= FEW_ELEMENTS:
            others = np.ones(len(positions), np.bool_)
            others[starts] = False
            slots = np.repeat(np.arange(len(unique)), counts - 1)
            _add_elements(merged, slots, rows_at(values, positions[others]))
        elif repeats:
            rounds = _rounds(positions, starts + 1, counts - 1, np.arange(len(unique)))
            add_rounds(merged, _on(xp, rounds), values)
        return cls(xp.asarray(unique), merged, shape, None if xp is np else unique)

    @classmethod
    def _coalesced_there(
        cls, xp: ArrayModule, positions: Array, starts: Array, unique: Array, values: Array, shape: Shape
    ) -> RowSparse:
        """The same on a device: one copy to it, and one launch."""
        n, ends = len(unique), np.append(starts[1:], len(positions))
        whole = xp.asarray(np.concatenate([unique, ends, positions]).astype(np.int64, copy=False))
        rows = values.reshape(len(values), -1)
        rows = rows if there.is_matrix(rows) else xp.ascontiguousarray(rows)
        merged = xp.empty((n, rows.shape[1]), values.dtype)
        there.sum_groups(rows, there.Groups(whole[n : 2 * n]), merged, whole[2 * n :])
        return cls(whole[:n], merged.reshape((n, *values.shape[1:])), shape, unique)

    @property
    def dtype(self) -> DType:
        """The NumPy dtype of the values."""
        return self.values.dtype  # type: ignore[no-any-return]

    def to_dense(self) -> Array:
        """The gradient as an array of ``shape``.

        >>> RowSparse(np.array([1]), np.array([[5.0]]), (3, 1)).to_dense().tolist()
        [[0.0], [5.0], [0.0]]
        """
        with devices.on_device_of(self.values):
            dense = devices.module(self.values).zeros(self.shape, self.values.dtype)
            dense[self.indices] = self.values
        return dense

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> HostArray:
        """NumPy's functions take the gradient as the array that it stands for.

        >>> np.abs(RowSparse(np.array([1]), np.array([[-5.0]]), (3, 1))).tolist()
        [[0.0], [5.0], [0.0]]
        """
        if copy is False:
            raise ValueError("the array of a row-sparse gradient is always a copy")
        return np.asarray(devices.to_host(self.to_dense()), dtype)

    def __mul__(self, factor: float) -> RowSparse:
        """All values times a number, so that ``param -= 0.1 * param.grad`` is written for any parameter.

        >>> (0.5 * -RowSparse(np.array([1]), np.array([[4.0]]), (3, 1)) / 2).values.tolist()
        [[-1.0]]
        """
        return self.scale(factor) if isinstance(factor, (int, float)) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> RowSparse:
        return self.scale(1 / divisor) if isinstance(divisor, (int, float)) else NotImplemented

    def __neg__(self) -> RowSparse:
        return self.scale(-1)

    def __getattr__(self, name: str) -> Any:
        """Raise ``AttributeError``, which says how the gradient becomes an array, as most are."""
        if name.startswith("__") or name in ("indices", "values", "shape", "host"):  # what Python and NumPy look for
            raise AttributeError(name)
        raise AttributeError(
            f"the gradient of a table that was looked up in holds only the rows that were touched, and has no "
            f"{name!r}: take gradient.to_dense(), an array of shape {self.shape}"
        )

    def add_to(self, dense: Array) -> None:
        """``dense += self.to_dense()`` in place, touching only the rows that are there."""
        with devices.on_device_of(self.values):
            _add_distinct(dense, self.indices, self.values)

    def scale(self, factor: Array) -> RowSparse:
        """All values times ``factor``.

        >>> RowSparse(np.array([1]), np.array([[5.0]]), (3, 1)).scale(2).values.tolist()
        [[10.0]]
        """
        with devices.on_device_of(self.values):
            return self.with_values(self.values * factor)

    def astype(self, dtype: DTypeLike) -> RowSparse:
        """The same with values of another dtype.

        >>> RowSparse(np.array([1]), np.array([[5.0]]), (3, 1)).astype("float32").dtype
        dtype('float32')
        """
        with devices.on_device_of(self.values):
            return self.with_values(self.values.astype(dtype))

    def with_values(self, values: Array) -> RowSparse:
        """The same rows with other values.

        >>> RowSparse(np.array([1]), np.array([[5.0]]), (3, 1)).with_values(np.array([[2.0]])).to_dense().tolist()
        [[0.0], [2.0], [0.0]]
        """
        return replace(self, values=values)

    def to(self, device: str) -> RowSparse:
        """The same on another device, ``"cpu"`` or ``"cuda:N"``."""
        indices, values = (devices.to_device(array, device) for array in (self.indices, self.values))
        return RowSparse(indices, values, self.shape, None if device == "cpu" else self.host)


def add_sparse(a: RowSparse, b: RowSparse) -> RowSparse:
    """The sum of two gradients of one table. Raises `ShapeError` if the tables differ in shape.

    >>> one, two = (RowSparse(np.array([i]), np.array([1.0]), (3,)) for i in (1, 2))
    >>> add_sparse(add_sparse(one, two), one).to_dense().tolist()
    [0.0, 2.0, 1.0]
    """
    return merged([a, b])


def merged(some: Sequence[RowSparse]) -> RowSparse:
    """The sum of one or more gradients of one table. Raises `ShapeError` if the tables differ in shape."""
    first = some[0]
    other = next((one for one in some if one.shape != first.shape), first)
    if other is not first:
        raise ShapeError(
            f"gradients of shape {first.shape} and {other.shape} do not add; both must belong to one table"
        )
    if len(some) == 1:
        return first
    xp = devices.module(first.values)
    with devices.on_device_of(first.values):
        known = [one.host for one in some if one.host is not None]
        everywhere = len(known) == len(some)
        indices = np.concatenate(known) if everywhere else xp.concatenate([one.indices for one in some])
        values = xp.concatenate([one.values for one in some])
        return RowSparse.coalesce(xp, indices, values, first.shape)
