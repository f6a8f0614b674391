# Types of `forward.py` for Cython: see `expr.pxd`.

cimport cython

from lazyflow.record.tape cimport Tape
from lazyflow.run.execute cimport State


cpdef bint _compute_alike(object roots, list readings, object options) except -1


@cython.locals(tape=Tape)
cpdef bint _note_first(State run, Tape tape) except -1


cpdef _note_run(State run, list readings)
