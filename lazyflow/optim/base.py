"""What all optimizers share. A new one is two methods (the form is that of Apple's MLX):

- ``init_single(parameter, options)`` returns the arrays to keep for one parameter, by name, each of its shape;
- ``apply_single(gradient, parameter, state, options)`` changes ``parameter`` and the arrays of ``state`` in place.

Both are elementwise: what happens to an element depends on that element alone. So one and the same ``apply_single``
serves whole parameters, blocks of them that fit the cache, and the rows of a table that a row-sparse gradient touches.
Weight decay, float16, blocks, gathering and scattering of rows are the business of this file.

In the place of ``apply_single`` the library's own have ``formulas(options, step)`` and ``numbers(options, step)``: the
same as text, from which every form in which it runs is made (`lazyflow.optim.rule`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from lazyflow import fibers, settings
from lazyflow.device import copied, device_of, module, on, on_device_of, to_device
from lazyflow.errors import TornError
from lazyflow.ops.sparse import RowSparse
from lazyflow.optim import together
from lazyflow.optim.options import check_known, check_values, plain
from lazyflow.optim.rule import Rule
from lazyflow.state import check_kind, differences, miscounts, raise_differences
from lazyflow.threads import kernel_threads

__all__ = ["Optimizer", "Trainable"]

Array = Any
Options = Mapping[str, Any]
Group = dict[str, Any]

BLOCK = 1 << 16
"""Elements in a block: a larger one leaves the cache, a smaller one pays NumPy's 0.5 us a call too often (one step
of Adam on 750 x 300: 370 us, with 2^14 430). Rows of a table get half of it, since gathered copies need cache too
(600 of 20,000 x 300: 680 us, undivided 970).
"""


class Trainable(Protocol):
    """What an optimizer needs of a parameter."""

    array: Array
    name: str

    @property
    def grad(self) -> Any: ...
    @grad.setter
    def grad(self, value: Any) -> None: ...
    def touch(self) -> None: ...


def array_of(parameter: Any) -> Array:
    """The array of a parameter, or of another object that has one. Whoever asks says what he changes (`touch`)."""
    return parameter.stored() if hasattr(parameter, "stored") else parameter.array


def has_array(value: Any) -> bool:
    """Whether a value is a parameter, or another object that has an array."""
    return hasattr(value, "stored") or hasattr(value, "array")


@dataclass(slots=True)
class Kept:
    """What is kept for one parameter: how many steps it took part in, and arrays of its shape."""

    step: int
    slots: dict[str, Array]
    device: str


class Update(NamedTuple):
    """A parameter that takes part in a step. No reference to its array outlives that."""

    parameter: Trainable
    array: Array
    gradient: Any
    kept: Kept
    options: Options


class Now(NamedTuple):
    """What one step is for all parameters of a group that have taken as many: their count, and all of it as formulas;
    None for a class without."""

    options: Options
    step: int
    rule: Rule | None


class Optimizer:
    """Base class: updates parameters from their gradients.

    ``params``: a list of parameters, or of groups as in PyTorch: dicts with ``"params"`` and options of their own,
    which go before the ones given here. ``lr``: the learning rate. ``options``: ``weight_decay``, ``sparse`` and what
    the class has.

    - A parameter whose ``grad`` is None is left alone, its moments and its count of steps too.
    - ``weight_decay`` is added to the gradient as ``weight_decay * parameter`` (where a class says "decoupled", the
      parameter is multiplied by ``1 - lr * weight_decay`` instead).
    - A row-sparse gradient (`RowSparse`, of an embedding table) updates the rows it touches: only they are moved, only
      their moments change, and weight decay reaches only them; a row that is not touched keeps its moments undecayed,
      however many steps go by. With ``sparse=False`` the gradient is made dense first: the moments of every row decay
      at every step, and every row moves as they say. When every row is touched at every step, both are the same.
    - The count of steps, which bias corrections use, belongs to the parameter, not to a row: it goes up at every step
      in which the parameter has a gradient, of whatever rows.
    - A float16 parameter is updated in float32 and rounded once; its moments are float32.

    Options may be changed between steps (``optimizer.param_groups[0]["lr"] = 0.01``); they are checked again then. The
    lists of parameters may be changed as well: each keeps its moments, and a new one begins without.

    A new optimizer is two methods, or one where nothing is kept, and its ``defaults``:

    >>> import lazyflow as lf
    >>> class SignDescent(Optimizer):
    ...     def apply_single(self, gradient, parameter, state, options):
    ...         parameter -= options["lr"] * np.sign(gradient)
    >>> w = lf.Parameter([1.0, 2.0])
    >>> w.grad = np.array([0.3, -5.0], np.float32)
    >>> SignDescent([w], lr=0.5).step()
    >>> w.numpy()
    array([0.5, 2.5], dtype=float32)

    Raises ``TypeError`` for what is no parameter and for unknown options, ``ValueError`` for an empty list, a parameter
    given twice and values out of range.
    """

    defaults: ClassVar[Options] = {}
    """The options beside ``lr``, ``weight_decay`` and ``sparse``, with their defaults."""

    decoupled: ClassVar[bool] = False
    """Whether weight decay shrinks the parameter directly."""

    elementwise: ClassVar[bool] = True
    """False for an optimizer that looks at a whole parameter at once (its norm, its columns): ``apply_single`` then
    gets whole arrays, row-sparse gradients made dense, and what it keeps may have any shape.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, **options: Any) -> None:
        known = {"lr": lr, "weight_decay": 0.0, "sparse": True, **self.defaults}
        check_known(type(self).__name__, options, known)
        self._defaults: Options = {**known, **options}
        self.param_groups: list[Group] = []
        self._checked: list[Options] = []
        self.kept: dict[int, Kept] = {}
        self._owners: list[Trainable] = []  # whose is what is kept under each index
        self._buffers: dict[tuple[str, str, str], Array] = {}
        self._torn = False  # whether a step has begun and not come to its end
        for group in _as_groups(params):
            self.add_param_group(group)

    def init_single(self, parameter: Array, options: Options) -> dict[str, Array]:
        """The arrays to keep for ``parameter`` (an array), by name, all of its shape; none unless overridden."""
        return {}

    def apply_single(self, gradient: Array, parameter: Array, state: Mapping[str, Any], options: Options) -> None:
        """Update ``parameter`` and the arrays of ``state`` in place; ``gradient`` is only read.

        All arrays have one shape and dtype: the parameter's, or that of some of its elements or rows. ``state["step"]``
        counts from 1. `scratch` lends memory for intermediate results.
        """
        step = state["step"]
        arrays = {"parameter": parameter, "gradient": gradient, **{k: v for k, v in state.items() if k != "step"}}
        Rule(list(self.formulas(options, step).items()), self.numbers(options, step)).run(arrays, self.scratch)

    def formulas(self, options: Options, step: int) -> Mapping[str, str]:
        """What ``parameter`` and the arrays that are kept become in a step, by name and in order, as formulas of these,
        of ``gradient``, of earlier ones, and of `numbers`; other names are intermediate results. Asked once a step for
        all parameters of a group that have taken as many, and so are `numbers`."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a method apply_single(gradient, parameter, state, options)"
        )

    def numbers(self, options: Options, step: int) -> dict[str, float]:
        """The numbers in the formulas, by name: all options that are numbers unless overridden."""
        return {name: float(value) for name, value in options.items() if _is_number(value)}

    def check_options(self, options: Options) -> None:
        """Raise ``ValueError`` for a value out of range; subclasses add what must hold between several options."""
        check_values(type(self).__name__, options)

    def add_param_group(self, group: Group) -> None:
        """Add ``group``, a dict with ``"params"`` and options; options it does not set have the optimizer's values."""
        check_known(f"a group of {type(self).__name__}", group, [*self._defaults, "params"])
        if "params" not in group:
            raise ValueError(
                f"a group of parameters needs an entry 'params'; got {', '.join(group) or 'an empty dict'}"
            )
        params = _as_parameters(group["params"])
        _refuse_twice([*(p for _, p, _ in self._members()), *params])
        options = {**self._defaults, **{name: value for name, value in group.items() if name != "params"}}
        self.check_options(options)
        self.param_groups.append({"params": params, **options})
        self._checked.append(options)
        self._follow()

    def zero_grad(self) -> None:
        """Forget all gradients: ``grad`` becomes None."""
        for _, parameter, _ in self._members():
            parameter.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient.

        Raises ``TypeError`` or ``ValueError`` for an option that was set to something invalid, and changes nothing.
        A step that is cut off by an interrupt leaves some parameters updated and others not: from then on `step` and
        `state_dict` raise `TornError`, until a state was loaded.
        """
        self._refuse_torn()
        self._check_changes()
        updates, found = self._updates(), dict[tuple[int, int], Now]()

        def now(update: Update) -> Now:
            """Of the parameter's next step, which is counted."""
            kept, options = update.kept, update.options
            kept.step += 1
            key = id(options), kept.step
            if key not in found:
                found[key] = Now(options, kept.step, self._rule(options, kept.step) if self._has_formulas else None)
            return found[key]

        self._torn = True
        with kernel_threads(settings.current().threads):
            for update in self._not_together(updates, now):
                self._update(update, now)
        self._torn = False

    def _updates(self) -> list[Update]:
        """The parameters that have a gradient, after all checks, and with all memory that is taken for good, before
        anything is changed."""
        found = []
        for index, parameter, options in self._members():
            gradient = parameter.grad
            if gradient is not None:
                array = array_of(parameter)
                if gradient.shape != array.shape:
                    raise ValueError(
                        f"parameter {index} {parameter.name} has shape {array.shape}, its gradient {gradient.shape}"
                    )
                found.append((index, parameter, array, gradient, options))
        oldest = min([getattr(parameter, "version", 0) for _, parameter, _, _, _ in found], default=0)
        fibers.refuse_change("an optimizer takes a step", oldest)
        return [Update(p, array, g, self._kept_for(i, array, o), o) for i, p, array, g, o in found]

    def _refuse_torn(self) -> None:
        if self._torn:
            raise TornError(
                f"the last step of {type(self).__name__} was cut off: some parameters and moments are updated, others "
                "not. Load the model and the optimizer as they were saved last, or make a new optimizer to go on from "
                "the parameters as they are"
            )

    def scratch(self, name: str, like: Array) -> Array:
        """Memory of the shape and dtype of ``like``, the same at every call with this ``name``; write, then read."""
        return self._buffer(name, like, like.shape)

    # From all parameters to one.

    def _members(self) -> Iterator[tuple[int, Trainable, Group]]:
        """Every parameter with its index and its group; the index counts through all groups."""
        self._follow()
        index = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                yield index, parameter, group
                index += 1

    def _follow(self) -> None:
        """What is kept goes with its parameter, wherever in the lists of the groups that stands by now."""
        owners = [parameter for group in self.param_groups for parameter in group["params"]]
        if len(owners) == len(self._owners) and all(map(operator.is_, owners, self._owners)):
            return
        _refuse_twice(_as_parameters(owners))
        before = {id(owner): self.kept.get(index) for index, owner in enumerate(self._owners)}
        found = [(index, before.get(id(owner))) for index, owner in enumerate(owners)]
        self.kept, self._owners = {index: kept for index, kept in found if kept is not None}, owners

    def _check_changes(self) -> None:
        for i, group in enumerate(self.param_groups):
            options = _options(group)
            before = self._checked[i]
            if options != before:
                check_known(f"a group of {type(self).__name__}", options, self._defaults)
                self.check_options(options)
                self._checked[i] = options
                if {**options, "lr": before["lr"]} != before:
                    self._add_slots(group)

    def _add_slots(self, group: Group) -> None:
        """Keep what an option that was just switched on (a momentum, say) needs; what is kept already stays."""
        for index, parameter, options in self._members():
            if options is group and index in self.kept:
                kept = self.kept[index]
                kept.slots = {**self.slots_for(array_of(parameter), options), **kept.slots}

    def slots_for(self, array: Array, options: Options) -> dict[str, Array]:
        """The arrays to keep, in the dtype that the parameter is updated in."""
        with on_device_of(array):
            working = array.astype(np.float32) if array.dtype == np.float16 else array
            slots = self.init_single(working, options)
        for name, slot in slots.items():
            if self.elementwise and slot.shape != array.shape:
                raise ValueError(
                    f"{type(self).__name__}.init_single: {name!r} has shape {slot.shape}, the parameter {array.shape}; "
                    "set elementwise = False in the class to keep arrays of other shapes"
                )
        return slots

    def _kept_for(self, index: int, array: Array, options: Options) -> Kept:
        kept, device = self.kept.get(index), device_of(array)
        if kept is None:
            kept = self.kept[index] = Kept(0, self.slots_for(array, options), device)
        elif kept.device != device:  # the parameter was moved
            kept.slots = {name: to_device(slot, device) for name, slot in kept.slots.items()}
            kept.device = device
        return kept

    def _update(self, update: Update, now: Callable[[Update], Now]) -> None:
        parameter, array, gradient, kept, options = update
        parameter.touch()  # and once more afterwards: what is computed under half of an update is stale, too
        what = now(update)
        with on(kept.device):
            if isinstance(gradient, RowSparse) and not (options["sparse"] and self.elementwise):
                gradient = gradient.to_dense()
            if what.rule is not None and what.rule.run_in_core({"parameter": array, **kept.slots}, gradient):
                pass  # in one pass, in blocks of its own
            elif isinstance(gradient, RowSparse):
                self._rows(array, gradient, kept, what)
            else:
                self._dense(array, gradient, kept, what)
        parameter.touch()

    def _not_together(self, updates: Sequence[Update], now: Callable[[Update], Now]) -> Sequence[Update]:
        """Make those updates of arrays of a device that one launch can make together, and return the others."""
        if not self._has_formulas or not self.elementwise or all(update.kept.device == "cpu" for update in updates):
            return updates
        rest, groups = [], dict[Any, list[tuple[Trainable, together.Update]]]()
        for update in updates:
            parameter, array, gradient, kept, options = update
            if kept.device == "cpu":
                rest.append(update)
                continue
            sparse = isinstance(gradient, RowSparse) and bool(options["sparse"])
            values = gradient.values if sparse else gradient.to_dense() if isinstance(gradient, RowSparse) else gradient
            arrays = {"parameter": array, **kept.slots, "gradient": values}
            rule = now(update).rule if together.is_possible(list(arrays.values())) else None
            if rule is None:
                rest.append(update)
                continue
            key = kept.device, array.dtype, tuple(arrays), rule.assignments, tuple(rule.numbers)
            one = together.Update(arrays, rule.numbers, gradient.indices if sparse else None)
            groups.setdefault(key, []).append((parameter, one))
        for (device, _, _, assignments, _), members in groups.items():
            for parameter, _ in members:
                parameter.touch()  # and once more afterwards: see `_update`
            with on(device):
                together.run(assignments, [update for _, update in members])
            for parameter, _ in members:
                parameter.touch()
        return rest

    # From one parameter to blocks.

    def _dense(self, array: Array, gradient: Array, kept: Kept, now: Now) -> None:
        if array.size <= BLOCK or not self.elementwise or not isinstance(array, np.ndarray):  # a GPU wants few launches
            self._apply(array, gradient, kept.slots, now)
            return
        array, gradient, *slots = _flat([array, gradient, *kept.slots.values()])
        rows = _rows_in_block(array, BLOCK)
        for i in range(0, len(array), rows):
            some = slice(i, i + rows)
            views = {name: slot[some] for name, slot in zip(kept.slots, slots, strict=True)}
            self._apply(array[some], gradient[some], views, now)

    def _rows(self, array: Array, gradient: RowSparse, kept: Kept, now: Now) -> None:
        rows = _rows_in_block(array, BLOCK // 2) if isinstance(array, np.ndarray) else max(len(gradient.indices), 1)
        for i in range(0, len(gradient.indices), rows):
            where = gradient.indices[i : i + rows]
            touched = self._gather("rows of the parameter", array, where)
            views = {name: self._gather(f"rows of {name}", slot, where) for name, slot in kept.slots.items()}
            self._apply(touched, gradient.values[i : i + rows], views, now)
            array[where] = touched
            for name, view in views.items():
                kept.slots[name][where] = view

    @property
    def _has_formulas(self) -> bool:
        return type(self).apply_single is Optimizer.apply_single

    def _rule(self, options: Options, step: int) -> Rule:
        """All of a step as formulas, weight decay first, with their numbers."""
        rest, numbers = list(self.formulas(options, step).items()), self.numbers(options, step)
        decay = float(options["weight_decay"])
        if not decay:
            return Rule(rest, numbers)
        if self.decoupled:
            shrink = 1.0 - float(options["lr"]) * decay
            return Rule([("parameter", "parameter * shrink"), *rest], {**numbers, "shrink": shrink})
        return Rule([("gradient", "parameter * decay + gradient"), *rest], {**numbers, "decay": decay})

    def _gather(self, name: str, array: Array, where: Array) -> Array:
        if not (isinstance(array, np.ndarray) and array.flags.c_contiguous):
            return array[where]
        # twice as fast as array[where]; the indices are in range, and mode="clip" spares a buffered copy
        return array.take(where, 0, self._buffer(name, array, (len(where), *array.shape[1:])), "clip")

    def _apply(self, parameter: Array, gradient: Array, slots: dict[str, Array], now: Now) -> None:
        if parameter.dtype == np.float16:
            working = parameter.astype(np.float32)
            self._apply(working, gradient, slots, now)
            parameter[...] = working
            return
        if gradient.dtype != parameter.dtype:
            gradient = gradient.astype(parameter.dtype)
        if now.rule is not None:
            now.rule.run({"parameter": parameter, "gradient": gradient, **slots}, self.scratch)
            return
        decay = now.options["weight_decay"]
        if decay:
            gradient = self._decayed(parameter, gradient, decay, now.options["lr"])
        self.apply_single(gradient, parameter, {**slots, "step": now.step}, now.options)

    def _decayed(self, parameter: Array, gradient: Array, decay: float, lr: float) -> Array:
        """Apply weight decay: to the parameter if it is decoupled, else in the gradient that is returned."""
        if self.decoupled:
            parameter *= 1.0 - float(lr) * float(decay)
            return gradient
        xp, total = module(parameter), self.scratch("decayed gradient", parameter)
        xp.multiply(parameter, float(decay), out=total)
        return xp.add(total, gradient, out=total)

    def _buffer(self, name: str, like: Array, shape: tuple[int, ...]) -> Array:
        size = math.prod(shape)
        key = (name, like.dtype.char, device_of(like))
        buffer = self._buffers.get(key)
        if buffer is None or buffer.size < size:
            buffer = self._buffers[key] = module(like).empty(size, like.dtype)
        return buffer[:size].reshape(shape)

    # Saving and restoring.

    def state_dict(self) -> dict[str, Any]:
        """Options, counts of steps and moments, as nested dicts and lists of arrays and JSON scalars.

        The arrays are the optimizer's own, not copies. Parameters are described by name and shape, so that a state is
        not loaded for others. Raises `TornError` after a step that was cut off.
        """
        self._refuse_torn()
        self._follow()
        groups = [{**plain(_options(g)), "params": [_described(p) for p in g["params"]]} for g in self.param_groups]
        kept = {str(index): {"step": k.step, **k.slots} for index, k in sorted(self.kept.items())}
        return {"kind": type(self).__name__, "param_groups": groups, "state": kept}

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `CheckpointError` with everything that keeps ``state`` from being loaded."""
        kind = type(self).__name__
        check_kind(kind, state)
        groups, kept = state.get("param_groups"), state.get("state")
        if not isinstance(groups, list) or not isinstance(kept, Mapping):
            raise_differences(kind, ["expected the entries 'param_groups', a list, and 'state', a dict"])
        assert isinstance(groups, list) and isinstance(kept, Mapping)
        if len(groups) != len(self.param_groups):
            raise_differences(kind, [f"param_groups: expected {len(self.param_groups)}, got {len(groups)}"])
        found = [line for i, group in enumerate(groups) for line in self._group_differences(i, group)]
        raise_differences(kind, found or self._kept_differences(groups, kept))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the options, counts and moments of ``state`` (copied, onto the parameters' devices).

        Raises `CheckpointError` that lists all differences, and changes nothing then.
        """
        self.check_state_dict(state)
        kept = {i: _restored(p, state["state"][str(i)]) for i, p, _ in self._members() if str(i) in state["state"]}
        self._torn = True
        for group, given in zip(self.param_groups, state["param_groups"], strict=True):
            group.update({name: _unlisted(value) for name, value in given.items() if name != "params"})
        self._checked = [_options(group) for group in self.param_groups]
        self.kept = kept
        self._torn = False

    def _group_differences(self, i: int, given: Any) -> list[str]:
        if not isinstance(given, Mapping) or not isinstance(given.get("params"), list):
            return [f"param_groups.{i}: expected a dict with a list 'params'"]
        group, options = self.param_groups[i], _options(given)
        found = [f"param_groups.{i}.{line}" for line in differences(plain(_options(group)), options)]
        if not found:
            try:
                self.check_options(options)
            except (ValueError, TypeError) as error:
                found.append(f"param_groups.{i}: {error}")
        ours, theirs = [_described(p) for p in group["params"]], given["params"]
        if len(ours) != len(theirs):
            return [*found, f"param_groups.{i}.params: expected {len(ours)} parameters, got {len(theirs)}"]
        return found + [
            line for k in range(len(ours)) for line in _unlike(f"param_groups.{i}.params.{k}", ours[k], theirs[k])
        ]

    def _kept_differences(self, groups: Sequence[Options], kept: Mapping[str, Any]) -> list[str]:
        members = {str(i): (p, group) for i, p, group in self._members()}
        given = {id(ours): _options(theirs) for ours, theirs in zip(self.param_groups, groups, strict=True)}
        found = [
            f"state.{key}: not expected, there are {len(members)} parameters" for key in kept if key not in members
        ]
        for key, (parameter, group) in members.items():
            if key in kept:
                expected = {"step": 0, **self.slots_for(array_of(parameter), given[id(group)])}
                lines = differences(expected, kept[key]) or miscounts(kept[key], "step")
                found.extend(f"state.{key}.{line}" for line in lines)
        return found


def _is_number(value: Any) -> bool:
    if type(value) is float:
        return True
    if not isinstance(value, int | float | np.number) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:  # an integer beyond all floats, as an option of a user's own may be
        return False
    return True


def _options(group: Options) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _as_groups(params: Any) -> list[Group]:
    """``params`` as a list of groups."""
    if callable(getattr(params, "parameters", None)):
        raise TypeError(
            f"expected a list of parameters or of groups, got a {type(params).__name__}; write .parameters()"
        )
    if isinstance(params, Mapping) or has_array(params) or isinstance(params, str):
        raise TypeError(
            f"expected a list of parameters or of groups, got a {type(params).__name__}; write [parameter] for one"
        )
    params = list(params)
    if params and all(isinstance(item, Mapping) for item in params):
        return [dict(group) for group in params]
    return [{"params": params}]


def _as_parameters(params: Any) -> list[Trainable]:
    given = [params] if has_array(params) else list(params)
    if not given:
        raise ValueError("there are no parameters to optimize: the list is empty")
    for i, item in enumerate(given):
        if not (has_array(item) and hasattr(item, "grad")):
            kind = type(item)
            name = f"{kind.__module__}.{kind.__name__}" if kind.__name__ == "Parameter" else kind.__name__
            raise TypeError(f"entry {i} of the parameters must be a Parameter, got a {name}")
    return given


def _refuse_twice(params: Sequence[Trainable]) -> None:
    places: dict[int, int] = {}
    for i, parameter in enumerate(params):
        first = places.setdefault(id(parameter), i)
        if first != i:
            raise ValueError(
                f"a parameter is given twice, at {first} and {i}: {parameter!r}; it would be updated twice a step"
            )


def _flat(arrays: list[Array]) -> list[Array]:
    """Views with one axis if the memory of all allows it, so that blocks have equal size whatever the shape."""
    return [a.reshape(-1) for a in arrays] if all(a.flags.c_contiguous for a in arrays) else arrays


def _rows_in_block(array: Array, block: int) -> int:
    width: int = math.prod(array.shape[1:])
    return max(1, block // max(1, width))


def _described(parameter: Trainable) -> dict[str, Any]:
    return {"name": parameter.name, "shape": list(array_of(parameter).shape)}


def _unlike(place: str, ours: Any, theirs: Any) -> Iterator[str]:
    """How the descriptions of two parameters differ; a parameter without a name fits any name."""
    if not (isinstance(theirs, Mapping) and isinstance(theirs.get("name"), str) and _is_shape(theirs.get("shape"))):
        yield f"{place}: expected a name and a shape, got {theirs!r}"
    elif ours["name"] and theirs["name"] and ours["name"] != theirs["name"]:
        yield f"{place}: expected the parameter {ours['name']!r}, got {theirs['name']!r}"
    elif ours["shape"] != theirs["shape"]:
        yield f"{place} {ours['name']}: expected shape {tuple(ours['shape'])}, got {theirs['shape']}"


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(length, int) for length in value)


def _unlisted(value: Any) -> Any:
    """JSON knows no tuples."""
    return tuple(value) if isinstance(value, list) else value


def _restored(parameter: Trainable, given: Mapping[str, Any]) -> Kept:
    device = device_of(array_of(parameter))
    slots = {name: copied(v, device) for name, v in given.items() if name != "step"}
    return Kept(int(given["step"]), slots, device)
