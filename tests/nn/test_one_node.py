"""Layers, attention and losses that are recorded as one node: beside the same, recorded op by op."""

import copy
import itertools
import traceback

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from lazyflow.nn import one_node
from lazyflow.record.tape import signature_by_id
from tests.nn.support import assert_close, gradients, scrambled, vectors, weighted


@pytest.fixture(autouse=True)
def _uncompiled():
    """Compiling is tested with cells; here it would take most of the time."""
    with lf.using(fuse="numpy", dtype="float64"):
        yield


def mlp(*more):
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), *more, nn.Linear(5, 3))


def normed():
    inner = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), lf.tanh, nn.Dropout(0.5))
    return nn.Sequential(inner, nn.PReLU(), nn.RMSNorm(6), nn.Highway(6), nn.Identity(), nn.Linear(6, 2))


def encoder(**options):
    return nn.TransformerEncoderLayer(4, 2, 6, **options)


class Masked(nn.Module):
    """Attention with all that can be asked of it."""

    def __init__(self, **options):
        super().__init__()
        self.attention, self.options = nn.MultiheadAttention(4, 2, 0.3), options

    def forward(self, *operands):
        return [y for y in self.attention(*operands, **self.options) if y is not None]


MASK = np.tri(3, dtype=bool)
ROWS = [(3, 4)]
# The module, the shapes of its operands, and how many rows a call appends: one, and one for each further result.
LAYERS = {
    "MLP": (mlp, [(4,)], 1),
    "MLP over a sequence": (mlp, [(3, 4)], 1),
    "MLP, dropout": (lambda: mlp(nn.Dropout(0.4)), [(4,)], 1),
    "MLP of functions": (lambda: nn.Sequential(nn.Linear(4, 5), nn.functional.gelu, nn.Linear(5, 2)), [(4,)], 1),
    "flattened": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU()), ROWS, 1),
    "nested, norms": (normed, [(4,)], 1),
    "Highway": (lambda: nn.Highway(4), [(4,)], 1),
    "one item": (lambda: nn.Sequential(nn.Linear(4, 3)), [(4,)], 1),
    "encoder": (lambda: encoder(), ROWS, 1),
    "encoder, norm first, gelu": (lambda: encoder(norm_first=True, activation="gelu", bias=False), ROWS, 1),
    "two layers": (lambda: nn.TransformerEncoder(encoder(dropout=0.0), 2, nn.LayerNorm(4)), ROWS, None),
    "attention to others": (lambda: Masked(), [(3, 4), (5, 4), (5, 4)], 6),  # with queries, keys, and their weights
    "attention, masked": (lambda: Masked(attn_mask=~MASK, need_weights=False), [(3, 4)] * 3, None),
    "attention, causal": (lambda: Masked(is_causal=True, average_attn_weights=False), [(2, 4), (3, 4), (3, 4)], 6),
    "attention without weights": (lambda: Masked(need_weights=False), [(3, 4), (5, 4), (5, 4)], 1),
}
POSITIVE = np.array([0.2, 0.3, 0.5])
SIGNS = np.array([1.0, -1.0, 1.0])
LOSSES = {
    "BCELoss": (nn.BCELoss, [POSITIVE]),
    "CosineEmbeddingLoss": (nn.CosineEmbeddingLoss, [POSITIVE, np.array(1)]),
    "CrossEntropyLoss, smoothed": (lambda: nn.CrossEntropyLoss(label_smoothing=0.2), [2]),
    "GaussianNLLLoss": (lambda: nn.GaussianNLLLoss(full=True), [SIGNS, POSITIVE]),
    "HingeEmbeddingLoss": (lambda: nn.HingeEmbeddingLoss(reduction="sum"), [SIGNS]),
    "KLDivLoss": (lambda: nn.KLDivLoss(reduction="batchmean"), [POSITIVE]),
    "L1Loss": (lambda: nn.L1Loss("none"), [SIGNS]),
    "MarginRankingLoss": (nn.MarginRankingLoss, [POSITIVE, SIGNS]),
    "MultiLabelSoftMarginLoss": (nn.MultiLabelSoftMarginLoss, [np.array([1.0, 0.0, 1.0])]),
    "PoissonNLLLoss": (lambda: nn.PoissonNLLLoss(full=True), [POSITIVE]),
    "SmoothL1Loss": (lambda: nn.SmoothL1Loss(beta=0.5), [SIGNS]),
    "SoftMarginLoss": (nn.SoftMarginLoss, [SIGNS]),
    "SoftmaxOutput": (lambda: nn.SoftmaxOutput(3, 5), [4]),
    "TripletMarginLoss": (nn.TripletMarginLoss, [SIGNS, POSITIVE]),
    "TripletMarginWithDistanceLoss": (nn.TripletMarginWithDistanceLoss, [SIGNS, POSITIVE]),
}


