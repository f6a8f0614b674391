# Types of `ways.py` for Cython; see `expr.pxd`.

cimport cython
cimport lazyflow.record.expr as recording

from lazyflow.core.columns cimport FloatColumn, IntColumn, Variable
from lazyflow.record.expr cimport Changes, Expr
from lazyflow.record.tape cimport Signature, Tape, Type


@cython.final
cdef class LaidOut:
    cdef public IntColumn ids, ints
    cdef public FloatColumn floats
    cdef public int first
    cdef public tuple signatures, operands, own_ints, own_floats, streams, objects, results


cdef list _draws_noted(Tape tape, tuple streams)

@cython.locals(draws=list, row=int, start=Py_ssize_t, shift=int, code=int, k=int, signature=Signature)
cpdef list body_laid_out(Tape tape, LaidOut body, list rows, object numbers)


@cython.final
cdef class Way:
    cdef public LaidOut body
    cdef public tuple kinds, names, functions, signatures, operands, ints, floats, limits, streams
    cdef public object key, valid, under, keep, unchanged, missing, check, rebuilt, mark
    cdef public bint arrays, in_order


@cython.final
cdef class Ways:
    cdef public object owner, otherwise
    cdef public tuple now


@cython.final
cdef class _Going:
    cdef public Way way
    cdef public Tape tape
    cdef public int row
    cdef public list after


@cython.locals(states=list, going=_Going, last=Way)
cpdef list steps_recorded(Ways ways, object step, tuple before, list xs, object state, tuple after)

cdef _note_following(Ways ways, Way last, Expr x, Way way)

@cython.locals(
    e=Expr, tape=Tape, last=Way, way=Way, now=tuple, signature=Signature, count=int, first=int, row=int, position=int
)
cdef object _called_on(Ways ways, _Going going, object x, tuple after)

cdef Variable SCOPE
cdef object MISSED, _NO_KIND, _AFTER
cdef tuple _STATES

@cython.locals(e=Expr, k=Py_ssize_t, parts=tuple)
cdef bint _gather(Tape tape, tuple values, Py_ssize_t first, list kinds, list expressions, list numbers) except -1

@cython.locals(e=Expr, tape=Tape)
cdef Tape _first_tape(tuple values)

cdef object _called_again(Ways ways, tuple values)

@cython.locals(e=Expr, tape=Tape, way=Way, k=Py_ssize_t, count=Py_ssize_t, numbers=bint, now=tuple)
cdef object _called_plainly(Ways ways, tuple values, Py_ssize_t first)

@cython.locals(e=Expr, signature=Signature, k=Py_ssize_t, row=int, given=list)
cdef object _recorded_plainly(Tape tape, Way way, tuple values, Py_ssize_t first, bint numbers)

@cython.locals(tape=Tape, kinds=list, expressions=list, numbers=list, rows=list, way=Way)
cdef object _called_anyhow(Ways ways, tuple values, _Going going)

@cython.locals(k=Py_ssize_t, count=Py_ssize_t, way=Way, now=tuple, known=tuple)
cdef Way _way_of(Ways ways, list kinds, Tape ready_on)
@cython.locals(changes=Changes)
cdef bint _is_ready(Way way, Tape tape) except -1
cdef bint _numbers_fit(Way way, list numbers) except -1

@cython.locals(draws=list)
cdef _pay(Tape tape, Way way, list numbers)

@cython.locals(e=Expr)
cdef int _row(Tape tape, object value) except -2

@cython.locals(found=list)
cdef object _body_appended(Tape tape, Way way, list rows, list numbers)

@cython.locals(count=int, k=int, found=list)
cdef object _results(Tape tape, Way way, int row)

@cython.locals(signature=Signature, row=int)
cdef object _call_appended(Tape tape, Way way, list rows)

@cython.locals(signature=Signature)
cdef Expr _handle(Tape tape, Way way, int row, int k)
