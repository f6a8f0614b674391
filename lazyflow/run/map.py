"""`map`: examples that look at their own values, batched between any two looks.

Every example runs in a fiber, a greenlet with a context of its own. Where a value is asked for that was not computed
yet, the engine lets the example wait (`lazyflow.fibers`): its fiber hands over what it asks for. When all that have
begun wait or have ended, what they have asked for is computed as one forward, a *round*, and they go on.

All run in one thread, one after another, so waiting costs nobody time that would be used otherwise: whoever waits for a
round waits for what has to be recorded anyway. More examples than ``together`` begin when half of those places are
free, and then all at once: what they ask for first, most often the most expensive part, would otherwise run alone.
"""

from __future__ import annotations

import functools
import reprlib
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextvars import Context, copy_context
from dataclasses import fields, replace
from threading import get_ident
from typing import Any

import numpy as np

from lazyflow import fibers, settings
from lazyflow.errors import user_line
from lazyflow.locks import Answer
from lazyflow.plan.arena import next_number
from lazyflow.record import expr
from lazyflow.record.expr import Expr, handle, moment
from lazyflow.record.tape import IMPORT_OP, Tape, current_tape, signature_by_id
from lazyflow.run.rounds import Round, launched, watching

try:
    from greenlet import GreenletExit, getcurrent, greenlet
except ImportError:  # no wheel for this platform, and no compiler: one at a time
    greenlet = None

__all__ = ["map"]

Arguments = tuple[object, ...]


def map(
    fn: Callable[..., Answer], *examples: Iterable[object], together: int | None = None, progress: bool = False
) -> list[Answer]:
    """``[fn(x) for x in examples]``, or ``fn(x, y)`` of several, where ``fn`` may look at its own values, and batches.
    Of several there are as many results as the shortest has elements, as with Python's ``map``.

    Write ``fn`` for one example. Where it asks for a value (``x.item()``, ``x.numpy()``, ``float(x)``, ``if x > 0:``,
    ``int(lf.argmax(x))``), it waits there until all others wait or have ended; then all that was asked for is computed
    as one batch, and they go on. What is not asked for stays lazy, and is computed later, with all of it.

    ``together``: how many examples are under way at once, by default all; with 1, one runs after another.
    ``progress``: a bar over the examples that have ended.

    Each example has a copy of the caller's context, so ``with lf.no_grad():`` and ``with lf.using(...):`` inside are
    its own, and random numbers that do not depend on how examples take turns: in it, every stream that was made outside
    is one of the example's own, the same with any ``together``. ``x.backward()`` waits for the others, too, and all are
    one backward.

    Raises what ``fn`` raises, with a note that names the example, when the others have been ended (``finally`` blocks
    run, and their values are computed one by one then). Raises `MapError` where an example changes a parameter, or
    sets a gradient, while others are in the middle of theirs, and `ThreadError` where a value is asked for in another
    thread.

    >>> import lazyflow as lf
    >>> def halvings(x):
    ...     x, count = lf.constant(x), 0
    ...     while x > 1:
    ...         x, count = x / 2, count + 1
    ...     return count
    >>> lf.map(halvings, [1.0, 100.0, 3.0])
    [0, 7, 2]
    """
    if not callable(fn):
        raise TypeError(f"lf.map(fn, examples): fn must be a function of one example, got {fn!r:.60}")
    if not examples:
        raise TypeError("lf.map(fn, examples): give the examples, one iterable for each argument of fn")
    if together is not None and (isinstance(together, bool) or not isinstance(together, int) or together < 1):
        raise ValueError(f"together must be a positive number, or None for all examples at once, got {together!r}")
    if greenlet is None and together != 1:
        _say_once()
        together = 1
    pairs = enumerate(zip(*examples, strict=False))
    if not progress:
        return _results_of(fn, pairs, together, None)
    from tqdm import tqdm  # longer to import than NumPy, if it is the first to ask for the packages there are

    sizes = [len(column) for column in examples if isinstance(column, Sized)]
    with tqdm(total=min(sizes, default=None), desc="lf.map", unit="example") as bar:
        return _results_of(fn, pairs, together, bar.update)


Examples = Iterator[tuple[int, Arguments]]
Ended = Callable[[], object] | None  # called whenever an example has ended


def _results_of(fn: Callable[..., Answer], examples: Examples, together: int | None, ended: Ended) -> list[Answer]:
    return _one_by_one(fn, examples, ended) if together == 1 else _Loop(fn, examples, together, ended).run()


@functools.cache
def _say_once() -> None:
    warnings.warn(
        "lf.map runs one example after another, for greenlet is not installed: python -m pip install greenlet",
        RuntimeWarning,
        stacklevel=3,
    )


