# Types of `recorded.py` for Cython: see `expr.pxd`.

cimport cython

from lazyflow.record.expr cimport Expr
from lazyflow.record.tape cimport Tape, Type


@cython.locals(tape=Tape, source=Tape, row=Py_ssize_t, e=Expr)
cpdef list alone(object roots)


@cython.locals(tape=Tape, checked=bint, differentiable=bint, kind=Type)
cpdef object way_of(object options, Expr root, object reached, object fuse, bint others)


@cython.locals(tape=Tape, number=dict, e=Expr, low=Py_ssize_t, high=Py_ssize_t)
cpdef object key_of(object parts, object roots, object way)


@cython.locals(source=Tape, row=Py_ssize_t, imports=list)
cpdef tuple _of_tape(Tape tape, dict number)


cpdef object _of_import(Tape source, Py_ssize_t row, dict number)


cpdef bytes _structure(Tape tape)


@cython.locals(tape=Tape, row=Py_ssize_t, t=Py_ssize_t, k=Py_ssize_t, imported=bint)
cpdef list sources_of(object found, object tapes)
