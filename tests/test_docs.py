"""The code blocks of the documentation run, one after another, and print what stands below them.

Each page has a process of its own, as its reader has: signatures, and the line that first recorded one, are kept.
"""

import io
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<printed>.*?)```\n)?", re.DOTALL)


def printed(code, names):
    """What a block prints, as it would from a file of its own."""
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(code, "example.py", "exec"), names)
    return out.getvalue()


def check(page):
    """Run the page's blocks; exit with what is printed in place of what the page says."""
    text, names = page.read_text(encoding="utf-8"), {}
    for block in BLOCK.finditer(text):
        found = printed(block["code"], names)
        if found != (block["printed"] or ""):
            line = 1 + text[: block.start()].count("\n")
            sys.exit(f"{page.name}:{line}: this block prints\n{found}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run_and_print_what_the_page_says(page):
    done = subprocess.run([sys.executable, __file__, page], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    check(Path(sys.argv[1]))
