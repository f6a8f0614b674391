"""What threads share, and who owns what: locks that no fork leaves behind, and the threads that tapes belong to.

A fork copies one thread. What another one held at that moment, a lock or half a change, would stay so in the child for
good. So whoever forks first takes all locks of this file, and both processes let go of them afterwards.
"""

from __future__ import annotations

import functools
import itertools
import operator
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from lazyflow.core import guards
from lazyflow.core.columns import ThisThread

Answer = TypeVar("Answer")


_call_it = operator.methodcaller("__call__")


class _End:
    """What a ``with`` statement keeps, and calls before it ends. ``called``: what is called when it is no more."""

    __slots__ = ("__weakref__", "called")

    def __init__(self) -> None:
        self.called: list[weakref.ref[_End]] = []

    def __call__(self, *error: object) -> None:
        """The statement ends."""


def _guarded(lock: Lock) -> _End:
    """Take the lock ``lock.inner``, and return what opens it again by its end.

    It has no name in this frame, or a traceback would keep it. The lock is taken, the opening arranged for, and the
    object handed over in the course of one call, so that no bytecode lies between.
    """
    end = [_End()]
    references = map(weakref.ref, end, [lock.inner.__exit__])  # type: ignore[arg-type]  # made when they are asked for
    opened_by = functools.partial(end[0].called.extend, references)
    found: _End = deque(map(_call_it, [lock.inner.acquire, opened_by, end.pop]), maxlen=1).pop()
    return found


guarded = _guarded if guards is None else guards.guarded


class Lock:
    """A lock for a ``with`` statement, which its own thread may take again: the garbage collector runs anywhere.

    No interrupt leaves it locked. Between the last bytecode of a body and the call of ``__exit__``, and at both ends of
    a method, an interrupt skips whatever was to be done at the end. So it is the end of the *object* that the statement
    keeps which opens the lock, whatever ended it, and one single call both closes it and sees to that.
    """

    __slots__ = ("__weakref__", "inner")

    def __init__(self) -> None:
        self.inner = threading.RLock()
        _locks.append(weakref.ref(self, _locks.remove))

    def __enter__(self) -> None:
        """The lock is taken already: the statement has asked for ``__exit__`` before."""

    if TYPE_CHECKING:

        def __exit__(self, *error: object) -> None: ...
    else:
        __exit__ = property(guarded)


_locks: list[weakref.ref[Lock]] = []


class _Token:
    """Lives as long as the thread that has it."""


class Owner:
    """A thread, as the owner of tapes. ``lock``: held by whoever computes what was recorded on them."""

    __slots__ = ("__weakref__", "alone", "lock", "name", "number", "token")

    def __init__(self, token: _Token) -> None:
        self.token: weakref.ref[_Token] | None = weakref.ref(token)
        self.lock = Lock()
        self.alone = frozenset([self])  # the set of this owner, made once
        self.number = next(_owner_numbers)
        self.name = threading.current_thread().name
        _every_owner.add(self)

    def is_alive(self) -> bool:
        """Whether the thread still runs, and may record."""
        return self.token is not None and self.token() is not None


_owner_numbers = itertools.count()
_every_owner: weakref.WeakSet[Owner] = weakref.WeakSet()


class _Thread(threading.local):
    """Which thread this is. Nothing else is kept by thread: settings and tapes go with the context."""

    def __init__(self) -> None:
        self.token = _Token()
        self.owner = Owner(self.token)


_thread = _Thread()


THREAD = ThisThread(_thread)


def owner() -> Owner:
    """This thread."""
    return THREAD.get()  # type: ignore[no-any-return]


def together(owners: Sequence[Owner], function: Callable[..., Answer], *args: object) -> Answer:
    """Call a function while nobody else computes what these threads have recorded; from all sides in one order."""
    if not owners:
        return function(*args)
    with owners[0].lock:
        return together(owners[1:], function, *args)


# Forks.


_over_fork: list[threading.RLock] = []


def _before_fork() -> None:
    """Take all locks. Those of the owners come first, in the order of `together`, for who holds one takes others: so
    each thread ends its run and then waits, and many that are busy keep nobody from forking for good. Between the
    others no order is known: who has waited for one of them for some time lets all go, and next time waits for
    longer."""
    patience = 0.01
    while not _took_all(patience):
        patience *= 2


def _took_all(patience: float) -> bool:
    owners = sorted(_every_owner, key=lambda o: o.number)
    first = {id(o.lock): o.lock for o in owners}
    locks = [*first.values(), *(lock for r in list(_locks) if (lock := r()) is not None and id(lock) not in first)]
    taken: list[threading.RLock] = []
    try:
        for lock in locks:
            if not lock.inner.acquire(timeout=patience):
                return False
            taken.append(lock.inner)
        while taken:
            _over_fork.append(taken.pop())
        return True
    finally:
        for other in taken:
            other.release()


def _after_fork() -> None:
    while _over_fork:
        _over_fork.pop().release()


def _after_fork_in_child() -> None:
    """The other threads are gone, whatever they held."""
    _after_fork()
    mine = owner()
    for other in list(_every_owner):
        if other is not mine:
            other.token, other.lock = None, Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
