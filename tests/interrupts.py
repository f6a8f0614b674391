"""An interrupt between any two bytecodes of the package, by tracing: never by luck."""

import sys
from pathlib import Path

import lazyflow

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


def _traced(function, at, files):
    tracer, before = _Tracer(at, files), sys.gettrace()
    sys.settrace(tracer)
    try:
        function()
    finally:
        sys.settrace(before)
    return tracer.count


def bytecodes(function, files=()):
    """How many bytecodes of the package a call of ``function`` runs; only those of these files, if any are given."""
    return _traced(function, -1, files)


def interrupted(function, at, files=()):
    """Call ``function`` and interrupt it before its ``at``-th bytecode; where, or None if it had ended before."""
    try:
        _traced(function, at, files)
    except KeyboardInterrupt as error:
        return str(error)
    return None