def op_by_op(module):
    """A copy of which every part has a list, which could be changed in place."""
    twin = copy.deepcopy(module)
    for part in twin.modules():
        part.notes = []
    return twin


def as_list(outputs):
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def rows(module, *operands):
    """What a call appends to the tape."""
    before = len(operands[0].tape)
    module(*operands)
    return len(operands[0].tape) - before


def of_examples(module, shapes, count=3):
    """The outputs for several examples, whose draws start anew."""
    lf.seed(5)
    found = [module(*[lf.constant(v) for v in vectors(k, *shapes)]) for k in range(count)]
    return [y for outputs in found for y in as_list(outputs)]


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_gives_what_it_gives_op_by_op(name, mode):
    make, shapes, _ = LAYERS[name]
    module = scrambled(make()).train(mode)
    twin = op_by_op(module)
    ours, theirs = of_examples(module, shapes), of_examples(twin, shapes)
    for y, expected in zip(ours, theirs, strict=True):
        assert_close(y.numpy(), expected.numpy(), 1e-9)
    weighted(ours).backward()
    weighted(theirs).backward()
    expected = gradients(twin)
    for parameter, gradient in gradients(module).items():
        assert_close(gradient, expected[parameter], 1e-9)


@pytest.mark.parametrize("name", [name for name, (_, _, count) in LAYERS.items() if count])
def test_a_layer_is_one_row(name):
    make, shapes, count = LAYERS[name]
    operands = [lf.constant(v) for v in vectors(0, *shapes)]
    assert [rows(make(), *operands) for _ in range(2)] == [count] * 2


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_one_row_and_gives_what_it_gives_op_by_op(name):
    make, targets = LOSSES[name]
    module = make()
    twin = op_by_op(module)
    operands = [t if isinstance(t, int) else lf.constant(t) for t in targets]
    x, z = lf.Parameter(POSITIVE[::-1]), lf.Parameter(POSITIVE[::-1])
    given = x * 1.0
    assert rows(module, given, *operands) == 1
    ours, theirs = module(given, *operands), twin(z * 1.0, *operands)
    assert_close(ours.numpy(), theirs.numpy(), 1e-12)
    lf.sum(ours).backward()
    lf.sum(theirs).backward()
    assert_close(x.grad, z.grad, 1e-12)


@pytest.mark.parametrize("name", ["MLP", "nested, norms", "Highway", "encoder"])
def test_a_second_derivative_is_that_of_the_operations(name):
    make, shapes, _ = LAYERS[name]
    module = scrambled(make()).eval()
    [x] = vectors(0, *shapes)

    def curvature(model):
        slope = lf.grad(lambda value: lf.sum(lf.square(model(value))))
        return lf.grad(lambda value: lf.sum(lf.square(slope(value))))(x)

    assert_close(curvature(module), curvature(op_by_op(module)), 1e-8)


# What is not traced.


class Own(nn.Linear):
    """A class of the user's."""

    calls = 0

    def forward(self, x):
        Own.calls += 1
        return super().forward(x)


def hooked():
    model, seen = mlp(), []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    return model, lambda: len(seen)


def removed_hook():
    model, seen = mlp(), []
    model[0].register_forward_hook(lambda *_: seen.append(1)).remove()
    return model, lambda: 2


def of_own_class():
    Own.calls = 0
    return nn.Sequential(Own(4, 3), nn.Tanh()), lambda: Own.calls


