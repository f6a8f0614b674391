"""What recording works on: the columns of a tape, what was recorded before, and the variable of the context.

Columns are arrays that grow at their end, of C integers and of doubles.

They do what ``array.array`` does for the recorder and for the passes, and no more; appending is a few instructions for
compiled code. Memory that somebody looks at (see ``exports``) stays where it is: there is no growing beyond its room
then. It is Python's raw memory, so that ``tracemalloc`` sees what tapes take.
"""

from array import array
from contextvars import ContextVar

from cpython.contextvars cimport get_value
from cpython.buffer cimport Py_buffer, PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawRealloc
from cpython.object cimport PyTypeObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.limits cimport INT_MAX
from libc.string cimport memcpy, memmove, memset

cimport cython
cimport numpy as np

np.import_array()

cdef tuple NOTHING = ()
cdef Py_ssize_t most = INT_MAX


def hold_at_most(Py_ssize_t elements):
    """Let no column grow beyond so many elements, for tests: they have no memory for the 2**31 that are the limit.
    Returns what held before."""
    global most
    before, most = most, elements
    return before


cdef class Column:
    def __cinit__(self, values=NOTHING):
        self.data, self.size, self.room, self.exports = NULL, 0, 0, 0

    def __dealloc__(self):
        PyMem_RawFree(self.data)

    cdef int reserve(self, Py_ssize_t more) except -1:
        """Make room for ``more`` elements."""
        cdef Py_ssize_t room = self.size + more
        cdef char *data
        if room <= self.room:
            return 0
        if room > most:
            raise OverflowError(f"a tape holds up to 2**31 - 1 nodes, operands or numbers, not {room}")
        if self.exports:
            raise BufferError("a column cannot grow while somebody looks at its memory")
        room = min(max(room, 2 * self.room, 16), most)
        data = <char *>PyMem_RawRealloc(self.data, room * self.itemsize_)
        if data == NULL:
            raise MemoryError(f"no memory for {room * self.itemsize_} bytes of a tape")
        self.data, self.room = data, room
        return 0

    def __len__(self):
        return self.size

    @property
    def itemsize(self):
        """Bytes of one element."""
        return self.itemsize_

    @property
    def typecode(self):
        """``"i"`` or ``"d"``, as that of an ``array.array``."""
        return self.code.decode()

    def __getitem__(self, key):
        if isinstance(key, slice):
            start, stop, step = key.indices(self.size)
            some = array(self.typecode)
            if step == 1:
                stop = max(start, stop)
                some.frombytes(memoryview(self).cast("B")[start * self.itemsize_ : stop * self.itemsize_])
            else:
                some.extend([self[i] for i in range(start, stop, step)])
            return some
        return self.read(self.place(key))

    def __setitem__(self, Py_ssize_t key, value):
        self.write(self.place(key), value)

    cdef Py_ssize_t place(self, Py_ssize_t i) except -1:
        if i < 0:
            i += self.size
        if not 0 <= i < self.size:
            raise IndexError("index out of range")
        return i

    cdef object read(self, Py_ssize_t i):
        if self.itemsize_ == sizeof(int):
            return (<int *>self.data)[i]
        return (<double *>self.data)[i]

    cdef int write(self, Py_ssize_t i, value) except -1:
        if self.itemsize_ == sizeof(int):
            (<int *>self.data)[i] = value
        else:
            (<double *>self.data)[i] = value
        return 0

    def extend(self, values):
        """Append all of some numbers, or none of them: they are converted first."""
        if not isinstance(values, array) or values.typecode != self.typecode:
            values = array(self.typecode, values)
        self.frombytes(memoryview(values).cast("B"))

    def frombytes(self, const unsigned char[::1] values):
        """Append what ``tobytes`` of an array of these elements gives."""
        cdef Py_ssize_t count = len(values) // self.itemsize_
        if count * self.itemsize_ != len(values):
            raise ValueError(f"bytes length not a multiple of item size, {self.itemsize_}")
        if count:
            self.reserve(count)
            memcpy(self.data + self.size * self.itemsize_, &values[0], count * self.itemsize_)
            self.size += count

    def tolist(self):
        """The elements as a list."""
        return [self.read(i) for i in range(self.size)]

    def tobytes(self):
        """The elements' bytes."""
        return self.data[: self.size * self.itemsize_]

    def count(self, value):
        """How many elements are equal to ``value``."""
        return sum([self.read(i) == value for i in range(self.size)])

    def __eq__(self, other):
        return self.tolist() == list(other)

    def __repr__(self):
        return f"{type(self).__name__}({self.tolist()})"

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        buffer.buf = self.data if self.data != NULL else <char *>&self.size
        buffer.obj, buffer.len, buffer.itemsize = self, self.size * self.itemsize_, self.itemsize_
        buffer.readonly, buffer.ndim, buffer.suboffsets, buffer.internal = 0, 1, NULL, NULL
        buffer.format = <char *>self.code if flags & PyBUF_FORMAT else NULL
        buffer.shape = &self.size if flags & PyBUF_ND else NULL
        buffer.strides = &buffer.itemsize if (flags & PyBUF_STRIDES) == PyBUF_STRIDES else NULL
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.exports -= 1


