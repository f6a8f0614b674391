"""The reference: entries made of docstrings, where a page has ``::: module`` and the names below it, indented.

Names are looked up as a user would, and signatures asked of the objects themselves, for many functions and modules are
made from records and have no text of their own that could be read. ``::: module list`` gives the names alone. MkDocs
calls the ``on_`` function.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
DIRECTIVE = re.compile(r"^::: (?P<module>[\w.]+)(?P<list> list)?\n(?P<names>(?:    .+\n)*)", re.MULTILINE)
DOCTEST = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
MENTION = re.compile(r"(?<!`)`([\w.]+)`(?!`)")
SHORT = {"lazyflow": "lf", "lazyflow.numpy.random": "np.random"}


def entries(text: str) -> Iterator[tuple[str, str]]:
    """The module and name of all entries of a page."""
    for found in DIRECTIVE.finditer(text):
        yield from ((found["module"], name) for name in found["names"].split())


@functools.cache
def known() -> dict[str, str]:
    """The page of every entry, and of every member of a class among them, by its full name."""
    found = {}
    for page in sorted(REFERENCE.glob("*.md")):
        for directive in DIRECTIVE.finditer(page.read_text(encoding="utf-8")):
            for name in directive["names"].split() if not directive["list"] else ():
                full, value = f"{directive['module']}.{name}", looked_up(directive["module"], name)
                further = members(value) if inspect.isclass(value) else []
                found.update(dict.fromkeys((full, *(f"{full}.{member}" for member, _ in further)), page.name))
    return found


def looked_up(module: str, name: str) -> Any:
    """What a user finds by that name."""
    return getattr(importlib.import_module(module), name)


def expanded(text: str) -> str:
    """A page with its entries in place of the directives."""
    return DIRECTIVE.sub(lambda found: (_list if found["list"] else _entries)(found["module"], found["names"]), text)


def _entries(module: str, names: str) -> str:
    return "\n".join(_entry(module, name, looked_up(module, name)) for name in names.split())


def _list(module: str, names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split()) + ".\n"


def _entry(module: str, name: str, value: Any) -> str:
    full = f"{module}.{name}"
    said = [heading(3, full, name), *_call(_spelled(module, name), value), markdown(documentation(value), full)]
    if inspect.isclass(value):
        said += [_member(full, member, v) for member, v in members(value)]
    return "\n\n".join(said) + "\n"


def _member(kind: str, name: str, value: Any) -> str:
    arguments = shown(inspect.signature(value)) if callable(value) else ""
    head = heading(4, f"{kind}.{name}", name + " ".join(arguments.split()))
    return f"{head}\n\n{markdown(documentation(value), kind)}"


def heading(level: int, anchor: str, name: str) -> str:
    """A heading that links can lead to."""
    return f"{'#' * level} `{name}` {{ #{anchor} }}"


def _spelled(module: str, name: str) -> str:
    """As a user writes it, who has imported ``lazyflow as lf`` and the packages from it."""
    return f"{SHORT.get(module, module.removeprefix('lazyflow.'))}.{name}"


def _call(name: str, value: Any) -> list[str]:
    """The signature, fenced, of what a user calls."""
    if not callable(value) or (inspect.isclass(value) and not _is_made_by_users(value)):
        return []
    made_from = getattr(value, "signature", None)  # of a module that is a function and its options
    signature = made_from if isinstance(made_from, inspect.Signature) else inspect.signature(value)
    return [f"```python\n{name}{shown(signature)}\n```"]


def _is_made_by_users(kind: type) -> bool:
    """Whether a class says what it is made of; exceptions and a plain dict do not."""
    if issubclass(kind, BaseException):
        return False
    return inspect.isfunction(kind.__init__) or inspect.isfunction(kind.__new__)


def shown(signature: inspect.Signature) -> str:
    """A signature without annotations, which docstrings say better, and broken where it is long."""
    empty = inspect.Parameter.empty
    plain = [p.replace(annotation=empty, default=_Spelled.of(p.default)) for p in signature.parameters.values()]
    plain = plain[1:] if plain and plain[0].name in ("self", "cls") else plain
    return textwrap.fill(str(inspect.Signature(plain)), 84, subsequent_indent="    ", break_long_words=False)


class _Spelled(str):
    """A default as it is written."""

    def __repr__(self) -> str:
        return str(self)

    @classmethod
    def of(cls, value: Any) -> Any:
        """The name of a function or a class, any other value itself."""
        named = value is not inspect.Parameter.empty and (inspect.isclass(value) or inspect.isroutine(value))
        return cls(value.__name__) if named else value


def members(kind: type) -> list[tuple[str, Any]]:
    """The public methods and properties that a class documents, its own and those of a private base.

    What a public base documents already stands there, but for ``forward``, which says what a module does.
    """
    public = [base for base in kind.__mro__[1:] if not base.__name__.startswith("_")]
    private = [base for base in kind.__mro__[1:] if base.__name__.startswith("_")]
    found = {name: value for base in (*reversed(private), kind) for name, value in vars(base).items()}
    return [
        (name, getattr(value, "__func__", value))
        for name, value in found.items()
        if _is_documented(name, value) and (name == "forward" or not any(hasattr(base, name) for base in public))
    ]


def _is_documented(name: str, value: Any) -> bool:
    kinds = staticmethod, classmethod, property, functools.cached_property
    described = inspect.isfunction(value) or isinstance(value, kinds)
    return not name.startswith("_") and described and bool(inspect.getdoc(value))


def documentation(value: Any) -> str:
    """What a docstring says."""
    return inspect.getdoc(value) or ""


def markdown(said: str, scope: str) -> str:
    """The docstring of an entry or a member of it as Markdown: examples fenced, mentions of other entries as links."""
    parts, end = [], 0
    for example in DOCTEST.finditer(said):
        parts += [_prose(said[end : example.start()], scope), f"```pycon\n{example[0]}\n```\n"]
        end = example.end()
    return "".join([*parts, _prose(said[end:], scope)]).strip()


def _prose(text: str, scope: str) -> str:
    text = re.sub(r"::\n\n(?= )", ":\n\n", text)
    return re.sub(MENTION, lambda found: _mention(found[1], scope), text)


def _mention(name: str, scope: str) -> str:
    """A link to the entry of a name, if it has one: a member of the scope, a neighbour, or anything public."""
    around = f"{scope}.", f"{scope.rpartition('.')[0]}."
    full = (f"{prefix}{name}" for prefix in (*around, "", "lazyflow.", "lazyflow.nn.", "lazyflow.optim."))
    entry = next((f for f in full if f in known()), None)
    return f"[`{name}`]({known()[entry]}#{entry})" if entry else f"`{name}`"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Before a page is rendered."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return expanded(markdown)
