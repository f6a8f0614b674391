# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Fused elementwise programs on the machine of ``c/machine.h``."""

from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, int64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

import numpy

cimport numpy as cnp

cnp.import_array()

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX


cdef extern from "machine.h" nogil:
    enum:
        LF_BLOCK
        LF_ROWS
        LF_VECTOR
        LF_NUMBER
    ctypedef struct lf_instruction:
        int32_t op, a, b, c, d, slot, store
    ctypedef struct lf_store:
        int32_t argument, shift, value, adds
    ctypedef struct lf_parameter:
        int32_t kind, single
    ctypedef struct lf_program:
        Py_ssize_t width
        int32_t instructions, stores, parameters, slots, block, is_double, distinct, cost, loops
        lf_instruction *code
        lf_store *store
        lf_parameter *parameter
        double *constant
    ctypedef struct lf_argument:
        char *data
        Py_ssize_t pitch
        const int64_t *starts
    void lf_prepare(lf_program *program)
    int lf_run(const lf_program *program, const lf_argument *arguments, Py_ssize_t low, Py_ssize_t high)
    void lf_gather(int is_double, void *out, Py_ssize_t pitch, const void *buffer, const int64_t *at, Py_ssize_t stride,
                   const int64_t *columns, const int64_t *widths, Py_ssize_t parts, Py_ssize_t rows)
    void lf_add_rows(int is_double, void *buffer, const int64_t *at, Py_ssize_t stride, const void *rows,
                     Py_ssize_t pitch, const int64_t *columns, const int64_t *widths, Py_ssize_t parts, Py_ssize_t count)
    int LF_SUM, LF_SMALLEST, LF_LARGEST
    int lf_reduce_groups(int is_double, int how, void *out, const void *rows, Py_ssize_t pitch,
                         const int64_t *positions, const int64_t *starts, Py_ssize_t groups, Py_ssize_t width)
    int lf_cross_entropy(int is_double, const void *scores, Py_ssize_t pitch, const int64_t *index, void *out,
                         Py_ssize_t step, Py_ssize_t rows, Py_ssize_t classes, Py_ssize_t *wrong)
    int lf_cross_entropy_slopes(int is_double, const void *scores, Py_ssize_t pitch, const int64_t *index,
                                const void *share, Py_ssize_t step, void *out, Py_ssize_t out_pitch, Py_ssize_t rows,
                                Py_ssize_t classes, Py_ssize_t *wrong)
    enum:
        LF_SOFTMAX
        LF_LOG_SOFTMAX
        LF_STANDARDISE
        LF_SOFTMAX_SLOPES
        LF_LOG_SOFTMAX_SLOPES
        LF_STANDARDISE_SLOPES
    int lf_along(int is_double, int what, const void *x, const void *y, const void *g, void *out, Py_ssize_t rows,
                 Py_ssize_t width, double eps)
    ctypedef struct lf_attention:
        int is_double, causal, back, masked, mask_of, mask_each, kept_each
        Py_ssize_t nodes, heads, width, v_width, most
        double scale
        const int64_t *ends
        const void *q
        const void *k
        const void *v
        const void *mask
        const void *kept
        void *out
        void *to_q
        void *to_k
        void *to_v
        void *to_mask
        void *weights
        Py_ssize_t q_pitch, k_pitch, v_pitch, out_pitch
    enum:
        LF_NO_MASK
        LF_SEEN
        LF_HIDDEN
        LF_ADDED
        LF_OF_KEYS
        LF_OF_ALL
        LF_OF_HEADS
    int lf_attend(const lf_attention *attention)
    const char *lf_instruction_set()
    int lf_use_instruction_set(const char *name)

cdef extern from "products.h" nogil:
    ctypedef void (*lf_loop)(char **arguments, const Py_ssize_t *sizes, const Py_ssize_t *steps, void *data)
    ctypedef struct lf_product:
        int is_double
        lf_loop loop
        void *data
        char *a
        char *b
        char *out
        Py_ssize_t[4] sizes
        Py_ssize_t[9] steps
    void lf_multiply(const lf_product *product)
    int lf_expect_slow_blas(int slow)

cdef extern from "images.h" nogil:
    ctypedef struct lf_places:
        Py_ssize_t size, rows, pitch, lead, last, step, taps, margin, map_rows, width
        const int64_t *row_from
        const int64_t *begin
        const int64_t *count
        const int64_t *from_ "from"
        const int64_t *plane
        const int64_t *shift
        const int64_t *map_row
    ctypedef struct lf_images:
        const lf_places *places
        Py_ssize_t count
        char *image
        char *map
    ctypedef struct lf_convolution:
        int is_double, add
        Py_ssize_t groups, channels, maps, sizes
        const lf_images *images
        char *weight
        const char *bias
        unsigned char *nans
    int lf_correlate(const lf_convolution *convolution)
    int lf_spread(const lf_convolution *convolution)
    int lf_weigh(const lf_convolution *convolution)
    ctypedef struct lf_axis:
        Py_ssize_t size, kernel, stride, dilation, before, out
    ctypedef struct lf_pooling:
        int is_double
        Py_ssize_t planes
        lf_axis[3] axis
    int lf_max_pool(const lf_pooling *pooling, const void *x, void *out)
    int lf_max_pool_back(const lf_pooling *pooling, const void *x, const void *y, const void *share, void *back)

cdef extern from "threads.h" nogil:
    int lf_use_threads(int number)


# In the order of the enumeration in machine.h.
OPERATIONS = (
    "load", "constant", "add", "subtract", "multiply", "divide", "floor_divide", "remainder", "power", "negative", "abs",
    "sign", "maximum", "minimum", "sqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tan", "arcsin", "arccos",
    "arctan", "arctan2", "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh", "erf", "erfc", "floor", "ceil",
    "round", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "logical_and", "logical_or",
    "logical_not", "isfinite", "isnan", "where", "where_nonzero", "multiply_or_zero",
    "hypot", "ndtr", "cbrt", "exp2", "log2", "log10", "fmax", "fmin", "deg2rad", "rad2deg", "logaddexp", "logaddexp2",
)
NUMBER_OF = {name: number for number, name in enumerate(OPERATIONS)}


cdef int _run_from(const lf_program *program, lf_argument *arguments, const int *begins, Py_ssize_t low,
                   Py_ssize_t high, Py_ssize_t first) noexcept nogil:
    """`lf_run` of arguments whose rows begin with those that ``begins`` says; they are written over."""
    cdef Py_ssize_t[3] rows = [0, first, low]
    cdef Py_ssize_t k, size = 8 if program.is_double else 4
    for k in range(program.parameters):
        if program.parameter[k].kind == LF_BLOCK or program.parameter[k].kind == LF_NUMBER:
            arguments[k].data -= rows[begins[k]] * arguments[k].pitch * size
    return lf_run(program, arguments, low, high)


cdef class Program:
    """A program of ``width`` elements a row; ``code``, ``stores`` and ``parameters`` are rows of integers, as the
    structures of machine.h have them. ``begins``: for each parameter which row of its matrix is the first: 0 for the
    row 0, 1 for that of the first row of the launch, 2 for the first row of the range. ``distinct``: no argument lies in
    the memory of another, so that a result may be written while others are still to be read."""

    cdef lf_program program
    cdef int *begins

    def __cinit__(self, Py_ssize_t width, bint is_double, code, stores, parameters, constants, bint distinct=False):
        cdef lf_program *p = &self.program
        p.width, p.is_double, p.distinct = width, is_double, distinct
        p.instructions, p.stores, p.parameters = len(code), len(stores), len(parameters)
        p.code = <lf_instruction *>PyMem_Malloc(sizeof(lf_instruction) * (len(code) + 1))
        p.store = <lf_store *>PyMem_Malloc(sizeof(lf_store) * (len(stores) + 1))
        p.parameter = <lf_parameter *>PyMem_Malloc(sizeof(lf_parameter) * (len(parameters) + 1))
        p.constant = <double *>PyMem_Malloc(sizeof(double) * (len(constants) + 1))
        self.begins = <int *>PyMem_Malloc(sizeof(int) * (len(parameters) + 1))
        if not (p.code and p.store and p.parameter and p.constant and self.begins):
            raise MemoryError
        for i, (op, a, b, c) in enumerate(code):
            p.code[i].op, p.code[i].a, p.code[i].b, p.code[i].c, p.code[i].d = op, a, b, c, -1
        for i, (argument, shift, value, adds) in enumerate(stores):
            p.store[i].argument, p.store[i].shift, p.store[i].value, p.store[i].adds = argument, shift, value, adds
        for i, (kind, single, begin) in enumerate(parameters):
            p.parameter[i].kind, p.parameter[i].single, self.begins[i] = kind, single, begin
        for i, number in enumerate(constants):
            p.constant[i] = number
        lf_prepare(p)

    def __dealloc__(self):
        PyMem_Free(self.program.code)
        PyMem_Free(self.program.store)
        PyMem_Free(self.program.parameter)
        PyMem_Free(self.program.constant)
        PyMem_Free(self.begins)

    @property
    def loops(self):
        """How many loops run over a block, beside those that copy what they cannot read where it lies."""
        return self.program.loops

    def __call__(self, Py_ssize_t low, Py_ssize_t high, Py_ssize_t first, *arrays):
        """Rows ``low`` to ``high`` (not included) of a launch whose first row is ``first``; the arrays in the order of
        the parameters, of rows of a buffer the buffer and the element offsets."""
        cdef int done
        cdef lf_argument *arguments = <lf_argument *>PyMem_Malloc(sizeof(lf_argument) * (self.program.parameters + 1))
        if not arguments:
            raise MemoryError
        try:
            self.fill(arguments, arrays)
            with nogil:
                done = _run_from(&self.program, arguments, self.begins, low, high, first)
        finally:
            PyMem_Free(arguments)
        if not done:
            raise MemoryError

    def update(self, tuple arrays, where=None):
        """Run over all elements of arrays of one size that are contiguous in one order, or, of buffers of rows, over the
        rows ``where``, with one of a matrix for each. ``arrays``: in the order of the parameters. False if that is nothing
        for the program: arrays of another dtype, size or order, or not to be written; then nothing was done."""
        cdef int done
        cdef Py_ssize_t i, rows = -1, most = PY_SSIZE_T_MAX, count = self.program.parameters, width = self.program.width
        cdef cnp.ndarray index = None if where is None else numpy.ascontiguousarray(where, numpy.int64)
        cdef lf_argument *arguments
        cdef int64_t *starts
        if len(arrays) != count or not self.suits(arrays, index is None, &rows, &most):
            return False
        if index is not None and rows != cnp.PyArray_SIZE(index):
            return False
        arguments = <lf_argument *>PyMem_Malloc(sizeof(lf_argument) * (count + 1))
        starts = <int64_t *>PyMem_Malloc(sizeof(int64_t) * (rows + 1 if index is not None else 1))
        try:
            if not arguments or not starts:
                raise MemoryError
            if index is not None:
                for i in range(rows):
                    starts[i] = (<const int64_t *>cnp.PyArray_DATA(index))[i]
                    if not 0 <= starts[i] < most:
                        return False
                    starts[i] *= width
            for i in range(count):
                arguments[i].data = cnp.PyArray_BYTES(<cnp.ndarray>arrays[i])
                arguments[i].pitch, arguments[i].starts = width, starts
            with nogil:
                done = lf_run(&self.program, arguments, 0, rows)
        finally:
            PyMem_Free(arguments)
            PyMem_Free(starts)
        if not done:
            raise MemoryError
        return True

    cdef bint suits(self, tuple arrays, bint by_columns, Py_ssize_t *rows, Py_ssize_t *most):
        """Whether `update` can take these arrays; how many rows the matrices have, and the buffers at least."""
        cdef bint by_rows = True
        cdef Py_ssize_t k, size
        cdef int kind, wanted = cnp.NPY_FLOAT64 if self.program.is_double else cnp.NPY_FLOAT32
        cdef cnp.ndarray array
        for k in range(self.program.parameters):
            if not isinstance(arrays[k], cnp.ndarray):
                return False
            array, kind = arrays[k], self.program.parameter[k].kind
            if cnp.PyArray_TYPE(array) != wanted or not cnp.PyArray_ISBEHAVED_RO(array):
                return False
            by_rows &= cnp.PyArray_IS_C_CONTIGUOUS(array)
            by_columns &= cnp.PyArray_IS_F_CONTIGUOUS(array) and kind != LF_ROWS
            size = cnp.PyArray_SIZE(array) // self.program.width
            if kind == LF_ROWS:
                most[0] = min(most[0], size)
            elif kind == LF_BLOCK:
                if rows[0] >= 0 and rows[0] != size:
                    return False
                rows[0] = size
        for k in range(self.program.stores):
            if not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>arrays[self.program.store[k].argument]):
                return False
        return (by_rows or by_columns) and rows[0] >= 0

    cdef int fill(self, lf_argument *arguments, tuple arrays) except -1:
        """Where the arrays lie, those with rows from their first one on."""
        cdef Py_ssize_t k, position = 0, size = 8 if self.program.is_double else 4
        cdef cnp.ndarray array
        for k in range(self.program.parameters):
            array = arrays[position]
            position += 1
            arguments[k].data, arguments[k].pitch, arguments[k].starts = cnp.PyArray_BYTES(array), 0, NULL
            if self.program.parameter[k].kind == LF_ROWS:
                arguments[k].starts = <const int64_t *>cnp.PyArray_DATA(<cnp.ndarray>arrays[position])
                position += 1
            elif self.program.parameter[k].kind == LF_VECTOR:
                if not cnp.PyArray_IS_C_CONTIGUOUS(array):
                    raise ValueError(f"argument {k} of a program, a vector, is not contiguous")
            else:
                arguments[k].pitch = cnp.PyArray_STRIDES(array)[0] // size
        return 0


