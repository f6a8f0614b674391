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
SHORT = {"lazyflow": "lf", "lazyflow.numpy": "np"}


def entries(text: str) -> Iterator[tuple[str, str]]:
    """The module and name of all entries of a page."""
    for found in DIRECTIVE.finditer(text):
        yield from ((found["module"], name) for name in found["names"].split())


@functools.cache
def known() -> dict[str, str]:
    """The page of every entry, by its full name."""
    pages = sorted(REFERENCE.glob("*.md"))
    return {f"{m}.{n}": p.name for p in pages for m, n in entries(p.read_text(encoding="utf-8"))}


def expanded(text: str) -> str:
    """A page with its entries in place of the directives."""
    return DIRECTIVE.sub(lambda found: (_list if found["list"] else _entries)(found["module"], found["names"]), text)


def _entries(module: str, names: str) -> str:
    return "\n".join(_entry(module, name, getattr(importlib.import_module(module), name)) for name in names.split())


def _list(module: str, names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split()) + ".\n"


def _entry(module: str, name: str, value: Any) -> str:
    said = [heading(3, f"{module}.{name}", name), *_call(_spelled(module, name), value), markdown(documentation(value))]
    if inspect.isclass(value):
        said += [_member(f"{module}.{name}.{member}", member, v) for member, v in members(value)]
    return "\n\n".join(said) + "\n"


def heading(level: int, anchor: str, name: str) -> str:
    """A heading that links can lead to."""
    return f"{'#' * level} `{name}` {{ #{anchor} }}"


def _spelled(module: str, name: str) -> str:
    """As a user writes it, who has imported ``lazyflow as lf`` and the packages from it."""
    return f"{SHORT.get(module, module.removeprefix('lazyflow.'))}.{name}"


def _call(name: str, value: Any) -> list[str]:
    """The signature, fenced, of what can be called."""
    if not callable(value) or (inspect.isclass(value) and issubclass(value, BaseException)):
        return []
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # of what is written in C
        return []
    return [f"```python\n{name}{shown(signature)}\n```"]


def shown(signature: inspect.Signature) -> str:
    """A signature without annotations, which docstrings say better, and broken where it is long."""
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    plain = plain[1:] if plain and plain[0].name == "self" else plain
    return textwrap.fill(str(inspect.Signature(plain)), 84, subsequent_indent="    ", break_long_words=False)


def members(kind: type) -> list[tuple[str, Any]]:
    """The public methods and properties of a class that say what they do, its own and those of a private base."""
    found = {}
    for base in reversed([kind, *(b for b in kind.__mro__[1:] if b.__name__.startswith("_"))]):
        for name, value in vars(base).items():
            value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            described = inspect.isfunction(value) or isinstance(value, property | functools.cached_property)
            if not name.startswith("_") and described and inspect.getdoc(value):
                found[name] = value
    return list(found.items())


def _member(anchor: str, name: str, value: Any) -> str:
    return "\n\n".join([heading(4, anchor, name), *_call(name, value), markdown(documentation(value))])


def documentation(value: Any) -> str:
    """What a docstring says; of a class that has none of its own, nothing."""
    return inspect.getdoc(value) or ""


def markdown(said: str) -> str:
    """A docstring as Markdown: examples fenced, literal blocks and mentions of other entries as the site has them."""
    parts, end = [], 0
    for example in DOCTEST.finditer(said):
        parts += [_prose(said[end : example.start()]), f"```pycon\n{example[0]}\n```\n"]
        end = example.end()
    return "".join([*parts, _prose(said[end:])]).strip()


def _prose(text: str) -> str:
    text = re.sub(r"::\n\n(?= )", ":\n\n", text)
    return re.sub(MENTION, lambda found: _mention(found[1]), text)


def _mention(name: str) -> str:
    """A link to the entry of a name, if it has one."""
    full = (f"{prefix}{name}" for prefix in ("", "lazyflow.", "lazyflow.nn.", "lazyflow.optim.", "lazyflow.train."))
    entry = next((f for f in full if f in known()), None)
    return f"[`{name}`]({known()[entry]}#{entry})" if entry else f"`{name}`"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Before a page is rendered."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return expanded(markdown)
