"""What the body of a cell reads: every call gives what the undecorated function gives now, or an error says why not."""

import collections
import copy
import dataclasses
import enum
import functools
import gc
import itertools
import pickle
import random
import sys
import threading
import time
import types
import weakref

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy import fromfile

import lazyflow as lf
from lazyflow import nn, optim

X, Y = np.array([0.5, -1.0, 2.0]), np.array([1.0, 0.25, -0.5])


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


# Values of parameters.


class Held(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.s = lf.Parameter(X), lf.Parameter(2.0)
        self.inner = nn.Linear(3, 3)


HELD = Held()


def outside():
    e = lf.constant(X) * 2
    e.forward()
    return e


VALUES = {
    "numpy": lambda x, m: x * m.w.numpy(),
    "array": lambda x, m: x * m.w.array,
    "data": lambda x, m: x * m.w.data,
    "asarray": lambda x, m: x * np.asarray(m.w),
    "dlpack": lambda x, m: x * np.from_dlpack(m.w),
    "float": lambda x, m: x * float(m.s),
    "int": lambda x, m: x * int(m.s),
    "item": lambda x, m: x * m.s.item(),
    "bool": lambda x, m: x if m.s else -x,
    "text": lambda x, m: x * len(f"{m.s:.2f}"),
    "an element": lambda x, m: x * float(m.w[0]),
    "a comparison": lambda x, m: x if m.w[0] > 0 else -x,
    "a sum": lambda x, m: x * lf.sum(m.w).item(),
    "forward": lambda x, m: x * lf.forward([m.w])[0],
    "a gradient": lambda x, m: x * m.w.grad,
    "a state": lambda x, m: x * m.state_dict()["inner.bias"],
    "a copy": lambda x, m: x * copy.deepcopy(m.w),
    "a global": lambda x, m: x * HELD.w.numpy(),
    "a parameter of its own": lambda x, m: x * lf.Parameter(X),
    "a change": lambda x, m: (m.w.assign(Y), x)[1],
    "a hook": lambda x, m: (m.w.register_hook(np.negative), x * m.w)[1],
    "an outside value": lambda x, m: x * m.early.numpy(),
    "an outside value detached": lambda x, m: x * m.early.detach(),
}


@pytest.mark.parametrize("body", VALUES.values(), ids=VALUES)
def test_the_value_of_a_parameter_is_refused(body):
    module = Held()
    module.early = outside()
    before = module.w.numpy()
    with pytest.raises((lf.CellError, lf.GradientError), match=r"<lambda>|write x\.numpy\(\)"):
        lf.cell(body)(lf.constant(X), module)
    close(module.w.numpy(), before)
    assert not module.w.hooks


@pytest.mark.parametrize("fuse", ["off", "numpy"])
def test_a_detached_parameter_follows_updates_and_has_no_gradient(fuse):
    w, m = lf.Parameter(X), lf.Parameter(np.arange(9.0).reshape(3, 3) / 10)

    def body(x):
        return x * w.detach() * w + lf.tanh(m.detach() @ x) + m @ x - lf.embedding(m.detach(), 1)

    cell = lf.cell(body)
    with lf.using(fuse=fuse):
        for _ in range(3):
            found = []
            for function in (cell, body):
                loss = lf.sum([lf.sum(function(lf.constant(x))) for x in (X, Y)])
                loss.backward()
                found.append((loss.item(), w.grad, m.grad))
                w.grad = m.grad = None
            for got, want in zip(*found, strict=True):
                close(got, want)
            w.assign(w.numpy() * 1.5)
            m.data[0] += 1.0


def test_a_kept_root_over_a_detached_parameter_is_of_now():
    w = lf.Parameter(X)
    kept = lf.cell(lambda x: x * w.detach())(lf.constant(Y))
    close(kept.numpy(), X * Y)
    w.assign(Y)
    close(kept.forward().numpy(), Y * Y)
    assert not kept.requires_grad


# What a call depends on: in every call, the values and dtypes of the function itself.


def value(e):
    return e.numpy() if isinstance(e, lf.Expr) else np.asarray(e)


def agree(body, calls, between=lambda k: None):
    """Call a cell and its body with the same arguments, what they see being changed ``between``."""
    cell, x = lf.cell(body), lf.constant(X)
    for k, args in enumerate(calls):
        between(k)
        expected, found = value(body(x, *args)), value(cell(x, *args))
        assert found.dtype == expected.dtype
        # The last bits of a function may differ between a kernel and NumPy; another call's program is off by far more.
        rtol = 1e-13 if found.dtype == np.float64 else 1e-6
        np.testing.assert_allclose(found, expected, rtol=rtol, err_msg=f"call {k} with {args}")


class Colour(enum.Enum):
    RED, GREEN = 1, 2


class Level(enum.IntEnum):
    LOW, HIGH = 1, 2


def scaled_by(k):
    return lambda v: v * k


NAN = float("nan")
ARGUMENTS = {
    "strings": (lambda x, s: x * (2 if s == "a" else 3), ["a", "b", "a", "aa"]),
    "zeros": (lambda x, t: x * np.copysign(1.0, t), [0.0, -0.0, 0.0, 0, NAN, NAN, -0.0]),
    "numbers alike": (lambda x, t: x * {bool: 2, int: 3, float: 5}[type(t)], [1, True, 1.0, 1, True]),
    "their classes": (lambda x, t: x * {bool: 2, int: 3, float: 5}[t.__class__], [1.0, 1, True, 1]),
    "factors": (lambda x, t: x * t, [1, True, 1.0, -0.0, 0.0, NAN, 2**40, -(2**70)]),
    "scalars of NumPy": (
        lambda x, t: x.astype("float32") * t,
        [np.float32(0.1), np.float64(0.1), 0.1, np.float16(0.1), np.int8(3), np.int64(2**40), np.bool_(True)],
    ),
    "scalars beside integers": (
        lambda x, t: (x * 4).astype("int32") * t,
        [np.float32(1.5), np.float64(1.5), 1.5, np.int8(3), np.int64(3), 3, True, 2**20],
    ),
    "a power modulo": (lambda x, n: x * pow(n, 2, 5), [2, 3, 4]),
    "indices": (lambda x, i: x[i] + lf.pick(x, i), [0, np.int64(1), np.int32(2), -1, 1]),
    "lists": (lambda x, v: x * len(v) * v[0], [[1.0, 2.0], [2.0, 1.0], (2.0, 1.0), [2.0, 1.0, 3.0], [-0.0], [0.0]]),
    "nested": (lambda x, v: x * v[0]["k"][1], [[{"k": (1, 2.0)}], [{"k": (1, 3.0)}], ({"k": [1, 3]},)]),
    "types": (lambda x, t: x.astype(t) * 1, ["float32", np.float64, np.dtype("float32"), float, np.float32]),
    "dicts": (
        lambda x, d: x * len(d) + next(iter(d.values())),
        [{"k": 1}, {"k": 1, "l": 2}, {"l": 2, "k": 1}, {"k": 2}],
    ),
    "keys": (lambda x, d: x * (2 if type(next(iter(d))) is bool else 3), [{True: 1}, {1: 1}, {1.0: 1}, {True: 1}]),
    "members": (lambda x, c: x * c.value + (c is Colour.RED), [Colour.RED, Colour.GREEN, Colour.RED]),
    "integer members": (lambda x, c: x * c, [Level.LOW, Level.HIGH, 1, Level.HIGH]),
    "functions": (
        lambda x, f: f(x),
        [lf.tanh, lf.exp, lambda v: v * 2, lambda v: v * 3, functools.partial(lf.clip, low=0, high=1), lf.tanh],
    ),
    "closures": (lambda x, f: f(x), [scaled_by(2.0), scaled_by(3.0), scaled_by(-0.0), scaled_by(0.0), scaled_by(2.0)]),
    "sets": (lambda x, v: x * len(v), [frozenset({1}), frozenset({1, 2}), frozenset()]),
    "None": (lambda x, v: x * 2 if v is None else x * v, [None, 0, None, False]),
    "ranges": (lambda x, r: lf.sum([x * (k + 1) for k in r]), [range(2), range(3), range(1, 2)]),
    "slices": (lambda x, s: x[s], [slice(0, 2), slice(1, 3), slice(None)]),
    "complex": (lambda x, c: x * c.imag, [1 + 2j, 1 - 2j, complex(0, -0.0)]),
    "bytes": (lambda x, b: x * len(b), [b"a", b"ab"]),
}


@pytest.mark.parametrize(("body", "arguments"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_every_argument_counts(body, arguments):
    agree(body, [(argument,) for argument in arguments * 2])


@dataclasses.dataclass
class Options:
    scale: float = 1.0
    steps: list = dataclasses.field(default_factory=lambda: [1.0])
    array: object = dataclasses.field(default_factory=lambda: np.arange(1000.0))
    table: dict = dataclasses.field(default_factory=lambda: {"k": [1.0, 2.0]})
    queue: object = dataclasses.field(default_factory=lambda: collections.deque([1.0]))


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.options, self.scale, self.table = Options(), 1.0, {"k": [1.0, 2.0]}
        self.register_buffer("buffer", np.ones(300))


class Slotted:
    __slots__ = ("options",)


class Hidden:
    """What it shows, it computes."""

    def __init__(self):
        self._v, self.limit = 1.0, 3

    @property
    def scale(self):
        return self._v * 2

    def __len__(self):
        return self.limit

    def __getitem__(self, k):
        return self._v + k


MODULE, OPTIONS, SLOTTED, HIDDEN, CLOSED = Holder(), Options(), Slotted(), Hidden(), [1.0, [2.0]]
SLOTTED.options = OPTIONS
FACTOR, CALLED = 1.0, lf.tanh
ORDERED = [{"a": 2.0, "b": 3.0}, collections.OrderedDict(a=2.0, b=3.0)]


def helper(v, extra=[1.0], *, offset={"k": 0.0}):  # noqa: B006
    return deeper(v) * extra[0] + offset["k"]


def deeper(v):
    return v * FACTOR


class Doubling:
    factor = 2.0

    def apply(self, v):
        return v * self.factor


DOUBLING = Doubling()


def set_global(name, v):
    globals()[name] = v


CHANGES = {
    "an attribute of an argument": (lambda x, o: x * o.scale, OPTIONS, lambda k: setattr(OPTIONS, "scale", k + 1.0)),
    "an attribute of a global": (lambda x: x * OPTIONS.scale, None, lambda k: setattr(OPTIONS, "scale", k + 1.0)),
    "an attribute by its name": (
        lambda x: x * getattr(OPTIONS, "sca" + "le"), None, lambda k: setattr(OPTIONS, "scale", k + 1.0),
    ),
    "all attributes": (lambda x: x * vars(OPTIONS)["scale"], None, lambda k: setattr(OPTIONS, "scale", k + 1.0)),
    "fields": (
        lambda x: x * dataclasses.asdict(OPTIONS)["scale"], None, lambda k: setattr(OPTIONS, "scale", k + 1.0),
    ),
    "a new attribute": (
        lambda x: x * getattr(DOUBLING, "extra", 1.0), None, lambda k: setattr(DOUBLING, "extra", k + 1.0),
    ),
    "an attribute before the class's": (
        lambda x: x * DOUBLING.factor, None, lambda k: k and setattr(DOUBLING, "factor", float(k)),
    ),
    "a list in place": (lambda x, o: x * o.steps[0], OPTIONS, lambda k: OPTIONS.steps.__setitem__(0, k + 1.0)),
    "a list that grows": (lambda x, o: x * len(o.steps), OPTIONS, lambda k: OPTIONS.steps.append(k)),
    "a deep dict": (lambda x, o: x * o.table["k"][1], OPTIONS, lambda k: OPTIONS.table["k"].__setitem__(1, k)),
    "a large array": (lambda x, o: x * o.array[-1], OPTIONS, lambda k: OPTIONS.array.__setitem__(-1, k)),
    "a large array as a constant": (
        lambda x, o: x * lf.sum(lf.constant(o.array)), OPTIONS, lambda k: OPTIONS.array.__setitem__(7, k),
    ),
    "the order of a dict": (
        lambda x: x * next(iter(ORDERED[0].values())), None, lambda k: ORDERED[0].update(a=ORDERED[0].pop("a")),
    ),
    "the order of an ordered dict": (
        lambda x: x * next(iter(ORDERED[1].values())), None, lambda k: ORDERED[1].move_to_end("ab"[k % 2]),
    ),
    "a deque": (lambda x, o: x * o.queue[-1], OPTIONS, lambda k: OPTIONS.queue.append(float(k))),
    "a module's attribute": (lambda x, m: x * m.scale, MODULE, lambda k: setattr(MODULE, "scale", k + 1.0)),
    "a module's dict": (lambda x, m: x * m.table["k"][0], MODULE, lambda k: MODULE.table.update(k=[float(k)])),
    "a module's options": (
        lambda x, m: x * m.options.scale, MODULE, lambda k: setattr(MODULE.options, "scale", k + 1.0),
    ),
    "a module's buffer": (lambda x, m: x * m.buffer[-1], MODULE, lambda k: MODULE.buffer.__setitem__(-1, k)),
    "a module's settings in the closure": (
        lambda x: x * MODULE.options.steps[0] * MODULE.scale,
        None,
        lambda k: (setattr(MODULE, "scale", k + 1.0), MODULE.options.steps.__setitem__(0, k + 2.0)),
    ),
    "slots": (lambda x, s: x * s.options.scale, SLOTTED, lambda k: setattr(OPTIONS, "scale", k + 1.0)),
    "a property": (lambda x, h: x * h.scale, HIDDEN, lambda k: setattr(HIDDEN, "_v", k + 1.0)),
    "a length": (lambda x, h: x * len(h), HIDDEN, lambda k: setattr(HIDDEN, "limit", k + 1)),
    "an item": (lambda x, h: x * h[2], HIDDEN, lambda k: setattr(HIDDEN, "_v", k + 1.0)),
    "a global": (lambda x: x * FACTOR, None, lambda k: set_global("FACTOR", k + 1.0)),
    "the sign of a global zero": (
        lambda x: x * FACTOR, None, lambda k: set_global("FACTOR", [0.0, -0.0][k % 2]),
    ),
    "a global of a helper": (lambda x: helper(x), None, lambda k: set_global("FACTOR", k + 1.0)),
    "a default of a helper": (lambda x: helper(x), None, lambda k: helper.__defaults__[0].__setitem__(0, k + 1.0)),
    "a keyword's default": (lambda x: helper(x), None, lambda k: helper.__kwdefaults__["offset"].update(k=k + 1.0)),
    "a function among the globals": (
        lambda x: CALLED(x), None, lambda k: set_global("CALLED", [lf.tanh, lf.exp][k % 2]),
    ),
    "a function of NumPy's names among the globals": (
        lambda x: CALLED(x), None, lambda k: set_global("CALLED", [lf.numpy.tanh, lf.numpy.exp][k % 2]),
    ),
    "a method of a class": (
        lambda x: DOUBLING.apply(x),
        None,
        lambda k: setattr(Doubling, "apply", lambda self, v: v * (k + 1.0)) if k else None,
    ),
    "a list of the closure": (lambda x: x * CLOSED[1][0], None, lambda k: CLOSED[1].__setitem__(0, k + 1.0)),
    "globals by name": (lambda x: x * globals()["FACTOR"], None, lambda k: set_global("FACTOR", k + 1.0)),
    "the class of an object": (
        lambda x: SWAPPED.apply(x), None, lambda k: setattr(SWAPPED, "__class__", [Doubling, Tripling][k % 2]),
    ),
    "an object whose class says what its attributes are": (
        lambda x: x * ANSWERING.any, None, lambda k: CLOSED[1].__setitem__(0, k + 1.0),
    ),
    "a subscript of a class": (lambda x: x * Answering[0], None, lambda k: CLOSED[1].__setitem__(0, k + 1.0)),
    "how a class makes its objects": (lambda x: x * Made().v, None, lambda k: CLOSED[1].__setitem__(0, k + 1.0)),
    "an annotation": (
        lambda x: x * Annotated.__annotations__["k"], None, lambda k: Annotated.__annotations__.update(k=k + 1.0),
    ),
    "other annotations": (
        lambda x: x * Annotated.__annotations__["k"], None, lambda k: setattr(Annotated, "__annotations__", {"k": k}),
    ),
    "a metaclass": (lambda x: x * Plural.factor, None, lambda k: setattr(Meta, "factor", k + 1.0)),
    "a property of a metaclass": (lambda x: x * Plural.twice, None, lambda k: setattr(Meta, "factor", k + 1.0)),
    "what a module looks up": (lambda x: x * LOOKING_UP.scale, None, lambda k: CLOSED[1].__setitem__(0, k + 1.0)),
    "a mask": (
        lambda x: x * float(MASKED.sum()),
        None,
        lambda k: MASKED.__setitem__(0, np.ma.masked if k % 2 else 3.0),
    ),
    "a table of functions": (
        lambda x: x * dispatched(1), None, lambda k: dispatched.register(int)(lambda v: k + 1.0),
    ),
    "other defaults of a helper": (lambda x: scaled(x), None, lambda k: setattr(scaled, "__defaults__", (k + 1.0,))),
    "another default of a keyword": (
        lambda x: scaled(x), None, lambda k: setattr(scaled, "__kwdefaults__", {"offset": k + 1.0}),
    ),
    "other code of a helper": (
        lambda x: replaced(x), None, lambda k: setattr(replaced, "__code__", [deeper, shifted][k % 2].__code__),
    ),
    "settings of NumPy's": (
        lambda x: x * (2 if np.geterr()["over"] == "warn" else 3),
        None,
        lambda k: np.seterr(over=["warn", "raise"][k % 2]),
    ),
}  # fmt: skip


def scaled(v, k=2.0, *, offset=0.0):
    return v * k + offset


def replaced(v):
    return v * 2


def shifted(v):
    return v + 1


class Tripling(Doubling):
    def apply(self, v):
        return v * 3


class Answering:
    def __getattribute__(self, name):
        return CLOSED[1][0]

    def __class_getitem__(cls, key):
        return CLOSED[1][0]


class Made:
    def __new__(cls):
        made = object.__new__(cls)
        made.v = CLOSED[1][0]
        return made


ANSWERING = Answering()


class Annotated:
    k: 1.0


class Meta(type):
    factor = 1.0

    @property
    def twice(cls):
        return cls.factor * 2


class Plural(metaclass=Meta):
    pass


@functools.singledispatch
def dispatched(v):
    return 0.0


SWAPPED, MASKED = Doubling(), np.ma.array([3.0, 1.0], mask=[False, False])
LOOKING_UP = types.ModuleType("looking_up")
LOOKING_UP.__getattr__ = lambda name: CLOSED[1][0]


@pytest.mark.parametrize(("body", "argument", "change"), CHANGES.values(), ids=CHANGES)
def test_every_change_is_seen(body, argument, change):
    kept = {n: copy.deepcopy(globals()[n]) for n in ("FACTOR", "CALLED", "CLOSED")}
    apply, errors = Doubling.apply, np.geterr()
    try:
        agree(body, [() if argument is None else (argument,)] * 5, change)
        agree(body, [() if argument is None else (argument,)] * 5, lambda k: change(k // 2))
    finally:
        globals().update(kept)
        Doubling.apply, Meta.factor = apply, 1.0
        scaled.__defaults__, scaled.__kwdefaults__ = (2.0,), {"offset": 0.0}
        vars(DOUBLING).clear()
        np.seterr(**errors)


def test_annotations_that_no_body_reads_do_not_count():
    """From Python 3.14 on they are a function, which could read what nobody watches."""

    class Drawing:
        chance: random.Random
        scale: float = 2.0

    one, runs = Drawing(), []
    cell = lf.cell(lambda x: (runs.append(1), x * one.scale)[1])
    for _ in range(3):
        close(cell(lf.constant(X)).numpy(), 2 * X)
    assert len(runs) == 1


class Dropping(nn.Dropout):
    """A class of the user's own, whose forward is the library's."""


def test_what_the_librarys_code_reads_of_a_class_derived_from_its_own():
    drop = Dropping(0.0)
    cell = lf.cell(lambda x: drop(x))
    for p, kept in ((0.0, 1.0), (1 - 1e-9, 0.0), (0.0, 1.0)):
        drop.p = p
        for _ in range(2):
            close(cell(lf.constant(X)).numpy(), kept * X)


class Shadowed(nn.Module):
    scale = 2.0

    @lf.cell
    def forward(self, x):
        return x * self.scale


def test_a_buffer_that_comes_before_an_attribute_of_the_class():
    module = Shadowed()
    for _ in range(3):
        close(module(lf.constant(X)).numpy(), 2 * X)
    del Shadowed.scale
    module.register_buffer("scale", np.array(3.0))
    for _ in range(2):
        close(module(lf.constant(X)).numpy(), 3 * X)
    Shadowed.scale = 2.0


RNG = np.random.default_rng(0)
DRAWS = {
    "a generator of NumPy's": lambda x: x * RNG.normal() + RNG.normal(size=3),
    "a generator that is an argument": lambda x, g=RNG: x * g.normal(),
    "NumPy's own": lambda x: x * np.random.rand(),  # noqa: NPY002
    "Python's own": lambda x: x * random.random(),
    "an iterator": lambda x: x * next(ITERATOR),
    "an iterator of a class of one's own": lambda x: x * next(OWN_ITERATOR),
    "a stream's generator": lambda x: x * STREAM.generator().normal(),
}


class Filter(filter):
    """One that was derived from a class of C."""


ITERATOR, OWN_ITERATOR, STREAM = iter([]), Filter(None, []), lf.Stream(3)


@pytest.mark.parametrize("body", DRAWS.values(), ids=DRAWS)
def test_what_cannot_be_watched_is_read_at_every_call(body):
    found = []
    for function in (body, lf.cell(body)):
        RNG.bit_generator.state = np.random.default_rng(5).bit_generator.state
        np.random.seed(5)  # noqa: NPY002
        random.seed(5)
        STREAM.reseed(5)
        set_global("ITERATOR", iter([1.0, 2.0, 3.0, 4.0]))
        set_global("OWN_ITERATOR", Filter(None, [1.0, 2.0, 3.0, 4.0]))
        x = lf.constant(X)
        found.append([function(x).numpy() for _ in range(4)])
    np.testing.assert_array_equal(*found)
    assert len({v.tobytes() for v in found[0]}) == 4


def test_calls_of_a_body_that_runs_every_time_share_a_launch():
    cell, x = lf.cell(lambda x: lf.tanh(x * RNG.normal() + RNG.normal(size=3))), lf.constant(X)
    groups = lf.explain(lf.sum([cell(x) for _ in range(5)])).groups
    assert [(g.nodes, g.launches) for g in groups if g.operation.startswith("cell")] == [(5, 1)]


FILES = {
    "load": lambda x, path: x * np.load(path),
    "memmap": lambda x, path: x * np.memmap(path, np.float64, "r", offset=128)[:3],
    "fromfile": lambda x, path: x * np.fromfile(path, offset=128),
    "from": lambda x, path: x * fromfile(path, offset=128),
}


@pytest.mark.parametrize("body", FILES.values(), ids=FILES)
def test_a_file_is_read_at_every_call(body, tmp_path):
    path = str(tmp_path / "x.npy")
    agree(body, [(path,)] * 4, lambda k: np.save(path, X + k))


def test_what_another_package_draws_is_drawn_at_every_call():
    torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")

    def body(x):
        return x * torch.rand(3, dtype=torch.float64).numpy()

    found = []
    for function in (body, lf.cell(body)):
        torch.manual_seed(0)
        found.append([function(lf.constant(X)).numpy() for _ in range(3)])
    np.testing.assert_array_equal(*found)


def test_a_clock_is_read_at_every_call():
    cell, x = lf.cell(lambda x: x * time.perf_counter()), lf.constant(np.ones(1))
    first, second = cell(x).item(), cell(x).item()
    assert second > first


class Counting(nn.Module):
    """A state that its forward changes."""

    def __init__(self):
        super().__init__()
        self.t, self.w = 0, lf.Parameter(X)

    def step(self, x):
        self.t += 1
        return x * self.t * self.w

    forward = lf.cell(step)


def test_a_module_whose_state_changes_in_the_body():
    one, two = Counting(), Counting()
    for _ in range(4):
        close(one(lf.constant(Y)).numpy(), two.step(lf.constant(Y)).numpy())
    assert one.t == two.t == 4


ITERATORS = {
    "a generator": lambda: (i for i in (1.0, 2.0)),
    "an iterator": lambda: iter([1.0]),
    "zip": lambda: zip([1], [2], strict=True),
    "map": lambda: map(abs, [1]),
    "count": itertools.count,
}


@pytest.mark.parametrize("make", ITERATORS.values(), ids=ITERATORS)
def test_iterators_are_refused(make):
    with pytest.raises(TypeError, match="list"):
        lf.cell(lambda x, g: x * sum(g))(lf.constant(X), make())


# Names of parameters, keywords and defaults.

NAMES = (
    "len float int id tuple list miss _ __ _id _fast _general tape row x1 k3 e0 f0 d0 Expr valid STRUCTURE current_tape"
)


@pytest.mark.parametrize("name", [*NAMES.split(), "otherwise", "record", "recorded", "number", "known"])
def test_parameters_may_have_any_name(name):
    space = {}
    exec(
        f"def first({name}, y): return y * {name}\n"
        f"def keyword(y, *, {name}=2.0): return y * {name}\n"
        f"class Held:\n  def method({name}, y): return y * {name}.v\n",
        space,
    )
    first, keyword, held = lf.cell(space["first"]), lf.cell(space["keyword"]), space["Held"]()
    type(held).method = lf.cell(type(held).method)
    x = lf.constant(X)
    for v in (2.0, 3.0, 3.0, 2.0):
        held.v = v
        close(first(v, x).numpy(), X * v)
        close(first(**{name: v, "y": x}).numpy(), X * v)
        close(keyword(x, **{name: v}).numpy(), X * v)
        close(held.method(x).numpy(), X * v)
    close(keyword(x).numpy(), X * 2)


def test_keywords_and_defaults_are_the_same_call():
    runs = []

    def body(x, n=2, *, k=3.0):
        runs.append(n)
        return x * range(n + 1)[n] * k

    cell, x = lf.cell(body), lf.constant(X)
    for call in (lambda: cell(x), lambda: cell(x, 2), lambda: cell(x, n=2), lambda: cell(n=2, x=x, k=3.0)):
        close(call().numpy(), X * 6)
    assert len(runs) == 1
    with pytest.raises(TypeError, match="body"):
        cell(x, m=2)
    with pytest.raises(TypeError, match="body"):
        cell()


# Methods, whatever they are.


class Methods:
    def __init__(self, v):
        self.v = v
        self.bound = lf.cell(self.plain)

    def plain(this, x):
        return x * this.v

    @lf.cell
    def named(this, x):
        return x * this.v

    @staticmethod
    @lf.cell
    def static(x):
        return x * 2

    @lf.cell
    @staticmethod
    def static_inside(x):
        return x * 3

    @classmethod
    @lf.cell
    def of_class(cls, x):
        return x * cls.k

    k = 5.0


def test_methods_of_all_kinds():
    one, two, x = Methods(2.0), Methods(3.0), lf.constant(X)
    for factor in (1.0, 2.0):
        one.v, two.v = factor * 2, factor * 3
        for _ in range(2):
            for o in (one, two):
                close(o.named(x).numpy(), X * o.v)
                close(o.bound(x).numpy(), X * o.v)
                close(lf.cell(o.plain)(x).numpy(), X * o.v)
            close(Methods.static(x).numpy(), X * 2)
            close(one.static(x).numpy(), X * 2)
            close(one.static_inside(x).numpy(), X * 3)
            close(Methods.of_class(x).numpy(), X * 5)


def test_objects_that_can_be_called_are_refused_with_what_to_write():
    for what in (nn.Linear(3, 3), functools.partial(lf.clip, low=0)):
        with pytest.raises(TypeError, match=r"lf\.cell\(lambda"):
            lf.cell(what)


# State that a body keeps outside of modules, and what it can tell of its arguments.


class Keeping:
    """Of no module: counts, and keeps its last state."""

    def __init__(self):
        self.count, self.total, self.log, self.h = 0, [0.0], [2.0, 3.0, 4.0, 5.0], lf.constant(X)

    def counted(self, x):
        self.count += 1
        return x * self.count

    def totalled(self, x):
        self.total[0] += 2
        return x * self.total[0]

    def popped(self, x):
        return x * self.log.pop()

    def ended(self, x):
        self.count += 1
        return x if self.count < 4 else -x

    def kept(self, x):
        self.h = lf.tanh(self.h + x)
        return self.h


@pytest.mark.parametrize("name", ["counted", "totalled", "popped", "ended"])
def test_what_a_body_changes_and_reads_is_its_state(name):
    plain, cell = getattr(Keeping(), name), lf.cell(getattr(Keeping(), name))
    for _ in range(4):
        close(cell(lf.constant(X)).numpy(), plain(lf.constant(X)).numpy())


def test_an_expression_of_its_inside_that_a_body_reads_again_is_refused():
    cell = lf.cell(Keeping().kept)
    close(cell(lf.constant(X)).numpy(), np.tanh(2 * X))
    with pytest.raises(lf.CellError, match="of the inside"):
        cell(lf.constant(X))


def test_a_variable_of_the_closure_is_state():
    def made():
        n = 0

        def body(x):
            nonlocal n
            n += 1
            return x * n

        return body

    plain, cell = made(), lf.cell(made())
    for _ in range(4):
        close(cell(lf.constant(X)).numpy(), plain(lf.constant(X)).numpy())


def test_what_a_body_only_counts_is_not_read():
    runs, seen, counter, held = [], {"runs": 0}, itertools.count(), Keeping()

    def body(x):
        runs.append(len(x))
        seen["runs"] += 1
        held.count += 1
        held.last = "run"
        next(counter)
        return x * 2

    cell = lf.cell(body)
    for _ in range(4):
        close(cell(lf.constant(X)).numpy(), 2 * X)
    assert (len(runs), seen["runs"], held.count, next(counter)) == (1, 1, 1, 1)


CHANGED = {
    "popped": (lambda x, v: x * v.pop(), [1.0, 2.0]),
    "appended": (lambda x, v: (v.append(x), x * len(v))[1], []),
    "assigned": (lambda x, v: (v.__setitem__("h", x * 2), v["h"])[1], {"h": lf.constant(X)}),
    "deep": (lambda x, v: (v[0]["k"].reverse(), x * v[0]["k"][0])[1], ({"k": [1.0, 2.0]},)),
}


@pytest.mark.parametrize(("body", "argument"), CHANGED.values(), ids=CHANGED)
def test_an_argument_that_a_body_changes_is_refused(body, argument):
    with pytest.raises(lf.CellError, match="among its arguments"):
        lf.cell(body)(lf.constant(X), argument)


def test_arguments_that_are_one():
    e, p, held, table = lf.constant(X), lf.Parameter(X), Keeping(), [1.0]
    pairs = [(e, e), (lf.constant(X), lf.constant(Y)), (e, p), (p, p), (table, table), ([1.0], [1.0]), (e, e)]
    agree(lambda x, a, b: x * (2 if a is b else 3), pairs)
    agree(lambda x, a, b: x * (3 if a is not b else 2), [(1000, 1000), (1000, 1001), (e, e), (e, lf.constant(X))])
    agree(lambda x, a: a * (2 if a is held.h else 3), [(held.h,), (e,), (held.h,), (lf.constant(X),)] * 2)


def test_arrays_and_expressions_that_a_body_tells_apart():
    for body in (
        lambda x, a: x * (2 if isinstance(a, np.ndarray) else 3),
        lambda x, a: x * (2 if isinstance(a, lf.Expr) else 3),
        lambda x, a: x * (2 if type(a) is np.ndarray else 3),
    ):
        agree(body, [(lf.constant(X),), (X,), (lf.constant(X),), (lf.constant(Y),), (lf.constant(X),), (X,), (Y,)])


class Stateful(nn.Module):
    """A module with a cell among its attributes, that keeps its last state."""

    def __init__(self):
        super().__init__()
        self.w, self.h = lf.Parameter(X), None
        self.step = lf.cell(self.body)

    def body(self, x):
        return lf.tanh(x * self.w)

    def forward(self, x):
        self.h = self.step(x)
        return self.h


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m))}


@pytest.mark.parametrize("again", COPIES.values(), ids=COPIES)
def test_copies_of_a_module_that_keeps_its_state(again):
    module = Stateful()
    state = module(lf.constant(Y)).numpy()
    other = again(module)
    close(other.h.numpy(), state)
    assert not other.h.requires_grad
    other.w.assign(Y)
    close(other(lf.constant(Y)).numpy(), np.tanh(Y * Y))
    close(module(lf.constant(Y)).numpy(), state)


def test_modules_that_are_arguments_die():
    cell = lf.cell(lambda m, x: m(x) * 2)
    module = nn.Linear(3, 3)
    for _ in range(3):
        cell(module, lf.constant(np.float32(X))).numpy()
    gone = weakref.ref(module), weakref.ref(module.weight)
    del module
    gc.collect()
    assert [g() for g in gone] == [None, None]


def test_a_body_that_raises_leaves_nothing_half_done():
    w, stream = lf.Parameter(X), lf.Stream(1)
    fail = [True]

    @lf.cell
    def body(x, i):
        y = lf.dropout(x * w, 0.5, stream=stream)
        if fail[0]:
            raise RuntimeError("no")
        return y * lf.pick(x, i)

    x = lf.constant(X)
    rows = len(x.tape)
    with pytest.raises(RuntimeError, match="no"):
        body(x, 0)
    fail[0] = False
    with pytest.raises(IndexError):
        body(x, 7)
    assert len(x.tape) == rows
    body(x, 0)
    draws, rows = stream.count, len(x.tape)
    with pytest.raises(IndexError):
        body(x, 7)
    assert (stream.count - draws, len(x.tape) - rows) in ((0, 0), (1, len(x.tape) - rows))
    assert lf.constant(X).tape is x.tape


def test_an_expression_that_leaks_out_of_a_body_is_refused():
    leaked = []

    @lf.cell
    def body(x):
        leaked.append(x * 2)
        return leaked[-1] * 3

    close(body(lf.constant(X)).numpy(), X * 6)
    with pytest.raises(lf.CellError, match="return"):
        lf.constant(X) + leaked[0]
    with pytest.raises(lf.CellError):
        leaked[0].numpy()


# Random bodies over all that can be seen, and changes of it between calls.


class World:
    """All that a body reads, and what changes it. Two of them that went through the same changes are equal."""

    def __init__(self):
        self.number, self.options, self.steps = 1.0, Options(), [1.0, 2.0]
        self.module, self.array, self.text = Holder(), np.arange(4.0), "a"
        self.module.w = lf.Parameter(X)
        self.module.drop = nn.Dropout(0.5)
        self.function = scaled_by(2.0)


READS = {
    "number": lambda x, o, a: x * o.number,
    "options": lambda x, o, a: x + o.options.scale,
    "steps": lambda x, o, a: lf.sum([x * s for s in o.steps]),
    "table": lambda x, o, a: x - o.module.table["k"][0],
    "array": lambda x, o, a: x * o.array[1:],
    "constant": lambda x, o, a: x * lf.constant(o.array)[1:],
    "buffer": lambda x, o, a: x + o.module.buffer[:3],
    "text": lambda x, o, a: x * len(o.text) if o.text < "b" else -x,
    "parameter": lambda x, o, a: x * o.module.w,
    "detached": lambda x, o, a: x + o.module.w.detach(),
    "dropout": lambda x, o, a: o.module.drop(x),
    "function": lambda x, o, a: o.function(x),
    "argument": lambda x, o, a: x * a if not isinstance(a, str) else x * len(a),
    "deciding": lambda x, o, a: x * (2 if a == 0 else 3),
    "sign": lambda x, o, a: x if isinstance(a, str) else x * np.copysign(1.0, a),
    "gradient or not": lambda x, o, a: x * 2 if x.requires_grad else x * 3,
    "dtype": lambda x, o, a: x * lf.constant([1.5, 2.5, 3.5]),
    "global": lambda x, o, a: x * FACTOR,
    "helper": lambda x, o, a: helper(x),
}
WORLD_CHANGES = {
    "number": lambda o, k: setattr(o, "number", float(k)),
    "negative zero": lambda o, k: setattr(o, "number", -0.0),
    "zero": lambda o, k: setattr(o, "number", 0.0),
    "options": lambda o, k: setattr(o.options, "scale", float(k)),
    "steps": lambda o, k: o.steps.append(float(k)),
    "step": lambda o, k: o.steps.__setitem__(0, float(k)),
    "table": lambda o, k: o.module.table["k"].__setitem__(0, float(k)),
    "array": lambda o, k: o.array.__setitem__(k % 4, float(k)),
    "buffer": lambda o, k: o.module.buffer.__setitem__(k % 3, float(k)),
    "text": lambda o, k: setattr(o, "text", "ab"[k % 2] * (k + 1)),
    "update": lambda o, k: o.module.w.assign(o.module.w.numpy() * 0.5 + k),
    "in place": lambda o, k: o.module.w.data.__setitem__(0, float(k)),
    "new parameter": lambda o, k: setattr(o.module, "w", lf.Parameter(X + k)),
    "frozen": lambda o, k: setattr(o.module.w, "requires_grad", bool(k % 2)),
    "mode": lambda o, k: o.module.train(bool(k % 2)),
    "function": lambda o, k: setattr(o, "function", [lf.tanh, scaled_by(float(k)), np.negative][k % 3]),
    "global": lambda o, k: set_global("FACTOR", float(k)),
    "nothing": lambda o, k: None,
}
VALUES_OF_ARGUMENTS = [0, 0.0, -0.0, 1, True, 1.0, 2, -3.5, "abc", np.float32(0.1), np.int64(2), np.bool_(True), 2**35]


def run_of(body, steps, decorated):
    """Values, dtypes and gradients of a sequence of calls with changes between them."""
    world, found = World(), []
    set_global("FACTOR", 1.0)
    lf.seed(7)
    cell = lf.cell(body) if decorated else body
    for change, k, argument, how in steps:
        WORLD_CHANGES[change](world, k)
        with lf.using(dtype="float64" if how == "wide" else "float32", grad=how != "no gradient"):
            v = lf.Parameter(Y) if how == "leaf" else None
            result = cell(lf.constant(Y) if v is None else v * 1.0, world, argument)
            found.append((result.numpy(), result.requires_grad))
            if result.requires_grad:
                world.module.w.zero_grad()
                lf.sum(result * result).backward()
                found += [world.module.w.grad, None if v is None else v.grad]
    return found


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from(list(READS)), min_size=1, max_size=4),
    st.lists(
        st.tuples(
            st.sampled_from(list(WORLD_CHANGES)),
            st.integers(0, 5),
            st.sampled_from(range(len(VALUES_OF_ARGUMENTS))),
            st.sampled_from(["as it is", "as it is", "leaf", "wide", "no gradient"]),
        ),
        min_size=3,
        max_size=8,
    ),
)
def test_every_call_is_the_function_whatever_changes(reads, steps):
    def body(x, world, argument):
        for name in reads:
            x = READS[name](x, world, argument)
        return x

    steps = [(change, k, VALUES_OF_ARGUMENTS[a], how) for change, k, a, how in steps]
    with np.errstate(all="ignore"):
        expected, found = run_of(body, steps, decorated=False), run_of(body, steps, decorated=True)
    set_global("FACTOR", 1.0)
    for got, want in zip(found, expected, strict=True):
        if isinstance(want, tuple):
            assert got[0].dtype == want[0].dtype
            assert got[1] == want[1]
            got, want = got[0], want[0]
        assert (got is None) == (want is None)
        if want is not None:
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


