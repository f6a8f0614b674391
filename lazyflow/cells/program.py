"""A cell as data: what its body computes for one call, and how that is cut into steps.

`Program` is the traced body: nodes in a topological order that read inputs, parameters, payload numbers and each other.
`staged` cuts it into `Stages` for one place in a graph. What needs no input that is computed in the recurrence is
*hoisted*: it runs once for all rows before the first launch. What no later step of the recurrence reads is *sunk*: it
runs once after the last. In between runs what is left, launch by launch.

A stage is a list of steps, each for any number of rows:

- `Product`: matrix products with parameters of everything that shares an operand, as ONE product;
- `Fused`: a chain of elementwise operations as one kernel (`lazyflow.fuse`), biases, slices and gathers inside;
- `Assemble`: vectors put side by side, operands of products;
- `OwnKernel`: any other operation, by its own kernel and vjps.

The weight gradients of all steps are left to the end, where each is one product over all rows.
"""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from lazyflow import core
from lazyflow.cells.lifetimes import (
    NO,
    Memory,
    Segment,
    memory_of,
    segments,
    stored_slabs,
    with_memory,
    with_stored,
)
from lazyflow.cells.steps import (
    ASSEMBLE,
    CALL,
    ELEMENTWISE,
    HOISTED,
    MAIN,
    PRODUCT,
    REF_CONSTANT,
    REF_FLOAT,
    REF_INPUT,
    REF_INT,
    REF_NODE,
    REF_PARAMETER,
    REF_STATIC,
    SUNK,
    Assemble,
    ColumnSum,
    Fused,
    Node,
    OwnKernel,
    Place,
    Product,
    Ref,
    Slab,
    Step,
    is_batched,
)
from lazyflow.cuda.text import STORED
from lazyflow.device import Array, DType, HostArray
from lazyflow.fuse import blocks, cuda, machine
from lazyflow.fuse.scalar import (
    ARG_BLOCK,
    ARG_NUMBER,
    ARG_ROWS,
    ARG_VECTOR,
    Builder,
    Kernel,
    ScalarValue,
    Store,
    is_cheap,
    is_fusable,
)
from lazyflow.graph.graph import Graph
from lazyflow.ops import OPS
from lazyflow.ops.base import NOTHING, Op, Result
from lazyflow.ops.formula import Formula, parse, pullback
from lazyflow.record.expr import signature_of
from lazyflow.record.tape import CONSTANT_OP as CONSTANT_NODE
from lazyflow.record.tape import INPUT_OP as INPUT_NODE
from lazyflow.record.tape import (
    Operand,
    Signature,
    Tape,
    Type,
    by_program,
    intern_type,
    output_signature,
    signature_by_id,
)
from lazyflow.record.trace import Trace


@dataclass(frozen=True, eq=False)
class Program:
    """The body of a cell. ``outputs``: the nodes that are its results, all distinct and with a value for each call."""

    name: str
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    inputs: tuple[Type, ...]
    parameters: tuple[Type, ...]
    constants: tuple[Array, ...]
    known: dict[object, Stages] = field(default_factory=dict)
    parts: dict[tuple[int, ...], Program] = field(default_factory=dict)

    def of_results(self, results: tuple[int, ...]) -> Program:
        """The program of some of the results alone, with what they are computed from."""
        found = self.parts.get(results)
        if found is None:
            found = self.parts[results] = self._of_results(results)
        return found

    def _of_results(self, results: tuple[int, ...]) -> Program:
        kept = sorted(set().union(*(self._below(self.outputs[k]) for k in results)))
        number = {node: k for k, node in enumerate(kept)}

        def moved(ref: Ref) -> Ref:
            return replace(ref, index=number[ref.index]) if ref.kind == REF_NODE else ref

        nodes = [replace(self.nodes[i], reads=tuple(map(moved, self.nodes[i].reads))) for i in kept]
        outputs = tuple(number[self.outputs[k]] for k in results)
        found = with_gradients_of_results(nodes, outputs)
        return Program(self.name, found, outputs, self.inputs, self.parameters, self.constants)

    def _below(self, node: int) -> set[int]:
        """The nodes that one is computed from, itself included."""
        return _below(self.nodes, node, grad=False)

    @cached_property
    def reached(self) -> tuple[frozenset[int], ...]:
        """Of each result, the inputs that its gradient flows to."""
        return tuple(frozenset(index for kind, index in leaves if kind == REF_INPUT) for leaves in self._leaves)

    @cached_property
    def _leaves(self) -> tuple[frozenset[tuple[str, int]], ...]:
        """Of each result, the inputs and parameters that its gradient flows to."""
        return tuple(
            frozenset(
                (ref.kind, ref.index)
                for i in _below(self.nodes, node, grad=True)
                if self.nodes[i].grad
                for ref in self.nodes[i].reads
                if ref.grad and ref.kind in (REF_INPUT, REF_PARAMETER)
            )
            for node in self.outputs
        )

    @cached_property
    def flows(self) -> HostArray:
        """Of each result, a row: to which of the inputs and parameters that a gradient flows to at all its own does."""
        every = sorted(frozenset().union(*self._leaves))
        return np.array([[leaf in mine for leaf in every] for mine in self._leaves], bool)

    def wants_gradient(self) -> set[tuple[str, int]]:
        """The inputs and parameters that a gradient flows to: pairs of ``"input"`` or ``"parameter"`` and a number."""
        return {(r.kind, r.index) for node in self.nodes if node.grad for r in node.reads if r.grad}

    def staged(self, external: frozenset[int], outside: frozenset[int], grad: bool, fuse: str) -> Stages:
        """The program cut into stages, where the inputs ``external`` come from outside of the recurrence and the
        outputs ``outside`` are read there only. ``fuse``: how kernels are ``printed`` (`lazyflow.run.way`)."""
        key = external, outside, grad, fuse
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = _Compiler(self, external, outside, grad, fuse).stages()
        return found


