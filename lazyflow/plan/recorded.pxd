# Types of `recorded.py` for Cython: see `expr.pxd`.

cimport cython

from lazyflow.core.columns cimport Elements, IntColumn
from lazyflow.record.expr cimport Expr
from lazyflow.record.tape cimport Computed, Tape, Type


cdef Elements ELEMENTS


@cython.locals(tape=Tape, source=Tape, row=Py_ssize_t, e=Expr)
cpdef list alone(object roots)


@cython.locals(tape=Tape, number=dict, e=Expr, places=IntColumn, found=list)
cpdef tuple key_of(object tapes, object roots, object way)


@cython.locals(source=Tape, row=Py_ssize_t)
cpdef _add_tape(list found, IntColumn places, Tape tape, dict number)


cpdef bytes _structure(Tape tape)


@cython.locals(tape=Tape, row=Py_ssize_t, t=Py_ssize_t, k=Py_ssize_t, imported=bint, runs=list, places=list, computed=Computed)
cpdef object sources_of(object found, object tapes)
