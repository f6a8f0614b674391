"""What stands around the body of a cell: builtins, modules of libraries, print options, its own definition; and what
tells an array among the arguments from an expression."""

import builtins
import functools
import gc
import math
import sys
import types
import typing
import weakref

import numpy as np
import pytest

import lazyflow as lf

X = np.array([0.5, -1.0, 2.0])
THIRDS = np.array([1 / 3, 2 / 3])


def value(e):
    return e.numpy() if isinstance(e, lf.Expr) else np.asarray(e)


def agree(body, change, cell=None):
    """Call a cell and its body, what stands around them being changed in between: often, and rarely."""
    cell, x = cell or lf.cell(body), lf.constant(X)
    for step in (0, 1, 2, 3, 0, 0, 0, 1, 1, 1, 0, 2):
        change(step)
        np.testing.assert_allclose(value(cell(x)), value(body(x)), rtol=1e-6, err_msg=f"step {step}")


# Builtins and modules.

LIBRARY = math


def own_len(step):
    """The function itself, or one that differs where nobody but the tests asks."""
    real = len
    return (lambda v: 7 if type(v) is bytes else real(v)) if step % 2 else real


AROUND = {
    "a builtin": (lambda x: x * len(b"ab"), builtins, "len", own_len(0), own_len(1)),
    "a builtin of a helper": (lambda x: x * (lambda: len(b"ab"))(), builtins, "len", own_len(0), own_len(1)),
    "a global before a builtin": (lambda x: x * len(b"ab"), None, "len", own_len(1), None),
    "a name that is no builtin yet": (lambda x: x * scale_of_all, builtins, "scale_of_all", 2.0, 3.0),  # noqa: F821
    "a module": (lambda x: x * LIBRARY.pi, None, "LIBRARY", math, types.SimpleNamespace(pi=3.0)),
    "a number of a module": (lambda x: x * math.pi, math, "pi", 3.0, 3.25),
    "an operation": (lambda x: lf.tanh(x), lf, "tanh", lf.tanh, lambda v: v * 3),
    "one of many operations": (lambda x: lf.exp(lf.tanh(x) + lf.cos(x)), lf, "tanh", lf.tanh, lambda v: v * 3),
    "one of a module inside": (
        lambda x: lf.nn.functional.relu(x - 1), lf.nn.functional, "relu", lf.nn.functional.relu, lambda v: v * 3,
    ),
    "a function of NumPy's": (lambda x: x * np.hypot(3.0, 4.0), np, "hypot", np.hypot, np.arctan2),
}  # fmt: skip


@pytest.mark.parametrize(("body", "on", "name", "one", "other"), AROUND.values(), ids=AROUND)
def test_builtins_and_the_names_of_modules_count(body, on, name, one, other):
    space = globals() if on is None else vars(on)

    def change(step):
        chosen = other if step % 2 else one
        if chosen is None:
            space.pop(name, None)
        else:
            space[name] = chosen

    before = space.get(name)
    try:
        agree(body, change)
    finally:
        space.pop(name, None)
        if before is not None:
            space[name] = before


# Text.


class Shown:
    def __repr__(self):
        return "x" * self.width


SHOWN = Shown()
SHOWN.width = 1


class Extra(lf.nn.Module):
    width = 1

    def extra_repr(self):
        return "x" * self.width


EXTRA = Extra()
TEXTS = {
    "f-string": lambda x: x * len(f"{THIRDS}"),
    "in a list": lambda x: x * len(f"{[THIRDS]}"),
    "str": lambda x: x * len(str(THIRDS)),
    "percent": lambda x: x * len("%s" % THIRDS),  # noqa: UP031
    "format": lambda x: x * len("{}".format(THIRDS)),  # noqa: UP032
    "map": lambda x: x * len("".join(map(str, [THIRDS]))),
    "a method": lambda x: x * len(THIRDS.__str__()),
    "array2string": lambda x: x * len(np.array2string(THIRDS)),
    "an object": lambda x: x * len(f"{SHOWN}"),
    "an object in a list": lambda x: x * len(str([SHOWN])),
    "a module": lambda x: x * len(repr(EXTRA)),
}


