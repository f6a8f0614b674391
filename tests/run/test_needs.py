"""What a run needs of memory is shown before it is taken, and said where it runs out."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.plan import arena


def vector(n):
    return lf.constant(np.ones(n, np.float32))


def losses(weight, examples=4):
    return lf.mean([lf.sum(lf.tanh(weight @ vector(3)) * k) for k in range(examples)])


@pytest.fixture
def weight():
    return lf.Parameter(np.ones((2, 3), np.float32))


def test_memory_is_shown_before_it_is_taken(weight, monkeypatch):
    loss, taken = losses(weight), []
    take = arena.Pool.take
    monkeypatch.setattr(arena.Pool, "take", lambda *args: taken.append(args) or take(*args))
    explained = lf.explain(loss)
    assert not taken
    with lf.no_grad():
        assert lf.explain(losses(weight)).nbytes < explained.nbytes
    by_name = dict(explained.memory)
    assert (by_name["values of constant"], by_name["gradients of parameters"]) == (4 * 3 * 4, 2 * weight.array.nbytes)
    assert sum(by_name.values()) == explained.nbytes and f"{explained.nbytes} B of memory" in str(explained)
    assert dict(lf.explain(losses(weight, 8)).memory)["values of constant"] == 8 * 3 * 4


@pytest.mark.host
@pytest.mark.parametrize("part", ["forward", "backward"])
def test_memory_that_runs_out_on_the_cpu(weight, monkeypatch, part):
    """The error says what was needed; a smaller minibatch runs where it is caught."""
    loss = losses(weight, 64)
    if part == "backward":
        loss.forward()
    take, most = arena.Pool.take, losses(weight, 16)

    def limited(pool, device, dtype, size):
        if size > 300:
            raise MemoryError(f"Unable to allocate {size * dtype.itemsize} bytes")
        return take(pool, device, dtype, size)

    monkeypatch.setattr(arena.Pool, "take", limited)
    with pytest.raises(
        lf.OutOfMemoryError, match=f"(?s)on cpu in a {part}: Unable.*minibatch of 32 of the 64"
    ) as caught:
        loss.backward()
    assert caught.value.fits == 32 and weight.grad is None
    most.backward()
    assert weight.grad is not None
    monkeypatch.undo()
    before = weight.grad
    weight.grad = None
    losses(weight, 16).backward()
    np.testing.assert_array_equal(before, weight.grad)
    assert loss.item() == pytest.approx(losses(weight, 64).item())
