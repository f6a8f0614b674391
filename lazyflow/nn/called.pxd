# Types of `called.py` for Cython; see `lazyflow/record/expr.pxd`.

cimport cython


@cython.auto_pickle(False)
cdef class Called:
    pass
