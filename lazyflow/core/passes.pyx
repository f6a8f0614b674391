# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Passes over the arrays of a graph: plain loops over nodes and edges; `lazyflow.core.arrays` has the same by whole arrays.

Arrays are contiguous and of one axis, of int64 unless said otherwise. Types, lengths and whatever is used as an index
are checked, so that wrong arguments are an error and never a read outside of an array: what a pass takes by itself when
it begins, and the edges of a graph once, when its `Nodes` are made.
"""

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset

cimport numpy as cnp
from lazyflow.core.columns cimport IntColumn
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

cdef extern from "numpy/arrayobject.h":
    object PyArray_NewFromDescr(
        PyTypeObject *subtype, cnp.dtype descr, int nd, cnp.npy_intp *dims, cnp.npy_intp *strides, void *data, int flags, PyObject *obj
    )

cnp.import_array()

ctypedef int64_t i64
ctypedef uint64_t u64
ctypedef int32_t i32
ctypedef unsigned char flag

cdef enum:
    PLAIN_ROW
    VIEW_ROW
    IMPORT_ROW
    OUTPUT_ROW  # kinds of rows, as in lazyflow/core/arrays.py

cdef i64 MASK = 0x7FFFFFFF  # bits of a hash: its products fit in 64


# Arrays: what comes is checked, what goes is made here.


cdef cnp.ndarray _array(object a, int kind, Py_ssize_t length, str name):
    """``a`` as an array of one axis, of this type and length (-1: any)."""
    if not cnp.PyArray_Check(a):
        raise TypeError(f"{name}: an array expected, got {type(a).__name__}")
    if cnp.PyArray_TYPE(<cnp.ndarray>a) != kind:
        raise TypeError(f"{name}: {cnp.PyArray_DescrFromType(kind)} expected, got {a.dtype}")
    if cnp.PyArray_NDIM(<cnp.ndarray>a) != 1 or not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>a):
        raise ValueError(f"{name}: a contiguous array of one axis expected, got shape {a.shape}")
    if length >= 0 and cnp.PyArray_DIM(<cnp.ndarray>a, 0) != length:
        raise ValueError(f"{name}: {length} entries expected, got {a.shape[0]}")
    return <cnp.ndarray>a


cdef inline Py_ssize_t _size(object a):
    return cnp.PyArray_DIM(<cnp.ndarray>a, 0)


cdef i64 *_ints(object a, Py_ssize_t length, str name) except? NULL:
    return <i64 *>cnp.PyArray_DATA(_array(a, cnp.NPY_INT64, length, name))


cdef i32 *_ints32(object a, Py_ssize_t length, str name) except? NULL:
    return <i32 *>cnp.PyArray_DATA(_array(a, cnp.NPY_INT32, length, name))


cdef double *_doubles(object a, Py_ssize_t length, str name) except? NULL:
    return <double *>cnp.PyArray_DATA(_array(a, cnp.NPY_FLOAT64, length, name))


cdef flag *_flags(object a, Py_ssize_t length, str name) except? NULL:
    return <flag *>cnp.PyArray_DATA(_array(a, cnp.NPY_BOOL, length, name))


cdef i64 *_indices(object a, Py_ssize_t length, Py_ssize_t limit, str name) except? NULL:
    """The numbers of an array, all below ``limit`` and none negative."""
    cdef i64 *found = _ints(a, length, name)
    if not _all_below(found, _size(a), limit):
        raise ValueError(f"{name}: numbers below {limit} expected, and none negative")
    return found


cdef i64 *_bounds(object a, Py_ssize_t count, Py_ssize_t total, str name) except? NULL:
    """Where ``count`` groups begin and the last one ends: ascending, ``total`` at the end."""
    cdef i64 *found = _ints(a, count + 1, name)
    if found[0] < 0 or found[count] > total or not _is_ascending(found, count):
        raise ValueError(f"{name}: ascending numbers from 0 to {total} expected")
    return found


# Without branches, so that they become vector code: the sign of what is gathered says whether there was any.


cdef bint _all_below(const i64 *a, Py_ssize_t n, i64 limit) noexcept nogil:
    cdef i64 bad = 0
    cdef Py_ssize_t i
    for i in range(n):
        bad |= a[i] | (limit - 1 - a[i])
    return bad >= 0


cdef bint _is_ascending(const i64 *a, Py_ssize_t n) noexcept nogil:
    cdef i64 bad = 0
    cdef Py_ssize_t i
    for i in range(n):
        bad |= a[i + 1] - a[i]
    return bad >= 0


cdef object _new(Py_ssize_t n, int kind=cnp.NPY_INT64):
    cdef cnp.npy_intp size = n
    return cnp.PyArray_EMPTY(1, &size, kind, 0)


cdef object _zeros(Py_ssize_t n, int kind=cnp.NPY_INT64):
    cdef cnp.npy_intp size = n
    return cnp.PyArray_ZEROS(1, &size, kind, 0)


cdef object _none(Py_ssize_t n):
    """An array of -1."""
    found = _new(n)
    memset(cnp.PyArray_DATA(<cnp.ndarray>found), 0xFF, n * sizeof(i64))
    return found


cdef inline i64 *_at(object a):
    return <i64 *>cnp.PyArray_DATA(<cnp.ndarray>a)


cdef inline flag *_flag_at(object a):
    return <flag *>cnp.PyArray_DATA(<cnp.ndarray>a)


# Memory.


def view(buffer, Py_ssize_t offset, tuple shape):
    """The elements of a flat buffer from ``offset`` on, in that shape; none, wherever that is, if an axis is empty."""
    if not isinstance(buffer, cnp.ndarray) or (<cnp.ndarray>buffer).ndim != 1 or not cnp.PyArray_ISCARRAY(<cnp.ndarray>buffer):
        raise ValueError("buffer: a contiguous array of one axis expected")
    cdef cnp.ndarray whole = buffer
    cdef cnp.npy_intp sizes[32]
    cdef Py_ssize_t axes = len(shape), i, count = 1, room = cnp.PyArray_SIZE(whole) - offset
    cdef bint fits = 0 <= offset and 0 <= room, empty = False, whole_axes = True
    if axes > 32:
        raise ValueError(f"shape: up to 32 axes expected, got {axes}")
    for i in range(axes):
        sizes[i] = shape[i]
        whole_axes = whole_axes and sizes[i] >= 0
        empty = empty or sizes[i] == 0
        fits = fits and sizes[i] > 0 and count <= room // sizes[i]
        count *= sizes[i] if fits else 0
    if empty:
        offset = 0
    if not whole_axes or not (fits or empty):
        raise ValueError(f"offset, shape: {shape} from {offset} on expected within {len(buffer)} elements")
    cdef cnp.dtype dtype = whole.descr
    cdef char *data = <char *>cnp.PyArray_DATA(whole) + offset * cnp.PyArray_ITEMSIZE(whole)
    Py_INCREF(dtype)  # the new array takes a reference over
    cdef cnp.ndarray found = PyArray_NewFromDescr(
        <PyTypeObject *>cnp.ndarray, dtype, <int>axes, sizes, NULL, data, cnp.NPY_ARRAY_CARRAY, NULL
    )
    cnp.set_array_base(found, whole)
    return found


def copy_elements(to, Py_ssize_t offset, source, Py_ssize_t start, Py_ssize_t count):
    """Copy ``count`` elements of one flat buffer, from ``start`` on, to another of the same dtype, from ``offset``
    on."""
    for buffer in (to, source):
        if not isinstance(buffer, cnp.ndarray) or (<cnp.ndarray>buffer).ndim != 1 or not cnp.PyArray_ISCARRAY(<cnp.ndarray>buffer):
            raise ValueError("to, source: contiguous arrays of one axis expected")
    cdef cnp.ndarray a = to, b = source
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(a)
    if a.descr is not b.descr and a.dtype != b.dtype or a.descr.kind == c"O":
        raise ValueError(f"to, source: one dtype of numbers expected, got {a.dtype} and {b.dtype}")
    if not (0 <= count and 0 <= offset <= cnp.PyArray_SIZE(a) - count and 0 <= start <= cnp.PyArray_SIZE(b) - count):
        raise ValueError(f"offset, start: {count} elements from {offset} and {start} on expected within the buffers")
    memcpy(<char *>cnp.PyArray_DATA(a) + offset * size, <char *>cnp.PyArray_DATA(b) + start * size, count * size)


# Rows of tapes.


def row_starts(ids, ints, rows, int_counts, float_counts):
    """Where the operands, the integers and the floats of each row begin. ``ids``: the signature of each; ``rows``,
    ``int_counts``, ``float_counts``: how many of each a signature has (all int32); ``rows`` is -1 where a node itself
    says how many operands it has, as its first integer."""
    cdef const i32 *kind = _ints32(ids, -1, "ids")
    cdef const i32 *number = _ints32(ints, -1, "ints")
    cdef const i32 *operand_count = _ints32(rows, -1, "rows")
    cdef Py_ssize_t n = _size(ids), numbers = _size(ints), kinds = _size(rows), i
    cdef const i32 *int_count = _ints32(int_counts, kinds, "int_counts")
    cdef const i32 *float_count = _ints32(float_counts, kinds, "float_counts")
    starts, int_starts, float_starts = _new(n + 1), _new(n + 1), _new(n + 1)
    cdef i64 *start = _at(starts)
    cdef i64 *int_start = _at(int_starts)
    cdef i64 *float_start = _at(float_starts)
    cdef i64 a = 0, b = 0, c = 0, count
    cdef bint unknown = False
    with nogil:
        for i in range(n):
            start[i], int_start[i], float_start[i] = a, b, c
            if kind[i] < 0 or kind[i] >= kinds:
                unknown = True
                break
            count = operand_count[kind[i]]
            if count < 0:
                count = number[b] if b < numbers and number[b] > 0 else 0
            a += count
            b += int_count[kind[i]]
            c += float_count[kind[i]]
    if unknown:
        raise ValueError(f"ids: signatures below {kinds} expected")
    start[n], int_start[n], float_start[n] = a, b, c
    return starts, int_starts, float_starts


def structure(ids, ints, rows, int_counts, kinds):
    """Of the integers of all rows those that say what is connected to what, and are no payload: where views and imports
    point, and how many operands a node has. All of a torn tape's. ``ids``, ``ints``: columns of a tape, or int32; see
    `row_starts`."""
    cdef const i32 *operand_count = _ints32(rows, -1, "rows")
    cdef Py_ssize_t n, numbers, signatures = _size(rows), i, k, count, at = 0, size = 0
    cdef const i32 *kind_of = _column(ids, &n, "ids")
    cdef const i32 *number = _column(ints, &numbers, "ints")
    cdef const i32 *int_count = _ints32(int_counts, signatures, "int_counts")
    cdef const i32 *kind = _ints32(kinds, signatures, "kinds")
    found = PyBytes_FromStringAndSize(NULL, numbers * sizeof(i32))
    cdef i32 *to = <i32 *>PyBytes_AS_STRING(found)
    cdef bint torn = False
    for i in range(n):
        k = kind_of[i]
        if k < 0 or k >= signatures:
            raise ValueError(f"ids: signatures below {signatures} expected")
        count = int_count[k]
        torn = torn or count < 0 or count > numbers - at
        if not torn:
            if kind[k] == VIEW_ROW or kind[k] == IMPORT_ROW or operand_count[k] < 0:
                memcpy(to + size, number + at, count * sizeof(i32))
                size += count
            at += count
    if torn or at != numbers:
        memcpy(to, number, numbers * sizeof(i32))
        return found
    return found[: size * sizeof(i32)]


cdef const i32 *_column(column, Py_ssize_t *size, name) except NULL:
    """The integers of a tape's column, and how many there are."""
    if isinstance(column, IntColumn):
        size[0] = (<IntColumn>column).size
        return <const i32 *>(<IntColumn>column).data if size[0] else &_NO_NUMBER
    cdef const i32 *found = _ints32(column, -1, name)
    size[0] = _size(column)
    return found


cdef i32 _NO_NUMBER = 0


