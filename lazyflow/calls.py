"""The calls of one cell in a run: their slabs, and the steps of its stages over ranges of them, forward and backward.

A *call* is one node; the calls of a signature in one phase are numbered in the order in which they run. What the stages
of a program keep of a call is a row of a slab, so that a launch is a range of rows, and what is left to the end (weight
gradients, hoisted and sunk steps) is all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lazyflow import device as devices
from lazyflow import jit
from lazyflow.arena import POOL, Arena
from lazyflow.expr import Parameter
from lazyflow.fuse.blocks import add_rows, rows_of
from lazyflow.fuse.scalar import NUMBER, ROWS, VECTOR, Kernel
from lazyflow.ops.base import Array, unbroadcast
from lazyflow.ops.linalg import column_sums, rows_product
from lazyflow.ops.sparse import RowSparse
from lazyflow.program import (
    CONSTANT,
    FLOAT,
    HOISTED,
    INPUT,
    INT,
    MAIN,
    NODE,
    PARAMETER,
    STATIC,
    SUNK,
    Assemble,
    Call,
    Fused,
    Node,
    Product,
    Ref,
    Stages,
    compiled,
)

Accumulate = Callable[[Parameter, Any], None]
Key = Any


class Slabs:
    """Matrices from the pool, which get them back when nobody holds this any more."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.buffers: list[Array] = []

    def matrix(self, rows: int, columns: int, dtype: Any) -> Array:
        """A matrix whose contents are undefined."""
        buffer = POOL.take(self.device, np.dtype(dtype), rows * columns)
        self.buffers.append(buffer)
        return buffer[: rows * columns].reshape(rows, columns)

    def __del__(self) -> None:
        for buffer in self.buffers:
            POOL.give(self.device, buffer)