cdef enum:
    MOST_AXES = 64
    MOST_OPERANDS = 8


cdef struct Layout:
    # Axes of arrays that are walked together: as few as their strides allow, the innermost last. Strides are in elements.
    int axes
    Py_ssize_t[MOST_AXES] lengths
    Py_ssize_t[MOST_AXES][MOST_OPERANDS] strides


cdef class Elementwise:
    """A scalar formula on whole arrays that broadcast: ``code`` and ``constants`` as of a `Program`, where argument
    ``k`` is operand ``positions[k]`` of a call, and the last instruction the result."""

    cdef Program single, double
    cdef int count
    cdef Py_ssize_t[MOST_OPERANDS] positions

    def __init__(self, tuple positions, code, constants):
        cdef int k
        if len(positions) >= MOST_OPERANDS:
            raise ValueError(f"a formula has fewer than {MOST_OPERANDS} operands, got {len(positions)}")
        self.count = len(positions)
        for k in range(self.count):
            self.positions[k] = positions[k]
        parameters, stores = [(LF_BLOCK, 0, 0)] * (self.count + 1), [(self.count, 0, len(code) - 1, 0)]
        self.single = Program(1, False, code, stores, parameters, constants)
        self.double = Program(1, True, code, stores, parameters, constants)

    def __call__(self, tuple given, out):
        """The result, in ``out`` if that is not None; None if this is nothing for the machine: operands are to be host
        arrays of one of float32 and float64, or Python numbers beside them, and ``out`` of the result's shape and
        dtype."""
        cdef lf_argument[MOST_OPERANDS] arguments
        cdef lf_parameter[MOST_OPERANDS] parameters
        cdef Layout layout
        cdef lf_program program
        cdef cnp.ndarray result
        cdef list arrays = self._arrays(given)
        cdef int k
        if arrays is None or not _broadcast(arrays, self.count, &layout):
            return None
        cdef int kind = cnp.PyArray_TYPE(<cnp.ndarray>arrays[self.count])
        if out is None:
            result = cnp.PyArray_EMPTY(layout.axes, <cnp.npy_intp *>layout.lengths, kind, 0)
        elif not _is_like(out, kind, &layout):
            return None
        elif _is_place(<cnp.ndarray>out, arrays, self.count, &layout):
            result = out
        else:
            result = cnp.PyArray_EMPTY(layout.axes, <cnp.npy_intp *>layout.lengths, kind, 0)
        arrays[self.count] = result
        program = self.double.program if kind == cnp.NPY_FLOAT64 else self.single.program
        program.parameter = parameters
        if cnp.PyArray_SIZE(result):
            _lay_out(arrays, self.count, &layout)
            for k in range(self.count + 1):
                arguments[k].data = cnp.PyArray_BYTES(<cnp.ndarray>arrays[k])
            _run_over(&program, arguments, &layout, self.count + 1)
        if out is None or result is out:
            return result
        cnp.PyArray_CopyInto(<cnp.ndarray>out, result)
        return out

    cdef list _arrays(self, tuple given):
        """The operands as arrays of one dtype, and one of them once more at the end; None if they are something else."""
        cdef list found = [None] * (self.count + 1)
        cdef cnp.ndarray array
        cdef int k, kind = -1
        for k in range(self.count):
            value = given[self.positions[k]]
            if type(value) is float or type(value) is int:
                continue
            if not isinstance(value, cnp.ndarray):
                if not isinstance(value, numpy.generic):
                    return None
                value = numpy.asarray(value)
            array = value
            if kind < 0:
                kind = cnp.PyArray_TYPE(array)
                if kind != cnp.NPY_FLOAT32 and kind != cnp.NPY_FLOAT64:
                    return None
            if cnp.PyArray_TYPE(array) != kind:
                return None
            if not cnp.PyArray_ISBEHAVED_RO(array):
                array = numpy.array(array, array.dtype.newbyteorder("="))
            found[k] = found[self.count] = array
        if kind < 0:
            return None
        for k in range(self.count):
            if found[k] is None:
                found[k] = _number(given[self.positions[k]], kind)
        return found


cdef cnp.ndarray _number(double value, int kind):
    """A Python number as an array without axes."""
    cdef cnp.ndarray array = cnp.PyArray_EMPTY(0, NULL, kind, 0)
    if kind == cnp.NPY_FLOAT64:
        (<double *>cnp.PyArray_DATA(array))[0] = value
    else:
        (<float *>cnp.PyArray_DATA(array))[0] = value
    return array


cdef bint _broadcast(list arrays, int count, Layout *layout):
    """The shape of the result; False if operands do not fit."""
    cdef cnp.ndarray array
    cdef int k, axis, skipped
    layout.axes = 0
    for k in range(count):
        layout.axes = max(layout.axes, cnp.PyArray_NDIM(<cnp.ndarray>arrays[k]))
    for axis in range(layout.axes):
        layout.lengths[axis] = 1
    for k in range(count):
        array = arrays[k]
        skipped = layout.axes - cnp.PyArray_NDIM(array)
        for axis in range(skipped, layout.axes):
            if cnp.PyArray_DIM(array, axis - skipped) == 1:
                continue
            if layout.lengths[axis] != 1 and layout.lengths[axis] != cnp.PyArray_DIM(array, axis - skipped):
                return False
            layout.lengths[axis] = cnp.PyArray_DIM(array, axis - skipped)
    return True


cdef bint _is_like(out, int kind, Layout *layout):
    """Whether an array has the shape and the dtype of the result."""
    cdef int axis
    if not isinstance(out, cnp.ndarray) or cnp.PyArray_TYPE(<cnp.ndarray>out) != kind:
        return False
    if cnp.PyArray_NDIM(<cnp.ndarray>out) != layout.axes:
        return False
    for axis in range(layout.axes):
        if cnp.PyArray_DIM(<cnp.ndarray>out, axis) != layout.lengths[axis]:
            return False
    return True


cdef bint _is_place(cnp.ndarray out, list arrays, int count, Layout *layout):
    """Whether the machine may write into an array: its rows are contiguous, and no operand is read that was overwritten:
    each lies elsewhere, or is the very same."""
    cdef int k, axis, last = cnp.PyArray_NDIM(out) - 1
    cdef cnp.ndarray array
    cdef uintptr_t low, high, begin, end
    if not cnp.PyArray_ISBEHAVED(out) or not _strides(out, count, layout):
        return False
    _extent(out, &low, &high)
    for k in range(count):
        array = arrays[k]
        _extent(array, &begin, &end)
        if end <= low or high <= begin:
            continue
        if cnp.PyArray_DATA(array) != cnp.PyArray_DATA(out) or cnp.PyArray_NDIM(array) != last + 1:
            return False
        for axis in range(last + 1):
            if cnp.PyArray_STRIDE(array, axis) != cnp.PyArray_STRIDE(out, axis):
                return False
            if cnp.PyArray_DIM(array, axis) != cnp.PyArray_DIM(out, axis):
                return False
    return True


cdef void _extent(cnp.ndarray a, uintptr_t *low, uintptr_t *high) noexcept:
    """The first byte of an array and the one behind its last."""
    cdef int axis
    cdef Py_ssize_t step
    low[0] = high[0] = <uintptr_t>cnp.PyArray_DATA(a)
    if not cnp.PyArray_SIZE(a):
        return
    for axis in range(cnp.PyArray_NDIM(a)):
        step = (cnp.PyArray_DIM(a, axis) - 1) * cnp.PyArray_STRIDE(a, axis)
        if step < 0:
            low[0] += step
        else:
            high[0] += step
    high[0] += cnp.PyArray_ITEMSIZE(a)


cdef int _lay_out(list arrays, int count, Layout *layout) except -1:
    """Fill in the strides; what cannot be read as it lies is copied. Axes that all walk as one are joined."""
    cdef int k, axis, kept, joined
    cdef Py_ssize_t inner
    cdef Py_ssize_t[MOST_AXES] shape
    for axis in range(layout.axes):
        shape[axis] = layout.lengths[axis]
    for k in range(count + 1):
        if not _strides(<cnp.ndarray>arrays[k], k, layout):
            arrays[k] = numpy.ascontiguousarray(
                numpy.broadcast_to(arrays[k], [shape[axis] for axis in range(layout.axes)])
            )
            _strides(<cnp.ndarray>arrays[k], k, layout)
    kept = 0
    for axis in range(layout.axes):
        if layout.lengths[axis] == 1:
            continue
        joined = kept > 0
        for k in range(count + 1):
            joined &= kept > 0 and layout.strides[kept - 1][k] == layout.strides[axis][k] * layout.lengths[axis]
        if joined:
            layout.lengths[kept - 1] *= layout.lengths[axis]
        else:
            layout.lengths[kept] = layout.lengths[axis]
            kept += 1
        for k in range(count + 1):
            layout.strides[kept - 1][k] = layout.strides[axis][k]
    layout.axes = kept
    return 0


cdef bint _strides(cnp.ndarray array, int k, Layout *layout):
    """Of one array, zero where it is broadcast; False if the last is neither zero nor one, or some are no elements."""
    cdef int axis, skipped = layout.axes - cnp.PyArray_NDIM(array), last = -1
    cdef Py_ssize_t step, size = cnp.PyArray_ITEMSIZE(array)
    for axis in range(layout.axes):
        layout.strides[axis][k] = 0
        if layout.lengths[axis] != 1:
            last = axis
        if axis >= skipped and cnp.PyArray_DIM(array, axis - skipped) != 1:
            step = cnp.PyArray_STRIDE(array, axis - skipped)
            if step % size:
                return False
            layout.strides[axis][k] = step // size
    return last < 0 or layout.strides[last][k] == 0 or layout.strides[last][k] == 1


