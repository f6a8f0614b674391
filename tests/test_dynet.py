"""What `docs/coming_from_dynet.md` names in place of DyNet's functions: the names exist, and give DyNet's numbers."""

from __future__ import annotations

import re
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn, optim
from lazyflow.nn import functional as f

PAGE = Path(__file__).parents[1] / "docs" / "coming_from_dynet.md"
NAMES = sorted(set(re.findall(r"\b(?:lf|nn|optim)(?:\.[A-Za-z_]\w*)+", PAGE.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_on_the_page_exists(name):
    owner, *parts = name.split(".")
    found = {"lf": lf, "nn": nn, "optim": optim}[owner]
    for part in parts:
        found = getattr(found, part)


RNG = np.random.default_rng(0)
X, Y = RNG.uniform(0.2, 0.9, (2, 5))
V = RNG.normal(size=5)
M, N = RNG.normal(size=(2, 4, 6))
S = RNG.normal(size=(4, 4)) + 4 * np.eye(4)
T = RNG.normal(size=(2, 3, 5))
UPPER = np.array([0.5, 0.3, 0.4, 0.6, 0.2])

# DyNet's name, ours as a function of the operands, the operands, and DyNet's call where it is not just these.
TABLE = {
    "esum": (lambda a, b: lf.sum([a, b]), (X, Y), lambda dy, a, b: dy.esum([a, b])),
    "average": (lambda a, b: lf.mean([a, b]), (X, Y), lambda dy, a, b: dy.average([a, b])),
    "emax": (lambda a, b: lf.max(lf.stack([a, b]), axis=0), (X, Y), lambda dy, a, b: dy.emax([a, b])),
    "cmult": (lambda a, b: a * b, (X, Y)),
    "cdiv": (lambda a, b: a / b, (X, Y)),
    "bmin": (lf.minimum, (X, Y)),
    "bmax": (lf.maximum, (X, Y)),
    "colwise_add": (lambda m, v: m + v[:, None], (M, N[:, 0])),
    "affine_transform": (
        lambda b, w, x: lf.affine(w, b, x), (N[:, 1], M, N[0]), lambda dy, b, w, x: dy.affine_transform([b, w, x]),
    ),
    "dot_product": (lf.dot, (X, Y)),
    "pow": (lambda a: a**2.5, (X,), lambda dy, a: dy.pow(a, dy.scalarInput(2.5))),
    "cube": (lambda a: a**3, (V,)),
    **{name: (getattr(lf, name), (X,)) for name in ("square", "sqrt", "exp", "log", "erf", "lgamma", "sin", "cos")},
    "tan": (lf.tan, (X,)),
    **{name: (getattr(lf, name), (X,)) for name in ("sinh", "cosh", "tanh", "elu", "selu", "silu", "softsign")},
    **{"a" + name: (getattr(lf, "arc" + name), (X,)) for name in ("sin", "cos", "tan", "sinh", "tanh")},
    "acosh": (lf.arccosh, (X + 1,)),
    "abs": (lf.abs, (V,)),
    "logistic": (lf.sigmoid, (V,)),
    "log_sigmoid": (lf.logsigmoid, (V,)),
    "rectify": (lf.relu, (V,)),
    "softmax": (lf.softmax, (V,)),
    "softmax of an axis": (lambda m: lf.softmax(m, axis=1), (M,), lambda dy, m: dy.softmax(m, d=1)),
    "log_softmax": (lf.log_softmax, (V,)),
    "log_softmax restricted": (
        lambda v: lf.take(lf.log_softmax(v, restrict=[1, 3]), [1, 3]),
        (V,),
        lambda dy, v: dy.concatenate([dy.log_softmax(v, [1, 3])[1], dy.log_softmax(v, [1, 3])[3]]),
    ),
    "sparsemax": (lf.sparsemax, (V,)),
    "constrained_softmax": (lf.constrained_softmax, (V, UPPER)),
    "logsumexp": (
        lambda a, b: lf.logsumexp(lf.stack([a, b]), axis=0), (X, Y), lambda dy, a, b: dy.logsumexp([a, b]),
    ),
    "logsumexp_dim": (lambda m: lf.logsumexp(m, axis=1), (M,), lambda dy, m: dy.logsumexp_dim(m, d=1)),
    "pickneglogsoftmax": (lambda v: lf.cross_entropy(v, 2), (V,), lambda dy, v: dy.pickneglogsoftmax(v, 2)),
    "hinge": (lambda v: lf.hinge(v, 2, 0.7), (V,), lambda dy, v: dy.hinge(v, 2, 0.7)),
    "hinge_dim": (
        lambda m: lf.hinge(m.T, [2, 0, 1, 3, 3, 1], 0.7, "none"),
        (M,),
        lambda dy, m: dy.hinge_dim(m, [2, 0, 1, 3, 3, 1], 0, 0.7),
    ),
    "binary_log_loss": (
        lambda p: f.binary_cross_entropy(p, Y, reduction="sum"),
        (X,),
        lambda dy, p: dy.binary_log_loss(p, dy.inputVector(Y)),
    ),
    "pairwise_rank_loss": (
        lambda a, b: f.margin_ranking_loss(a, b, 1.0, 0.5, reduction="none"),
        (X[None], Y[None]),
        lambda dy, a, b: dy.pairwise_rank_loss(a, b, 0.5),
    ),
    "poisson_loss": (
        lambda a: f.poisson_nll_loss(a, [3.0], full=False, reduction="sum") + np.log(6.0),
        (X[:1],),
        lambda dy, a: dy.poisson_loss(a, 3),
    ),
    "huber_distance": (
        lambda a, b: lf.huber(a, b, 0.2, reduction="sum"), (X, Y), lambda dy, a, b: dy.huber_distance(a, b, 0.2),
    ),
    "l1_distance": (lambda a, b: f.l1_loss(a, b, reduction="sum"), (X, Y)),
    "squared_distance": (lambda a, b: lf.mse(a, b, reduction="sum"), (X, Y)),
    "squared_norm": (lambda a: lf.sum(a * a), (V,)),
    "l2_norm": (lf.norm, (V,)),
    "pick": (lambda v: lf.pick(v, 3), (V,), lambda dy, v: dy.pick(v, 3)),
    "pick_range": (lambda m: m[:, 1:4], (M,), lambda dy, m: dy.pick_range(m, 1, 4, 1)),
    "strided_select": (lambda m: m[0:4:2, 1:6:3], (M,), lambda dy, m: dy.strided_select(m, [2, 3], [0, 1], [4, 6])),
    "select_rows": (lambda m: lf.take(m, [2, 0]), (M,), lambda dy, m: dy.select_rows(m, [2, 0])),
    "select_cols": (lambda m: lf.take(m, [5, 1], axis=1), (M,), lambda dy, m: dy.select_cols(m, [5, 1])),
    "concatenate": (lambda a, b: lf.concatenate([a, b], 1), (M, N), lambda dy, a, b: dy.concatenate([a, b], d=1)),
    "concatenate_cols": (lambda a, b: lf.stack([a, b], 1), (X, Y), lambda dy, a, b: dy.concatenate_cols([a, b])),
    "transpose": (lambda m: m.T, (M,)),
    "max_dim": (lambda m: lf.max(m, 1), (M,), lambda dy, m: dy.max_dim(m, 1)),
    "min_dim": (lambda m: lf.min(m, 1), (M,), lambda dy, m: dy.min_dim(m, 1)),
    "sum_elems": (lf.sum, (M,)),
    "mean_elems": (lf.mean, (M,)),
    "std_elems": (lf.std, (M,)),
    "moment_elems": (lambda m: lf.mean(m**3), (M,), lambda dy, m: dy.moment_elems(m, 3)),
    "cumsum": (lambda m: lf.cumsum(m, 1), (M,), lambda dy, m: dy.cumsum(m, 1)),
    "nobackprop": (lambda v: v * v.detach(), (V,), lambda dy, v: dy.cmult(v, dy.nobackprop(v))),
    "flip_gradient": (lambda v: lf.scale_gradient(v, -1), (V,)),
    "scale_gradient": (lambda v: lf.scale_gradient(v, 0.3), (V,), lambda dy, v: dy.scale_gradient(v, 0.3)),
    "straight through": (
        lambda v: lf.one_hot(lf.argmax(v), 5) + (v - v.detach()),
        (V,),
        lambda dy, v: dy.argmax(v, "straight_through_gradient"),
    ),
    "layer_norm": (lambda x, g, b: f.layer_norm(x, 5, g, b, eps=0.0), (V, X, Y)),
    "weight_norm": (lambda w, g: f.weight_norm(w, g.reshape(()), dim=None), (M, X[:1])),
    "kmax_pooling": (lambda m: lf.kmax_pool(m, 3, 1), (M,), lambda dy, m: dy.kmax_pooling(m, 3, 1)),
    "fold_rows": (lambda m: lf.sum(m.reshape(-1, 2, 6), axis=1), (M,), lambda dy, m: dy.fold_rows(m, 2)),
    "kmh_ngram": (lambda m: 3 * f.avg_pool1d(m, 3, stride=1), (M,), lambda dy, m: dy.kmh_ngram(m, 3)),
    "circ_conv": (lf.circular_convolution, (X, V)),
    "circ_corr": (lf.circular_correlation, (X, V)),
    "filter1d_narrow": (
        lambda m, w: f.conv1d(m, w[None])[0],
        (M, N[:, :2]),
        lambda dy, m, w: dy.filter1d_narrow(m, w),
    ),
    "inverse": (lf.inv, (S,)),
    "logdet": (lambda s: lf.slogdet(s)[1], (S,)),
    "trace_of_product": (lambda a, b: lf.sum(a * b), (M, N)),
    "contract3d_1d_1d": (lambda t, x, y: lf.einsum("ijk,k->ij", t, x) @ y, (T, V, X[:3])),
}  # fmt: skip

# Not compared: contract3d_1d, which adds to what its memory held before; gradients of poisson_loss, which DyNet's
# backward does not multiply by that of the result.
VALUES_ONLY = ("poisson_loss",)


@pytest.fixture(scope="module")
def dy():
    """DyNet, loaded in a thread of its own: its library switches denormal numbers off in the thread that loads it."""
    pytest.importorskip("dynet_config", reason="compared with DyNet, which is not installed (extra 'peers')")
    found = []

    def load():
        from benchmarks.peers.dynet_configured import dy

        found.append(dy)

    loader = Thread(target=load)
    loader.start()
    loader.join()
    return found[0]


# Classes that nobody calls, what DyNet's module imports, and how it was built.
NO_NAMES = {
    "DeviceInfo", "DynetParams", "ERRMSG", "Expression", "FloatValue", "FloatVectorValue", "HAVE_CUDA", "PyInitializer",
    "SoftmaxBuilder", "Trainer", "UnsignedValue", "UnsignedVectorValue", "dynet_config", "os", "pickle",
    "print_function", "sys",
}  # fmt: skip


@pytest.mark.peer
def test_every_name_of_dynet_is_on_the_page(dy):
    found = set(re.findall(r"\w+", PAGE.read_text(encoding="utf-8"))) | NO_NAMES
    assert not sorted(name for name in dir(dy) if name[0] != "_" and name not in found)


def theirs_of(dy, call, arrays, weights):
    """DyNet's value, and the gradients of a weighted sum of its elements."""
    dy.renew_cg(autobatching=False)
    collection = dy.ParameterCollection()
    parameters = [collection.parameters_from_numpy(a.astype(np.float32)) for a in arrays]
    y = call(dy, *parameters)
    value = y.npvalue()
    size = value.size
    dy.dot_product(dy.reshape(y, (size,)), dy.inputVector(weights(value.shape).ravel(order="F"))).backward()
    return value, [p.grad_as_array() for p in parameters]


def weights(shape):
    return np.random.default_rng(1).uniform(0.5, 1.5, shape)


@pytest.mark.peer
@pytest.mark.parametrize("name", TABLE)
def test_the_same_numbers_as_dynet(name, dy):
    ours, arrays, *more = TABLE[name]
    call = more[0] if more else lambda dy, *operands: getattr(dy, name)(*operands)
    parameters = [lf.Parameter(a) for a in arrays]
    y = ours(*parameters)
    want, gradients = theirs_of(dy, call, arrays, lambda shape: weights(y.shape or (1,)).reshape(shape))
    np.testing.assert_allclose(y.numpy().reshape(want.shape), want, rtol=1e-4, atol=1e-5)
    if name in VALUES_ONLY:
        return
    lf.sum(y * weights(y.shape or (1,)).reshape(y.shape)).backward()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        found = np.zeros(parameter.shape) if parameter.grad is None else parameter.grad
        np.testing.assert_allclose(found, gradient.reshape(found.shape), rtol=1e-3, atol=1e-4)


def drawn(collection, seed=2):
    """All parameters of a collection random, as arrays in the order in which DyNet made them."""
    rng, found = np.random.default_rng(seed), []
    for p in collection.parameters_list():
        p.set_value(rng.normal(size=p.shape()).astype(np.float32))
        found.append(p.as_array().astype(np.float64))
    return found


INPUTS = np.random.default_rng(3).normal(size=(4, 2))


def both_states(dy, builder, cell):
    dy.renew_cg(autobatching=False)
    theirs, state = builder.initial_state(), None
    for x in INPUTS:
        theirs = theirs.add_input(dy.inputVector(x))
        state = cell(lf.constant(x), state)
    (h, c), (c_theirs, h_theirs) = state, (e.npvalue() for e in theirs.s())
    np.testing.assert_allclose(h.numpy(), h_theirs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(c.numpy(), c_theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.peer
@pytest.mark.parametrize(("name", "peepholes"), [("CoupledLSTMBuilder", "full"), ("FastLSTMBuilder", "none")])
def test_coupled_lstms(dy, name, peepholes):
    collection = dy.ParameterCollection()
    builder = getattr(dy, name)(1, 2, 3, collection)
    (xi, hi, ci, bi), (xo, ho, co, bo), (xc, hc, bc) = (drawn(collection)[a:b] for a, b in ((0, 4), (4, 8), (8, 11)))
    with lf.using(dtype="float64"):
        cell = nn.CoupledLSTMCell(2, 3, peepholes=peepholes)
    cell.weight_ih.assign(np.concatenate([xi, xc, xo]))
    cell.weight_hh.assign(np.concatenate([hi, hc, ho]))
    cell.bias.assign(np.concatenate([bi, bc, bo]))
    if peepholes == "full":  # the other builder has peepholes, too, but does not use them
        cell.weight_ci.assign(ci)
        cell.weight_co.assign(co)
    both_states(dy, builder, cell)


def reordered(gates):
    """DyNet's gates i, f, o, g as i, f, g, o."""
    i, f_, o, g = np.split(gates, 4)
    return np.concatenate([i, f_, g, o])


@pytest.mark.peer
def test_layer_normalised_lstm(dy):
    collection = dy.ParameterCollection()
    builder = dy.VanillaLSTMBuilder(1, 2, 3, collection, ln_lstm=True)
    x, h, bias, hh_weight, hh_bias, ih_weight, ih_bias, c_weight, c_bias = drawn(collection)
    collection.parameters_list()[4].set_value(np.zeros(12, np.float32))  # which DyNet leaves out at the first step
    with lf.using(dtype="float64"):
        cell = nn.LayerNormLSTMCell(2, 3, eps=1e-9)
    cell.weight_ih.assign(reordered(x))
    cell.weight_hh.assign(reordered(h))
    cell.bias.assign(reordered(bias + np.repeat([0.0, 1.0, 0.0, 0.0], 3)))
    cell.norm_ih_weight.assign(reordered(ih_weight))
    cell.norm_ih_bias.assign(reordered(ih_bias))
    cell.norm_hh_weight.assign(reordered(hh_weight))
    cell.norm_c_weight.assign(c_weight)
    cell.norm_c_bias.assign(c_bias)
    assert hh_bias.shape == (12,)
    both_states(dy, builder, cell)


@pytest.mark.peer
def test_class_factored_softmax(dy, tmp_path):
    clusters = [[0, 2], [1, 3, 4], [5]]
    lines = [f"c{k} w{word}" for k, cluster in enumerate(clusters) for word in cluster]
    (tmp_path / "clusters").write_text("\n".join(lines) + "\n")
    collection = dy.ParameterCollection()
    builder = dy.ClassFactoredSoftmaxBuilder(3, str(tmp_path / "clusters"), {f"w{i}": i for i in range(6)}, collection)
    parameters = drawn(collection)
    with lf.using(dtype="float64"):
        ours = nn.ClassFactoredSoftmax(3, clusters)
    ours.weight.assign(np.concatenate([p for p in parameters if p.ndim == 2]))
    ours.bias.assign(np.concatenate([p for p in parameters if p.ndim == 1]))
    h = np.random.default_rng(4).normal(size=3)
    dy.renew_cg(autobatching=False)
    theirs = [builder.neg_log_softmax(dy.inputVector(h), i).value() for i in range(6)]
    np.testing.assert_allclose([ours(h, i).item() for i in range(6)], theirs, rtol=1e-4)
    np.testing.assert_allclose(-ours.log_prob(h).numpy(), theirs, rtol=1e-4)


@pytest.mark.peer
def test_sparse_inputs(dy):
    dy.renew_cg(autobatching=False)
    theirs = dy.sparse_inputTensor([[0, 1, 3], [1, 0, 2]], [5.0, 6.0, 7.0], (4, 3)).npvalue()
    places = np.ravel_multi_index(([0, 1, 3], [1, 0, 2]), (4, 3))
    np.testing.assert_array_equal(lf.scatter([5.0, 6.0, 7.0], places, 12).reshape(4, 3).numpy(), theirs)


@pytest.mark.peer
def test_cyclical_descent(dy):
    collection = dy.ParameterCollection()
    p = collection.parameters_from_numpy(np.array([1.0, 2.0], np.float32))
    theirs = dy.CyclicalSGDTrainer(collection, learning_rate_min=0.01, learning_rate_max=0.1, step_size=3, gamma=0.9)
    theirs.set_clip_threshold(0)
    w = lf.Parameter(np.array([1.0, 2.0]))
    trainer = optim.SGD([w])
    schedule = optim.CyclicLR(trainer, 0.01, 0.1, 3, mode="exp_range", gamma=0.9)
    for i in range(10):
        dy.renew_cg(autobatching=False)
        dy.squared_norm(p).backward()
        theirs.update()
        trainer.zero_grad()
        lf.sum(w * w).backward()
        trainer.step()
        if i:  # DyNet takes two updates with the first rate
            schedule.step()
    np.testing.assert_allclose(w.numpy(), p.as_array(), rtol=1e-4)
