"""Kernels as CUDA C: what a GPU gets. One launch has all of a kernel, gathers and sums at rows included.

A thread computes one element; where a row gets the sum of its elements, a warp computes a row, and adds in double
precision. How wide a row is and where columns begin are arguments: a model of another size has the same text, and is
not compiled again.

Rows are added to a buffer by atomic additions, since they may repeat: so where three or more rows meet in one place,
their sum may differ in its last bits from run to run. Under ``lf.using(deterministic=True)`` a kernel leaves them in
matrices of their own instead, and `lazyflow.cuda.rows.add_in_order` adds these.

What is ``stored`` in 16 bits is computed with in float32: loads widen it, and stores round it to nearest even.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from lazyflow import device as devices
from lazyflow import settings
from lazyflow.cuda.module import WARP, functions, launch
from lazyflow.cuda.rows import Part, add_in_order
from lazyflow.cuda.text import NUMBER_FORMS, REALS, STORED, Number, expression, literal
from lazyflow.device import Array, HostArray
from lazyflow.fuse.scalar import (
    ARG_BLOCK,
    ARG_NUMBER,
    ARG_ROWS,
    ARG_VECTOR,
    ROWS_OF_ALL,
    ROWS_OF_LAUNCH,
    ROWS_OF_SOME,
    Argument,
    Builder,
    Instruction,
    Kernel,
    ScalarValue,
    Store,
    with_storage,
)

INTEGER = "int"  # the key of payload that is whole
_ROW = {ROWS_OF_ALL: "i", ROWS_OF_LAUNCH: "(i - first)", ROWS_OF_SOME: "(i - low)"}


def shifts(kernel: Kernel) -> list[tuple[int, int]]:
    """Where columns of arguments begin, as an argument's number and a column, without those that begin at column 0."""
    uses = [(c.argument, c.shift) for c in kernel.instructions if c.name == "load"]
    uses += [(store.argument, store.shift) for store in kernel.stores]
    return [use for use in dict.fromkeys(uses) if use[1]]


def sizes(kernel: Kernel) -> list[np.int32]:
    """What stands in front of the kernel's arguments: the width of a row, and the `shifts`."""
    return [np.int32(kernel.width), *(np.int32(shift) for _, shift in shifts(kernel))]


ROW_PARAMETERS = ("int low", "int high", "int first")


def parameters(kernel: Kernel, others: Sequence[int] = ()) -> Iterator[str]:
    """What stands behind `ROW_PARAMETERS`: `sizes`, and of each argument a pointer, and behind it the offsets of
    `ARG_ROWS`, the pitch of an `ARG_BLOCK`. An `ARG_NUMBER` is int64 or float64 in any kernel, as payload is.
    ``others``: arguments that are written beside those that the kernel stores to."""
    written = {*(store.argument for store in kernel.stores), *others}
    yield "int width"
    yield from (f"int shift{k}" for k in range(len(shifts(kernel))))
    for a, argument in enumerate(kernel.arguments):
        if argument.kind == ARG_NUMBER:
            yield f"const {'long long' if argument.key[0] == INTEGER else 'double'}* a{a}"
            continue
        yield f"{'' if a in written else 'const '}{_number_of(kernel, a).kept}* a{a}"
        if argument.kind == ARG_ROWS:
            yield f"const long long* at{a}"
        elif argument.kind == ARG_BLOCK:
            yield f"int pitch{a}"


def spelled_shift(kernel: Kernel, a: int, shift: int) -> str:
    """What a column of an argument is called at which others begin."""
    return f"shift{shifts(kernel).index((a, shift))}" if shift else "0"


def _number_of(kernel: Kernel, a: int) -> Number:
    return NUMBER_FORMS[kernel.arguments[a].stored or REALS[kernel.dtype.name]]


def element(kernel: Kernel, a: int, shift: int) -> str:
    """Column ``shift + j`` of row ``i`` of an argument, or ``shift`` alone where that stands for the whole row."""
    argument, begin = kernel.arguments[a], spelled_shift(kernel, a, shift)
    column = begin if argument.columns == 1 else f"{begin} + j" if shift else "j"
    if argument.kind == ARG_NUMBER:
        return f"a{a}[i]"
    if argument.kind == ARG_VECTOR:
        return f"a{a}[{column}]"
    if argument.kind == ARG_ROWS:
        return f"a{a}[at{a}[i] + {column}]"
    return f"a{a}[(long long){_ROW[argument.rows]} * pitch{a} + {column}]"