cdef int _run_over(lf_program *program, lf_argument *arguments, Layout *layout, int count) except -1:
    """Run a program over all elements: the last two axes at once, those before one index after the other."""
    cdef Py_ssize_t[MOST_AXES] index
    cdef Py_ssize_t rows, slab, slabs = 1, size = 8 if program.is_double else 4
    cdef int k, axis, outer = max(layout.axes - 2, 0), last = layout.axes - 1
    cdef bint steps, moves
    program.width = layout.lengths[last] if last >= 0 else 1
    rows = layout.lengths[outer] if last > 0 else 1
    for k in range(count):
        steps = last >= 0 and layout.strides[last][k] != 0
        moves = last > 0 and layout.strides[outer][k] != 0
        arguments[k].pitch = layout.strides[outer][k] if moves else program.width if steps else 0
        program.parameter[k].single = not steps and not moves
        program.parameter[k].kind = LF_BLOCK if steps and (moves or rows == 1) else LF_NUMBER if moves else LF_VECTOR
    program.parameter[count - 1].kind, program.parameter[count - 1].single = LF_BLOCK, 0
    cdef int done = 1
    for axis in range(outer):
        index[axis] = 0
        slabs *= layout.lengths[axis]
    with nogil:
        for slab in range(slabs):
            done &= lf_run(program, arguments, 0, rows)
            for axis in range(outer - 1, -1, -1):
                index[axis] += 1
                for k in range(count):
                    arguments[k].data += size * layout.strides[axis][k]
                if index[axis] < layout.lengths[axis]:
                    break
                for k in range(count):
                    arguments[k].data -= size * layout.strides[axis][k] * layout.lengths[axis]
                index[axis] = 0
    if not done:
        raise MemoryError
    return 0


# Operations on rows. Matrices have contiguous rows of float32 or float64, at any distance; starts, positions and
# indices are contiguous int64. What else comes is refused: reading past an array would be the caller's mistake.


cdef int _is_double(cnp.ndarray a) except -1:
    if cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT64:
        return 1
    if cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT32:
        return 0
    raise TypeError(f"float32 or float64 expected, got {a.dtype}")


cdef Py_ssize_t _pitch(cnp.ndarray a, int is_double) except? -1:
    """Elements from one row of a matrix to the next."""
    cdef Py_ssize_t size = 8 if is_double else 4
    if cnp.PyArray_NDIM(a) != 2 or _is_double(a) != is_double:
        raise TypeError(f"a matrix of float{32 << is_double} expected, got {a.dtype} of {a.ndim} axes")
    if cnp.PyArray_SIZE(a) and cnp.PyArray_DIM(a, 1) > 1 and cnp.PyArray_STRIDE(a, 1) != size:
        raise ValueError("the rows of the matrix are not contiguous")
    return cnp.PyArray_STRIDE(a, 0) // size if cnp.PyArray_DIM(a, 0) > 1 else cnp.PyArray_DIM(a, 1)


cdef int64_t *_integers(cnp.ndarray a, Py_ssize_t least) except NULL:
    if cnp.PyArray_TYPE(a) != cnp.NPY_INT64 or not cnp.PyArray_IS_C_CONTIGUOUS(a) or cnp.PyArray_SIZE(a) < least:
        raise TypeError(f"{least} contiguous int64 expected, got {(<object>a).shape} {a.dtype}")
    return <int64_t *>cnp.PyArray_DATA(a)


cdef void *_flat(cnp.ndarray a, int is_double) except NULL:
    if _is_double(a) != is_double or not cnp.PyArray_IS_C_CONTIGUOUS(a):
        raise TypeError(f"a contiguous buffer of float{32 << is_double} expected, got {a.dtype}")
    return cnp.PyArray_DATA(a)


def gather(cnp.ndarray out, cnp.ndarray columns, cnp.ndarray buffer, cnp.ndarray at, Py_ssize_t low, cnp.ndarray widths):
    """Part ``k`` of row ``i`` of ``out``, ``widths[k]`` elements from column ``columns[k]`` on, becomes the elements of
    the flat ``buffer`` from ``at[k, low + i]`` on."""
    cdef int d = _is_double(out)
    cdef Py_ssize_t pitch = _pitch(out, d), parts = cnp.PyArray_SIZE(columns), rows = cnp.PyArray_DIM(out, 0)
    cdef Py_ssize_t stride = cnp.PyArray_DIM(at, 1)
    cdef const int64_t *starts = _integers(at, parts * stride) + low
    cdef const int64_t *where = _integers(columns, parts)
    cdef const int64_t *wide = _integers(widths, parts)
    cdef void *source = _flat(buffer, d)
    with nogil:
        lf_gather(d, cnp.PyArray_DATA(out), pitch, source, starts, stride, where, wide, parts, rows)


def add_several(cnp.ndarray buffer, cnp.ndarray at, Py_ssize_t low, cnp.ndarray rows, cnp.ndarray columns, cnp.ndarray widths):
    """The transpose of `gather`: columns of ``rows`` are added to the buffer, in order, so that they may repeat."""
    cdef int d = _is_double(rows)
    cdef Py_ssize_t pitch = _pitch(rows, d), parts = cnp.PyArray_SIZE(columns), count = cnp.PyArray_DIM(rows, 0)
    cdef Py_ssize_t stride = cnp.PyArray_DIM(at, 1)
    cdef const int64_t *starts = _integers(at, parts * stride) + low
    cdef const int64_t *where = _integers(columns, parts)
    cdef const int64_t *wide = _integers(widths, parts)
    cdef void *target = _flat(buffer, d)
    with nogil:
        lf_add_rows(d, target, starts, stride, cnp.PyArray_DATA(rows), pitch, where, wide, parts, count)


def add_rows(cnp.ndarray buffer, cnp.ndarray at, cnp.ndarray rows):
    """Row ``i`` of the matrix ``rows`` is added to the flat buffer from element ``at[i]`` on, for all ``i`` in order."""
    cdef int d = _is_double(rows)
    cdef Py_ssize_t pitch = _pitch(rows, d), count = cnp.PyArray_DIM(rows, 0)
    cdef int64_t column = 0, width = cnp.PyArray_DIM(rows, 1)
    cdef const int64_t *starts = _integers(at, count)
    cdef void *target = _flat(buffer, d)
    with nogil:
        lf_add_rows(d, target, starts, count, cnp.PyArray_DATA(rows), pitch, &column, &width, 1, count)


def sum_groups(cnp.ndarray out, cnp.ndarray rows, positions, cnp.ndarray starts):
    """Row ``i`` of ``out`` becomes the sum of the rows ``positions[starts[i] : starts[i + 1]]`` of ``rows``, or of
    these rows themselves where ``positions`` is None; accumulated in double precision."""
    _reduce_groups(LF_SUM, out, rows, positions, starts)


def extremes_of_groups(cnp.ndarray out, cnp.ndarray rows, positions, cnp.ndarray starts, bint largest):
    """Row ``i`` of ``out`` becomes the largest of the rows that `sum_groups` adds, elementwise, or the smallest; NaN
    where one is. Of an empty group it stays as it is."""
    _reduce_groups(LF_LARGEST if largest else LF_SMALLEST, out, rows, positions, starts)


cdef int _reduce_groups(int how, cnp.ndarray out, cnp.ndarray rows, positions, cnp.ndarray starts) except -1:
    cdef int d = _is_double(rows)
    cdef Py_ssize_t pitch = _pitch(rows, d), groups = cnp.PyArray_DIM(out, 0), width = cnp.PyArray_DIM(out, 1)
    cdef const int64_t *edges = _integers(starts, groups + 1)
    cdef const int64_t *where = NULL if positions is None else _integers(positions, 0)
    cdef void *target = _flat(out, d)
    cdef int done
    with nogil:
        done = lf_reduce_groups(d, how, target, cnp.PyArray_DATA(rows), pitch, where, edges, groups, width)
    if not done:
        raise MemoryError
    return 0


def cross_entropy(cnp.ndarray scores, cnp.ndarray index, cnp.ndarray out) -> bool:
    """``out[i] = -log softmax(scores[i])[index[i]]``; False if an index is no class (then ``out`` is undefined)."""
    cdef int d = _is_double(scores)
    cdef Py_ssize_t rows = cnp.PyArray_DIM(scores, 0), classes = cnp.PyArray_DIM(scores, 1), wrong = -1
    cdef Py_ssize_t pitch = _pitch(scores, d), step = cnp.PyArray_STRIDE(out, 0) // (8 if d else 4)
    cdef const int64_t *which = _integers(index, rows)
    cdef int done
    with nogil:
        done = lf_cross_entropy(d, cnp.PyArray_DATA(scores), pitch, which, cnp.PyArray_DATA(out), step, rows, classes, &wrong)
    if not done:
        raise MemoryError
    return wrong < 0


def cross_entropy_slopes(cnp.ndarray scores, cnp.ndarray index, cnp.ndarray share, cnp.ndarray out) -> bool:
    """``out[i] = (softmax(scores[i]) - one_hot(index[i])) * share[i]``; False if an index is no class."""
    cdef int d = _is_double(scores)
    cdef Py_ssize_t rows = cnp.PyArray_DIM(scores, 0), classes = cnp.PyArray_DIM(scores, 1), wrong = -1
    cdef Py_ssize_t pitch = _pitch(scores, d), step = cnp.PyArray_STRIDE(share, 0) // (8 if d else 4)
    cdef Py_ssize_t out_pitch = _pitch(out, d)
    cdef const int64_t *which = _integers(index, rows)
    cdef int done
    with nogil:
        done = lf_cross_entropy_slopes(d, cnp.PyArray_DATA(scores), pitch, which, cnp.PyArray_DATA(share), step,
                                       cnp.PyArray_DATA(out), out_pitch, rows, classes, &wrong)
    if not done:
        raise MemoryError
    return wrong < 0


ALONG = {"softmax": LF_SOFTMAX, "log_softmax": LF_LOG_SOFTMAX, "standardise": LF_STANDARDISE}
ALONG_SLOPES = {
    "softmax": LF_SOFTMAX_SLOPES, "log_softmax": LF_LOG_SOFTMAX_SLOPES, "standardise": LF_STANDARDISE_SLOPES,
}


