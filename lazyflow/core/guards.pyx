"""What a ``with`` statement holds while it holds a lock (see `lazyflow.locks`), and whether what a cell has seen is as it
was (see `lazyflow.cells.recorder`)."""

cimport cython
from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem, PyDict_Next
from cpython.object cimport PyObject
from libc.string cimport memcmp

from weakref import ref


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


cdef extern from *:
    """
    static _Thread_local int lf_runs_of_this_thread = 0;
    """
    int lf_runs_of_this_thread


ctypedef int (*counting)() noexcept nogil
ctypedef void (*setting)(int) noexcept nogil


cdef enum:
    MOST_LIBRARIES = 8


@cython.final
cdef class BlasUsers:
    """The runs of all threads that are under way, and how many threads BLAS had before the first and has again behind
    the last; meanwhile each library has one. As in `lazyflow.threads`, by calls of the libraries' own functions, whose
    addresses these are."""

    cdef counting counts[MOST_LIBRARIES]
    cdef setting sets[MOST_LIBRARIES]
    cdef int before[MOST_LIBRARIES]
    cdef int libraries, users

    def __init__(self, addresses):
        self.libraries = self.users = 0
        for count, put in addresses[:MOST_LIBRARIES]:
            self.counts[self.libraries] = <counting><size_t>count
            self.sets[self.libraries] = <setting><size_t>put
            self.libraries += 1

    def enter(self, user, number):
        """A run begins; ``number`` is 1 where there is a core, and so which run this is makes no difference."""
        global lf_runs_of_this_thread
        cdef int i
        if self.users == 0:
            for i in range(self.libraries):
                self.before[i] = self.counts[i]()
                if self.before[i] != 1:
                    self.sets[i](1)
        self.users += 1
        lf_runs_of_this_thread += 1

    def leave(self, user):
        """A run ends."""
        global lf_runs_of_this_thread
        lf_runs_of_this_thread -= 1
        self.remain(self.users - 1)

    def forked(self):
        """This is the child of a fork: the runs of other threads are no more."""
        if self.users != lf_runs_of_this_thread:
            self.remain(lf_runs_of_this_thread)

    cdef void remain(self, int users) noexcept:
        """So many are left."""
        cdef int i
        self.users = users
        if users == 0:
            for i in range(self.libraries):
                if self.before[i] != 1:
                    self.sets[i](self.before[i])


@cython.final
cdef class Quiet:
    """`lazyflow.threads.quietly`, as a ``with`` block: threads of BLAS and of the core, which ``use`` sets, and a
    context variable."""

    cdef BlasUsers users
    cdef object use, variable, silence, token
    cdef object number, before

    def __init__(self, BlasUsers users, use, number, variable, silence):
        self.users, self.use, self.number, self.variable, self.silence = users, use, number, variable, silence

    def __enter__(self):
        self.users.enter(self, 1)
        self.before = self.use(self.number)
        self.token = PyContextVar_Set(self.variable, self.silence)

    def __exit__(self, kind, error, trace):
        PyContextVar_Reset(self.variable, self.token)
        self.use(self.before)
        self.users.leave(self)


cdef extern from "Python.h":
    object PyContextVar_Set(object variable, object value)
    int PyContextVar_Reset(object variable, object token) except -1
    PyObject* PyFunction_GetCode(object function)
    PyObject* PyFunction_GetDefaults(object function)
    PyObject* PyFunction_GetKwDefaults(object function)


cdef inline bint is_there(PyObject* found, object value, object missing):
    """Whether what was found, if anything, is ``value``."""
    return value is missing if found is NULL else found is <PyObject*>value


cdef inline bint is_of_class(object space, object name, object value, object missing):
    try:
        return space[name] is value
    except KeyError:
        return value is missing


def unchanged(tuple names not None, tuple functions not None, missing):
    """Whether every mapping has the very same value under a name, ``missing`` where it has none, and every function the
    same code and defaults: ``(mapping, name, value)`` and ``(function, code, defaults, kwdefaults)``."""
    cdef tuple one
    for one in names:
        if type(one[0]) is dict:
            if not is_there(PyDict_GetItem(one[0], one[1]), one[2], missing):
                return False
        elif not is_of_class(one[0], one[1], one[2], missing):
            return False
    for one in functions:
        if not is_there(PyFunction_GetCode(one[0]), one[1], None):
            return False
        if not is_there(PyFunction_GetDefaults(one[0]), one[2], None):
            return False
        if not is_there(PyFunction_GetKwDefaults(one[0]), one[3], None):
            return False
    return True


cdef inline bint is_held(object part, object known):
    """Whether a part is the one that is known, or that is known by a weak reference."""
    return part is known or (part is not None and type(known) is ref and known() is part)


cdef bint same_parts(object container, tuple parts) except -1:
    """Whether a container holds these very parts: a dict its keys and values in turn."""
    cdef Py_ssize_t k = 0, position = 0, count = len(parts)
    cdef PyObject* key
    cdef PyObject* value
    if type(container) is list:
        if len(<list>container) != count:
            return False
        for k in range(count):
            if not is_held((<list>container)[k], parts[k]):
                return False
        return True
    if type(container) is dict:
        if 2 * len(<dict>container) != count:
            return False
        while PyDict_Next(container, &position, &key, &value):
            if not (is_held(<object>key, parts[k]) and is_held(<object>value, parts[k + 1])):
                return False
            k += 2
        return True
    if isinstance(container, dict):  # one that has an order of its own
        container = [part for item in container.items() for part in item]
    if len(container) != count:
        return False
    for part in container:
        if not is_held(part, parts[k]):
            return False
        k += 1
    return True


def same_content(array, tuple content not None):
    """Whether an array has this dtype, this shape and these bytes, which are compared where they lie."""
    cdef Py_buffer found
    cdef bytes known = content[2]
    cdef bint same
    if array.dtype is not content[0] or array.shape != content[1]:
        return False
    try:
        PyObject_GetBuffer(array, &found, PyBUF_C_CONTIGUOUS)
    except (BufferError, ValueError):  # rows with gaps, or numbers that buffers do not know, such as dates
        return array.tobytes() == known
    same = found.len == PyBytes_GET_SIZE(known) and memcmp(found.buf, PyBytes_AS_STRING(known), found.len) == 0
    PyBuffer_Release(&found)
    return same


def same_contents(tuple containers not None, tuple arrays not None):
    """Whether every container holds the very same parts, and every array is the same to the last bit: ``(container,
    parts)`` and ``(array, (dtype, shape, bytes))``."""
    cdef tuple one
    for one in containers:
        if not same_parts(one[0], one[1]):
            return False
    for one in arrays:
        if not same_content(one[0], one[1]):
            return False
    return True