def gets_sum(kernel: Kernel, store: Store) -> bool:
    """Whether one element gets the sum of a row."""
    return kernel.arguments[store.argument].columns == 1 != kernel.width


def has_sums(kernel: Kernel) -> bool:
    """Whether a row is computed by a warp."""
    return any(gets_sum(kernel, store) for store in kernel.stores)


def source(kernel: Kernel, name: str) -> str:
    """The text of the kernel under that name."""
    head = f'extern "C" __global__ void {name}({", ".join((*ROW_PARAMETERS, *parameters(kernel)))}) {{'
    body = _by_warps(kernel) if has_sums(kernel) else _by_threads(kernel)
    return "\n".join([head, *(f"    {line}" for line in body), "}\n"])


def _by_threads(kernel: Kernel) -> list[str]:
    return [
        "const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x;",
        "const int i = low + (int)(e / width), j = (int)(e - (i - low) * (long long)width);",
        "if (i >= high) return;",
        *computed_values(kernel),
        *(stored_text(kernel, store) for store in kernel.stores),
    ]


def _by_warps(kernel: Kernel) -> list[str]:
    summed = [(k, store) for k, store in enumerate(kernel.stores) if gets_sum(kernel, store)]
    others = [store for store in kernel.stores if not gets_sum(kernel, store)]
    real = REALS[kernel.dtype.name]
    lines = [
        f"const int lane = threadIdx.x % {WARP};",
        f"const int i = low + (int)(((long long)blockIdx.x * blockDim.x + threadIdx.x) / {WARP});",
        "if (i >= high) return;  // a warp as a whole",
        *(f"double sum{k} = 0;" for k, _ in summed),
        f"for (int j = lane; j < width; j += {WARP}) {{",
        *(f"    {line}" for line in computed_values(kernel)),
        *(f"    {stored_text(kernel, store)}" for store in others),
        *(f"    sum{k} += {_spelled(kernel, store.value)};" for k, store in summed),
        "}",
    ]
    for k, store in summed:
        lines.append(f"for (int d = {WARP // 2}; d; d /= 2) sum{k} += __shfl_down_sync(0xffffffffu, sum{k}, d);")
        lines.append(f"if (lane == 0) {{ {_store_text(kernel, store, f'({real})sum{k}')} }}")
    return lines


_IN_MEMORY: Mapping[tuple[int, int], str] = {}


def computed_values(kernel: Kernel, known: Mapping[tuple[int, int], str] = _IN_MEMORY) -> Iterator[str]:
    """The instructions for one element, as declarations. ``known``: what stands for columns of arguments that are not
    to be read, by an argument's number and a column."""
    real = REALS[kernel.dtype.name]
    for number_, instruction in enumerate(kernel.instructions):
        name = known.get((instruction.argument, instruction.shift)) if instruction.name == "load" else None
        yield f"const {real} v{number_} = {_computed(kernel, instruction) if name is None else name};"


def _computed(kernel: Kernel, instruction: Instruction) -> str:
    real = REALS[kernel.dtype.name]
    if instruction.name == "load":
        loaded = element(kernel, instruction.argument, instruction.shift)
        value = _number_of(kernel, instruction.argument).value
        return f"{value}({loaded})" if value else f"({real}){loaded}"
    return expression(instruction.name, [_spelled(kernel, v) for v in instruction.inputs], real)


def _spelled(kernel: Kernel, value: ScalarValue) -> str:
    return literal(value, REALS[kernel.dtype.name]) if isinstance(value, float) else f"v{value}"


def stored_text(kernel: Kernel, store: Store) -> str:
    """The statement that stores a value."""
    return _store_text(kernel, store, _spelled(kernel, store.value))