def _below(nodes: Sequence[Node], node: int, grad: bool) -> set[int]:
    """The nodes that one is computed from, itself included; ``grad``: those that its gradient flows to."""
    found: set[int] = set()
    stack = [node]
    while stack:
        i = stack.pop()
        if i not in found:
            found.add(i)
            reads = [ref for ref in nodes[i].reads if ref.kind == REF_NODE]
            stack.extend(ref.index for ref in reads if not grad or (ref.grad and nodes[i].grad))
    return found


def with_gradients_of_results(nodes: Sequence[Node], outputs: Sequence[int]) -> tuple[Node, ...]:
    """Nodes of which those have gradients that one of a result flows to: what is only read detached, compared or as an
    index has none, and what it rests on keeps ``grad is None``."""
    hot = set().union(*(_below(nodes, node, grad=True) for node in outputs))
    return tuple(node if i in hot else _without_gradient(node) for i, node in enumerate(nodes))


def _without_gradient(node: Node) -> Node:
    return replace(node, grad=False, reads=tuple(replace(ref, grad=False) for ref in node.reads))


PayloadEntries = tuple[tuple[str, int], ...]


def program_of(
    name: str, graph: Graph, tape: Tape, trace: Trace
) -> tuple[Program, tuple[int, ...], PayloadEntries, PayloadEntries] | None:
    """The program of a traced body, the numbers of the operands that it reads, and what its payload is filled with.

    None if a result is the same for all calls.
    """
    reader = _Reader(graph, tape, trace)
    nodes, outputs = reader.nodes()
    if not outputs or not all(nodes[i].batch for i in outputs):
        return None
    program = Program(
        name,
        with_gradients_of_results(nodes, outputs),
        tuple(outputs),
        tuple(signature_by_id(tape.signatures[row]).type for row in reader.inputs),
        tuple(reader.parameters),
        tuple(reader.constants),
    )
    numbers = {row: k for k, row in enumerate(_input_rows(tape))} | trace.given
    return program, tuple(numbers[row] for row in reader.inputs), tuple(reader.ints), tuple(reader.floats)


def _input_rows(tape: Tape) -> list[int]:
    return [row for row, s in enumerate(tape.signatures) if signature_by_id(s).op is INPUT_NODE]


def call_signature(program: Program, results: Sequence[Type], ints: int, floats: int) -> Signature:
    """The signature of the calls of a program, with its results' types and the count of its payload numbers."""
    wants = program.wants_gradient()
    operands = [
        Operand("row", k, kind, kind.shape, kind.dtype, by_program if ("input", k) in wants else None)
        for k, kind in enumerate(program.inputs)
    ]
    operands += [
        Operand("shared", 0, kind, kind.shape, kind.dtype, by_program if ("parameter", k) in wants else None)
        for k, kind in enumerate(program.parameters)
    ]
    index, number = np.dtype(np.int64), np.dtype(np.float64)
    operands += [Operand("int", k, None, (), index, None) for k in range(ints)]
    operands += [Operand("float", k, None, (), number, None) for k in range(floats)]
    first, *rest = results
    signature = Signature(
        Op(program.name, _no_shape_rule, by_program), tuple(operands), first, NOTHING, len(program.inputs)
    )
    signature.cell = program
    signature.further = tuple(output_signature(first, kind) for kind in rest)
    return signature


def _no_shape_rule(*_: object, **__: object) -> Result:
    raise TypeError("the shapes of a cell's results are found by tracing it")


