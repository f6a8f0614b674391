"""Attention as one operation: beside what it is made of, over examples of one length and of many."""

import math
from functools import partial

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import core
from lazyflow.nn import functional
from lazyflow.ops import OPS, attention
from lazyflow.ops.attention import ATTENTION
from lazyflow.ops.base import joint_of
from lazyflow.record.expr import record
from tests.ops.cases_attention import attended, weights_of

LENGTHS = {
    "one": [(3, 4)] * 4,
    "many": [(1, 1), (2, 5), (7, 1), (4, 4), (70, 3), (2, 5)],
    "of keys": [(3, n) for n in (1, 4, 2)],
    "by itself": [(3, 2)],
}


def at_once(q, k, v, heads, causal):
    return record(ATTENTION, (q, k, v), heads=heads, causal=causal)


def composed(q, k, v, heads, causal):
    """By products and softmax."""
    q, k, v = (lf.transpose(x.reshape(x.shape[0], heads, x.shape[1] // heads), (1, 0, 2)) for x in (q, k, v))
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ lf.swapaxes(k, -1, -2)
    if causal:
        scores = lf.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -math.inf)
    return lf.transpose(lf.softmax(scores) @ v, (1, 0, 2)).reshape(scores.shape[1], -1)


@pytest.fixture(params=["core", "numpy"])
def form(request, monkeypatch):
    if request.param == "core" and core.machine is None:
        pytest.skip("the core was not compiled")
    if request.param == "numpy":
        monkeypatch.setattr(core, "machine", None)


def tables(lengths, heads, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    return [
        [lf.Parameter(rng.normal(size=(n, heads * w)).astype(dtype)) for n, w in ((n, 4), (m, 4), (m, 3))]
        for n, m in lengths
    ]


def results(function, parameters, heads, causal, batching="phases"):
    """Values and gradients."""
    for p in (p for some in parameters for p in some):
        p.grad = None
    with lf.using(batching=batching), np.errstate(all="ignore"):
        found = [function(*(p * 1.0 for p in some), heads, causal) for some in parameters]
        lf.sum([lf.sum(lf.sin(y)) for y in found]).backward()
        return [y.numpy() for y in found], [p.grad for some in parameters for p in some]


@pytest.mark.parametrize("causal", [False, True], ids=["whole", "causal"])
@pytest.mark.parametrize("heads", [1, 2, 3, 4])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_values_and_gradients_are_those_of_products_and_softmax(lengths, heads, causal, form):
    parameters = tables(LENGTHS[lengths], heads)
    expected, slopes = results(composed, parameters, heads, causal, "none")
    for batching in ("phases", "none"):
        found, gradients = results(at_once, parameters, heads, causal, batching)
        for a, b in zip([*found, *gradients], [*expected, *slopes], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_single_precision(form):
    parameters = tables(LENGTHS["many"], 2, "float32")
    expected, slopes = results(composed, parameters, 2, True, "none")
    found, gradients = results(at_once, parameters, 2, True)
    for a, b in zip([*found, *gradients], [*expected, *slopes], strict=True):
        assert a.dtype == b.dtype == "float32"
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.host
def test_half_precision_is_rounded_once():
    parameters = tables(LENGTHS["many"], 2, "float16")
    found, gradients = results(at_once, parameters, 2, False)
    for y, (q, k, v) in zip(found, parameters, strict=True):
        right = attended(*(p.numpy().astype(np.float64) for p in (q, k, v)), 2, False)
        assert y.dtype == "float16"
        np.testing.assert_allclose(y, right, rtol=2.0**-11 * 1.1, atol=1e-6)
    assert {g.dtype.name for g in gradients} == {"float16"}


@pytest.mark.host
@pytest.mark.parametrize("lengths", ["one", "many"])
def test_gradients_by_projection(lengths):
    """Along one direction in all operands, against the difference of values."""
    parameters, step = tables(LENGTHS[lengths], 2), 1e-5
    rng = np.random.default_rng(5)
    directions = [rng.normal(size=p.shape) for some in parameters for p in some]
    start = [p.numpy() for some in parameters for p in some]

    def value(by):
        for p, x, d in zip((p for some in parameters for p in some), start, directions, strict=True):
            p.assign(x + by * d)
        return sum(lf.sum(lf.sin(at_once(*some, 2, True))).item() for some in parameters)

    numeric = (value(step) - value(-step)) / (2 * step)
    value(0.0)
    _, gradients = results(at_once, parameters, 2, True)
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    assert abs(slope - numeric) < 1e-6 * max(1.0, abs(numeric))


KINDS = {
    "NaN in a query": (0, math.nan),
    "infinity in a query": (0, math.inf),
    "NaN in a key": (1, math.nan),
    "infinity in a key": (1, -math.inf),
    "NaN in a value": (2, math.nan),
    "infinity in a value": (2, math.inf),
}


@pytest.mark.host  # on a device products go by rows that have cotangents
@pytest.mark.parametrize("causal", [False, True], ids=["whole", "causal"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", ["one", "many"])
def test_what_is_not_finite_goes_where_it_went(lengths, kind, causal, form):
    parameters = tables(LENGTHS[lengths], 2)
    which, value = KINDS[kind]
    array = parameters[1][which].numpy().copy()
    array[1:2, 0] = value
    parameters[1][which].assign(array)
    expected, slopes = results(composed, parameters, 2, causal, "none")
    found, gradients = results(at_once, parameters, 2, causal)
    for a, b in zip([*found, *gradients], [*expected, *slopes], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("lengths", ["one", "many"])
def test_of_no_cotangents_nothing_comes(lengths, form):
    """Queries whose results are hidden leave no NaN."""
    parameters = tables(LENGTHS[lengths], 2)
    values = parameters[1][0].numpy().copy()
    values[0] = math.nan
    parameters[1][0].assign(values)
    with np.errstate(all="ignore"):
        found = [at_once(*(p * 1.0 for p in some), 2, False) for some in parameters]
        lf.sum([lf.sum(lf.where(lf.isfinite(y), y, 0.0)) for y in found]).backward()
    for some in parameters:
        for p in some:
            assert np.isfinite(p.grad).all()
    assert not parameters[1][0].grad[0].any()


def test_parameters_and_what_all_nodes_share():
    """Queries that are learned, and keys of one text that several read, of lengths of their own."""
    rng = np.random.default_rng(7)
    query, text = lf.Parameter(rng.normal(size=(2, 4))), lf.Parameter(rng.normal(size=(6, 4)))

    def run(function, batching):
        query.grad = text.grad = None
        with lf.using(batching=batching):
            whole = text * 1.0
            found = [function(query, whole[:n], whole[:n], 2, False) for n in (1, 3, 6, 3)]
            found += [function(whole[:n], whole, whole, 2, True) for n in (1, 2, 5)]
            found += [function(query, text, text, 1, False) for _ in range(2)]
            lf.sum([lf.sum(lf.sin(y)) for y in found]).backward()
            return [y.numpy() for y in found], [query.grad, text.grad]

    (expected, right), (found, slopes) = run(composed, "none"), run(at_once, "phases")
    for a, b in zip([*found, *slopes], [*expected, *right], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True], ids=["whole", "causal"])
def test_second_derivatives(causal):
    (q, k, v), *_ = tables([(3, 4)], 2)
    check = lf.check_grads(lambda q, k, v: lf.sin(at_once(q, k, v, 2, causal)), (0, 1, 2), order=2)
    check(q.numpy(), k.numpy(), v.numpy())


def test_examples_that_decide():
    parameters = tables(LENGTHS["many"], 2)

    def of_one(some):
        y = at_once(*(p * 1.0 for p in some), 2, True)
        return lf.sum(at_once(y[:, :4], y[:, :4], y, 2, False)) if lf.max(y) > 0.5 else lf.sum(y)

    found = [y.numpy() for y in lf.map(of_one, parameters)]
    with lf.using(batching="none"):
        expected = [of_one(some).numpy() for some in parameters]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_kept_roots_follow_their_parameters():
    parameters = tables(LENGTHS["many"], 2)
    loss = lf.sum([lf.sum(lf.sin(at_once(*(p * 1.0 for p in some), 2, True))) for some in parameters])
    for _ in range(3):
        for p in (p for some in parameters for p in some):
            p.grad = None
            p.assign(p.numpy() * 0.9)
        loss.forward()
        loss.backward()
        _, expected = results(composed, parameters, 2, True, "none")
        gradients = [p.grad for some in parameters for p in some]
        for a, b in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_its_line_is_found_where_it_makes_a_nan():
    (q, k, v), *_ = tables([(3, 4)], 2)
    for p in (q, k):
        p.assign(np.full(p.shape, 1e200))
    with lf.using(check_finite=True), np.errstate(all="ignore"):
        y = lf.sum(at_once(q, k, v, 2, False))
        with pytest.raises(lf.NonFiniteError, match="attention"):
            y.forward()


@pytest.mark.host
def test_all_lengths_are_one_launch():
    parameters = tables(LENGTHS["many"], 2)
    found = [at_once(*(lf.tanh(p) for p in some), 2, False) for some in parameters]
    groups = lf.explain(found, groups=99).groups
    assert [(g.nodes, g.launches) for g in groups if "attention" in g.signature] == [(len(found), 1)]


@pytest.mark.host
@pytest.mark.parametrize("lengths", ["one", "many"])
def test_all_cotangents_come_in_one_call(lengths, monkeypatch):
    asked, pulled_back = [], attention._pulled_back

    def counted(wanted, *rest):
        asked.append(tuple(wanted))
        return pulled_back(wanted, *rest)

    monkeypatch.setattr(attention, "_pulled_back", counted)
    parameters = tables(LENGTHS[lengths], 2)
    results(at_once, parameters, 2, False)
    assert asked == [(0, 1, 2)]


def test_what_answers_for_several_operands_has_their_attributes():
    joint = joint_of([partial(vjp, heads=2, causal=True) for vjp in ATTENTION.vjps])
    assert joint.keywords == {"heads": 2, "causal": True}
    assert joint_of(ATTENTION.vjps[:1]) is None, "one operand has a vjp of its own"
    assert joint_of(OPS["matmul"].vjps) is None


def random_mask(kind, of, heads, n, m, rng):
    """One query, if it is not of keys alone, sees nothing."""
    shape = {"keys": (m,), "all": (n, m), "heads": (heads, n, m)}[of]
    shown = rng.random(shape) < 0.7
    shown[..., 0] = True
    if of != "keys":
        shown[..., n // 2, :] = False
    if kind != "added":
        return shown
    return np.where(shown, rng.normal(size=shape), -np.inf)


# What is said of what, whether queries see what comes before alone, how much is dropped, and whether the numbers of the
# mask have a gradient.
BESIDE = {
    "seen keys": ("seen", "keys", False, 0.0, False),
    "hidden pairs": ("hidden", "all", True, 0.0, False),
    "seen by heads": ("seen", "heads", False, 0.0, False),
    "numbers of keys": ("added", "keys", True, 0.0, False),
    "numbers of pairs": ("added", "all", False, 0.0, False),
    "numbers by heads": ("added", "heads", False, 0.0, True),
    "learned of pairs": ("added", "all", False, 0.0, True),
    "learned of keys": ("added", "keys", True, 0.3, True),
    "dropped": ("", "", False, 0.5, False),
    "dropped, causal": ("", "", True, 0.2, False),
    "hidden and dropped": ("hidden", "all", False, 0.4, False),
    "numbers and dropped": ("added", "heads", False, 0.4, False),
}


def by_one(q, k, v, heads, causal, mask, hides, p, stream):
    """As one operation."""
    found = functional.attention.attended(q, k, v, heads, causal, mask, hides, p, stream)
    assert found.tape and found is not None
    return found


def by_many(q, k, v, heads, causal, mask, hides, p, stream):
    q, k, v = (lf.transpose(x.reshape(x.shape[0], heads, x.shape[1] // heads), (1, 0, 2)) for x in (q, k, v))
    mask = lf.logical_not(mask) if hides else mask
    weights = lf.dropout(functional.attention_weights(q, k, mask, causal), p, stream=stream)
    return lf.transpose(weights @ v, (1, 0, 2)).reshape(q.shape[1], -1)


def with_beside(function, name, lengths, heads, batching="phases", dtype="float64"):
    """Values, and gradients of the operands and of the masks' numbers."""
    says, of, causal, p, learned = BESIDE[name]
    parameters, rng, stream = tables(lengths, heads, dtype), np.random.default_rng(9), lf.random.Stream(5)
    masks = [random_mask(says, of, heads, n, m, rng) if says else None for n, m in lengths]
    masks = [lf.Parameter(np.where(np.isfinite(x), x, -9).astype(dtype)) if learned else x for x in masks]
    with lf.using(batching=batching), np.errstate(all="ignore"):
        found = []
        for some, mask in zip(parameters, masks, strict=True):
            said = None if mask is None else mask * 1.0 if learned else lf.constant(mask)
            found.append(function(*(p * 1.0 for p in some), heads, causal, said, says == "hidden", p, stream))
        lf.sum([lf.sum(lf.sin(y)) for y in found]).backward()
    own = [x.grad for x in masks] if learned else []
    return [y.numpy() for y in found], [p.grad for some in parameters for p in some] + own


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", BESIDE)
def test_what_is_hidden_added_and_dropped(name, lengths, heads, form):
    """The numbers of products, softmax and dropout; who sees nothing has zeros; and the same draws."""
    expected, slopes = with_beside(by_many, name, LENGTHS[lengths], heads, "none")
    for batching in ("phases", "none"):
        found, gradients = with_beside(by_one, name, LENGTHS[lengths], heads, batching)
        for a, b in zip([*found, *gradients], [*expected, *slopes], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def both_by_one(average, q, k, v, heads, causal, mask, hides, p, stream):
    """The result and the weights, with the same ones dropped, as two operations."""
    factors = functional.attention.factors_of_weights(q, k, heads, p, stream)
    result = functional.attention.attended_by(q, k, v, heads, causal, mask, hides, factors)
    weights = functional.attention.weights_by(q, k, heads, causal, average, mask, hides, factors)
    return lf.concatenate([lf.reshape(result, -1), lf.reshape(lf.sin(weights), -1)])


def both_by_many(average, q, k, v, heads, causal, mask, hides, p, stream):
    q, k, v = (lf.transpose(x.reshape(x.shape[0], heads, x.shape[1] // heads), (1, 0, 2)) for x in (q, k, v))
    mask = lf.logical_not(mask) if hides else mask
    weights = lf.dropout(functional.attention_weights(q, k, mask, causal), p, stream=stream)
    result = lf.transpose(weights @ v, (1, 0, 2)).reshape(q.shape[1], -1)
    weights = lf.mean(weights, axis=0) if average else weights
    return lf.concatenate([lf.reshape(result, -1), lf.reshape(lf.sin(weights), -1)])


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", [*BESIDE, "nothing"])
def test_weights_are_those_of_products_and_softmax(name, lengths, average, form, monkeypatch):
    monkeypatch.setitem(BESIDE, "nothing", ("", "", False, 0.0, False))
    expected, slopes = with_beside(partial(both_by_many, average), name, LENGTHS[lengths], 2, "none")
    for batching in ("phases", "none"):
        found, gradients = with_beside(partial(both_by_one, average), name, LENGTHS[lengths], 2, batching)
        for a, b in zip([*found, *gradients], [*expected, *slopes], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.host
def test_half_precision_weights_are_rounded_once():
    for q, k, _ in tables(LENGTHS["many"], 2, "float16"):
        found = record(OPS["attention_weights"], (q, k), heads=2)
        right = weights_of(*(p.numpy().astype(np.float64) for p in (q, k)), 2, False)
        assert found.dtype == "float16"
        np.testing.assert_allclose(found.numpy(), right.reshape(-1), rtol=2.0**-11 * 1.1, atol=1e-6)


@pytest.mark.host
def test_weights_of_all_lengths_are_one_launch_and_unread_ones_none():
    layer = lf.nn.MultiheadAttention(8, 2)
    values = [lf.constant(np.ones((n, 8), np.float32)) for n in range(1, 9)]
    pairs = [layer(x, x, x) for x in values]
    for roots, kinds in (([y for y, _ in pairs], 1), ([y for pair in pairs for y in pair], 2)):
        groups = [g for g in lf.explain(roots, groups=99).groups if "attention" in g.signature]
        assert [g.launches for g in groups] == [1] * kinds


@pytest.mark.host
@pytest.mark.parametrize("name", BESIDE)
def test_masks_and_draws_of_all_lengths_are_one_launch_too(name):
    says, *_, learned = BESIDE[name]
    seen = []

    def looked_at(q, k, v, heads, causal, mask, *rest):
        seen.append(by_one(lf.tanh(q), lf.tanh(k), v, heads, causal, mask, *rest))
        return seen[-1]

    with_beside(looked_at, name, LENGTHS["many"], 2)
    groups = lf.explain(seen, groups=99).groups
    found = {
        kind: [g.launches for g in groups if kind in g.signature.split("(")[0]] for kind in ("attention", "constant")
    }
    assert found["attention"] == [1] and (learned or not says or found["constant"] == [1])


@pytest.mark.parametrize("name", ["numbers by heads", "learned of keys", "hidden and dropped", "dropped, causal"])
def test_second_derivatives_beside_masks(name):
    says, of, causal, p, learned = BESIDE[name]
    (q, k, v), *_ = tables([(3, 4)], 2)
    mask = random_mask(says, of, 2, 3, 4, np.random.default_rng(2)) if says else None
    mask = np.where(np.isfinite(mask), mask, -3) if learned else mask
    given = [x.numpy() for x in (q, k, v)] + ([mask] if learned else [])

    def f(q, k, v, *masks):
        said = masks[0] if masks else None if mask is None else lf.constant(mask)
        return lf.sin(by_one(q, k, v, 2, causal, said, says == "hidden", p, lf.random.Stream(5)))

    lf.check_grads(f, tuple(range(len(given))), order=2)(*given)


@pytest.mark.parametrize("causal", [False, True])
def test_masks_that_broadcast_otherwise(causal):
    """As the weights of other operations have them: numbers, columns, of more axes."""
    (q, k, v), *_ = tables([(3, 4)], 1)
    rng, weights = np.random.default_rng(1), functional.attention_weights
    for shape in ((3, 1), (1, 4), (), (1,), (1, 3, 4), (1, 1, 4), (2, 3, 4), (2, 1, 3, 4)):
        for mask in (rng.normal(size=shape), rng.random(shape) < 0.6):
            found = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
            np.testing.assert_allclose(found.numpy(), (weights(q, k, mask, causal) @ v).numpy(), rtol=1e-10)


SHAPES_BY_HEADS = [((3, 4), (5, 4), (5, 2)), ((2, 3, 4), (2, 5, 4), (2, 5, 3)), ((1, 3, 4), (2, 5, 4), (5, 3))]


@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("of", [(2, 3, 5), (2, 1, 5), (1, 3, 5)], ids=str)
@pytest.mark.parametrize("shapes", SHAPES_BY_HEADS, ids=str)
def test_masks_of_three_axes_are_one_operation(shapes, of, p):
    """Values, and gradients of queries, keys, values and numbers, of heads or the same for all."""
    rng = np.random.default_rng(3)
    arrays = [rng.normal(size=shape) for shape in (*shapes, of)]

    def of_many(q, k, v, mask, p, stream):
        return lf.dropout(functional.attention_weights(q, k, mask), p, stream=stream) @ v

    def run(function):
        q, k, v, mask = given = [lf.Parameter(x) for x in arrays]
        y = function(*(x * 1.0 for x in (q, k, v)), mask, p, stream=lf.random.Stream(4))
        groups = lf.explain(y, groups=99).groups
        assert any("attention" in g.signature for g in groups) == (function is not of_many)
        lf.sum(lf.sin(y)).backward()
        return [y.numpy(), *[x.grad for x in given]]

    found, expected = run(functional.scaled_dot_product_attention), run(of_many)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_a_mask_that_does_not_fit_is_refused():
    (q, k, v), *_ = tables([(3, 4)], 1)
    with pytest.raises(lf.ShapeError):
        functional.scaled_dot_product_attention(q, k, v, np.ones((3, 5), bool))
    with pytest.raises(ValueError, match="p must be"):
        functional.scaled_dot_product_attention(q, k, v, dropout_p=1.0)
