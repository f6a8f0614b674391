# Types of `templates.py` for Cython; see `expr.pxd`.

cimport cython
cimport lazyflow.record.expr as recording

from lazyflow.core.columns cimport FloatColumn, IntColumn, Recall, Variable
from lazyflow.record.expr cimport Expr, ListMemo
from lazyflow.record.tape cimport Signature, Tape


@cython.final
cdef class Template:
    cdef public IntColumn ids, ints
    cdef public FloatColumn floats
    cdef public tuple signatures, objects, results, draws, arrays
    cdef public bytes operands
    cdef public object kind, note, dtype, device
    cdef public bint shared
    cdef public int same
    cdef public long long kept


@cython.final
cdef class Branch:
    pass


@cython.final
cdef class Listed:
    cdef public object kind


@cython.final
cdef class Spelled:
    cdef public object function, long
    cdef public ListMemo listed
    cdef public tuple names, defaults
    cdef public int positional, patience
    cdef public bint arrays
    cdef public dict known


cdef Variable SCOPE
cdef int OWN_ROW
cdef Py_ssize_t MOST_LISTED
cdef object _NONE, _KNOWN
cdef dict _known

@cython.locals(template=Template)
cdef bint _fits(object found, Tape tape)

@cython.locals(e=Expr)
cdef Tape _tape_of(tuple given)

@cython.locals(e=Expr, tape=Tape, given=tuple, k=Py_ssize_t, place=int)
cdef object _called(Spelled spelled, tuple args, dict kwargs)

@cython.locals(e=Expr, number=tuple)
cdef object _kind_of(object o, Tape constants)

@cython.locals(e=Expr, tape=Tape)
cdef object _called_across(Spelled spelled, tuple args, dict kwargs, tuple given)

@cython.locals(e=Expr, made=list)
cdef tuple _imported_here(Tape tape, tuple given)

@cython.locals(bound=tuple)
cdef tuple _given(Spelled spelled, tuple args, dict kwargs)

@cython.locals(flat=list)
cdef tuple _flat(tuple given)

cdef bint _holds_expressions(object parts)

@cython.locals(k=Py_ssize_t, left=Py_ssize_t, given=list)
cdef tuple _bound(Spelled spelled, tuple args, dict kwargs)

@cython.locals(made=list)
cdef tuple _with_constants(Tape tape, Template template, tuple given)
cdef list _drawn(Tape tape, Template template)

@cython.locals(e=Expr, row=int, start=Py_ssize_t, result=Expr, code=int, draws=list)
cdef object _appended(Tape tape, Template template, tuple given)

@cython.locals(signature=Signature)
cdef Expr _result(Tape tape, Template template, int row, int k)
