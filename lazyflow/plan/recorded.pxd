# Types of `recorded.py` for Cython: see `expr.pxd`.

cimport cython

from lazyflow.core.columns cimport Elements, IntColumn
from lazyflow.graph.reading cimport AskedRows, Reading, is_kept, numbers_by_tape, reading_of
from lazyflow.record.expr cimport Expr
from lazyflow.record.tape cimport Computed, Tape, Type


cdef Elements ELEMENTS


@cython.locals(tape=Tape, source=Tape, row=Py_ssize_t, e=Expr, asked=list, reading=Reading)
cpdef list alone(object roots)


@cython.locals(number=dict, places=IntColumn, asked=AskedRows, found=list)
cpdef tuple key_of(object readings, object roots, object way)


@cython.locals(tape=Tape, source=Tape, last=Tape, row=Py_ssize_t, here=int)
cpdef _add_reading(list found, IntColumn places, AskedRows asked, Reading reading, dict number, dict imported)


cpdef bytes _structure(object signatures, object ints)


@cython.locals(tape=Tape, row=Py_ssize_t, t=Py_ssize_t, k=Py_ssize_t, imported=bint, runs=list, places=list, computed=Computed)
cpdef object sources_of(object found, object readings)
