"""The documentation: its code runs, one block after another, and prints what stands below it, and nothing is left out.

Each page has a process of its own, as its reader has: signatures, and the line that first recorded one, are kept.
"""

import importlib
import io
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from docs.hooks import pages, reference
from tests.printed import alike
from tests.test_import_order import ROOMS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [p for p in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))) if "```python\n" in p.read_text(encoding="utf-8")]
BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<printed>.*?)```\n)?", re.DOTALL)
LECTURE = sorted((ROOT / pages.LECTURE).glob("*.py"))
MODULES = (
    "lazyflow", "lazyflow.nn", "lazyflow.nn.functional", "lazyflow.nn.init", "lazyflow.optim", "lazyflow.train",
    "lazyflow.data", "lazyflow.numpy", "lazyflow.numpy.linalg", "lazyflow.numpy.random", "lazyflow.errors",
)  # fmt: skip


def printed(code, names):
    """What a block prints, as it would from a file of its own."""
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(code, "example.py", "exec"), names)
    return out.getvalue()


def check(page):
    """Run the page's blocks; exit with what is printed in place of what the page says."""
    text, names = pages.included(page.read_text(encoding="utf-8")), {"__name__": "example"}
    for block in BLOCK.finditer(text):
        found = printed(block["code"], names)
        if not alike(block["printed"] or "", found):
            line = 1 + text[: block.start()].count("\n")
            sys.exit(f"{page.name}:{line}: this block prints\n{found}")


@pytest.mark.parametrize(
    ("expected", "found", "same"),
    [
        ("", "", True),
        ("loss 0.25\n", "loss 0.25\n", True),
        ("loss 2.77158724\n", "loss 2.77158731\n", True),  # the last digits of a sum
        ("[0.5 1.  ]", "[0.5       0.9999999]", True),
        ("0.12", "0.13", True),  # may have been rounded either way
        ("0.12", "0.14", False),
        ("1.5e-05", "1.6e-05", False),
        ("2.0", "1.9", False),
        ("[1. 2.]", "[1. 3.]", False),
        ("1e-05", "1e-04", False),
        ("12.3456789", "12.3556789", False),
        ("0.0", "1e-17", True),
        ("2.7e-17", "-5.1e-18", False),  # noise is no figure: a page must not print it
        ("12 launches", "13 launches", False),
        ("float32[3]", "float64[3]", False),
        ("1.0", "nan", False),
        ("1.0 2.0", "1.0", False),
        ("-1.5", "1.5", False),
        ("version 1.2.3", "version 1.2.4", False),
        ("a b", "a c", False),
        ("a\n", "", False),
    ],
)
def test_printed_figures_are_compared_as_numbers(expected, found, same):
    assert alike(expected, found) == same


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_blocks_run_and_print_what_the_page_says(page):
    # As a module: as a file it would have tests/ before all else, where `inspect` and `numpy` are folders of tests.
    command = [sys.executable, "-m", "tests.test_docs", page]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", LECTURE, ids=lambda program: program.stem)
def test_every_program_of_the_lecture_has_a_page_that_shows_it(program):
    page = pages.page_of(program)
    assert f"\n# include: {program.relative_to(ROOT).as_posix()}\n" in page.read_text(encoding="utf-8")
    assert f"]({page.name})" in (DOCS / "lecture" / "index.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def entries():
    texts = [page.read_text(encoding="utf-8") for page in reference.REFERENCE.glob("*.md")]
    return [entry for text in texts for entry in reference.entries(text)]


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module, entries):
    # Of what is offered twice, such as lf.ShapeError and errors.ShapeError, one entry will do.
    objects = [reference.looked_up(*entry) for entry in entries]
    for name in importlib.import_module(module).__all__:
        value = reference.looked_up(module, name)
        is_module = type(value).__name__ == "module"
        assert is_module or (module, name) in entries or any(value is o for o in objects), f"{module}.{name}"


DECISIONS = sorted(path for path in (DOCS / "decisions").glob("*.md") if path.name != "index.md")
SAID = ("Question.", "Tried.", "Found.", "Decided.", "Look again")


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_says_what_was_asked_decided_and_when_to_look_again(page):
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^\*\*([^*]+)\*\*", text, re.MULTILINE)
    assert [said for said in found if said in SAID] == [said for said in SAID if said in found]  # in this order
    assert {"Question.", "Decided.", "Look again"} <= set(found) and len(text.splitlines()) < 60
    assert f"]({page.name})" in (DOCS / "decisions" / "index.md").read_text(encoding="utf-8")
    assert f" decisions/{page.name}\n" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


ARCHITECTURE = (DOCS / "architecture.md").read_text(encoding="utf-8")
PATH = re.compile(r"`([\w/]+(?:\.pyx?|/))`")


def test_architecture_is_a_walk_of_an_hour():
    assert len(ARCHITECTURE.splitlines()) <= 400


@pytest.mark.parametrize(
    "page", [DOCS / "architecture.md", *sorted((DOCS / "internals").glob("*.md"))], ids=lambda p: p.stem
)
def test_files_that_the_walk_names_are_there(page):
    for name in PATH.findall(page.read_text(encoding="utf-8")):
        assert any((folder / name).exists() for folder in (ROOT / "lazyflow", ROOT)), name


def test_rooms_stand_in_the_order_in_which_they_import():
    table = ARCHITECTURE.partition("| room |")[2].partition("\n\n")[0]
    firsts = " ".join(re.findall(r"^\| (`[^|]*)\|", table, re.MULTILINE))
    named = re.findall(r"`(\w+)(?:\.py|/)`", firsts)
    assert named == [room for room in ROOMS if room in named]
    assert {path.parent.name for path in (ROOT / "lazyflow").glob("*/__init__.py")} <= set(named)