def reach(rows, ids, kinds, starts, operands, marks, Py_ssize_t gap):
    """The ranges of rows that each of ``rows`` rests on, itself and the further results of calls included: where they
    begin and end, and how many each row has. ``ids``, ``kinds``, ``operands``: int32, of one tape; ``marks``: a flag
    for each row, all false before and after; ``gap``: so many rows in between are part of a range."""
    cdef const i32 *kind_of = _ints32(ids, -1, "ids")
    cdef Py_ssize_t n = _size(ids), wanted, number, i, k, e
    cdef const i32 *kind = _ints32(kinds, -1, "kinds")
    cdef Py_ssize_t signatures = _size(kinds)
    cdef const i32 *operand = _ints32(operands, -1, "operands")
    cdef const i64 *start = _ints(starts, n + 1, "starts")
    cdef const i64 *row = _indices(rows, -1, n, "rows")
    cdef flag *mark = _flags(marks, n, "marks")
    cdef Py_ssize_t edges = _size(operands)
    wanted = _size(rows)
    counts = _new(wanted)
    stack = _new(n)
    cdef i64 *count_of = _at(counts)
    cdef i64 *found = _at(stack)
    cdef Py_ssize_t count, done, low, high, first, last
    cdef i32 source
    cdef bint wrong = False
    ranges = []
    for number in range(wanted):
        with nogil:
            found[0] = low = row[number]
            high = low
            mark[low] = True
            count, done = 1, 0
            while done < count and not wrong:
                i = found[done]
                done += 1
                if start[i] < 0 or start[i + 1] > edges:
                    wrong = True
                    break
                for e in range(start[i], start[i + 1]):
                    source = operand[e]
                    if source < 0 or source >= n:
                        wrong = True
                        break
                    if not mark[source]:
                        mark[source] = True
                        found[count] = source
                        count += 1
                        if source < low:
                            low = source
                        if source > high:
                            high = source
        before = len(ranges)
        first = last = low
        for i in range(low, high + 1):
            if mark[i]:
                if i - last > gap:
                    ranges.append((first, last + 1))
                    first = i
                last = i
        ranges.append((first, last + 1))
        count_of[number] = len(ranges) - before
        for k in range(count):
            mark[found[k]] = False
        if wrong:
            raise ValueError("starts, operands: they do not fit together")
    lows, highs = _new(len(ranges)), _new(len(ranges))
    for k, (first, last) in enumerate(ranges):
        while last < n and 0 <= kind_of[last] < signatures and kind[kind_of[last]] == OUTPUT_ROW:
            last += 1  # the further results of a call stand behind it
        _at(lows)[k], _at(highs)[k] = first, last
    return lows, highs, counts


def rows_of_ranges(lows, highs, starts, operands, marks):
    """The rows of ranges of a tape, each once: in the order in which the ranges stand, so that operands come before
    users; ascending where they would not, and where most ranges have the same rows. ``lows``, ``highs``: where each
    begins and ends, columns or of int32; ``starts``, ``operands``: those of the tape; ``marks``: see `reach`."""
    cdef Py_ssize_t count, ends, n = _size(_array(marks, cnp.NPY_BOOL, -1, "marks")), i, k, at = 0
    cdef const i32 *low = _column(lows, &count, "lows")
    cdef const i32 *high = _column(highs, &ends, "highs")
    cdef flag *mark = _flags(marks, n, "marks")
    cdef const i32 *operand = _ints32(operands, -1, "operands")
    cdef const i64 *start = _ints(starts, n + 1, "starts")
    cdef Py_ssize_t edges = _size(operands)
    if ends != count:
        raise ValueError(f"highs: {count} entries expected, got {ends}")
    cdef i64 total = 0
    for k in range(count):
        if low[k] < 0 or high[k] < low[k] or high[k] > n:
            raise ValueError(f"lows, highs: ranges of {n} rows expected")
        total += high[k] - low[k]
    cdef _Runs apart = _Runs.of_ranges(low, high, count)
    if total <= 2 * apart.rows:
        answer = _new(apart.rows)
        if total == apart.rows:
            for k in range(count):
                at = _written(_at(answer), at, low[k], high[k])
            return answer
        for k in range(count):
            for i in range(low[k], high[k]):
                if not mark[i]:
                    mark[i] = True
                    _at(answer)[at] = i
                    at += 1
        for k in range(at):
            mark[_at(answer)[k]] = False
        for k in range(at):
            i = _at(answer)[k]
            if start[i] < 0 or start[i] > start[i + 1] or start[i + 1] > edges:
                raise ValueError("starts, operands: they do not fit together")
        if at == apart.rows and _are_operands_first(_at(answer), at, start, operand, mark, apart):
            return answer
    answer, at = _new(apart.rows), 0
    for k in range(apart.count):
        at = _written(_at(answer), at, apart.run[k].low, apart.run[k].high)
    return answer


cdef Py_ssize_t _written(i64 *to, Py_ssize_t at, i64 low, i64 high) noexcept nogil:
    """Write the rows of a range from a place on, and return where they end."""
    cdef i64 i
    for i in range(low, high):
        to[at + i - low] = i
    return at + high - low


cdef bint _are_operands_first(
    const i64 *rows, Py_ssize_t count, const i64 *start, const i32 *operand, flag *mark, _Runs apart
) noexcept:
    """Whether the operands of each row that are among the rows stand before it."""
    cdef Py_ssize_t k, e
    cdef bint found = True
    for k in range(count):
        for e in range(start[rows[k]], start[rows[k] + 1]):
            if apart.has(operand[e]) and not mark[operand[e]]:
                found = False
        mark[rows[k]] = True
    for k in range(count):
        mark[rows[k]] = False
    return found


cdef struct Stretch:  # rows from ``low`` to ``high``, which stand from a place on
    i64 low
    i64 high
    i64 at


cdef int _by_low(const void *a, const void *b) noexcept nogil:
    cdef i64 x = (<const Stretch *>a).low, y = (<const Stretch *>b).low
    return (x > y) - (x < y)


cdef class _Runs:
    """Rows in any order as runs of rows that follow each other, the lowest first: where a row stands is searched for
    among these."""

    cdef object memory
    cdef Stretch *run
    cdef Py_ssize_t count, rows

    @staticmethod
    cdef _Runs of(const i64 *row, Py_ssize_t rows):
        """Those of rows, none of which stands there twice."""
        cdef _Runs found = _Runs()
        cdef Py_ssize_t k, count = 0
        cdef bint ascending = True
        for k in range(rows):
            count += k == 0 or row[k] != row[k - 1] + 1
        found.reserve(count)
        count = 0
        for k in range(rows):
            if k == 0 or row[k] != row[k - 1] + 1:
                ascending = ascending and (k == 0 or row[k] > row[k - 1])
                found.run[count].low, found.run[count].at = row[k], k
                count += 1
            found.run[count - 1].high = row[k] + 1
        found.rows = rows
        if not ascending:
            qsort(found.run, count, sizeof(Stretch), _by_low)
        return found

    @staticmethod
    cdef _Runs of_ranges(const i32 *low, const i32 *high, Py_ssize_t ranges):
        """Those of all rows of ranges; they stand in no order."""
        cdef _Runs found = _Runs()
        cdef Py_ssize_t k, count = 0
        cdef bint ascending = True
        found.reserve(ranges)
        cdef Stretch *run = found.run
        for k in range(ranges):
            run[k].low, run[k].high, run[k].at = low[k], high[k], 0
            ascending = ascending and (k == 0 or low[k] >= low[k - 1])
        if not ascending:
            qsort(run, ranges, sizeof(Stretch), _by_low)
        for k in range(ranges):
            if count and run[k].low <= run[count - 1].high:
                run[count - 1].high = max(run[count - 1].high, run[k].high)
            else:
                run[count] = run[k]
                count += 1
        found.count = count
        for k in range(count):
            found.rows += run[k].high - run[k].low
        return found

    cdef reserve(self, Py_ssize_t count):
        self.memory = PyBytes_FromStringAndSize(NULL, count * sizeof(Stretch))
        self.run, self.count = <Stretch *>PyBytes_AS_STRING(self.memory), count

    cdef Stretch *before(self, i64 row) noexcept nogil:
        """The last run that begins no later than at a row, or NULL."""
        cdef Py_ssize_t low = 0, high = self.count, middle
        while low < high:
            middle = (low + high) // 2
            if self.run[middle].low <= row:
                low = middle + 1
            else:
                high = middle
        return &self.run[low - 1] if low else NULL

    cdef bint has(self, i64 row) noexcept nogil:
        cdef Stretch *found = self.before(row)
        return found != NULL and row < found.high

    cdef i64 place(self, i64 row) noexcept nogil:
        """Where a row stands; -1 where it does not."""
        cdef Stretch *found = self.before(row)
        return found.at + row - found.low if found != NULL and row < found.high else -1


def needed(columns, Py_ssize_t reals, tables, kinds, list asked):
    """The rows that the ``asked`` ones rest on, ascending, themselves, further results of calls and views of these
    included, for they have values then, too; behind them where operands, integers and floats of each row of the tape
    begin. None for all rows, and of a torn tape. ``columns``: the signatures, operands and integers of a tape, as they are
    or of int32; ``reals``: how many floats it has; ``tables``: how many operands, integers and floats a signature has, see `row_starts`."""
    ids, operands, ints = columns
    rows, int_counts, float_counts = tables
    cdef const i32 *operand_count = _ints32(rows, -1, "rows")
    cdef Py_ssize_t n, edges, numbers, signatures = _size(rows), i, e, k, found, row
    cdef const i32 *kind_of = _column(ids, &n, "ids")
    cdef const i32 *operand = _column(operands, &edges, "operands")
    cdef const i32 *number = _column(ints, &numbers, "ints")
    cdef const i32 *int_count = _ints32(int_counts, signatures, "int_counts")
    cdef const i32 *float_count = _ints32(float_counts, signatures, "float_counts")
    cdef const i32 *kind = _ints32(kinds, signatures, "kinds")
    starts, int_starts, float_starts, marks = _new(n + 1), _new(n + 1), _new(n + 1), _zeros(n + 1, cnp.NPY_BOOL)
    cdef i64 *start = _at(starts)
    cdef i64 *at = _at(int_starts)
    cdef i64 *float_at = _at(float_starts)
    cdef flag *mark = _flag_at(marks)
    start[0] = at[0] = float_at[0] = 0
    for i in range(n):
        k = kind_of[i]
        if k < 0 or k >= signatures:
            raise ValueError(f"ids: signatures below {signatures} expected")
        e = operand_count[k]
        if e < 0:
            e = number[at[i]] if at[i] < numbers else -1
        if e < 0 or e > edges - start[i] or int_count[k] < 0 or int_count[k] > numbers - at[i]:
            return None
        start[i + 1], at[i + 1], float_at[i + 1] = start[i] + e, at[i] + int_count[k], float_at[i] + float_count[k]
    if start[n] != edges or at[n] != numbers or float_at[n] != reals:
        return None
    for row in asked:
        if row < 0 or row >= n:
            raise ValueError(f"asked: rows below {n} expected, got {row}")
        mark[row] = True
    found = _marked_below(kind_of, kind, operand, start, mark, n)
    if found < 0 or found == n:
        return None
    answer = _new(found)
    k = 0
    for i in range(n):
        if mark[i]:
            _at(answer)[k] = i
            k += 1
    return answer, starts, int_starts, float_starts


cdef Py_ssize_t _marked_below(
    const i32 *kind_of, const i32 *kind, const i32 *operand, const i64 *start, flag *mark, Py_ssize_t n
) noexcept nogil:
    """Mark what the marked rows rest on, and return how many there are then; -1 if one rests on a later one."""
    cdef Py_ssize_t i, e, k, found = 0
    for i in range(n - 1, -1, -1):
        if not mark[i]:
            continue
        found += 1
        for e in range(start[i], start[i + 1]):
            if operand[e] < 0 or operand[e] >= i:
                return -1
            mark[operand[e]] = True
        k = i + 1
        while k < n and kind[kind_of[k]] == OUTPUT_ROW:  # the further results of a call stand behind it
            found += not mark[k]
            mark[k] = True
            k += 1
    for i in range(n):
        if kind[kind_of[i]] == VIEW_ROW and not mark[i] and start[i + 1] > start[i]:
            e = operand[start[i]]
            if 0 <= e < i and mark[e]:
                mark[i] = True
                found += 1
    return found


