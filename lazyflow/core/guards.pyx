"""What a ``with`` statement holds while it holds a lock: see `lazyflow.locks`."""

cimport cython


@cython.final
@cython.no_gc  # a lock points to nothing, and must still be there at the end
cdef class Guard:
    """Opens a lock again when it ends, whatever ended it. Calling it, as a statement does when it is left, does
    nothing."""

    cdef object lock

    def __dealloc__(self):
        if self.lock is not None:
            self.lock.release()

    def __call__(self, *error):
        return None


def guarded(owner):
    """Take the lock ``owner.inner``, and return its guard. No bytecode, and so no interrupt, lies between the two."""
    cdef Guard guard = Guard.__new__(Guard)
    lock = owner.inner
    lock.acquire()
    guard.lock = lock
    return guard