@pytest.mark.parametrize(
    "row", re.findall(r"^\| [a-z].*\.py`.*\|$", ARCHITECTURE.partition("## The example")[0], re.MULTILINE)
)
def test_what_the_walk_says_to_look_at_is_in_that_file(row):
    """Of a row such as ``how ... | `expr.py`: `apply2`, `append` |`` each name is defined in the file before it."""
    path = None
    for name in re.findall(r"`([\w/.]+)`", row.rpartition(" | ")[2]):
        if name.endswith(".py"):
            path = ROOT / "lazyflow" / name
        elif "." not in name and path is not None:
            assert re.search(rf"(?:class|def) {name}\b", path.read_text(encoding="utf-8")), (path, name)


WALK = [DOCS / "architecture.md", *sorted((DOCS / "internals").glob("*.md")), *DECISIONS]
ELSEWHERE = {"PYTHONDONTWRITEBYTECODE", "queue", "Queue"}  # what is Python's


@pytest.fixture(scope="module")
def words_of_the_code():
    folders = {"lazyflow": (".py", ".pyx"), "lazyflow/core/c": (".c", ".h"), "tests": (".py",), "docs/hooks": (".py",)}
    files = [p for name, kinds in folders.items() for p in (ROOT / name).rglob("*") if p.suffix in kinds]
    return set().union(*(re.findall(r"\w+", p.read_text(encoding="utf-8")) for p in files)) | ELSEWHERE


@pytest.mark.parametrize("page", WALK, ids=lambda page: page.stem)
def test_names_that_a_page_mentions_are_in_the_code(page, words_of_the_code):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    names = [
        name for name in re.findall(r"`([A-Za-z_][\w.]*)(?:\([^`]*\))?`", text) if not name.endswith((".py", ".pyx"))
    ]
    assert {word for name in names for word in name.split(".")} - {""} <= words_of_the_code


def test_no_name_is_in_the_reference_twice(entries):
    assert len(entries) == len(set(entries))


def test_an_entry_has_signature_text_examples_and_links():
    found = reference.expanded("::: lazyflow\n    argmax\n")
    assert "### `argmax` { #lazyflow.argmax }" in found and "```python\nlf.argmax(x, axis=None" in found
    assert "```pycon\n>>> " in found and "::: " not in found
    assert "](errors.md#lazyflow.ShapeError)" in reference.expanded("::: lazyflow\n    add\n")


@pytest.mark.parametrize(
    ("link", "expected"),
    {
        "[a](../README.md)": "[a](index.md)",
        "[a](../CONTRIBUTING.md#set-up)": "[a](contributing.md#set-up)",
        "[a](../examples/lecture/unet.py)": "[a](lecture/unet.md)",
        "[a](../examples/lecture)": "[a](lecture/index.md)",
        "[a](training.md#fit)": "[a](training.md#fit)",
        "[a](../benchmarks/results)": "a",
        "[a](https://keepachangelog.com)": "[a](https://keepachangelog.com)",
        "```python\nx[0](y)\n```\n": "```python\nx[0](y)\n```\n",
    }.items(),
)
def test_links_lead_to_what_the_site_has(link, expected):
    assert pages.for_site(link, DOCS / "page.md") == expected


def test_a_link_to_a_missing_file_is_a_warning(caplog):
    pages.for_site("[a](../no/such.py)", DOCS / "page.md")
    assert "does not exist" in caplog.text


@pytest.mark.parametrize(
    ("html", "warns"),
    [
        ('<script src="assets/a.js"></script><a href="https://example.org">', False),
        ('<script src="https://example.org/a.js"></script>', True),
        ('<link rel="stylesheet" href="//example.org/a.css">', True),
    ],
)
def test_what_a_page_loads_from_elsewhere_is_a_warning(html, warns, caplog):
    class Page:
        class file:
            src_path = "page.md"

    assert pages.on_post_page(html, Page, None) == html
    assert ("another host" in caplog.text) == warns


if __name__ == "__main__":
    check(Path(sys.argv[1]))
