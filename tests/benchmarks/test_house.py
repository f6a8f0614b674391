"""``python -m benchmarks.house``: what it counts of a package, whose files it never imports."""

import pytest

from benchmarks import house

pytestmark = pytest.mark.host

FILES = {
    "__init__.py": "raise RuntimeError('imported')",
    "ground.py": "X = 1\n",
    "record/__init__.py": "",
    "record/tape.py": "from lazyflow.ground import X\nfrom typing import Any\n\ndef same(x: Any) -> Any: ...\n",
    "run/__init__.py": "",
    "run/engine.py": "from lazyflow.record.tape import same\nfrom lazyflow import ground\n\nX = 2\n"
    "def wide(a, b, c, d, e, f, g, h, i): ...\n",
}


def test_rooms_arrows_and_floors(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert house.arrows(house.files(tmp_path)) == {("record", "ground"), ("run", "record"), ("run", "ground")}
    found = house.counts(tmp_path)
    assert (found["rooms"], found["floors"], found["arrows between rooms"]) == (3, 3, 3)
    assert (found["public names defined in two of its files"], found["mentions of Any"]) == (1, 2)
    assert found["of more than 8 parameters"] == 1
