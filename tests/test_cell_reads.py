"""What the body of a cell reads: every call gives what the undecorated function gives now, or an error says why not."""

import copy

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn

X, Y = np.array([0.5, -1.0, 2.0]), np.array([1.0, 0.25, -0.5])


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


# Values of parameters.


class Held(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.s = lf.Parameter(X), lf.Parameter(2.0)
        self.inner = nn.Linear(3, 3)


HELD = Held()


def outside():
    e = lf.constant(X) * 2
    e.forward()
    return e


VALUES = {
    "numpy": lambda x, m: x * m.w.numpy(),
    "array": lambda x, m: x * m.w.array,
    "data": lambda x, m: x * m.w.data,
    "asarray": lambda x, m: x * np.asarray(m.w),
    "dlpack": lambda x, m: x * np.from_dlpack(m.w),
    "float": lambda x, m: x * float(m.s),
    "int": lambda x, m: x * int(m.s),
    "item": lambda x, m: x * m.s.item(),
    "bool": lambda x, m: x if m.s else -x,
    "text": lambda x, m: x * len(f"{m.s:.2f}"),
    "an element": lambda x, m: x * float(m.w[0]),
    "a comparison": lambda x, m: x if m.w[0] > 0 else -x,
    "a sum": lambda x, m: x * lf.sum(m.w).item(),
    "forward": lambda x, m: x * lf.forward([m.w])[0],
    "a gradient": lambda x, m: x * m.w.grad,
    "a state": lambda x, m: x * m.state_dict()["inner.bias"],
    "a copy": lambda x, m: x * copy.deepcopy(m.w),
    "a global": lambda x, m: x * HELD.w.numpy(),
    "a parameter of its own": lambda x, m: x * lf.Parameter(X),
    "a change": lambda x, m: (m.w.assign(Y), x)[1],
    "a hook": lambda x, m: (m.w.register_hook(np.negative), x * m.w)[1],
    "an outside value": lambda x, m: x * m.early.numpy(),
    "an outside value detached": lambda x, m: x * m.early.detach(),
}


@pytest.mark.parametrize("body", VALUES.values(), ids=VALUES)
def test_the_value_of_a_parameter_is_refused(body):
    module = Held()
    module.early = outside()
    before = module.w.numpy()
    with pytest.raises(lf.CellError, match="<lambda>"):
        lf.cell(body)(lf.constant(X), module)
    close(module.w.numpy(), before)
    assert not module.w.hooks


@pytest.mark.parametrize("fuse", ["off", "numpy"])
def test_a_detached_parameter_follows_updates_and_has_no_gradient(fuse):
    w, m = lf.Parameter(X), lf.Parameter(np.arange(9.0).reshape(3, 3) / 10)

    def body(x):
        return x * w.detach() * w + lf.tanh(m.detach() @ x) + m @ x - lf.embedding(m.detach(), 1)

    cell = lf.cell(body)
    with lf.using(fuse=fuse):
        for _ in range(3):
            found = []
            for function in (cell, body):
                loss = lf.sum([lf.sum(function(lf.constant(x))) for x in (X, Y)])
                loss.backward()
                found.append((loss.item(), w.grad, m.grad))
                w.grad = m.grad = None
            for got, want in zip(*found, strict=True):
                close(got, want)
            w.assign(w.numpy() * 1.5)
            m.data[0] += 1.0


def test_a_kept_root_over_a_detached_parameter_is_of_now():
    w = lf.Parameter(X)
    kept = lf.cell(lambda x: x * w.detach())(lf.constant(Y))
    close(kept.numpy(), X * Y)
    w.assign(Y)
    close(kept.forward().numpy(), Y * Y)
    assert not kept.requires_grad
