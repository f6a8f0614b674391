"""An interpreter of the language of programs: one example at a time, in NumPy, without lazyflow.

A `Session` stands for a fresh process: ``session.lf`` has the names of lazyflow that programs use. Every line computes
at once, in double precision, and rounds to the dtype that the value has (`tests.fuzz.functions`). Backward goes through
what was recorded in reverse, one node at a time. NumPy's warnings are the caller's to turn off, once for a program.

Rounding differs between any two ways of computing, so a session can be *noisy*: then every operand and every result of
an inexact function is off by a random part of its last digit (Monte Carlo arithmetic; Parker 1997). How far noisy
sessions are apart says what can be expected of a program's values, gradients and decisions. Roundings that are random
cancel, but those of a sum of equal numbers all go one way. So a sum of n numbers is off by up to n / 12 units of
the last place of the sum of their sizes besides.

lazyflow computes when it is asked, and what it has computed keeps its value until `forward` or `backward` is called.
So after a parameter has changed, a value that was asked for is that of then, and one that was not is that of now, or
that of then where it was computed on the way to another. Programs that ask for the last, or for something else that
lazyflow leaves open, raise `Unspecified`, and the generator takes another line.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from contextlib import ContextDecorator
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from tests.fuzz import functions as F
from tests.fuzz.functions import Unspecified

EPSILON = {np.dtype(t): 2.0**-p for t, p in (("float16", 10), ("float32", 23), ("float64", 52))}
FLOAT32 = np.dtype(np.float32)
MIXING = 6  # digits of the largest element of what comes out of linear algebra
ONE_WAY = 1 / 12  # of a digit, for each number of a sum: twelve times what comes of it is allowed (`run.FACTOR`)


class Kept(NamedTuple):
    """What a value was when it was asked for: by the session's clock, and after how many backwards."""

    value: Any
    time: int
    backwards: int


