"""What the body of a cell can see besides expressions and numbers: marks that are equal as long as it sees the same.

Nobody can tell which of all that it reaches a function will read. But the names are known: of globals and of
attributes, in its code and in that of all functions it may call. So everything is looked at that can be reached by
these names, from the arguments, the closure, the globals, and the classes of the objects on the way, and counts by its
contents: plain values, lists, dicts and arrays of any size, functions by their code and by what they see. A parameter
counts by its type, which says who it is, a module by its attributes.

What hides its state (a generator of random numbers, an iterator, a lock), and code that could read anything (`eval`, a
clock, a file), cannot be watched: `Seen.watchable` says so, and such a body is recorded anew for every call.
"""

from __future__ import annotations

import enum
import functools
import itertools
import re
import struct
import sys
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dis import Instruction, get_instructions
from types import CodeType, ModuleType
from typing import Any, NamedTuple, Optional

import numpy as np

from lazyflow import core, settings
from lazyflow import device as devices
from lazyflow.errors import CellError, is_generated
from lazyflow.ops.base import Op
from lazyflow.random import Stream
from lazyflow.record.expr import Expr, Parameter, constant
from lazyflow.record.tape import Signature, Type
from lazyflow.record.trace import TracedNumber

VisiblePath = tuple[object, ...]
_Attributes = Mapping[str, object]

MOST_MARKS = 4096  # marks: to compare more of them takes longer than to record a body anew
MISSING: Any = object()  # in a guard: no such name

# Packages and standard modules whose functions depend on their arguments alone.
OWN_PACKAGES = frozenset({"lazyflow", "numpy", "cupy"})
PURE = OWN_PACKAGES | frozenset(
    {
        "__future__", "abc", "bisect", "builtins", "cmath", "collections", "contextlib", "enum", "fractions",
        "functools", "heapq", "itertools", "logging", "math", "numbers", "operator", "re", "string", "types", "typing",
        "typing_extensions", "warnings",
    }
)  # fmt: skip
# Functions of these packages that read what nobody watches: files, and settings.
HIDDEN = frozenset(
    {
        "load", "loadtxt", "genfromtxt", "fromfile", "fromregex", "memmap", "open_memmap", "DataSource", "geterr",
        "geterrcall", "getbufsize", "get_printoptions", "read_conllu", "read_listops", "read_ptb_trees", "read_tsv",
    }
)  # fmt: skip
# Names that read attributes, or all there are; names that read or change what is not looked at.
EVERY = frozenset({"getattr", "vars", "dir", "__dict__", "attrgetter", "methodcaller", "hasattr"})
ANYTHING = frozenset(
    {
        "open", "input", "id", "eval", "exec", "globals", "locals", "__import__",
        "draw", "generator", "seed", "reseed", "load_state_dict",
    }
)  # fmt: skip
_PLAIN = frozenset({int, bool, str, bytes, type(None), type(Ellipsis), type(NotImplemented), np.dtype, range})
_FIXED = (
    types.BuiltinFunctionType, types.WrapperDescriptorType, types.MethodDescriptorType, types.ClassMethodDescriptorType,
    types.GetSetDescriptorType, types.MemberDescriptorType, types.MethodWrapperType, np.ufunc, re.Pattern, CodeType,
    Op, Type, Signature, Stream, settings.Settings, slice,
)  # fmt: skip
_COMPILED = type(constant)  # of the functions of what is compiled of this package
_CONTAINERS: tuple[type, ...] = (list, tuple, dict, set, frozenset, deque, OrderedDict, defaultdict)
_ATOMS: tuple[type, ...] = (int, float, complex, str, bytes)


