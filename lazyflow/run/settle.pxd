# Types of `settle.py` for Cython: see `expr.pxd`.

cimport cython

from lazyflow.core.columns cimport Elements
from lazyflow.record.tape cimport Computed, Tape, Type
from lazyflow.run.execute cimport State


cdef Elements ELEMENTS


@cython.locals(
    computed=Computed, runs=list, row=Py_ssize_t, which=Py_ssize_t, offset=Py_ssize_t, kind=Type
)
cpdef _add_values(dict kept, State run, Tape tape, list rows)