@cython.final
cdef class Counts:
    """How many handles there are of each row of a tape. A count that has reached 255 stays there: the row passes for
    held for good. How many rows are held is counted along: a forward asks, however long the tape is."""

    def __cinit__(self):
        self.data, self.room, self.rows_held = NULL, 0, 0

    def __dealloc__(self):
        PyMem_RawFree(self.data)

    cdef int grow(self, Py_ssize_t least) except -1:
        cdef Py_ssize_t room = max(least, 2 * self.room, 64)
        cdef unsigned char *data = <unsigned char *>PyMem_RawRealloc(self.data, room)
        if data == NULL:
            raise MemoryError(f"no memory for {room} bytes of a tape")
        memset(data + self.room, 0, room - self.room)
        self.data, self.room = data, room
        return 0

    cpdef int up(self, Py_ssize_t row) except -1:
        if row >= self.room:
            self.grow(row + 1)
        if self.data[row] < 255:
            self.rows_held += self.data[row] == 0
            self.data[row] += 1
        return 0

    cpdef int down(self, Py_ssize_t row) except -1:
        if self.data[row] < 255:
            self.data[row] -= 1
            self.rows_held -= self.data[row] == 0
        return 0

    def rows(self):
        """The rows that somebody has a handle of."""
        return self.held(0, self.room)

    cpdef Py_ssize_t count(self) except -1:
        """How many rows that are."""
        return self.rows_held

    def held(self, Py_ssize_t low, Py_ssize_t high):
        """Those from ``low`` to ``high``, not included."""
        cdef Py_ssize_t row
        return [row for row in range(max(low, 0), min(high, self.room)) if self.data[row]]

    def held_among(self, rows):
        """Those of an array of rows (of int64), or of all where it is None."""
        if rows is None:
            return self.rows()
        cdef const long long[::1] some = rows
        cdef Py_ssize_t k
        return [some[k] for k in range(some.shape[0]) if 0 <= some[k] < self.room and self.data[some[k]]]


@cython.final
cdef class IntColumn(Column):
    """32-bit integers; ``append`` and ``extend`` raise ``OverflowError`` for others, and nothing was added then."""

    def __init__(self, values=NOTHING):
        self.itemsize_, self.code = sizeof(int), b"i"
        if values is not NOTHING:
            self.extend(values)

    cpdef int append(self, int value) except -1:
        if self.size == self.room:
            self.reserve(1)
        (<int *>self.data)[self.size] = value
        self.size += 1
        return 0

    cpdef int put(self, Py_ssize_t i, int value) except -1:
        """Write over the number at a place that is there."""
        (<int *>self.data)[self.place(i)] = value
        return 0

    cpdef int add(self, IntColumn more) except -1:
        """Append all of another column."""
        if more.size:
            self.reserve(more.size)
            memcpy(self.data + self.size * sizeof(int), more.data, more.size * sizeof(int))
            self.size += more.size
        return 0


@cython.final
cdef class FloatColumn(Column):
    """Doubles; ``append`` and ``extend`` raise ``OverflowError`` for an integer that is too large for one."""

    def __init__(self, values=NOTHING):
        self.itemsize_, self.code = sizeof(double), b"d"
        if values is not NOTHING:
            self.extend(values)

    cpdef int append(self, double value) except -1:
        if self.size == self.room:
            self.reserve(1)
        (<double *>self.data)[self.size] = value
        self.size += 1
        return 0

    cpdef int add(self, FloatColumn more) except -1:
        """Append all of another column."""
        if more.size:
            self.reserve(more.size)
            memcpy(self.data + self.size * sizeof(double), more.data, more.size * sizeof(double))
            self.size += more.size
        return 0


