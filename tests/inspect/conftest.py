"""The model that is measured."""

import pytest

import lazyflow as lf
from tests.inspect.tagger import Tagger


@pytest.fixture
def model():
    lf.seed(0)
    return Tagger()
