"""What mypy makes of calls of modules: they take and return what ``forward`` does."""

import re

import pytest

PROGRAM = """
from typing import Any
import lazyflow as lf
from lazyflow import nn

class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.lstm = nn.Linear(2, 3), nn.LSTM(2, 3)
        self.any = nn.Sequential(nn.Linear(2, 3), lf.tanh)

    @lf.cell
    def forward(self, x: lf.Expr, *, scale: float = 1.0) -> tuple[lf.Expr, str]:
        reveal_type(self.linear(x))  # lazyflow.record.expr.Expr
        reveal_type(self.lstm([x]))  # tuple[list[lazyflow.record.expr.Expr], list[Any]]
        reveal_type(self.any(x))  # Any
        return x * scale, ""

def call(module: nn.Module, x: lf.Expr) -> Any:
    reveal_type(module(x, 3))  # Any
    return module(x)

x = lf.constant(1.0)
reveal_type(Own()(x))  # tuple[lazyflow.record.expr.Expr, str]
reveal_type(nn.LSTMCell(2, 3)(x))  # tuple[lazyflow.record.expr.Expr, lazyflow.record.expr.Expr]
call(Own(), x)
Own()(x, scale="a")  # error: Argument "scale" to "__call__" of "Module" has incompatible type "str"; expected "float"

class Derived(nn.Linear):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)
"""


@pytest.mark.host
def test_a_call_of_a_module_has_the_types_of_its_forward(tmp_path):
    mypy = pytest.importorskip("mypy.api", reason="needs mypy (extra 'lint')")
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    found, _, _ = mypy.run(["--strict", "--follow-imports=silent", str(path)])
    got = dict(re.findall(r"program\.py:(\d+): (?:note: Revealed type is )?(.*)", found))
    want = dict(re.findall(r"(\d+):.*  # (.*)", "\n".join(f"{k}:{v}" for k, v in enumerate(PROGRAM.split("\n"), 1))))
    assert {line: text.strip('"').split("  [")[0] for line, text in got.items()} == want, found