cdef extern from *:
    """
    #define RECYCLED 256
    static PyTypeObject *recycled_type = NULL;
    static PyObject *recycled[RECYCLED];
    static int recycled_count = 0;

    static PyObject *recycled_alloc(PyTypeObject *type, Py_ssize_t items) {
        PyObject *o;
        if (type != recycled_type || recycled_count == 0)
            return PyType_GenericAlloc(type, items);
        o = recycled[--recycled_count];
        memset((char *)o + sizeof(PyObject), 0, (size_t)type->tp_basicsize - sizeof(PyObject));
        (void)PyObject_Init(o, type);
        PyObject_GC_Track(o);
        return o;
    }

    static void recycled_free(void *o) {
        if (Py_TYPE((PyObject *)o) == recycled_type && recycled_count < RECYCLED)
            recycled[recycled_count++] = (PyObject *)o;
        else
            PyObject_GC_Del(o);
    }

    static void recycle_objects(PyTypeObject *type) {
    #if CYTHON_USE_FREELISTS && CYTHON_USE_TYPE_SLOTS && !CYTHON_USE_TYPE_SPECS
        if (recycled_type == NULL && PyType_IS_GC(type) && type->tp_alloc == PyType_GenericAlloc) {
            recycled_type = type;
            type->tp_alloc = recycled_alloc;
            type->tp_free = recycled_free;
        }
    #else
        (void)type;
    #endif
    }
    """
    void recycle_objects(type one)


def recycle(type one):
    """Keep the memory of the objects of a class that end, for the next of them: once, for a class of C with the memory
    management that classes have. Its subclasses have their own."""
    recycle_objects(one)


cdef extern from "Python.h":
    ctypedef struct PyThreadState:
        pass
    PyThreadState *PyThreadState_Get()
    unsigned long long PyThreadState_GetID(PyThreadState *state)


@cython.final
cdef class Variable:
    """A `ContextVar`, which compiled code reads without a call of Python's."""

    def __init__(self, name, *, default):
        self.inner = ContextVar(name, default=default)

    cpdef object get(self):
        return get_value(self.inner, None)

    cpdef object mine(self):
        """The same where it is a scope of this thread; of one that came with a context from another, this variable,
        which is no scope of any tape."""
        cdef object found = get_value(self.inner, None)
        if type(found) is Scope and (<Scope>found).thread == PyThreadState_GetID(PyThreadState_Get()):
            return found
        return self

    def set(self, value):
        """Set it in this context."""
        return self.inner.set(value)


@cython.final
cdef class Known:
    """A thread, and its owner."""


@cython.final
cdef class ThisThread:
    """``local.owner`` of this thread, remembered of the thread that has asked last: the numbers of threads are never
    used again, and each has its own."""

    def __init__(self, local):
        self.local, self.last = local, Known()

    cpdef object get(self):
        cdef Known last = self.last
        cdef unsigned long long number = PyThreadState_GetID(PyThreadState_Get())
        if last.owner is None or last.number != number:
            last = Known()
            last.number, last.owner = number, self.local.owner
            self.last = last  # one attribute, which other threads see as a whole
        return last.owner


@cython.final
cdef class Scope:
    """See `lazyflow.settings`."""

    def __init__(self, entries, settings, owner=None):
        self.entries, self.settings, self.owner, self.tape = entries, settings, owner, no_tape
        self.thread = PyThreadState_GetID(PyThreadState_Get())


cdef class Held:
    """See `lazyflow.settings.Entry`."""

    def holds(self):
        """Whether the block holds in the contexts that have it."""
        return not self.closed and (self.kept or self.holder is None or self.holder() is not None)


def no_tape():
    """In place of a reference to a tape that is no more."""


cdef enum:
    WAYS = 4
    SETS = 2048
    SHAPES = 256


