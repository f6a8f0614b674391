# Types of `way.py` for Cython: see `expr.pxd`.

cimport cython

from lazyflow.record.expr cimport Expr
from lazyflow.record.tape cimport Tape


@cython.locals(checked=bint, differentiable=bint)
cpdef object way_of(object roots, object readings, object options)


@cython.locals(root=Expr, tape=Tape, distinct=list, counts=list, known=dict)
cpdef bint _others_referred(object roots, object readings) except -1


@cython.locals(root=Expr, tape=Tape, held=Py_ssize_t)
cpdef bint others_held(object roots, object readings) except -1
