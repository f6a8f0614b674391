# Types of `called.py` for Cython; see `lazyflow/record/expr.pxd`.


cdef class Called:
    pass