class Same:
    """Equal to another of the very same object, which it keeps alive."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


class Names(NamedTuple):
    """What a piece of code names: globals, modules that it imports, and all that may be an attribute, with `IS` among
    them if it asks whether two things are one, and `FORMATS` if it makes text of values. ``read``: those names that it
    does more with than to count up, to append to, or to assign."""

    globals: tuple[str, ...]
    imports: tuple[str, ...]
    attributes: frozenset[str]
    read: frozenset[str]


IS, FORMATS = "is", "f''"  # no attribute has these names
# What makes text of any value, by whatever methods it has and as NumPy's print options say.
_FORMATTERS = frozenset(
    {
        "str", "repr", "format", "ascii", "format_map", "array2string", "array_str", "array_repr",
        "__str__", "__repr__", "__format__",
    }
)  # fmt: skip


@functools.lru_cache(maxsize=4096)
def names_in(code: CodeType) -> Names:
    """The names in a function's code, functions inside of it included. A string may be the name of an attribute."""
    found = list(get_instructions(code))
    inner = [names_in(c) for c in code.co_consts if isinstance(c, CodeType)]
    loads = [i.argval for i in found if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    imports = [i.argval for i in found if i.opname == "IMPORT_NAME"]
    return Names(
        tuple(dict.fromkeys([*loads, *(n for names in inner for n in names.globals)])),
        tuple(dict.fromkeys([*imports, *(n for names in inner for n in names.imports)])),
        frozenset(code.co_names).union(
            _words_in(code.co_consts),
            [IS] if _compares_identity(found) else [],
            [FORMATS] if _makes_text(code, found) else [],
            *(names.attributes for names in inner),
        ),
        frozenset().union(_read_by(found), *(names.read for names in inner)),
    )


def _compares_identity(code: Sequence[Instruction]) -> bool:
    """Whether there is an ``is`` with anything but a constant, such as None."""
    return any(b.opname == "IS_OP" and a.opname != "LOAD_CONST" for a, b in itertools.pairwise(code))


def _makes_text(code: CodeType, found: Sequence[Instruction]) -> bool:
    """Whether values may become text other than in the message of an error that is raised at once."""
    if not _FORMATTERS.isdisjoint(code.co_names):
        return True
    percent = any(isinstance(value, str) and "%" in value for value in code.co_consts)
    return any(
        (i.opname.startswith("FORMAT_") or (percent and _is_modulo(i))) and not _is_raised(found[k + 1 :])
        for k, i in enumerate(found)
    )


def _is_modulo(i: Instruction) -> bool:
    return i.opname in ("BINARY_MODULO", "INPLACE_MODULO") or (i.opname == "BINARY_OP" and i.argrepr in ("%", "%="))


def _is_raised(rest: Iterable[Instruction]) -> bool:
    """Whether what was computed last goes into an error, without being stored, and without a jump."""
    ends = (
        i.opname
        for i in rest
        if i.opname.startswith(("RAISE", "STORE", "RETURN", "POP", "YIELD")) or "JUMP" in i.opname
    )
    return next(ends, "").startswith("RAISE")


def _read_by(code: Sequence[Instruction]) -> set[str]:
    loads = [k for k, i in enumerate(code) if i.opname.startswith("LOAD_") and isinstance(i.argval, str)]
    return {code[k].argval for k in loads if not _is_only_written(code, k)}


# What may stand between the loading of a value and the storing of one that was made from it by counting up.
_BETWEEN = frozenset({"CACHE", "COPY", "DUP_TOP", "DUP_TOP_TWO", "LOAD_CONST", "LOAD_SMALL_INT", "SWAP", "ROT_TWO",
                      "ROT_THREE", "PRECALL", "PUSH_NULL"})  # fmt: skip
_SUBSCRIPTS = frozenset({"BINARY_SUBSCR", "BINARY_OP[]"})
_ADDS = frozenset({"append", "add", "extend"})


def _is_only_written(code: Sequence[Instruction], start: int) -> bool:
    """Whether what an instruction loads is counted up (``n += 1``, ``n[0] += 1``, ``next(n)``), appended to, or has an
    element assigned, and nothing else."""
    name = code[start].argval
    if start + 1 < len(code) and code[start + 1].opname in ("LOAD_METHOD", "LOAD_ATTR"):
        return code[start + 1].argval in _ADDS
    before = next((i for i in code[start - 1 :: -1] if i.opname not in _BETWEEN), None) if start else None
    is_next = before is not None and before.opname == "LOAD_GLOBAL" and before.argval == "next"
    element = counted = False
    for i in code[start + 1 :]:
        kind = "BINARY_OP[]" if i.opname == "BINARY_OP" and i.argrepr == "[]" else i.opname
        if kind in _SUBSCRIPTS:
            element = True
        elif kind.startswith("INPLACE_") or (kind == "BINARY_OP" and i.argrepr.endswith("=")):
            counted = True
        elif kind in ("CALL", "CALL_FUNCTION") and is_next:
            element = True
        elif kind == "POP_TOP":
            return is_next
        elif kind == "STORE_SUBSCR":
            return element or not counted
        elif kind.startswith("STORE_"):
            return counted and not element and i.argval == name
        elif kind not in _BETWEEN:
            return False
    return False


def _words_in(constants: Iterable[object]) -> set[str]:
    found: set[str] = set()
    for value in constants:
        if isinstance(value, tuple | frozenset):
            found |= _words_in(value)
        elif isinstance(value, str) and all(part.isidentifier() for part in value.split(".")):
            found.update(value.split("."))
        elif isinstance(value, str) and "{" in value:
            found.update(_FIELD_NAMES.findall(value))
    return found


_FIELD_NAMES = re.compile(r"(?<=[.{])[^\W\d]\w*(?=[][.!:}])")  # such as ``size`` in "{0.size:.2f}"


class Guard(NamedTuple):
    """That a name still means the very same: ``kind`` says where it is looked up (see `Walk`)."""

    kind: str
    on: object
    name: object
    value: Any


class Seen(NamedTuple):
    """What a body can see. ``marks``: by the path that leads there. ``state``: the paths of attributes of modules.
    ``counted``: whether every change goes through `STRUCTURE` or breaks one of the ``guards``. ``watchable``: whether
    the marks are all there is to see. ``dear``: what it costs much to look at, or None where there is too much, by
    path, and what it is. ``names``: of the attributes that were looked at. ``read``: of what the code does more with
    than to change it. ``met``: all objects on the way, by id."""

    marks: dict[VisiblePath, object]
    state: frozenset[VisiblePath]
    guards: tuple[Guard, ...]
    counted: bool
    watchable: bool
    names: frozenset[str]
    read: frozenset[str]
    met: Mapping[int, VisiblePath]
    dear: Mapping[VisiblePath, object]

    def key(self, ignored: frozenset[VisiblePath]) -> tuple[object, ...]:
        """The marks as a key, without those on ``ignored`` paths and behind them."""
        if not ignored:
            return tuple(self.marks.items())
        return tuple([item for item in self.marks.items() if not is_behind(item[0], ignored)])

    def changed(self, other: Seen) -> set[VisiblePath]:
        """The paths whose marks are others there, or that only one of them has."""
        return {p for p in (*self.marks, *other.marks) if self.marks.get(p, MISSING) != other.marks.get(p, MISSING)}

    def reads(self, changed: Iterable[VisiblePath]) -> bool:
        """Whether the body may read what it has changed on these paths, so that its next run would see the change."""
        names = {name_behind(path) for path in changed}
        return bool(names) and (not self.names.isdisjoint(EVERY) or None in names or not names.isdisjoint(self.read))


def name_behind(path: VisiblePath) -> str | None:
    """The name by which code reaches what a path leads to: an attribute's, a variable's, or that of a container.

    >>> name_behind((("function",), ("global", "runs"), 0)), name_behind((("object", 0), "count"))
    ('runs', 'count')
    """
    parts = [part[1] if isinstance(part, tuple) and len(part) == 2 else part for part in path]
    return next((part for part in parts[::-1] if isinstance(part, str)), None)


def is_behind(path: VisiblePath, others: Set[VisiblePath]) -> bool:
    """Whether a path leads through one of ``others``, or ends there."""
    return any(path[:n] in others for n in range(1, len(path) + 1))


class Reach:
    """How the code of a decorated function finds its cell: ``known``, a weak reference, or, where that function is no
    more, and its code lives on in another one, a cell made anew."""

    def __init__(self, cell: Any) -> None:
        self.known: Callable[[], Any] = weakref.ref(cell)
        again = functools.partial(cell.__class__, method=cell.method, most_lengths=cell.most_lengths)
        self.code, self.made = cell.function.__code__, again

    def __call__(self, space: dict[str, object]) -> object:
        """The cell, or that of the same code with these globals. Raises `CellError` if the code needs a closure."""
        found = self.known()
        if found is None and self.code.co_freevars:
            raise CellError(
                f"the code of the cell {self.code.co_name} was put into another function, and the one that it was made "
                "for, whose closure it needs, is no more: decorate the new function with lf.cell"
            )
        if found is None:
            found = self.made(types.FunctionType(self.code, space))
            self.known = functools.partial(_as_it_is, found)
        return found


def _as_it_is(value: object) -> object:
    return value


def see(roots: Sequence[tuple[VisiblePath, object]], names: frozenset[str]) -> Seen:
    """What is seen from these values by code that names ``names``, and what the functions on the way name."""
    while True:
        walk = _Walk(names)
        walk.go(roots)
        if walk.named <= names or not walk.watchable:
            state, guards = frozenset(walk.state), tuple(walk.guards.values())
            read, first, dear = frozenset(walk.read), walk.first, walk.dear
            return Seen(walk.marks, state, guards, walk.counted, walk.watchable, names, read, first, dear)
        names = names | walk.named


class _Walk:
    """From the roots to all that can be reached by names, over an explicit stack.

    Guards are of the kinds ``"is"`` (``on`` is a mapping), ``"attribute"`` (``on`` is a reference to an object),
    ``"keys"`` (its class, and the names of its attributes), ``"size"`` (of a mapping), ``"cell"`` (of a closure),
    ``"function"`` (its code and its defaults, which reloading a module replaces),
    ``"printing"`` (NumPy's print options),
    ``"items"`` (the very same parts in a list, a dict or a set) and ``"array"`` (the contents of one).
    """

    def __init__(self, names: frozenset[str]) -> None:
        self.names, self.every = names, not names.isdisjoint(EVERY)
        self.marks: dict[VisiblePath, object] = {}
        self.state: set[VisiblePath] = set()
        self.guards: dict[tuple[str, int, object], Guard] = {}
        self.counted, self.watchable = True, names.isdisjoint(ANYTHING)
        self.named: set[str] = set()
        self.read: set[str] = set()
        self.first: dict[int, VisiblePath] = {}  # where an object was met first, by id
        self.held: list[object] = []  # what was made on the way, so that no id is used twice
        self.waiting: list[tuple[VisiblePath, object]] = []
        self.dear: dict[VisiblePath, object] = {}

    def go(self, roots: Sequence[tuple[VisiblePath, object]]) -> None:
        self.waiting = list(roots)[::-1]
        if FORMATS in self.names:
            options = np.get_printoptions()
            self.guard("printing", None, None, options)
            self.later((), [("printing", options)])
        while self.waiting:
            path, value = self.waiting.pop()
            if len(self.marks) > MOST_MARKS:
                self.watchable, self.dear[path] = False, None
            if not self.watchable:
                return
            self.marks[path] = self._mark(path, value)

    def later(self, path: VisiblePath, parts: Iterable[tuple[object, object]]) -> None:
        """Look at these, too, by their names behind the path."""
        self.waiting.extend([((*path, name), value) for name, value in parts][::-1])

    def _hidden(self) -> object:
        self.watchable = False
        return None

    def uncounted(self, path: VisiblePath, value: object) -> None:
        """No guard can tell whether this is as it was: every call looks at everything again."""
        self.counted = False
        self.dear.setdefault(path, value)

    def guard(self, kind: str, on: object, name: object, value: object) -> None:
        """What was seen is as it was only while this holds."""
        self.guards.setdefault((kind, id(on), name), Guard(kind, on, name, value))

    # What a value is.

    def _mark(self, path: VisiblePath, value: Any) -> object:
        kind = type(value)
        if kind in _PLAIN:
            return kind, value
        if kind is float or kind is complex:
            return kind, bits(value)
        if kind is TracedNumber:  # a body has put its argument away
            return kind, value.value
        if isinstance(value, Parameter):
            return Parameter, value.type, value.name
        if value is MISSING:
            return None
        known = self.first.get(id(value))
        if known is not None:
            return "again", known
        self.first[id(value)] = path
        self.held.append(value)
        if isinstance(value, Expr):
            return kind, value.tape.number, value.row, value.type
        if isinstance(value, np.generic):
            return kind, value.dtype, value.tobytes()
        if isinstance(value, type):
            return self._class(path, value)
        if isinstance(value, ModuleType):
            return self._module(path, value)
        for what, look in _LOOKS:
            if isinstance(value, what):
                return look(self, path, value)
        if (
            isinstance(value, _FIXED)
            or kind is _COMPILED
            or (_root(kind.__module__) == "numpy" and callable(value) and not _is_of_python(kind))
        ):
            return self._fixed(path, value)
        return self._object(path, value)

    def _fixed(self, path: VisiblePath, value: object) -> object:
        """A function of C, or another object that never changes; one that is bound to an object shows that."""
        owner = getattr(value, "__self__", None)
        if isinstance(owner, ModuleType | type) or owner is None:
            if not _is_known(value, owner):
                return self._hidden()
        else:
            self.later(path, [("__self__", owner)])
        return type(value), (value.start, value.stop, value.step) if isinstance(value, slice) else Same(value)

    def function(self, path: VisiblePath, value: types.FunctionType) -> object:
        module = value.__globals__.get("__name__", "")
        _attributes_of_function(self, path, value, is_generated(value.__code__) or _root(module) not in PURE)
        if is_generated(value.__code__):
            return self._cell(path, value)
        if module.partition(".")[0] in PURE:
            cells = [c.cell_contents for c in value.__closure__ or () if is_filled(c)]
            kinds = _FUNCTIONS if module.startswith("lazyflow") else (*_FUNCTIONS, dict)  # a table of functions
            self.later(path, [(k, v) for k, v in enumerate(cells) if isinstance(v, kinds) or is_module(v)])
            if value.__name__ in HIDDEN and _root(module) in OWN_PACKAGES:
                return self._hidden()
            # One that wraps a user's says that it is the user's, and is what its code and its closure are; of those
            # that a factory of ours makes, all with one code, each is itself.
            is_own = value.__module__ == module or _root(value.__module__) == _root(module) == "lazyflow"
            return self._fixed(path, value) if is_own else Same(value.__code__)
        if not _is_pure(module):
            return self._hidden()
        names = names_in(value.__code__)
        self.named |= names.attributes
        self.read |= names.read
        self._definition(path, value)
        self.later(path, [(n, sys.modules.get(n)) for n in names.imports])
        self._globals(path, value, names)
        for name, c in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            if is_filled(c):
                self.guard("cell", c, None, c.cell_contents)
                self.later(path, [(("closure", name), c.cell_contents)])
            else:
                self.counted = False
        return Same(value.__code__)

    def _definition(self, path: VisiblePath, function: types.FunctionType) -> None:
        """The code of a function, which may be replaced, and its defaults, which may also change."""
        self.guard("function", function, None, (function.__code__, function.__defaults__, function.__kwdefaults__))
        self.later(path, [("defaults", function.__defaults__), ("kwdefaults", function.__kwdefaults__)])

    def _cell(self, path: VisiblePath, value: types.FunctionType) -> object:
        """What `lazyflow.cell` made of a function, which is where the code that it printed says."""
        self._definition(path, value)
        reaches: list[Any] = [c for c in value.__code__.co_consts if isinstance(c, Reach)]
        self.later(path, [("function", reach(value.__globals__).function) for reach in reaches])
        return Same(value.__code__)

    def _globals(self, path: VisiblePath, function: Any, names: Names) -> None:
        space = function.__globals__
        for name in names.globals:
            value = space.get(name, MISSING)
            self.guard("is", space, name, value)
            if value is MISSING:
                value = function.__builtins__.get(name, MISSING)
                self.guard("is", function.__builtins__, name, value)
            self.later(path, [(("global", name), value)])

    def _module(self, path: VisiblePath, value: ModuleType) -> object:
        """A module of Python: what is named in it."""
        name, space = value.__name__, vars(value)
        if name.startswith("numpy") and ("random" in self.names or name.startswith("numpy.random")):
            return self._hidden()
        if _root(name) in PURE:
            return (
                self._library(path, value)
                if _root(name) not in OWN_PACKAGES or self.names.isdisjoint(HIDDEN)
                else self._hidden()
            )
        if not _is_pure(name):
            return self._hidden()
        self.counted &= not self.every
        found = [(n, v) for n, v in list(space.items()) if n in self.names or n == "__getattr__"]
        for n, v in found:
            self.guard("is", space, n, v)
        self.guard("size", space, None, len(space))
        self.later(path, found)
        return name

    def _library(self, path: VisiblePath, value: ModuleType) -> object:
        """A module whose functions depend on their arguments alone, but may be replaced."""
        space = vars(value)
        found = {n: space[n] for n in sorted(self.names & space.keys())}
        for n, v in found.items():
            self.guard("is", space, n, v)
        self.later(path, found.items())
        return value.__name__

    def _class(self, path: VisiblePath, value: type) -> object:
        """A class: what is named in it and in those that it inherits, and what its instances do by operators."""
        for k, kind in enumerate(value.__mro__):
            root = _root(kind.__module__)
            if root not in PURE and not _is_pure(kind.__module__):
                self.watchable &= root == "dataclasses"
            elif root not in PURE:
                space = vars(kind)
                found = [(n, v) for n, v in list(space.items()) if self._is_wanted_of_class(value, n, v)]
                for n, v in found:
                    self.guard("is", space, n, v)
                self.guard("size", space, None, len(space))
                self.later(path, [((k, n), v) for n, v in found])
        if type(value) is not type:
            self.later(path, [("__class__", type(value))])
        return type, Same(value)

    def _is_wanted_of_class(self, kind: type, name: str, value: object) -> bool:
        if name == "__init__" and hasattr(kind, "named_parameters"):
            return False  # a body makes no modules
        if name in self.names or name == "forward":
            return True
        if name in ("__repr__", "extra_repr") and FORMATS in self.names:
            return True
        if name in _ANNOTATIONS:
            return "__annotations__" in self.names
        return name.startswith("__") and name not in _UNSEEN and isinstance(value, _METHODS)

    # Objects: their class and their attributes.

    def _object(self, path: VisiblePath, value: object) -> object:
        if hides_state(type(value)) or (type(value).__module__ == "random"):
            return self._hidden()
        self.later(path, [("__class__", type(value)), *self.attributes_of(path, value)])
        return type(value)

    def attributes_of(self, path: VisiblePath, value: object) -> list[tuple[object, object]]:
        """The attributes that count, each with its name."""
        own = _dict_of(value)
        if is_module(value) and hasattr(type(value), "_adopt"):
            return self._of_module(path, value, own)
        every = self.every or not all(_is_plain_base(kind) for kind in type(value).__mro__)
        found = {
            n: v for n, v in list(own.items()) if every or n in self.names or is_module(v) or isinstance(v, Parameter)
        }
        self.guard_object(path, value, own, found)
        slots = {n: getattr(value, n, MISSING) for n in slots_of(type(value))}
        if slots:
            self.uncounted(path, value)
        return [*found.items(), *((n, v) for n, v in slots.items() if every or n in self.names)]

    def guard_object(self, path: VisiblePath, value: object, own: _Attributes, found: _Attributes) -> None:
        try:
            reference = weakref.ref(value)
        except TypeError:
            self.uncounted(path, value)
            return
        self.guard("keys", reference, type(value), tuple(own))
        for n, v in found.items():
            self.guard("attribute", reference, n, v)

    def _of_module(self, path: VisiblePath, value: Any, own: Mapping[str, Any]) -> list[tuple[object, object]]:
        """Of a module, whose changes are counted: parameters, modules, buffers and what makes it run as it does."""
        # What the library's own classes read, no code names that is looked at; `Module` reads what is found here.
        kinds = [kind for kind in type(value).__mro__ if _root(kind.__module__) == "lazyflow"]
        library = not all("_adopt" in vars(kind) for kind in kinds)
        found: list[tuple[object, object]] = []
        for name, v in list(own.items()):
            if name == "_items":  # changed by methods that count
                items = v.items() if isinstance(v, dict) else enumerate(v)
                found += [(("item", k), item) for k, item in items]
            elif name == "_buffers":
                found += [((name, k), k) for k in sorted(v)]
            elif name == "_hooks":
                found.append((name, v is None))
            elif self._is_wanted_of_module(name, v, own) or library:
                found.append((name, v))
        self.state.update([(*path, name) for name, _ in found])
        return found

    def _is_wanted_of_module(self, name: str, value: object, own: Mapping[str, Any]) -> bool:
        if self.every or name in self.names or name == "training" or name in own.get("_buffers", ()):
            return True
        return isinstance(value, Parameter) or is_module(value)


# What is seen of values that are no code, modules or objects of their own classes.


def _array(walk: _Walk, path: VisiblePath, value: Any) -> object:
    if type(value) is np.ndarray and not value.dtype.hasobject:
        content = _content_of(value)
        walk.guard("array", value, None, content)
        if value.nbytes > DEAR_BYTES:
            walk.dear[path] = value
        return type(value), *content
    walk.uncounted(path, value)
    if type(value) is not np.ndarray:  # a mask, for one
        walk.later(path, list(getattr(value, "__dict__", {}).items()))
    if value.dtype.hasobject:
        walk.later(path, enumerate(value.ravel().tolist()))
        return type(value), value.shape
    host = np.asarray(devices.to_host(value))
    return type(value), value.dtype, value.shape, host.tobytes()


def _container(walk: _Walk, path: VisiblePath, value: Any) -> object:
    kind = next((k for k in (OrderedDict, dict) if isinstance(value, k)), None)  # the former has an order of its own
    items = None if kind is None else [part for item in kind.items(value) for part in item]
    parts = list(value) if items is None else items
    held = _held_parts(parts, path[0] == "function") if type(value) in _WATCHED else None
    if held is not None:
        walk.guard("items", value, None, held)
    elif not isinstance(value, tuple | frozenset):
        walk.uncounted(path, value)
    walk.later(path, enumerate(parts))
    if isinstance(value, defaultdict):
        walk.later(path, [("default_factory", value.default_factory)])
    _attributes_of_subclass(walk, path, value)
    return type(value), len(parts)


def _atom(walk: _Walk, path: VisiblePath, value: object) -> object:
    """A number or a string of a class of its own."""
    base = next(kind for kind in _ATOMS if isinstance(value, kind))
    plain: object = base.__getnewargs__(value)[0] if hasattr(base, "__getnewargs__") else base(value)
    _attributes_of_subclass(walk, path, value)
    return type(value), bits(plain) if base in (float, complex) else plain


def _attributes_of_subclass(walk: _Walk, path: VisiblePath, value: object) -> None:
    if type(value) not in (*_CONTAINERS, *_ATOMS):
        walk.later(path, [("__class__", type(value)), *walk.attributes_of(path, value)])


def _attributes_of_function(walk: _Walk, path: VisiblePath, function: types.FunctionType, is_own: bool) -> None:
    """What a function wraps and, of a user's own, the attributes that somebody has set and the code names; one that has
    none is not watched for the first of them."""
    own = dict(vars(function))
    wrapped = own.pop("__wrapped__", None)
    if wrapped is not None:
        walk.later(path, [("__wrapped__", wrapped)])
    if is_own and (own or walk.every):
        found = {n: v for n, v in own.items() if walk.every or n in walk.names}
        walk.guard_object(path, function, vars(function), found)
        walk.later(path, found.items())


def _counter(walk: _Walk, path: VisiblePath, value: object) -> object:
    walk.uncounted(path, value)
    return type(value), repr(value)


def _bound_method(walk: _Walk, path: VisiblePath, value: types.MethodType) -> object:
    walk.later(path, [("__func__", value.__func__), ("__self__", value.__self__)])
    return types.MethodType


def _partial(walk: _Walk, path: VisiblePath, value: functools.partial[object]) -> object:
    walk.later(path, [("func", value.func), ("args", value.args), ("keywords", value.keywords)])
    return functools.partial


def _descriptor(walk: _Walk, path: VisiblePath, value: object) -> object:
    names = ("__func__", "fget", "fset", "func", "__wrapped__")
    walk.later(path, [(n, getattr(value, n)) for n in names if getattr(value, n, None) is not None])
    return type(value)


def _union(walk: _Walk, path: VisiblePath, value: types.UnionType) -> object:
    walk.later(path, enumerate(value.__args__))
    return type(value)


def _reference(walk: _Walk, path: VisiblePath, value: weakref.ref[object]) -> object:
    walk.uncounted(path, value)
    walk.later(path, [("()", value())])
    return type(value)


def _member(walk: _Walk, path: VisiblePath, value: enum.Enum) -> object:
    walk.later(path, [("value", value._value_), ("__class__", type(value))])
    return type(value), Same(value)


_Look = Callable[[_Walk, VisiblePath, Any], object]
_METHODS = (types.FunctionType, staticmethod, classmethod)  # the last two: `__new__` and `__class_getitem__`
_FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)
_LOOKS: tuple[tuple[type | tuple[type, ...], _Look], ...] = (
    (np.ndarray, _array),
    (enum.Enum, _member),
    (_CONTAINERS, _container),
    (_ATOMS, _atom),
    (types.FunctionType, _Walk.function),
    (types.MethodType, _bound_method),
    (functools.partial, _partial),
    ((staticmethod, classmethod, property, functools.cached_property), _descriptor),
    ((types.UnionType, type(Optional[int])), _union),  # noqa: UP045
    (weakref.ref, _reference),
    ((itertools.count, itertools.repeat), _counter),
)
# From Python 3.14 on, how a class keeps its annotations: a function that makes them, which sees all that the class has,
# and what it has made.
_ANNOTATIONS = frozenset({"__annotate_func__", "__annotations_cache__"})
# Methods of two underscores that no body calls without naming them.
_UNSEEN = frozenset(
    {
        "__init_subclass__", "__del__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__repr__",
        "__deepcopy__", "__copy__", "__subclasshook__", "__dir__", "__sizeof__",
    }
)  # fmt: skip


