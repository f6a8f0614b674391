cimport cython


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
    cdef Py_ssize_t room
    cdef int grow(self, Py_ssize_t least) except -1
    cpdef int up(self, Py_ssize_t row) except -1
    cpdef int down(self, Py_ssize_t row) except -1


@cython.final
cdef class IntColumn(Column):
    cpdef int append(self, int value) except -1


@cython.final
cdef class FloatColumn(Column):
    cpdef int append(self, double value) except -1
