"""Minibatches: shuffled by a seed, bucketed by size, and resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from lazyflow.errors import ShapeError
from lazyflow.random import default_stream
from lazyflow.state import check_kind, differences, miscounts, raise_differences

__all__ = ["Batches", "batches"]

T = TypeVar("T")


def batches(
    examples: Iterable[T],
    size: int,
    *,
    shuffle: bool = False,
    seed: int | None = None,
    drop_last: bool = False,
    key: Callable[[T], Any] | None = None,
    epoch: int = 0,
) -> Batches[T]:
    """Lists of ``size`` examples, the last one shorter unless ``drop_last``; iterate once for every epoch.

    ``shuffle``: a new order every epoch, which depends on ``seed``, the epoch's number and the number of examples, and
    on nothing else; without a seed one is drawn from the default random stream (`lazyflow.seed`). ``key``: examples of
    similar ``key(example)`` (``len``, say) come in one batch; equal keys are shuffled among each other, and so are the
    batches. Without shuffling, batches then come by rising key. ``epoch``: the number of the first epoch.

    ``drop_last`` with ``shuffle`` leaves out random examples, others in every epoch, not those with the largest key.

    ``examples``: a list or another sequence, or anything to go over once. A tuple of lists or arrays, ``(xs, ys)``, is
    one of columns: its examples are the pairs. Those of a pandas or Arrow table are its rows, as dicts. Raises
    ``TypeError`` for a mapping of columns, `ShapeError` for columns of different lengths.

    Raises ``ValueError`` for an empty data set, a size below 1, or one that ``drop_last`` leaves without a batch.

    >>> order = batches("abcdefg", 3, shuffle=True, seed=1)
    >>> len(order), [len(batch) for batch in order]
    (3, [3, 3, 1])
    >>> first, second = batches("abcdefg", 3, shuffle=True, seed=1), batches("abcdefg", 3, shuffle=True, seed=1)
    >>> list(first) == list(second) and list(first) == list(second) and list(first) != list(first)
    True
    >>> list(batches(["ccc", "a", "bb", "a"], 2, key=len))
    [['a', 'a'], ['bb', 'ccc']]
    """
    return Batches(examples, size, shuffle=shuffle, seed=seed, drop_last=drop_last, key=key, epoch=epoch)


class _Place(NamedTuple):
    """Where the batches stand: one value, so that no interrupt leaves half of a change."""

    seed: int
    epoch: int
    position: int
    resume: bool = False  # whether the next iteration goes on in the middle of the epoch


class Batches(Generic[T]):
    """What `batches` returns: an iterable of lists of examples, with a ``len()`` and a state to save.

    Every ``iter()`` begins the next epoch, also when the one before was left early. ``epoch`` is the number of the
    epoch that runs or comes next, ``position`` how many of its batches were handed out. After `load_state_dict` the
    next ``iter()`` goes on where the state was saved: with the batch after the last one handed out.

    >>> run = batches(range(6), 2, shuffle=True, seed=3)
    >>> steps = iter(run)
    >>> done, state = next(steps), run.state_dict()
    >>> resumed = batches(range(6), 2, shuffle=True, seed=0)
    >>> resumed.load_state_dict(state)
    >>> list(resumed) == list(steps)
    True
    """

    def __init__(
        self,
        examples: Iterable[T],
        size: int,
        *,
        shuffle: bool = False,
        seed: int | None = None,
        drop_last: bool = False,
        key: Callable[[T], Any] | None = None,
        epoch: int = 0,
    ) -> None:
        self.examples: Sequence[T] = _examples(examples)
        self.size = _integer("size", size, 1)
        self.shuffle, self.drop_last = bool(shuffle), bool(drop_last)
        first = _integer("epoch", epoch, 0)
        if not len(self.examples):
            raise ValueError("there are no examples to make batches of: the data set is empty")
        if not len(self):
            raise ValueError(
                f"drop_last leaves no batch: {len(self.examples)} examples, size {self.size}; make size smaller"
            )
        chosen = default_stream().draw()[1] if seed is None and shuffle else _integer("seed", seed or 0, 0)
        self._place = _Place(chosen, first, 0)
        self._keys = None if key is None else [key(example) for example in self.examples]

    @property
    def seed(self) -> int:
        """What the orders depend on."""
        return self._place.seed

    @property
    def epoch(self) -> int:
        """The number of the epoch, from 0."""
        return self._place.epoch

    @property
    def position(self) -> int:
        """How many batches of the epoch were given."""
        return self._place.position

    def __len__(self) -> int:
        whole, rest = divmod(len(self.examples), self.size)
        return whole + bool(rest and not self.drop_last)

    def __iter__(self) -> Iterator[list[T]]:
        if self.position and not self._place.resume:  # the epoch before was left early
            self._place = _Place(self.seed, self.epoch + 1, 0)
        self._place = self._place._replace(resume=False)
        return self._rest(self.epoch, self._order(self.epoch)[self.position :])

    def _rest(self, epoch: int, order: list[list[int]]) -> Iterator[list[T]]:
        for indices in order:
            batch = [self.examples[i] for i in indices]
            if self.epoch == epoch:
                self._place = _Place(self.seed, epoch, self.position + 1)
            yield batch
        if self.epoch == epoch:
            self._place = _Place(self.seed, epoch + 1, 0)

    def _order(self, epoch: int) -> list[list[int]]:
        """The indices of every batch of an epoch."""
        random = np.random.default_rng((self.seed, epoch))
        count = len(self.examples)
        order = random.permutation(count).tolist() if self.shuffle else list(range(count))
        if self._keys is not None:
            if self.shuffle and self.drop_last:
                del order[len(self) * self.size :]  # before sorting, or the largest would never be seen
            order.sort(key=self._keys.__getitem__)
        cut = [order[i : i + self.size] for i in range(0, len(self) * self.size, self.size)]
        if self._keys is not None and self.shuffle:
            return [cut[i] for i in random.permutation(len(cut))]
        return cut

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: the seed, the epoch, the place in it, and what the order depends on."""
        return {"kind": "Batches", "seed": self.seed, "epoch": self.epoch, "position": self.position, **self._fixed()}

    def _fixed(self) -> dict[str, Any]:
        keyed = self._keys is not None
        sizes = {"examples": len(self.examples), "size": self.size}
        return {**sizes, "shuffle": self.shuffle, "drop_last": self.drop_last, "key": keyed}

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `CheckpointError` with everything that keeps ``state`` from being loaded: other data or other
        options.
        """
        check_kind("Batches", state)
        raise_differences("Batches", differences(self.state_dict(), state))
        ours = self._fixed()
        raise_differences("Batches", [f"{k}: expected {v}, got {state[k]}" for k, v in ours.items() if state[k] != v])
        found = miscounts(state, "epoch", "position")
        if not found and state["position"] > len(self):
            found.append(f"position must be at most {len(self)}, the batches of an epoch, got {state['position']}")
        try:
            _integer("seed", state["seed"], 0)
        except ValueError as error:
            found.append(str(error))
        raise_differences("Batches", found)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the seed and go on where ``state`` was saved, with the next ``iter()``.

        Raises `CheckpointError` if it was saved with other options or another number of examples, and changes nothing
        then.
        """
        self.check_state_dict(state)
        self._place = _Place(int(state["seed"]), int(state["epoch"]), int(state["position"]), resume=True)


