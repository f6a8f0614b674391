# What the compiled recorder knows of `tape.py`: see `lazyflow.record.expr`.

cimport cython

from lazyflow.core.columns cimport Counts, Elements, FloatColumn, IntColumn


cdef Elements ELEMENTS


cdef class Type:
    cdef object __weakref__
    cdef public tuple shape
    cdef public object dtype, device, parameter
    cdef public Type plain
    cdef public bint requires_grad, detached
    cdef public Py_ssize_t ndim, size
    cdef public long long epoch
    cdef public dict signatures


cdef class Signature:
    cdef object __weakref__
    cdef public object op, static, forward, cell, line, serial, widths, walks, spans, family
    cdef public tuple operands, further, draws
    cdef public Type type
    cdef public int id, rows, ints, floats
    cdef public bint differentiable, loops


cdef class Computed:
    cdef public list runs, touched
    cdef public object run_of, offset_of


cdef class Tape:
    cdef object __weakref__
    cdef public IntColumn signatures, operands, ints
    cdef public FloatColumn floats
    cdef public Counts handles
    cdef public dict objects, imported, ready, streams, drawn, retained, remembered, hooks, reach
    cdef public list imports, lines
    cdef public set keep
    cdef public Computed computed
    cdef public object device, dtype, options, owner, scope, decoded, trace, body, owners
    cdef public bint grad, sealed
    cdef public long long number, generation
    cpdef bint has_value(self, Py_ssize_t row) except -1
    @cython.locals(found=Computed)
    cpdef tuple place_of(self, Py_ssize_t row)


@cython.locals(ints=list, operands=list, number=Py_ssize_t, rows=Py_ssize_t, int_end=Py_ssize_t, operand_end=Py_ssize_t)
cpdef tuple payload_starts(Tape tape)


cpdef Type without_gradient(Type kind)


cpdef Tape current_tape()
