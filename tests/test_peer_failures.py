"""Programs where another engine's automatic batching is silently wrong: here, batched and unbatched agree in values
and gradients."""

import numpy as np
import pytest

import lazyflow as lf

RNG_SEED = 11


def vectors(rng, n, size):
    return [lf.constant(rng.normal(size=size)) for _ in range(n)]


def attention(p, rng):
    losses = []
    for _ in range(3):  # sentences of equal length, several queries each
        words = [lf.tanh(p["W"] @ x) for x in vectors(rng, 5, 4)]
        keys = lf.stack(words)
        for q in vectors(rng, 3, 4):
            weights = lf.softmax(keys @ lf.tanh(p["V"] @ q))
            losses.append(lf.sum(weights @ keys))
    return lf.mean(losses)


def weight_norm(p, rng):
    weight = p["W"] / lf.norm(p["W"], axis=1, keepdims=True)
    bias = lf.tanh(p["b"])
    return lf.mean([lf.sum(lf.tanh(lf.affine(weight, bias, x))) for x in vectors(rng, 6, 4)])


def hypernetwork(p, rng):
    losses = []
    for x in vectors(rng, 3, 4):
        weight = lf.outer(p["W"] @ x, p["b"])
        losses += [lf.sum(lf.tanh(weight @ y)) for y in vectors(rng, 2, 4)]
    return lf.mean(losses)


def matrices(p, rng, n):
    return [lf.outer(p["b"], x) for x in vectors(rng, n, 4)]


def concatenate_axes(p, rng):
    m = matrices(p, rng, 4)
    return lf.mean(
        [
            lf.sum(lf.concatenate([m[i], m[j]], axis=a).reshape(-1) * np.arange(32.0))
            for i, j, a in ((0, 1, 0), (2, 3, 1), (1, 2, 0), (3, 0, -1))
        ]
    )


def softmax_axes(p, rng):
    return lf.mean(
        [lf.sum(lf.softmax(m, axis=a) * m) for m, a in zip(matrices(p, rng, 4), (0, 1, -1, 0), strict=False)]
    )


def slices_of_axes(p, rng):
    return lf.mean([lf.sum(m[1:3].reshape(-1) * m[:, 1:3].reshape(-1)) for m in matrices(p, rng, 3)])


def transposes(p, rng):
    m = [x.reshape(2, 2, 4) for x in matrices(p, rng, 3)]
    return lf.mean(
        [
            lf.sum(lf.transpose(x, axes).reshape(-1) * np.arange(16.0))
            for x, axes in zip(m, ((0, 2, 1), (2, 1, 0), (1, 2, 0)), strict=False)
        ]
    )


def elu_alphas(p, rng):
    return lf.mean(
        [lf.sum(lf.elu(p["W"] @ x, a)) for x, a in zip(vectors(rng, 4, 4), (0.5, 1.0, 2.0, 0.5), strict=False)]
    )


def elu_beside_relu(p, rng):
    return lf.mean(
        [lf.sum(f(p["W"] @ x)) for x, f in zip(vectors(rng, 4, 4), (lf.elu, lf.relu, lf.elu, lf.relu), strict=False)]
    )


def silu_betas(p, rng):
    return lf.mean(
        [lf.sum(lf.silu(p["W"] @ x * b) / b) for x, b in zip(vectors(rng, 4, 4), (0.5, 1.0, 2.0, 0.5), strict=False)]
    )


def gates_over_several_inputs(p, rng):
    losses = []
    for k in (1, 2, 2, 1):
        h = lf.sum([p["W"] @ x for x in vectors(rng, k, 4)] + [p["V"] @ x for x in vectors(rng, 2, 4)])
        i, f = lf.split(h, 2)
        losses.append(lf.sum(lf.sigmoid(i) * lf.tanh(f)))
    return lf.mean(losses)


def used_before_and_after_a_value(p, rng):
    x, y = vectors(rng, 2, 4)
    h = lf.tanh(p["W"] @ x)
    h.numpy()
    dropped = lf.tanh(p["V"] @ h)
    del dropped
    return lf.sum(lf.tanh(p["V"] @ y)) + lf.sum(p["V"] @ h)


def a_large_graph(p, rng):
    h = lf.constant(np.zeros(4))
    losses = []
    for x in vectors(rng, 400, 4):
        h = lf.tanh(p["W"] @ h + p["V"] @ x)
        losses.append(lf.sum(lf.outer(h, h)))
    return lf.mean(losses)


def uncovered_operations(p, rng):
    """What that engine never batches: each must batch here."""
    losses = []
    for k, x in enumerate(vectors(rng, 5, 4)):
        h = p["W"] @ x
        m = lf.outer(h, x)
        losses.append(
            lf.pick(h, k % 4)
            + lf.sum(h.reshape(2, 2)[0])
            + lf.log_softmax(h)[k % 4]
            + lf.logsumexp(h)
            + lf.max(h)
            + lf.mean(h / (2 + x * x))
            + lf.sum(lf.exp(h * 0.1) ** 1.5)
            + lf.sum(m + h)
            + lf.dot(h, x)
            + lf.norm(h)
            + lf.hinge(h, k % 4)
            + lf.sum(lf.cumsum(h)[1:3])
            + lf.sum(m @ h)
            + lf.take(h, lf.argmax(h))
        )
    return lf.mean(losses)


PROGRAMS = [
    attention,
    weight_norm,
    hypernetwork,
    concatenate_axes,
    softmax_axes,
    slices_of_axes,
    transposes,
    elu_alphas,
    elu_beside_relu,
    silu_betas,
    gates_over_several_inputs,
    used_before_and_after_a_value,
    a_large_graph,
    uncovered_operations,
]


def run(program, batching):
    values = np.random.default_rng(RNG_SEED)
    p = {name: lf.Parameter(values.normal(size=shape)) for name, shape in (("W", (4, 4)), ("V", (4, 4)), ("b", (4,)))}
    with lf.using(batching=batching):
        loss = program(p, np.random.default_rng(RNG_SEED + 1))
        loss.backward()
    return loss, [np.zeros(q.shape) if q.grad is None else q.grad for q in p.values()]


@pytest.mark.parametrize("batching", ["phases", "levels", "frontier", "depth", "agenda"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_batched_equals_unbatched(program, batching):
    expected, expected_gradients = run(program, "none")
    found, gradients = run(program, batching)
    np.testing.assert_allclose(found.item(), expected.item(), rtol=1e-12)
    for a, b in zip(gradients, expected_gradients, strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert any(np.abs(g).sum() > 0 for g in expected_gradients)


def test_what_was_never_batched_elsewhere_is_batched_here():
    explained = lf.explain(run(uncovered_operations, "phases")[0])
    groups = {g.operation: g for g in explained.groups}
    assert all(
        g.launches == 1 and g.nodes == 5
        for name, g in groups.items()
        if name in ("hinge", "norm", "logsumexp", "log_softmax", "cumsum", "dot")
    )
