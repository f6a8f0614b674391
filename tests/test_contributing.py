"""CONTRIBUTING's diffs: each applies to a copy of the project, and the tests that it is about pass there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTIONS = {head: text for head, _, text in (part.partition("\n") for part in PAGE.split("\n## ")[1:])}
DIFFS = {head: text.split("```diff\n")[1].split("```")[0] for head, text in SECTIONS.items() if "```diff\n" in text}
COPIED = (
    "lazyflow",
    "tests",
    "docs",
    "benchmarks",
    "examples",
    "conftest.py",
    "pyproject.toml",
    "mkdocs.yml",
    "README.md",
)

# By what is added: what pytest is to run, and how many tests that are at the least.
RUN = {
    "Add an operation": (["tests/ops", "tests/test_public_names.py", "tests/fuse/test_kernels.py"], "rsqrt", 30),
    "Add an optimizer": (["tests/optim/test_numbers.py"], "Adamax", 5),
    "Add a layer": (["tests/nn/test_layers.py", "lazyflow/nn/linear.py"], "Maxout", 4),
    "Add a way to schedule": (["tests/plan/test_schedule.py"], "valid or families or counts", 5),
}
# How many lines it takes: added ones that are not blank.
LINES = {"Add an operation": 4, "Add an optimizer": 33, "Add a layer": 21, "Add a way to schedule": 5}


def files_of(diff):
    """The files of a diff, each with its hunks: lines with the sign before them."""
    for part in re.split(r"^--- ", diff, flags=re.MULTILINE)[1:]:
        name, *lines = part.splitlines()
        if name == "/dev/null":
            name = lines.pop(0).removeprefix("+++ ")
        hunks = [[]]
        for line in lines:
            if line.startswith("@@"):
                hunks.append([])
            else:
                hunks[-1].append(line)
        yield name, [hunk for hunk in hunks if hunk]


def apply(diff, folder):
    """Change the files of a folder as a diff says; whatever it takes to be there has to be, once."""
    for name, hunks in files_of(diff):
        path = folder / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for hunk in hunks:
            before, after = ("".join(f"{line[1:]}\n" for line in hunk if line[:1] != sign) for sign in "+-")
            assert not before or len(re.findall(rf"^{re.escape(before)}", text, re.MULTILINE)) == 1, (name, before)
            text = text.replace(before, after, 1) if before else text + after
        path.write_text(text, encoding="utf-8")


def linked(source, target, *, follow_symlinks=True):
    """Copy text, and link what was compiled."""
    if source.endswith(".so"):
        os.symlink(source, target)
    else:
        shutil.copyfile(source, target)


@pytest.fixture
def copy(tmp_path):
    """The project once more, without its history."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            left_out = shutil.ignore_patterns("__pycache__", "*.c", "results")
            shutil.copytree(ROOT / name, tmp_path / name, copy_function=linked, ignore=left_out)
        else:
            shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def test_every_diff_is_tried():
    assert set(DIFFS) == set(RUN) == set(LINES)


@pytest.mark.parametrize("head", RUN)
def test_a_diff_works(head, copy):
    apply(DIFFS[head], copy)
    files, names, least = RUN[head]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", names]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= least, done.stdout


@pytest.mark.parametrize("head", RUN)
def test_a_diff_is_as_short_as_promised(head):
    added = [line for line in DIFFS[head].splitlines() if re.match(r"\+(?!\+\+ ).*\S", line)]
    assert len(added) <= LINES[head], len(added)


def test_a_public_name_of_a_diff_is_in_the_reference(copy):
    for diff in DIFFS.values():
        apply(diff, copy)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_docs.py", "-k", "reference"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
