"""A failure as a program that can be pasted: it runs without the fuzzer, and raises where lazyflow differs."""

from __future__ import annotations

import ast
import inspect

import numpy as np

from tests.fuzz import prelude
from tests.fuzz.program import source
from tests.fuzz.run import Difference, Failure, Variant, describe

NOTES = """
seen = []


def show(*values):
    seen.extend(v.numpy() if hasattr(v, "numpy") else np.asarray(v) for v in values)


slopes = show


def grads(*values):
    found = [v.grad for v in values]
    seen.extend(g.to_dense() if hasattr(g, "to_dense") else g for g in found)


def watch(name, factor=None):
    def hook(gradient):
        hooked.setdefault(name, []).append(np.array(gradient))
        return None if factor is None else gradient * factor

    return hook


def attempt(function):
    try:
        show(function())
    except Exception as error:
        seen.append(type(error).__name__)


hooked = {}
"""


def printed(failure: Failure) -> str:
    """The text of the program."""
    text = source(failure.program)
    used = {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}
    helpers = [
        f
        for n in ("data", "integers", "special", "rows")
        if n in used
        for f in [inspect.getsource(getattr(prelude, n))]
    ]
    body = "\n".join("    " + line if line else "" for line in text.splitlines())
    return "\n".join(
        [
            *_comment(str(failure.difference)),
            "import contextlib",
            "",
            "import numpy as np",
            "",
            "import lazyflow as lf",
            "from lazyflow import passes",
            "",
            *helpers,
            NOTES,
            *_settings(failure.variant),
            body,
            "",
            "seen.extend(g for _, gs in sorted(hooked.items()) for g in gs)",
            *_expectation(failure.difference),
            "",
        ]
    )


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in text.splitlines()]


def _settings(variant: Variant) -> list[str]:
    lines = []
    if variant.passes is not None:
        form = "lf.core.arrays" if variant.passes == "arrays" else "lf.core.passes"
        lines.append(f"passes.use({form})  # graph passes by whole arrays, or compiled")
    if not variant.core:
        lines.append("lf.core.machine = None  # as if the compiled core was not there")
    block = f"lf.using(batching={variant.batching!r}, fuse={variant.fuse!r}, dedupe={variant.dedupe})"
    return [*lines, f"with {block}, np.errstate(all='ignore'):"]


def _expectation(difference: Difference) -> list[str]:
    want, position = difference.want, difference.position
    if not isinstance(want, np.ndarray):
        return [
            *_comment(f"expected of what is seen, number {position}: {describe(want)}"),
            f"print(seen[{position}:][:1])",
        ]
    return [
        "nan, inf = np.nan, np.inf",
        f"want = np.array({want.tolist()!r}, {want.dtype.name!r}).reshape({want.shape})",
        f"got = seen[{position}]",
        "assert (got.dtype, got.shape) == (want.dtype, want.shape), (got.dtype, got.shape)",
        f"np.testing.assert_allclose(got, want, rtol=0, atol={_apart(difference)!r})",
    ]


def _apart(difference: Difference) -> float:
    """A quarter of how far what came is from what was expected."""
    got, want = difference.got, difference.want
    if not isinstance(got, np.ndarray) or got.shape != want.shape:
        return 0.0
    with np.errstate(all="ignore"):
        away = np.abs(got.astype(float) - want.astype(float))
    return float(np.max(away[np.isfinite(away)], initial=0.0)) / 4
