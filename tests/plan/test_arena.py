"""Memory that is used again: it may come back at any time, and no result depends on what it held."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.plan import arena
from lazyflow.settings import BATCHINGS
from tests.counted import Tagger


def test_a_buffer_comes_back_while_another_is_taken():
    # The garbage collector may run inside of take() and end an arena, which gives its buffers back: no deadlock.
    pool = arena.Pool()
    with pool.lock, pool.lock:
        pool.give("cpu", np.empty(64, np.float32))
    assert pool.held == 256


@pytest.mark.parametrize("batching", BATCHINGS)
def test_bits_do_not_depend_on_what_was_let_go_of(batching):
    """Ids of signatures are used again; the order of launches, and so that of a sum, must not follow them."""

    def gradient(kept):
        lf.seed(3)
        model, rng = Tagger(), np.random.default_rng(2)
        with lf.using(batching=batching):
            lf.mean([model(*example) for example in model.data(rng)]).backward()
        kept.append(lf.tanh(lf.constant(np.ones(len(kept) + 1))))  # takes an id that is free by now
        return model.table.weight.grad.values.tobytes()

    kept = []
    assert len({gradient(kept) for _ in range(8)}) == 1