def _one_by_one(fn: Callable[..., Answer], examples: Examples, ended: Ended) -> list[Answer]:
    mapping, results = fibers.Mapping(moment(), shared=False), []
    for number, arguments in examples:
        example = fibers.Example(mapping, number)
        try:
            results.append(_context(example).run(fn, *arguments))
        except BaseException as error:
            _say_which(error, number, arguments)
            raise
        if ended is not None:
            ended()
    return results


def _context(example: fibers.Example) -> Context:
    """A copy of this context for the example."""
    context = copy_context()
    context.run(fibers.enter, example)
    return context


def _say_which(error: BaseException, number: int, arguments: Arguments) -> None:
    """Say in an error's notes from which example it comes."""
    _add_note(error, f"in example {number} of lf.map: {', '.join([_short.repr(argument) for argument in arguments])}")


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


def _add_note(error: BaseException, note: str) -> None:
    if sys.version_info >= (3, 11):
        error.add_note(note)
    else:
        error.__dict__.setdefault("__notes__", []).append(note)


class _Fiber(fibers.Example):
    """An example in a greenlet. ``asked``: what it waits for; with ``cotangents``, for a backward, and whether that is
    ``done``; else ``wants`` says whether it is to be given the value, its ``answer``. ``waited``: how often it did.
    ``ending``: an error has ended the map, and nobody waits any more. ``scope``: that of the map; ``settings``: its
    own, where it has entered or left a block since."""

    # Most examples of a large map ask for nothing: what is as here is not set for each.
    asked: Sequence[Expr] = ()
    answer: object = None
    cotangents: Sequence[object] | None = None
    settings: settings.Settings | None = None
    ending = done = wants = False
    waited = 0

    def __init__(self, mapping: fibers.Mapping, number: int, scope: object) -> None:
        super().__init__(mapping, number)
        self.scope, self.greenlet = scope, getcurrent()

    def waits(self) -> bool:
        if self.mapping.thread != get_ident():
            self.require_own_thread()
        return not (self.busy or self.ending) and getcurrent() is self.greenlet

    def wait(self, roots: Sequence[Expr], cotangents: Sequence[object] | None = None) -> bool:
        self.cotangents, self.wants, self.done = cotangents, False, False
        self._switch(roots)
        self.cotangents = None
        return self.done

    def ask(self, root: Expr) -> Any:
        self.wants = True
        self._switch((root,))
        answer, self.answer = self.answer, None
        return answer

    def _switch(self, roots: Sequence[Expr]) -> None:
        self.asked, self.waited = roots, self.waited + 1
        self.settings = None if settings.now() is self.scope else settings.current()
        if self.mapping.watched:
            if not self.lines:
                self.lines = [user_line()]
            self.greenlet.parent.switch()
            self.lines = ()
        else:
            self.greenlet.parent.switch()
        self.asked = ()


def _answer(asking: Sequence[_Fiber]) -> None:
    """Give each the value that it wants."""
    if asking:
        answers = expr.ENGINE[0].answers([fiber.asked[0] for fiber in asking])
        for fiber, answer in zip(asking, answers, strict=True):
            fiber.answer = answer


def _differentiate_all(asking: Sequence[_Fiber]) -> None:
    """One backward for all that have asked for one, on each device."""
    for device in {e.device: None for fiber in asking for e in fiber.asked}:
        mine = [fiber for fiber in asking if fiber.asked[0].device == device]
        pairs = [pair for fiber in mine for pair in zip(fiber.asked, fiber.cotangents or (), strict=True)]
        expr.ENGINE[0].backward_all([root for root, _ in pairs], [cotangent for _, cotangent in pairs])
        for fiber in mine:
            fiber.done = True


def _held_rows(tape: Tape, low: int) -> list[Expr]:
    """Those rows of a tape, from ``low`` on, that somebody holds an expression of and that no other row reads. What has
    been recorded before the first question, such as an encoder, is asked for next, by every example at another moment:
    it runs in the first round, batched over all of them."""
    if len(tape) <= low or tape.body is not None:
        return []
    free = np.ones(len(tape), bool)
    free[np.frombuffer(tape.operands.tobytes(), np.int32)] = False
    free[:low] = False
    rows = np.flatnonzero(free).tolist()
    if tape.handles is not None:
        held = set(tape.handles.held(low, len(tape)))
        rows = [row for row in rows if row in held]
    kinds = [(row, signature_by_id(tape.signatures[row])) for row in rows if row not in tape.objects]
    return [handle(tape, row, s.type) for row, s in kinds if s.op is not IMPORT_OP and not tape.has_value(row)]


_OF_RUNS = [f.name for f in fields(settings.Settings) if f.name not in ("device", "dtype", "grad")]


