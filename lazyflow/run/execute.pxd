# Types of `execute.py` for Cython: see `expr.pxd`.

cimport cython

from lazyflow.core.columns cimport Elements
from lazyflow.plan.arena cimport Arena
from lazyflow.run.launch cimport Bound
from lazyflow.record.tape cimport Tape, Type


cdef Elements ELEMENTS


cdef class State:
    cdef object __weakref__
    cdef public Arena arena
    cdef public list calls, known_runs, known_places, readers
    cdef public object device, plan, way
    cdef public tuple tapes, rows
    cdef public dict given, kept
    cdef public frozenset rests_on
    cdef public bint superseded
    cdef public long long number, stamp


@cython.locals(found=list)
cpdef list distinct(list runs)


cpdef bint any_stale(list runs) except -1


@cython.locals(kind=Type, latest=object)
cpdef object notice(frozenset kinds)


@cython.locals(kind=Type)
cpdef check_recorded(object kinds)


@cython.locals(
    offset=Py_ssize_t, size=Py_ssize_t, width=Py_ssize_t, k=Py_ssize_t, source=State, last=State, runs=list, places=list
)
cpdef _bring_here(State run, list brought, Bound step)


@cython.locals(arena=Arena, steps=tuple, step=Bound, i=Py_ssize_t, does=int)
cpdef execute(State run)


@cython.locals(offset=Py_ssize_t, end=Py_ssize_t, width=Py_ssize_t, number=Py_ssize_t, position=Py_ssize_t, row=Py_ssize_t, joined=bint, tape=Tape)
cpdef _constants_here(State run, list brought, Bound step)


cpdef _bring(State run, Py_ssize_t number, Bound step)


cpdef frozenset _joined(frozenset own, list runs)
