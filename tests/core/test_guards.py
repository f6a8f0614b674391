"""What locks and cells ask of the core in the middle of Python: the same as its forms in Python."""

import threading

import pytest

from lazyflow import core
from lazyflow.cells.recorder import _unchanged
from lazyflow.cells.visible import MISSING
from lazyflow.locks import _guarded

needs_core = pytest.mark.skipif(core.guards is None, reason="the core was not compiled")


def form(name):
    return {"core": core.guards, "python": None}[name]


def of_defaults(a=1, *, b=2):
    return a + b


class Space:
    there = "a value"


FORMS = [pytest.param("core", marks=needs_core), "python"]
VALUE = ["any"]
NAMES = {
    "the very same": ({"a": VALUE}, "a", VALUE, True),
    "an equal one": ({"a": ["any"]}, "a", VALUE, False),
    "still missing": ({}, "a", MISSING, True),
    "no longer missing": ({"a": None}, "a", MISSING, False),
    "no longer there": ({}, "a", VALUE, False),
    "of a class": (vars(Space), "there", Space.there, True),
    "another one of a class": (vars(Space), "there", VALUE, False),
    "missing of a class": (vars(Space), "elsewhere", MISSING, True),
    "not missing of a class": (vars(Space), "there", MISSING, False),
}
FUNCTIONS = {
    "as it was": (of_defaults.__code__, of_defaults.__defaults__, of_defaults.__kwdefaults__, True),
    "other code": (form.__code__, of_defaults.__defaults__, of_defaults.__kwdefaults__, False),
    "other defaults": (of_defaults.__code__, (1, 1), of_defaults.__kwdefaults__, False),
    "no defaults": (of_defaults.__code__, None, of_defaults.__kwdefaults__, False),
    "other keywords": (of_defaults.__code__, of_defaults.__defaults__, {"b": 2}, False),
}


def unchanged(name):
    return core.guards.unchanged if name == "core" else _unchanged


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("case", NAMES)
def test_names_have_the_very_same_values(name, case):
    space, key, value, holds = NAMES[case]
    assert unchanged(name)(((space, key, value),), (), MISSING) == holds
    assert unchanged(name)((({"b": 1}, "b", 1), (space, key, value)), (), MISSING) == holds, "behind one that holds"


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("case", FUNCTIONS)
def test_functions_have_the_very_same_code_and_defaults(name, case):
    *parts, holds = FUNCTIONS[case]
    assert unchanged(name)((), ((of_defaults, *parts),), MISSING) == holds


def test_a_function_without_defaults_has_none():
    for one in (core.guards.unchanged, _unchanged) if core.guards else (_unchanged,):
        assert one((), ((form, form.__code__, None, None),), MISSING)


@pytest.mark.parametrize("name", FORMS)
def test_a_lock_is_held_as_long_as_its_guard_is(name):
    class Owner:
        inner = threading.Lock()

    take = core.guards.guarded if name == "core" else _guarded
    guard = take(Owner)
    assert Owner.inner.locked()
    assert guard is not None
    del guard
    assert not Owner.inner.locked()