class _Loop:
    """Runs the fibers of one map, in turns.

    ``live``: those that have begun and have not ended, by number; at the end of `run` there are none, however it ends.
    """

    def __init__(self, fn: Callable[..., object], coming: Examples, together: int | None, ended: Ended) -> None:
        self.fn, self.coming, self.together, self.ended = fn, coming, together, ended
        self.rounds = watching()
        self.mapping = fibers.Mapping(moment(), shared=True, watched=self.rounds is not None)
        self.live: dict[int, _Fiber] = {}
        self.results: dict[int, object] = {}
        self.exhausted = False
        self.begun, self.scope = (0, 0), settings.now()

    def run(self) -> list[Any]:
        """The results, in the examples' order."""
        tape = current_tape()  # it makes this context's record of its blocks, and the examples' copies share its tape
        self.begun, self.scope = (tape.number, len(tape)), settings.now()
        try:
            self._begin()
            while self.live:
                self._compute(list(self.live.values()))
                for fiber in list(self.live.values()):
                    self._switch(fiber.greenlet)
                self._begin()
        except BaseException as error:
            self._end(error)
            raise
        return [self.results[number] for number in range(len(self.results))]

    def _begin(self) -> None:
        """Begin further examples where half of the places, or more, are free."""
        if self.together is not None and len(self.live) > self.together // 2:
            return
        while not self.exhausted and (self.together is None or len(self.live) < self.together):
            worker = greenlet(self._work)
            worker.gr_context = copy_context()
            self._switch(worker)

    def _work(self) -> None:
        """In a greenlet: run examples until one has waited. A greenlet costs more than one that never does."""
        for number, arguments in self.coming:
            fiber = self.live[number] = _Fiber(self.mapping, number, self.scope)
            try:
                self.results[number] = _context(fiber).run(self.fn, *arguments)
            except BaseException as error:
                if not fiber.ending:
                    _say_which(error, number, arguments)
                raise
            finally:
                self.live.pop(number, None)
                fiber.greenlet = None  # they refer to each other
            if self.ended is not None:
                self.ended()
            if fiber.waited:
                return
        self.exhausted = True

    def _switch(self, worker: greenlet) -> None:
        """Let a greenlet go on until an example waits in it, or until it ends."""
        found = worker.switch()
        if isinstance(found, GreenletExit):
            raise found  # an example has raised it, and it ends a greenlet without a word

    def _compute(self, waiting: Sequence[_Fiber]) -> None:
        """Compute what is asked for, under the settings of those that ask; those of recording make no difference."""
        if all(fiber.settings is None for fiber in waiting):
            return self._round(waiting)
        mine = settings.current()
        groups: dict[settings.Settings, list[_Fiber]] = {}
        for fiber in waiting:
            as_run = replace(fiber.settings or mine, device=mine.device, dtype=mine.dtype, grad=mine.grad)
            groups.setdefault(as_run, []).append(fiber)
        for options, group in groups.items():
            with settings.using(**{name: getattr(options, name) for name in _OF_RUNS}):
                self._round(group)

    def _round(self, waiting: Sequence[_Fiber]) -> None:
        """One forward for all of them. Where that fails, each goes on and computes its own by itself: so the error is
        raised in the example, and at the line, that it belongs to."""
        roots = [e for fiber in waiting for e in fiber.asked]
        asking = [fiber for fiber in waiting if fiber.wants]
        if not settings.current().check_finite:  # what nobody asks for must not be found to be a NaN
            tapes = {id(e.tape): e.tape for fiber in waiting if fiber.waited == 1 for e in fiber.asked}
            roots += [e for tape in tapes.values() for e in _held_rows(tape, self._first_row(tape))]
        outer = fibers.current_example()
        if self.rounds is not None and outer is not None:
            outer.lines = [line for fiber in waiting for line in fiber.lines]
        since = next_number()
        try:
            if len(roots) > len(asking) or len(waiting) > len(asking):
                expr.ENGINE[0].forward(roots)
            _answer(asking)
            if len(waiting) > len(asking):
                _differentiate_all([fiber for fiber in waiting if fiber.cotangents is not None])
        except Exception:
            return
        if self.rounds is not None and (outer is None or not outer.waits()):
            lines = Counter(line for fiber in waiting for line in fiber.lines)
            self.rounds.seen.append(Round(len(waiting), lines, launched(roots, since)))

    def _first_row(self, tape: Tape) -> int:
        """From where on what stands on a tape was recorded by the examples."""
        number, rows = self.begun
        return 0 if tape.number > number else rows if tape.number == number else len(tape)

    def _end(self, error: BaseException) -> None:
        """End all that are under way, because of an error: what they ask for from now on they compute by themselves."""
        for fiber in self.live.values():
            fiber.ending = True
        while self.live:
            _, fiber = self.live.popitem()
            try:
                fiber.greenlet.throw(GreenletExit)
            except BaseException as other:
                _add_note(error, f"and when example {fiber.number} was ended: {type(other).__name__}: {other}")
