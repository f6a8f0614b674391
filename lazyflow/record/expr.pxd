# Types of `expr.py` for Cython: with them the file is compiled as it stands, and recording a node is a few look-ups and
# appends. Without a compiler the file runs in Python.

cimport cython

from lazyflow.core.columns cimport Held, IntColumn, Recall, Scope, Shapes, ThisThread, Variable
from lazyflow.record.tape cimport Signature, Tape, Type


cdef class Expr:
    cdef public Tape tape
    cdef public int row
    cdef public Type type
    cdef public object note


@cython.final
cdef class Changes:
    cdef public object count


@cython.final
cdef class MemoEntry:
    cdef public Signature signature
    cdef public bytes codes
    cdef public tuple dtypes
    cdef public bint shared
    cdef public int payloads
    cdef public long long kept


@cython.final
cdef class ArrayKind:
    cdef public Type type
    cdef public Signature signature


@cython.final
cdef class Memo:
    cdef public object op
    cdef public dict attrs, table


@cython.final
cdef class ListMemo:
    cdef public object op
    cdef public dict table
    cdef public bint ragged


cdef Variable SCOPE
cdef ThisThread THREAD
cdef Recall RECALL
cdef Shapes SHAPES
cdef int ROW, FLOAT, INT, SHARED
cdef dict _blocks, _views, _shapes, _constants
cdef Memo ADD_MEMO, SUBTRACT_MEMO, MULTIPLY_MEMO, DIVIDE_MEMO, FLOOR_DIVIDE_MEMO, REMAINDER_MEMO, POWER_MEMO, NEGATIVE_MEMO, ABS_MEMO, MATMUL_MEMO, LOOKUP_MEMO
cdef Memo TAKE_MEMO, DETACH_MEMO, EQUAL_MEMO, NOT_EQUAL_MEMO, LESS_MEMO, LESS_EQUAL_MEMO, GREATER_MEMO, GREATER_EQUAL_MEMO, LOGICAL_AND_MEMO, LOGICAL_OR_MEMO, LOGICAL_NOT_MEMO

@cython.locals(e=Expr)
cpdef Expr handle(Tape tape, int row, Type kind)
cpdef become(Expr e, Expr other)
cpdef Memo memo_of(object op, dict attrs=*)
cpdef Expr apply(Memo memo, tuple operands)

@cython.locals(made=list)
cdef tuple _lists_as_arrays(tuple operands)

cpdef type_on(Tape tape, Expr e)

@cython.locals(e=Expr, tape=Tape, owner=Type, local=bint, arrays=bint, plain=bint, alone=bint, entry=MemoEntry)
cpdef Expr _again(Memo memo, tuple operands)

@cython.locals(e=Expr, table=dict)
cdef MemoEntry _found(Memo memo, Tape tape, Type owner, tuple operands, bint local)

@cython.locals(e=Expr)
cdef object _kind(Tape tape, tuple operands, int k)

@cython.locals(e=Expr, k=Py_ssize_t)
cdef tuple _brought(Tape tape, tuple operands)
cdef MemoEntry _recalled(Memo memo, Tape tape, tuple operands)
cdef _recall(Memo memo, Tape tape, tuple operands, MemoEntry entry)
cdef _keep(Tape tape, MemoEntry entry, object operands)

@cython.locals(e=Expr, k=Py_ssize_t, codes=bytes, row=int)
cpdef Expr _node(Tape tape, MemoEntry entry, tuple operands)

@cython.locals(
    e=Expr, first=Expr, kind=Type, tape=Tape, known=dict, found=Signature, given=list, row=int, mixed=bint
)
cpdef Expr listed_again(ListMemo memo, object operands)

@cython.locals(e=Expr, tape=Tape, kind=Type, there=Type, known=dict, found=Signature, rows=list, row=int)
cpdef Expr _listed_across(ListMemo memo, list given)

@cython.locals(tape=Tape)
cpdef object _known_value(Expr e)

@cython.locals(kind=Type, own=Expr)
cpdef Expr differentiable(Expr e)

@cython.locals(tape=Tape)
cpdef Expr view(Expr x, Type kind, Py_ssize_t offset)
cpdef Signature view_signature(Type source, Type kind)

@cython.locals(flows=bint)
cpdef int local_row(Tape tape, Expr e) except -2

@cython.locals(tape=Tape, signature=Signature, row=int, made=list)
cpdef list views(Expr x, Type kind, IntColumn offsets)

@cython.locals(row=int)
cpdef Expr _view_node(Tape tape, Signature signature, int operand, Py_ssize_t offset)
cpdef Expr constant_node(Tape tape, object array)

@cython.locals(row=int)
cpdef Expr constant_of(Tape tape, ArrayKind kind, object array)

@cython.locals(found=ArrayKind, kind=Type)
cpdef ArrayKind array_kind(Tape tape, object array)
cpdef object copied_array(object value, object dtype)

@cython.locals(tape=Tape)
cpdef Expr constant(object value)

@cython.locals(row=int, number=object)
cpdef Expr append(Tape tape, Signature signature, object rows, object ints=*, object floats=*)
cpdef bint _all_int(tuple parts)

cpdef object _part(object key)
cdef object _end(object end)
cdef object _as_indices(object key)

@cython.locals(memo=Memo)
cdef Expr _slice_again(object x, object key)
cpdef object taken_within(object x, object indices)

@cython.locals(e=Expr, shape=tuple)
cdef Expr _indexed_again(Memo memo, object x, object index, int axis, int ndim, bint arrays)
cpdef bint _is_index_array(object value)

@cython.locals(e=Expr, first=Expr, second=Expr, tape=Tape, entry=MemoEntry, row=int)
cdef Expr _layer_again(Memo memo, object weight, object bias, object x)

@cython.locals(e=Expr)
cpdef Expr subscripted(object x, object key)
cpdef Type imported_type(Expr e)

@cython.locals(e=Expr, codes=bytes, k=Py_ssize_t, made=list)
cpdef tuple _prepared(Tape tape, MemoEntry entry, tuple operands)

@cython.locals(a=Expr, tape=Tape, entry=MemoEntry, row=int)
cpdef Expr apply1(Memo memo, object x)

@cython.locals(tape=Tape, scope=Scope, held=Held)
cdef Tape open_here()

@cython.locals(tape=Tape)
cdef Tape _here()

@cython.locals(e=Expr, tape=Tape, entry=MemoEntry, codes=bytes, row=int)
cdef Expr _again2(Memo memo, object x, object y)
cpdef Expr apply2(Memo memo, object x, object y)

@cython.locals(first=Expr, other=Expr)
cdef Tape _common_tape(object x, object y)

@cython.locals(e=Expr, table=dict, entry=MemoEntry, recalled=MemoEntry)
cdef MemoEntry _entry2(Memo memo, object x, object y)

@cython.locals(codes=bytes, last=bint, is_float=bint)
cdef bint _paid(Tape tape, MemoEntry entry, object x, object y) except? -1

@cython.locals(e=Expr, signature=Signature, row=int, k=int, results=list)
cpdef list nodes(Tape tape, tuple signatures, tuple operands)

@cython.locals(e=Expr, k=Py_ssize_t, local=bint)
cpdef tuple operands_on(Tape tape, tuple expressions, tuple types)

@cython.locals(e=Expr)
cpdef Tape open_tape(tuple operands)

@cython.locals(e=Expr, found=list)
cpdef list all_in_dtype(object xs, object dtype)
