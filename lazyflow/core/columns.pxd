cimport cython
from cpython.object cimport PyObject


cdef class Column:
    cdef char *data
    cdef Py_ssize_t size, room, itemsize_, exports
    cdef bytes code
    cdef int reserve(self, Py_ssize_t more) except -1
    cdef Py_ssize_t place(self, Py_ssize_t i) except -1
    cdef object read(self, Py_ssize_t i)
    cdef int write(self, Py_ssize_t i, value) except -1


@cython.final
cdef class Counts:
    cdef unsigned char *data
    cdef Py_ssize_t room, rows_held
    cdef int grow(self, Py_ssize_t least) except -1
    cpdef int up(self, Py_ssize_t row) except -1
    cpdef int down(self, Py_ssize_t row) except -1
    cpdef Py_ssize_t count(self) except -1


@cython.final
cdef class IntColumn(Column):
    cpdef int append(self, int value) except -1
    cpdef int put(self, Py_ssize_t i, int value) except -1
    cpdef int add(self, IntColumn more) except -1


@cython.final
cdef class FloatColumn(Column):
    cpdef int append(self, double value) except -1
    cpdef int add(self, FloatColumn more) except -1


@cython.final
cdef class Variable:
    cdef object inner
    cpdef object get(self)
    cpdef object mine(self)


@cython.final
cdef class Known:
    cdef unsigned long long number
    cdef object owner


@cython.final
cdef class ThisThread:
    cdef object local
    cdef Known last
    cpdef object get(self)


@cython.final
cdef class Scope:
    cdef public tuple entries
    cdef public object settings, owner, tape
    cdef unsigned long long thread


cdef class Held:
    cdef public object holder
    cdef public bint kept, closed


cdef struct Remembered:
    PyObject *keys[4]
    PyObject *found


@cython.final
cdef class Recall:
    cdef Remembered *slots
    cdef int at
    cdef void drop(self, int i) noexcept
    cpdef object get(self, object a, object b, object c, object d)
    cpdef int put(self, object a, object b, object c, object d, object found) except -1


cdef enum:
    AXES = 5


cdef struct Shaped:
    PyObject *dtype
    PyObject *device
    PyObject *found
    int ndim
    Py_ssize_t sizes[AXES]


@cython.final
cdef class Shapes:
    cdef Shaped *slots
    cdef int at
    cdef void drop(self, int i) noexcept
    cdef int place(self, object array, object device) noexcept
    cdef bint fits(self, Shaped *slot, object array, object device) noexcept
    cpdef object get(self, object array, object device)
    cpdef int put(self, object array, object device, object found) except -1
    cpdef object copy(self, object array)


@cython.final
cdef class Elements:
    cpdef long long number(self, object array, Py_ssize_t i) except? -2
    cpdef object copy(self, object buffer, Py_ssize_t offset, tuple shape)
    cpdef Py_ssize_t put(self, object buffer, Py_ssize_t offset, object array) except -1
