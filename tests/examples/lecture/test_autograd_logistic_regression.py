"""The two slides under autograd and under lazyflow: the same text but for the imports, the same numbers."""

import re

import numpy as np
import pytest

from tests.examples.lecture.examples import names, source

NAME = "autograd_logistic_regression"
IMPORTS = """
import autograd.numpy as np
from autograd import grad
from autograd.test_util import check_grads
"""


def printed(out):
    return [float(number) for number in re.findall(r"loss: ([\d.]+)", out)]


def test_it_trains(capsys):
    weights = names(NAME)["weights"]
    before, after = printed(capsys.readouterr().out)
    assert before > 2.77 and after < 1.62
    assert isinstance(weights, np.ndarray)


@pytest.mark.peer
def test_autograd_gives_the_same_numbers(capsys):
    pytest.importorskip("autograd", reason="the original, which is not installed (extra 'peers')")
    ours = names(NAME)
    original = re.sub(r"import lazyflow\.numpy as np\nfrom lazyflow import check_grads, grad\n", IMPORTS, source(NAME))
    assert "lazyflow" not in original
    theirs = {}
    exec(compile(original, "original.py", "exec"), theirs)
    np.testing.assert_allclose(ours["weights"], theirs["weights"], rtol=1e-9)
    lines = printed(capsys.readouterr().out)
    np.testing.assert_allclose(lines[:2], lines[2:], rtol=1e-9)
