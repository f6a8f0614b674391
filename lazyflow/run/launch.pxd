# Types of `launch.py` for Cython: with them walking over the launches of a plan is calls of C. See `expr.pxd`.

cimport cython

from lazyflow.plan.arena cimport Arena
from lazyflow.record.tape cimport Signature, Type


cdef class Reader:
    cdef public int how
    cdef public Py_ssize_t offset, pitch, width
    cdef public tuple shape
    cdef public object dtype, index, value, seen
    cdef public Type type
    cpdef object read(self, Arena arena)
    cpdef object hollow(self, Arena arena)
    cpdef tuple shape_of(self)
    cpdef object _of_parameter(self, Arena arena)
    cpdef object _rows(self, Arena arena)


cdef class Pull:
    cdef public int how
    cdef public Py_ssize_t at, width
    cdef public bint apart, sums
    cdef public tuple shape
    cdef public object adder, vjp, dtype, index
    cdef public Reader target
    cpdef bint adds(self, Arena arena, object arguments) except -1
    cpdef object places(self, Arena arena)
    cpdef object give(self, object xp, Arena arena, object cotangent, object shape)

    @cython.locals(own=object)
    cpdef object add(self, Arena arena, object cotangent)


cdef class Bound:
    cdef public int does
    cdef public object launch, forward, at_host, rows, begins, joint
    cdef public tuple calls, operands, values, pulls
    cdef public frozenset unread, shapes
    cdef public Reader out
    cdef public Signature signature
    @cython.locals(reader=Reader, given=tuple)
    cpdef object compute(self, object xp, Arena arena)
    @cython.locals(found=Bound)
    cpdef Bound again(self, object launch)
    cpdef list operand_values(self, Arena arena)
    @cython.locals(arguments=list, i=Py_ssize_t, pull=Pull, reader=Reader)
    cpdef object pull(self, object xp, Arena values, Arena cotangents)
    @cython.locals(pull=Pull)
    cpdef object _pull_together(self, object xp, Arena cotangents, list arguments)
    cpdef tuple _pulls(self)


cdef class Form:
    cdef public object dtype, forward
    cdef public tuple operands, shape
    cdef public Signature signature
    cpdef list arrays(self, object xp, Arena arena, tuple reads)
    cpdef object give(self, object xp, Arena arena, Py_ssize_t i, object at, object answer)


cdef class Loop(Bound):
    cdef public tuple sources
    cdef public object each, steps, whole
    cpdef object _steps(self, object left)
    cpdef list _arrays(self, Arena arena)
    cpdef object compute(self, object xp, Arena arena)
    @cython.locals(form=Form)
    cpdef object _compute_each(self, object xp, Arena arena, object left)
    cpdef object pull(self, object xp, Arena values, Arena cotangents)
    @cython.locals(form=Form)
    cpdef object _pull_each(self, object xp, Arena values, Arena cotangents, Py_ssize_t i, object left)
    cpdef object gradient(self, Py_ssize_t i, Arena values, Arena cotangents)
    @cython.locals(form=Form)
    cpdef list nodes(self, object xp, Arena values, Arena cotangents)


cpdef object _view_here(Arena arena, object dtype, Py_ssize_t offset, tuple shape)


cpdef Bound bound_of(object launch)


@cython.locals(launch=Bound, i=Py_ssize_t)
cpdef pull_all(tuple launches, object xp, Arena values, Arena cotangents)


cpdef object parameter_of(Type kind)
cpdef tuple bound(object plan)