# What is compared whenever a cell is called: arrays by their bytes, of which so many take some microseconds, containers
# by the identity of their parts.
DEAR_BYTES = 1 << 16
_PLAIN_PARTS = frozenset((int, float, complex, bool, str, bytes, type(None)))
_WATCHED = frozenset((list, dict, set, deque, OrderedDict))
_contents: dict[int, tuple[weakref.ref[Any], tuple[Any, ...]]] = {}  # by id of a large array


def _content_of(array: Any) -> tuple[Any, ...]:
    """The dtype, shape and bytes of an array. Of a large one they are compared with what they were, and copied where it
    was changed alone."""
    known = _contents.get(id(array))
    if known is not None and known[0]() is array and same_content(array, known[1]):
        return known[1]
    content = array.dtype, array.shape, array.tobytes()
    if array.nbytes > DEAR_BYTES:
        forget = functools.partial(_forget_content, id(array))
        _contents[id(array)] = weakref.ref(array, forget), content
    return content


def _forget_content(number: int, _: object) -> None:
    _contents.pop(number, None)


def _held_parts(parts: Iterable[object], of_function: bool) -> tuple[object, ...] | None:
    """The parts of a container as a guard holds them, everything that may hold others but lists and dicts by weak
    references; None if one has none. A container of objects and modules is watched where the function holds it: that of
    an argument may lead to what the cell must not keep alive."""
    try:
        found = tuple([p if _is_held(p) else weakref.ref(p) for p in parts])
    except TypeError:
        return None
    if of_function or all(type(p) is not weakref.ref or isinstance(p(), np.ndarray | Parameter) for p in found):
        return found
    return None


