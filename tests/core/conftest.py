"""What tests of the core share."""

import pytest

from lazyflow.core import machine


@pytest.fixture(params=["avx512", "avx2", "baseline"])
def instruction_set(request):
    """Every instruction set that this processor has, one after the other."""
    before = machine.instruction_set()
    try:
        machine.use_instruction_set(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield
    machine.use_instruction_set(before)