class Node:
    """A value and what it was computed from. ``deps``: a bit for each parameter it depends on; ``time``: of the
    session's clock, when its value was computed; ``frozen``: whether what reads it may see the value of then;
    ``fixed``: whether it may be one of then itself; ``sure``: when lazyflow was asked for it, or recorded it; ``kept``:
    what it was when it was asked for last."""

    __array_ufunc__ = None
    __hash__ = object.__hash__
    grad: Any = None

    def __init__(self, session: Session, value: Any) -> None:
        self.session = session
        self.value = value
        self.number = next(session.numbers)
        self.time = self.sure = session.clock
        self.runs = session.runs
        self.kept: Kept | None = None
        self.function: F.Function | None = None
        self.inputs: tuple[Node, ...] = ()
        self.static: dict[str, Any] = {}
        self.requires_grad = self.frozen = self.fixed = self.random = self.retained = False
        self.alone = True  # whether it stands for one value of lazyflow only
        self.deps = 0
        self.hooks: list[Any] = []

    shape = property(lambda self: self.value.shape)
    dtype = property(lambda self: self.value.dtype)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    T = property(lambda self: self.session.lf.transpose(self))

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Any:
        return iter([self[i] for i in range(len(self))])

    def forward(self) -> Node:
        self.session.run(self)
        return self

    def numpy(self) -> Any:
        if self.kept is not None and self.session.keeps(self.kept):
            return np.array(self.kept.value)
        if self.may_be_of_then and not self.is_new:
            raise Unspecified("a value that was recorded before a parameter changed: ask for it by forward()")
        self.session.run(self)
        return np.array(self.value)

    @property
    def may_be_of_then(self) -> bool:
        """Whether lazyflow may not have computed it since a parameter below it has changed; here, what another value is
        made of is always computed again at once."""
        return self.session.is_stale(self) or self.session.changed(self.deps) > self.sure

    @property
    def is_new(self) -> bool:
        """Whether nothing at all was computed since it was recorded."""
        return self.runs == self.session.runs

    def item(self) -> Any:
        if self.size != 1:
            raise ValueError("item")
        return self.numpy().item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def backward(self, gradient: Any = None) -> None:
        self.session.backward(self, gradient)

    def detach(self) -> Node:
        if self.kept is not None and self.session.keeps(self.kept) and not self.session.cells:
            return self.session.constant(np.array(self.kept.value))
        if not self.session.cells and not self.is_new and self.may_be_of_then:
            raise Unspecified("a value that was computed on the way may be the one of then")
        node = self.session.apply(F.FUNCTIONS["detach"], (self,))
        node.fixed = node.frozen and not self.is_new  # a snapshot, if the value was computed already
        return node

    def retain_grad(self) -> None:
        if not self.requires_grad:
            raise RuntimeError("retain_grad")
        self.retained, self.alone = True, False  # a view becomes a value of its own

    def register_hook(self, hook: Any) -> Any:
        if not self.requires_grad:
            raise RuntimeError("register_hook")
        self.alone = False
        self.hooks.append(hook)
        return SimpleNamespace(remove=lambda: self.hooks.remove(hook))

    def __getitem__(self, key: Any) -> Node:
        lf = self.session.lf
        if isinstance(key, Node | np.ndarray | list):
            return lf.take(self, np.asarray(key, np.int64) if isinstance(key, list) else key)
        return lf.move(self, lambda v, _: v[key])

    def reshape(self, *shape: Any) -> Node:
        return self.session.lf.reshape(self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def transpose(self, *axes: Any) -> Node:
        chosen = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes or None
        return self.session.lf.transpose(self, chosen)


class Parameter(Node):
    """An array that programs change."""

    def __init__(self, session: Session, value: Any, requires_grad: bool) -> None:
        super().__init__(session, value)
        self.bit = len(session.parameters)
        self._wanted = requires_grad
        self.deps = 1 << self.bit
        session.parameters.append(self)
        session.touched.append(0)
        if requires_grad and value.dtype.kind != "f":
            raise TypeError("only floating parameters have gradients")

    def numpy(self) -> Any:
        return np.array(self.value)

    def detach(self) -> Node:
        if self.session.cells:  # the value that it has when the call runs
            return super().detach()
        return self.session.constant(np.array(self.value))

    @property
    def requires_grad(self) -> bool:  # type: ignore[override]
        return self._wanted

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value != self.__dict__.setdefault("_wanted", False):
            self._wanted = value
            self.session.clock += 1
            self.session.retyped[self.bit] = self.session.clock

    @property
    def data(self) -> Any:
        self.touch()
        return self.value

    @data.setter
    def data(self, value: Any) -> None:
        self.assign(value)

    def assign(self, value: Any) -> None:
        new = np.asarray(value.numpy() if isinstance(value, Node) else value).astype(self.dtype)
        if new.shape != self.shape:
            raise ValueError("assign")
        self.value[...] = new
        self.touch()

    def touch(self) -> None:
        self.session.touch(self)

    def zero_grad(self) -> None:
        self.grad = None

    def _in_place(self, function: Any, other: Any) -> Parameter:
        if self.session.grad:
            raise RuntimeError("in place")
        self.assign(function(self.value, other.numpy() if isinstance(other, Node) else other))
        return self

    def __iadd__(self, other: Any) -> Parameter:
        return self._in_place(operator.add, other)

    def __isub__(self, other: Any) -> Parameter:
        return self._in_place(operator.sub, other)

    def __imul__(self, other: Any) -> Parameter:
        return self._in_place(operator.mul, other)


class _Using(ContextDecorator):
    def __init__(self, session: Session, changes: dict[str, Any]) -> None:
        self.session, self.changes = session, changes

    def __enter__(self) -> None:
        self.before = self.session.grad, self.session.default
        self.session.grad = self.changes.get("grad", self.session.grad)
        self.session.default = np.dtype(self.changes.get("dtype", self.session.default))

    def __exit__(self, *error: object) -> None:
        self.session.grad, self.session.default = self.before


class Session:
    """See the module's text. ``noise``: a generator, or None for exact rounding. ``tainted``: a cotangent that is NaN
    makes NaN of all that it may reach, and so does an operand that is not finite where sums are made of products."""

    def __init__(self, noise: np.random.Generator | None = None, tainted: bool = False) -> None:
        self.noise, self.tainted = noise, tainted
        self.numbers = itertools.count()
        self.clock = 1
        self.grad, self.default = True, FLOAT32
        self.parameters: list[Parameter] = []
        self.touched: list[int] = []
        self.cells = 0  # how deep the call of a cell that runs is
        self.ran, self.runs, self.backwards = 0, 0, 0  # when something was computed last, and how often
        self.retyped: dict[int, int] = {}  # parameters that were frozen or thawed, and when
        self.seed, self.draws = 0, 0
        self.lf = Names(self)

    # Values.

    def constant(self, value: Any) -> Node:
        if isinstance(value, Node):
            return value
        array = np.array(value)
        if not isinstance(value, np.ndarray | np.generic) and array.dtype.kind == "f":
            array = array.astype(self.default)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"no numbers: {array.dtype}")
        return Node(self, array)

    def apply(self, function: F.Function, operands: Sequence[Any], **static: Any) -> Node:
        inputs = tuple(o if isinstance(o, Node) else self.constant(o) for o in operands)
        for node in inputs:
            self.refresh(node)
        node = Node(self, self.compute(function, inputs, static))
        node.function, node.inputs, node.static = function, inputs, static
        for i in inputs:
            node.deps |= i.deps
            node.random |= i.random
        node.requires_grad = self.grad and node.dtype.kind == "f" and any(self._edges(node))
        node.frozen = not self.cells and self.may_freeze(node)
        return node

    @staticmethod
    def may_freeze(node: Node) -> bool:
        """Whether lazyflow copies what it has computed of a value, when something else reads it."""
        return bool(node.deps) and not node.requires_grad and node.dtype.kind == "f"

    @staticmethod
    def _edges(node: Node) -> list[bool]:
        vjps = node.function.vjps if node.function else ()
        return [v is not None and i.requires_grad for v, i in zip(vjps, node.inputs, strict=False)]

    def compute(self, function: F.Function, inputs: Sequence[Node], static: dict[str, Any]) -> Any:
        dtype = self._dtype(function, inputs, static)
        arrays = [self._wide(i.value) for i in inputs]
        epsilon = 0.0 if function.exact or self.noise is None else EPSILON.get(dtype, 0.0)
        if epsilon:
            arrays = [self._off(a, epsilon) for a in arrays]
        found = np.asarray(function.forward(*arrays, **static))
        found = self._off(found, epsilon) if epsilon else found
        if epsilon and function.sums and found.size:
            n = sum(a.size for a in arrays) // found.size
            found = self._off_by(found, n, function.forward(*map(np.abs, arrays), **static), epsilon)
        if epsilon and function.mixes and found.size:
            found = self._off_by(found, MIXING, np.abs(found).max(), epsilon)
        if epsilon and function.absolute:
            assert self.noise is not None
            found = found + function.absolute * epsilon * self.noise.uniform(-1, 1, found.shape)
        return found.astype(dtype)

    @staticmethod
    def _dtype(function: F.Function, inputs: Sequence[Node], static: dict[str, Any]) -> Any:
        dtypes = tuple(i.value.dtype for i in inputs)
        if static or len(dtypes) > 3:
            return np.dtype(function.dtype(*dtypes, **static))
        key = function.name, dtypes
        if key not in _DTYPES:
            _DTYPES[key] = np.dtype(function.dtype(*dtypes))
        return _DTYPES[key]

    @staticmethod
    def _wide(array: Any) -> Any:
        return array.astype(np.float64) if array.dtype.kind == "f" else array

    def _off(self, array: Any, epsilon: float) -> Any:
        """Off by a random part of the last digit."""
        if array.dtype.kind != "f":
            return array
        assert self.noise is not None
        return array * (1 + epsilon * self.noise.uniform(-1, 1, array.shape))

    def _off_by(self, found: Any, n: int, sizes: Any, epsilon: float) -> Any:
        """A sum of ``n`` numbers, off by what adding them one after another may do."""
        assert self.noise is not None
        away = epsilon * n * ONE_WAY * sizes * self.noise.uniform(-1, 1, found.shape)
        return found + np.where(np.isfinite(away), away, 0.0)

    # Parameters that change.

    def touch(self, parameter: Parameter) -> None:
        self.clock += 1
        self.touched[parameter.bit] = self.clock

    def changed(self, deps: int) -> int:
        return max((t for bit, t in enumerate(self.touched) if deps >> bit & 1), default=0)

    def is_stale(self, node: Node) -> bool:
        if not isinstance(node, Parameter) and any(
            t > node.time and node.deps >> bit & 1 for bit, t in self.retyped.items()
        ):
            raise Unspecified("a value that rests on a parameter that was frozen or thawed since")
        if node.random and self.clock > node.time:
            raise Unspecified("a random value under parameters that changed since")
        return bool(node.deps) and not isinstance(node, Parameter) and self.changed(node.deps) > node.time

    def keeps(self, kept: Kept) -> bool:
        """Whether lazyflow still has a value: it may forget some when it computes others under other parameters."""
        return self.ran <= kept.time and self.backwards == kept.backwards

    def run(self, node: Node) -> None:
        """What lazyflow does when it is asked: compute a value, and what it needs, under the parameters of now."""
        for n in (*self.refresh(node, asked=True), node):
            n.sure = self.clock
        self.ran, self.runs = self.clock, self.runs + 1
        node.kept = Kept(node.value, self.clock, self.backwards) if node.alone else None

    def refresh(self, node: Node, asked: bool = False) -> list[Node]:
        """Compute a value again if a parameter below it has changed; all that was computed."""
        if not self.is_stale(node):
            return []
        found: dict[int, Node] = {}
        stack = [node]
        while stack:
            n = stack.pop()
            if n.number not in found and self.is_stale(n):
                if n.fixed or (n.frozen and not n.is_new and not (asked and n is node)):
                    raise Unspecified("a value without gradient may be the one of then")
                found[n.number] = n
                stack.extend(n.inputs)
        for _, n in sorted(found.items()):
            assert n.function is not None
            n.value = self.compute(n.function, n.inputs, n.static)
            n.time = self.clock
        return list(found.values())

    # Backward.

    def backward(self, root: Node, gradient: Any) -> None:
        if not root.requires_grad:
            raise RuntimeError("nothing to differentiate")
        if gradient is None and root.size != 1:
            raise RuntimeError("the gradient to start from is missing")
        seed = np.ones(root.shape) if gradient is None else np.asarray(gradient, float)
        if seed.shape != root.shape:
            raise ValueError("gradient")
        self.backwards += 1
        self.run(root)
        for node, g in self.cotangents(root, seed):
            if isinstance(node, Parameter) or node.retained:
                node.grad = g if node.grad is None else (self._wide(node.grad) + g).astype(node.dtype)

    def cotangents(self, root: Node, seed: Any) -> Iterable[tuple[Node, Any]]:
        """The nodes that a gradient reaches with their whole gradients, the last one first."""
        self.refresh(root)
        reached = {root.number: root}
        stack = [root]
        while stack:
            node = stack.pop()
            for i, flows in zip(node.inputs, self._edges(node), strict=False):
                if flows and i.number not in reached:
                    reached[i.number] = i
                    stack.append(i)
        found: dict[int, list[Any]] = {root.number: [seed]}
        for number in sorted(reached, reverse=True):
            node = reached[number]
            g = self._added(found.pop(number), EPSILON[node.dtype]).astype(node.dtype)
            for hook in list(node.hooks):
                answer = hook(g)
                g = g if answer is None else np.asarray(answer).astype(node.dtype)
            yield node, g
            for i, flows, k in zip(node.inputs, self._edges(node), itertools.count(), strict=False):
                if flows:
                    found.setdefault(i.number, []).append(self._vjp(node, k, self._wide(g)))

    def _added(self, parts: list[Any], epsilon: float) -> Any:
        found = functools.reduce(operator.add, parts)
        if self.noise is None or len(parts) == 1:
            return found
        return self._off_by(found, len(parts), functools.reduce(operator.add, map(np.abs, parts)), epsilon)

    def _vjp(self, node: Node, k: int, g: Any) -> Any:
        assert node.function is not None
        vjp, arrays = node.function.vjps[k], [self._wide(i.value) for i in node.inputs]
        assert vjp is not None
        y, epsilon = self._wide(node.value), EPSILON[node.dtype]
        if self.noise is not None:
            g = self._off(g, epsilon)
            if not node.function.exact:  # which element is the largest, no rounding decides
                y, *arrays = (self._off(a, epsilon) for a in (y, *arrays))
        found = vjp(g, y, *arrays, **node.static)
        if self.tainted and not node.function.elementwise and not all(np.isfinite(a).all() for a in arrays):
            found = found + np.nan
        if self.tainted and np.isnan(g).any():
            found = found + (np.where(np.isnan(g), np.nan, 0.0) if np.shape(found) == g.shape else np.nan)
        found, shape = np.asarray(found, float), node.inputs[k].shape
        return F.down(found, shape) if self.noise is None else self._off_all(node.function, found, shape, g, epsilon)

    def _off_all(self, function: F.Function, found: Any, shape: Any, g: Any, epsilon: float) -> Any:
        """A cotangent summed to its operand's shape, off by what rounding does to it on the way."""
        assert self.noise is not None
        if not function.exact:
            found = self._off(found, epsilon)
        if function.mixes and found.size:
            found = self._off_by(found, MIXING, np.abs(found).max(), epsilon)
        if function.absolute and not function.elementwise and g.size:
            found = self._off_by(found, 1, 12 * function.absolute * np.abs(g).max(), epsilon)
        whole, found = found, F.down(found, shape)
        if whole.size > found.size > 0:
            found = self._off_by(found, whole.size // found.size, F.down(np.abs(whole), shape), epsilon)
        return found

    # Random numbers.

    def draw(self, name: str, shape: Any, dtype: Any, *given: float) -> Node:
        self.draws += 1
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        dtype = self.default if dtype is None else np.dtype(dtype)
        values = F.drawn(name, self.seed, self.draws, math.prod(shape), dtype, *given)
        if self.noise is not None and name in ("uniform", "normal", "gumbel"):
            values = self._off(values, EPSILON[dtype])
        node = Node(self, values.reshape(shape).astype(dtype))
        node.random = True
        return node


_DTYPES: dict[Any, Any] = {}  # of functions without attributes: they are asked for again and again


def _axes(axis: Any) -> Any:
    return tuple(axis) if isinstance(axis, list) else axis


def _checked(x: Node, axis: Any) -> None:
    """NumPy reduces a number along an axis that it does not have."""
    if not x.ndim and axis not in (None, ()):
        raise ValueError("axis")


def _above(node: Node, first: int) -> list[Node]:
    """All nodes that a value rests on, as far as they were recorded since ``first``, and the next ones."""
    found, stack = {node.number: node}, [node]
    while stack:
        n = stack.pop()
        if n.number > first:
            new = {i.number: i for i in n.inputs if i.number not in found}
            found |= new
            stack += new.values()
    return list(found.values())


def _leaves(value: Any) -> list[Any]:
    """What is in a nested value."""
    if isinstance(value, dict):
        value = list(value.values())
    return [n for v in value for n in _leaves(v)] if isinstance(value, list | tuple) else [value]


def _stepped(parameter: Parameter, step: Any) -> None:
    """``parameter`` less ``step``, whose last digit is noise as that of every inexact function is."""
    session = parameter.session
    step = step if session.noise is None else session._off(step, EPSILON[parameter.dtype])
    parameter.assign(parameter.value.astype(float) - step)


class _SGD:
    def __init__(self, parameters: Iterable[Parameter], lr: float, momentum: float = 0.0) -> None:
        self.parameters, self.lr, self.momentum = list(parameters), lr, momentum
        self.kept: dict[int, Any] = {}

    def step(self) -> None:
        for p in self.parameters:
            if p.grad is not None:
                g = p.grad.astype(float)
                if self.momentum:
                    g = self.kept[p.bit] = self.momentum * self.kept[p.bit] + g if p.bit in self.kept else g
                _stepped(p, self.lr * g)

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None


class _Adam:
    """Kingma and Ba 2015."""

    def __init__(self, parameters: Iterable[Parameter], lr: float) -> None:
        self.parameters, self.lr = list(parameters), lr
        self.kept: dict[int, Any] = {}

    def step(self) -> None:
        for p in self.parameters:
            if p.grad is not None:
                g = p.grad.astype(float)
                m, v, t = self.kept.get(p.bit, (0.0, 0.0, 0))
                m, v, t = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g, t + 1
                self.kept[p.bit] = m, v, t
                down = np.sqrt(v / (1 - 0.999**t)) + 1e-8
                _stepped(p, self.lr * (m / (1 - 0.9**t)) / down)

    zero_grad = _SGD.zero_grad


class Names:
    """The names of lazyflow."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.numpy = self  # NumPy's names
        self.optim = SimpleNamespace(SGD=_SGD, Adam=_Adam)
        functional = SimpleNamespace(
            binary_cross_entropy=self._binary_cross_entropy,
            layer_norm=self._layer_norm,
            scaled_dot_product_attention=self._attention,
        )
        self.nn = SimpleNamespace(functional=functional)

    def cell(self, function: Any) -> Any:
        @functools.wraps(function)
        def call(*given: Any) -> Any:
            first = next(self.session.numbers)
            self.session.cells += 1
            try:
                found = function(*given)
            finally:
                self.session.cells -= 1
            if not self.session.cells:
                self._called(_leaves(list(given)), _leaves(found), first)
            return found

        return call

    def _called(self, given: list[Any], found: list[Any], first: int) -> None:
        """Note what is known of the results of a call of a cell, and of what it has recorded since ``first``.

        Where a result rests on no argument but parameters, a cell is recorded as without, and takes snapshots of these.
        """
        inside = [_above(node, first) for node in found]
        arguments = {id(n) for n in given if not isinstance(n, Parameter)}
        as_without = not all(arguments & {id(n) for n in nodes} for nodes in inside)
        for node in itertools.chain(*inside):
            node.fixed = node.fixed or (as_without and node.function is F.FUNCTIONS["detach"])
        for node in found:
            node.frozen = node.frozen or self.session.may_freeze(node)
            node.alone = node.alone and node.number > first

    def Parameter(self, value: Any, *, name: str = "", requires_grad: bool = True) -> Parameter:
        array = np.array(value)
        if not isinstance(value, np.ndarray) and array.dtype.kind == "f":
            array = array.astype(self.session.default)
        return Parameter(self.session, array, requires_grad)

    def constant(self, value: Any) -> Node:
        return self.session.constant(value)

    def no_grad(self) -> _Using:
        return _Using(self.session, {"grad": False})

    def using(self, **changes: Any) -> _Using:
        return _Using(self.session, changes)

    def seed(self, number: int) -> None:
        self.session.seed, self.session.draws = number, 0

    def forward(self, roots: Sequence[Node]) -> list[Any]:
        return [root.forward().numpy() for root in roots]

    def gradients(self, root: Node, inputs: Sequence[Node]) -> list[Node]:
        if root.ndim:
            raise ValueError("gradients of one number")
        found = {}
        for node, g in self.session.cotangents(root, np.ones(root.shape)):
            if node.hooks and not isinstance(node, Parameter):
                raise RuntimeError("hooks take arrays")
            found[node.number] = g
        answers = []
        for i in inputs:
            node = self.session.constant(found.get(i.number, np.zeros(i.shape)).astype(i.dtype))
            node.deps, node.frozen, node.fixed = root.deps, True, True
            answers.append(node)
        return answers

    # Functions of a table.

    def _numbers(self, operands: Sequence[Any]) -> list[Any]:
        """Operands of an elementwise function: Python's and NumPy's scalars are weak."""
        held = [o for o in operands if isinstance(o, Node | np.ndarray)]
        if not held:
            return [self.session.constant(o) for o in operands]
        dtypes = [o.dtype for o in held]
        fractional = any(t.kind == "f" for t in dtypes) or any(
            isinstance(o, float | np.floating) for o in operands if not isinstance(o, Node | np.ndarray)
        )
        if all(t.kind == "b" for t in dtypes):
            dtypes = [self.session.default] if fractional else [np.dtype(np.int64)]
        weak = np.result_type(*dtypes, 1.0) if fractional else np.result_type(*dtypes)
        return [
            o
            if isinstance(o, Node)
            else self.session.constant(o)
            if isinstance(o, np.ndarray | list | bool | np.bool_)
            else self.session.constant(np.asarray(o).astype(weak))
            for o in operands
        ]

    def __getattr__(self, name: str) -> Callable[..., Node]:
        function = F.FUNCTIONS.get(name)
        if function is None or not function.elementwise:
            raise AttributeError(name)
        n = len(function.vjps)

        def call(*operands: Any) -> Node:
            if len(operands) != n:
                raise TypeError(name)
            return self.session.apply(function, self._numbers(operands))

        return call

    def _apply(self, name: str, *operands: Any, **static: Any) -> Node:
        if "keepdims" in static:
            _checked(self.constant(operands[0]), static["axis"])
        return self.session.apply(F.FUNCTIONS[name], operands, **static)

    def leaky_relu(self, x: Any, slope: float = 0.01) -> Node:
        return self.session.apply(F.FUNCTIONS["leaky_relu"], self._numbers([x, float(slope)]))

    def elu(self, x: Any, alpha: float = 1.0) -> Node:
        return self.session.apply(F.FUNCTIONS["elu"], self._numbers([x, float(alpha)]))

    def celu(self, x: Any, alpha: float = 1.0) -> Node:
        return self.session.apply(F.FUNCTIONS["celu"], self._numbers([x, float(alpha)]))

    def hardtanh(self, x: Any, low: float = -1.0, high: float = 1.0) -> Node:
        return self.session.apply(F.FUNCTIONS["hardtanh"], self._numbers([x, float(low), float(high)]))

    def gelu(self, x: Any, approximate: bool = False) -> Node:
        return self.session.apply(F.FUNCTIONS["gelu_tanh" if approximate else "gelu"], self._numbers([x]))

    def scale_gradient(self, x: Any, scale: float) -> Node:
        return self._apply("scale_gradient", x, np.float64(scale))

    def astype(self, x: Any, dtype: Any) -> Node:
        return self._apply("astype", x, dtype=np.dtype(dtype))

    # Moves.

    def move(self, x: Any, move: Callable[..., Any], fill: float = 0) -> Node:
        return self._apply("move", x, move=move, fill=fill)

    def reshape(self, x: Any, shape: Any) -> Node:
        return self.move(x, lambda v, _: v.reshape(shape))

    def ravel(self, x: Any) -> Node:
        return self.reshape(x, -1)

    def transpose(self, x: Any, axes: Any = None) -> Node:
        return self.move(x, lambda v, _: np.transpose(v, axes))

    def swapaxes(self, x: Any, axis1: int, axis2: int) -> Node:
        return self.move(x, lambda v, _: np.swapaxes(v, axis1, axis2))

    def expand_dims(self, x: Any, axis: Any) -> Node:
        return self.move(x, lambda v, _: np.expand_dims(v, axis))

    def squeeze(self, x: Any, axis: Any = None) -> Node:
        return self.move(x, lambda v, _: np.squeeze(v, axis))

    def broadcast_to(self, x: Any, shape: Any) -> Node:
        return self.move(x, lambda v, _: np.broadcast_to(v, shape))

    def flip(self, x: Any, axis: Any = None) -> Node:
        return self.move(x, lambda v, _: np.flip(v, axis))

    def roll(self, x: Any, shift: Any, axis: Any = None) -> Node:
        return self.move(x, lambda v, _: np.roll(v, shift, axis))

    def tile(self, x: Any, reps: Any) -> Node:
        return self.move(x, lambda v, _: np.tile(v, reps))

    def tril(self, x: Any, k: int = 0) -> Node:
        return self.move(x, lambda v, _: np.tril(v, k))

    def triu(self, x: Any, k: int = 0) -> Node:
        return self.move(x, lambda v, _: np.triu(v, k))

    def diagonal(self, x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Node:
        return self.move(x, lambda v, _: np.diagonal(v, offset, axis1, axis2))

    def repeat(self, x: Any, repeats: int, axis: Any = None) -> Node:
        return self.move(x, lambda v, _: np.repeat(v, repeats, axis))

    def pad(self, x: Any, pad_width: Any, mode: str = "constant", constant_value: float = 0.0) -> Node:
        how = lambda fill: {"constant_values": fill} if mode == "constant" else {}  # noqa: E731
        return self.move(x, lambda v, fill: np.pad(v, pad_width, mode, **how(fill)), constant_value)

    def windows(
        self, x: Any, kernel: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, fill: float = 0.0
    ) -> Node:
        return self.move(x, lambda v, f: F.shown(v, f, kernel, stride, padding, dilation), fill)

    def split(self, x: Any, sections: Any, axis: int = 0) -> list[Node]:
        x = self.constant(x)
        n = len(np.split(x.value, sections, axis))
        return [self.move(x, lambda v, _, i=i: np.split(v, sections, axis)[i]) for i in range(n)]

    def _join(self, operands: Sequence[Any], join: Callable[..., Any]) -> Node:
        if not operands:
            raise ValueError("an empty list")
        return self.session.apply(F.joining(len(operands)), list(operands), join=join)

    def concatenate(self, operands: Sequence[Any], axis: int = 0) -> Node:
        return self._join(operands, lambda xs: np.concatenate(xs, axis))

    def stack(self, operands: Sequence[Any], axis: int = 0) -> Node:
        return self._join(operands, lambda xs: np.stack(xs, axis))

    # Products and convolutions.

    def matmul(self, a: Any, b: Any) -> Node:
        return self._apply("matmul", a, b)

    def affine(self, weight: Any, bias: Any, x: Any) -> Node:
        weight, bias, x = map(self.constant, (weight, bias, x))
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ValueError("affine")
        if weight.dtype.kind == "f":  # a layer keeps the dtype of its weight
            bias, x = (o if o.dtype == weight.dtype else self.astype(o, weight.dtype) for o in (bias, x))
        return self._apply("affine", weight, bias, x)

    def dot(self, a: Any, b: Any) -> Node:
        a, b = self.constant(a), self.constant(b)
        if a.ndim != 1 or a.shape != b.shape:
            raise ValueError("dot")
        return self._apply("dot", a, b)

    def outer(self, a: Any, b: Any) -> Node:
        a, b = self.constant(a), self.constant(b)
        if a.ndim != 1 or b.ndim != 1:
            raise ValueError("outer")
        return self._apply("outer", a, b)

    def einsum(self, subscripts: str, a: Any, b: Any) -> Node:
        return self._apply("einsum", a, b, subscripts=subscripts)

    def bilinear(self, x: Any, weight: Any, y: Any, bias: Any = None) -> Node:
        found = self._apply("bilinear", x, weight, y)
        return found if bias is None else found + bias

    def circular_convolution(self, u: Any, v: Any) -> Node:
        return self._apply("circular", u, v, sign=-1)

    def circular_correlation(self, u: Any, v: Any) -> Node:
        return self._apply("circular", u, v, sign=1)

    def conv(
        self,
        x: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Node:
        how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return self._apply("conv", *(o for o in (x, weight, bias) if o is not None), **how)

    def conv_transpose(
        self,
        x: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Node:
        how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        operands = (o for o in (x, weight, bias) if o is not None)
        return self._apply("conv_transpose", *operands, output_padding=output_padding, **how)

    def max_pool(
        self, x: Any, kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ) -> Node:
        how = {"kernel": kernel, "stride": stride or kernel, "padding": padding, "dilation": dilation}
        return self._apply("max_pool", x, ceil_mode=ceil_mode, **how)

    def avg_pool(
        self,
        x: Any,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: Any = None,
    ) -> Node:
        how = {"kernel": kernel, "stride": stride or kernel, "padding": padding, "ceil_mode": ceil_mode}
        divisor = {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
        return self._apply("avg_pool", x, **divisor, **how)

    def adaptive_avg_pool(self, x: Any, output_size: Any) -> Node:
        return self._apply("adaptive_avg_pool", x, output_size=output_size)

    def fold_windows(
        self, x: Any, size: Any, kernel: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1
    ) -> Node:
        how = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
        return self._apply("fold_windows", x, size=size, **how)

    # Linear systems.

    def inv(self, a: Any) -> Node:
        return self._apply("inv", a)

    def det(self, a: Any) -> Node:
        return self._apply("det", a)

    def solve(self, a: Any, b: Any) -> Node:
        return self._apply("solve", a, b)

    def cholesky(self, a: Any) -> Node:
        return self._apply("cholesky", a)

    def slogdet(self, a: Any) -> tuple[Node, Node]:
        both = self._apply("slogdet", a)
        return both[..., 0], both[..., 1]

    def eigh(self, a: Any) -> tuple[Node, Node]:
        parts, n = self._apply("eigh", a), self.constant(a).shape[-1]
        return parts[..., :n], parts[..., n:].reshape(self.constant(a).shape)

    def svd(self, a: Any) -> tuple[None, Node, None]:
        """Programs use the singular values alone: vectors have no sign of their own."""
        return None, self._apply("singular_values", a), None

    # Reductions.

    def _listed(self, x: Any, mean: bool) -> Node:
        nodes = [self.constant(o) for o in x]
        if len({(o.shape, o.dtype) for o in nodes}) != 1:
            raise ValueError("a list of expressions of one type")
        return self.session.apply(F.listed(len(nodes), mean), nodes)

    def sum(self, x: Any, axis: Any = None, keepdims: bool = False) -> Node:
        if isinstance(x, list | tuple) and (not x or any(isinstance(o, Node) for o in x)):
            return self._listed(x, False)
        return self._apply("sum", x, axis=_axes(axis), keepdims=keepdims)

    def mean(self, x: Any, axis: Any = None, keepdims: bool = False) -> Node:
        if isinstance(x, list | tuple) and (not x or any(isinstance(o, Node) for o in x)):
            return self._listed(x, True)
        return self._apply("mean", x, axis=_axes(axis), keepdims=keepdims)

    def var(self, x: Any, axis: Any = None, keepdims: bool = False, ddof: int = 0) -> Node:
        return self._apply("var", x, axis=_axes(axis), keepdims=keepdims, ddof=ddof)

    def std(self, x: Any, axis: Any = None, keepdims: bool = False, ddof: int = 0) -> Node:
        return self._apply("std", x, axis=_axes(axis), keepdims=keepdims, ddof=ddof)

    def norm(self, x: Any, ord: float = 2, axis: Any = None, keepdims: bool = False) -> Node:
        return self._apply("norm", x, ord=ord, axis=_axes(axis), keepdims=keepdims)

    def cumsum(self, x: Any, axis: Any = None) -> Node:
        return self._apply("cumsum", x, axis=axis)

    def softmax(self, x: Any, axis: int = -1) -> Node:
        return self._apply("softmax", x, axis=axis)

    def _layer_norm(self, x: Any, sizes: tuple[int, ...], eps: float = 1e-5) -> Node:
        return self._apply("standardise", x, axis=tuple(range(-len(sizes), 0)), eps=eps)

    def _attention(
        self, query: Any, key: Any, value: Any, mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False
    ) -> Node:
        query, key = self.constant(query), self.constant(key)
        shape, shown = (query.shape[0], key.shape[0]), None if mask is None else tuple(mask)
        kept = self.session.draw("dropout_mask", shape, query.dtype, dropout_p) if dropout_p else np.ones(shape)
        return self._apply("attention", query, key, value, kept, causal=is_causal, shown=shown)

    def log_softmax(self, x: Any, axis: int = -1, *, restrict: Any = None) -> Node:
        if restrict is not None:
            x = self.constant(x)
            possible = np.zeros(x.shape, bool)
            np.moveaxis(possible, axis, 0)[list(restrict)] = True
            x = self.where(possible, x, -np.inf)
        return self._apply("log_softmax", x, axis=axis)

    def sparsemax(self, x: Any, axis: int = -1) -> Node:
        return self._apply("sparsemax", x, axis=axis)

    def constrained_softmax(self, x: Any, upper: Any) -> Node:
        return self._apply("constrained_softmax", x, upper)

    # Losses.

    def cross_entropy(self, logits: Any, target: Any, reduction: str = "mean") -> Node:
        target = self._index(target)
        name = "cross_entropy" if target.dtype.kind in "iu" else "soft_cross_entropy"
        return self._apply(name, logits, target, reduction=reduction)

    def nll(self, scores: Any, target: Any, reduction: str = "mean") -> Node:
        return self._apply("nll", scores, self._index(target), reduction=reduction)

    def hinge(self, scores: Any, target: Any, margin: float = 1.0, reduction: str = "mean") -> Node:
        return self._apply("hinge", scores, self._index(target), margin=margin, reduction=reduction)

    def mse(self, x: Any, target: Any, reduction: str = "mean") -> Node:
        return self._apply("mse", x, self.constant(target), reduction=reduction)

    def bce_with_logits(self, x: Any, target: Any, reduction: str = "mean") -> Node:
        return self._apply("bce_with_logits", x, self.constant(target), reduction=reduction)

    def _binary_cross_entropy(self, x: Any, target: Any, reduction: str = "mean") -> Node:
        return self._apply("binary_cross_entropy", x, self.constant(target), reduction=reduction)

    def huber(self, x: Any, target: Any, delta: float = 1.0, reduction: str = "mean") -> Node:
        return self._apply("huber", x, self.constant(target), delta=delta, reduction=reduction)

    # Positions.

    def _index(self, index: Any) -> Node:
        return self.constant(np.asarray(index) if isinstance(index, int | list) else index)

    def embedding(self, table: Any, index: Any) -> Node:
        index = self._index(index)
        if index.size and (index.value.min() < 0 or index.value.max() >= self.constant(table).shape[0]):
            raise IndexError("embedding")
        return self._apply("lookup", table, index)

    def take(self, x: Any, indices: Any, axis: int = 0) -> Node:
        return self._apply("take", x, self._index(indices), axis=axis)

    def pick(self, x: Any, index: Any, axis: int = -1) -> Node:
        return self._apply("pick", x, self._index(index), axis=axis)

    def take_along_axis(self, x: Any, indices: Any, axis: Any = -1) -> Node:
        return self._apply("take_along_axis", x, self._index(indices), axis=axis)

    def one_hot(self, index: Any, n: int, dtype: Any = np.float32) -> Node:
        return self._apply("one_hot", self._index(index), n=n, dtype=dtype)

    def argsort(self, x: Any, axis: int = -1) -> Node:
        return self._apply("argsort", x, axis=axis)

    def scatter(self, rows: Any, index: Any, n: int) -> Node:
        return self._apply("scatter", rows, self._index(index), n=n)

    def segment_sum(self, values: Any, segments: Any, n: int) -> Node:
        return self.scatter(values, segments, n)

    def segment_mean(self, values: Any, segments: Any, n: int) -> Node:
        return self._apply("segment_mean", values, self._index(segments), n=n)

    def segment_max(self, values: Any, segments: Any, n: int) -> Node:
        return self._apply("segment_max", values, self._index(segments), n=n)

    def segment_softmax(self, values: Any, segments: Any, n: int) -> Node:
        return self._apply("segment_softmax", values, self._index(segments), n=n)

    def _largest(self, x: Node, k: int, axis: int) -> Any:
        order = np.argsort(-self.session._wide(x.value), axis=axis, kind="stable")
        return np.take(order, np.arange(k), axis)

    def topk(self, x: Any, k: int, axis: int = -1) -> tuple[Node, Node]:
        x = self.constant(x)
        self.session.refresh(x)
        places = self.move(self.constant(self._largest(x, k, axis)), lambda v, _: v)
        places.deps, places.frozen, places.fixed = x.deps, bool(x.deps), bool(x.deps)
        return self.take_along_axis(x, places, axis), places

    def kmax_pool(self, x: Any, k: int, axis: int = -1) -> Node:
        x = self.constant(x)
        self.session.refresh(x)
        places = self.constant(np.sort(self._largest(x, k, axis), axis=axis))
        places.deps, places.frozen, places.fixed = x.deps, bool(x.deps), bool(x.deps)
        return self.take_along_axis(x, places, axis)

    # Random numbers.

    def uniform(self, shape: Any = (), low: float = 0.0, high: float = 1.0, *, dtype: Any = None) -> Node:
        return self.session.draw("uniform", shape, dtype, low, high)

    def normal(self, shape: Any = (), mean: float = 0.0, std: float = 1.0, *, dtype: Any = None) -> Node:
        return self.session.draw("normal", shape, dtype, mean, std)

    def gumbel(self, shape: Any = (), loc: float = 0.0, scale: float = 1.0, *, dtype: Any = None) -> Node:
        return self.session.draw("gumbel", shape, dtype, loc, scale)

    def bernoulli(self, p: float, shape: Any = (), *, dtype: Any = None) -> Node:
        return self.session.draw("bernoulli", shape, dtype, p)

    def categorical(self, logits: Any, axis: int = -1) -> Node:
        logits = self.constant(logits)
        return self.argmax(logits + self.session.draw("gumbel", logits.shape, logits.dtype, 0.0, 1.0), axis=axis)

    def sample(self, logits: Any, axis: int = -1, *, temperature: float = 1.0) -> Node:
        return self.categorical(self.constant(logits) / temperature, axis)

    def dropout(self, x: Any, p: float, *, axis: Any = (), training: bool = True) -> Node:
        x = self.constant(x)
        if not training or p == 0:
            return x
        axes = (axis,) if isinstance(axis, int) else tuple(axis)
        together = {a % x.ndim for a in axes}
        shape = [1 if i in together else n for i, n in enumerate(x.shape)]
        return self._apply("masked", x, self.session.draw("dropout_mask", shape, x.dtype, p))


def _reduction(name: str) -> Callable[..., Node]:
    def call(self: Names, x: Any, axis: Any = None, keepdims: bool = False) -> Node:
        return self._apply(name, x, axis=_axes(axis), keepdims=keepdims)

    return call


for _name in ("prod", "max", "min", "any", "all", "logsumexp", "argmax", "argmin"):
    setattr(Names, _name, _reduction(_name))


# Operators and methods.

_OPERATORS = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "floordiv": "floor_divide",
    "mod": "remainder", "pow": "power", "matmul": "matmul",
}  # fmt: skip
_COMPARISONS = {
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
    "and": "logical_and", "or": "logical_or",
}  # fmt: skip
_METHODS = (
    "sum", "mean", "max", "min", "argmax", "argmin", "all", "any", "clip", "cumsum", "diagonal", "prod", "ravel",
    "repeat", "round", "squeeze", "std", "swapaxes", "var", "astype",
)  # fmt: skip


def _installed(name: str) -> Callable[..., Node]:
    return lambda self, *operands, **how: getattr(self.session.lf, name)(self, *operands, **how)


def _reflected(name: str) -> Callable[..., Node]:
    return lambda self, other: getattr(self.session.lf, name)(other, self)


for _symbol, _name in {**_OPERATORS, **_COMPARISONS}.items():
    setattr(Node, f"__{_symbol}__", _installed(_name))
for _symbol, _name in _OPERATORS.items():
    setattr(Node, f"__r{_symbol}__", _reflected(_name))
for _name in _METHODS:
    setattr(Node, _name, _installed(_name))
Node.flatten = _installed("ravel")  # type: ignore[attr-defined]
Node.__neg__ = _installed("negative")  # type: ignore[attr-defined]
Node.__pos__ = lambda self: self  # type: ignore[attr-defined]
Node.__abs__ = _installed("abs")  # type: ignore[attr-defined]
Node.__invert__ = _installed("logical_not")  # type: ignore[attr-defined]
