"""The settings of a ``with lf.using(...)`` block: one frozen record per context, never a global switch or an
environment flag.

They are kept in one context variable, together with the tape that is recorded on, so that they follow whatever follows
contexts: threads, tasks, and fibers that have a context each.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lazyflow import core
from lazyflow.core.columns import Held, Scope, Variable, no_tape
from lazyflow.device import DType, canonical
from lazyflow.errors import CellError, DTypeError, user_line
from lazyflow.locks import owner
from lazyflow.profile import Profile
from lazyflow.threads import cores

FUSIONS = ("auto", "core", "numpy", "off")
STORAGES = (None, "float16", "bfloat16")
SWITCHES = ("grad", "check_finite", "dedupe", "deterministic", "tf32", "persistent")
RECORDING = ("device", "dtype", "grad", "check_finite")
BATCHINGS: list[str] = []  # the ways to schedule, by name: filled in by `lazyflow.plan.schedule`


FLOAT32: DType = np.dtype(np.float32)


@dataclass(frozen=True)
class Settings:
    """What holds inside a ``with`` block.

    ``batching``: how operations are grouped into launches. ``device``: where what is recorded runs. ``dtype``: of
    Python numbers, lists and initialisers. ``grad``: whether what is recorded can be differentiated. ``check_finite``:
    record the line of every operation and raise at the first NaN or infinity; nothing is joined, looped or chained, and
    cells are laid out, so that it takes more launches. ``fuse``: what runs the elementwise parts
    of a cell: ``"core"`` (compiled loops, see `lazyflow.core`; elementwise operations that stand together outside of
    cells are fused, too), ``"numpy"`` (NumPy calls over blocks that stay in cache), ``"off"`` (one operation after
    another), ``"auto"`` (the core where it was built, else NumPy). On a GPU they are kernels in CUDA C, unless it is
    ``"off"``.
    ``dedupe``: nodes that compute the same are computed once. ``threads``: how many a run and an optimizer's step may
    use for what is large enough; ``"all"`` for as many as there are cores.
    ``deterministic``: sums on a device have the same bits at every run; rows that are added where they may meet others
    are sorted on the host first, instead of added in any order (where backward is called counts; on the CPU it is
    always so).
    ``tf32``: products of float32 matrices on a device may read their operands with 10 bits behind the binary point, in
    place of 23, which tensor cores multiply several times as fast. CuPy has one such mode for all threads of a process.
    ``storage``: ``"float16"`` or ``"bfloat16"``: what the calls of cells keep for a backward of float32 on a device,
    in half the bytes, with copies of their weights as narrow (where forward is called counts; on the CPU, and where
    nothing is fused, it raises `DeviceError`). Results of cells, gradients and parameters stay float32.
    ``persistent``: on a device, the launches of one cell that follow each other, such as the steps of a recurrence or
    the levels of trees, are one kernel forward and one backward, which go from level to level by themselves, their
    weights in shared memory, where these fit and the cell is products, elementwise kernels of one width, and no more
    (`lazyflow.cells.phases`; where forward is called counts). It computes the same up to rounding. Never timed.
    ``profile``: a `lazyflow.profile.Profile`, which adds up where the time goes.
    """

    batching: str = "phases"
    device: str = "cpu"
    dtype: DType = FLOAT32
    grad: bool = True
    check_finite: bool = False
    fuse: str = "auto"
    dedupe: bool = True
    threads: int = 1
    deterministic: bool = False
    tf32: bool = False
    storage: str | None = None
    persistent: bool = False
    profile: Profile | None = field(default=None, compare=False)  # changes nothing but what is known of the time

    @functools.cached_property
    def recording(self) -> tuple[object, ...]:
        """What is recorded depends on these; the others say how it is run."""
        return tuple([getattr(self, name) for name in RECORDING])


_NAMES = frozenset(f.name for f in fields(Settings))


# The context: which blocks hold here, and what is recorded on.


class Entry(Held):
    """One time that a block was entered.

    It holds for as long as the ``with`` statement keeps what it will call at its end (``holder``), and where it was
    left in the regular way, for all contexts that were copied inside of it. So an interrupt anywhere between entering
    and leaving cannot leave it behind: the statement is gone then, and with it the holder.

    ``holder`` is None where it was entered by hand, and holds until it is left. ``kept``: by the contexts that were
    copied inside of it, for it was left where it was entered; ``closed``: left from elsewhere, it holds nowhere any
    more.
    """

    __slots__ = ("block", "outer")

    def __init__(self, block: using) -> None:
        super().__init__()
        self.block = block
        self.outer: Scope | None = None  # where it was entered


# The state of a context is a `Scope`: the blocks that were entered, the settings that they make, and the tape that is
# recorded on there (weakly: a tape lives as long as an expression of it), by the thread ``owner``. There is one context
# variable, and it holds one of these. Whatever follows contexts (tasks, fibers) follows this.

Function = TypeVar("Function", bound=Callable[..., object])
_OUTERMOST = Scope((), Settings())
SCOPE = Variable("lazyflow.scope", default=_OUTERMOST)  # a context variable
now: Callable[[], Scope] = SCOPE.get


def here() -> Scope:
    """The scope of this context, without blocks that an interrupt, or leaving them from elsewhere, has left behind."""
    scope = now()
    for entry in scope.entries:
        if not entry.holds():
            return _narrowed(scope, [e for e in scope.entries if e.holds()])
    return scope


def owned(scope: Scope) -> Scope:
    """The same scope with a tape of this thread: it was that of a context that was copied from elsewhere."""
    mine = Scope(scope.entries, scope.settings, owner())
    SCOPE.set(mine)
    return mine


def current() -> Settings:
    """The settings of this context."""
    found: Settings = here().settings
    return found


def tracing() -> Any:
    """The `Body` that this context is recording, of a cell, or None."""
    tape = now().tape()
    return None if tape is None else tape.body


def refuse_in_cells(what: str, instead: str) -> None:
    """Raise `CellError` while the body of a cell is recorded: what would happen once must not pass for what happens at
    every call. ``what`` happens inside, and ``instead`` says what to write."""
    tape = now().tape()
    body = None if tape is None else tape.body
    if body is not None:
        raise CellError(
            f"{user_line()}: {what} inside the {body.name}, whose body is recorded once and not run at every call: "
            f"{instead}"
        )


def _narrowed(scope: Scope, entries: Sequence[Entry]) -> Scope:
    """Go on with these of a scope's entries: as it was before the others, if they came last."""
    outer: Scope | None = scope.entries[len(entries)].outer
    if outer is not None and outer.entries == tuple(entries):
        new = outer
    else:
        new = functools.reduce(lambda around, entry: entry.block.scope(around, entry), entries, _OUTERMOST)
    SCOPE.set(new)
    return new