@pytest.mark.parametrize("body", TEXTS.values(), ids=TEXTS)
def test_text_is_what_it_would_be_now(body):
    def change(step):
        np.set_printoptions(precision=2 + step)
        SHOWN.width = EXTRA.width = step + 1

    with np.printoptions():
        agree(body, change)


def test_messages_of_errors_do_not_count():
    def body(x, n):
        if n > 8:
            raise ValueError(f"too many: {n} of {x!r}")
        if n < 0:
            raise ValueError("got %d" % n)  # noqa: UP031
        return x * n

    runs = []
    cell = lf.cell(lambda x: (runs.append(1), body(x, 2))[1])
    for precision in (3, 4, 5):
        with np.printoptions(precision=precision):
            cell(lf.constant(X))
    assert len(runs) == 1


# The definition.


def test_defaults_and_code_that_are_replaced():
    @lf.cell
    def scaled(x, k=2.0, *, offset=1.0):
        return x * k + offset

    def shifted(x, k=2.0, *, offset=1.0):
        return lf.exp(x) - k * offset

    outer, x = lf.cell(lambda x: scaled(x) * 2), lf.constant(X)

    def check(expected):
        for _ in range(3):
            np.testing.assert_allclose(value(scaled(x)), expected)
            np.testing.assert_allclose(value(outer(x)), 2 * expected)

    check(X * 2 + 1)
    scaled.__defaults__ = (3.0,)
    check(X * 3 + 1)
    scaled.__kwdefaults__ = {"offset": 5.0}
    check(X * 3 + 5)
    scaled.__code__ = lf.cell(shifted).__code__  # as tools do that reload a module
    check(np.exp(X) - 15)
    scaled.__code__ = shifted.__code__
    check(np.exp(X) - 15)
    scaled.__defaults__ = None
    for function in (scaled, outer):
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'k'"):
            function(x)


LATER = "def scaled(x: Later, k: Later.kind = 2.0, *, offset: Later = 1.0) -> Later: return x * k + offset"


@pytest.mark.skipif(sys.version_info < (3, 14), reason="Python evaluates annotations where they stand")
def test_annotations_of_a_cell_may_name_what_is_not_there():
    exec(LATER, space := {"__name__": __name__})
    cell = lf.cell(space["scaled"])
    for _ in range(2):
        np.testing.assert_allclose(value(cell(lf.constant(X), offset=3.0)), X * 2 + 3)


def test_attributes_of_functions():
    def helper(x):
        return x * helper.factor

    @lf.cell
    def scaled(x):
        return helper(x) + scaled.offset

    def change(step):
        helper.factor, scaled.offset, helper.unread = step + 1.0, (step + 2.0) ** 2, step

    agree(lambda x: helper(x) + scaled.offset, change, scaled)
    agree(lambda x: scaled(x) * 2, change)


def test_an_attribute_of_a_function_that_is_set_later():
    def helper(x):
        return x * (2.0 if hasattr(helper, "there") else 3.0)

    def change(step):
        if step % 2:
            helper.there = step
        else:
            vars(helper).pop("there", None)

    agree(helper, change)


def test_keywords_of_a_partial_that_change_in_place():
    scaled = functools.partial(lambda x, *, factor: x * factor, factor=1.0)
    agree(lambda x: scaled(x), lambda step: scaled.keywords.update(factor=step + 1.0))


def test_objects_of_numpy_that_are_callable_and_change():
    factor, polynomial = [1.0], np.poly1d([1.0, 2.0])
    each = np.vectorize(lambda v: v * factor[0])

    def change(step):
        factor[0], polynomial.coeffs[0] = step + 1.0, step + 2.0

    agree(lambda x: x * each(np.ones(3)), change)
    agree(lambda x: x * float(polynomial(1.0)), change)


def test_attributes_that_a_format_names():
    shown = types.SimpleNamespace(text="a", width=types.SimpleNamespace(of=3))

    def change(step):
        shown.text, shown.width.of = "a" * (step + 1), 3 + step

    agree(lambda x: x * len("{.text:s}".format(shown)), change)  # noqa: UP032
    agree(lambda x: x * float("{s.width.of}.5".format(s=shown)), change)  # noqa: UP032


