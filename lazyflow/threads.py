"""How many threads the compiled core and BLAS use while the engine runs.

The products of small models are too small to share, and BLAS threads that wait for a busy core make them up to hundreds
of times slower; so one thread is the default, whatever the environment says, and ``lf.using(threads=...)`` the one
setting. The core cuts products into parts for its own threads, and BLAS has one: a pool beside it, whose threads look
for work all the time, would take the core's processors away. What NumPy does outside of a run is left alone.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from contextvars import ContextVar, copy_context
from threading import get_ident
from typing import Any

import numpy as np

from lazyflow import core
from lazyflow.locks import Lock

# What the kernels that OpenBLAS has for x86 are written for, by their names.
BASELINE, AVX2, AVX512 = range(3)
OPENBLAS_KERNELS = {
    **dict.fromkeys(["SkylakeX", "Cooperlake", "SapphireRapids"], AVX512),
    **dict.fromkeys(["Haswell", "Zen", "Excavator"], AVX2),
    **dict.fromkeys(["Prescott", "Core2", "Penryn", "Dunnington", "Nehalem", "Sandybridge", "Atom", "Nano"], BASELINE),
    **dict.fromkeys(["Athlon", "Opteron", "Barcelona", "Bobcat", "Bulldozer", "Piledriver", "Steamroller"], BASELINE),
}


@functools.cache
def _libraries() -> tuple[Any, ...]:
    """The BLAS libraries of this process. NumPy's is loaded by now; one that is loaded later is left alone. Where it is
    slower than the processor allows, the core is told so."""
    from threadpoolctl import ThreadpoolController  # nobody who only imports the package asks

    found = tuple(lib for lib in ThreadpoolController().lib_controllers if lib.user_api == "blas")
    if core.machine is not None:
        ours = {"avx512": AVX512, "avx2": AVX2}.get(core.machine.instruction_set(), BASELINE)
        # That of NumPy was loaded first.
        core.machine.expect_slow_blas(
            any(OPENBLAS_KERNELS.get(_kernels_named_by(lib), ours) < ours for lib in found[:1])
        )
    return found


def _kernels_named_by(lib: Any) -> str:
    """What a BLAS calls the kernels that it runs; empty where it does not say."""
    return getattr(lib, "architecture", None) or ""


@functools.cache
def _functions() -> tuple[tuple[Any, Any] | None, ...]:
    """Of each of these libraries, its own functions that say how many threads it uses, and that set it; None of one
    whose functions are not known."""
    return tuple([_functions_of(lib) for lib in _libraries()])


def _functions_of(lib: Any) -> tuple[Any, Any] | None:
    if lib.internal_api == "openblas" and lib.threading_layer != "openmp":
        for before, behind in ((a, b) for a in ("", "scipy_") for b in ("", "64_", "_64")):
            pair = [getattr(lib.dynlib, f"{before}openblas_{do}_num_threads{behind}", None) for do in ("get", "set")]
            if None not in pair:
                return pair[0], pair[1]
    return None


@functools.cache
def _counters() -> tuple[Callable[[], int | None], ...]:
    """Functions that say how many threads each of these libraries uses."""
    pairs = zip(_libraries(), _functions(), strict=True)
    return tuple([lib.get_num_threads if own is None else own[0] for lib, own in pairs])


@functools.cache
def _setters() -> tuple[Callable[[int], object], ...]:
    """Functions that set it. threadpoolctl lets only the thread change it that has done so first."""
    pairs = zip(_libraries(), _functions(), strict=True)
    return tuple([lib.set_num_threads if own is None else own[1] for lib, own in pairs])


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Users:
    """The runs of all threads that are in the middle of a `blas_threads` block, and what to go back to behind the
    last: the number is one for the whole process, and the run that came last says it."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.wanted: dict[object, int] = {}
        self.threads: dict[object, int] = {}  # whose they are
        self.before: list[int | None] = []  # of each library
        self.now: list[int | None] = []

    def enter(self, user: object, number: int) -> None:
        """Such a block begins. Where it is the only one, and all libraries have that number anyway, nothing has to be
        done, and nothing to be undone."""
        if not self.wanted and all(count() in (number, None) for count in _counters()):
            return
        with self.lock:
            if not self.wanted:
                self.before = [lib.num_threads for lib in _libraries()]
                self.now = self.before.copy()
            self.threads[user], self.wanted[user] = get_ident(), number
            self._set()

    def leave(self, user: object) -> None:
        """Such a block ends."""
        if user in self.wanted:
            with self.lock:
                self._drop([user])

    def forked(self) -> None:
        """This is the child of a fork: the blocks of other threads are no more."""
        with self.lock:
            self._drop([user for user, thread in self.threads.items() if thread != get_ident()])

    def _drop(self, users: Iterable[object]) -> None:
        for user in users:
            self.wanted.pop(user, None)
            self.threads.pop(user, None)
        self._set()

    def _set(self) -> None:
        number = next(reversed(self.wanted.values()), None)
        for i, before in enumerate(self.before):
            wanted = before if number is None or before is None else number
            if wanted is not None and self.now[i] != wanted:
                _setters()[i](wanted)
                self.now[i] = wanted


