# Types of `reading.py` for Cython: see `expr.pxd`.

cimport cython

from lazyflow.core.columns cimport IntColumn
from lazyflow.record.expr cimport Expr
from lazyflow.record.tape cimport Tape


cdef class Reading:
    cdef public Tape tape
    cdef public object rows, _begins, _picked, _places
    cdef public list _sources


cpdef bint is_kept(Tape tape) except -1


@cython.locals(reading=Reading)
cpdef bint are_parts(list readings) except -1


cpdef Reading reading_of(Tape tape, object asked)


@cython.locals(known=dict, lows=IntColumn, highs=IntColumn, parts=tuple, part=tuple)
cpdef tuple ranges_reached(Tape tape, object rows)


@cython.locals(root=Expr, found=_Readings, tapes=list)
cpdef list readings_of(object roots, bint anew)


cdef class _Asked:
    cdef public Tape tape
    cdef public bint queued
    cdef public dict rows


cdef class _Readings:
    cdef public bint anew
    cdef public dict asked, readings, wanted
    cdef public _Asked last
    cdef public list waiting
    @cython.locals(found=_Asked)
    cpdef ask(self, Tape tape, object row)
    @cython.locals(asked=_Asked, tape=Tape, reading=Reading, sources=dict, source=Tape)
    cpdef read(self)


@cython.locals(reading=Reading, tape=Tape, source=Tape, found=dict)
cpdef list awaited(object readings)


cdef class AskedRows:
    cdef public IntColumn numbers, rows
    cpdef object positions(self, object readings)


@cython.locals(reading=Reading, found=dict)
cpdef dict numbers_by_tape(object readings)


cdef class Imports:
    cdef public list here, runs, offsets
    cdef public tuple again
    cdef public IntColumn nodes
    cdef public bint several
    cdef public dict seen
    cpdef add_known(self, object node, Tape source, Py_ssize_t row)


@cython.locals(
    imports=Imports, read=dict, source=Tape, last=Tape, here=Py_ssize_t, t=Py_ssize_t, end=Py_ssize_t,
    number=Py_ssize_t, row=Py_ssize_t, table=list, nodes=IntColumn, rows=IntColumn
)
cpdef Imports imports_of(object readings, object starts, object found, bint anew)