@pytest.mark.parametrize("calls", [0, 1, 20])
def test_a_cell_that_its_own_body_can_see_dies_with_its_owner(calls):
    class Model:
        def __init__(self):
            self.scale = lf.Parameter(X)
            self.step = lf.cell(lambda x: lf.tanh(self.scale * x))

    model = Model()
    owner, parameter = weakref.ref(model), weakref.ref(model.scale)
    for _ in range(calls):
        model.step(lf.constant(X)).numpy()
    del model
    gc.collect()
    lf.sum(lf.constant([1.0])).item()  # lets go of plans with dead parameters
    gc.collect()
    assert owner() is None and parameter() is None


def test_code_with_a_closure_in_another_function_says_what_is_missing():
    def made(k):
        return lf.cell(lambda x: x * k)

    other = lf.cell(lambda x: x + 1)
    other.__code__ = made(3.0).__code__
    gc.collect()
    with pytest.raises(lf.errors.CellError, match="decorate the new function"):
        other(lf.constant(X))


def test_a_default_of_a_cell_in_a_cell_that_changes_in_place():
    @lf.cell
    def scaled(x, k=[2.0]):  # noqa: B006
        return x * k[0]

    agree(lambda x: x * scaled.__defaults__[0][0], lambda k: scaled.__defaults__[0].__setitem__(0, k), lf.cell(scaled))


# Operations that are among the globals or the arguments are no reason to run the body again.

TANH = lf.tanh


def test_operations_by_any_name_are_watched():
    runs, x = [], lf.constant(X)
    by_name, by_argument = (
        lf.cell(lambda x: (runs.append(1), TANH(x))[1]),
        lf.cell(lambda x, f: (runs.append(1), f(x))[1]),
    )
    for _ in range(3):
        np.testing.assert_allclose(value(by_name(x)), np.tanh(X), rtol=1e-6)
        np.testing.assert_allclose(value(by_argument(x, lf.tanh)), np.tanh(X), rtol=1e-6)
    assert len(runs) == 2


# Arrays among the arguments.

ARRAY, EITHER, ONE_OF = np.ndarray, np.ndarray | float, typing.Union[np.ndarray, float]  # noqa: UP007


def asked(a):
    try:
        return 2 if a.flags.writeable else 3
    except AttributeError:
        return 4


TELLING = {
    "hasattr": lambda a: lf.constant(a) * (2 if hasattr(a, "flags") else 3),
    "hasattr by a made name": lambda a: lf.constant(a) * (2 if hasattr(a, "fl" + "ags") else 3),
    "getattr": lambda a: lf.constant(a) * len(getattr(a, "strides", ())),
    "what an expression has": lambda a: lf.constant(a) * (2 if hasattr(a, "requires_grad") else 3),
    "try": lambda a: lf.constant(a) * asked(a),
    "isinstance of another name": lambda a: lf.constant(a) * (2 if isinstance(a, ARRAY) else 3),
    "isinstance of a union": lambda a: lf.constant(a) * (2 if isinstance(a, EITHER) else 3),
    "isinstance of typing's union": lambda a: lf.constant(a) * (2 if isinstance(a, ONE_OF) else 3),
    "the class's module": lambda a: lf.constant(a) * (2 if a.__class__.__module__ == "numpy" else 3),
    "dir": lambda a: lf.constant(a) * len(dir(a)),
    "text": lambda a: lf.constant(a) * len(str(a)),
}


@pytest.mark.parametrize("body", TELLING.values(), ids=TELLING)
def test_an_array_and_an_expression_are_told_apart(body):
    cell, kinds = lf.cell(body), {"array": X, "expression": lf.constant(X)}
    for kind in ("expression", "expression", "array", "array", "expression", "array"):
        np.testing.assert_allclose(value(cell(kinds[kind])), value(body(kinds[kind])), err_msg=kind)


ONLY_ARRAYS = {
    "a list": lambda a: lf.constant(X) * sum(a.tolist()),
    "bytes": lambda a: lf.constant(X) * len(a.tobytes()),
    "a copy": lambda a: lf.constant(a.copy()),
}


@pytest.mark.parametrize("body", ONLY_ARRAYS.values(), ids=ONLY_ARRAYS)
def test_what_only_an_array_can_do(body):
    np.testing.assert_allclose(value(lf.cell(body)(X)), value(body(X)))