class _Reader:
    """Turns the graph of a traced body into nodes."""

    def __init__(self, graph: Graph, tape: Tape, trace: Trace) -> None:
        self.graph, self.tape, self.trace = graph, tape, trace
        self.inputs: dict[int, int] = {}  # by row of the tape
        self.parameters: dict[Type, int] = {}
        self.constants: list[Array] = []
        self.ints: dict[tuple[str, int], int] = {}
        self.floats: dict[tuple[str, int], int] = {}
        self.found: list[Node] = []
        self.refs: dict[int, Ref] = {}  # of each node of the graph, as a whole

    def nodes(self) -> tuple[list[Node], list[int]]:
        """All nodes, and which are the results."""
        for i in range(len(self.graph)):
            self.refs[i] = self._read(i, self.graph.signatures[self.graph.signature[i]])
        return self.found, [self.refs[base].index for base, _ in self.graph.roots]

    def _read(self, i: int, signature: Signature) -> Ref:
        row, kind = int(self.graph.origin[i]), signature.type
        if signature.op is INPUT_NODE or row in self.trace.given:
            index = self.inputs.setdefault(row, len(self.inputs))
            return Ref(REF_INPUT, index, 0, kind.shape, kind.dtype, kind.size, kind.requires_grad)
        if signature.op is CONSTANT_NODE:
            self.constants.append(self.tape.objects[row])
            return Ref(REF_CONSTANT, len(self.constants) - 1, 0, kind.shape, kind.dtype, kind.size)
        reads = self._operands(i, signature, row)
        if signature.op.name == "detach" and not any(i == base for base, _ in self.graph.roots):
            return replace(reads[0], grad=False)  # no copy is needed: here every read says whether a gradient flows
        return self._split_affine(signature, reads) or self._add(signature, reads)

    def _operands(self, i: int, signature: Signature, row: int) -> tuple[Ref, ...]:
        graph = self.graph
        start, end = int(graph.starts[i]), int(graph.starts[i + 1])
        if signature.op.stacked:
            return tuple(self._row(e, signature.operands[0]) for e in range(start, end))
        found = []
        for o in signature.operands:
            if o.kind == "row":
                found.append(self._row(start + o.position, o))
            elif o.kind == "shared":
                assert o.type is not None
                index = self.parameters.setdefault(o.type, len(self.parameters))
                found.append(Ref(REF_PARAMETER, index, 0, o.shape, o.dtype, o.type.size, o.vjp is not None))
            else:
                found.append(self._number(i, o, row))
        return tuple(found)

    def _row(self, edge: int, o: Operand) -> Ref:
        base, shift = int(self.graph.base[edge]), int(self.graph.shift[edge])
        whole = self.refs[base]
        assert o.type is not None
        grad = o.vjp is not None and whole.grad
        return replace(whole, shift=whole.shift + shift, shape=o.shape, size=o.type.size, grad=grad)

    def _number(self, i: int, o: Operand, row: int) -> Ref:
        column, kind = ("ints", REF_INT) if o.kind == "int" else ("floats", REF_FLOAT)
        starts = self.graph.int_starts if kind == REF_INT else self.graph.float_starts
        link = self.trace.links.get((row, column, o.position))
        if link is not None:
            known = self.ints if kind == REF_INT else self.floats
            return Ref(kind, known.setdefault(link.payload, len(known)), 0, o.shape, o.dtype, 1)
        value = getattr(self.graph, column)[starts[i] + o.position]
        number: object = np.asarray(value, np.int64) if kind == REF_INT else float(value)
        return Ref(REF_STATIC, -1, 0, o.shape, o.dtype, 1, value=number)

    def _split_affine(self, signature: Signature, reads: tuple[Ref, ...]) -> Ref | None:
        """``W x + b`` with a parameter ``W`` and a vector ``x`` as a product and a sum, which fuses with more."""
        name = signature.op.name
        if name == "affine":
            weight, bias, x = reads
        elif name == "matmul":
            (weight, x), bias = reads, None
        else:
            return None
        vectors = x.dtype == weight.dtype == signature.type.dtype and len(x.shape) == 1 and len(weight.shape) == 2
        if not vectors or x.dtype.kind != "f" or x.dtype.itemsize < 4 or weight.kind != REF_PARAMETER:
            return None
        if not is_batched(x, self.found) or (
            bias is not None and (is_batched(bias, self.found) or bias.dtype != x.dtype)
        ):
            return None
        kind = signature.type
        product = Node(PRODUCT, None, (weight, x), kind.shape, kind.dtype, kind.size, True, weight.grad or x.grad)
        self.found.append(product)
        whole = Ref(REF_NODE, len(self.found) - 1, 0, kind.shape, kind.dtype, kind.size, product.grad)
        if bias is None:
            return whole
        bias_kind = intern_type(bias.shape, bias.dtype, kind.device, bias.grad)
        product_kind = intern_type(kind.shape, kind.dtype, kind.device, product.grad)
        return self._add(signature_of(OPS["add"], (product_kind, bias_kind), {}), (whole, bias))

    def _add(self, signature: Signature, reads: tuple[Ref, ...]) -> Ref:
        kind = signature.type
        batch = any(is_batched(ref, self.found) for ref in reads)
        known = elementwise_formulas(signature.op) if signature.op.elementwise else None
        shape = kind.shape, kind.dtype, kind.size, batch, signature.differentiable
        if known is not None:
            node = Node(ELEMENTWISE, signature, reads, *shape, known[0], known[0].operands, known[1])
        elif self._assembles(signature, reads):
            ends = tuple(itertools.accumulate((ref.size for ref in reads), initial=0))
            node = Node(ASSEMBLE, signature, reads, *shape, column_ends=ends)
        else:
            node = Node(CALL, signature, reads, *shape)
        self.found.append(node)
        return Ref(REF_NODE, len(self.found) - 1, 0, *shape[:3], signature.differentiable)

    def _assembles(self, signature: Signature, reads: Sequence[Ref]) -> bool:
        """Whether a value is its operands' elements in order."""
        vectors = signature.op.name == "concatenate" and len(signature.type.shape) == 1
        in_order = vectors or (signature.op.stacked and signature.op.gathers)
        return in_order and all(ref.dtype == signature.type.dtype and is_batched(ref, self.found) for ref in reads)


@dataclass(frozen=True, eq=False)
class Stages:
    """A program cut into steps: ``steps[0]`` hoisted, ``steps[1]`` for each launch, ``steps[2]`` sunk.

    ``stage`` says in which of them a node is computed, ``places`` where the nodes lie that later steps read; outputs
    lie in the arena. ``slabs`` hold values; those in ``zeroed`` get cotangents from several steps, or not in all
    columns. ``sums`` are the gradients of biases and the like; ``shared`` are the nodes that have one value for all
    calls; ``memory`` says what the slabs need, ``segments`` which steps of each stage run on blocks of rows;
    ``stored``: how slabs lie in 16 bits, if some do; ``weights`` remembers how they are laid out, ``phases`` how
    launches that follow each other become one.
    """

    program: Program
    fuse: str
    stored: str
    steps: tuple[tuple[Step, ...], ...]
    stage: tuple[int, ...]
    places: Mapping[int, Place]
    slabs: tuple[Slab, ...]
    zeroed: frozenset[int]
    sums: tuple[ColumnSum, ...]
    shared: tuple[int, ...]
    memory: Memory
    segments: tuple[tuple[Segment, ...], ...]
    weights: dict[object, tuple[object, Array]] = field(default_factory=dict)
    phases: dict[str, Any] = field(default_factory=dict)

    def function_of(self, kernel: Kernel) -> Callable[..., None]:
        """A kernel of a step as a function; on a device all kernels are of one module."""
        return self._on_device[kernel] if self.fuse == "cuda" else function_for(kernel, self.fuse)

    @property
    def printed_by(self) -> str:
        """What `Program.staged` was told."""
        return f"{self.fuse} {self.stored}" if self.stored else self.fuse

    def multiplied_as(self, step: Product) -> DType:
        """The dtype of the two sides of a product, which is not that of an input where it is stored in 16 bits."""
        return step.x.dtype if step.place.slab < 0 else self.slabs[step.place.slab].dtype

    @cached_property
    def _on_device(self) -> Mapping[Kernel, Callable[..., None]]:
        fused = [step for stage in self.segments for part in stage for step in part.steps if isinstance(step, Fused)]
        kernels = [kernel for step in fused for kernel in (step.forward, step.backward) if kernel is not None]
        return cuda.in_one_module(tuple(kernels))

    @cached_property
    def output_of(self) -> Mapping[int, int]:
        """Which output a node is."""
        return {node: k for k, node in enumerate(self.program.outputs)}

    @cached_property
    def by_core(self) -> tuple[bool, ...]:
        """Of each stage, whether the core's line knows all its steps, so that all launches are one call of it."""
        return tuple(self.fuse == "core" and all(_is_known_step(step) for step in steps) for steps in self.steps)


