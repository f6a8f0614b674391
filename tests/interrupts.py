"""An interrupt between any two bytecodes of the package, by tracing: never by luck."""

import functools
import sys
import threading
from pathlib import Path
from unittest import mock

import lazyflow
from lazyflow import locks

PACKAGE = str(Path(lazyflow.__file__).parent)


class _Tracer:
    def __init__(self, at, files):
        self.at, self.files, self.count = at, files, 0

    def __call__(self, frame, event, argument):
        name = frame.f_code.co_filename
        if not name.startswith(PACKAGE) or frame.f_code.co_name == "__del__":  # there, nobody could catch it
            return None
        if self.files and name[len(PACKAGE) + 1 :] not in self.files:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self.step

    def step(self, frame, event, argument):
        if event == "opcode":
            self.count += 1
            if self.count - 1 == self.at:
                raise KeyboardInterrupt(f"{frame.f_code.co_name}:{frame.f_lineno}, {frame.f_lasti}")
        return self.step


def _set(tracer):
    """Trace from here on; on Python 3.12, bytecodes only if some frame has asked for them before."""
    sys._getframe().f_trace_opcodes = True
    sys.settrace(tracer)


def _traced(function, at, files):
    tracer, before = _Tracer(at, files), sys.gettrace()
    _set(tracer)
    try:
        function()
    finally:
        sys.settrace(before)
    return tracer.count


def bytecodes(function, files=()):
    """How many bytecodes of the package a call of ``function`` runs; only those of these files, if any are given.

    From Python 3.13 on, bytecodes are traced from the second or third call of a function on: it is called before."""
    for _ in range(3 if sys.version_info >= (3, 13) else 0):
        _traced(function, -1, files)
    return _traced(function, -1, files)


def interrupted(function, at, files=()):
    """Call ``function`` and interrupt it before its ``at``-th bytecode; where, or None if it had ended before."""
    try:
        _traced(function, at, files)
    except KeyboardInterrupt as error:
        return str(error)
    return None


class _Meanwhile(_Tracer):
    """Runs another function in another thread before the ``at``-th bytecode, until it ends or waits for a lock."""

    def __init__(self, at, files, other):
        super().__init__(at, files)
        self.other, self.stopped, self.thread, self.error = other, threading.Event(), None, None

    def step(self, frame, event, argument):
        if event == "opcode":
            self.count += 1
            if self.count - 1 == self.at:
                self.thread = threading.Thread(target=self.run)
                self.thread.start()
                self.stopped.wait()
        return self.step

    def run(self):
        sys.settrace(self.in_the_other)
        try:
            self.other()
        except BaseException as error:
            self.error = error
        finally:
            sys.settrace(None)
            self.stopped.set()

    def in_the_other(self, frame, event, argument):
        inner = _lock_of(frame)
        if inner is not None and inner.acquire(blocking=False):
            inner.release()
        elif inner is not None:
            self.stopped.set()  # the first thread has the lock, and must go on
        return None


def _lock_of(frame):
    """The lock that a call is about to wait for, or None."""
    if frame.f_code is locks._guarded.__code__:
        return frame.f_locals["lock"].inner
    if frame.f_code is functools.cached_property.__get__.__code__:
        return getattr(frame.f_locals["self"], "lock", None)  # up to Python 3.11 it has one
    return None


def meanwhile(function, at, other, files=()):
    """Call ``function``, stop it before its ``at``-th bytecode, and call ``other`` in a thread of its own; where that
    one has to wait for the first, both go on."""
    tracer, before = _Meanwhile(at, files, other), sys.gettrace()
    with mock.patch.object(locks.Lock, "__exit__", property(locks._guarded)):  # a wait in compiled code is not seen
        _set(tracer)
        try:
            function()
        finally:
            sys.settrace(before)
            if tracer.thread is None:  # it ended before: what it does depends on what is known already
                tracer.thread = threading.Thread(target=tracer.run)
                tracer.thread.start()
            tracer.thread.join()
    if tracer.error is not None:
        raise tracer.error