cdef class RowPlaces:
    """Where each of ``rows``, in any order, stands among them."""

    cdef readonly object rows
    cdef _Runs runs

    def __init__(self, rows):
        self.rows = rows
        self.runs = _Runs.of(_ints(rows, -1, "rows"), _size(rows))

    def of(self, asked):
        """Where the ``asked`` rows stand, a column or of int32: as int32, and -1 for others."""
        cdef Py_ssize_t n, i
        cdef const i32 *wanted = _column(asked, &n, "asked")
        answer = _new(n, cnp.NPY_INT32)
        cdef i32 *found = <i32 *>_at(answer)
        for i in range(n):
            found[i] = <i32>self.runs.place(wanted[i])
        return answer


def note_places(run_of, offset_of, rows, places, Py_ssize_t run):
    """Note that the values of ``rows`` of a tape, or all where None, lie at ``places`` of a ``run``, those that are not
    negative: in ``run_of``, of int32, and ``offset_of``."""
    cdef Py_ssize_t count = _size(_array(places, cnp.NPY_INT64, -1, "places")), i, k
    cdef Py_ssize_t n = _size(_array(run_of, cnp.NPY_INT32, -1, "run_of"))
    cdef i32 *which = _ints32(run_of, n, "run_of")
    cdef i64 *offset = _ints(offset_of, n, "offset_of")
    if not run_of.flags.writeable or not offset_of.flags.writeable:
        raise ValueError("run_of, offset_of: arrays that may be written expected")
    cdef const i64 *place = _ints(places, count, "places")
    cdef const i64 *row = NULL
    if rows is not None:
        row = _indices(rows, count, n, "rows")
    elif count != n:
        raise ValueError(f"places: {n} entries expected, got {count}")
    for i in range(count):
        if place[i] >= 0:
            k = i if row == NULL else row[i]
            which[k], offset[k] = <i32>run, place[i]


def picked(columns, row_begins, kinds, RowPlaces places not None):
    """Some rows of a tape, in any order, as a tape of their own: its four columns, of int32 but for the floats, and the
    numbers of its imports, which count from 0 there. An operand that is none of the rows before becomes -1."""
    rows = places.rows
    ids, operands, ints, floats = columns
    starts, int_starts, float_starts = row_begins
    cdef const i32 *kind_of = _ints32(ids, -1, "ids")
    cdef Py_ssize_t n = _size(ids), count = _size(_array(rows, cnp.NPY_INT64, -1, "rows"))
    cdef const i32 *operand = _ints32(operands, -1, "operands")
    cdef const i32 *number = _ints32(ints, -1, "ints")
    cdef const double *real = _doubles(floats, -1, "floats")
    cdef const i64 *start = _ints(starts, n + 1, "starts")
    cdef const i64 *int_start = _ints(int_starts, n + 1, "int_starts")
    cdef const i64 *float_start = _ints(float_starts, n + 1, "float_starts")
    cdef const i32 *kind = _ints32(kinds, -1, "kinds")
    cdef Py_ssize_t signatures = _size(kinds)
    cdef const i64 *row = _indices(rows, count, n, "rows")
    cdef _Runs runs = places.runs
    cdef Py_ssize_t edges = 0, numbers = 0, reals = 0, imported = 0, k, m
    cdef i64 operand_count = _size(operands), number_count = _size(ints), real_count = _size(floats), i, bad = 0
    for k in range(count):
        i = row[k]
        if kind_of[i] < 0 or kind_of[i] >= signatures:
            raise ValueError(f"ids: signatures below {signatures} expected")
        # Of a long tape, what is read of it alone.
        bad |= start[i] | (start[i + 1] - start[i]) | (operand_count - start[i + 1])
        bad |= int_start[i] | (int_start[i + 1] - int_start[i]) | (number_count - int_start[i + 1])
        imported += kind[kind_of[i]] == IMPORT_ROW and int_start[i + 1] > int_start[i]
    for m in range(runs.count):
        k, i = runs.run[m].low, runs.run[m].high
        bad |= float_start[k] | (float_start[i] - float_start[k]) | (real_count - float_start[i])
        edges += start[i] - start[k]
        numbers += int_start[i] - int_start[k]
        reals += float_start[i] - float_start[k]
    if bad < 0:
        raise ValueError("row_begins: ascending numbers from 0 to the lengths of the columns expected")
    new_ids, new_operands = _new(count, cnp.NPY_INT32), _new(edges, cnp.NPY_INT32)
    new_ints, new_floats = _new(numbers, cnp.NPY_INT32), _new(reals, cnp.NPY_FLOAT64)
    imports = _new(imported)
    cdef i32 *to_ids = <i32 *>_at(new_ids)
    cdef i32 *to_operands = <i32 *>_at(new_operands)
    cdef i32 *to_ints = <i32 *>_at(new_ints)
    cdef double *to_floats = <double *>_at(new_floats)
    cdef Py_ssize_t to
    with nogil:
        k = 0
        while k < count:
            i, m = row[k], k + 1
            while m < count and row[m] == row[m - 1] + 1:
                m += 1
            to = m - k
            memcpy(to_ids + k, kind_of + i, to * sizeof(i32))
            memcpy(to_ints, number + int_start[i], (int_start[i + to] - int_start[i]) * sizeof(i32))
            memcpy(to_floats, real + float_start[i], (float_start[i + to] - float_start[i]) * sizeof(double))
            to_ints += int_start[i + to] - int_start[i]
            to_floats += float_start[i + to] - float_start[i]
            to_operands = _moved(to_operands, operand, start, i, to, k, runs)
            k = m
    if imported:
        _number_imports(_at(imports), <i32 *>_at(new_ints), kind_of, kind, int_start, row, count)
    return new_ids, new_operands, new_ints, new_floats, imports


cdef i32 *_moved(
    i32 *to, const i32 *operand, const i64 *start, i64 low, Py_ssize_t count, i64 at, _Runs runs
) noexcept nogil:
    """Write where the operands of so many rows stand, that begin at ``low`` and stand from ``at`` on; return where these
    end."""
    cdef i64 i, e, found
    for i in range(low, low + count):
        for e in range(start[i], start[i + 1]):
            if low <= operand[e] < i:  # as most often
                found = at + operand[e] - low
            else:
                found = runs.place(operand[e])
                if found >= at + i - low:
                    found = -1
            to[0] = <i32>found
            to += 1
    return to


cdef void _number_imports(
    i64 *imports, i32 *ints, const i32 *kind_of, const i32 *kind, const i64 *int_start, const i64 *row, Py_ssize_t count
) noexcept nogil:
    """Write the numbers of the imports among rows apart, and in their integers, from 0 on."""
    cdef Py_ssize_t k, found = 0
    for k in range(count):
        if kind[kind_of[row[k]]] == IMPORT_ROW and int_start[row[k] + 1] > int_start[row[k]]:
            imports[found], ints[0] = ints[0], <i32>found
            found += 1
        ints += int_start[row[k] + 1] - int_start[row[k]]


def collected(columns, kinds, row_begins, imports, targets, known, roots):
    """All rows that the roots need, as a graph, where row ``imports[k]`` is row ``targets[k]`` and nothing is needed
    for one that is ``known`` (of length 0 if none is). Of the ``columns``, ids and ints are int32, as ``kinds`` are, and
    operands int64: the row behind the last stands for all that were not read.

    Returns the signatures in the order of their first nodes, not of their ids, which are used again: what is computed
    first, and so the last bits of a sum, must not depend on which other ones have been let go of. And of the nodes signature, starts, base, shift, int_starts, float_starts,
    origin and results; the node of each row, -1 for others; and of each row whether it is needed, which row's memory it
    shows, and from which element on."""
    ids, operands, ints, _ = columns
    starts, int_starts, float_starts = row_begins
    cdef const i32 *kind_of = _ints32(ids, -1, "ids")
    cdef Py_ssize_t n = _size(ids), signatures = _size(_array(kinds, cnp.NPY_INT32, -1, "kinds")), i, e, k
    cdef const i32 *kind = _ints32(kinds, signatures, "kinds")
    cdef const i64 *operand = _indices(operands, -1, n + 1, "operands")
    cdef const i32 *number = _ints32(ints, -1, "ints")
    cdef const i64 *start = _bounds(starts, n, _size(operands), "starts")
    cdef const i64 *int_start = _bounds(int_starts, n, _size(ints), "int_starts")
    cdef const i64 *float_start = _ints(float_starts, n + 1, "float_starts")
    cdef const i64 *alias = _indices(imports, -1, n, "imports")
    cdef const i64 *target = _indices(targets, _size(imports), n + 1, "targets")
    cdef const flag *is_known = _flags(known, -1, "known")
    cdef const i64 *root = _indices(roots, -1, n, "roots")
    cdef Py_ssize_t aliases = _size(imports), root_count = _size(roots)
    cdef bint some_known = _size(known) != 0
    if some_known and _size(known) != n:
        raise ValueError(f"known: {n} entries expected, or none; got {_size(known)}")
    bases, shifts, needs, news, numbers = _new(n + 1), _zeros(n + 1), _zeros(n + 1, cnp.NPY_BOOL), _none(n + 1), _none(signatures)
    cdef i64 *base = _at(bases)
    cdef i64 *shift = _at(shifts)
    cdef flag *needed = _flag_at(needs)
    cdef i64 *new = _at(news)
    cdef i64 *rank = _at(numbers)
    cdef i64 source, nodes = 0, edges = 0, further = 0, count = 0
    cdef int what
    cdef bint wrong = False
    with nogil:
        for i in range(n + 1):
            base[i] = i
        for k in range(aliases):
            base[alias[k]] = target[k]
        for i in range(n):
            if kind_of[i] < 0 or kind_of[i] >= signatures:
                wrong = True
                break
            what = kind[kind_of[i]]
            if what == VIEW_ROW:
                if start[i] == start[i + 1] or int_start[i] == int_start[i + 1]:
                    wrong = True
                    break
                source = operand[start[i]]
                base[i] = base[source]
                shift[i] = shift[source] + number[int_start[i]]
            elif what == OUTPUT_ROW:
                if start[i] == start[i + 1]:
                    wrong = True
                    break
            elif base[i] != i:
                source = base[i]
                base[i] = base[source]
                shift[i] = shift[source]
    if wrong:
        raise ValueError("ids, operands, ints: they do not fit together")
    with nogil:
        for k in range(root_count):
            needed[base[root[k]]] = True
        for i in range(n - 1, -1, -1):
            if needed[i] and not (some_known and is_known[i]):
                for e in range(start[i], start[i + 1]):
                    needed[base[operand[e]]] = True
        for i in range(n):  # a call computes all of its results
            if kind[kind_of[i]] == OUTPUT_ROW and not (some_known and is_known[i]) and needed[operand[start[i]]]:
                needed[i] = True
        for i in range(n):
            if needed[i]:
                new[i] = nodes
                nodes += 1
                if rank[kind_of[i]] < 0:
                    rank[kind_of[i]] = count
                    count += 1
                if not (some_known and is_known[i]):
                    edges += start[i + 1] - start[i]
                    further += kind[kind_of[i]] == OUTPUT_ROW
    present, signature, new_starts, new_base, new_shift = _new(count), _new(nodes), _new(nodes + 1), _new(edges), _new(edges)
    new_ints, new_floats, origins, results = _new(nodes), _new(nodes), _new(nodes), _new(further)
    cdef i64 *to_present = _at(present)
    cdef i64 *to_signature = _at(signature)
    cdef i64 *to_start = _at(new_starts)
    cdef i64 *to_base = _at(new_base)
    cdef i64 *to_shift = _at(new_shift)
    cdef i64 *to_ints = _at(new_ints)
    cdef i64 *to_floats = _at(new_floats)
    cdef i64 *origin = _at(origins)
    cdef i64 *result = _at(results)
    cdef i64 edge = 0, r = 0
    with nogil:
        for k in range(signatures):
            if rank[k] >= 0:
                to_present[rank[k]] = k
        for i in range(n):
            if not needed[i]:
                continue
            k = new[i]
            to_signature[k], to_start[k], origin[k] = rank[kind_of[i]], edge, i
            to_ints[k], to_floats[k] = int_start[i], float_start[i]
            if not (some_known and is_known[i]):
                for e in range(start[i], start[i + 1]):
                    to_base[edge], to_shift[edge] = new[base[operand[e]]], shift[operand[e]]
                    edge += 1
                if kind[kind_of[i]] == OUTPUT_ROW:
                    result[r] = k
                    r += 1
        to_start[nodes] = edge
    columns = signature, new_starts, new_base, new_shift, new_ints, new_floats, origins, results
    return (present, *columns, news, needs, bases[:n], shifts[:n])


