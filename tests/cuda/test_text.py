"""Text of CUDA C: every function that kernels may have, in either precision, and numbers as NumPy rounds them."""

import math

import numpy as np
import pytest

from lazyflow.cuda.text import KNOWN_FUNCTIONS, REALS, expression, literal
from lazyflow.fuse.scalar import FUSABLE

ARITY = {"where": 3, **dict.fromkeys(("where_nonzero", "multiply_or_zero", "add", "less", "arctan2", "remainder"), 2)}


def test_what_may_be_fused_has_a_text():
    assert FUSABLE <= KNOWN_FUNCTIONS


@pytest.mark.parametrize("name", ["tanh", "log1p", "logaddexp", "abs", "arctan2"])
def test_functions_of_single_precision_have_an_f(name):
    """Without, CUDA would compute in double precision."""
    inputs = ["v1", "v2"][: 2 if name in ("logaddexp", "arctan2") else 1]
    single, double = (expression(name, inputs, real) for real in ("float", "double"))
    assert single.replace("f(", "(").replace("(float)", "(double)") == double != single


@pytest.mark.parametrize("name", sorted(ARITY))
def test_every_operand_is_read(name):
    inputs = [f"v{k}" for k in range(ARITY[name])]
    assert all(v in expression(name, inputs, "double") for v in inputs)


@pytest.mark.parametrize("real", REALS.values())
@pytest.mark.parametrize("value", [0.1, -0.0, 1e-310, 1e300, math.inf, -math.inf, math.nan])
def test_numbers_are_read_as_they_were(real, value):
    text = literal(value, real).removeprefix(f"({real})")
    with np.errstate(all="ignore"):
        found = eval(text, {"__builtins__": {}}) if "/" not in text else np.float64(text[1:].split(" / ")[0]) / 0.0
    np.testing.assert_array_equal(found, value)
    assert math.copysign(1, found) == math.copysign(1, value) or math.isnan(value)