def _is_known_step(step: Step) -> bool:
    if isinstance(step, Fused):
        kernels = [k for k in (step.forward, step.backward) if k is not None]
        return all(isinstance(function_for(kernel, "core"), core.machine.Program) for kernel in kernels)
    refs = [step.x] if isinstance(step, Product) else step.parts if isinstance(step, Assemble) else ()
    return all(ref.dtype.char in "fd" for ref in refs)


def elementwise_formulas(op: Op) -> tuple[Formula, tuple[Formula | None, ...]] | None:
    """The formula of an elementwise operation and its derivatives, or None if no printer knows all of them."""
    if not op.formula:
        return None
    forward = parse(op.formula["y"])
    slopes = tuple(pullback(op.formula[name]) if name in op.formula else None for name in forward.operands)
    known = all(is_fusable(f) for f in (forward, *slopes) if f is not None)
    return (forward, slopes) if known else None


def _may_be_read(ref: Ref, node: Node) -> bool:
    """Whether the fused kernel that computes the node can read an operand."""
    if ref.kind in (REF_STATIC, REF_FLOAT):
        return True
    return ref.dtype == node.dtype and ref.size in (1, node.size) and ref.size > 0


def _with_operands(nodes: Sequence[Node], some: Iterable[int]) -> set[int]:
    """Some nodes and all that they are made of."""
    found: set[int] = set()
    stack = list(some)
    while stack:
        i = stack.pop()
        if i not in found:
            found.add(i)
            stack.extend(ref.index for ref in nodes[i].reads if ref.kind == REF_NODE)
    return found