@cython.final
cdef class Recall:
    """What was recorded of up to four objects, the very same ones, in their order: a look-up of a few nanoseconds, that
    forgets. It holds `SETS` sets of `WAYS`, in each of which the oldest makes room."""

    def __cinit__(self):
        self.at = 0
        self.slots = <Remembered *>PyMem_RawCalloc(WAYS * SETS, sizeof(Remembered))
        if self.slots == NULL:
            raise MemoryError("no memory for what was recorded before")

    def __dealloc__(self):
        cdef int i
        for i in range(WAYS * SETS):
            self.drop(i)
        PyMem_RawFree(self.slots)

    cdef void drop(self, int i) noexcept:
        cdef Remembered old = self.slots[i]
        cdef int k
        memset(&self.slots[i], 0, sizeof(Remembered))
        for k in range(4):
            Py_XDECREF(old.keys[k])
        Py_XDECREF(old.found)

    cpdef object get(self, object a, object b, object c, object d):
        """What was put under these objects, or None."""
        cdef Remembered *slot = &self.slots[place_of(<void *>a, <void *>b, <void *>c, <void *>d)]
        cdef int way
        for way in range(WAYS):
            if (
                slot.keys[0] == <PyObject *>a
                and slot.keys[1] == <PyObject *>b
                and slot.keys[2] == <PyObject *>c
                and slot.keys[3] == <PyObject *>d
            ):
                return <object>slot.found
            slot += 1
        return None

    cpdef int put(self, object a, object b, object c, object d, object found) except -1:
        """Remember something under these objects, which live as long."""
        cdef int i = place_of(<void *>a, <void *>b, <void *>c, <void *>d)
        cdef Remembered old = self.slots[i + WAYS - 1]
        cdef int k
        # One by one, and first: a tuple to go over takes memory, and what has a slot twice would be let go of twice.
        Py_INCREF(a)
        Py_INCREF(b)
        Py_INCREF(c)
        Py_INCREF(d)
        Py_INCREF(found)
        memmove(&self.slots[i + 1], &self.slots[i], (WAYS - 1) * sizeof(Remembered))
        self.slots[i].keys[0], self.slots[i].keys[1] = <PyObject *>a, <PyObject *>b
        self.slots[i].keys[2], self.slots[i].keys[3] = <PyObject *>c, <PyObject *>d
        self.slots[i].found = <PyObject *>found
        for k in range(4):  # last: what ends with them may come back here
            Py_XDECREF(old.keys[k])
        Py_XDECREF(old.found)
        return 0

    def forget(self, key):
        """Let go of all that was put under an object."""
        cdef int i, k
        for i in range(WAYS * SETS):
            for k in range(4):
                if self.slots[i].keys[k] == <PyObject *>key:
                    self.drop(i)
                    break

    def popitem(self):
        """Let go of one thing, and return it; ``KeyError`` where there is none left."""
        while self.at < WAYS * SETS:
            self.at += 1
            if self.slots[self.at - 1].found != NULL:
                found = <object>self.slots[self.at - 1].found
                self.drop(self.at - 1)
                return found
        self.at = 0
        raise KeyError("empty")


cdef inline int place_of(void *a, void *b, void *c, void *d) noexcept:
    """The first of the places where these may stand: objects lie at multiples of 16 bytes."""
    cdef size_t h = (<size_t>a >> 4) * 0x9E3779B97F4A7C15u
    h = (h ^ (<size_t>b >> 4)) * 0x9E3779B97F4A7C15u
    h = (h ^ (<size_t>c >> 4)) * 0x9E3779B97F4A7C15u
    h = (h ^ (<size_t>d >> 4)) * 0x9E3779B97F4A7C15u
    return WAYS * (<int>(h >> 40) % SETS)