def _store_text(kernel: Kernel, store: Store, value: str) -> str:
    target = element(kernel, store.argument, store.shift)
    if kernel.arguments[store.argument].kind == ARG_ROWS:
        return f"atomicAdd(&{target}, {value});" if store.adds else f"{target} = {value};"
    number = _number_of(kernel, store.argument)
    if number.bits:
        return f"{target} = {number.bits}({f'{number.value}({target}) + ' if store.adds else ''}{value});"
    return f"{target} {'+=' if store.adds else '='} {value};"


class CudaKernel:
    """A kernel on the device, called as those of the CPU are: with the first row, the one behind the last, the first of
    the launch, and the arguments in order, `ARG_ROWS` as buffer and offsets."""

    def __init__(self, kernel: Kernel, function: Callable[[], object]) -> None:
        self.kernel, self.function = kernel, function
        self.threads = WARP if has_sums(kernel) else kernel.width

    def __call__(self, low: int, high: int, first: int, *arrays: object) -> None:
        self.bound(*arrays)(low, high, first)

    def bound(self, *arrays: Array, hosts: Sequence[HostArray | None] = ()) -> Callable[[int, int, int], None]:
        """The kernel with its arrays, as a function of the rows. ``hosts``: of each argument that is `ARG_ROWS` the
        offsets on the host, where they are there."""
        if settings.current().deterministic and any(_is_added(self.kernel, store) for store in self.kernel.stores):
            return self._in_order(arrays, hosts)
        arguments = [*sizes(self.kernel), *with_pitches(self.kernel, arrays)]

        def run(low: int, high: int, first: int) -> None:
            rows = [np.int32(low), np.int32(high), np.int32(first)]
            launch(self.function(), (high - low) * self.threads, rows + arguments)

        return run

    def _in_order(self, arrays: Sequence[object], hosts: Sequence[object]) -> Callable[[int, int, int], None]:
        kernel, stores = self.kernel, [store for store in self.kernel.stores if _is_added(self.kernel, store)]
        begin = list(itertools.accumulate((1 + (a.kind == ARG_ROWS) for a in kernel.arguments), initial=0))
        program, host = cuda_function(_with_own_rows(kernel)), dict(enumerate(hosts))

        def run(low: int, high: int, first: int) -> None:
            count, xp = high - low, devices.module(arrays[0])
            widths = [1 if gets_sum(kernel, store) else kernel.width for store in stores]
            apart = [xp.empty((count, width), kernel.dtype) for width in widths]
            program(low, high, first, *arrays, *apart)
            for store, rows, width in zip(stores, apart, widths, strict=True):
                buffer, at = arrays[begin[store.argument] :][:2]
                add_in_order(buffer, rows, Part(at, 1, store.shift, 0, width, host.get(store.argument)), low)

        return run


