"""`lazyflow.profile`: whose time counts for what."""

import itertools

import pytest

import lazyflow as lf
from lazyflow.profile import PARTS, Profile


@pytest.fixture
def profile():
    """One whose clock goes on by a second whenever it is asked."""
    return Profile(clock=itertools.count().__next__)


def test_time_counts_for_the_innermost_part(profile):
    with profile.counting("record"), profile.counting("update"):
        pass
    assert profile.take() == {"record": 2, "update": 1}
    assert profile.take() == {}


def test_nothing_counts_outside_of_a_part(profile):
    with lf.using(profile=profile):
        lf.constant([1.0]).forward()
    assert set(profile.take()) == {"schedule", "forward"}


def test_parts_of_a_training_step(profile):
    w = lf.Parameter([1.0, 2.0])
    with lf.using(profile=profile), profile.counting("record"):
        lf.sum(w * w).backward()
        with profile.counting("update"):
            w.zero_grad()
    assert set(profile.take()) == set(PARTS)


def test_a_value_that_is_looked_at_is_no_recording(profile):
    w = lf.Parameter([1.0, 2.0])
    with lf.using(profile=profile), profile.counting("record"):
        assert (w * w)[0].item() == 1
    assert set(profile.take()) == {"record", "schedule", "forward"}


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_after_an_error_the_outer_part_goes_on(profile, when):
    def refuse(gradient):
        raise KeyboardInterrupt

    w = lf.Parameter([1.0, 2.0])
    with lf.using(profile=profile), profile.counting("record"):
        loss = lf.sum(w * w)
        if when == "forward":
            w.replaced()
        else:
            w.register_hook(refuse)
        with profile.counting("update"), pytest.raises((lf.LazyflowError, KeyboardInterrupt)):
            loss.backward()
        profile.take()
    assert set(profile.take()) == {"record"}


def test_nothing_counts_without_a_profile(profile):
    lf.sum(lf.Parameter([1.0]) * 2).backward()
    assert profile.take() == {}


def test_a_profile_is_a_profile():
    with pytest.raises(TypeError, match=r"lazyflow\.profile\.Profile"):
        lf.using(profile=True)
