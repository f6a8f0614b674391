"""The code blocks of the documentation run, one after another, and print what stands below them."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<printed>.*?)```\n)?", re.DOTALL)


def printed(code, line, page, names):
    """What a block prints; the line numbers of its errors are those of the page."""
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile("\n" * line + code, page.name, "exec"), names)
    return out.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run_and_print_what_the_page_says(page):
    text, names = page.read_text(encoding="utf-8"), {"__name__": page.name}
    for block in BLOCK.finditer(text):
        found = printed(block["code"], text[: block.start("code")].count("\n"), page, names)
        assert found == (block["printed"] or "")