def own_function():
    seen = []

    def watched(x):
        seen.append(x.numpy())
        return x

    return nn.Sequential(nn.Linear(4, 3), watched, nn.Tanh()), lambda: len(seen)


def own_forward():
    model, seen = mlp(), []
    tanh = model[1].forward
    model[1].forward = lambda x: seen.append(1) or tanh(x)
    return model, lambda: len(seen)


def own_activation():
    seen = []
    model = encoder(activation=lambda x: seen.append(1) or lf.relu(x))
    return nn.Sequential(lambda x: lf.stack([x] * 3), model), lambda: len(seen)


def own_part():
    Own.calls = 0
    model = encoder()
    model.linear1 = Own(4, 6)
    return nn.Sequential(lambda x: lf.stack([x] * 3), model), lambda: Own.calls


@pytest.mark.parametrize(
    "make",
    [hooked, removed_hook, of_own_class, own_function, own_forward, own_activation, own_part],
)
def test_what_is_watched_or_foreign_runs_at_every_call(make):
    model, calls = make()
    for value in vectors(0, (4,), (4,)):
        model(lf.constant(value))
    assert calls() == 2


def test_running_statistics_see_every_minibatch():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU())
    for batch in vectors(0, (5, 4), (5, 4)):
        model(lf.constant(batch)).numpy()
    assert model[1].num_batches_tracked == 2


def test_a_hook_is_seen_from_when_it_is_there():
    model, seen = mlp(), []
    x = lf.constant(np.ones(4))
    assert rows(model, x) == 1
    model[1].register_forward_hook(lambda module, args, output: output * 0)
    assert_close(model(x).numpy(), model[2].bias.numpy(), 1e-12)
    model.register_forward_hook(lambda *_: seen.append(1))
    model(x)
    assert seen == [1]


def test_a_module_that_is_hooked_as_a_whole_is_one_row():
    model, seen = mlp(), []
    model.register_full_backward_hook(lambda module, grad_input, grad_output: seen.append(grad_output[0]))
    lf.sum(model(lf.constant(np.ones(4)))).backward()
    assert [g.tolist() for g in seen] == [[1.0] * 3]


def test_new_parameters_items_and_modes_count():
    model, x = scrambled(mlp(nn.Dropout(0.5))), lf.constant(np.ones(4))
    model(x)
    model[3].weight = lf.Parameter(np.zeros((3, 5)))
    assert_close(model(x).numpy(), model[3].bias.numpy(), 1e-12)
    model.eval()
    model[1] = nn.ReLU()
    model[3] = nn.Identity()
    expected = np.maximum(model[0].weight.numpy().sum(1) + model[0].bias.numpy(), 0)
    assert_close(model(x).numpy(), expected, 1e-12)
    model[0].requires_grad_(False)
    assert not model(x).requires_grad


def test_only_few_shapes_are_traced(monkeypatch):
    monkeypatch.setattr(one_node, "MOST", 2)
    model = nn.Sequential(nn.Tanh(), nn.Softplus(), nn.Tanh())
    twin = op_by_op(model)
    values = [lf.constant(v) for v in vectors(0, (3,), (2,), (5,), (2,))]
    counts = [rows(model, x) for x in values]
    assert counts[0] == counts[1] == counts[3] == 1 and counts[2] == 3
    for x in values:
        assert_close(model(x).numpy(), twin(x).numpy(), 1e-9)


def test_sequences_of_several_lengths_share_launches():
    """As nodes each length would have launches of its own."""
    model = scrambled(encoder(dropout=0.0))
    twin = op_by_op(model)
    values = [lf.constant(v) for v in vectors(0, (3, 4), (3, 4), (2, 4), (5, 4), (3, 4))]
    counts = [rows(model, x) for x in values]
    assert counts[:2] == [1, 1] and min(counts[2:]) > 10
    for x in values:
        assert_close(model(x).numpy(), twin(x).numpy(), 1e-9)
    found = lf.explain(lf.sum([lf.sum(model(x)) for x in values]), groups=100)
    assert {g.launches for g in found.groups if g.signature.startswith("rows of affine")} == {1}