@cython.final
cdef class Shapes:
    """What belongs to NumPy's arrays by their dtype, shape and device: a look-up of a few nanoseconds, that forgets. Of
    arrays of more than `AXES` axes nothing is remembered."""

    def __cinit__(self):
        self.at = 0
        self.slots = <Shaped *>PyMem_RawCalloc(WAYS * SHAPES, sizeof(Shaped))
        if self.slots == NULL:
            raise MemoryError("no memory for the shapes of arrays")

    def __dealloc__(self):
        cdef int i
        for i in range(WAYS * SHAPES):
            self.drop(i)
        PyMem_RawFree(self.slots)

    cdef void drop(self, int i) noexcept:
        cdef Shaped old = self.slots[i]
        memset(&self.slots[i], 0, sizeof(Shaped))
        Py_XDECREF(old.dtype)
        Py_XDECREF(old.device)
        Py_XDECREF(old.found)

    cdef int place(self, object given, object device) noexcept:
        cdef np.ndarray array = <np.ndarray>given
        cdef size_t h = (<size_t><void *>np.PyArray_DESCR(array) >> 4) * 0x9E3779B97F4A7C15u
        cdef int k
        for k in range(np.PyArray_NDIM(array)):
            h = (h ^ <size_t>np.PyArray_DIM(array, k)) * 0x9E3779B97F4A7C15u
        return WAYS * (<int>(h >> 40) % SHAPES)

    cdef bint fits(self, Shaped *slot, object given, object device) noexcept:
        cdef np.ndarray array = <np.ndarray>given
        cdef int k
        if slot.dtype != <PyObject *>np.PyArray_DESCR(array) or slot.device != <PyObject *>device:
            return False
        if slot.ndim != np.PyArray_NDIM(array):
            return False
        for k in range(slot.ndim):
            if slot.sizes[k] != np.PyArray_DIM(array, k):
                return False
        return True

    cpdef object get(self, object array, object device):
        """What was put for arrays like this one, or None."""
        cdef Shaped *slot
        cdef int way
        if type(array) is not np.ndarray or np.PyArray_NDIM(<np.ndarray>array) > AXES:
            return None
        slot = &self.slots[self.place(array, device)]
        for way in range(WAYS):
            if self.fits(slot, array, device):
                return <object>slot.found
            slot += 1
        return None

    cpdef int put(self, object array, object device, object found) except -1:
        """Remember something for arrays like this one."""
        cdef int i, k
        cdef Shaped old
        if type(array) is not np.ndarray or np.PyArray_NDIM(<np.ndarray>array) > AXES:
            return 0
        i = self.place(array, device)
        old = self.slots[i + WAYS - 1]
        dtype = array.dtype
        Py_INCREF(dtype)
        Py_INCREF(device)
        Py_INCREF(found)
        memmove(&self.slots[i + 1], &self.slots[i], (WAYS - 1) * sizeof(Shaped))
        self.slots[i].dtype, self.slots[i].device = <PyObject *>dtype, <PyObject *>device
        self.slots[i].found, self.slots[i].ndim = <PyObject *>found, np.PyArray_NDIM(<np.ndarray>array)
        for k in range(self.slots[i].ndim):
            self.slots[i].sizes[k] = np.PyArray_DIM(<np.ndarray>array, k)
        Py_XDECREF(old.dtype)
        Py_XDECREF(old.device)
        Py_XDECREF(old.found)
        return 0

    def popitem(self):
        """Let go of one thing, and return it; ``KeyError`` where there is none left."""
        while self.at < WAYS * SHAPES:
            self.at += 1
            if self.slots[self.at - 1].found != NULL:
                found = <object>self.slots[self.at - 1].found
                self.drop(self.at - 1)
                return found
        self.at = 0
        raise KeyError("empty")

    cpdef object copy(self, object array):
        """A copy of an array of NumPy's, in the byte order of this machine."""
        if not np.PyArray_ISNOTSWAPPED(<np.ndarray>array):
            return array.astype(array.dtype.name)
        return np.PyArray_NewCopy(<np.ndarray>array, np.NPY_KEEPORDER)


cdef extern from "numpy/arrayobject.h":
    object PyArray_NewFromDescr(PyTypeObject *, np.dtype, int, np.npy_intp *, np.npy_intp *, void *, int, PyObject *)


