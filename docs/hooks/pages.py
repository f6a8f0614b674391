"""Pages of the site: files of the project included in them, and links that fit both the site and the repository.

A page links the project's files as they lie in the repository, so that its links work there. On the site a link to a
program of the lecture leads to the page that shows it, one to README, CONTRIBUTING or CHANGELOG to the page made of it,
and any other file, which the site does not have, is named without a link. MkDocs calls the ``on_`` functions.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGE_OF = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LECTURE = "examples/lecture"

INCLUDE = re.compile(r"^(?:#|<!--) include: (?P<path>\S+)(?: -->)?\n", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
OUTSIDE = re.compile(r"<(?:script|link|img|iframe)[^>]*\s(?:src|href)=[\"']?(?:https?:)?//[^\"'\s>]*")

log = logging.getLogger("mkdocs.hooks.pages")


def included(text: str, base: str = ".") -> str:
    """The text with each line ``# include: path`` or ``<!-- include: path -->`` replaced by that file of the project.

    The links of an included page start from ``base``, a folder of the site.
    """

    def content(match: re.Match[str]) -> str:
        path = ROOT / match["path"]
        whole = path.read_text(encoding="utf-8")
        return linked(whole, path.parent, from_base) if path.suffix == ".md" else whole

    def from_base(target: Path) -> str:
        return os.path.relpath(target, DOCS / base)

    return INCLUDE.sub(content, text)


def linked(text: str, folder: Path, spell: Callable[[Path], str]) -> str:
    """The text with the targets of its links, but for those in code, spelled anew. They start from ``folder``."""

    def link(match: re.Match[str]) -> str:
        if re.match(r"[a-z]+:", match["target"]):
            return match[0]
        return f"[{match['text']}]({spell((folder / match['target']).resolve())}{match['anchor'] or ''})"

    parts, end = [], 0
    for code in FENCED.finditer(text):
        parts += [LINK.sub(link, text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, LINK.sub(link, text[end:])])


def page_of(file: Path) -> Path | None:
    """The page of the site that has a file of the project, or None."""
    if file.is_relative_to(DOCS):
        return file
    name = file.relative_to(ROOT).as_posix()
    if name.startswith(LECTURE):
        return DOCS / "lecture" / (f"{file.stem}.md" if file.suffix == ".py" else "index.md")
    return DOCS / PAGE_OF[name] if name in PAGE_OF else None


def for_site(text: str, page: Path) -> str:
    """A page's text as the site has it."""
    folder = page.parent

    def spell(target: Path) -> str:
        if not target.exists():
            log.warning("%s links %s, which does not exist", page.name, target)
        found = page_of(target)
        return os.path.relpath(found, folder) if found else ""

    text = linked(included(text, os.path.relpath(folder, DOCS)), folder, spell)
    return re.sub(r"\[([^\]]*)\]\(\)", r"\1", text)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Before a page is rendered."""
    return for_site(markdown, Path(page.file.abs_src_path))


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Nothing that a page loads may come from elsewhere."""
    for found in OUTSIDE.findall(output):
        log.warning("%s loads something from another host: %s", page.file.src_path, found)
    return output
