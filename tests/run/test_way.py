"""How a run goes is decided once: what of the settings, the roots and their tapes it comes of."""

import pytest

import lazyflow as lf
from lazyflow import core
from lazyflow.graph.reading import Reading
from lazyflow.run import forward
from lazyflow.run.way import way_of

BEST = "numpy" if core.machine is None else "core"


def product():
    return lf.Parameter([1.0, 2.0]) * 2.0


@pytest.mark.host
@pytest.mark.parametrize(
    ("settings", "what", "value"),
    [
        ({}, "device", "cpu"),
        ({"batching": "depth"}, "batching", "depth"),
        ({"dedupe": False}, "dedupe", False),
        ({"fuse": "auto"}, "fuse", BEST),
        ({"fuse": "numpy"}, "fuse", "numpy"),
        ({"fuse": "off"}, "fuse", "off"),
        ({"check_finite": True}, "checked", True),
        ({"grad": False}, "differentiable", False),
        ({"grad": True}, "differentiable", True),
    ],
)
def test_it_is_as_the_settings_say(settings, what, value):
    with lf.using(**settings):
        root = product()
        assert getattr(way_of([root], [Reading(root.tape, None)], lf.settings.current()), what) == value


@pytest.mark.parametrize(("fuse", "there"), [("auto", "cuda"), ("off", "off")])
def test_kernels_of_a_device_are_in_cuda_c(monkeypatch, fuse, there):
    root = product()
    monkeypatch.setattr(root.type, "device", "cuda:0")
    with lf.using(fuse=fuse):
        way = way_of([root], [], lf.settings.current())
        assert way.fuse == way.printed == there
    with lf.using(fuse=fuse, storage="float16"):
        if there == "cuda":
            assert way_of([root], [], lf.settings.current()).printed == "cuda float16"
        else:
            with pytest.raises(lf.DeviceError, match="is of fused kernels on a device"):
                way_of([root], [], lf.settings.current())


def test_what_was_recorded_with_lines_is_checked_wherever_it_is_run():
    with lf.using(check_finite=True):
        x = product()
    root = lf.exp(x)
    assert (
        way_of([root], [Reading(root.tape, None), Reading(x.tape, None)], lf.settings.current()).checked
        and not way_of([root], [Reading(root.tape, None)], lf.settings.current()).checked
    )


def test_others_are_looked_for_where_memory_may_be_used_again():
    with lf.no_grad():
        x = lf.exp(product())
        root = lf.exp(x)
        assert way_of([root], [Reading(root.tape, None)], lf.settings.current()).others
        del x
        assert not way_of([root], [Reading(root.tape, None)], lf.settings.current()).others
    trained = lf.exp(product())
    root = lf.exp(trained)
    assert not way_of([root], [Reading(root.tape, None)], lf.settings.current()).others


def test_all_of_a_run_has_the_record_that_was_made_at_its_top(monkeypatch):
    made, reduced = [], []
    monkeypatch.setattr(forward, "way_of", lambda *given: made.append(way_of(*given)) or made[-1])
    given = forward.reduced
    monkeypatch.setattr(forward, "reduced", lambda graph, way: reduced.append(way) or given(graph, way))
    root = lf.sum(product() * 3.5)
    root.forward()
    run, _ = root.tape.place_of(root.row)
    assert len(made) == 1 and reduced == made and run.way is made[0] and run.device == lf.settings.current().device