def _is_held(part: object) -> bool:
    kind = type(part)
    if kind is tuple:
        return all(map(_is_held, part))  # type: ignore[call-overload]
    return (
        kind in _PLAIN_PARTS or kind is list or kind is dict or (isinstance(part, np.generic) and kind is not np.void)
    )


def same_items(container: Any, parts: tuple[object, ...]) -> bool:
    """Whether a container, or the keys and values of a dict in turn, are these very objects, some of them known by weak
    references.

    >>> same_items([1, "a"], (1, "a")), same_items({1: "a"}, (1, "a")), same_items([1], (1, "a"))
    (True, True, False)
    """
    found = [part for item in container.items() for part in item] if isinstance(container, dict) else container
    return len(found) == len(parts) and all(
        p is known or (p is not None and type(known) is weakref.ref and known() is p)
        for p, known in zip(found, parts, strict=True)
    )


def _same_content(array: Any, content: tuple[Any, ...]) -> bool:
    dtype, shape, data = content
    return bool(array.dtype is dtype and array.shape == shape and array.tobytes() == data)


def _same_contents(containers: tuple[Any, ...], arrays: tuple[Any, ...]) -> bool:
    return all(same_items(*one) for one in containers) and all(same_content(*one) for one in arrays)


same_content: Callable[..., bool] = _same_content if core.guards is None else core.guards.same_content
same_contents: Callable[..., bool] = _same_contents if core.guards is None else core.guards.same_contents