def with_pitches(kernel: Kernel, arrays: Sequence[Array]) -> Iterator[object]:
    """What stands behind `sizes`: the arrays, and behind those of `ARG_BLOCK` their pitch."""
    position = 0
    for argument in kernel.arguments:
        array = arrays[position]
        yield array
        position += 1
        if argument.kind == ARG_ROWS:
            yield arrays[position]
            position += 1
        elif argument.kind == ARG_BLOCK:
            yield np.int32(array.strides[0] // array.itemsize)


def _is_added(kernel: Kernel, store: Store) -> bool:
    return store.adds and kernel.arguments[store.argument].kind == ARG_ROWS


@functools.lru_cache(maxsize=4096)
def _with_own_rows(kernel: Kernel) -> Kernel:
    """The kernel with a matrix of its own for each store that adds to rows, in order, behind its other arguments."""
    arguments, stores = list(kernel.arguments), []
    for store in kernel.stores:
        if _is_added(kernel, store):
            columns = 1 if gets_sum(kernel, store) else kernel.width
            arguments.append(Argument(ARG_BLOCK, ("apart", len(arguments)), columns, ROWS_OF_SOME))
            store = Store(len(arguments) - 1, 0, store.value, False)
        stores.append(store)
    return replace(kernel, arguments=tuple(arguments), stores=tuple(stores))


@functools.lru_cache(maxsize=4096)
def in_one_module(kernels: tuple[Kernel, ...]) -> dict[Kernel, CudaKernel]:
    """Kernels of one module, which is compiled when one of them first runs."""
    names = tuple(f"fused_{k}" for k in range(len(kernels)))
    text = "\n".join(source(kernel, name) for kernel, name in zip(kernels, names, strict=True))
    return {
        kernel: CudaKernel(kernel, functools.partial(_kernel_function, text, names, k))
        for k, kernel in enumerate(kernels)
    }


def _kernel_function(text: str, names: tuple[str, ...], k: int) -> object:
    return functions(text, names)[k]


def cuda_function(kernel: Kernel) -> CudaKernel:
    """The kernel in a module of its own."""
    return in_one_module((kernel,))[kernel]


@functools.cache
def _moving(stored: str, columns: int, adds: bool) -> CudaKernel:
    """From one matrix to another, which is stored in 16 bits, and so is the first if it ``adds``."""
    b = Builder(columns, np.dtype(np.float32))
    b.store(ARG_BLOCK, ("to",), 0, columns, b.load(ARG_BLOCK, ("from",), 0, columns), adds=adds)
    return cuda_function(with_storage(b.kernel(), stored, [("to",), ("from",)] if adds else [("to",)]))


def narrowed(matrix: Array, stored: str) -> Array:
    """A copy of a matrix of float32, in 16 bits: an array of `STORED`."""
    found = devices.module(matrix).empty(matrix.shape, STORED[stored])
    _moving(stored, matrix.shape[1], False)(0, len(matrix), 0, matrix, found)
    return found


def add_stored(target: Array, rows: Array) -> None:
    """``target += rows`` of matrices that are stored in 16 bits."""
    [stored] = [name for name, dtype in STORED.items() if dtype == rows.dtype]
    _moving(stored, rows.shape[1], True)(0, len(rows), 0, rows, target)


# Many arrays in one launch: the rule of an optimizer for all parameters.

TABLE_COLUMNS = 3  # of the table in front of the addresses
_TENSORS = """\
extern "C" __global__ void {name}(const long long* table, int tensors, long long total) {{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (e >= total) return;
    int low = 0, high = tensors - 1;
    while (low < high) {{
        const int middle = (low + high) / 2;
        if (e < table[(long long)middle * {columns}]) high = middle; else low = middle + 1;
    }}
    const long long* row = table + (long long)low * {columns};
    const double* numbers = (const double*)(table + (long long)tensors * {columns}) + (long long)low * {numbers};
    const long long at = low ? e - row[-{columns}] : e;
    const long long* rows = (const long long*)row[1];
    const long long place = rows ? rows[at / row[2]] * row[2] + at % row[2] : at;
{body}
}}
"""


def source_of_tensors(kernel: Kernel, name: str, numbers: int, apart: frozenset[str]) -> str:
    """The text of a kernel of single elements for any number of tensors at once.

    They stand in a table: where the elements of each end, the address of the rows that are touched (0 for all), the
    width of a row, and the addresses of the kernel's blocks; behind it ``numbers`` of each, in double precision. Blocks
    named in ``apart`` have an element for each that is touched, and no others.
    """
    real = REALS[kernel.dtype.name]
    blocks = [a for a, argument in enumerate(kernel.arguments) if argument.kind == ARG_BLOCK]

    def element_of(a: int, shift: int) -> str:
        if a not in blocks:
            return f"({real})numbers[{shift}]"
        place = "at" if kernel.arguments[a].key[0] in apart else "place"
        return f"(({real}*)row[{TABLE_COLUMNS + blocks.index(a)}])[{place}]"

    lines = []
    for k, instruction in enumerate(kernel.instructions):
        if instruction.name == "load":
            found = element_of(instruction.argument, instruction.shift)
        else:
            found = _computed(kernel, instruction)
        lines.append(f"    const {real} v{k} = {found};")
    for store in kernel.stores:
        lines.append(f"    {element_of(store.argument, 0)} = {_spelled(kernel, store.value)};")
    columns = TABLE_COLUMNS + len(blocks)
    return _TENSORS.format(name=name, columns=columns, numbers=max(numbers, 1), body="\n".join(lines))