# Nodes of a graph.


cdef class Nodes:
    """Nodes in a topological order, checked once for all passes over them: ``signature`` (below ``signatures``) of
    each, the operands of node ``i`` at ``base[starts[i]:starts[i + 1]]``, and which nodes the launch of the cell call
    that is their operand computes (``results``). ``call``: the node whose launch computes each node, itself but for
    these. None of the arrays may be changed any more."""

    cdef readonly object signature, starts, base, results, call
    cdef readonly Py_ssize_t signatures
    cdef Py_ssize_t n, edges
    cdef const i64 *kind
    cdef const i64 *start
    cdef const i64 *source
    cdef const i64 *launcher

    def __cinit__(self, signature, Py_ssize_t signatures, starts, base, results):
        self.kind = _indices(signature, -1, signatures, "signature")
        self.n = _size(signature)
        self.source = _ints(base, -1, "base")
        self.edges = _size(base)
        self.start = _bounds(starts, self.n, self.edges, "starts")
        if self.start[0] != 0 or self.start[self.n] != self.edges:
            raise ValueError(f"starts: numbers from 0 to {self.edges} expected")
        if not self._is_ordered():
            raise ValueError("base: operands before their users expected")
        self.signature, self.signatures, self.starts, self.base, self.results = signature, signatures, starts, base, results
        self.call = self._calls(results)
        self.launcher = _at(self.call)

    cdef bint _is_ordered(self) noexcept nogil:
        cdef Py_ssize_t i, e
        cdef i64 bad = 0  # without branches, as below
        for i in range(self.n):
            for e in range(self.start[i], self.start[i + 1]):
                bad |= self.source[e] | (i - 1 - self.source[e])
        return bad >= 0

    cdef object _calls(self, object results):
        cdef const i64 *result = _indices(results, -1, self.n, "results")
        cdef Py_ssize_t i, count = _size(results)
        found = _new(self.n)
        cdef i64 *call = _at(found)
        for i in range(self.n):
            call[i] = i
        for i in range(count):
            if self.start[result[i]] + 1 != self.start[result[i] + 1]:
                raise ValueError("results: nodes with one operand, their call, expected")
            call[result[i]] = self.source[self.start[result[i]]]
        for i in range(count):
            if call[call[result[i]]] != call[result[i]]:
                raise ValueError("results: a call is no result itself")
        return found

    def __len__(self):
        return self.n


cdef class _Readers:
    """Who reads each node: those of node ``i`` from ``start[i]`` to ``start[i + 1]``, once for every operand."""

    cdef object starts, users
    cdef i64 *start
    cdef i64 *user

    def __cinit__(self, Nodes nodes):
        self.starts, self.users = _zeros(nodes.n + 1), _new(nodes.edges)
        self.start, self.user = _at(self.starts), _at(self.users)
        cdef Py_ssize_t i, e
        with nogil:
            for e in range(nodes.edges):
                self.start[nodes.source[e]] += 1
            for i in range(1, nodes.n + 1):
                self.start[i] += self.start[i - 1]
            for i in range(nodes.n - 1, -1, -1):  # from behind: what counts down ends where the readers begin
                for e in range(nodes.start[i + 1] - 1, nodes.start[i] - 1, -1):
                    self.start[nodes.source[e]] -= 1
                    self.user[self.start[nodes.source[e]]] = i


def without_repeats(
    Nodes nodes not None, shift, payload, counts, usable, rows_of_tapes, Py_ssize_t fewest, Py_ssize_t worth
):
    """The graph with each group of equal nodes as one, or None if all differ; see `lazyflow.graph.repeats`.

    ``payload``: of each node, so many numbers as the two ``counts`` say of its signature; ``usable``: which nodes may
    be one with another; ``rows_of_tapes``: the row of each node on the tapes, and the row whose memory each row shows.

    Returns the new number of each node, and of those that are left signature, starts, base, shift, int_starts,
    float_starts, origin and results; and where the rows of the tapes point to now."""
    origin, tape_base = rows_of_tapes
    int_starts, _, float_starts, _ = payload
    cdef Py_ssize_t n = nodes.n, rows = _size(_array(tape_base, cnp.NPY_INT64, -1, "tape_base")), i, k, e
    cdef const i64 *tape = _indices(tape_base, rows, rows + 1, "tape_base")
    cdef const i64 *row = _indices(origin, n, rows + 1, "origin")
    cdef const i64 *moved = _ints(shift, nodes.edges, "shift")
    cdef const i64 *int_start = _ints(int_starts, n, "int_starts")
    cdef const i64 *float_start = _ints(float_starts, n, "float_starts")
    first = _first_equals(nodes, shift, payload, counts, usable, fewest, worth)
    if first is None:
        return None
    cdef const i64 *equal = _at(first)
    cdef i64 left = 0, edges = 0, count = 0
    news = _new(n)
    cdef i64 *new = _at(news)
    with nogil:
        for i in range(n):
            if equal[i] == i:
                new[i] = left
                left += 1
                edges += nodes.start[i + 1] - nodes.start[i]
            else:
                new[i] = new[equal[i]]
    signature, starts, base, shifts = _new(left), _new(left + 1), _new(edges), _new(edges)
    new_ints, new_floats, origins, results = _new(left), _new(left), _new(left), _new(_size(nodes.results))
    news_of_rows, tapes = _none(rows + 1), _new(rows)
    cdef i64 *to_signature = _at(signature)
    cdef i64 *to_start = _at(starts)
    cdef i64 *to_base = _at(base)
    cdef i64 *to_shift = _at(shifts)
    cdef i64 *to_ints = _at(new_ints)
    cdef i64 *to_floats = _at(new_floats)
    cdef i64 *to_origin = _at(origins)
    cdef i64 *to_results = _at(results)
    cdef i64 *row_of = _at(news_of_rows)
    cdef i64 *to_tape = _at(tapes)
    cdef const i64 *result = _at(nodes.results)
    cdef Py_ssize_t further = _size(nodes.results)
    cdef i64 edge = 0
    with nogil:
        for i in range(n):
            if equal[i] != i:
                continue
            k = new[i]
            to_signature[k], to_start[k], to_origin[k] = nodes.kind[i], edge, row[i]
            to_ints[k], to_floats[k] = int_start[i], float_start[i]
            for e in range(nodes.start[i], nodes.start[i + 1]):
                to_base[edge], to_shift[edge] = new[nodes.source[e]], moved[e]
                edge += 1
        to_start[left] = edge
        for i in range(n):
            row_of[row[i]] = row[equal[i]]
        for k in range(rows):
            to_tape[k] = row_of[tape[k]] if row_of[tape[k]] >= 0 else tape[k]
        for k in range(further):
            if equal[result[k]] == result[k]:
                to_results[count] = new[result[k]]
                count += 1
    return news, signature, starts, base, shifts, new_ints, new_floats, origins, results[:count], tapes


# Value numbering (Cocke and Schwartz 1970), over a graph of which most nodes are unlike all others. Three passes:
#
# 1. Each node gets a code of 64 bits, of its signature, its payload and the codes of its operands, so that equal nodes
#    have equal codes. How many have come by with the low bits of a code is counted up to two: first for nodes without
#    operands, then, in topological order, for those of which every operand has come by twice or may yet. All others can
#    be no repeat that is kept (3), and a look at the operand that says so is all that is ever done for most nodes.
# 2. The others are looked up in a hash table by their code. A code is where to look and never an answer: `_are_equal`
#    compares signature, payload and operands, by the first equal of each. So a collision costs a comparison, and cannot
#    make two different nodes one.
# 3. Merging pays where it takes a whole subgraph away. Kept are the repeats that rest on repeats alone; what would be
#    one node in the middle, with operands that are there for others anyway, stays as it was.


cdef object _first_equals(Nodes nodes, shift, payload, counts, usable, Py_ssize_t fewest, Py_ssize_t worth):
    """For each node the first one that equals it; None if all differ."""
    int_starts, ints, float_starts, floats = payload
    int_counts, float_counts = counts
    cdef Py_ssize_t n = nodes.n, i, j, k, e, m, count = 0
    cdef const flag *may = _flags(usable, n, "usable")
    cdef const i64 *moved = _ints(shift, nodes.edges, "shift")
    cdef const i64 *int_start = _ints(int_starts, n, "int_starts")
    cdef const i32 *number = _ints32(ints, -1, "ints")
    cdef const i64 *float_start = _ints(float_starts, n, "float_starts")
    cdef const i64 *bits = <const i64 *>_doubles(floats, -1, "floats")  # 0.0 and -0.0 differ
    cdef const i64 *int_count = _ints(int_counts, nodes.signatures, "int_counts")
    cdef const i64 *float_count = _ints(float_counts, nodes.signatures, "float_counts")
    cdef Py_ssize_t numbers = _size(ints), reals = _size(floats)
    with nogil:
        for i in range(n):
            if may[i] and nodes.start[i + 1] == nodes.start[i]:
                count += 1
    if count < fewest:
        return None
    for i in range(n):
        k = nodes.kind[i]
        if int_count[k] and (int_start[i] < 0 or int_start[i] + int_count[k] > numbers):
            raise ValueError("int_starts: the integers of a node are not all there")
        if float_count[k] and (float_start[i] < 0 or float_start[i] + float_count[k] > reals):
            raise ValueError("float_starts: the floats of a node are not all there")
    if count * worth <= nodes.edges:
        return None
    # A number for every node, equal for equal ones, and none for those that cannot be a repeat. A node can be one only if
    # another has its number, which one look at a count of each remainder says, and if whatever it reads can.
    cdef Py_ssize_t size = 64, merged = 0, candidates = 0
    while size < 4 * n:
        size *= 2
    codes, firsts, flags = _new(n), _new(n), _zeros(size + 2 * n, cnp.NPY_BOOL)
    cdef u64 *code = <u64 *>_at(codes)
    cdef i64 *first = _at(firsts)
    cdef flag *seen = _flag_at(flags)
    cdef flag *repeated = seen + size
    cdef flag *kept = repeated + n
    cdef u64 key, mask = size - 1
    cdef bint rests
    with nogil:
        for i in range(n):
            first[i], code[i] = i, ALONE
            if may[i] and nodes.start[i + 1] == nodes.start[i] and nodes.launcher[i] == i:
                k = nodes.kind[i]
                key = _payload_code(k, number + int_start[i], int_count[k], bits + float_start[i], float_count[k])
                code[i] = key | SOME
                candidates += seen[code[i] & mask] > 0
                seen[code[i] & mask] = min(seen[code[i] & mask] + 1, 2)
        for i in range(n):
            k = nodes.kind[i]
            if nodes.launcher[i] != i:
                key = code[nodes.launcher[i]]
                code[i] = ALONE if key == ALONE else _mixed(key + <u64>(i - nodes.launcher[i])) | SOME
                continue
            if nodes.start[i + 1] == nodes.start[i]:
                if seen[code[i] & mask] < 2:
                    code[i] = ALONE
                continue
            rests = may[i]
            for e in range(nodes.start[i], nodes.start[i + 1]):
                if code[nodes.source[e]] == ALONE:
                    rests = False
                    break
            if rests:
                key = _payload_code(k, number + int_start[i], int_count[k], bits + float_start[i], float_count[k])
                for e in range(nodes.start[i], nodes.start[i + 1]):
                    key = _mixed(key + code[nodes.source[e]] + <u64>moved[e])
                code[i] = key | SOME
                candidates += seen[code[i] & mask] > 0
                seen[code[i] & mask] = min(seen[code[i] & mask] + 1, 2)
    if not candidates:
        return None
    cdef Py_ssize_t room = 64
    while room < 4 * candidates:
        room *= 2
    table = _none(room)
    cdef i64 *entry = _at(table)
    cdef i64 call
    with nogil:
        for i in range(n):
            call = nodes.launcher[i]
            if call != i:  # the further results of equal calls are equal
                first[i] = first[call] + i - call
            elif code[i] != ALONE and seen[code[i] & mask] > 1:
                key = code[i] & <u64>(room - 1)
                while entry[key] >= 0 and not _are_equal(
                    nodes, first, moved, int_start, number, int_count, float_start, bits, float_count, i, entry[key]
                ):
                    key = (key + 1) & <u64>(room - 1)
                if entry[key] < 0:
                    entry[key] = i
                first[i] = entry[key]
            repeated[first[i]] |= first[i] != i
        # Of repeats only those that rest on repeats alone: see `lazyflow.graph.repeats`.
        for i in range(n):
            j = first[i]
            if j == i:
                call = nodes.launcher[i]
                kept[i] = repeated[i] if call == i else kept[call]
                if kept[i] and call == i:
                    for e in range(nodes.start[i], nodes.start[i + 1]):
                        kept[i] = kept[i] and kept[first[nodes.source[e]]]
            elif kept[j]:
                merged += 1
        for i in range(n):
            if not kept[first[i]]:
                first[i] = i
    return firsts if merged else None