class _Compiler:
    """Cuts one program into stages; see `Program.staged`."""

    def __init__(
        self, program: Program, external: frozenset[int], outside: frozenset[int], grad: bool, fuse: str
    ) -> None:
        self.program, self.nodes, self.grad = program, program.nodes, grad
        self.fuse, _, stored = fuse.partition(" ")
        self.stored = stored if grad else ""
        self.output_of = {node: k for k, node in enumerate(program.outputs)}
        self.readers: list[list[tuple[int, Ref]]] = [[] for _ in self.nodes]
        for i, node in enumerate(self.nodes):
            for ref in node.reads:
                if ref.kind == REF_NODE:
                    self.readers[ref.index].append((i, ref))
        self.fused = [self._is_fused(node) for node in self.nodes]
        self.virtual = self._virtual()
        self.stage = self._stages(external, outside)
        self.level = self._levels()
        self.slabs: list[Slab] = []
        self.places: dict[int, Place] = {}

    # Which nodes go together.

    def _is_fused(self, node: Node) -> bool:
        if self.fuse == "off" or node.kind != ELEMENTWISE or not node.batch or node.formula is None:
            return False
        if node.dtype.name not in ("float32", "float64"):
            return False
        return all(_may_be_read(ref, node) for ref in node.reads)

    def _virtual(self) -> list[bool]:
        """Nodes of which only parts are read, such as the sum that is cut into gates: computed where a part is read."""
        virtual = [False] * len(self.nodes)
        for i in range(len(self.nodes) - 1, -1, -1):
            if self.fused[i] and i not in self.output_of and self.readers[i]:
                virtual[i] = all(
                    self.fused[user]
                    and ref.size == self._width(user)
                    and (virtual[user] or ref.size < self.nodes[i].size)
                    for user, ref in self.readers[i]
                )
        return virtual

    def _width(self, node: int) -> int:
        return self.nodes[node].size

    def _stages(self, external: frozenset[int], outside: frozenset[int]) -> list[int]:
        n = len(self.nodes)
        inputs = frozenset(range(len(self.program.inputs)))
        stage = [MAIN] * n
        if external < inputs and external:
            early = [False] * n
            for i, node in enumerate(self.nodes):
                early[i] = node.batch and all(
                    ref.index in external if ref.kind == REF_INPUT
                    else ref.kind != REF_NODE or not is_batched(ref, self.nodes) or early[ref.index]
                    for ref in node.reads
                )  # fmt: skip
            hoisted = _with_operands(self.nodes, (i for i in range(n) if early[i] and not self.fused[i]))
            for i in hoisted:
                if self.nodes[i].batch and not (self.virtual[i] and not self._read_by(i, hoisted)):
                    stage[i] = HOISTED
        inner = [node for node, k in self.output_of.items() if k not in outside]
        if inner and outside:
            needed = _with_operands(self.nodes, inner)
            sunk: set[int] = set()
            for i, node in enumerate(self.nodes):
                late = any(ref.kind == REF_NODE and ref.index in sunk for ref in node.reads)
                if i not in needed and node.batch and stage[i] == MAIN and (late or not self.fused[i]):
                    sunk.add(i)
            for i in sunk:
                stage[i] = SUNK
        return stage

    def _read_by(self, i: int, nodes: set[int]) -> bool:
        return any(user in nodes for user, _ in self.readers[i])

    def _levels(self) -> list[int]:
        """How many steps stand before each node; fused nodes of one level, size and stage are one kernel."""
        level = [0] * len(self.nodes)
        for i, node in enumerate(self.nodes):
            below = 0
            for ref in node.reads:
                if ref.kind == REF_NODE and self.nodes[ref.index].batch:
                    joins = self.fused[i] and self.fused[ref.index] and not self.virtual[i] and self._joins(i, ref)
                    below = max(below, level[ref.index] + (not joins and not self.virtual[ref.index]))
            level[i] = below
        return level

    def _joins(self, user: int, ref: Ref) -> bool:
        """Whether a fused node may stand in one kernel with what it reads."""
        whole = ref.size == self.nodes[ref.index].size == self._width(user)
        same = self.stage[ref.index] == self.stage[user] and self.nodes[ref.index].dtype == self.nodes[user].dtype
        return whole and same

    # Cutting into steps.

    def _segments(self, stage: Sequence[Step], memory: Memory, zeroed: frozenset[int]) -> tuple[Segment, ...]:
        found = segments(stage, self.nodes, self.places, memory, zeroed)
        return tuple(replace(segment, rows=None) for segment in found) if self.fuse == "cuda" else found

    def _stored(self, cut: list[list[Step]]) -> list[list[Step]]:
        """The steps with slabs that are stored in 16 bits where that is possible."""
        some = stored_slabs([*itertools.chain(*cut)], self.nodes, self.places, self.slabs) if self.stored else NO
        for slab in some:
            self.slabs[slab] = replace(self.slabs[slab], dtype=STORED[self.stored])
        return [[with_stored(step, self.stored, some) for step in stage] for stage in cut] if some else cut

    def stages(self) -> Stages:
        batched = [i for i, node in enumerate(self.nodes) if node.batch and not self.virtual[i]]
        groups: dict[Any, list[int]] = {}
        for i in batched:
            groups.setdefault(self._group(i), []).append(i)
        order = sorted(groups, key=lambda key: (key[0], key[1], min(groups[key])))
        self._place_all(order, groups)
        self.steps: list[tuple[int, Step]] = []
        self.exact: frozenset[int] = frozenset()
        placed = len(self.slabs)
        self._build(order, groups)
        self.exact = self._exact(placed)
        del self.slabs[placed:]
        self._build(order, groups)
        self.exact |= {sum_.place.slab for sum_ in self.sums if sum_.place.slab >= placed}
        zeroed = frozenset(range(len(self.slabs))) - self.exact
        cut = [[s for stage, s in self.steps if stage == which] for which in range(3)]
        summed = frozenset(sum_.place.slab for sum_ in self.sums)
        memory = memory_of(cut, self.nodes, self.places, self.exact, summed, len(self.slabs), self.grad)
        if self.fuse == "cuda":  # a device wants few launches: what a block holds, a launch holds there
            memory = replace(memory, rows=(None,) * len(self.slabs))
        whole = self.grad or bool(cut[HOISTED] or cut[SUNK])
        cut = self._stored([[with_memory(step, memory, whole) for step in stage] for stage in cut])
        return Stages(
            self.program,
            self.fuse,
            self.stored,
            tuple(map(tuple, cut)),
            tuple(self.stage),
            self.places,
            tuple(self.slabs),
            zeroed,
            tuple(_neighbours_joined(self.sums)),
            tuple(i for i, node in enumerate(self.nodes) if not node.batch),
            memory,
            tuple(self._segments(stage, memory, zeroed) for stage in cut),
        )

    def _group(self, i: int) -> tuple[object, ...]:
        node = self.nodes[i]
        head = (self.stage[i], self.level[i])
        if self.fused[i]:
            return (*head, "fused", node.size, node.dtype.name)
        if node.kind == PRODUCT:
            x = node.reads[1]
            return (*head, PRODUCT, x.kind, x.index, x.shift, x.size)
        return (*head, "one", i)

    def _place_all(self, order: Sequence[Any], groups: Mapping[Any, list[int]]) -> None:
        for key in order:
            members = groups[key]
            if key[2] == PRODUCT:
                slab, column = len(self.slabs), 0
                placed = [i for i in members if i not in self.output_of]
                for i in placed:
                    self.places[i] = Place(slab, column)
                    column += self.nodes[i].size
                if placed:  # also where all are empty: the number is theirs
                    self.slabs.append(Slab(column, self.nodes[members[0]].dtype, key[0]))
            else:
                for i in members:
                    if i not in self.output_of and (key[2] != "fused" or self._is_read_elsewhere(i, members)):
                        self.places[i] = self.new_slab(self.nodes[i].size, self.nodes[i].dtype, key[0])

    def new_slab(self, columns: int, dtype: DType, stage: int) -> Place:
        self.slabs.append(Slab(columns, dtype, stage))
        return Place(len(self.slabs) - 1, 0)

    def _is_read_elsewhere(self, i: int, members: Sequence[int]) -> bool:
        inside = set(members)
        stack, seen = [user for user, _ in self.readers[i]], set()
        whole = all(ref.size == self.nodes[i].size for user, ref in self.readers[i] if user in inside)
        while stack:
            user = stack.pop()
            if user in seen:
                continue
            seen.add(user)
            if self.virtual[user]:
                stack.extend(u for u, _ in self.readers[user])
            elif user not in inside:
                return True
        return not whole

    def _build(self, order: Sequence[Any], groups: Mapping[Any, list[int]]) -> None:
        self.steps = []
        self.sums: list[ColumnSum] = []
        self.written: dict[int, list[tuple[int, int]]] = {}
        self.saved_places: dict[object, Place] = {}
        for key in order:
            members = groups[key]
            if key[2] == "fused":
                self.steps.append((key[0], _Fuser(self, members).fused()))
            elif key[2] == PRODUCT:
                self.steps.extend((key[0], step) for step in self._products(members))
            elif self.nodes[members[0]].kind == ASSEMBLE:
                self.steps.append((key[0], self._assemble(members[0])))
            else:
                self._contributes_all(self.nodes[members[0]])
                self.steps.append((key[0], OwnKernel(members[0])))

    def _products(self, members: Sequence[int]) -> Iterator[Step]:
        merged = [i for i in members if i not in self.output_of]
        for part in ([merged] if merged else []) + [[i] for i in members if i in self.output_of]:
            nodes = [self.nodes[i] for i in part]
            x = nodes[0].reads[1]
            grad = self.grad and any(node.grad for node in nodes)
            if grad and x.grad:
                self.contributes(x)
            place = self.places.get(part[0], Place(-1 - self.output_of.get(part[0], 0), 0))
            weights = tuple(node.reads[0] for node in nodes)
            yield Product(x, weights, place, sum(node.size for node in nodes), grad, grad and x.grad)

    def _assemble(self, i: int) -> Assemble:
        node = self.nodes[i]
        self._contributes_all(node)
        place = self.places.get(i, Place(-1 - self.output_of.get(i, 0), 0))
        return Assemble(node.reads, node.column_ends[:-1], place, node.size, self.grad and node.grad)

    def _contributes_all(self, node: Node) -> None:
        if self.grad and node.grad:
            for ref in node.reads:
                if ref.grad:
                    self.contributes(ref)

    def contributes(self, ref: Ref) -> None:
        """Note that a step adds to the cotangents of what ``ref`` reads."""
        if ref.kind == REF_NODE and ref.index in self.places:
            place = self.places[ref.index]
            spans = self.written.setdefault(place.slab, [])
            spans.append((place.column + ref.shift, ref.size))

    def _exact(self, placed: int) -> frozenset[int]:
        """Slabs of whose cotangents every column is written by one step, once: nothing needs to be zero before."""
        found = set()
        for slab, spans in self.written.items():
            ends, complete = 0, True
            for start, size in sorted(spans):
                complete &= start == ends
                ends = start + size
            if slab < placed and complete and ends == self.slabs[slab].columns:
                found.add(slab)
        return frozenset(s for s in found if not self._is_assembled(s))

    def _is_assembled(self, slab: int) -> bool:
        """Whether what is put side by side adds to the slab: it always adds."""
        readers = [user for i, place in self.places.items() if place.slab == slab for user, _ in self.readers[i]]
        return any(self.nodes[user].kind == ASSEMBLE for user in readers)


