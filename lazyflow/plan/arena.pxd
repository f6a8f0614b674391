# Types of `arena.py` for Cython: see `expr.pxd`.


cdef class Arena:
    cdef object __weakref__
    cdef public object device
    cdef public dict brought, buffers, tables
    cdef public long long number
    cpdef object index(self, object index)
    cpdef object table(self, object dtype, Py_ssize_t width)
    cpdef object view(self, object dtype, object rows, tuple shape)
    cpdef object read(self, object dtype, object rows, tuple shape)