def _checked(name: str, value: Any) -> object:
    if name == "batching" and value not in BATCHINGS:
        raise ValueError(f"batching must be one of {', '.join(BATCHINGS)}; got {value!r}")
    if name == "fuse":
        return _checked_fusion(value)
    if name == "storage" and value not in STORAGES:
        raise ValueError(f"storage must be 'float16', 'bfloat16' or None; got {value!r}")
    if name == "threads":
        return _checked_threads(value)
    if name == "device":
        return canonical(value)
    if name == "profile" and not isinstance(value, Profile | None):
        raise TypeError(f"profile must be a lazyflow.profile.Profile or None, got a {type(value).__name__}")
    if name == "dtype":
        dtype = np.dtype(value).newbyteorder("=")
        if dtype.kind != "f" or dtype.itemsize > 8:
            raise DTypeError(f"the default dtype must be float16, float32 or float64, got {dtype}")
        return dtype
    return bool(value) if name in SWITCHES else value


def _checked_threads(value: object) -> int:
    if value == "all":
        return cores()
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"threads must be a positive number or 'all', got {value!r}")
    return value


def _checked_fusion(value: object) -> object:
    if value == "numba":
        raise ValueError("fuse='numba' is no more: fuse='core' does the same, faster, and compiles nothing at run time")
    if value not in FUSIONS:
        raise ValueError(f"fuse must be one of {', '.join(FUSIONS)}; got {value!r}")
    if value == "core" and core.machine is None:
        raise ImportError(
            "fuse='core' needs the compiled core, which was not built when lazyflow was installed: install a C "
            "compiler and lazyflow again, or use fuse='numpy'"
        )
    return value


