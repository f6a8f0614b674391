"""The columns of a tape: arrays that grow at their end, of C integers and of doubles.

They do what ``array.array`` does for the recorder and for the passes, and no more; appending is a few instructions for
compiled code. Memory that somebody looks at (see ``exports``) stays where it is: there is no growing beyond its room
then.
"""

from array import array

from cpython.buffer cimport Py_buffer, PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from libc.limits cimport INT_MAX
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

cimport cython


cdef class Column:
    def __cinit__(self, values=()):
        self.data, self.size, self.room, self.exports = NULL, 0, 0, 0

    def __dealloc__(self):
        free(self.data)

    cdef int reserve(self, Py_ssize_t more) except -1:
        """Make room for ``more`` elements."""
        cdef Py_ssize_t room = self.size + more
        cdef char *data
        if room <= self.room:
            return 0
        if room > INT_MAX:
            raise OverflowError(f"a tape holds up to 2**31 - 1 nodes, operands or numbers, not {room}")
        if self.exports:
            raise BufferError("a column cannot grow while somebody looks at its memory")
        room = min(max(room, 2 * self.room, 64), <Py_ssize_t>INT_MAX)
        data = <char *>realloc(self.data, room * self.itemsize_)
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
    held for good."""

    def __cinit__(self):
        self.data, self.room = NULL, 0

    def __dealloc__(self):
        free(self.data)

    cdef int grow(self, Py_ssize_t least) except -1:
        cdef Py_ssize_t room = max(least, 2 * self.room, 64)
        cdef unsigned char *data = <unsigned char *>realloc(self.data, room)
        if data == NULL:
            raise MemoryError(f"no memory for {room} bytes of a tape")
        memset(data + self.room, 0, room - self.room)
        self.data, self.room = data, room
        return 0

    cpdef int up(self, Py_ssize_t row) except -1:
        if row >= self.room:
            self.grow(row + 1)
        if self.data[row] < 255:
            self.data[row] += 1
        return 0

    cpdef int down(self, Py_ssize_t row) except -1:
        if self.data[row] < 255:
            self.data[row] -= 1
        return 0

    def rows(self):
        """The rows that somebody has a handle of."""
        return self.held(0, self.room)

    def held(self, Py_ssize_t low, Py_ssize_t high):
        """Those from ``low`` to ``high``, not included."""
        cdef Py_ssize_t row
        return [row for row in range(max(low, 0), min(high, self.room)) if self.data[row]]


@cython.final
cdef class IntColumn(Column):
    """32-bit integers; ``append`` and ``extend`` raise ``OverflowError`` for others, and nothing was added then."""

    def __init__(self, values=()):
        self.itemsize_, self.code = sizeof(int), b"i"
        self.extend(values)

    cpdef int append(self, int value) except -1:
        if self.size == self.room:
            self.reserve(1)
        (<int *>self.data)[self.size] = value
        self.size += 1
        return 0


@cython.final
cdef class FloatColumn(Column):
    """Doubles; ``append`` and ``extend`` raise ``OverflowError`` for an integer that is too large for one."""

    def __init__(self, values=()):
        self.itemsize_, self.code = sizeof(double), b"d"
        self.extend(values)

    cpdef int append(self, double value) except -1:
        if self.size == self.room:
            self.reserve(1)
        (<double *>self.data)[self.size] = value
        self.size += 1
        return 0