def test_within_a_cell_it_is_part_of_it_for_every_class():
    output, loss, traced = nn.SoftmaxOutput(3, 5), nn.CrossEntropyLoss(label_smoothing=0.1), itertools.count()
    head, x = mlp(), lf.constant(np.ones(4))
    output(head(x), 1), loss(head(x), 1)  # have code of their own

    @lf.cell
    def both(x, label):
        next(traced)
        y = head(x)
        return output(y, label) + loss(y, label)

    before = len(x.tape)
    found = [both(x, label) for label in range(3)]
    assert len(x.tape) - before == 3 and next(traced) == 1
    for label, value in enumerate(found):
        assert_close(value.numpy(), (output(head(x), label) + loss(head(x), label)).numpy(), 1e-12)


@pytest.mark.parametrize(
    ("make", "call", "error", "message"),
    [
        (mlp, lambda model: model(lf.constant(np.ones(5))), lf.ShapeError, r"\(5, 4\)"),
        (mlp, lambda model: model(np.ones(5)), lf.ShapeError, r"\(5, 4\)"),
        (mlp, lambda model: model(3), lf.ShapeError, r"\(\)"),
        (encoder, lambda model: model(np.ones((3, 5))), lf.ShapeError, "one example's"),
        (lambda: nn.SoftmaxOutput(3, 2), lambda model: model(np.ones(3), 2), IndexError, "class 2 is out of range"),
        (nn.L1Loss, lambda loss: loss(np.ones(3), np.ones(2)), lf.ShapeError, "one shape"),
        (nn.L1Loss, lambda loss: loss(np.ones(3)), TypeError, "target"),
        (
            lambda: nn.CrossEntropyLoss(label_smoothing=0.1),
            lambda loss: loss(lf.constant(np.ones(3)), 3),
            IndexError,
            "class 3 is out of range",
        ),
    ],
)
def test_what_is_refused(make, call, error, message):
    with pytest.raises(error, match=message):
        call(make())


def test_an_error_is_at_the_line_of_the_call():
    model, x = mlp(), lf.constant(np.ones(5))
    with pytest.raises(lf.ShapeError) as caught:
        model(x)  # here
    lines = [f.line for f in traceback.extract_tb(caught.value.__traceback__) if f.filename == __file__]
    assert lines == ["model(x)  # here"]


def test_ignored_targets_and_weights_go_op_by_op():
    x = lf.constant(np.ones(3))
    ignoring = nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=2, reduction="sum")
    assert ignoring(x, 2).item() == 0 and ignoring(x, 1).item() > 0
    weights = np.array([1.0, 2.0, 3.0])
    weighted_loss = nn.CrossEntropyLoss(weights, label_smoothing=0.1, reduction="sum")
    first = weighted_loss(x, 1).item()
    weighted_loss.weight[:] *= 2
    assert_close(weighted_loss(x, 1).item(), 2 * first, 1e-12)


def test_one_node_again_when_the_last_hook_is_gone():
    model, x = nn.Sequential(nn.Linear(2, 3), nn.Tanh()), lf.constant(np.ones(2))
    calls = []

    def nodes():
        return lf.explain(lf.sum(model(x))).nodes

    one = nodes()
    for _ in range(2):
        first = model[0].register_forward_hook(lambda *_: calls.append(1))
        second = model[0].register_forward_pre_hook(lambda *_: None)
        first.remove()
        assert nodes() > one
        second.remove()
        second.remove()
        assert nodes() == one
    assert not calls
    model[0].register_forward_hook(lambda *_: calls.append(1))
    model(x)
    assert calls == [1]


def test_an_array_is_recorded_as_an_expression_is():
    layer, x = mlp(), np.array([0.5, -1.0, 2.0, 0.25])
    for array in (x, 2 * x, x.astype("f4")):
        got = layer(array)
        assert (
            type(got) is lf.Expr and [s.op.name for s in map(signature_by_id, got.tape.signatures)].count("tanh") == 0
        )
        np.testing.assert_array_equal(got.numpy(), layer(lf.constant(array)).numpy())
    indices = nn.Sequential(nn.Embedding(3, 4), nn.Tanh())
    with pytest.raises(IndexError):
        indices(np.array([0, 3]))