def _examples(data: Any) -> Sequence[Any]:
    """The examples of a data set: the rows of a table, the pairs of a tuple of columns, or what a sequence holds."""
    if isinstance(data, Mapping) and data and all(_is_column(part) for part in data.values()):
        raise TypeError(
            f"a {type(data).__name__} of columns is no list of examples: take tuple(data.values()), or list(data) "
            "for its keys"
        )
    if type(data) is tuple and len(data) > 1 and all(_is_column(part) for part in data):
        columns = [_examples(part) for part in data]
        if len({len(column) for column in columns}) > 1:
            raise ShapeError(
                f"a tuple of lists or arrays is one of columns, (xs, ys), of one length; got "
                f"{' and '.join(str(len(c)) for c in columns)}. Examples that are lists or arrays go in a list"
            )
        return list(zip(*columns, strict=True))
    if hasattr(data, "to_pylist"):  # of Arrow
        return data.to_pylist()  # type: ignore[no-any-return]
    if hasattr(data, "iloc"):  # of pandas
        return data.to_dict("records") if hasattr(data, "columns") else data.to_list()  # type: ignore[no-any-return]
    is_sequence = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Mapping)
    return data if is_sequence else list(data)


def _is_column(part: Any) -> bool:
    return isinstance(part, list) or bool(getattr(part, "shape", None)) or hasattr(part, "to_pylist")


def _integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)