@functools.cache
def _users() -> Any:
    """Who counts these blocks: the core where it can, which saves a run some microseconds."""
    functions = [pair for pair in _functions() if pair is not None]
    users: Any
    if core.guards is None or len(functions) < len(_functions()):
        users = _Users()
    else:
        addresses = [tuple(ctypes.cast(own, ctypes.c_void_p).value for own in pair) for pair in functions]
        users = core.guards.BlasUsers(addresses)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=users.forked)  # behind that of `locks`, which frees the locks
    return users


class blas_threads:
    """Let BLAS use ``number`` threads in the ``with`` block, or one where the core shares products among threads.

    >>> with blas_threads(1):
    ...     {lib.num_threads for lib in _libraries()} <= {1}
    True
    """

    def __init__(self, number: int) -> None:
        self.number = number if core.machine is None else 1

    def __enter__(self) -> None:
        _users().enter(self, self.number)

    def __exit__(self, *error: object) -> None:
        _users().leave(self)


class kernel_threads:
    """Let what this thread calls of the compiled core use ``number`` threads in the ``with`` block, where it is large
    enough. Every result is that of one thread to the bit, but for products that NumPy makes in parts.

    >>> with kernel_threads(2):
    ...     pass
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> None:
        self.before = 1 if core.machine is None else core.machine.use_threads(self.number)

    def __exit__(self, *error: object) -> None:
        if core.machine is not None:
            core.machine.use_threads(self.before)


def _silence() -> tuple[ContextVar[object], object] | None:
    """The context variable that says what NumPy does about an overflow and the like, and its value for nothing, which
    costs a fifteenth of an ``np.errstate``; None if it is not clear which it is."""
    with np.errstate(all="ignore"):
        inside = dict(copy_context().items())
    outside = dict(copy_context().items())
    changed = [(variable, value) for variable, value in inside.items() if outside.get(variable) is not value]
    return changed[0] if len(changed) == 1 else None


_SILENCE = _silence()


class _Quietly:
    """`quietly`, whatever there is."""

    __slots__ = ("blas", "kernels", "number", "warnings")

    def __init__(self, number: int) -> None:
        self.number = number
        self.blas = False
        self.kernels: int | None = None
        self.warnings: Any = None

    def __enter__(self) -> None:
        try:
            _users().enter(self, self.number if core.machine is None else 1)  # see `blas_threads`
            self.blas = True
            if core.machine is not None:
                self.kernels = core.machine.use_threads(self.number)
            if _SILENCE is not None:
                self.warnings = _SILENCE[0].set(_SILENCE[1])
            else:
                self.warnings = np.errstate(all="ignore")
                self.warnings.__enter__()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        if self.warnings is not None:
            if _SILENCE is not None:
                _SILENCE[0].reset(self.warnings)
            else:
                self.warnings.__exit__()
        if self.kernels is not None and core.machine is not None:
            core.machine.use_threads(self.kernels)
        if self.blas:
            _users().leave(self)


def quietly(number: int) -> AbstractContextManager[None]:
    """How the engine computes in the ``with`` block: with so many threads of BLAS and of the compiled core, and without
    NumPy's warnings, since compiled kernels have none, and ``check_finite`` names the line of a NaN. What is so already
    is left as it is.

    >>> with quietly(1):
    ...     np.float32(1) / np.float32(0)
    np.float32(inf)
    """
    users = _users()
    if _SILENCE is None or type(users) is _Users or core.machine is None:
        return _Quietly(number)
    return core.guards.Quiet(users, core.machine.use_threads, number, *_SILENCE)  # type: ignore[no-any-return]