def _neighbours_joined(sums: Sequence[ColumnSum]) -> Iterator[ColumnSum]:
    """Sums of neighbouring columns that belong to neighbouring parts of one vector, such as the gates' biases, as
    one."""
    order = sorted(sums, key=lambda s: (s.ref.kind, s.ref.index, s.place.slab, s.place.column))
    last = None
    for sum_ in order:
        if last is not None and _continues(last, sum_):
            last = replace(
                last, ref=replace(last.ref, size=last.ref.size + sum_.ref.size, shape=(last.ref.size + sum_.ref.size,))
            )
            continue
        if last is not None:
            yield last
        last = sum_
    if last is not None:
        yield last


def _continues(a: ColumnSum, b: ColumnSum) -> bool:
    same = (a.ref.kind, a.ref.index, a.place.slab) == (b.ref.kind, b.ref.index, b.place.slab)
    return same and b.ref.shift - a.ref.shift == b.place.column - a.place.column == a.ref.size


# A group of fused nodes becomes two kernels. The forward one is straight-line code for one element of a row: operands
# are loaded, formulas follow each other, results are stored. Nothing that stays inside of the group has a place in
# memory. A node of which others read parts only is *virtual*: each reader computes the part that it reads.
#
# The backward kernel is reverse accumulation over the same nodes (Speelpenning 1980; Griewank and Walther 2008): from
# the last node to the first, the cotangent of each is pulled back through its slopes and added up at what it read. What
# the slopes need of values is loaded where it lies; else it is computed again where that takes a few cheap steps, or
# kept (the trade of checkpointing: Griewank 1992, Chen et al. 2016), if possible in columns of a product that nobody
# reads once the forward kernel is through: those cost no memory.
#
# A virtual node may come up in several parts, each with a shift of its own, and only when a reader hands a cotangent on
# to it. So the walk takes nodes from a heap, the latest first, by which time all that reads them has been there.


