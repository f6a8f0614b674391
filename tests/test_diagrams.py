"""The diagrams of the architecture page: what is committed is what the objects of its example draw now."""

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from docs.hooks import diagrams

pytestmark = pytest.mark.host

PAGE = (diagrams.ASSETS.parent / "architecture.md").read_text(encoding="utf-8")


def fresh(hashes):
    """The pictures, from an interpreter of its own: which of two equally good schedules a graph gets hangs on what was
    recorded before it."""
    code = "import json; from docs.hooks import diagrams; print(json.dumps(diagrams.drawn()))"
    options = {"cwd": diagrams.ASSETS.parents[1], "env": {**os.environ, "PYTHONHASHSEED": hashes}}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, **options)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def drawn():
    return fresh("0")


@pytest.mark.parametrize("name", diagrams.DIAGRAMS)
def test_what_is_committed_is_what_is_drawn_now(drawn, name):
    path = diagrams.ASSETS / f"{name}.svg"
    assert path.read_text(encoding="utf-8") == drawn[name], "draw them anew: python -m docs.hooks.diagrams"
    assert f"](assets/{name}.svg)" in PAGE


def test_they_are_the_same_whenever_they_are_drawn(drawn):
    assert fresh("1") == drawn


@pytest.mark.parametrize("name", diagrams.DIAGRAMS)
def test_nothing_stands_outside_of_a_picture(drawn, name):
    root = ElementTree.fromstring(drawn[name])
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for mark in root.iter():
        x, y = (float(mark.get(a, 0)) for a in "xy")
        wide = 6.3 * len(mark.text or "") if mark.tag.endswith("text") and mark.get("text-anchor") != "end" else 0
        wide = wide / 2 if mark.get("text-anchor") == "middle" else wide
        turned = mark.get("transform") is not None
        assert 0 <= x <= x + (0 if turned else wide) + float(mark.get("width", 0)) <= width, mark.attrib
        assert 0 <= y <= y + float(mark.get("height", 0)) <= height, mark.attrib


def test_a_launch_is_drawn_where_the_plan_says(drawn):
    shown = diagrams.example()
    for launch in shown.plan.launches:
        assert f">{launch.signature.op.name} × {launch.writes.count}<" in drawn["plan_rows"]
    boxes = re.findall(r'<rect [^>]*stroke-width="2.5"/>', drawn["plan_rows"])
    reads = [rows for _, _, reads in diagrams._launches(shown) for rows in reads]
    assert len(boxes) == sum(rows.count for rows in reads)
    gathered = [rows.offsets().tolist() for rows in reads if rows.index is not None]
    assert gathered and all(f">gather {elements}<" in drawn["plan_rows"] for elements in gathered)


def test_every_edge_ends_in_a_tip_and_no_straight_one_passes_through_a_node(drawn):
    root = ElementTree.fromstring(drawn["training_step"])
    marks = [{**mark.attrib, "tag": mark.tag.rpartition("}")[2]} for mark in root.iter()]
    wires, tips = ([m for m in marks if m.get("class") == name] for name in ("wire", "tip"))
    assert len(wires) == len(tips) > 0
    centres = {(float(m["cx"]), float(m["cy"])) for m in marks if m["tag"] == "circle"}
    for wire in wires:
        found = re.fullmatch(r"M (\S+) (\S+) L (\S+) (\S+)", wire["d"])
        x, y, x2, y2 = map(float, found.groups()) if found else (0, 0, 1, 0)
        assert x != x2 or not any(x == cx and min(y, y2) < cy < max(y, y2) for cx, cy in centres), wire