class _Leaving:
    """``block.__exit__``, whichever way it is asked for.

    A ``with`` statement asks an instance for it, before it enters, and keeps what it gets until it is over: then that
    is the entry's holder. ``contextlib.ExitStack`` asks the class, and calls what it gets with the block.
    """

    def __get__(self, block: using | None, kind: type) -> Callable[..., None]:
        if block is None:
            return self
        entry = Entry(block)
        leave = functools.partial(_leave, entry)
        entry.holder = weakref.ref(leave)
        block.coming[threading.get_ident()] = entry.holder
        return leave

    def __call__(self, block: using, *error: object) -> None:
        _leave(Entry(block))


def _leave(entry: Entry, *error: object, ends: Callable[[], bool] = sys.is_finalizing) -> None:
    """Leave a block. Wherever this is interrupted, the entry holds no more: its holder is gone with the statement."""
    if ends():  # a generator that waits in the block when the process ends; the names below may be gone
        return
    if entry.outer is None:  # never entered: the call belongs to what was entered by hand
        entry = _by_hand(entry.block)
        entry.holder = no_tape
    scope = now()
    if entry in scope.entries:
        tape = scope.tape()
        _narrowed(scope, [e for e in scope.entries if e is not entry and e.holds()])
        entry.kept = True
        if tape is not None and entry.block.ends_tape:
            tape.seal()
    else:
        entry.closed = True


def _by_hand(block: using) -> Entry:
    """What this context entered last of what was entered by hand, or what any did."""
    if not block.by_hand:
        raise RuntimeError(f"{type(block).__name__}: this block was left more often than it was entered")
    mine = [e for e in now().entries if e in block.by_hand]
    entry = (mine or block.by_hand)[-1]
    block.by_hand.remove(entry)
    return entry