def along(int what, Py_ssize_t width, double eps, cnp.ndarray out, cnp.ndarray x, y=None, g=None):
    """One of `ALONG` of rows of ``width`` elements, all arrays contiguous; or of `ALONG_SLOPES`, from operand, result and
    cotangents."""
    cdef int d = _is_double(out), done
    cdef Py_ssize_t size = cnp.PyArray_SIZE(out)
    cdef bint slopes = what >= LF_SOFTMAX_SLOPES
    cdef void *target = _flat(out, d)
    cdef void *values = _flat(x, d)
    cdef void *results = _flat(y, d) if slopes else NULL
    cdef void *cotangents = _flat(g, d) if slopes else NULL
    if width < 1 or size % width or cnp.PyArray_SIZE(x) != size:
        raise ValueError("the shapes do not fit")
    if slopes and (cnp.PyArray_SIZE(y) != size or cnp.PyArray_SIZE(g) != size):
        raise ValueError("the shapes do not fit")
    with nogil:
        done = lf_along(d, what, values, results, cotangents, target, size // width, width, eps)
    if not done:
        raise MemoryError


cdef void *_cotangents_in(out, cnp.ndarray like, int is_double) except? NULL:
    """Where the cotangents of a matrix go, if they are wanted."""
    if out is None:
        return NULL
    if cnp.PyArray_SIZE(out) != cnp.PyArray_SIZE(like):
        raise ValueError("the shapes do not fit")
    return _flat(out, is_double)


cdef int _set_parts(lf_attention *v, cnp.ndarray ends, Py_ssize_t rows, Py_ssize_t keys) except -1:
    """Where the rows of each node end, of so many in all; each has a key."""
    cdef const int64_t *end
    cdef Py_ssize_t node, kind
    cdef Py_ssize_t[2] last, most
    v.nodes = cnp.PyArray_SIZE(ends) // 2
    v.ends = end = _integers(ends, 2 * v.nodes)
    for kind in range(2):
        last[kind], most[kind] = 0, 0
        for node in range(v.nodes):
            if end[node] < last[kind] + kind:
                raise ValueError("each node has its rows behind those of the one before, and a key")
            most[kind], last[kind] = max(most[kind], end[node] - last[kind]), end[node]
        end += v.nodes
    if last[0] != rows or last[1] != keys:
        raise ValueError("the shapes do not fit")
    v.most = most[1]
    return 0


_MASKS = {"seen": LF_SEEN, "hidden": LF_HIDDEN, "added": LF_ADDED}
_MASKS_OF = {"keys": LF_OF_KEYS, "all": LF_OF_ALL, "heads": LF_OF_HEADS}


cdef Py_ssize_t _cells(lf_attention *v, int of, bint each):
    """How many numbers a mask has: of all nodes, or of the largest."""
    cdef Py_ssize_t node, n, m, found = 0
    for node in range(v.nodes):
        n = v.ends[node] - (v.ends[node - 1] if node else 0)
        m = v.ends[v.nodes + node] - (v.ends[v.nodes + node - 1] if node else 0)
        m *= 1 if of == LF_OF_KEYS else n if of == LF_OF_ALL else n * v.heads
        found = found + m if each else max(found, m)
    return found


cdef int _set_mask(lf_attention *v, str says, str of, bint each, cnp.ndarray mask) except -1:
    v.masked, v.mask_of, v.mask_each = _MASKS[says], _MASKS_OF[of], each
    if v.masked != LF_ADDED and cnp.PyArray_TYPE(mask) != cnp.NPY_BOOL:
        raise TypeError("what is seen or hidden are truth values")
    if not cnp.PyArray_IS_C_CONTIGUOUS(mask) or cnp.PyArray_SIZE(mask) < _cells(v, v.mask_of, each):
        raise ValueError("the shapes do not fit")
    v.mask = _flat(mask, v.is_double) if v.masked == LF_ADDED else cnp.PyArray_DATA(mask)
    return 0


cdef int _set_kept(lf_attention *v, bint each, cnp.ndarray kept) except -1:
    if cnp.PyArray_SIZE(kept) < _cells(v, LF_OF_HEADS, each):
        raise ValueError("the shapes do not fit")
    v.kept, v.kept_each = _flat(kept, v.is_double), each
    return 0


cdef void *_weights_in(lf_attention *v, cnp.ndarray weights) except NULL:
    if cnp.PyArray_SIZE(weights) != _cells(v, LF_OF_HEADS, True):
        raise ValueError("the shapes do not fit")
    return _flat(weights, v.is_double)


def attend(
    tuple how, cnp.ndarray ends, cnp.ndarray q, cnp.ndarray k, cnp.ndarray v, cnp.ndarray out, to=None, mask=None, kept=None,
    weights=None,
):
    """``out``, rows of queries, becomes ``softmax(scale * q @ k.T) @ v`` of each node and head; ``how``: the number of
    heads, whether query i sees the keys up to i alone, and the scale. ``ends`` (2, nodes): where the rows of each node
    end, of queries and of keys. ``to``: where the cotangents of the operands go, from those in ``out``; those that are
    None are not wanted, of keys and values they are added.

    ``mask``: what it says, ``"seen"``, ``"hidden"`` or ``"added"``; of what, ``"keys"``, ``"all"`` pairs or those by
    ``"heads"``; whether each node has its own; and the numbers, end to end. ``kept``: whether each node has its own,
    and what weights are multiplied by, by heads. A fourth of ``to`` is for the cotangents of a mask, by heads.
    ``weights``: where the weights go, by heads, end to end, or with ``to`` their cotangents; then ``v`` and ``out`` may
    have no columns."""
    cdef lf_attention a
    cdef int d = _is_double(out), done
    cdef Py_ssize_t rows, keys
    a.is_double, a.back, a.to_q, a.to_k, a.to_v, a.to_mask = d, to is not None, NULL, NULL, NULL, NULL
    a.masked, a.mask, a.kept, a.weights = LF_NO_MASK, NULL, NULL, NULL
    a.heads, a.causal, a.scale = how
    a.q_pitch, a.k_pitch, a.v_pitch, a.out_pitch = _pitch(q, d), _pitch(k, d), _pitch(v, d), _pitch(out, d)
    rows, keys = cnp.PyArray_DIM(q, 0), cnp.PyArray_DIM(k, 0)
    if a.heads < 1:
        raise ValueError(f"{a.heads} heads")
    a.width, a.v_width = cnp.PyArray_DIM(q, 1) // a.heads, cnp.PyArray_DIM(v, 1) // a.heads
    if cnp.PyArray_DIM(k, 1) != a.heads * a.width or cnp.PyArray_DIM(q, 1) != a.heads * a.width:
        raise ValueError("the shapes do not fit")
    if cnp.PyArray_DIM(v, 1) != a.heads * a.v_width or cnp.PyArray_DIM(out, 1) != a.heads * a.v_width:
        raise ValueError("the shapes do not fit")
    if cnp.PyArray_DIM(out, 0) != rows or cnp.PyArray_DIM(v, 0) != keys:
        raise ValueError("the shapes do not fit")
    _set_parts(&a, ends, rows, keys)
    a.q, a.k, a.v, a.out = cnp.PyArray_DATA(q), cnp.PyArray_DATA(k), cnp.PyArray_DATA(v), cnp.PyArray_DATA(out)
    if mask is not None:
        _set_mask(&a, mask[0], mask[1], mask[2], mask[3])
    if kept is not None:
        _set_kept(&a, kept[0], kept[1])
    if weights is not None:
        a.weights = _weights_in(&a, weights)
    if to is not None:
        if len(to) > 3 and to[3] is not None:
            a.to_mask = _weights_in(&a, to[3])
        a.to_q, a.to_k, a.to_v = _cotangents_in(to[0], q, d), _cotangents_in(to[1], k, d), _cotangents_in(to[2], v, d)
    with nogil:
        done = lf_attend(&a)
    if not done:
        raise MemoryError


# The loops of NumPy's matmul, by dtype: nothing here links a BLAS.
cdef lf_loop _loops[2]
cdef void *_loop_data[2]


# Declared here: NumPy's own declarations have them no more as of 2.5.
cdef extern from "numpy/ufuncobject.h":
    ctypedef struct PyUFuncObject:
        void (**functions)(char **, const cnp.npy_intp *, const cnp.npy_intp *, void *)
        void **data
        const char *types
        int ntypes


cdef int _find_loops() except -1:
    cdef PyUFuncObject *matmul = <PyUFuncObject *><void *>numpy.matmul
    cdef int k, d, kind
    for d in range(2):
        kind = cnp.NPY_DOUBLE if d else cnp.NPY_FLOAT
        for k in range(matmul.ntypes):
            if all([matmul.types[3 * k + i] == kind for i in range(3)]):
                _loops[d], _loop_data[d] = <lf_loop><void *>matmul.functions[k], matmul.data[k]
    return 0


_find_loops()


cdef bint _is_matrix(object a, int kind):
    """Whether it is an array of this type, of two axes, or of three for several matrices."""
    if not cnp.PyArray_Check(a) or cnp.PyArray_TYPE(<cnp.ndarray>a) != kind:
        return False
    return 2 <= cnp.PyArray_NDIM(<cnp.ndarray>a) <= 3 and cnp.PyArray_ISBEHAVED_RO(<cnp.ndarray>a)


def multiply(a, b, out=None):
    """``numpy.matmul(a, b, out=out)``, in parts where this thread may use several. ``out`` shares no memory with the
    operands."""
    if not cnp.PyArray_Check(a):
        return numpy.matmul(a, b, out=out)
    cdef int kind = cnp.PyArray_TYPE(<cnp.ndarray>a), axes = cnp.PyArray_NDIM(<cnp.ndarray>a), k
    cdef int d = kind == cnp.NPY_DOUBLE
    if (kind != cnp.NPY_FLOAT and not d) or _loops[d] == NULL or not (_is_matrix(a, kind) and _is_matrix(b, kind)):
        return numpy.matmul(a, b, out=out)
    if cnp.PyArray_NDIM(<cnp.ndarray>b) != axes or (out is not None and not _is_matrix(out, kind)):
        return numpy.matmul(a, b, out=out)
    cdef cnp.npy_intp *left = cnp.PyArray_DIMS(<cnp.ndarray>a) + axes - 2
    cdef cnp.npy_intp *right = cnp.PyArray_DIMS(<cnp.ndarray>b) + axes - 2
    cdef Py_ssize_t count = cnp.PyArray_DIM(<cnp.ndarray>a, 0) if axes == 3 else 1
    cdef cnp.npy_intp[3] shape = [count, left[0], right[1]]
    if left[1] != right[0] or (axes == 3 and cnp.PyArray_DIM(<cnp.ndarray>b, 0) != count):
        return numpy.matmul(a, b, out=out)
    if out is None:
        out = cnp.PyArray_EMPTY(axes, &shape[3 - axes], kind, 0)
    elif cnp.PyArray_NDIM(<cnp.ndarray>out) != axes or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out):
        return numpy.matmul(a, b, out=out)
    for k in range(axes):
        if cnp.PyArray_DIM(<cnp.ndarray>out, k) != shape[3 - axes + k]:
            return numpy.matmul(a, b, out=out)
    cdef lf_product p
    p.is_double, p.loop, p.data = d, _loops[d], _loop_data[d]
    p.a, p.b, p.out = cnp.PyArray_BYTES(a), cnp.PyArray_BYTES(b), cnp.PyArray_BYTES(out)
    p.sizes[0], p.sizes[1], p.sizes[2], p.sizes[3] = count, left[0], left[1], right[1]
    for k, array in enumerate((a, b, out)):
        p.steps[k] = cnp.PyArray_STRIDE(<cnp.ndarray>array, 0) if axes == 3 else 0
        p.steps[3 + 2 * k] = cnp.PyArray_STRIDE(<cnp.ndarray>array, axes - 2)
        p.steps[4 + 2 * k] = cnp.PyArray_STRIDE(<cnp.ndarray>array, axes - 1)
    with nogil:
        lf_multiply(&p)
    return out


def expect_slow_blas(bint slow) -> bool:
    """Say whether BLAS runs kernels for older processors, so that larger products are computed here, too; returns what was
    said before."""
    return bool(lf_expect_slow_blas(slow))