cdef u64 ALONE = 0  # the code of a node that is no other's equal
cdef u64 SOME = 1ULL << 63  # a bit of all other codes


cdef inline u64 _payload_code(i64 kind, const i32 *ints, i64 int_count, const i64 *bits, i64 float_count) noexcept nogil:
    """A number of a signature and the payload of a node."""
    cdef u64 key = <u64>kind * 0x9E3779B97F4A7C15ULL + 1
    cdef i64 m
    for m in range(int_count):
        key = _mixed(key + <u64>ints[m])
    for m in range(float_count):
        key = _mixed(key + <u64>bits[m])
    return key


cdef inline u64 _mixed(u64 key) noexcept nogil:
    """A number of which every bit depends on those of another: the end of splitmix64 (Steele et al. 2014)."""
    key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9ULL
    key = (key ^ (key >> 27)) * 0x94D049BB133111EBULL
    return key ^ (key >> 31)


cdef bint _are_equal(
    Nodes nodes, const i64 *first, const i64 *moved, const i64 *int_start, const i32 *number, const i64 *int_count,
    const i64 *float_start, const i64 *bits, const i64 *float_count, Py_ssize_t i, Py_ssize_t j
) noexcept nogil:
    """Whether two nodes are of one signature, with the same payload and operands, of which ``first`` is known."""
    cdef i64 s = nodes.kind[i], left = nodes.start[i], right = nodes.start[j], m
    if nodes.kind[j] != s or nodes.start[j + 1] - right != nodes.start[i + 1] - left:
        return False
    for m in range(int_count[s]):
        if number[int_start[i] + m] != number[int_start[j] + m]:
            return False
    for m in range(float_count[s]):
        if bits[float_start[i] + m] != bits[float_start[j] + m]:
            return False
    for m in range(nodes.start[i + 1] - left):
        if first[nodes.source[left + m]] != first[nodes.source[right + m]] or moved[left + m] != moved[right + m]:
            return False
    return True


# Scheduling.


def depths(Nodes nodes not None):
    """The longest path of operands below each node."""
    found = _zeros(nodes.n)
    cdef i64 *depth = _at(found)
    cdef Py_ssize_t i, e
    with nogil:
        for i in range(nodes.n):
            for e in range(nodes.start[i], nodes.start[i + 1]):
                if depth[nodes.source[e]] >= depth[i]:
                    depth[i] = depth[nodes.source[e]] + 1
    return found


def signature_edges(Nodes nodes not None):
    """``edges[a, b]``: some node of signature ``a`` feeds some node of signature ``b``; a matrix of bool."""
    cdef Py_ssize_t count = nodes.signatures, i, e
    found = _zeros(count * count, cnp.NPY_BOOL)
    cdef flag *edge = _flag_at(found)
    with nogil:
        for i in range(nodes.n):
            if nodes.launcher[i] == i:
                for e in range(nodes.start[i], nodes.start[i + 1]):
                    edge[nodes.kind[nodes.launcher[nodes.source[e]]] * count + nodes.kind[i]] = True
    return found.reshape(count, count)


def by_levels(Nodes nodes not None, component, Py_ssize_t components):
    """The launch of each node, by component, depth inside of it, and signature; the component of each launch; and how
    many nodes and launches each component has, and its greatest depth. ``component``: of each signature."""
    cdef const i64 *of = _indices(component, nodes.signatures, components, "component")
    cdef Py_ssize_t n = nodes.n, i, e, k, c, place
    levels, height_of, sizes, counts = _zeros(n), _zeros(components), _zeros(components), _zeros(components)
    cdef i64 *level = _at(levels)
    cdef i64 *height = _at(height_of)
    cdef i64 *size = _at(sizes)
    cdef i64 *count = _at(counts)
    cdef i64 mine, source
    with nogil:
        for i in range(n):
            if nodes.launcher[i] != i:
                continue
            mine = of[nodes.kind[i]]
            size[mine] += 1
            for e in range(nodes.start[i], nodes.start[i + 1]):
                source = nodes.launcher[nodes.source[e]]
                if of[nodes.kind[source]] == mine and level[source] >= level[i]:
                    level[i] = level[source] + 1
            if level[i] > height[mine]:
                height[mine] = level[i]
    # Sorted by signature and then by component and level, each time by counting.
    begins = _zeros(components + 1)
    cdef i64 *begin = _at(begins)
    for c in range(components):
        begin[c + 1] = begin[c] + height[c] + 1
    by_kind, by_level = _zeros(nodes.signatures + 1), _zeros(begin[components] + 1)
    first_order, second_order, launches = _new(n), _new(n), _new(n)
    cdef i64 *kind_start = _at(by_kind)
    cdef i64 *level_start = _at(by_level)
    cdef i64 *order = _at(first_order)
    cdef i64 *final = _at(second_order)
    cdef i64 *launch = _at(launches)
    cdef Py_ssize_t total = 0, found = 0
    with nogil:
        for i in range(n):
            if nodes.launcher[i] == i:
                kind_start[nodes.kind[i] + 1] += 1
                level_start[begin[of[nodes.kind[i]]] + level[i] + 1] += 1
                total += 1
        for k in range(nodes.signatures):
            kind_start[k + 1] += kind_start[k]
        for k in range(begin[components]):
            level_start[k + 1] += level_start[k]
        for i in range(n):
            if nodes.launcher[i] == i:
                order[kind_start[nodes.kind[i]]] = i
                kind_start[nodes.kind[i]] += 1
        for k in range(total):
            i = order[k]
            place = begin[of[nodes.kind[i]]] + level[i]
            final[level_start[place]] = i
            level_start[place] += 1
        for k in range(total):
            i = final[k]
            if k == 0 or nodes.kind[i] != nodes.kind[final[k - 1]] or level[i] != level[final[k - 1]]:
                count[of[nodes.kind[i]]] += 1
                found += 1
            launch[i] = found - 1
    phases = _new(found)
    cdef i64 *phase = _at(phases)
    with nogil:
        for k in range(total):
            phase[launch[final[k]]] = of[nodes.kind[final[k]]]
        for i in range(n):  # a call comes before its results
            launch[i] = launch[nodes.launcher[i]]
    return launches, phases, sizes, counts, height_of


def part(Nodes nodes not None, component, Py_ssize_t which):
    """The nodes of the signatures of one component, without further results of calls, and the graph of these: with
    their own numbers, and those of their signatures; a call stands for its results."""
    cdef const i64 *of = _ints(component, nodes.signatures, "component")
    cdef Py_ssize_t i, e, k, count = 0, edges = 0, kinds = 0
    news, ranks = _none(nodes.n), _none(nodes.signatures)
    cdef i64 *new = _at(news)
    cdef i64 *rank = _at(ranks)
    cdef i64 source
    with nogil:
        for i in range(nodes.n):
            if nodes.launcher[i] != i or of[nodes.kind[i]] != which:
                continue
            new[i] = count
            count += 1
            rank[nodes.kind[i]] = 0
            for e in range(nodes.start[i], nodes.start[i + 1]):
                edges += new[nodes.launcher[nodes.source[e]]] >= 0
        for k in range(nodes.signatures):
            if rank[k] == 0:
                rank[k] = kinds
                kinds += 1
    members, signature, starts, base = _new(count), _new(count), _new(count + 1), _new(edges)
    cdef i64 *member = _at(members)
    cdef i64 *to_signature = _at(signature)
    cdef i64 *to_start = _at(starts)
    cdef i64 *to_base = _at(base)
    with nogil:
        count = edges = 0
        for i in range(nodes.n):
            if new[i] < 0:
                continue
            member[count], to_signature[count], to_start[count] = i, rank[nodes.kind[i]], edges
            count += 1
            for e in range(nodes.start[i], nodes.start[i + 1]):
                source = new[nodes.launcher[nodes.source[e]]]
                if source >= 0:
                    to_base[edges] = source
                    edges += 1
        to_start[count] = edges
    return members, Nodes(signature, kinds, starts, base, _new(0))


def backwards(Nodes nodes not None):
    """The graph read from its other end: what was an operand is a user, and what was last is first."""
    cdef _Readers readers = _Readers(nodes)
    cdef Py_ssize_t n = nodes.n, i, e, edge = 0
    signature, starts, base = _new(n), _new(n + 1), _new(nodes.edges)
    cdef i64 *to_signature = _at(signature)
    cdef i64 *to_start = _at(starts)
    cdef i64 *to_base = _at(base)
    with nogil:
        for i in range(n):
            to_signature[i], to_start[i] = nodes.kind[n - 1 - i], edge
            for e in range(readers.start[n - i] - 1, readers.start[n - 1 - i] - 1, -1):
                to_base[edge] = n - 1 - readers.user[e]
                edge += 1
        to_start[n] = edge
    return Nodes(signature, nodes.signatures, starts, base, _new(0))


cdef class _Ready:
    """The ready nodes of each signature, in lists by the order in which they became so, and what has run."""

    cdef Nodes nodes
    cdef _Readers readers
    cdef object arrays, launches
    cdef i64 *launch
    cdef i64 *waiting
    cdef i64 *next  # behind a ready node of its signature, -1 for none
    cdef i64 *first
    cdef i64 *last
    cdef i64 *count
    cdef i64 *queue  # signatures with ready nodes
    cdef Py_ssize_t queued, done

    def __cinit__(self, Nodes nodes):
        cdef Py_ssize_t n = nodes.n, kinds = nodes.signatures, i
        self.nodes, self.readers = nodes, _Readers(nodes)
        self.launches, waits, nexts = _new(n), _new(n), _new(n)
        firsts, lasts, counts, queue = _none(kinds), _new(kinds), _zeros(kinds), _new(kinds)
        self.arrays = waits, nexts, firsts, lasts, counts, queue
        self.launch, self.waiting, self.next = _at(self.launches), _at(waits), _at(nexts)
        self.first, self.last, self.count, self.queue = _at(firsts), _at(lasts), _at(counts), _at(queue)
        with nogil:
            for i in range(n):
                # What a node reads twice it waits for twice. A result of a call runs with it, and waits for nothing.
                self.waiting[i] = nodes.start[i + 1] - nodes.start[i]
                if self.waiting[i] == 0:
                    self.add(i)

    cdef void add(self, Py_ssize_t node) noexcept nogil:
        cdef i64 s = self.nodes.kind[node]
        self.next[node] = -1
        if self.count[s] == 0:
            self.first[s] = node
            self.queue[self.queued] = s
            self.queued += 1
        else:
            self.next[self.last[s]] = node
        self.last[s] = node
        self.count[s] += 1

    cdef void run(self, Py_ssize_t place) noexcept nogil:
        """Launch all ready nodes of the signature that stands there in the queue."""
        cdef i64 s = self.queue[place]
        cdef i64 node = self.first[s]
        cdef Py_ssize_t k
        for k in range(place, self.queued - 1):
            self.queue[k] = self.queue[k + 1]
        self.queued -= 1
        self.count[s] = 0
        while node >= 0:
            following = self.next[node]
            self.launch[node] = self.done
            self.finish(node)
            node = following
        self.done += 1

    cdef void finish(self, Py_ssize_t node) noexcept nogil:
        """What waits for a node waits no longer; the results of a call are there with it."""
        cdef Py_ssize_t e
        cdef i64 user
        for e in range(self.readers.start[node], self.readers.start[node + 1]):
            user = self.readers.user[e]
            if self.nodes.launcher[user] != user:
                self.finish(user)
                continue
            self.waiting[user] -= 1
            if self.waiting[user] == 0:
                self.add(user)