@cython.final
cdef class Elements:
    """Single elements and stretches of NumPy's arrays, without the way through NumPy's scalars and views."""

    cpdef long long number(self, object array, Py_ssize_t i) except? -2:
        """An element of an array of integers of one axis."""
        cdef np.ndarray given
        if type(array) is np.ndarray:
            given = array
            if np.PyArray_NDIM(given) == 1 and np.PyArray_ISCARRAY_RO(given) and 0 <= i < np.PyArray_DIM(given, 0):
                if np.PyArray_TYPE(given) == np.NPY_INT32:
                    return (<int *>np.PyArray_DATA(given))[i]
                if np.PyArray_TYPE(given) == np.NPY_INT64:
                    return (<long long *>np.PyArray_DATA(given))[i]
        return array[i]

    cpdef object copy(self, object buffer, Py_ssize_t offset, tuple shape):
        """The elements of a flat buffer from ``offset`` on, in that shape, as an array of their own."""
        cdef np.ndarray source, found
        cdef np.npy_intp sizes[32]
        cdef Py_ssize_t axes = len(shape), i, count = 1
        if type(buffer) is not np.ndarray or axes > 32:
            raise ValueError("buffer, shape: an array of NumPy's and at most 32 axes expected")
        source = buffer
        for i in range(axes):
            sizes[i] = shape[i]
            if sizes[i] < 0 or (sizes[i] and count > 0x7FFFFFFFFFFF // sizes[i]):
                raise ValueError(f"shape: {shape} is too large, or negative")
            count *= sizes[i]
        if np.PyArray_NDIM(source) != 1 or not np.PyArray_ISCARRAY_RO(source) or source.descr.kind == c"O":
            raise ValueError("buffer: contiguous numbers of one axis expected")
        if count and not 0 <= offset <= np.PyArray_DIM(source, 0) - count:
            raise ValueError(f"offset, shape: {shape} from {offset} on expected within {len(buffer)} elements")
        Py_INCREF(source.descr)  # the new array takes a reference over
        found = PyArray_NewFromDescr(<PyTypeObject *>np.ndarray, source.descr, <int>axes, sizes, NULL, NULL, 0, NULL)
        if count:
            memcpy(
                np.PyArray_DATA(found),
                <char *>np.PyArray_DATA(source) + offset * np.PyArray_ITEMSIZE(source),
                count * np.PyArray_ITEMSIZE(source),
            )
        return found


    cpdef Py_ssize_t put(self, object buffer, Py_ssize_t offset, object array) except -1:
        """Copy an array into a flat buffer of its dtype, from element ``offset`` on; return where it ends."""
        cdef np.ndarray to, source
        cdef Py_ssize_t count
        if type(buffer) is not np.ndarray or type(array) is not np.ndarray:
            raise ValueError("buffer, array: arrays of NumPy's expected")
        to, source = buffer, array
        count = np.PyArray_SIZE(source)
        if np.PyArray_NDIM(to) != 1 or not np.PyArray_ISCARRAY(to) or to.descr.kind == c"O":
            raise ValueError("buffer: contiguous numbers of one axis expected")
        if not 0 <= offset <= np.PyArray_DIM(to, 0) - count:
            raise ValueError(f"offset: {count} elements from {offset} on expected within {len(buffer)}")
        if to.descr is source.descr and np.PyArray_ISCARRAY_RO(source):
            memcpy(
                <char *>np.PyArray_DATA(to) + offset * np.PyArray_ITEMSIZE(to),
                np.PyArray_DATA(source),
                count * np.PyArray_ITEMSIZE(to),
            )
        else:
            buffer[offset : offset + count] = array.reshape(-1)
        return offset + count


ELEMENTS = Elements()


ctypedef fused Whole:
    int
    long long


cdef bint all_within(Whole *data, Py_ssize_t size, long long low, long long high) noexcept:
    cdef Py_ssize_t k
    for k in range(size):
        if data[k] < low or data[k] >= high:
            return False
    return True


def are_within(array, long long low, long long high):
    """Whether all numbers of an array of integers are at least ``low``, and below ``high``."""
    cdef np.ndarray given
    if type(array) is np.ndarray:
        given = array
        if np.PyArray_ISNOTSWAPPED(given) and np.PyArray_ISCARRAY_RO(given):
            if np.PyArray_TYPE(given) == np.NPY_INT64:
                return all_within(<long long *>np.PyArray_DATA(given), np.PyArray_SIZE(given), low, high)
            if np.PyArray_TYPE(given) == np.NPY_INT32:
                return all_within(<int *>np.PyArray_DATA(given), np.PyArray_SIZE(given), low, high)
    return not bool(((array < low) | (array >= high)).any())


def array_of_numbers(value):
    """What ``numpy.asarray`` makes of one of Python's integers and floats, or of a list or tuple of these and nothing
    else, in a tenth of the time. None of any other, such as an empty list, and integers that take more than 64 bits."""
    cdef np.npy_intp size
    cdef np.ndarray found
    cdef Py_ssize_t k
    cdef int beyond = 0
    cdef bint whole = True
    cdef tuple given
    if type(value) is list or type(value) is tuple:
        given = tuple(value)
        size = len(given)
        if size == 0:
            return None
    elif type(value) is int or type(value) is float:
        given, size = (value,), -1
    else:
        return None
    for one in given:
        if type(one) is float:
            whole = False
        elif type(one) is not int:
            return None
    found = np.PyArray_EMPTY(0 if size < 0 else 1, &size, np.NPY_INT64 if whole else np.NPY_FLOAT64, 0)
    for k in range(len(given)):
        one = given[k]
        if whole:
            (<long long *>np.PyArray_DATA(found))[k] = PyLong_AsLongLongAndOverflow(one, &beyond)
            if beyond:
                return None
        elif type(one) is float:
            (<double *>np.PyArray_DATA(found))[k] = one
        else:
            (<double *>np.PyArray_DATA(found))[k] = PyLong_AsLongLongAndOverflow(one, &beyond)
            if beyond:
                return None
    return found