def affine(tuple given not None, out):
    """``x @ W.T + b`` of ``given``, W, b and rows x, in ``out``, as `multiply` and an addition compute it; None where
    these are not matrices of one type."""
    cdef int kind, d, k
    if len(given) != 3 or not cnp.PyArray_Check(out):
        return None
    kind = cnp.PyArray_TYPE(<cnp.ndarray>out)
    d = kind == cnp.NPY_DOUBLE
    if (kind != cnp.NPY_FLOAT and not d) or _loops[d] == NULL:
        return None
    for array in (given[0], given[2], out):
        if not _is_matrix(array, kind) or cnp.PyArray_NDIM(<cnp.ndarray>array) != 2:
            return None
    if not cnp.PyArray_Check(given[1]):
        return None
    cdef cnp.ndarray W = given[0], b = given[1], x = given[2], to = out
    cdef Py_ssize_t rows = cnp.PyArray_DIM(x, 0), inner = cnp.PyArray_DIM(x, 1), width = cnp.PyArray_DIM(W, 0), r, c
    if cnp.PyArray_TYPE(b) != kind or cnp.PyArray_NDIM(b) != 1 or not cnp.PyArray_ISCARRAY_RO(b):
        return None
    if inner == 1 or cnp.PyArray_DIM(W, 1) != inner or cnp.PyArray_DIM(b, 0) != width:
        return None
    if cnp.PyArray_DIM(to, 0) != rows or cnp.PyArray_DIM(to, 1) != width or not cnp.PyArray_ISCARRAY(to):
        return None
    cdef lf_product p
    p.is_double, p.loop, p.data = d, _loops[d], _loop_data[d]
    p.a, p.b, p.out = cnp.PyArray_BYTES(x), cnp.PyArray_BYTES(W), cnp.PyArray_BYTES(to)
    p.sizes[0], p.sizes[1], p.sizes[2], p.sizes[3] = 1, rows, inner, width
    p.steps[0] = p.steps[1] = p.steps[2] = 0
    p.steps[3], p.steps[4] = cnp.PyArray_STRIDE(x, 0), cnp.PyArray_STRIDE(x, 1)
    p.steps[5], p.steps[6] = cnp.PyArray_STRIDE(W, 1), cnp.PyArray_STRIDE(W, 0)
    p.steps[7], p.steps[8] = cnp.PyArray_STRIDE(to, 0), cnp.PyArray_STRIDE(to, 1)
    cdef char *data = cnp.PyArray_BYTES(to)
    cdef char *bias = cnp.PyArray_BYTES(b)
    with nogil:
        lf_multiply(&p)
        for r in range(rows):
            if d:
                for c in range(width):
                    (<double *>data)[r * width + c] += (<double *>bias)[c]
            else:
                for c in range(width):
                    (<float *>data)[r * width + c] += (<float *>bias)[c]
    return out


# Lines: what the calls of a cell do one after the other, without Python between.


cdef enum:
    PROGRAM
    PRODUCT
    GATHER
    ADD_ROWS
    COPY
    ADD
    ZERO
    CALL

cdef enum:
    OF_ALL
    OF_LAUNCH
    OF_BLOCK  # whose first row is the first of a matrix: see lazyflow/cells/line.py

ctypedef struct a_view:
    char *data
    Py_ssize_t rows, pitch
    int base

ctypedef struct an_operation:
    int what, is_double
    a_view one, two
    lf_product product
    Py_ssize_t width, stride, parts
    void *buffer
    const int64_t *at
    const int64_t *columns
    const int64_t *widths
    const lf_program *program
    lf_argument *arguments
    const int *begins
    PyObject *function

ctypedef struct a_segment:
    Py_ssize_t first, last, rows


cdef inline char *_row_of(const a_view *v, Py_ssize_t low, Py_ssize_t first) noexcept nogil:
    cdef Py_ssize_t begin = 0 if v.base == OF_ALL else first if v.base == OF_LAUNCH else low
    return v.data + (low - begin) * v.pitch