class _Fuser:
    """Prints the two kernels of one group of fused nodes."""

    def __init__(self, compiler: _Compiler, members: Sequence[int]) -> None:
        self.c, self.nodes, self.members = compiler, compiler.nodes, set(members)
        self.width, self.dtype = self.nodes[members[0]].size, self.nodes[members[0]].dtype
        self.stage = compiler.stage[members[0]]
        self.order = sorted(members)

    def fused(self) -> Fused:
        grad = self.c.grad and any(self.nodes[i].grad for i in self.members)
        backward, keep = self._backward() if grad else (None, {})
        return Fused(self._forward(keep), backward)

    # Forward.

    def _forward(self, keep: Mapping[tuple[int, int], Place]) -> Kernel:
        self.b = Builder(self.width, self.dtype)
        self.values: dict[tuple[int, int], ScalarValue] = {}
        for i in self.order:
            value = self.value(Ref(REF_NODE, i, 0, self.nodes[i].shape, self.dtype, self.width))
            if i in self.c.output_of:
                self.b.store(ARG_BLOCK, ("output", self.c.output_of[i]), 0, self.width, value, adds=False)
            elif i in self.c.places:
                self._store(self.c.places[i], value)
        for (i, shift), place in keep.items():
            self._store(place, self.values[i, shift])
        return self.b.kernel()

    def _store(self, place: Place, value: ScalarValue) -> None:
        self.b.store(ARG_BLOCK, ("slab", place.slab), place.column, self.width, value, adds=False)

    def value(self, ref: Ref) -> ScalarValue:
        """The code of an operand in the forward kernel."""
        if ref.kind == REF_NODE and (ref.index in self.members or self.c.virtual[ref.index]):
            key = ref.index, ref.shift
            if key not in self.values:
                node = self.nodes[ref.index]
                operands = [self.value(_shifted(r, ref.shift, node, self.width)) for r in node.reads]
                assert node.formula is not None
                self.values[key] = self.b.formula(node.formula, dict(zip(node.names, operands, strict=True)))
            return self.values[key]
        return self.load(ref)

    def load(self, ref: Ref) -> ScalarValue:
        """The code that loads what lies in memory."""
        if ref.kind == REF_STATIC:
            return float(ref.value)
        if ref.kind in (REF_INT, REF_FLOAT):
            return self.b.load(ARG_NUMBER, (ref.kind, ref.index), 0, 1)
        if ref.kind == REF_INPUT:
            return self.b.load(ARG_ROWS, ("input", ref.index), ref.shift, ref.size)
        if ref.kind in (REF_PARAMETER, REF_CONSTANT) or not self.nodes[ref.index].batch:
            return self.b.load(ARG_VECTOR, (ref.kind, ref.index), ref.shift, ref.size)
        if ref.index in self.c.output_of:
            return self.b.load(ARG_BLOCK, ("output", self.c.output_of[ref.index]), ref.shift, ref.size)
        place = self.c.places[ref.index]
        return self.b.load(ARG_BLOCK, ("slab", place.slab), place.column + ref.shift, ref.size)

    # Backward.

    def _backward(self) -> tuple[Kernel, dict[tuple[int, int], Place]]:
        self.b = Builder(self.width, self.dtype)
        self.kept: dict[tuple[int, int], Place] = {}
        self.recomputed: dict[tuple[int, int], ScalarValue] = {}
        cotangents: dict[tuple[int, int], ScalarValue] = {}
        self.incoming: dict[Ref, ScalarValue] = {}
        queue: list[tuple[int, int]] = []
        for i in self.order:
            if self.nodes[i].grad:
                found = self._cotangent(i)
                if found is not None:
                    cotangents[i, 0] = found
                heapq.heappush(queue, (-i, 0))
        while queue:
            negative, shift = heapq.heappop(queue)
            key = -negative, shift
            if key in cotangents:
                for ref, cotangent in self._pulled_back(key, cotangents[key]):
                    self._hand_on(ref, cotangent, cotangents, queue)
        for ref, value in self.incoming.items():
            self._add_to(ref, value)
        return self._with_sums(), self.kept

    def _cotangent(self, i: int) -> ScalarValue | None:
        """The cotangent that other steps have left for a node."""
        if i in self.c.output_of:
            return self.b.load(ARG_BLOCK, ("output cotangent", self.c.output_of[i]), 0, self.width)
        if i in self.c.places:
            place = self.c.places[i]
            return self.b.load(ARG_BLOCK, ("cotangent", place.slab), place.column, self.width)
        return None

    def _pulled_back(self, key: tuple[int, int], g: ScalarValue) -> Iterator[tuple[Ref, ScalarValue]]:
        i, shift = key
        node = self.nodes[i]
        for ref, slope in zip(node.reads, node.slopes, strict=True):
            if ref.grad and slope is not None:
                names: dict[str, ScalarValue] = {"g": g}
                for name in slope.operands:
                    if name == "y":
                        names["y"] = self.known(i, shift)
                    elif name != "g":
                        operand = node.reads[node.names.index(name)]
                        names[name] = self.known_ref(_shifted(operand, shift, node, self.width))
                yield _shifted(ref, shift, node, self.width), self.b.formula(slope, names)

    def _hand_on(
        self,
        ref: Ref,
        cotangent: ScalarValue,
        cotangents: dict[tuple[int, int], ScalarValue],
        queue: list[tuple[int, int]],
    ) -> None:
        if ref.kind == REF_NODE and (ref.index in self.members or self.c.virtual[ref.index]):
            key = ref.index, ref.shift
            if key in cotangents:
                cotangents[key] = self.b.call("add", cotangents[key], cotangent)
            else:
                cotangents[key] = cotangent
                if self.c.virtual[ref.index]:
                    heapq.heappush(queue, (-ref.index, ref.shift))
        else:
            before = self.incoming.get(ref)
            self.incoming[ref] = cotangent if before is None else self.b.call("add", before, cotangent)

    def _add_to(self, ref: Ref, value: ScalarValue) -> None:
        """Store a cotangent of what lies in memory; those of shared vectors are summed in the end."""
        if ref.kind == REF_INPUT:
            self.b.store(ARG_ROWS, ("input cotangent", ref.index), ref.shift, ref.size, value, adds=True)
        elif ref.kind == REF_NODE and self.nodes[ref.index].batch:
            if ref.index in self.c.output_of:
                key: tuple[object, ...] = ("output cotangent", self.c.output_of[ref.index])
                self.b.store(ARG_BLOCK, key, ref.shift, ref.size, value, adds=True)
            else:
                place = self.c.places[ref.index]
                self.c.contributes(ref)
                adds = place.slab not in self.c.exact
                self.b.store(ARG_BLOCK, ("cotangent", place.slab), place.column + ref.shift, ref.size, value, adds=adds)

    def _with_sums(self) -> Kernel:
        """The kernel, with the columns whose sums are gradients of shared vectors: where they are stored anyway, or in
        slabs of their own."""
        rows = [(s.value, self._row_of(s)) for s in self.b.stores if isinstance(s.value, int)]
        whole = {value: place for value, place in rows if place is not None}
        for ref, value in self.incoming.items():
            if ref.kind in (REF_PARAMETER, REF_CONSTANT) or (ref.kind == REF_NODE and not self.nodes[ref.index].batch):
                place = whole.get(value) if ref.size == self.width and isinstance(value, int) else None
                if place is None:
                    key = ("sum", tuple(self.order), ref)
                    if key not in self.c.saved_places:
                        self.c.saved_places[key] = self.c.new_slab(ref.size, self.dtype, self.stage)
                    place = self.c.saved_places[key]
                    self.b.store(ARG_BLOCK, ("cotangent", place.slab), 0, ref.size, value, adds=False)
                self.c.sums.append(ColumnSum(ref, place))
        return self.b.kernel()

    def _row_of(self, store: Store) -> Place | None:
        """Where a store alone writes a whole row of cotangents; a row of one column gets a sum instead."""
        argument = self.b.described[store.argument]
        what, which = argument.key[:2]
        is_row = argument.columns != 1 or self.width == 1
        return Place(which, store.shift) if what == "cotangent" and is_row and not store.adds else None

    def known_ref(self, ref: Ref) -> ScalarValue:
        """The code of an operand in the backward kernel."""
        if ref.kind == REF_NODE and (ref.index in self.members or self.c.virtual[ref.index]):
            return self.known(ref.index, ref.shift)
        return self.load(ref)

    def known(self, i: int, shift: int) -> ScalarValue:
        """The value of a fused node in backward: where it lies, or was kept, or computed again where that is cheap."""
        node = self.nodes[i]
        if i in self.c.output_of or i in self.c.places:
            return self.load(Ref(REF_NODE, i, shift, node.shape, self.dtype, self.width))
        assert node.formula is not None
        key = i, shift
        if key not in self.recomputed:
            if is_cheap(node.formula):
                operands = [self.known_ref(_shifted(r, shift, node, self.width)) for r in node.reads]
                self.recomputed[key] = self.b.formula(node.formula, dict(zip(node.names, operands, strict=True)))
            else:
                self.kept[key] = place = self._keep(key)
                self.recomputed[key] = self.b.load(ARG_BLOCK, ("slab", place.slab), place.column, self.width)
        return self.recomputed[key]

    def _keep(self, key: tuple[int, int]) -> Place:
        """Where to keep a value: in the columns of a product that nobody reads once this kernel is through."""
        known = self.c.saved_places
        if key not in known:
            place = self._free_columns()
            known[key] = place if place is not None else self.c.new_slab(self.width, self.dtype, self.stage)
        return known[key]

    def _free_columns(self) -> Place | None:
        taken = {(p.slab, p.column) for p in self.c.saved_places.values()}
        for ref in self._product_parts():
            place = self.c.places[ref.index]
            found = Place(place.slab, place.column + ref.shift)
            if (found.slab, found.column) not in taken:
                return found
        return None

    def _product_parts(self) -> list[Ref]:
        """The whole-width parts of products that this group alone reads, and that no derivative needs."""
        found: dict[Ref, None] = {}
        stack = [ref for i in self.order for ref in self.nodes[i].reads if ref.kind == REF_NODE]
        stack = [Ref(REF_NODE, r.index, r.shift, r.shape, r.dtype, r.size, r.grad) for r in stack]
        while stack:
            ref = stack.pop(0)
            node = self.nodes[ref.index]
            if self.c.virtual[ref.index]:
                stack += [_shifted(r, ref.shift, node, self.width) for r in node.reads if r.kind == REF_NODE]
            elif self._is_free(ref):
                found[ref] = None
        return list(found)

    def _is_free(self, ref: Ref) -> bool:
        whole = self.nodes[ref.index].kind == PRODUCT and ref.index in self.c.places and ref.size == self.width
        return whole and self._is_mine_alone(ref.index)

    def _is_mine_alone(self, product: int) -> bool:
        """Whether only this group reads a product, and only linear operations of it: then no derivative needs its
        value."""
        if not self._is_read_here(product):
            return False
        stack, seen = [product], set()
        while stack:
            i = stack.pop()
            for user, _ in self.c.readers[i]:
                node = self.nodes[user]
                for slope in node.slopes:
                    reading = [r for r in node.reads if r.kind == REF_NODE and r.index == i]
                    names = {node.names[k] for k, r in enumerate(node.reads) if r in reading}
                    if slope is not None and names & set(slope.operands):
                        return False
                if user not in seen and is_cheap_node(node) and user not in self.c.output_of:
                    seen.add(user)
                    stack.append(user)
        return True

    def _is_read_here(self, i: int) -> bool:
        """Whether this group alone reads a node, also by way of nodes that are computed where they are read."""
        return all(
            user in self.members or (self.c.virtual[user] and self._is_read_here(user)) for user, _ in self.c.readers[i]
        )


def is_cheap_node(node: Node) -> bool:
    """Whether backward may compute the node again, and so read what it is made of."""
    return node.formula is not None and is_cheap(node.formula)


def _shifted(ref: Ref, shift: int, node: Node, width: int) -> Ref:
    """An operand of ``node`` where only ``width`` elements from ``shift`` on of the node are wanted."""
    if ref.kind in (REF_STATIC, REF_INT, REF_FLOAT) or ref.size != node.size or node.size == width:
        return ref
    return replace(ref, shift=ref.shift + shift, size=width, shape=(width,))


@functools.lru_cache(maxsize=4096)
def function_for(kernel: Kernel, fuse: str) -> Callable[..., None]:
    """The kernel as a function, by the core's machine or by NumPy."""
    return machine.core_function(kernel) if fuse == "core" else blocks.numpy_function(kernel)
