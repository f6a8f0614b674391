# Types of `roots.py` for Cython: see `expr.pxd`.

cimport cython

from lazyflow.core.columns cimport Elements
from lazyflow.record.expr cimport Expr
from lazyflow.record.tape cimport Computed, Tape, Type, payload_starts
from lazyflow.run.execute cimport State


cdef Elements ELEMENTS


cpdef list to_run(object roots)


@cython.locals(root=Expr)
cpdef list missing(object roots)


@cython.locals(root=Expr, first=Expr)
cpdef list alike(list roots)


@cython.locals(root=Expr)
cpdef list runs_of(object roots)


@cython.locals(source=Tape, row=Py_ssize_t)
cpdef list runs_read(object imports)


@cython.locals(root=Expr)
cpdef object traced(object roots)


@cython.locals(e=Expr)
cpdef object owners_of(object roots)


@cython.locals(root=Expr, tape=Tape, kind=Type, last_kind=Type, run=State, last=State, offset=Py_ssize_t,
               computed=Computed)
cpdef list copies(object roots)


@cython.locals(root=Expr, tape=Tape, row=Py_ssize_t, shift=Py_ssize_t, source=Tape, place=Py_ssize_t, kind=Type)
cpdef object shown(object e)