class using:
    """Settings for a ``with`` block, or, as a decorator, for a function; blocks nest.

    They hold in the context that entered the block (see `contextvars`): in this thread, in this task of ``asyncio``,
    and in the tasks that are started inside. Of a decorated generator or coroutine they hold while its own body runs,
    not where it yields or waits. One object may be entered many times, also by several threads or tasks at once.

    >>> import lazyflow as lf
    >>> with lf.using(batching="depth", dtype="float64"):
    ...     lf.constant([1.0, 2.0]).dtype
    dtype('float64')

    Raises ``TypeError`` for an unknown setting and ``ValueError``, ``DTypeError`` or ``DeviceError`` for a value that
    does not fit.
    """

    ends_tape = True  # what was recorded inside belongs to nobody when the block was left

    def __init__(self, **changes: object) -> None:
        unknown = sorted(changes.keys() - _NAMES)
        if unknown:
            raise TypeError(f"unknown setting {', '.join(unknown)}; there are {', '.join(sorted(_NAMES))}")
        self.changes = {name: _checked(name, value) for name, value in changes.items()}
        self.coming: dict[int, weakref.ref[Any]] = {}  # by thread: the holder of what a ``with`` is about to enter
        self.by_hand: list[Entry] = []  # entered without a ``with`` statement, and not left

    def scope(self, outer: Scope, entry: Entry) -> Scope:
        """The scope inside of the block, which was entered in ``outer``."""
        inside = replace(outer.settings, **self.changes) if self.changes else outer.settings
        return Scope((*outer.entries, entry), inside, outer.owner)

    def __enter__(self) -> Settings:
        if self.ends_tape:  # and it is not the body of another cell that is recorded inside
            refuse_in_cells(
                "the settings cannot change",
                "use the block around its calls, and x.detach() inside for a value without gradient",
            )
        holder = self.coming.pop(threading.get_ident(), None)
        # The holder gets no name in this frame: a traceback would keep it, and so the entry would hold.
        entry = Entry(self) if holder is None or holder() is None else holder().args[0]  # type: ignore[union-attr]
        entry.outer = here()
        inside = self.scope(entry.outer, entry)
        if entry.holder is None:
            self.by_hand.append(entry)
        SCOPE.set(inside)
        entered: Settings = inside.settings
        return entered

    if TYPE_CHECKING:

        def __exit__(self, *error: object) -> None: ...
    else:
        __exit__ = _Leaving()

    def __call__(self, function: Function) -> Function:
        """``function`` inside of this block, entered anew for every call, or for every step where it yields or
        waits."""
        if inspect.isasyncgenfunction(function):
            return _async_generator(self, function)  # type: ignore[return-value]
        if inspect.iscoroutinefunction(function):
            return _coroutine(self, function)  # type: ignore[return-value]
        if inspect.isgeneratorfunction(function):
            return _generator(self, function)  # type: ignore[return-value]

        @functools.wraps(function)
        def inside(*args: object, **kwargs: object) -> object:
            with self:
                return function(*args, **kwargs)

        return inside  # type: ignore[return-value]


class no_grad(using):
    """``using(grad=False)``: what is recorded inside cannot be differentiated, and memory is freed as soon as it was
    read.

    >>> import lazyflow as lf
    >>> w = lf.Parameter([1.0, 2.0])
    >>> with lf.no_grad():
    ...     (w * w).requires_grad
    False
    """

    def __init__(self) -> None:
        super().__init__(grad=False)


# Functions that stop in the middle: the settings hold while they run.


def _steps(block: using, inner: Any, ends: Callable[[], bool] = sys.is_finalizing) -> Generator[object, Any, object]:
    """A generator, or what a coroutine waits for, with each step of it inside of the block. At the end of the process,
    when the names of this module may be gone, it is left to itself."""
    step, value = inner.send, None
    while True:
        try:
            with block:
                found = step(value)
        except StopIteration as end:
            return end.value
        try:
            step, value = inner.send, (yield found)
        except BaseException as error:  # GeneratorExit, too: what it is to do about it is up to the inner one
            if ends():
                raise
            step, value = inner.throw, error


class _Waiting:
    """What a coroutine waits for, step by step inside of a block."""

    def __init__(self, block: using, inner: object) -> None:
        self.block, self.inner = block, inner

    def __await__(self) -> Generator[object, Any, object]:
        return _steps(self.block, self.inner)


def _generator(block: using, function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    def inside(*args: object, **kwargs: object) -> Generator[object, Any, object]:
        return (yield from _steps(block, function(*args, **kwargs)))

    return inside


def _coroutine(block: using, function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    async def inside(*args: object, **kwargs: object) -> object:
        return await _Waiting(block, function(*args, **kwargs))

    return inside


def _async_generator(
    block: using, function: Callable[..., Any], ends: Callable[[], bool] = sys.is_finalizing
) -> Callable[..., Any]:
    @functools.wraps(function)
    async def inside(*args: object, **kwargs: object) -> object:
        inner = function(*args, **kwargs)
        step = inner.__anext__()
        while True:
            try:
                found = await _Waiting(block, step)
            except StopAsyncIteration:
                return
            try:
                step = inner.asend((yield found))
            except BaseException as error:
                if ends():
                    raise
                step = inner.athrow(error)

    return inside
