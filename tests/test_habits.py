"""What editors, hooks and hosted checks are told agrees with what stands in one place: setup.cfg and pyproject.toml."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[1]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_hosted_checks_run_every_python_that_is_promised():
    promised = re.findall(r"Python :: (3\.\d+)$", text("setup.cfg"), re.MULTILINE)
    [matrix] = re.findall(r"python: \[(.*)\]", text(".github/workflows/check.yml"))
    assert re.findall(r'"([\d.]+)"', matrix) == promised
    assert "bash .ci/run" in text(".github/workflows/check.yml")


def test_editors_break_lines_where_ruff_does():
    [width] = re.findall(r"^line-length = (\d+)$", text("pyproject.toml"), re.MULTILINE)
    assert f"max_line_length = {width}\n" in text(".editorconfig")


def test_hooks_run_what_the_extra_brings():
    tools = re.findall(r"^ +entry: (\w+)", text(".pre-commit-config.yaml"), re.MULTILINE)
    lint = text("setup.cfg").partition("\nlint =\n")[2]
    assert {"ruff", "mypy"} <= set(tools) and all(tool == "python" or f"    {tool}==" in lint for tool in tools)


def test_coverage_has_a_floor():
    [floor] = re.findall(r"^fail_under = (\d+)\b", text("pyproject.toml"), re.MULTILINE)
    assert int(floor) >= 80