def bits(value: Any) -> bytes:
    """A floating or complex number to the last bit: 0.0 and -0.0 differ, a NaN is equal to itself."""
    return struct.pack("2d", value.real, value.imag)


def _dict_of(value: object) -> Mapping[str, object]:
    """The attributes that an object has of its own, whatever its class says that they are."""
    try:
        found: Mapping[str, object] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found


def is_module(value: object) -> bool:
    """Whether an object is an `nn.Module`, or another that says what its parameters are."""
    return not isinstance(value, type) and hasattr(type(value), "named_parameters")


def is_filled(cell: types.CellType) -> bool:
    """Whether a variable of a closure has a value yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _is_of_python(kind: type) -> bool:
    """Whether a class is written in Python, such as that of ``np.vectorize``, whose objects are callable and have
    attributes; a function that is written in C has none that count."""
    return bool(kind.__flags__ & 1 << 9)  # Py_TPFLAGS_HEAPTYPE


def slots_of(kind: type) -> tuple[str, ...]:
    """The attributes that a class keeps outside of ``__dict__``."""
    found: list[str] = []
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        found += [slots] if isinstance(slots, str) else list(slots)
    return tuple(n for n in dict.fromkeys(found) if n not in ("__dict__", "__weakref__"))


_hide: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()


def hides_state(kind: type) -> bool:
    """Whether objects of a class hold more than attributes: something that is written in C."""
    found = _hide.get(kind)
    if found is None:
        # Negative: before the object, and no part of its size.
        own = len(slots_of(kind)) + (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0)
        room = object.__basicsize__ + 8 * own
        found = _hide[kind] = bool(kind.__itemsize__) or kind.__basicsize__ > room
    return found


def _is_plain_base(kind: type) -> bool:
    """Whether a class is the user's own, whose methods name what they read, or has no methods that read attributes."""
    return kind in _BASES or (_is_pure(kind.__module__) and _root(kind.__module__) not in PURE)


_BASES = frozenset({object, types.SimpleNamespace, enum.Enum, *_CONTAINERS, *_ATOMS})


def _is_known(function: object, owner: object) -> bool:
    """Whether a function that is written in C is one of those that depend on their arguments alone: who wrote it for
    another package may have it read anything, such as the generator of random numbers that the package has."""
    if isinstance(owner, ModuleType):
        module = owner.__name__
    else:
        module = getattr(owner or getattr(function, "__objclass__", function), "__module__", None) or "builtins"
    return _root(module).lstrip("_") in PURE and getattr(function, "__name__", None) not in HIDDEN


def _root(name: str) -> str:
    return name.partition(".")[0]


def _is_pure(module: str) -> bool:
    """Whether a module's functions can be watched: those of the standard library may read the clock, or files."""
    if module.startswith("numpy.random"):
        return False
    root = _root(module)
    return root in PURE or root not in sys.stdlib_module_names or root == "__main__"