class Calls:
    """``count`` calls of one cell. ``inputs[k]`` and ``outputs[k]``: the element offsets of operands and results in the
    arena, one for each call; ``ints`` and ``floats``: their payload numbers.

    ``largest``: how many calls the largest launch has.
    """

    def __init__(
        self,
        stages: Stages,
        arena: Arena,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        ints: Sequence[Array],
        floats: Sequence[Array],
        parameters: Sequence[Parameter],
        count: int,
        largest: int,
        grad: bool,
    ) -> None:
        self.stages, self.program, self.nodes = stages, stages.program, stages.program.nodes
        self.arena, self.device, self.grad = arena, arena.device, grad
        self.xp = devices.array_module(arena.device)
        self.at, self.out_at, self.ints, self.floats = inputs, outputs, ints, floats
        self.parameters, self.count, self.largest = parameters, count, largest
        self.memory = Slabs(arena.device)
        self.whole = grad or bool(stages.steps[HOISTED] or stages.steps[SUNK])
        self.rows = count if self.whole else largest
        self.slabs = [self.memory.matrix(self.rows, s.columns, s.dtype) for s in stages.slabs]
        self.out = [self._block(arena, k) for k in range(len(self.program.outputs))]
        self.xs: dict[int, Array] = {}  # left sides of products, by step
        self.views: set[int] = set()  # those that lie in the arena
        self.shared: dict[int, Array] = {}
        self.bound: dict[Any, Any] = {}
        self.scattered = False  # results do not lie one behind the other: some of the calls of a run

    def _block(self, arena: Arena, k: int) -> Array:
        node = self.nodes[self.program.outputs[k]]
        first = int(self.out_at[k][0])
        return arena.buffers[node.dtype][first : first + self.count * node.size].reshape(self.count, node.size)

    # Values.

    def forward(self, low: int, high: int) -> None:
        """Run the calls from ``low`` to ``high``."""
        if low == 0:
            self._run_shared()
            self._run(HOISTED, 0, self.count)
        self._run(MAIN, low, high)
        if high == self.count:
            self._run(SUNK, 0, self.count)

    def _run(self, stage: int, low: int, high: int) -> None:
        for step in self.stages.steps[stage]:
            if isinstance(step, Fused):
                self._kernel(step.forward, low, high)
            elif isinstance(step, Product):
                self._product(step, low, high)
            elif isinstance(step, Assemble):
                for part, column in zip(step.parts, step.at, strict=True):
                    self._copy(part, low, high, self._place(step.place.slab, low, high), column)
            else:
                self._call(step, low, high)

    def _run_shared(self) -> None:
        for i in self.stages.shared:
            signature = self.nodes[i].signature
            assert signature is not None
            self.shared[i] = signature.forward(self.xp, *self._shared_operands(self.nodes[i]))

    def _slab(self, slab: int, low: int, high: int) -> Array:
        return self.slabs[slab][low:high] if self.whole else self.slabs[slab][: high - low]

    def _place(self, slab: int, low: int, high: int) -> Array:
        """The rows of a slab, or, for -1 - k, of output ``k``."""
        return self._slab(slab, low, high) if slab >= 0 else self.out[-1 - slab][low:high]

    def _values(self, i: int, low: int, high: int) -> Array:
        """The rows of a node that lies in memory."""
        k = self.stages.output_of.get(i)
        if k is not None:
            return self.out[k][low:high]
        place = self.stages.places[i]
        return self._slab(place.slab, low, high)[:, place.column : place.column + self.nodes[i].size]

    def _part(self, ref: Ref, low: int, high: int) -> Array:
        """The rows of an input or a node, as a matrix."""
        if ref.kind == INPUT:
            return rows_of(self.arena.buffers[ref.dtype], self.at[ref.index][low:high] + ref.shift, ref.size)
        return self._values(ref.index, low, high)[:, ref.shift : ref.shift + ref.size]

    def _copy(self, ref: Ref, low: int, high: int, out: Array, column: int) -> None:
        """Put the rows of an input or a node into columns of a matrix."""
        if ref.kind == INPUT and self.stages.fuse == "numba":
            at = self.at[ref.index][low:high]
            at = at + ref.shift if ref.shift else at
            jit.row_copies().gather(out, column, self.arena.buffers[ref.dtype], at, ref.size)
        else:
            out[:, column : column + ref.size] = self._part(ref, low, high)

    def _product(self, step: Product, low: int, high: int) -> None:
        x = self._operand(step, low, high)
        weight = self._weights(step)[0]
        out = self._place(step.place.slab, low, high)[:, step.place.column : step.place.column + step.columns]
        rows_product(self.xp, x, weight, out)

    def _operand(self, step: Product, low: int, high: int) -> Array:
        """The left side of a product: where it lies, or gathered into a matrix that is kept for the weight gradient."""
        ref = step.x
        if ref.kind != INPUT:
            return self._part(ref, low, high)
        key = id(step)
        if key not in self.xs:
            evenly = self._evenly(ref)
            self.xs[key] = self.memory.matrix(self.rows, ref.size, ref.dtype) if evenly is None else evenly
            if evenly is not None:
                self.views.add(key)
        if key in self.views:
            return self.xs[key][low:high]
        x = self.xs[key][low:high] if self.whole else self.xs[key][: high - low]
        self._copy(ref, low, high, x, 0)
        return x

    def _evenly(self, ref: Ref) -> Array | None:
        """All rows of an input as a view of the arena, if they lie one behind the other."""
        at = self.at[ref.index]
        if len(at) > 1 and not (at[1:] - at[:-1] == ref.size).all():
            return None
        first = int(at[0]) + ref.shift
        return self.arena.buffers[ref.dtype][first : first + len(at) * ref.size].reshape(len(at), ref.size)

    def _weights(self, step: Product) -> tuple[Array, Array]:
        """The weights of a product, (k, m) and (m, k), both with contiguous rows; laid out once an update."""
        parameters = [self.parameters[ref.index] for ref in step.parameters]
        if len(parameters) == 1:
            return parameters[0].columns(self.arena.number).T, parameters[0].array
        key = tuple((p.version, self.arena.number if p._exposed else 0) for p in parameters)
        known = self.stages.weights.get(id(step))
        if known is None or known[0] != key:
            joined = self.xp.concatenate([p.array for p in parameters])
            known = self.stages.weights[id(step)] = key, self.xp.ascontiguousarray(joined.T), joined
        return known[1], known[2]

    def _call(self, step: Call, low: int, high: int) -> None:
        node = self.nodes[step.node]
        assert node.signature is not None
        target = self._values(step.node, low, high)
        shaped = target.reshape((high - low, *node.shape))
        out = shaped if self.xp is not np or np.may_share_memory(shaped, target) else None
        result = node.signature.forward(self.xp, *self._operands(node, low, high), out=out)
        if out is None:
            target[...] = self.xp.broadcast_to(result, shaped.shape).reshape(target.shape)
        elif result is not out:
            out[...] = result

    def _operands(self, node: Node, low: int, high: int) -> list[Array]:
        """What an operation's own kernel takes: one array for each operand, with a batch axis unless it is shared."""
        signature = node.signature
        assert signature is not None
        arrays = [self._array(ref, low, high) for ref in node.reads]
        if not signature.op.stacked:
            return arrays
        count = len(arrays)
        if node.batch:
            shape = node.reads[0].shape
            arrays = [self.xp.broadcast_to(a, (high - low, *shape)) if a.ndim == len(shape) else a for a in arrays]
        joined = self.xp.stack(arrays, axis=1 if node.batch else 0)
        if not signature.op.ragged:
            return [joined]
        rows = high - low if node.batch else 1
        flat = joined.reshape((rows * count, *node.reads[0].shape))
        return [flat, self.xp.full(rows, count, np.int64)]

    def _shared_operands(self, node: Node) -> list[Array]:
        """Those of an operation that has one value for all calls: stacked ones still need a batch axis."""
        assert node.signature is not None
        op, arrays = node.signature.op, self._operands(node, 0, 0)
        return [arrays[0][None]] if op.stacked and not op.ragged else arrays

    def _array(self, ref: Ref, low: int, high: int) -> Any:
        if ref.kind == STATIC:
            return ref.value
        if ref.kind == INT:
            return self.ints[ref.index][low:high]
        if ref.kind == FLOAT:
            return self.floats[ref.index][low:high].astype(ref.dtype).reshape((-1,) + (1,) * len(ref.shape))
        if ref.kind == PARAMETER:
            return self._flat(ref)[ref.shift : ref.shift + ref.size].reshape(ref.shape)
        if ref.kind == CONSTANT or (ref.kind == NODE and not self.nodes[ref.index].batch):
            return self._flat(ref)[ref.shift : ref.shift + ref.size].reshape(ref.shape)
        return self._part(ref, low, high).reshape((high - low, *ref.shape))

    def _flat(self, ref: Ref) -> Array:
        """A shared value as a vector."""
        if ref.kind == PARAMETER:
            return self.parameters[ref.index].array.reshape(-1)
        if ref.kind == CONSTANT:
            return devices.to_device(self.program.constants[ref.index], self.device).reshape(-1)
        return self.shared[ref.index].reshape(-1)

    # Kernels.

    def _kernel(self, kernel: Kernel, low: int, high: int) -> None:
        run, arguments = self.bound.get(id(kernel)) or self._bind(kernel)
        given: list[Any] = [high - low]
        for array, at, how in arguments:
            if how == ROWS:
                given.append(array)
                given.append(at[low:high])
            elif how == VECTOR:
                given.append(array)
            elif self.whole or how == NUMBER:
                given.append(array[low:high])
            else:
                given.append(array[: high - low] if at is None else array[low:high])
        run(*given)

    def _bind(self, kernel: Kernel) -> Any:
        """The function of a kernel and what it is called with."""
        arguments = [self._argument(a.kind, a.key, kernel.dtype) for a in kernel.arguments]
        found = self.bound[id(kernel)] = compiled(kernel, self.stages.fuse), arguments
        return found

    def _argument(self, kind: str, key: Any, dtype: Any) -> tuple[Array, Any, str]:
        what, which = key[0], key[1]
        if kind == ROWS:
            arena = self.arena if what == "input" else self.cotangent_arena
            return arena.buffers[dtype], self.at[which], kind
        if kind == NUMBER:
            return (self.ints if what == INT else self.floats)[which].astype(dtype), None, kind
        if kind == VECTOR:
            ref = Ref(what, which, 0, (), dtype, 0)
            return self._flat(ref), None, kind
        if what == "slab":
            return self.slabs[which], None, kind
        if what == "output":
            return self.out[which], True, kind
        return (self.cotangents if what == "cotangent" else self.out_cotangents)[which], True, kind

    # Some of the calls, where a gradient does not reach all of them.

    def part(
        self,
        rows: Array,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        ints: Sequence[Array],
        floats: Sequence[Array],
        largest: int,
    ) -> Calls:
        """The calls with the numbers ``rows``, for a backward pass of them alone; what was kept of them is copied."""
        some = object.__new__(Calls)
        some.__dict__.update(self.__dict__)
        some.at, some.out_at, some.ints, some.floats = inputs, outputs, ints, floats
        some.count, some.largest, some.bound = len(rows), largest, {}
        some.memory = Slabs(self.device)
        some.slabs = [slab[rows] for slab in self.slabs]
        some.xs = {key: x[rows] for key, x in self.xs.items()}
        some.out = [out[rows] for out in self.out]
        some.scattered = True
        return some

    # Cotangents.

    def begin_backward(self, cotangents: Arena) -> None:
        """Make the slabs of cotangents for one backward pass, whose arena is ``cotangents``."""
        self.cotangent_arena = cotangents
        self.backward_memory = Slabs(self.device)
        self.cotangents = [self._cotangent_slab(i) for i in range(len(self.stages.slabs))]
        self.out_cotangents = [self._out_cotangents(cotangents, k) for k in range(len(self.program.outputs))]

    def end_backward(self) -> None:
        """Let go of the slabs of cotangents."""
        for name in ("cotangent_arena", "backward_memory", "cotangents", "out_cotangents"):
            delattr(self, name)
        self.bound = {}

    def _cotangent_slab(self, i: int) -> Array:
        slab = self.stages.slabs[i]
        if slab.dtype.kind != "f":
            return None
        found = self.backward_memory.matrix(self.count, slab.columns, slab.dtype)
        if i in self.stages.zeroed:
            found.fill(0)
        return found

    def _out_cotangents(self, arena: Arena, k: int) -> Any:
        node = self.nodes[self.program.outputs[k]]
        if node.dtype.kind != "f":
            return None
        if not self.scattered:
            return self._block(arena, k)
        found = self.backward_memory.matrix(self.count, node.size, node.dtype)
        found.fill(0)
        return found

    def _gather_cotangents(self, stage: int, low: int, high: int) -> None:
        """Bring in what later launches have left for the results that a stage computes."""
        for k, i in enumerate(self.program.outputs):
            target = self.out_cotangents[k]
            if self.stages.stage[i] == stage and target is not None and high > low:
                buffer = self.cotangent_arena.buffers[self.nodes[i].dtype]
                rows = rows_of(buffer, self.out_at[k][low:high], max(self.nodes[i].size, 1))
                target[low:high] += rows[:, : self.nodes[i].size]

    def backward(self, low: int, high: int) -> None:
        """Hand the cotangents of the results of calls from ``low`` to ``high`` on to what they were made of."""
        if high == self.count:
            self._run_back(SUNK, 0, self.count)
        self._run_back(MAIN, low, high)
        if low == 0:
            self._run_back(HOISTED, 0, self.count)

    def _run_back(self, stage: int, low: int, high: int) -> None:
        if self.scattered:
            self._gather_cotangents(stage, low, high)
        for step in reversed(self.stages.steps[stage]):
            if isinstance(step, Fused):
                if step.backward is not None:
                    self._kernel(step.backward, low, high)
            elif isinstance(step, Product):
                if step.x_grad:
                    self._product_back(step, low, high)
            elif isinstance(step, Assemble):
                if step.grad:
                    cotangent = self._cotangents(step.place, step.columns, low, high)
                    for part, column in zip(step.parts, step.at, strict=True):
                        if part.grad:
                            self._add(part, cotangent[:, column : column + part.size], low, high)
            else:
                self._call_back(step, low, high)

    def _cotangents(self, place: Any, columns: int, low: int, high: int) -> Array:
        if place.slab < 0:
            return self.out_cotangents[-1 - place.slab][low:high]
        return self.cotangents[place.slab][low:high, place.column : place.column + columns]

    def _product_back(self, step: Product, low: int, high: int) -> None:
        g = self._cotangents(step.place, step.columns, low, high)
        weight = self._weights(step)[1]
        ref = step.x
        place = self.stages.places.get(ref.index) if ref.kind == NODE else None
        if place is not None and place.slab not in self.stages.zeroed:
            at = place.column + ref.shift
            rows_product(self.xp, g, weight, self.cotangents[place.slab][low:high, at : at + ref.size])
            return
        self._add(ref, rows_product(self.xp, g, weight), low, high)

    def _add(self, ref: Ref, rows: Array, low: int, high: int) -> None:
        """Add to the cotangents of an input or a node."""
        if ref.kind == INPUT:
            at = self.at[ref.index][low:high]
            at = at + ref.shift if ref.shift else at
            buffer = self.cotangent_arena.buffers[ref.dtype]
            if self.stages.fuse == "numba":
                jit.row_copies().add(buffer, at, rows, 0, ref.size)
            else:
                add_rows(buffer, at, rows)
            return
        k = self.stages.output_of.get(ref.index)
        if k is not None:
            target = self.out_cotangents[k][low:high, ref.shift : ref.shift + ref.size]
        else:
            place = self.stages.places[ref.index]
            at = place.column + ref.shift
            target = self.cotangents[place.slab][low:high, at : at + ref.size]
        target += rows

    def _call_back(self, step: Call, low: int, high: int) -> None:
        node = self.nodes[step.node]
        wanted = [(k, ref) for k, ref in enumerate(node.reads) if ref.grad and ref.kind in (INPUT, NODE)]
        wanted = [(k, ref) for k, ref in wanted if ref.kind == INPUT or self.nodes[ref.index].batch]
        for ref, cotangent in self._pulled_back(step.node, wanted, low, high):
            self._add(ref, unbroadcast(self.xp, cotangent, (high - low, *ref.shape)).reshape(high - low, -1), low, high)

    def _pulled_back(self, i: int, wanted: Sequence[tuple[int, Ref]], low: int, high: int) -> list[tuple[Ref, Array]]:
        """The cotangents of some operands of an operation, each with a batch axis in front where it has one."""
        node = self.nodes[i]
        signature = node.signature
        assert signature is not None
        if not wanted or not node.grad:
            return []
        g, y = self._rows_and_cotangents(i, low, high)
        arrays = self._operands(node, low, high)
        if not signature.op.stacked:
            vjps = [(ref, signature.operands[k].vjp) for k, ref in wanted]
            return [(ref, _dense(vjp(self.xp, g, y, *arrays))) for ref, vjp in vjps if vjp is not None]
        vjp = signature.operands[0].vjp
        assert vjp is not None
        whole = _dense(vjp(self.xp, g, y, *arrays))
        whole = whole.reshape((g.shape[0], len(node.reads), *node.reads[0].shape))
        return [(ref, whole[:, k]) for k, ref in wanted]

    def _rows_and_cotangents(self, i: int, low: int, high: int) -> tuple[Array, Array]:
        node = self.nodes[i]
        shape = (high - low, *node.shape)
        k = self.stages.output_of.get(i)
        if k is not None:
            return self.out_cotangents[k][low:high].reshape(shape), self.out[k][low:high].reshape(shape)
        place = self.stages.places[i]
        g = self.cotangents[place.slab][low:high, place.column : place.column + node.size]
        return g.reshape(shape), self._values(i, low, high).reshape(shape)

    # Gradients of what all calls share, once all cotangents are there.

    def parameter_gradients(self, accumulate: Accumulate) -> None:
        """Add the gradients of the parameters, one product or sum over all calls for each."""
        shared: dict[int, Array] = {}

        def add(ref: Ref, gradient: Array) -> None:
            if ref.kind == PARAMETER:
                parameter = self.parameters[ref.index]
                accumulate(parameter, self._whole(ref, gradient, parameter))
            elif ref.kind == NODE:
                flat = shared.setdefault(ref.index, self.xp.zeros(self.nodes[ref.index].size, ref.dtype))
                flat[ref.shift : ref.shift + ref.size] += gradient.reshape(-1)

        for steps in self.stages.steps:
            for step in steps:
                if isinstance(step, Product) and step.grad:
                    self._weight_gradients(step, add)
                elif isinstance(step, Call):
                    self._shared_gradients(step.node, add)
        for sum_ in self.stages.sums:
            add(sum_.ref, column_sums(self.xp, self._cotangents(sum_.place, sum_.ref.size, 0, self.count)))
        for i in reversed(self.stages.shared):
            if i in shared and self.nodes[i].grad:
                self._through_shared(i, shared[i], add)

    def _whole(self, ref: Ref, gradient: Any, parameter: Parameter) -> Any:
        if isinstance(gradient, RowSparse) or gradient.shape == parameter.shape:
            return gradient
        if ref.size == parameter.size:
            return gradient.reshape(parameter.shape)
        whole = self.xp.zeros(parameter.size, gradient.dtype)
        whole[ref.shift : ref.shift + ref.size] = gradient.reshape(-1)
        return whole.reshape(parameter.shape)

    def _weight_gradients(self, step: Product, add: Callable[[Ref, Array], None]) -> None:
        g = self._cotangents(step.place, step.columns, 0, self.count)
        x = self.xs[id(step)] if step.x.kind == INPUT else self._part(step.x, 0, self.count)
        gradient = self.xp.matmul(g.T, x)
        low = 0
        for ref in step.parameters:
            high = low + ref.shape[0]
            if ref.grad:
                add(ref, gradient[low:high] if len(step.parameters) > 1 else gradient)
            low = high

    def _shared_gradients(self, i: int, add: Callable[[Ref, Any], None]) -> None:
        """Of an operation with an operand that all calls share."""
        node = self.nodes[i]
        wanted = [(k, ref) for k, ref in enumerate(node.reads) if ref.grad and self._is_shared(ref)]
        signature = node.signature
        if not wanted or not node.grad or signature is None:
            return
        if signature.op.stacked:
            for ref, cotangent in self._pulled_back(i, wanted, 0, self.count):
                add(ref, unbroadcast(self.xp, cotangent, ref.shape))
            return
        g, y = self._rows_and_cotangents(i, 0, self.count)
        arrays = self._operands(node, 0, self.count)
        for k, ref in wanted:
            vjp = signature.operands[k].vjp
            assert vjp is not None
            gradient = vjp(self.xp, g, y, *arrays)
            if not isinstance(gradient, RowSparse):
                gradient = unbroadcast(self.xp, self.xp.asarray(gradient), ref.shape)
            elif ref.kind != PARAMETER:
                gradient = gradient.to_dense()
            add(ref, gradient)

    def _is_shared(self, ref: Ref) -> bool:
        return ref.kind == PARAMETER or (ref.kind == NODE and not self.nodes[ref.index].batch)

    def _through_shared(self, i: int, cotangent: Array, add: Callable[[Ref, Any], None]) -> None:
        node = self.nodes[i]
        signature = node.signature
        assert signature is not None
        g, y = cotangent.reshape((1, *node.shape)), self.shared[i].reshape((1, *node.shape))
        arrays = self._shared_operands(node)
        for k, ref in enumerate(node.reads):
            operand = signature.operands[0 if signature.op.stacked else k]
            if ref.grad and operand.vjp is not None:
                gradient = _dense(operand.vjp(self.xp, g, y, *arrays))
                if signature.op.stacked:
                    gradient = gradient.reshape((1, len(node.reads), *ref.shape))[:, k]
                add(ref, unbroadcast(self.xp, self.xp.asarray(gradient), ref.shape))


def _dense(gradient: Any) -> Array:
    return gradient.to_dense() if isinstance(gradient, RowSparse) else gradient
