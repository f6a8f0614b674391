# Types of `recorded.py` for Cython: see `expr.pxd`.

cimport cython

from lazyflow.core.columns cimport Elements, IntColumn
from lazyflow.record.expr cimport Expr
from lazyflow.record.tape cimport Computed, Tape, Type


cdef Elements ELEMENTS


@cython.locals(tape=Tape, source=Tape, row=Py_ssize_t, e=Expr, asked=list)
cpdef list alone(object roots)


cdef class AskedRows:
    cdef public IntColumn numbers, rows
    cpdef bytes positions(self, object readings)


@cython.locals(number=dict, e=Expr, places=IntColumn, asked=AskedRows, found=list)
cpdef tuple key_of(object readings, object roots, object way)


@cython.locals(tape=Tape, source=Tape, row=Py_ssize_t)
cpdef _add_reading(list found, IntColumn places, AskedRows asked, object reading, dict number, dict imported)


cpdef bytes _structure(object signatures, object ints)


@cython.locals(tape=Tape, row=Py_ssize_t, t=Py_ssize_t, k=Py_ssize_t, imported=bint, runs=list, places=list, computed=Computed)
cpdef object sources_of(object found, object readings)
