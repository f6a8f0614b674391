"""Which example code runs for: its own seeds and values, and what it may not change under the others."""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn, optim

maps = sys.modules["lazyflow.run.map"]


needs_fibers = pytest.mark.skipif(maps.greenlet is None, reason="greenlet is not installed")


def test_seed_inside_is_the_examples_own():
    def fn(x):
        lf.seed(int(x))
        first = lf.normal().item()
        return first, lf.normal().item()

    lf.seed(9)
    inside = lf.map(fn, [1, 2, 1])
    after = lf.normal().item()
    lf.seed(9)
    lf.normal()
    assert after == lf.normal().item()
    assert inside[0] == inside[2] == fn(1)
    assert inside[1] == fn(2)


def model_and_optimizer():
    layer = nn.Linear(2, 2)
    lf.sum(layer(np.ones(2))).backward()
    return layer, optim.SGD(layer.parameters(), lr=0.1)


def touched_in_place(p):
    with lf.no_grad():
        p *= 2.0


CHANGES = {
    "assign": lambda m, o: m.weight.assign(np.ones((2, 2))),
    "data": lambda m, o: m.weight.data,
    "set data": lambda m, o: setattr(m.weight, "data", np.ones((2, 2))),
    "array": lambda m, o: setattr(m.weight, "array", np.ones((2, 2), np.float32)),
    "in place": lambda m, o: touched_in_place(m.weight),
    "step": lambda m, o: o.step(),
    "zero_grad": lambda m, o: o.zero_grad(),
    "grad": lambda m, o: setattr(m.weight, "grad", None),
    "state": lambda m, o: m.load_state_dict(m.state_dict()),
    "replaced": lambda m, o: setattr(m, "weight", lf.Parameter(np.ones((2, 2)))),
    "frozen": lambda m, o: setattr(m.weight, "requires_grad", False),
    "noise": lambda m, o: nn.weight_noise(m, 0.1).__enter__() if hasattr(nn, "weight_noise") else o.step(),
}


@needs_fibers
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_all_examples_use_is_not_changed_in_the_middle(change):
    layer, optimizer = model_and_optimizer()
    before = layer.state_dict()

    def fn(x):
        lf.sum(layer(x)).item()
        change(layer, optimizer)

    with pytest.raises(lf.MapError, match=r"example 0 of lf\.map.*together=1"):
        lf.map(fn, [np.ones(2)] * 2)
    with pytest.raises(lf.MapError, match=r"example 0 of lf\.map"):
        lf.map(lambda x: lf.map(fn, [x], together=1), [np.ones(2)] * 2)
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert layer.weight.grad is not None and layer.weight.requires_grad
    change(*model_and_optimizer())
    lf.map(lambda x: change(*model_and_optimizer()), [1.0, 2.0])  # what an example has made is its own
    lf.map(lambda x: change(layer, optimizer), [1.0], together=1)


@needs_fibers
def test_a_value_asked_for_in_another_thread_is_refused():
    w = lf.Parameter(2.0)

    def fn(x):
        with lf.using():
            y = w * x
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(copy_context().run, y.item).result()

    with pytest.raises(lf.ThreadError, match=r"started inside of example 0 of lf\.map"):
        lf.map(fn, [1.0, 2.0])