def agenda(Nodes nodes not None):
    """Of the ready signatures the one of the lowest mean depth next, with all of its ready nodes."""
    cdef Py_ssize_t n = nodes.n, kinds = nodes.signatures, i, e, k, best
    depth_of, means, counts = _zeros(n), _zeros(kinds, cnp.NPY_FLOAT64), _zeros(kinds)
    cdef i64 *depth = _at(depth_of)
    cdef double *mean = <double *>_at(means)
    cdef i64 *count = _at(counts)
    cdef i64 source
    cdef _Ready ready = _Ready(nodes)
    with nogil:
        for i in range(n):
            if nodes.launcher[i] != i:
                continue
            for e in range(nodes.start[i], nodes.start[i + 1]):
                source = nodes.launcher[nodes.source[e]]
                if depth[source] >= depth[i]:
                    depth[i] = depth[source] + 1
            mean[nodes.kind[i]] += depth[i]
            count[nodes.kind[i]] += 1
        for k in range(kinds):
            if count[k]:
                mean[k] /= count[k]
        while ready.queued:
            best = 0
            for k in range(1, ready.queued):
                if mean[ready.queue[k]] < mean[ready.queue[best]] or (
                    mean[ready.queue[k]] == mean[ready.queue[best]] and ready.queue[k] < ready.queue[best]
                ):
                    best = k
            ready.run(best)
        for i in range(n):
            ready.launch[i] = ready.launch[nodes.launcher[i]]
    return ready.launches, ready.done


def longest_chains(Nodes nodes not None):
    """Length of the longest chain of dependent nodes of one signature that ends in each node, and the node before it in
    that chain, or -1.

    A table of the best chain for every signature goes up the graph. Nobody can join a launch of its signature before
    that node has run, and when it has, so have all others (their chains are shorter)."""
    cdef Py_ssize_t n = nodes.n, kinds = nodes.signatures, i, e, k
    lengths, criticals, table = _new(n), _new(n), _zeros(n * kinds)
    cdef i64 *length = _at(lengths)
    cdef i64 *critical = _at(criticals)
    cdef i64 *chain = _at(table)  # length * (n + 1) + node + 1
    cdef i64 *mine
    cdef const i64 *below
    cdef i64 before
    with nogil:
        for i in range(n):
            mine = chain + i * kinds
            for e in range(nodes.start[i], nodes.start[i + 1]):
                below = chain + nodes.source[e] * kinds
                for k in range(kinds):
                    mine[k] = below[k] if below[k] > mine[k] else mine[k]
            before = mine[nodes.kind[i]]
            critical[i] = before % (n + 1) - 1
            length[i] = before // (n + 1) + 1
            mine[nodes.kind[i]] = length[i] * (n + 1) + i + 1
    return lengths, criticals


# List scheduling (Kahn 1962 counts what a node waits for), of signatures and not of nodes: a launch takes all ready
# nodes of one. Which signature is next decides how many launches there are. To take one too early splits what could have
# run as one: some of its nodes are not ready yet. So the share of ready nodes among those that *could still join* this very
# launch is what counts, the greedy form of the reward that ED-Batch learns a policy for (Chen et al. 2023).
#
# A node can join a launch of its signature when all nodes of that signature below it have run in earlier ones. It need
# not be asked for all of them: it is enough to watch the one that ends the longest chain of its signature (`critical`),
# for a launch takes one link of each chain, and the shorter ones are through by then. So each node has one number, and
# each launch adds to its signature the followers of the nodes that it runs. For chains and trees of one cell the result
# is the fewest launches there can be; in general it is not, and `lazyflow.plan.schedule` tries it from both ends.


def frontier(Nodes nodes not None):
    """Of the ready signatures the one with the largest share of ready nodes among those that could join the launch
    next; of equal shares, that of more nodes."""
    cdef Py_ssize_t n = nodes.n, kinds = nodes.signatures, i, k, best
    if _size(nodes.results):
        raise ValueError("nodes: no further results of calls expected; see `part`")
    _, criticals = longest_chains(nodes)
    followers, joins = _zeros(n), _zeros(kinds)
    cdef const i64 *critical = _at(criticals)
    cdef i64 *follower = _at(followers)  # how many nodes could join once this one has run
    cdef i64 *could_join = _at(joins)
    cdef _Ready ready = _Ready(nodes)
    cdef i64 s, t, more, node
    cdef double share, largest
    with nogil:
        for i in range(n):
            if critical[i] >= 0:
                follower[critical[i]] += 1
            else:
                could_join[nodes.kind[i]] += 1
        while ready.queued:
            best, largest = 0, -1.0
            for k in range(ready.queued):
                s, t = ready.queue[k], ready.queue[best]
                share = <double>ready.count[s] / <double>could_join[s]
                if share > largest or (share == largest and ready.count[s] > ready.count[t]):
                    best, largest = k, share
            s = ready.queue[best]
            more, node = -ready.count[s], ready.first[s]
            while node >= 0:
                more += follower[node]
                node = ready.next[node]
            could_join[s] += more
            ready.run(best)
    return ready.launches, ready.done


# Memory.


def by_launch(launch, wanted, Py_ssize_t launches):
    """The wanted nodes (a flag for each) in the order of their launches, recorded order within, and where each launch
    begins; launches without any are left out."""
    cdef const i64 *of = _indices(launch, -1, launches, "launch")
    cdef Py_ssize_t n = _size(launch), i, k
    cdef const flag *want = _flags(wanted, n, "wanted")
    bounds = _zeros(launches + 1)
    cdef i64 *bound = _at(bounds)
    cdef i64 count = 0, kept = 0
    with nogil:
        for i in range(n):
            if want[i]:
                bound[of[i]] += 1
                count += 1
        for k in range(1, launches + 1):
            bound[k] += bound[k - 1]
    order = _new(count)
    cdef i64 *to = _at(order)
    with nogil:
        for i in range(n - 1, -1, -1):
            if want[i]:
                bound[of[i]] -= 1
                to[bound[of[i]]] = i
        for k in range(launches + 1):
            if k == 0 or bound[k] != bound[kept]:
                kept += k != 0
                bound[kept] = bound[k]
    return order, bounds[: kept + 1]


# The layout of the arena. What a launch writes is one block of consecutive rows, and blocks are sorted by phase and
# signature. So all nodes of a signature in a phase lie behind each other, in whatever launches they run: the gradient
# of a weight, which wants all of them, is one product over a view, and a launch that reads what one launch wrote reads a
# view. Each run of a signature begins at a multiple of its width: then a row has a number, and a gather is a `take` of
# rows and no index for each element. Blocks are sorted by counting, twice, in time that is linear in their number.
#
# Without gradients memory is used again: `blocks` says when each block is read for the last time, and
# `lazyflow.plan.plan` places them by first fit, with neighbouring free pieces made one (Knuth 1968, section 2.5).


cdef class _Blocks:
    """Which nodes get consecutive rows: those of one launch, and of a cell's launch those of each result. The block of
    each node, the place of its first row there, and of each block how many rows it has, their signature and its
    phase."""

    cdef object blocks, places, sizes, kinds, phases
    cdef i64 *block
    cdef i64 *place
    cdef i64 *size
    cdef i64 *kind
    cdef i64 *phase
    cdef Py_ssize_t count

    def __cinit__(self, Nodes nodes, launch, phase, rows):
        cdef const i64 *phase_of = _indices(phase, -1, max(nodes.signatures, 1), "phase")  # components of signatures
        cdef const i64 *rows_of = NULL if rows is None else _widths(rows, nodes.n)
        cdef Py_ssize_t launches = _size(phase), n = nodes.n, i, key, most = 1
        cdef const i64 *of = _indices(launch, n, launches, "launch")
        for i in range(n):
            if i - nodes.launcher[i] >= most:
                most = i - nodes.launcher[i] + 1
        ranks = _zeros(launches * most)
        cdef i64 *rank = _at(ranks)
        with nogil:
            for i in range(n):
                rank[of[i] * most + i - nodes.launcher[i]] = 1
            for key in range(launches * most):
                if rank[key]:
                    rank[key] = self.count
                    self.count += 1
        self.blocks, self.places = _new(n), _new(n)
        self.sizes, self.kinds, self.phases = _zeros(self.count), _new(self.count), _new(self.count)
        self.block, self.place = _at(self.blocks), _at(self.places)
        self.size, self.kind, self.phase = _at(self.sizes), _at(self.kinds), _at(self.phases)
        cdef i64 b
        with nogil:
            for i in range(n):
                b = rank[of[i] * most + i - nodes.launcher[i]]
                self.block[i], self.place[i] = b, self.size[b]
                self.size[b] += 1 if rows_of == NULL else rows_of[i]
                self.kind[b], self.phase[b] = nodes.kind[i], phase_of[of[i]]

    cdef object offsets(self, Nodes nodes, const i64 *start, const i64 *width):
        """The element offset of each node, of which ``start`` says where its block begins."""
        found = _new(nodes.n)
        cdef i64 *offset = _at(found)
        cdef Py_ssize_t i
        with nogil:
            for i in range(nodes.n):
                offset[i] = start[self.block[i]] + self.place[i] * width[nodes.kind[i]]
        return found


cdef i64 *_widths(object widths, Py_ssize_t signatures) except? NULL:
    cdef i64 *width = _ints(widths, signatures, "width")
    cdef Py_ssize_t k
    for k in range(signatures):
        if width[k] < 1:
            raise ValueError("width: positive numbers expected")
    return width


def laid_out(Nodes nodes not None, launch, phase, widths, dtypes, Py_ssize_t count, rows=None):
    """The element offset of each node, blocks laid behind each other by phase and signature, each run of one signature
    aligned to its width; and how many elements of each of ``count`` dtypes there are. ``widths``, ``dtypes``: by
    signature; ``launch``: of each node; ``phase``: of each launch; ``rows``: how many each node has, None where all
    have one."""
    cdef _Blocks b = _Blocks(nodes, launch, phase, rows)
    cdef const i64 *width = _widths(widths, nodes.signatures)
    cdef const i64 *dtype = _indices(dtypes, nodes.signatures, count, "dtypes")
    cdef Py_ssize_t k, phases = 0
    for k in range(b.count):
        if b.phase[k] >= phases:
            phases = b.phase[k] + 1
    # Sorted by signature and then by phase, each time by counting.
    by_kind, by_phase, first_order, second_order = _zeros(nodes.signatures + 1), _zeros(phases + 1), _new(b.count), _new(b.count)
    starts, ends, befores = _new(b.count), _zeros(count), _none(count)
    cdef i64 *kind_start = _at(by_kind)
    cdef i64 *phase_start = _at(by_phase)
    cdef i64 *order = _at(first_order)
    cdef i64 *final = _at(second_order)
    cdef i64 *start = _at(starts)
    cdef i64 *end = _at(ends)
    cdef i64 *previous = _at(befores)
    cdef i64 s, d, w, i
    with nogil:
        for k in range(b.count):
            kind_start[b.kind[k] + 1] += 1
            phase_start[b.phase[k] + 1] += 1
        for k in range(nodes.signatures):
            kind_start[k + 1] += kind_start[k]
        for k in range(phases):
            phase_start[k + 1] += phase_start[k]
        for k in range(b.count):
            order[kind_start[b.kind[k]]] = k
            kind_start[b.kind[k]] += 1
        for k in range(b.count):
            final[phase_start[b.phase[order[k]]]] = order[k]
            phase_start[b.phase[order[k]]] += 1
        for k in range(b.count):
            i = final[k]
            s = b.kind[i]
            d, w = dtype[s], width[s]
            if s != previous[d]:
                end[d] = (end[d] + w - 1) // w * w
                previous[d] = s
            start[i] = end[d]
            end[d] += w * b.size[i]
    return b.offsets(nodes, start, width), ends


def blocks(Nodes nodes not None, launch, phase, roots, rows=None):
    """Which nodes get consecutive rows: those of one launch, and of a cell's launch those of each result. The block of
    each node, the place of its first row there, and of each block how many rows it has, their signature, its phase, and
    the last phase in which it is read, of a root the greatest number there is. ``rows``: see `laid_out`."""
    cdef _Blocks b = _Blocks(nodes, launch, phase, rows)
    cdef const i64 *root = _indices(roots, -1, nodes.n, "roots")
    cdef Py_ssize_t i, e
    found = b.phases.copy()
    cdef i64 *last = _at(found)
    for i in range(nodes.n):
        for e in range(nodes.start[i], nodes.start[i + 1]):
            last[b.block[nodes.source[e]]] = max(last[b.block[nodes.source[e]]], b.phase[b.block[i]])
    for i in range(_size(roots)):
        last[b.block[root[i]]] = 0x7FFFFFFFFFFFFFFF
    return b.blocks, b.places, b.sizes, b.kinds, b.phases, found


