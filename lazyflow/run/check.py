"""Finding what made a NaN or an infinity: the search behind ``lf.using(check_finite=True)``.

Forward, the values of a run are all there, and are looked at in the order of their launches. Backward, cotangents are
sums to which launch after launch adds: so they are computed once more, and looked at after each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lazyflow import device as devices
from lazyflow.device import Array, DType
from lazyflow.errors import NonFiniteError
from lazyflow.ops.sparse import RowSparse
from lazyflow.plan.arena import Arena
from lazyflow.plan.plan import Each, Launch, launches, parameter_launches, reads_of, sizes_of
from lazyflow.record.expr import Expr
from lazyflow.record.tape import CONSTANT_OP, KNOWN_OP
from lazyflow.run.execute import Run, line_of, parameters_of
from lazyflow.run.launch import Bound, bound_of, parameter_of, readers_of
from lazyflow.run.sums import ParameterRows, parameter_gradients


def check_finite(run: Run, roots: Sequence[Expr]) -> None:
    """Raise `NonFiniteError`, naming the first operation that made a NaN or an infinity of finite operands (or a
    parameter that holds one), if a root has one.

    A value that nothing goes wrong with in the end, such as the -inf of a mask under a softmax, is no error.
    """
    places = zip(roots, run.plan.structure.roots, strict=False)  # further ones are not asked for
    values = (run.value(int(run.plan.offsets[base]) + shift, root.type) for root, (base, shift) in places)
    if not all(bool(np.isfinite(value).all()) for value in values):
        raise NonFiniteError(_blame(run))


class _Culprit(NamedTuple):
    """A node of a launch, by its position, that is not finite though all it was made of is; and its value, or a row."""

    position: int
    value: Array


def _blame(run: Run) -> str:
    for launch in run.plan.launches:
        launch = launch._replace(reads=reads_of(run.plan, launch))
        found = _first_bad(run, launch)
        if found is not None:
            if launch.signature.op is KNOWN_OP:
                place = run.plan.structure.place_of_known[int(launch.nodes[found.position])]
                return _blame(run.known_runs[place])
            return _message(run, launch, found)
    for parameter in parameters_of(run.plan):
        if parameter is not None and not np.isfinite(parameter.stored()).all():
            return f"{parameter!r} holds a NaN or an infinity; what was computed of it is not finite"
    return "a value that was computed before, and whose memory was freed since, is not finite"


def _first_bad(run: Run, launch: Launch) -> _Culprit | None:
    """The first node that is not finite though all it was made of is; constants are made of nothing."""
    if launch.signature.type.dtype.kind != "f":
        return None
    return _first_bad_row(run, launch) if launch.each is None else _first_bad_one(run, launch.each)


def _first_bad_one(run: Run, each: Each) -> _Culprit | None:
    """Of nodes that are taken one by one."""
    for position, form in enumerate(each.forms):
        value = _value(run, form.type, each.offsets[position])
        if not np.isfinite(value).all() and all(np.isfinite(x).all() for x in _operands_read_by(run, each, position)):
            return _Culprit(position, value)
    return None


def _operands_read_by(run: Run, each: Each, position: int) -> Iterator[Array]:
    """The floating operands of one node that is taken by itself."""
    for operand, read in zip(each.forms[position].operands, each.reads, strict=True):
        if operand.dtype.kind == "f" and operand.kind == "shared":
            yield parameter_of(operand.type).stored() if operand.type is not None else 0.0
        elif operand.dtype.kind == "f" and operand.kind == "row" and read is not None:
            for at in np.atleast_1d(read[position]):
                yield _value(run, operand.type, at)


def _value(run: Run, kind: Any, offset: int) -> Array:
    return run.value(int(offset), kind)


def _first_bad_row(run: Run, launch: Launch) -> _Culprit | None:
    """Of nodes that are a row each, or several (see `lazyflow.graph.joined`)."""
    kind, count = launch.signature.type, launch.writes.count
    values = run.arena.read(kind.dtype, launch.writes, kind.shape)
    bad = ~_finite(values, count)
    if bad.any() and launch.signature.op is not CONSTANT_OP and not launch.signature.op.stacked:
        for operand, array in zip(
            launch.signature.operands, [r.read(run.arena) for r in readers_of(launch, False)], strict=True
        ):
            if operand.kind in ("row", "shared") and operand.dtype.kind == "f":
                batched = operand.kind == "row" and array.ndim == len(operand.shape) + 1 and len(array) == count
                if launch.signature.spans is not None:
                    bad &= _of_finite_nodes(run, launch, launch.signature.operands.index(operand), array)
                    continue
                bad &= _finite(array, count) if batched else np.isfinite(array).all()
    if not bad.any():
        return None
    row = int(np.flatnonzero(bad)[0])
    return _Culprit(_node_of_row(run, launch, row), values.reshape(count, -1)[row])


def _node_of_row(run: Run, launch: Launch, row: int) -> int:
    counts = run.plan.structure.counts
    if counts is None:
        return row
    return int(np.searchsorted(np.cumsum(counts[launch.nodes]), row, side="right"))


def _of_finite_nodes(run: Run, launch: Launch, which: int, array: Array) -> object:
    """Of each row of the result whether its node has read nothing of an operand but finite rows."""
    graph, spans = run.plan.structure, launch.signature.spans
    assert spans is not None and graph.counts is not None
    node = np.repeat(np.arange(len(launch.nodes)), sizes_of(graph, launch.nodes, spans[which]))
    wrong = np.bincount(node[~_finite(array, len(node))], minlength=len(launch.nodes))
    return np.repeat(wrong == 0, graph.counts[launch.nodes])


def _finite(array: Array, count: int) -> Array:
    return np.isfinite(array.reshape(count, -1)).all(axis=1)


def _message(run: Run, launch: Launch, found: _Culprit) -> str:
    signature = launch.signature if launch.each is None else launch.each.forms[found.position]
    where, what = line_of(run, launch, found.position), _nan_or_infinity(found.value)
    return f"{signature.op.name} at {where} made {what}: {signature!r}"


def _nan_or_infinity(*values: Array) -> str:
    return "NaN" if any(bool(np.isnan(value).any()) for value in values) else "an infinity"


Cotangents = Mapping[DType, Array]


def check_cotangents(
    run: Run,
    cotangents: Arena,
    final: Arena,
    steps: Sequence[Bound],
    at_once: Sequence[Bound],
    hooked: Mapping[int, Any],
) -> None:
    """Raise `NonFiniteError` for a backward that gave a gradient that is not finite, naming the first operation whose
    derivative made a NaN or an infinity of finite cotangents.

    ``cotangents``: as backward began with them; ``final``: as it left them, with what hooks have made of some.
    """
    written = _in_use(run, cotangents)
    if not _are_finite(written):
        raise NonFiniteError("the gradient that backward was given, or that a later run handed on, is not finite")
    xp = devices.array_module(run.device)
    for step in reversed(steps):
        _take_hooked(run, step.launch, cotangents, final, hooked)
        if step.signature.differentiable:
            before = {dtype: part.copy() for dtype, part in written.items()}
            step.pull(xp, run.arena, cotangents)
            if not _are_finite(written):
                raise NonFiniteError(_message_back(run, step, cotangents, before))
    for step in at_once:
        _check_parameters(run, step, cotangents)


def _in_use(run: Run, cotangents: Arena) -> Cotangents:
    """The part of the buffers that is in use."""
    return {dtype: cotangents.buffers[dtype][:size] for dtype, size in run.plan.layout.floating.items()}


def _are_finite(buffers: Cotangents) -> bool:
    return all(bool(np.isfinite(buffer).all()) for buffer in buffers.values())


def _take_hooked(run: Run, launch: Launch, cotangents: Arena, final: Arena, hooked: Mapping[int, Any]) -> None:
    """Put what hooks have made of cotangents in their place, without calling them again."""
    for position, node in enumerate(launch.nodes.tolist() if hooked else ()):
        if node in hooked:
            kind, offset, _ = hooked[node]
            here, there = (a.buffers[kind.dtype][offset : offset + kind.size] for a in (cotangents, final))
            here[...] = there
            if not np.isfinite(here).all():
                what = f"{launch.signature.op.name} at {line_of(run, launch, position)}"
                raise NonFiniteError(f"a hook of {what} made {_nan_or_infinity(here)} of its gradient")


def _message_back(run: Run, step: Bound, cotangents: Arena, before: Cotangents) -> str:
    """Of the nodes of a launch that made something of the cotangents ``before`` it, the first that does so alone."""
    xp, written = devices.array_module(run.device), _in_use(run, cotangents)
    kind = _nan_or_infinity(*written.values())

    def is_culprit(step: Bound) -> bool:
        for dtype, buffer in before.items():
            written[dtype][...] = buffer
        step.pull(xp, run.arena, cotangents)
        return not _are_finite(written)

    return _of_derivative(run, step.launch, _first_to_blame(run, step.launch, _launch_of_one, is_culprit), kind)


def _of_derivative(run: Run, launch: Launch, position: int, what: str) -> str:
    name, where = launch.signature.op.name, line_of(run, launch, position)
    return f"the derivative of {name} at {where} made {what}: {launch.signature!r}"


def _first_to_blame(
    run: Run, launch: Launch, launches_of: Callable[[Run, int], Sequence[Launch]], is_culprit: Callable[[Bound], bool]
) -> int:
    """The first node of a launch, by its position, that is to blame when it is alone; of a sum, the first of all."""
    for position, node in enumerate(launch.nodes.tolist()):
        if any(is_culprit(bound_of(one)) for one in launches_of(run, node)):
            return position
    return 0


def _launch_of_one(run: Run, node: int) -> Sequence[Launch]:
    """The launch of one node."""
    return launches(run.graph, run.plan.schedule, run.plan.offsets, np.array([node]))[0]


def _sums_of_one(run: Run, node: int) -> Sequence[Launch]:
    """Those for the gradients of its parameters."""
    launch_of = run.plan.schedule.launch
    return parameter_launches(run.graph, launch_of, run.plan.offsets, _launch_of_one(run, node), np.array([node]))


def _check_parameters(run: Run, step: Bound, cotangents: Arena) -> None:
    """Raise for the first gradient of a parameter that is not finite, among those that a launch gives."""

    def wrong(step: Bound) -> list[tuple[Any, Array]]:
        rows = ParameterRows(
            run, step.signature, step.out.read(cotangents), step.out.read(run.arena), step.operand_values(run.arena)
        )
        given: list[tuple[Any, Array]] = [
            (parameter, gradient.values if isinstance(gradient, RowSparse) else gradient)
            for parameter, gradient in parameter_gradients(rows)
        ]
        return [(parameter, gradient) for parameter, gradient in given if not np.isfinite(gradient).all()]

    for parameter, gradient in wrong(step):
        position = _first_to_blame(run, step.launch, _sums_of_one, lambda one: bool(wrong(one)))
        what = f"{_nan_or_infinity(gradient)} in the gradient of {parameter.name or 'a parameter'}"
        raise NonFiniteError(_of_derivative(run, step.launch, position, what))