# Threads.


class Recurrent(nn.Module):
    def __init__(self, seed):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.W, self.b, self.k = lf.Parameter(rng.normal(size=(3, 3))), lf.Parameter(rng.normal(size=3)), 1.0

    @lf.cell
    def forward(self, x, h=None):
        z = self.W @ x + self.b
        return lf.tanh(z if h is None else z + h) * self.k


@lf.cell
def distance(h, y):
    return lf.sum((h - y) ** 2)


def trained(seed, meet=lambda: None):
    """The losses of a model of one's own, whose shapes, settings and modules change on the way."""
    model, rng, losses = Recurrent(seed), np.random.default_rng(seed), []
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    for step in range(8):
        meet()
        found = []
        for _ in range(3):
            h = None
            for _ in range(rng.integers(1, 4)):
                h = model(lf.constant(rng.normal(size=3)), h)
            found.append(distance(h, lf.constant(rng.normal(size=3))))
        with lf.no_grad():
            losses.append(distance(model(lf.constant(np.ones(3))), lf.constant(np.zeros(3))).item())
        loss = lf.mean(found)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        model.k = 1.0 + step % 3
    return losses


def test_threads_that_train_models_of_their_own_through_one_class():
    """All meet before every step, and then change places as often as they can."""
    many = 6
    expected = [trained(seed) for seed in range(many)]
    found, barrier, interval = {}, threading.Barrier(many), sys.getswitchinterval()

    def work(seed):
        try:
            found[seed] = trained(seed, barrier.wait)
        except BaseException:
            barrier.abort()
            raise

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(many)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(interval)
    for seed in range(many):
        np.testing.assert_allclose(found[seed], expected[seed], rtol=1e-9)


@pytest.mark.host
def test_a_thread_that_stands_in_a_body_while_others_call_and_change_the_cell():
    """One thread waits at a named point of its trace; meanwhile another traces, records, and makes code for it."""
    inside, go_on, results = threading.Event(), threading.Event(), {}

    class Waiting(nn.Module):
        def __init__(self, v, wait):
            super().__init__()
            self.w, self.wait = lf.Parameter(X * v), wait

        @lf.cell
        def forward(self, x):
            if self.wait:
                inside.set()
                assert go_on.wait(60)
            return x * self.w

    first, second = Waiting(2.0, True), Waiting(3.0, False)

    def waiting():
        results["first"] = [first(lf.constant(Y)).numpy()]

    thread = threading.Thread(target=waiting)
    thread.start()
    assert inside.wait(60)
    for _ in range(3):
        close(second(lf.constant(Y)).numpy(), 3 * X * Y)
    second.w.assign(Y)
    close(second(lf.constant(Y)).numpy(), Y * Y)
    go_on.set()
    thread.join(60)
    close(results["first"][0], 2 * X * Y)
    first.wait = False
    close(first(lf.constant(Y)).numpy(), 2 * X * Y)
