"""Which passes are offered: those of one form, all of them, until the other is asked for."""

import pytest

from lazyflow import passes
from lazyflow.core import arrays
from tests.forms import FORMS, form, planning


@pytest.mark.parametrize("name", FORMS)
def test_every_pass_is_that_of_the_form_in_use(name):
    before = {one: getattr(passes, one) for one in passes.NAMES}
    with planning(name):
        assert all(getattr(passes, one) is getattr(form(name), one) for one in passes.NAMES)
    assert {one: getattr(passes, one) for one in passes.NAMES} == before


def test_where_nothing_was_compiled_chains_and_joined_rows_are_not_looked_for():
    assert {one for one in passes.NAMES if getattr(arrays, one) is None} == {"chains", "joined"}