def within_phases(Nodes nodes not None, launch, phase):
    """Which operands lie in the phase of the node that reads them, and which nodes others read in their own phase;
    further results of calls read nothing."""
    cdef const i64 *phase_of = _ints(phase, -1, "phase")
    cdef const i64 *of = _indices(launch, nodes.n, _size(phase), "launch")
    cdef Py_ssize_t i, e
    edges, read, phases = _zeros(nodes.edges, cnp.NPY_BOOL), _zeros(nodes.n, cnp.NPY_BOOL), _new(nodes.n)
    cdef flag *within = _flag_at(edges)
    cdef flag *is_read = _flag_at(read)
    cdef i64 *mine = _at(phases)
    with nogil:
        for i in range(nodes.n):
            mine[i] = phase_of[of[i]]
            if nodes.launcher[i] == i:
                for e in range(nodes.start[i], nodes.start[i + 1]):
                    if mine[nodes.source[e]] == mine[i]:
                        within[e] = is_read[nodes.source[e]] = True
    return edges, read


def calls(Nodes nodes not None, shift, offsets, payload, order, launch, within, cell):
    """The calls of a cell in this order: nodes, the offsets of operands and of results, integers, floats, which
    operands and which results are read in the phase of the calls, and the most calls of a launch. ``offsets``: of each
    node; ``within``: of `within_phases`; ``cell``: its signature, and how many operands, results, integers and floats a
    call has."""
    within_edges, within_nodes = within
    int_starts, ints, float_starts, floats = payload
    cdef Py_ssize_t kind, rows, results, int_count, float_count
    kind, rows, results, int_count, float_count = cell
    cdef const i64 *moved = _ints(shift, nodes.edges, "shift")
    cdef Py_ssize_t n = nodes.n, i, j, k, e, c, total = _size(_array(order, cnp.NPY_INT64, -1, "order"))
    cdef const i64 *offset = _ints(offsets, n, "offsets")
    cdef const i64 *int_start = _ints(int_starts, n, "int_starts")
    cdef const i64 *float_start = _ints(float_starts, n, "float_starts")
    cdef const i32 *number = _ints32(ints, -1, "ints")
    cdef const double *real = _doubles(floats, -1, "floats")
    cdef const i64 *in_order = _indices(order, total, n, "order")
    cdef const i64 *of = _ints(launch, n, "launch")
    cdef const flag *edge_within = _flags(within_edges, nodes.edges, "within_edges")
    cdef const flag *is_within = _flags(within_nodes, n, "within_nodes")
    cdef Py_ssize_t count = 0
    for k in range(total):
        i = in_order[k]
        if nodes.kind[i] == kind:
            count += 1
            if (
                nodes.start[i + 1] - nodes.start[i] < rows or i + results > n
                or (int_count and (int_start[i] < 0 or int_start[i] + int_count > _size(ints)))
                or (float_count and (float_start[i] < 0 or float_start[i] + float_count > _size(floats)))
            ):
                raise ValueError("rows, results, int_count, float_count: a call has not as much")
    members, inputs, outputs, read, used = _new(count), _new(rows * count), _new(results * count), _zeros(rows, cnp.NPY_BOOL), _zeros(results, cnp.NPY_BOOL)
    numbers, reals = _new(int_count * count, cnp.NPY_INT32), _new(float_count * count, cnp.NPY_FLOAT64)
    cdef i64 *member = _at(members)
    cdef i64 *input = _at(inputs)
    cdef i64 *output = _at(outputs)
    cdef flag *is_read = _flag_at(read)
    cdef flag *is_used = _flag_at(used)
    cdef i32 *to_ints = <i32 *>_at(numbers)
    cdef double *to_floats = <double *>_at(reals)
    cdef i64 largest = 0, size = 0, before = -1
    with nogil:
        c = 0
        for j in range(total):
            i = in_order[j]
            if nodes.kind[i] != kind:
                continue
            member[c] = i
            for k in range(rows):
                e = nodes.start[i] + k
                input[k * count + c] = offset[nodes.source[e]] + moved[e]
                is_read[k] |= edge_within[e]
            for k in range(results):
                output[k * count + c] = offset[i + k]
                is_used[k] |= is_within[i + k]
            for k in range(int_count):
                to_ints[k * count + c] = number[int_start[i] + k]
            for k in range(float_count):
                to_floats[k * count + c] = real[float_start[i] + k]
            size = size + 1 if of[i] == before else 1
            before = of[i]
            if size > largest:
                largest = size
            c += 1
    matrices = inputs.reshape(rows, count), outputs.reshape(results, count), numbers.reshape(int_count, count), reals.reshape(float_count, count)
    return (members, *matrices, read, used, largest)


def operand_offsets(Nodes nodes not None, shift, offsets, order, bounds, has, Py_ssize_t slot):
    """Where operand ``slot`` of each node in this order lies; 0 for launches without one (``has``). ``offsets``: of
    each node; ``bounds``: where each launch begins in ``order``."""
    cdef Py_ssize_t total = _size(_array(order, cnp.NPY_INT64, -1, "order"))
    cdef Py_ssize_t launches = _size(_array(has, cnp.NPY_BOOL, -1, "has")), j, k, e
    cdef const i64 *moved = _ints(shift, nodes.edges, "shift")
    cdef const i64 *offset = _ints(offsets, nodes.n, "offsets")
    cdef const i64 *node = _indices(order, total, nodes.n, "order")
    cdef const i64 *bound = _bounds(bounds, launches, total, "bounds")
    cdef const flag *filled = _flags(has, launches, "has")
    cdef bint wrong = slot < 0
    found = _zeros(total)
    cdef i64 *to = _at(found)
    with nogil:
        for k in range(launches):
            if filled[k]:
                for j in range(bound[k], bound[k + 1]):
                    e = nodes.start[node[j]] + slot
                    if e >= nodes.start[node[j] + 1] or wrong:
                        wrong = True
                        break
                    to[j] = offset[nodes.source[e]] + moved[e]
    if wrong:
        raise ValueError(f"has: a node has no operand {slot}")
    return found


def evenly(offsets, bounds, widths):
    """For each launch whether its offsets are evenly spaced, how far apart (of a single one: its width), and the
    first; and of each offset the number of the row that begins there, of a launch that is not even and of which all
    offsets are multiples of its ``widths``, which is said of each launch at last. ``bounds``: where each launch begins
    in ``offsets``; none is empty."""
    cdef const i64 *width = _ints(widths, -1, "widths")
    cdef Py_ssize_t count = _size(widths), total = _size(_array(offsets, cnp.NPY_INT64, -1, "offsets")), j, k
    cdef const i64 *offset = _ints(offsets, total, "offsets")
    cdef const i64 *bound = _bounds(bounds, count, total, "bounds")
    evens, pitches, firsts = _new(count, cnp.NPY_BOOL), _new(count), _new(count)
    numbers, aligns = offsets, _zeros(count, cnp.NPY_BOOL)
    cdef i64 *row = NULL
    cdef flag *aligned = _flag_at(aligns)
    cdef flag *even = _flag_at(evens)
    cdef i64 *pitch = _at(pitches)
    cdef i64 *first = _at(firsts)
    cdef bint wrong = False
    with nogil:
        for k in range(count):
            if bound[k] == bound[k + 1]:
                wrong = True
                break
            first[k] = offset[bound[k]]
            pitch[k] = offset[bound[k] + 1] - first[k] if bound[k + 1] - bound[k] > 1 else width[k]
            even[k] = pitch[k] >= 0 or bound[k + 1] - bound[k] == 1
            for j in range(bound[k] + 1, bound[k + 1]):
                if offset[j] - offset[j - 1] != pitch[k]:
                    even[k] = False
                    break
            aligned[k] = not even[k] and _is_aligned(offset + bound[k], bound[k + 1] - bound[k], width[k])
            if aligned[k] and row == NULL:
                with gil:
                    numbers = offsets.copy()
                    row = _at(numbers)
            if aligned[k] and width[k] > 1:
                for j in range(bound[k], bound[k + 1]):
                    row[j] = offset[j] // width[k]
    if wrong:
        raise ValueError("bounds: a launch is empty")
    return evens, pitches, firsts, numbers, aligns


cdef bint _is_aligned(const i64 *offset, Py_ssize_t count, i64 width) noexcept nogil:
    """Whether all offsets are multiples of a width."""
    cdef Py_ssize_t j
    if width < 1:
        return False
    for j in range(count):
        if offset[j] % width:
            return False
    return True


def stacked_rows(Nodes nodes not None, shift, offsets, some, Py_ssize_t width):
    """Where all operands of ``some`` nodes lie, one node behind the other: element offsets, their distance if they are
    evenly spaced, else -1, and the first; or, if all are aligned to ``width`` and not evenly spaced, row numbers, and
    True."""
    cdef const i64 *moved = _ints(shift, nodes.edges, "shift")
    cdef const i64 *offset = _ints(offsets, nodes.n, "offsets")
    cdef const i64 *node = _indices(some, -1, nodes.n, "some")
    cdef Py_ssize_t total = _size(some), j, k, e
    cdef i64 count = 0, pitch, first
    cdef bint aligned = True
    if width < 1:
        raise ValueError(f"width: a positive number expected, got {width}")
    for j in range(total):
        count += nodes.start[node[j] + 1] - nodes.start[node[j]]
    places = _new(count)
    cdef i64 *found = _at(places)
    with nogil:
        k = 0
        for j in range(total):
            for e in range(nodes.start[node[j]], nodes.start[node[j] + 1]):
                found[k] = offset[nodes.source[e]] + moved[e]
                if found[k] % width:
                    aligned = False
                k += 1
        pitch = found[1] - found[0] if count > 1 else width
        for k in range(1, count):
            if found[k] - found[k - 1] != pitch:
                pitch = -1
                break
        pitch = max(pitch, -1)
        first = found[0] if count else 0
        aligned = aligned and pitch < 0
        if aligned:
            for k in range(count):
                found[k] //= width
    return places, pitch, first, aligned


def places(base, shift, origin, kept, offsets):
    """The element offset of the value that each row of the tapes shows, -1 where there is none: row ``i`` shows that of
    row ``base[i]`` from element ``shift[i]`` on; ``kept`` are the nodes that have one, and node ``k`` is row
    ``origin[k]``."""
    cdef Py_ssize_t rows = _size(_array(base, cnp.NPY_INT64, -1, "base")), i
    cdef const i64 *source = _indices(base, rows, rows + 1, "base")
    cdef const i64 *moved = _ints(shift, rows, "shift")
    cdef const i64 *row = _indices(origin, -1, rows + 1, "origin")
    cdef Py_ssize_t n = _size(origin)
    cdef const i64 *offset = _ints(offsets, n, "offsets")
    cdef const i64 *node = _indices(kept, -1, n, "kept")
    cdef Py_ssize_t count = _size(kept)
    found, places_of = _new(rows), _none(rows + 1)
    cdef i64 *to = _at(found)
    cdef i64 *place = _at(places_of)
    with nogil:
        for i in range(count):
            place[row[node[i]]] = offset[node[i]]
        for i in range(rows):
            to[i] = place[source[i]] + moved[i] if place[source[i]] >= 0 else -1
    return found


# Gradients.


def reached(Nodes nodes not None, apart, wants, slots, roots):
    """The nodes that a gradient from ``roots`` reaches. ``wants[slots[s] + k]``: whether signature ``s`` hands one on to
    operand ``k``; its last entry stands for further operands. ``apart[s]``: 0 for a signature whose call takes part
    with all of its results or not at all, else how many results it has, of which each has flags of its own."""
    cdef const i64 *told = _indices(apart, nodes.signatures, 1 << 31, "apart")
    cdef const flag *hands = _flags(wants, -1, "wants")
    cdef const i64 *slot = _bounds(slots, nodes.signatures, _size(wants), "slots")
    cdef const i64 *root = _indices(roots, -1, nodes.n, "roots")
    cdef Py_ssize_t i, e, k, r, results, width, first, count = _size(roots)
    cdef i64 s, source
    found = _zeros(nodes.n, cnp.NPY_BOOL)
    cdef flag *is_reached = _flag_at(found)
    with nogil:
        for i in range(count):
            is_reached[_taking_part(nodes, told, root[i])] = True
        for i in range(nodes.n - 1, -1, -1):  # users before what they read, and a call behind its results
            if nodes.launcher[i] != i:
                continue
            s = nodes.kind[i]
            results = max(told[s], 1)
            width = (slot[s + 1] - slot[s]) // results
            if not width:
                continue
            for r in range(min(results, nodes.n - i)):
                if not is_reached[i + r]:
                    continue
                first = slot[s] + r * width
                for e in range(nodes.start[i], nodes.start[i + 1]):
                    k = e - nodes.start[i]
                    if hands[first + min(k, width - 1)]:
                        is_reached[_taking_part(nodes, told, nodes.source[e])] = True
        for i in range(nodes.n):
            if nodes.launcher[i] != i and not told[nodes.kind[nodes.launcher[i]]]:
                is_reached[i] = is_reached[nodes.launcher[i]]
    return found