cdef class Line:
    """The operations of a stage of a cell's program, for one launch after the other: see `lazyflow.cells.line`, which has the
    same in Python. Views are pairs of a matrix and whose first row it begins with."""

    cdef an_operation *operations
    cdef a_segment *segments
    cdef Py_ssize_t count, room, parts
    cdef list held  # what the pointers point into
    cdef object calls  # for steps that are functions, while they run

    def __cinit__(self):
        self.operations, self.segments = NULL, NULL
        self.count = self.room = self.parts = 0
        self.held = []

    def __dealloc__(self):
        cdef Py_ssize_t k
        for k in range(self.count):
            PyMem_Free(self.operations[k].arguments)
        PyMem_Free(self.operations)
        PyMem_Free(self.segments)

    def segment(self, rows):
        """What follows is done for blocks of about so many calls, or all of a launch at once (None)."""
        cdef a_segment *found = <a_segment *>PyMem_Realloc(self.segments, (self.parts + 1) * sizeof(a_segment))
        if found == NULL:
            raise MemoryError
        self.segments = found
        found[self.parts].first = found[self.parts].last = self.count
        found[self.parts].rows = 0 if rows is None else rows
        self.parts += 1

    cdef an_operation *_next(self, int what) except NULL:
        if self.count == self.room:
            found = <an_operation *>PyMem_Realloc(self.operations, (2 * self.room + 8) * sizeof(an_operation))
            if found == NULL:
                raise MemoryError
            self.operations, self.room = found, 2 * self.room + 8
        cdef an_operation *o = self.operations + self.count
        memset(o, 0, sizeof(an_operation))
        o.what = what
        o.one.rows = o.two.rows = PY_SSIZE_T_MAX
        return o

    cdef int _done(self) except -1:
        if not self.parts:
            raise ValueError("an operation outside of a segment")
        self.count += 1
        self.segments[self.parts - 1].last = self.count
        return 0

    cdef int _view(self, a_view *to, view, int *is_double) except -1:
        """Take a matrix over, whose rows are contiguous; returns its columns."""
        cdef cnp.ndarray array = view[0]
        is_double[0] = _is_double(array)
        to.pitch = _pitch(array, is_double[0]) * (8 if is_double[0] else 4)
        to.data, to.rows, to.base = cnp.PyArray_BYTES(array), cnp.PyArray_DIM(array, 0), view[1]
        self.held.append(array)
        return cnp.PyArray_DIM(array, 1)

    def call(self, function):
        """Any function of Python; what it raises ends the run."""
        cdef an_operation *o = self._next(CALL)
        o.function = <PyObject *>function
        self.held.append(function)
        self._done()

    def program(self, Program program not None, *arrays):
        """Run a program with these arrays: see `Program`."""
        cdef an_operation *o = self._next(PROGRAM)
        cdef lf_argument *arguments = <lf_argument *>PyMem_Malloc(sizeof(lf_argument) * (program.program.parameters + 1))
        if arguments == NULL:
            raise MemoryError
        o.program, o.arguments, o.begins = &program.program, arguments, program.begins
        try:
            program.fill(arguments, arrays)
        except BaseException:
            PyMem_Free(arguments)
            raise
        self.held += [program, *arrays]
        self._done()

    def product(self, x, cnp.ndarray weight, out):
        """``out = x @ weight``."""
        cdef an_operation *o = self._next(PRODUCT)
        cdef int d = 0, of_x = 0
        cdef Py_ssize_t inner = self._view(&o.one, x, &of_x), columns = self._view(&o.two, out, &d), size = 8 if d else 4
        if d != of_x or _is_double(weight) != d or cnp.PyArray_NDIM(weight) != 2:
            raise ValueError("a product of matrices of one dtype expected")
        if cnp.PyArray_DIM(weight, 0) != inner or cnp.PyArray_DIM(weight, 1) != columns:
            raise ValueError("the shapes do not fit")
        o.is_double = o.product.is_double = d
        o.product.loop, o.product.data = _loops[d], _loop_data[d]
        o.product.b = cnp.PyArray_BYTES(weight)
        o.product.sizes[0], o.product.sizes[2], o.product.sizes[3] = 1, inner, columns
        o.product.steps[3], o.product.steps[4] = o.one.pitch, size
        o.product.steps[5], o.product.steps[6] = cnp.PyArray_STRIDE(weight, 0), cnp.PyArray_STRIDE(weight, 1)
        o.product.steps[7], o.product.steps[8] = o.two.pitch, size
        self.held.append(weight)
        self._done()

    cdef int _rows(self, int what, view, cnp.ndarray columns, cnp.ndarray buffer, cnp.ndarray at, cnp.ndarray widths) except -1:
        cdef an_operation *o = self._next(what)
        self._view(&o.one, view, &o.is_double)
        o.buffer, o.parts, o.stride = _flat(buffer, o.is_double), cnp.PyArray_SIZE(columns), cnp.PyArray_DIM(at, 1)
        o.at = _integers(at, o.parts * o.stride)
        o.columns, o.widths = _integers(columns, o.parts), _integers(widths, o.parts)
        o.two.rows = o.stride  # and no more calls than have offsets
        self.held += [columns, buffer, at, widths]
        self._done()
        return 0

    def gather(self, out, columns, buffer, at, widths):
        """Rows of a buffer into columns of a matrix: see `gather`."""
        self._rows(GATHER, out, columns, buffer, at, widths)

    def add_several(self, buffer, at, rows, columns, widths):
        """The transpose: see `add_several`."""
        self._rows(ADD_ROWS, rows, columns, buffer, at, widths)

    cdef int _two(self, int what, target, rows) except -1:
        cdef an_operation *o = self._next(what)
        cdef int d = 0
        o.width = self._view(&o.one, target, &o.is_double)
        if self._view(&o.two, rows, &d) != o.width or d != o.is_double:
            raise ValueError("two matrices of one dtype with as many columns expected")
        self._done()
        return 0

    def copy(self, target, rows):
        """``target = rows``, as matrices."""
        self._two(COPY, target, rows)

    def add(self, target, rows):
        """``target += rows``."""
        self._two(ADD, target, rows)

    def zero(self, target):
        """``target = 0``."""
        cdef an_operation *o = self._next(ZERO)
        o.width = self._view(&o.one, target, &o.is_double)
        self._done()

    def __call__(self, cnp.ndarray edges, bint whole, bint backwards=False, calls=None):
        """Do it for the calls between one of the ``edges`` and the next, launch by launch, the last one first if
        ``backwards``. ``whole``: the first row of a launch is call 0. ``calls``: for steps that are functions."""
        cdef Py_ssize_t launches = cnp.PyArray_SIZE(edges) - 1, k, longest = 0
        cdef const int64_t *edge = _integers(edges, 0)
        cdef bint fits = launches < 1 or edge[0] >= 0
        cdef int done = 1
        for k in range(launches):
            fits = fits and edge[k] <= edge[k + 1]
            longest = max(longest, edge[k + 1] - edge[k])
        for k in range(self.count):
            fits = fits and self._has_rows(&self.operations[k].one, edge[launches], longest, whole)
            fits = fits and self._has_rows(&self.operations[k].two, edge[launches], longest, whole)
        if not fits:
            raise IndexError("calls that these matrices have no rows for")
        self.calls = calls
        try:
            with nogil:
                for k in range(launches):
                    if backwards:
                        done = self._launch(edge[launches - 1 - k], edge[launches - k], whole)
                    else:
                        done = self._launch(edge[k], edge[k + 1], whole)
                    if not done:
                        break
        finally:
            self.calls = None
        if not done:
            raise MemoryError

    cdef bint _has_rows(self, const a_view *v, Py_ssize_t last, Py_ssize_t longest, bint whole) noexcept nogil:
        if v.base == OF_BLOCK:
            return True  # as many as a block has: they are made so
        return (last if v.base == OF_ALL or whole else longest) <= v.rows

    cdef int _launch(self, Py_ssize_t low, Py_ssize_t high, bint whole) except -1 nogil:
        cdef Py_ssize_t k, a, step, count = high - low, blocks, first = 0 if whole else low
        for k in range(self.parts):
            step = max(count, 1)
            if self.segments[k].rows and count > self.segments[k].rows + self.segments[k].rows // 2:
                blocks = (count + self.segments[k].rows - 1) // self.segments[k].rows
                step = ((count + blocks - 1) // blocks + 3) // 4 * 4
            a = low
            while a < high:
                if not self._block(self.segments + k, a, min(a + step, high), first):
                    return 0
                a += step
        return 1

    cdef int _block(self, const a_segment *segment, Py_ssize_t low, Py_ssize_t high, Py_ssize_t first) except -1 nogil:
        cdef Py_ssize_t k
        for k in range(segment.first, segment.last):
            if self.operations[k].what == CALL:
                with gil:
                    (<object>self.operations[k].function)(self.calls, low, high, first)
            elif not _operate(self.operations + k, low, high, first):
                return 0
        return 1


cdef int _operate(const an_operation *o, Py_ssize_t low, Py_ssize_t high, Py_ssize_t first) noexcept nogil:
    cdef Py_ssize_t rows = high - low, size = 8 if o.is_double else 4, r, c
    cdef char *one = _row_of(&o.one, low, first)
    cdef char *two = _row_of(&o.two, low, first)
    if o.what == PROGRAM:
        return _run_program(o, low, high, first)
    if o.what == PRODUCT:
        _multiply_rows(o, one, two, rows)
    elif o.what == GATHER:
        lf_gather(o.is_double, one, o.one.pitch // size, o.buffer, o.at + low, o.stride, o.columns, o.widths, o.parts, rows)
    elif o.what == ADD_ROWS:
        lf_add_rows(o.is_double, o.buffer, o.at + low, o.stride, one, o.one.pitch // size, o.columns, o.widths, o.parts, rows)
    elif o.what == COPY:
        for r in range(rows):
            memcpy(one + r * o.one.pitch, two + r * o.two.pitch, o.width * size)
    elif o.what == ADD:
        for r in range(rows):
            if o.is_double:
                for c in range(o.width):
                    (<double *>(one + r * o.one.pitch))[c] += (<double *>(two + r * o.two.pitch))[c]
            else:
                for c in range(o.width):
                    (<float *>(one + r * o.one.pitch))[c] += (<float *>(two + r * o.two.pitch))[c]
    else:
        for r in range(rows):
            memset(one + r * o.one.pitch, 0, o.width * size)
    return 1


cdef void _multiply_rows(const an_operation *o, char *x, char *out, Py_ssize_t rows) noexcept nogil:
    cdef lf_product p = o.product
    p.a, p.out, p.sizes[1] = x, out, rows
    lf_multiply(&p)


cdef int _run_program(const an_operation *o, Py_ssize_t low, Py_ssize_t high, Py_ssize_t first) noexcept nogil:
    cdef size_t size = sizeof(lf_argument) * o.program.parameters
    cdef lf_argument *arguments = <lf_argument *>malloc(size + 1)
    cdef int done
    if not arguments:
        return 0
    memcpy(arguments, o.arguments, size)
    done = _run_from(o.program, arguments, o.begins, low, high, first)
    free(arguments)
    return done



# Images: see c/images.h, and lazyflow/ops/conv.py, which has the same in NumPy.


cdef class Places:
    """Where windows read images, of one size: `lf_places`, from arrays of integers."""

    cdef lf_places places
    cdef tuple held  # what it points into

    def __cinit__(self, sizes, cnp.ndarray row_from, cnp.ndarray spans, cnp.ndarray taps, cnp.ndarray map_row):
        cdef lf_places *p = &self.places
        p.size, p.rows, p.pitch, p.lead, p.last, p.step, p.margin, p.width = sizes
        p.taps, p.map_rows = cnp.PyArray_DIM(taps, 1), cnp.PyArray_SIZE(map_row)
        p.row_from = _integers(row_from, p.lead * p.rows)
        p.begin = _integers(spans, 3 * p.last)
        p.count, p.from_ = p.begin + p.last, p.begin + 2 * p.last
        p.plane = _integers(taps, 2 * p.taps)
        p.shift, p.map_row = p.plane + p.taps, _integers(map_row, p.map_rows)
        self.held = row_from, spans, taps, map_row


cdef enum:
    CORRELATE
    SPREAD
    WEIGH


cdef Py_ssize_t _examples(cnp.ndarray array, Py_ssize_t size, int is_double) except -1:
    """How many examples of so many elements an array has."""
    cdef Py_ssize_t count = cnp.PyArray_DIM(array, 0) if cnp.PyArray_NDIM(array) else 0
    if _is_double(array) != is_double or cnp.PyArray_SIZE(array) != count * size or not cnp.PyArray_IS_C_CONTIGUOUS(array):
        raise ValueError(f"examples of {size} elements of one dtype expected, one behind the other")
    return count


cdef int _weighted(lf_convolution *v, int what, Py_ssize_t groups, cnp.ndarray weight, bias, Py_ssize_t taps) except -1:
    """Fill in the weight and the bias."""
    cdef Py_ssize_t maps = cnp.PyArray_DIM(weight, 0), channels = cnp.PyArray_DIM(weight, 1)
    v.is_double, v.add, v.bias, v.nans = _is_double(weight), 0, NULL, NULL
    if groups < 1 or maps % groups or cnp.PyArray_SIZE(weight) != maps * channels * taps:
        raise ValueError("the weight does not fit")
    if not cnp.PyArray_IS_C_CONTIGUOUS(weight):
        raise ValueError("a contiguous weight expected")
    v.groups, v.channels, v.maps, v.weight = groups, channels, maps // groups, cnp.PyArray_BYTES(weight)
    if bias is not None:
        if _is_double(bias) != v.is_double or cnp.PyArray_SIZE(bias) != (groups * channels if what == SPREAD else maps):
            raise ValueError("the bias does not fit")
        v.bias = cnp.PyArray_BYTES(bias)
    return 0


cdef int _multiplied(int what, const lf_convolution *v) except -1:
    cdef int done
    with nogil:
        if what == CORRELATE:
            done = lf_correlate(v)
        elif what == SPREAD:
            done = lf_spread(v)
        else:
            done = lf_weigh(v)
    if not done:
        raise MemoryError
    return 0


cdef int _convolve(int what, Places p, Py_ssize_t groups, cnp.ndarray image, cnp.ndarray map, cnp.ndarray weight, bias) except -1:
    cdef lf_convolution v
    cdef lf_images some
    _weighted(&v, what, groups, weight, bias, p.places.taps)
    some.places, some.image, some.map = &p.places, cnp.PyArray_BYTES(image), cnp.PyArray_BYTES(map)
    some.count = _examples(image, groups * v.channels * p.places.size, v.is_double)
    if _examples(map, groups * v.maps * p.places.map_rows * p.places.width, v.is_double) != some.count:
        raise ValueError("as many images as maps expected")
    v.images, v.sizes = &some, 1
    return _multiplied(what, &v)


def correlate(Places places not None, Py_ssize_t groups, image, weight, out, bias=None):
    """``out``, maps (n, maps, ...), becomes that of images (n, channels, ...) and a weight (maps, channels of a group,
    ...), plus the bias."""
    _convolve(CORRELATE, places, groups, image, out, weight, bias)


def spread(Places places not None, Py_ssize_t groups, maps, weight, out, bias=None):
    """The transpose: ``out``, images, becomes that of maps and a weight."""
    _convolve(SPREAD, places, groups, out, maps, weight, bias)


def weigh(Places places not None, Py_ssize_t groups, image, maps, out):
    """``out``, a weight, becomes that of images and maps."""
    _convolve(WEIGH, places, groups, image, maps, out, None)


cdef class Images:
    """Images of any sizes and their maps: of each the `Places`, and where the image and the maps begin in flat memory."""

    cdef Py_ssize_t count
    cdef lf_images *images
    cdef Py_ssize_t *at  # of each the element where the image begins, and the maps
    cdef tuple held

    def __cinit__(self, tuple places, cnp.ndarray image, cnp.ndarray map):
        cdef Py_ssize_t i
        cdef Places p
        self.count, self.held = len(places), places
        cdef const int64_t *images = _integers(image, self.count)
        cdef const int64_t *maps = _integers(map, self.count)
        if not self.count:
            raise ValueError("at least one image expected")
        self.images = <lf_images *> malloc(self.count * sizeof(lf_images))
        self.at = <Py_ssize_t *> malloc(2 * self.count * sizeof(Py_ssize_t))
        if self.images == NULL or self.at == NULL:
            raise MemoryError
        for i in range(self.count):
            p = places[i]
            self.images[i].places, self.images[i].count = &p.places, 1
            self.at[2 * i], self.at[2 * i + 1] = images[i], maps[i]
            if p.places.taps != self.images[0].places.taps or images[i] < 0 or maps[i] < 0:
                raise ValueError("kernels of one size expected, and places inside of the memory")

    def __dealloc__(self):
        free(self.images)
        free(self.at)

    cdef int multiply(self, int what, lf_convolution *v, cnp.ndarray image, cnp.ndarray map) except -1:
        """One of the products over all images, in copies of the places, as several threads may run it at a time."""
        cdef Py_ssize_t i, size = 8 if v.is_double else 4
        cdef const lf_places *p
        cdef lf_images *images
        if _is_double(image) != v.is_double or _is_double(map) != v.is_double:
            raise ValueError("arrays of one dtype expected")
        if not cnp.PyArray_IS_C_CONTIGUOUS(image) or not cnp.PyArray_IS_C_CONTIGUOUS(map):
            raise ValueError("contiguous arrays expected")
        images = <lf_images *> malloc(self.count * sizeof(lf_images))
        if images == NULL:
            raise MemoryError
        try:
            for i in range(self.count):
                images[i], p = self.images[i], self.images[i].places
                if (
                    self.at[2 * i] + v.groups * v.channels * p.size > cnp.PyArray_SIZE(image)
                    or self.at[2 * i + 1] + v.groups * v.maps * p.map_rows * p.width > cnp.PyArray_SIZE(map)
                ):
                    raise ValueError("places inside of the memory expected")
                images[i].image = cnp.PyArray_BYTES(image) + size * self.at[2 * i]
                images[i].map = cnp.PyArray_BYTES(map) + size * self.at[2 * i + 1]
            v.images, v.sizes = images, self.count
            _multiplied(what, v)
        finally:
            free(images)
        return 0

    cdef object product(self, int what, Py_ssize_t groups, image, map, cnp.ndarray weight, bias, bint add, bint nans):
        cdef lf_convolution v
        cdef bytearray found = bytearray(self.count)
        _weighted(&v, what, groups, weight, bias, self.images[0].places.taps)
        if add and groups > 1:
            raise ValueError("one group expected where results are added")
        v.add = add
        if nans:
            v.nans = <unsigned char *> found
        self.multiply(what, &v, image, map)
        return [i for i in range(self.count) if found[i]] if nans and any(found) else []

    def correlate(self, Py_ssize_t groups, image, weight, out, bias=None, bint add=False, bint nans=False):
        """`correlate` of all images of the flat array ``image`` into ``out``, or, where it is to ``add``, onto what is
        there. Returns of which the result may be NaN, if it is to look for ``nans``: to these nothing is added."""
        return self.product(CORRELATE, groups, image, out, weight, bias, add, nans)

    def spread(self, Py_ssize_t groups, maps, weight, out, bias=None, bint add=False, bint nans=False):
        """The transpose, of all maps."""
        return self.product(SPREAD, groups, out, maps, weight, bias, add, nans)

    def weigh(self, Py_ssize_t groups, image, maps, out):
        """``out``, a weight, becomes the sum of `weigh` over all images."""
        self.product(WEIGH, groups, image, maps, out, None, False, False)


cdef int _fill_axes(lf_pooling *v, axes) except -1:
    for k in range(3):
        v.axis[k].size, v.axis[k].kernel, v.axis[k].stride, v.axis[k].dilation, v.axis[k].before, v.axis[k].out = axes[k]
    return 0


cdef int _pooling(lf_pooling *v, axes, cnp.ndarray x, cnp.ndarray y) except -1:
    """Fill in what is pooled; ``axes``: of each of three axes size, kernel, stride, dilation, padding before and out."""
    cdef Py_ssize_t of_x = 1, of_y = 1
    v.is_double = _is_double(x)
    _fill_axes(v, axes)
    for k in range(3):
        of_x, of_y = of_x * v.axis[k].size, of_y * v.axis[k].out
    v.planes = cnp.PyArray_SIZE(x) // max(of_x, 1)
    if _is_double(y) != v.is_double or v.planes * of_x != cnp.PyArray_SIZE(x) or v.planes * of_y != cnp.PyArray_SIZE(y):
        raise ValueError("the shapes do not fit")
    if not cnp.PyArray_IS_C_CONTIGUOUS(x) or not cnp.PyArray_IS_C_CONTIGUOUS(y):
        raise ValueError("contiguous arrays expected")
    return 0


def max_pool(axes, cnp.ndarray x, cnp.ndarray out):
    """The largest element of each window, of all planes of ``x``."""
    cdef lf_pooling v
    cdef int done
    _pooling(&v, axes, x, out)
    with nogil:
        done = lf_max_pool(&v, cnp.PyArray_DATA(x), cnp.PyArray_DATA(out))
    if not done:
        raise MemoryError


def max_pool_back(axes, cnp.ndarray x, cnp.ndarray y, cnp.ndarray share, cnp.ndarray out):
    """Add ``share``, the cotangents of ``y``, to ``out`` where the largest elements are."""
    cdef lf_pooling v
    cdef int done
    _pooling(&v, axes, x, y)
    _pooling(&v, axes, out, share)
    if cnp.PyArray_SIZE(out) != cnp.PyArray_SIZE(x) or _is_double(x) != v.is_double:
        raise ValueError("the shapes do not fit")
    with nogil:
        done = lf_max_pool_back(
            &v, cnp.PyArray_DATA(x), cnp.PyArray_DATA(y), cnp.PyArray_DATA(share), cnp.PyArray_DATA(out)
        )
    if not done:
        raise MemoryError


cdef class Pools:
    """Max pooling of values of any sizes: of each the axes, as `max_pool` takes them, how many planes it has, and where it
    and its result begin in flat memory."""

    cdef Py_ssize_t count
    cdef lf_pooling *pools
    cdef Py_ssize_t *at

    def __cinit__(self, axes, planes, cnp.ndarray x, cnp.ndarray y):
        cdef Py_ssize_t i
        self.count = len(axes)
        cdef const int64_t *begins = _integers(x, self.count)
        cdef const int64_t *results = _integers(y, self.count)
        self.pools = <lf_pooling *> malloc((self.count + 1) * sizeof(lf_pooling))
        self.at = <Py_ssize_t *> malloc((2 * self.count + 1) * sizeof(Py_ssize_t))
        if self.pools == NULL or self.at == NULL:
            raise MemoryError
        for i in range(self.count):
            _fill_axes(&self.pools[i], axes[i])
            self.pools[i].planes = planes[i]
            self.at[2 * i], self.at[2 * i + 1] = begins[i], results[i]
            if begins[i] < 0 or results[i] < 0 or self.pools[i].planes < 0:
                raise ValueError("places inside of the memory expected")

    def __dealloc__(self):
        free(self.pools)
        free(self.at)

    cdef int check(self, cnp.ndarray x, cnp.ndarray y) except -1:
        """Whether all that is read and written lies in arrays like these."""
        cdef Py_ssize_t i, k, of_x, of_y
        if _is_double(x) != _is_double(y) or not cnp.PyArray_IS_C_CONTIGUOUS(x) or not cnp.PyArray_IS_C_CONTIGUOUS(y):
            raise ValueError("contiguous arrays of one dtype expected")
        for i in range(self.count):
            of_x = of_y = self.pools[i].planes
            for k in range(3):
                of_x, of_y = of_x * self.pools[i].axis[k].size, of_y * self.pools[i].axis[k].out
            if self.at[2 * i] + of_x > cnp.PyArray_SIZE(x) or self.at[2 * i + 1] + of_y > cnp.PyArray_SIZE(y):
                raise ValueError("places inside of the memory expected")
        return 0

    def max_pool(self, cnp.ndarray x, cnp.ndarray out):
        """`max_pool` of all of them."""
        cdef Py_ssize_t i, size = 8 if _is_double(x) else 4
        cdef int done = 1
        cdef lf_pooling v
        cdef char *from_ = cnp.PyArray_BYTES(x)
        cdef char *to = cnp.PyArray_BYTES(out)
        self.check(x, out)
        with nogil:
            for i in range(self.count):
                v = self.pools[i]
                v.is_double = size == 8
                done &= lf_max_pool(&v, from_ + size * self.at[2 * i], to + size * self.at[2 * i + 1])
        if not done:
            raise MemoryError

    def max_pool_back(self, cnp.ndarray x, cnp.ndarray y, cnp.ndarray share, cnp.ndarray out):
        """`max_pool_back` of all of them."""
        cdef Py_ssize_t i, at, where, size = 8 if _is_double(x) else 4
        cdef int done = 1
        cdef lf_pooling v
        cdef char *from_ = cnp.PyArray_BYTES(x)
        cdef char *to = cnp.PyArray_BYTES(out)
        cdef char *results = cnp.PyArray_BYTES(y)
        cdef char *shares = cnp.PyArray_BYTES(share)
        self.check(x, y)
        self.check(out, share)
        if _is_double(x) != _is_double(out):
            raise ValueError("arrays of one dtype expected")
        with nogil:
            for i in range(self.count):
                v = self.pools[i]
                v.is_double = size == 8
                at, where = size * self.at[2 * i], size * self.at[2 * i + 1]
                done &= lf_max_pool_back(&v, from_ + at, results + where, shares + where, to + at)
        if not done:
            raise MemoryError


# Elements that move, no matter of what dtype.

ctypedef fused element:
    float
    double
    int64_t


cdef void _moved(element *to, const element *from_, const int64_t *m, bint add) noexcept nogil:
    """One row of the table of `move`."""
    cdef Py_ssize_t i, j, k, r, a, b
    for i in range(m[2]):
        for j in range(m[3]):
            for k in range(m[4]):
                a = m[0] + i * m[6] + j * m[7] + k * m[8]
                b = m[1] + i * m[10] + j * m[11] + k * m[12]
                if add:
                    for r in range(m[5]):
                        to[a + r * m[9]] += from_[b + r * m[13]]
                elif m[9] == 1 and m[13] == 1:
                    memcpy(to + a, from_ + b, m[5] * sizeof(element))
                else:
                    for r in range(m[5]):
                        to[a + r * m[9]] = from_[b + r * m[13]]


cdef int _inside(const int64_t *m, Py_ssize_t size, Py_ssize_t of_from) except -1:
    """Check one row of the table of `move`."""
    cdef Py_ssize_t k, a = m[0], b = m[1]
    for k in range(2, 6):
        if m[k] < 1 or m[k + 4] < 0 or m[k + 8] < 0:
            raise ValueError("sizes of at least one, and no steps back, expected")
        a, b = a + (m[k] - 1) * m[k + 4], b + (m[k] - 1) * m[k + 8]
    if m[0] < 0 or m[1] < 0 or a >= size or b >= of_from:
        raise ValueError("places inside of the memory expected")
    return 0


def move(cnp.ndarray to, cnp.ndarray from_, cnp.ndarray table, bint add=False):
    """Copy elements of one flat array to another, or add them to what is there. ``table``: of each move where it begins in
    both, the sizes of four axes, and the steps along these in both."""
    cdef Py_ssize_t i, count = cnp.PyArray_SIZE(table) // 14
    cdef const int64_t *m = _integers(table, 14 * count)
    cdef int kind = cnp.PyArray_TYPE(to)
    if kind != cnp.PyArray_TYPE(from_) or kind not in (cnp.NPY_FLOAT, cnp.NPY_DOUBLE, cnp.NPY_INT64):
        raise ValueError("arrays of one dtype, float32, float64 or int64, expected")
    if not cnp.PyArray_IS_C_CONTIGUOUS(to) or not cnp.PyArray_IS_C_CONTIGUOUS(from_):
        raise ValueError("contiguous arrays expected")
    for i in range(count):
        _inside(m + 14 * i, cnp.PyArray_SIZE(to), cnp.PyArray_SIZE(from_))
    with nogil:
        for i in range(count):
            if kind == cnp.NPY_FLOAT:
                _moved[float](<float *> cnp.PyArray_DATA(to), <const float *> cnp.PyArray_DATA(from_), m + 14 * i, add)
            elif kind == cnp.NPY_DOUBLE:
                _moved[double](<double *> cnp.PyArray_DATA(to), <const double *> cnp.PyArray_DATA(from_), m + 14 * i, add)
            else:
                _moved[int64_t](<int64_t *> cnp.PyArray_DATA(to), <const int64_t *> cnp.PyArray_DATA(from_), m + 14 * i, add)


# Values of many sizes, one after the other: see lazyflow/ops/each.py.

ctypedef fused real:
    float
    double

REDUCED = {"sum": 0, "mean": 1, "max": 2, "min": 3}


cdef inline double _sum_of(const real *x, Py_ssize_t n) noexcept nogil:
    """In eight parts, which the processor adds side by side."""
    cdef double[8] parts
    cdef Py_ssize_t r, k, whole = n & ~<Py_ssize_t>7
    for k in range(8):
        parts[k] = 0.0
    for r in range(0, whole, 8):
        for k in range(8):
            parts[k] += x[r + k]
    for r in range(whole, n):
        parts[0] += x[r]
    return ((parts[0] + parts[4]) + (parts[1] + parts[5])) + ((parts[2] + parts[6]) + (parts[3] + parts[7]))


cdef void _sums(real *out, const real *x, const int64_t *m, bint mean, bint add, double *sums) noexcept nogil:
    """Over the second of the three axes of one row of the table of `reduce_each`, in double precision."""
    cdef Py_ssize_t i, r, k, a = m[2], n = m[3], b = m[4]
    for i in range(a):
        if b == 1:
            sums[0] = _sum_of(x + i * n, n)
        else:
            memset(sums, 0, b * sizeof(double))
            for r in range(n):
                for k in range(b):
                    sums[k] += x[(i * n + r) * b + k]
        for k in range(b):
            if mean:
                sums[k] /= n
            out[i * b + k] = <real> (sums[k] + (out[i * b + k] if add else 0.0))


cdef void _extremes(real *out, const real *x, const int64_t *m, bint largest) noexcept nogil:
    """The same of largest elements, or smallest; NaN where one is."""
    cdef Py_ssize_t i, r, k, a = m[2], n = m[3], b = m[4]
    cdef real one, best
    for i in range(a):
        for k in range(b):
            best = x[i * n * b + k]
            for r in range(1, n):
                one = x[(i * n + r) * b + k]
                if one != one or (one > best if largest else one < best):
                    best = one
            out[i * b + k] = best


cdef void _shares(real *target, const real *g, const int64_t *m, bint mean) noexcept nogil:
    """The transpose of `_sums`."""
    cdef Py_ssize_t i, r, k, a = m[2], n = m[3], b = m[4]
    cdef real share = <real> (n if mean else 1)
    for i in range(a):
        for r in range(n):
            for k in range(b):
                target[(i * n + r) * b + k] += g[i * b + k] / share


cdef void _shares_of_extremes(real *target, const real *g, const real *y, const real *x, const int64_t *m) noexcept nogil:
    """The transpose of `_extremes`: even shares for all that are as large."""
    cdef Py_ssize_t i, r, k, at, many, a = m[2], n = m[3], b = m[4]
    for i in range(a):
        for k in range(b):
            at, many = i * n * b + k, 0
            for r in range(n):
                many += x[at + r * b] == y[i * b + k]
            for r in range(n):
                if x[at + r * b] == y[i * b + k]:
                    target[at + r * b] += g[i * b + k] / <real> many


cdef Py_ssize_t _check_reduced(const int64_t *m, Py_ssize_t count, Py_ssize_t size, Py_ssize_t of_x) except -1:
    """The most elements that one of the rows of the table of `reduce_each` has behind its second axis."""
    cdef Py_ssize_t i, most = 1
    for i in range(0, 5 * count, 5):
        if m[i] < 0 or m[i + 1] < 0 or m[i + 2] < 1 or m[i + 3] < 1 or m[i + 4] < 1:
            raise ValueError("places and sizes of at least one expected")
        if m[i] + m[i + 2] * m[i + 4] > size or m[i + 1] + m[i + 2] * m[i + 3] * m[i + 4] > of_x:
            raise ValueError("places inside of the memory expected")
        most = max(most, <Py_ssize_t> m[i + 4])
    return most


cdef void _reduce(int how, void *out, const void *x, const int64_t *m, bint add, double *sums, real kind) noexcept nogil:
    if how < 2:
        _sums(<real *> out + m[0], <const real *> x + m[1], m, how == 1, add, sums)
    else:
        _extremes(<real *> out + m[0], <const real *> x + m[1], m, how == 2)


def reduce_each(int how, cnp.ndarray out, cnp.ndarray x, cnp.ndarray table, bint add=False):
    """One of `REDUCED` over the second of three axes, or such sums that are added to what is there. ``table``: of each
    value where it begins in the flat array ``x`` and its result in ``out``, result first, and its three sizes."""
    cdef int d = _is_double(out)
    cdef Py_ssize_t i, count = cnp.PyArray_SIZE(table) // 5
    cdef const int64_t *m = _integers(table, 5 * count)
    cdef void *to = _flat(out, d)
    cdef const void *values = _flat(x, d)
    cdef Py_ssize_t most = _check_reduced(m, count, cnp.PyArray_SIZE(out), cnp.PyArray_SIZE(x))
    cdef double *sums = <double *> malloc(most * sizeof(double))
    if sums == NULL:
        raise MemoryError
    with nogil:
        for i in range(count):
            if d:
                _reduce[double](how, to, values, m + 5 * i, add, sums, 0)
            else:
                _reduce[float](how, to, values, m + 5 * i, add, sums, 0)
    free(sums)


cdef void _reduce_back(
    int how, void *target, const void *g, const void *y, const void *x, const int64_t *m, real kind
) noexcept nogil:
    cdef real *to = <real *> target + m[1]
    if how < 2:
        _shares(to, <const real *> g + m[0], m, how == 1)
    else:
        _shares_of_extremes(to, <const real *> g + m[0], <const real *> y + m[0], <const real *> x + m[1], m)


def reduce_each_back(int how, cnp.ndarray target, cnp.ndarray g, cnp.ndarray y, cnp.ndarray x, cnp.ndarray table):
    """Add the cotangents of ``x`` to ``target``, where all begins as in `reduce_each`."""
    cdef int d = _is_double(target)
    cdef Py_ssize_t i, count = cnp.PyArray_SIZE(table) // 5
    cdef const int64_t *m = _integers(table, 5 * count)
    cdef void *to = _flat(target, d)
    cdef const void *cotangents = _flat(g, d)
    cdef const void *results = _flat(y, d)
    cdef const void *values = _flat(x, d)
    _check_reduced(m, count, min(cnp.PyArray_SIZE(g), cnp.PyArray_SIZE(y)), min(cnp.PyArray_SIZE(target), cnp.PyArray_SIZE(x)))
    with nogil:
        for i in range(count):
            if d:
                _reduce_back[double](how, to, cotangents, results, values, m + 5 * i, 0)
            else:
                _reduce_back[float](how, to, cotangents, results, values, m + 5 * i, 0)


def along_each(int what, cnp.ndarray out, cnp.ndarray x, cnp.ndarray table, cnp.ndarray eps, y=None, g=None):
    """`along` of rows of many widths. ``table``: of each value where it begins in ``x`` and its result in ``out``, result
    first, and how many rows of what width it has. With results and cotangents, those of ``x`` are added to ``out``, where
    that begins."""
    cdef int d = _is_double(out), done = 1
    cdef bint slopes = what >= LF_SOFTMAX_SLOPES
    cdef Py_ssize_t i, k, n, most = 0, size = 8 if d else 4, count = cnp.PyArray_SIZE(table) // 4
    cdef const int64_t *m = _integers(table, 4 * count)
    cdef const double *more = <const double *> _flat(eps, 1)
    cdef char *to = <char *> _flat(out, d)
    cdef char *values = <char *> _flat(x, d)
    cdef char *results = <char *> _flat(y, d) if slopes else NULL
    cdef char *shares = <char *> _flat(g, d) if slopes else NULL
    cdef Py_ssize_t room = cnp.PyArray_SIZE(out) if not slopes else min(y.size, g.size)
    cdef Py_ssize_t of_x = cnp.PyArray_SIZE(x) if not slopes else min(cnp.PyArray_SIZE(x), cnp.PyArray_SIZE(out))
    if cnp.PyArray_SIZE(eps) < count:
        raise ValueError("a number for each value expected")
    for i in range(0, 4 * count, 4):
        n = m[i + 2] * m[i + 3]
        if min(m[i], m[i + 1]) < 0 or min(m[i + 2], m[i + 3]) < 1 or m[i] + n > room or m[i + 1] + n > of_x:
            raise ValueError("places inside of the memory expected")
        most = max(most, n)
    cdef char *scratch = <char *> malloc(most * size + 1) if slopes else NULL
    if slopes and scratch == NULL:
        raise MemoryError
    with nogil:
        for i in range(count):
            if not slopes:
                done &= lf_along(d, what, values + size * m[1], NULL, NULL, to + size * m[0], m[2], m[3], more[i])
            else:
                done &= lf_along(d, what, values + size * m[1], results + size * m[0], shares + size * m[0], scratch, m[2],
                                 m[3], more[i])
                n = m[2] * m[3]
                if d:
                    for k in range(n):
                        (<double *> to + m[1])[k] += (<double *> scratch)[k]
                else:
                    for k in range(n):
                        (<float *> to + m[1])[k] += (<float *> scratch)[k]
            m += 4
    free(scratch)
    if not done:
        raise MemoryError


cdef void _pooled(
    real *small, real *large, const int64_t *m, const int64_t *ranges, const double *divisors, bint back
) noexcept nogil:
    """One row of the table of `pool_each`: means of windows of ``large``, or their shares added to it."""
    cdef Py_ssize_t plane, i, j, k, p, q, r, at, one
    cdef const int64_t *a = ranges + m[5]
    cdef const int64_t *b = ranges + m[8]
    cdef const int64_t *c = ranges + m[11]
    cdef real *x
    cdef double found, divisor
    cdef real share
    for plane in range(m[2]):
        x = large + plane * m[3] * m[6] * m[9]
        for i in range(m[4]):
            for j in range(m[7]):
                for k in range(m[10]):
                    one = (i * m[7] + j) * m[10] + k
                    at = plane * m[4] * m[7] * m[10] + one
                    divisor, found = divisors[m[12] + one * m[13]], 0.0
                    share = <real> (small[at] / divisor) if back else 0
                    for p in range(a[i], a[m[4] + i]):
                        for q in range(b[j], b[m[7] + j]):
                            for r in range(c[k], c[m[10] + k]):
                                if back:
                                    x[(p * m[6] + q) * m[9] + r] += share
                                else:
                                    found += x[(p * m[6] + q) * m[9] + r]
                    if not back:
                        small[at] = <real> (found / divisor)


def pool_each(
    cnp.ndarray small, cnp.ndarray large, cnp.ndarray table, cnp.ndarray ranges, cnp.ndarray divisors, bint back=False
):
    """``small`` becomes the mean of windows of ``large``; ``back``: each gives what it has, over the divisor, to all
    elements of its window. ``table``: of each value where its result begins, and it; how many planes it has; of each of
    three axes how many elements it has, how many windows, and where in ``ranges`` their begins stand, and then their
    ends; where its ``divisors`` begin, and how far these are apart, 0 of one."""
    cdef int d = _is_double(small)
    cdef Py_ssize_t i, k, w, of_small, of_large, count = cnp.PyArray_SIZE(table) // 14
    cdef const int64_t *m = _integers(table, 14 * count)
    cdef const int64_t *spans = _integers(ranges, cnp.PyArray_SIZE(ranges))
    cdef const double *by = <const double *> _flat(divisors, 1)
    cdef void *results = _flat(small, d)
    cdef void *values = _flat(large, d)
    for i in range(count):
        of_small = of_large = m[14 * i + 2]
        for k in range(14 * i + 3, 14 * i + 12, 3):
            of_large, of_small = of_large * m[k], of_small * m[k + 1]
            if min(m[k], m[k + 1], m[k + 2]) < 0 or m[k + 2] + 2 * m[k + 1] > cnp.PyArray_SIZE(ranges):
                raise ValueError("ranges of all windows expected")
            for w in range(m[k + 2], m[k + 2] + m[k + 1]):
                if spans[w] < 0 or spans[w + m[k + 1]] > m[k]:
                    raise ValueError("windows inside of the value expected")
        if min(m[14 * i], m[14 * i + 1], m[14 * i + 2], m[14 * i + 12], m[14 * i + 13]) < 0:
            raise ValueError("places inside of the memory expected")
        if m[14 * i] + of_small > cnp.PyArray_SIZE(small) or m[14 * i + 1] + of_large > cnp.PyArray_SIZE(large):
            raise ValueError("places inside of the memory expected")
        if of_small and m[14 * i + 12] + (of_small // m[14 * i + 2] - 1) * m[14 * i + 13] >= cnp.PyArray_SIZE(divisors):
            raise ValueError("a divisor of each window expected")
    with nogil:
        for i in range(count):
            if d:
                _pooled(<double *> results + m[0], <double *> values + m[1], m, spans, by, back)
            else:
                _pooled(<float *> results + m[0], <float *> values + m[1], m, spans, by, back)
            m += 14


def use_threads(int number) -> int:
    """How many threads the functions of this module that this thread calls may run on; returns how many before."""
    return lf_use_threads(number)


def instruction_set() -> str:
    """The instruction set that runs: "avx512", "avx2" or "baseline"."""
    return lf_instruction_set().decode()


def use_instruction_set(name: str) -> None:
    """Run with another one, for tests. Raises ``ValueError`` if this processor does not have it."""
    if not lf_use_instruction_set(name.encode()):
        raise ValueError(f"this processor does not run {name}")


for _name in ("avx512", "avx2", "baseline"):
    if lf_use_instruction_set(_name.encode()):
        break
