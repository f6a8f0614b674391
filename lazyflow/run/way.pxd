# Types of `way.py` for Cython: see `expr.pxd`.

cimport cython

from lazyflow.record.expr cimport Expr
from lazyflow.record.tape cimport Tape


@cython.locals(checked=bint, differentiable=bint)
cpdef object way_of(object roots, object readings, object options)


@cython.locals(root=Expr, tape=Tape, held=Py_ssize_t)
cpdef bint others_held(object roots, object readings) except -1