cdef inline i64 _taking_part(Nodes nodes, const i64 *told, i64 node) noexcept nogil:
    """The node that takes part where one is reached: itself, or its call, where that is not told apart."""
    return node if told[nodes.kind[nodes.launcher[node]]] else nodes.launcher[node]


# Chains.


cdef void _link(
    Nodes nodes, const i64 *joins, const i64 *types, const i64 *sizes, const flag *whole, Py_ssize_t slots,
    const flag *output, Py_ssize_t largest, i64 *last, i64 *size, i64 *into, flag *parts, flag *fits
) noexcept nogil:
    """One pass against the order of recording: the last member of each node's chain, the size of the chain of each last
    member, and the chain that reads each node (``into``), -2 if several do. ``parts``: whether a member's value is
    computed where parts of it are read; ``fits``: how a node is read, 1 all of it, 2 parts."""
    cdef Py_ssize_t q, e, p
    cdef i64 chain
    cdef int fit
    for q in range(nodes.n):
        last[q], size[q], into[q], parts[q], fits[q] = q, 1, -1, False, 0
    for q in range(nodes.n - 1, -1, -1):
        chain = into[q]
        if joins[q] >= 0 and chain >= 0 and fits[q] > 0 and not output[q] and size[chain] < largest:
            last[q] = chain
            size[chain] += 1
            parts[q] = fits[q] == 2
        else:
            chain = q
        for e in range(nodes.start[q], nodes.start[q + 1]):
            p = nodes.source[e]
            if joins[p] < 0:
                continue
            fit = 0
            if joins[q] >= 0 and e - nodes.start[q] < slots and whole[nodes.kind[q] * slots + e - nodes.start[q]]:
                if joins[q] == joins[p]:
                    fit = 2 if parts[q] else 1
                elif not parts[q] and types[joins[q]] == types[joins[p]] and sizes[joins[q]] < sizes[joins[p]]:
                    fit = 2
            if into[p] == -1:
                into[p], fits[p] = chain, fit
            elif into[p] == chain:
                fits[p] &= fit
            else:
                into[p] = -2


cdef inline i64 _context(Nodes nodes, Py_ssize_t i) noexcept nogil:
    """A number below 65,536 for a node, of its signature and those of its operands."""
    cdef i64 key = nodes.kind[i] * 1000003
    cdef Py_ssize_t e
    for e in range(nodes.start[i], nodes.start[i + 1]):
        key = (key * 31 + nodes.kind[nodes.source[e]]) & MASK
    return (key ^ (key >> 15)) & 0xFFFF


cdef class _Trie:
    """Words as numbers: `step` leads from the number of a word (-1: the empty one) and a symbol to that of the longer
    one. A table that grows: words are few, however many times they come by."""

    cdef object words, symbols, ends
    cdef i64 *word
    cdef i64 *symbol
    cdef i64 *end
    cdef Py_ssize_t room, count

    def __cinit__(self):
        self.count = 0
        self._make(256)

    cdef int _make(self, Py_ssize_t room) except -1:
        self.words, self.symbols, self.ends, self.room = _new(room), _new(room), _none(room), room
        self.word, self.symbol, self.end = _at(self.words), _at(self.symbols), _at(self.ends)
        return 0

    cdef inline Py_ssize_t _place(self, i64 word, i64 symbol) noexcept nogil:
        cdef Py_ssize_t at = <Py_ssize_t>(_mixed(<u64>word * 0x9E3779B97F4A7C15ULL + <u64>symbol) & <u64>(self.room - 1))
        while self.end[at] >= 0 and not (self.word[at] == word and self.symbol[at] == symbol):
            at = (at + 1) & (self.room - 1)
        return at

    cdef i64 step(self, i64 word, i64 symbol) except -1:
        cdef Py_ssize_t at = self._place(word, symbol)
        if self.end[at] < 0:
            if 2 * (self.count + 1) > self.room:
                self._grow()
                at = self._place(word, symbol)
            self.word[at], self.symbol[at], self.end[at] = word, symbol, self.count
            self.count += 1
        return self.end[at]

    cdef int _grow(self) except -1:
        cdef object words = self.words, symbols = self.symbols, ends = self.ends
        cdef const i64 *word = self.word
        cdef const i64 *symbol = self.symbol
        cdef const i64 *end = self.end
        cdef Py_ssize_t before = self.room, i, at
        self._make(2 * before)
        for i in range(before):
            if end[i] >= 0:
                at = self._place(word[i], symbol[i])
                self.word[at], self.symbol[at], self.end[at] = word[i], symbol[i], end[i]
        return 0


def chains(Nodes nodes not None, shift, joins, types, sizes, whole, output, Py_ssize_t largest):
    """The chains of a graph (see `lazyflow.cells.chains`): for each node the last member of its chain, its number among the
    members, and the structure of the chain, -1 for none; and how many structures there are.

    ``joins``: what neighbours must have in common, by node, -1 for what joins nothing; ``types`` and ``sizes``: of
    these; ``whole``: a matrix of bool, by signature which operands are read whole; ``output``: what is a result in any
    case; ``largest``: members of a chain."""
    cdef Py_ssize_t n = nodes.n, q, e, count_of_classes = _size(_array(types, cnp.NPY_INT64, -1, "types"))
    cdef const i64 *moved = _ints(shift, nodes.edges, "shift")
    cdef const i64 *join = _ints(joins, n, "joins")
    cdef const i64 *type_of = _ints(types, count_of_classes, "types")
    cdef const i64 *size_of = _ints(sizes, count_of_classes, "sizes")
    cdef const flag *is_output = _flags(output, n, "output")
    if not cnp.PyArray_Check(whole):
        raise TypeError(f"whole: an array expected, got {type(whole).__name__}")
    flat = whole.reshape(-1)
    cdef const flag *is_whole = _flags(flat, -1, "whole")
    cdef Py_ssize_t slots = _size(flat) // nodes.signatures if nodes.signatures else 0
    if whole.ndim != 2 or _size(flat) != slots * nodes.signatures:
        raise ValueError(f"whole: a row for each of {nodes.signatures} signatures expected")
    for q in range(n):
        if join[q] < -1 or join[q] >= count_of_classes:
            raise ValueError(f"joins: numbers from -1 to {count_of_classes - 1} expected")
    lasts, chain_sizes, reader, states = _new(n), _new(n), _new(n), _new(2 * n, cnp.NPY_BOOL)
    cdef i64 *last = _at(lasts)
    cdef i64 *size = _at(chain_sizes)
    cdef i64 *into = _at(reader)
    cdef flag *parts = _flag_at(states)
    cdef flag *fits = parts + n
    # A node that others read as well, such as the memory of an LSTM, is a result; then so are nodes like it that nobody
    # else happens to read, such as the last memory, or their chains could not run with the others.
    contexts, alones = _zeros(0x10000, cnp.NPY_BOOL), output.copy()
    cdef flag *apart = _flag_at(contexts)
    cdef flag *alone = _flag_at(alones)
    cdef bint again = False
    with nogil:
        _link(nodes, join, type_of, size_of, is_whole, slots, is_output, largest, last, size, into, parts, fits)
        for q in range(n):
            if join[q] >= 0 and into[q] == -2:
                apart[_context(nodes, q)] = True
        for q in range(n):
            if last[q] != q and apart[_context(nodes, q)]:
                alone[q] = again = True
        if again:
            _link(nodes, join, type_of, size_of, is_whole, slots, alone, largest, last, size, into, parts, fits)
    # A trie: first the signature of each member, then each operand: where from, or which member and which element.
    numbers, counts, structures = _zeros(n), _zeros(n), _none(n)
    cdef _Trie trie = _Trie()
    cdef i64 *number = _at(numbers)
    cdef i64 *count = _at(counts)
    cdef i64 *structure = _at(structures)
    cdef i64 chain, key
    for q in range(n):
        chain = last[q]
        if size[chain] == 1:
            continue
        number[q] = count[chain]
        count[chain] += 1
        for e in range(nodes.start[q] - 1, nodes.start[q + 1]):
            if e < nodes.start[q]:
                key = nodes.kind[q]
            else:
                key = (moved[e] << 8) + number[nodes.source[e]] + 1 if last[nodes.source[e]] == chain else 0
            structure[chain] = trie.step(structure[chain], key)
    ids = _none(trie.count + 1)
    cdef i64 *id = _at(ids)
    cdef i64 total = 0
    with nogil:
        for q in range(n):
            if structure[q] >= 0:
                if id[structure[q]] < 0:
                    id[structure[q]] = total
                    total += 1
                structure[q] = id[structure[q]]
    return lasts, numbers, structures, total


def joined(Nodes nodes not None, shift, last, structure, which):
    """The graph in which chains are nodes: the new number of each node (of a member, that of its chain); which nodes
    are left, and their signature, starts, base and shift; and which are gone. ``last``, ``structure``: as `chains`
    returns them; ``which``: the signature of each structure, -1 for one whose chains stay as they are."""
    cdef Py_ssize_t n = nodes.n, i, e, k = 0, g = 0
    cdef const i64 *moved = _ints(shift, nodes.edges, "shift")
    cdef const i64 *end = _indices(last, n, n, "last")
    cdef const i64 *made_of = _ints(structure, n, "structure")
    cdef const i64 *kind = _ints(which, -1, "which")
    cdef Py_ssize_t structures = _size(which)
    for i in range(n):
        if made_of[i] < -1 or made_of[i] >= structures:
            raise ValueError(f"structure: numbers from -1 to {structures - 1} expected")
    chain_of, news = _new(n), _new(n)
    cdef i64 *chain = _at(chain_of)
    cdef i64 *new = _at(news)
    cdef i64 total = 0, edges = 0, at, s
    with nogil:
        for i in range(n):
            s = made_of[end[i]]
            chain[i] = end[i] if s >= 0 and kind[s] >= 0 else i
            total += chain[i] == i
    olds, signatures, gone, counts = _new(total), _new(total), _new(n - total), _zeros(total + 1)
    cdef i64 *old = _at(olds)
    cdef i64 *signature = _at(signatures)
    cdef i64 *inside = _at(gone)
    cdef i64 *start = _at(counts)
    cdef bint wrong = False
    with nogil:
        for i in range(n):
            if chain[i] == i:
                new[i], old[k] = k, i
                k += 1
            else:
                inside[g] = i
                g += 1
                wrong |= chain[chain[i]] != chain[i]
    if wrong:
        raise ValueError("last: the last member of a chain is its own last member")
    with nogil:
        for i in range(n):
            new[i] = new[chain[i]]
            s = made_of[end[i]]
            if chain[i] == i:
                signature[new[i]] = kind[s] if s >= 0 and kind[s] >= 0 else nodes.kind[i]
            for e in range(nodes.start[i], nodes.start[i + 1]):
                if chain[nodes.source[e]] != chain[i]:
                    start[new[i] + 1] += 1
                    edges += 1
        for k in range(total):
            start[k + 1] += start[k]
    bases, shifts, ends = _new(edges), _new(edges), counts.copy()
    cdef i64 *base = _at(bases)
    cdef i64 *to_shift = _at(shifts)
    cdef i64 *place = _at(ends)
    with nogil:
        for i in range(n):
            for e in range(nodes.start[i], nodes.start[i + 1]):
                if chain[nodes.source[e]] != chain[i]:
                    at = place[new[i]]
                    base[at], to_shift[at] = new[nodes.source[e]], moved[e]
                    place[new[i]] = at + 1
    return news, olds, signatures, counts, bases, shifts, gone
