"""Every layer and loss that PyTorch also has, against PyTorch, in float64: values, and gradients of inputs and weights.

A row names the layer, the arguments that both are made with, and the shapes of one example's inputs. Several examples
of different shapes go through ours one by one, and are batched by the engine; through PyTorch's they go as batches of
one, or as they are, as it likes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from tests.nn.support import assert_close, dense, factors, gradients, scrambled, weighted

torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")
pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss by both the batch size:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning"),
]
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Layer:
    """One row. ``shapes``: those of one input, one for each example; ``copies``: how many inputs of that shape.

    ``theirs``: what PyTorch is given, where that is not one input with a batch axis of 1 (``"batch"``): as it is
    (``"same"``). ``tolerance``: of gradients.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    shapes: tuple[tuple[int, ...], ...] = ((3,), (5,), (3,))
    copies: int = 1
    theirs: str = "same"
    low: float = -2.0
    high: float = 2.0
    tolerance: float = TOLERANCE

    @property
    def id(self) -> str:
        options = [*map(str, self.args), *(f"{k}={v}" for k, v in self.kwargs.items())]
        return f"{self.name}({', '.join(options)})".replace(" ", "")


def rows(name: str, *options: Any, **more: Any) -> list[Layer]:
    """One row for each tuple of positional arguments or dict of keywords; none at all for no options."""
    given = options or ((),)
    return [Layer(name, o if isinstance(o, tuple) else (), o if isinstance(o, dict) else {}, **more) for o in given]


VECTORS: dict[str, Any] = {"shapes": ((4,), (4,))}
SEQUENCES = ((2, 7), (2, 5), (2, 7))
IMAGES = ((2, 6, 7), (2, 5, 5), (2, 6, 7))
LAYERS = [
    # activations
    *rows("CELU", (), (0.5,)),
    *rows("ELU", (), (0.5,)),
    *rows("GELU", {}, {"approximate": "tanh"}),
    *rows("GLU", (), shapes=((4,), (3, 6))),
    *rows("GLU", (0,), shapes=((4, 3), (2, 2))),
    *rows("SELU"),
    *rows("Hardshrink", (), (1.0,)),
    *rows("Hardsigmoid", low=-5.0, high=5.0, tolerance=1e-7),  # PyTorch's 1/6 has single precision
    *rows("Hardswish", low=-5.0, high=5.0),
    *rows("Hardtanh", (), (-0.5, 1.5)),
    *rows("LeakyReLU", (), (0.3,), {"negative_slope": 1.0, "inplace": False}),
    *rows("LogSigmoid"),
    *rows("LogSoftmax", (-1,), (0,), shapes=((3, 2), (4, 2))),
    *rows("Mish"),
    *rows("PReLU", (), shapes=((3,), (2, 3))),
    *rows("PReLU", (2,), shapes=((2,), (2, 3), (2, 3, 2)), theirs="batch"),
    *rows("ReLU", (), (True,)),
    *rows("ReLU6", low=-5.0, high=9.0),
    *rows("SiLU"),
    *rows("Sigmoid"),
    *rows("Softmax", (-1,), (0,), shapes=((3, 2), (4, 2))),
    *rows("Softmax2d", shapes=((3, 2, 2),)),
    *rows("Softmin", (-1,), shapes=((3, 2), (4, 2))),
    *rows("Softplus", (), (2.0,), low=-5.0, high=5.0),
    *rows("Softshrink", (), (1.0,)),
    *rows("Softsign"),
    *rows("Tanh"),
    *rows("Tanhshrink"),
    *rows("Threshold", (0.1, 20.0)),
    # maps
    *rows("Linear", (4, 3), {"in_features": 4, "out_features": 3, "bias": False}, shapes=((4,), (2, 4), (4,))),
    *rows(
        "Bilinear",
        (4, 4, 3),
        {"in1_features": 4, "in2_features": 4, "out_features": 3, "bias": False},
        copies=2,
        **VECTORS,
    ),
    *rows("Identity", (7,)),
    *rows("Flatten", {"start_dim": 0}, {"start_dim": 1, "end_dim": 2}, shapes=((2, 3, 2), (3, 2, 2))),
    *rows("Unflatten", (0, (2, 2)), (-1, (1, 4)), **VECTORS),
    *rows("CosineSimilarity", {"dim": -1}, {"dim": 0, "eps": 1e-3}, shapes=((4,), (2, 4)), copies=2),
    *rows("PairwiseDistance", (), (1.0,), {"keepdim": True}, {"p": float("inf")}, shapes=((4,), (2, 4)), copies=2),
    # convolutions
    *rows("Conv1d", (2, 3, 3), (2, 3, 2, 2), (2, 4, 3, 1, 1, 2, 2, False), shapes=SEQUENCES),
    *rows(
        "Conv1d",
        *(
            {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": p, "padding_mode": m}
            for p, m in ((1, "reflect"), (2, "replicate"), ("same", "circular"), ("same", "zeros"), ("valid", "zeros"))
        ),
        shapes=SEQUENCES,
    ),
    *rows("Conv2d", (2, 3, 3), (2, 3, (3, 2), 2, 1), (2, 4, 3, (2, 1), (1, 0), (1, 2), 2, False), shapes=IMAGES),
    *rows(
        "Conv2d",
        *(
            {"in_channels": 2, "out_channels": 3, "kernel_size": (3, 2), "padding": p, "padding_mode": m}
            for p, m in (((1, 0), "reflect"), ((2, 1), "circular"), ("same", "replicate"), ("same", "zeros"))
        ),
        shapes=IMAGES,
    ),
    *rows("Conv2d", (2, 3, 3, 2, 1), shapes=((3, 2, 6, 5), (1, 2, 6, 5))),
    *rows("Conv2d", {"in_channels": 2, "out_channels": 3, "kernel_size": 1, "bias": False}, shapes=IMAGES),
    *rows(
        "ConvTranspose1d",
        (2, 3, 3),
        (2, 4, 3, 2, 1, 1, 2),
        {
            "in_channels": 2,
            "out_channels": 3,
            "kernel_size": 2,
            "stride": 1,
            "dilation": 3,
            "output_padding": 2,
            "bias": False,
        },
        shapes=SEQUENCES,
    ),
    *rows(
        "ConvTranspose2d",
        (2, 3, 3),
        (2, 4, 3, 2, 1, 1, 2),
        (2, 3, (3, 2), (1, 2), (1, 0), (0, 1), 1, False, (2, 1)),
        shapes=IMAGES,
    ),
    *rows("ConvTranspose2d", (2, 3, 2, 2), shapes=((3, 2, 3, 2),)),
    *rows(
        "MaxPool1d",
        (2,),
        (3, 1, 1),
        {"kernel_size": 2, "stride": 3, "dilation": 2, "ceil_mode": True},
        shapes=SEQUENCES,
    ),
    *rows(
        "MaxPool2d",
        (2,),
        ((3, 2), 1, 1),
        {"kernel_size": 2, "ceil_mode": True},
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
        {"kernel_size": 7, "stride": 4, "ceil_mode": True},
        shapes=IMAGES,
    ),
    *rows(
        "AvgPool1d",
        (2,),
        (3, 1, 1),
        {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False, "ceil_mode": True},
        shapes=SEQUENCES,
    ),
    *rows(
        "AvgPool2d",
        (2,),
        ((3, 2), 1, 1),
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
        {"kernel_size": 2, "divisor_override": 3},
        {"kernel_size": 3, "padding": 1, "count_include_pad": False},
        shapes=IMAGES,
    ),
    *rows("AdaptiveAvgPool1d", (1,), (3,), (9,), shapes=SEQUENCES),
    *rows("AdaptiveAvgPool2d", (1,), ((3, 4),), ((None, 2),), shapes=IMAGES),
    *rows("Unfold", (2,), ((2, 3), 2, 1, 2), shapes=IMAGES),
    *rows("Fold", ((3, 4), 2), shapes=((4, 6), (8, 6))),
    *rows("Fold", ((5, 4), (2, 1), 2, 1, 2), shapes=((4, 9),)),
    # normalisation
    *rows(
        "LayerNorm",
        (4,),
        ((2, 4),),
        {"normalized_shape": 4, "eps": 0.1, "bias": False},
        {"normalized_shape": 4, "elementwise_affine": False},
        shapes=((2, 4), (3, 2, 4)),
    ),
    *rows(
        "RMSNorm", (4,), ((2, 4), 0.1), {"normalized_shape": 4, "elementwise_affine": False}, shapes=((2, 4), (3, 2, 4))
    ),
    *rows("GroupNorm", (2, 4), (1, 4, 0.1), (4, 4, 1e-5, False), shapes=((4, 3), (4, 2, 3)), theirs="batch"),
    *rows("InstanceNorm1d", (2,), {"num_features": 2, "eps": 0.1, "affine": True}, shapes=SEQUENCES),
    *rows("InstanceNorm2d", (2,), {"num_features": 2, "affine": True}, shapes=IMAGES),
    # off while evaluating
    *rows("Dropout", (0.5,)),
    *rows("Dropout1d", (0.5,), shapes=SEQUENCES),
    *rows("Dropout2d", (0.5,), shapes=IMAGES, theirs="batch"),
    *rows("RReLU", (), (0.1, 0.9)),
]


def twin_of(module: Any, peer: Any) -> Any:
    """PyTorch's module with our weights."""
    peer = peer.to(torch.float64)
    peer.load_state_dict({name: torch.tensor(a) for name, a in module.state_dict().items()})
    return peer.eval()


def examples_of(row: Layer) -> list[list[Any]]:
    rng = np.random.default_rng(5)
    return [[rng.uniform(row.low, row.high, shape) for _ in range(row.copies)] for shape in row.shapes]


def applied(peer: Any, tensors: list[Any], theirs: str) -> Any:
    return peer(*(t[None] for t in tensors))[0] if theirs == "batch" else peer(*tensors)


def compare(values: list[Any], expected: list[Any]) -> None:
    """Values, then a backward on both sides through a weight for each element."""
    for value, other in zip(values, expected, strict=True):
        assert value.shape == tuple(other.shape)
        assert_close(value.numpy(), other.detach(), TOLERANCE)
    weighted(values).backward()
    fs = [torch.tensor(f) for f in factors(expected)]
    sum((o * f).sum() for o, f in zip(expected, fs, strict=True)).backward()


def compare_gradients(
    module: Any, twin: Any, inputs: list[Any], tensors: list[Any], tolerance: float = TOLERANCE
) -> None:
    found = gradients(module)
    wanted = {name: p.grad for name, p in twin.named_parameters()}
    assert list(found) == list(wanted)
    for name, gradient in wanted.items():
        assert_close(found[name], gradient, tolerance)
    for x, tensor in zip(inputs, tensors, strict=True):
        assert_close(dense(x.grad), tensor.grad, tolerance)


@pytest.mark.parametrize("row", LAYERS, ids=lambda row: row.id)
def test_layers(row: Layer) -> None:
    with lf.using(dtype="float64"):
        module = scrambled(getattr(nn, row.name)(*row.args, **row.kwargs)).eval()
        twin = twin_of(module, getattr(torch.nn, row.name)(*row.args, **row.kwargs))
        examples = examples_of(row)
        inputs = [[lf.Parameter(x) for x in example] for example in examples]
        tensors = [[torch.tensor(x, requires_grad=True) for x in example] for example in examples]
        copies = [[t * 1 for t in example] for example in tensors]  # in-place layers write into these
        values = [module(*example) for example in inputs]
        compare(values, [applied(twin, example, row.theirs) for example in copies])
    flat = [x for e in inputs for x in e], [t for e in tensors for t in e]
    compare_gradients(module, twin, *flat, row.tolerance)


# Losses


@dataclass(frozen=True)
class Loss:
    """One row: the loss, its options, and its operands: ``shape``s of inputs that are differentiated, and a target.

    ``peer``: how PyTorch's operands are made of ours, where its axes are others.
    """

    name: str
    options: dict[str, Any]
    inputs: tuple[Any, ...]
    target: Any = None
    peer: Callable[..., Any] = lambda *operands: operands
    hidden: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.name}({self.options})".replace(" ", "")


RNG = np.random.default_rng(11)
X, Y = RNG.uniform(-2, 2, (2, 3, 4))
POSITIVE, SHARES = RNG.uniform(0.1, 2, (3, 4)), RNG.uniform(0.05, 0.95, (3, 4))
SIGNS, ONES = RNG.choice([-1.0, 1.0], (3, 4)), RNG.choice([0.0, 1.0], (3, 4))
ROWS = np.array([1.0, -1.0, 1.0])
PARTS = SHARES / SHARES.sum(1, keepdims=True)
ZEROS = PARTS * (RNG.random((3, 4)) < 0.7)
CLASSES = np.array([0, 3, 1])
IGNORED = np.array([0, -100, 1])
WEIGHT = np.array([0.5, 1.0, 2.0, 0.3])
LABELS = np.array([[1, 3, -1, 0], [-1, 0, 1, 2], [0, 1, 2, 2]])
IMAGE, PIXELS = RNG.uniform(-2, 2, (4, 2, 3)), RNG.integers(0, 4, (2, 3))


def image(x: Any, target: Any) -> tuple[Any, Any]:
    """One image as a batch of one, for PyTorch, which counts the classes along axis 1."""
    return x[None], target[None]


def losses(name: str, inputs: tuple[Any, ...], target: Any, *options: dict[str, Any], **more: Any) -> list[Loss]:
    """One row for each reduction and each of the options."""
    return [
        Loss(name, {"reduction": reduction, **option}, inputs, target, **more)
        for option in options or ({},)
        for reduction in ("mean", "sum", "none")
    ]


LOSSES = [
    *losses("MSELoss", (X, Y), None),
    *losses("L1Loss", (X, Y), None),
    *losses("SmoothL1Loss", (X, Y), None, {}, {"beta": 0.5}, {"beta": 0.0}),
    *losses("HuberLoss", (X, Y), None, {}, {"delta": 0.5}),
    *losses("BCELoss", (SHARES,), ONES, {}, {"weight": WEIGHT}),
    *losses("BCELoss", (SHARES, PARTS), None),
    *losses(
        "BCEWithLogitsLoss",
        (X,),
        ONES,
        {},
        {"weight": WEIGHT},
        {"pos_weight": WEIGHT},
        {"weight": WEIGHT, "pos_weight": WEIGHT},
    ),
    *losses("BCEWithLogitsLoss", (X,), SHARES, {"pos_weight": WEIGHT}),
    *losses("KLDivLoss", (X,), PARTS, {}, {"log_target": True}),
    *losses("KLDivLoss", (X,), ZEROS),
    *losses("KLDivLoss", (X, PARTS), None),
    Loss("KLDivLoss", {"reduction": "batchmean"}, (X,), PARTS),
    *losses("PoissonNLLLoss", (X,), POSITIVE, {}, {"full": True}),
    *losses(
        "PoissonNLLLoss",
        (POSITIVE,),
        POSITIVE * 3,
        {"log_input": False},
        {"log_input": False, "full": True, "eps": 0.1},
    ),
    *losses("GaussianNLLLoss", (X, Y, POSITIVE), None, {}, {"full": True}),
    *losses("SoftMarginLoss", (X,), SIGNS),
    *losses("HingeEmbeddingLoss", (X,), SIGNS, {}, {"margin": 0.5}),
    *losses("MarginRankingLoss", (X, Y), SIGNS, {}, {"margin": 0.5}),
    *losses("CosineEmbeddingLoss", (X, Y), ROWS, {}, {"margin": 0.2}),
    *losses("CosineEmbeddingLoss", (X[0], Y[0]), np.array(-1.0)),
    *losses("TripletMarginLoss", (X, Y, X[::-1] + 0.1), None, {}, {"margin": 2.0, "swap": True}, {"p": 1.0}),
    *losses("TripletMarginWithDistanceLoss", (X, Y, X[::-1] + 0.1), None, {}, {"swap": True}),
    *losses("MultiLabelSoftMarginLoss", (X,), ONES, {}, {"weight": WEIGHT}),
    *losses("MultiLabelSoftMarginLoss", (X[0],), ONES[0]),
    *losses("MultiLabelMarginLoss", (X,), LABELS),
    *losses("MultiLabelMarginLoss", (X[0],), LABELS[0]),
    *losses("MultiMarginLoss", (X,), CLASSES, {}, {"p": 2, "margin": 0.5}, {"weight": WEIGHT}),
    *losses("NLLLoss", (X,), CLASSES, {}, {"weight": WEIGHT}, {"ignore_index": 3}),
    *losses("NLLLoss", (X,), IGNORED, {}, {"weight": WEIGHT}),
    *losses("NLLLoss", (IMAGE,), PIXELS, {"dim": 0}, {"dim": 0, "weight": WEIGHT}, peer=image, hidden=("dim",)),
    *losses("CrossEntropyLoss", (X,), CLASSES, {}, {"weight": WEIGHT}, {"ignore_index": 3}, {"label_smoothing": 0.2}),
    *losses(
        "CrossEntropyLoss",
        (X,),
        IGNORED,
        {},
        {"weight": WEIGHT},
        {"label_smoothing": 0.2},
        {"weight": WEIGHT, "label_smoothing": 0.2},
    ),
    *losses("CrossEntropyLoss", (X[0],), np.array(2), {}, {"label_smoothing": 0.1}),
    *losses("CrossEntropyLoss", (X,), PARTS, {}, {"weight": WEIGHT}, {"label_smoothing": 0.2, "weight": WEIGHT}),
    *losses("CrossEntropyLoss", (X, PARTS), None),
    *losses(
        "CrossEntropyLoss",
        (IMAGE,),
        PIXELS,
        {"dim": 0},
        {"dim": 0, "weight": WEIGHT, "ignore_index": 2},
        peer=image,
        hidden=("dim",),
    ),
]


@pytest.mark.parametrize("row", LOSSES, ids=lambda row: row.id)
def test_losses(row: Loss) -> None:
    given = [] if row.target is None else [row.target]
    options = {n: torch.tensor(v) if isinstance(v, np.ndarray) else v for n, v in row.options.items()}
    ours = getattr(nn, row.name)(**row.options)
    theirs = getattr(torch.nn, row.name)(**{n: v for n, v in options.items() if n not in row.hidden})
    with lf.using(dtype="float64"):
        inputs = [lf.Parameter(x) for x in row.inputs]
        tensors = [torch.tensor(np.ascontiguousarray(x), requires_grad=True) for x in row.inputs]
        value = ours(*inputs, *given)
        expected = theirs(*row.peer(*tensors, *(torch.tensor(t) for t in given)))
        compare([value], [expected.reshape(value.shape)])
    for x, tensor in zip(inputs, tensors, strict=True):
        assert_close(dense(x.grad), tensor.grad, TOLERANCE)


@pytest.mark.parametrize("name", ["NLLLoss", "CrossEntropyLoss", "MultiMarginLoss"])
@pytest.mark.parametrize("options", [{}, {"weight": WEIGHT}], ids=["plain", "weighted"])
def test_a_target_may_be_an_expression(name: str, options: dict[str, Any]) -> None:
    loss = getattr(nn, name)(**options)
    x, scores = lf.constant(X), lf.constant(np.eye(4)[CLASSES])
    assert loss(x, lf.argmax(scores, axis=-1)).item() == pytest.approx(loss(x, CLASSES).item(), rel=1e-12)


@pytest.mark.parametrize("blank", [0, 3])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_ctc(reduction: str, blank: int) -> None:
    rng = np.random.default_rng(6)
    spelled = [(np.array(t) + (blank == 0), n) for t, n in (([0, 1, 1], 6), ([2], 1), ([], 3), ([0, 0, 0], 5))]
    with lf.using(dtype="float64"):
        inputs = [lf.Parameter(rng.standard_normal((n, 4))) for _, n in spelled]
        tensors = [torch.tensor(x.numpy(), requires_grad=True) for x in inputs]
        ours, theirs = (kind(blank=blank, reduction=reduction) for kind in (nn.CTCLoss, torch.nn.CTCLoss))
        values = [ours(lf.log_softmax(x), t.astype(int)) for x, (t, _) in zip(inputs, spelled, strict=True)]
        expected = [
            theirs(x.log_softmax(-1), torch.tensor(t.astype(int)), torch.tensor(n), torch.tensor(len(t)))
            for x, (t, n) in zip(tensors, spelled, strict=True)
        ]
        compare(values, expected)
    for x, tensor in zip(inputs, tensors, strict=True):
        assert_close(dense(x.grad), tensor.grad, TOLERANCE)


# Layers with a state, several outputs, or a minibatch


RECURRENT = [
    (name, layers, both, bias, options)
    for name, extra in (("RNN", {"nonlinearity": "relu"}), ("RNN", {}), ("GRU", {}), ("LSTM", {}))
    for layers, both, bias, options in ((1, False, True, extra), (2, True, True, extra), (2, False, False, extra))
]


@pytest.mark.parametrize(("name", "layers", "both", "bias", "options"), RECURRENT)
def test_recurrent_layers(name: str, layers: int, both: bool, bias: bool, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal((t, 4)) for t in (3, 1, 5, 3)]
    with lf.using(dtype="float64"):
        module = scrambled(getattr(nn, name)(4, 3, layers, bidirectional=both, bias=bias, **options))
        twin = twin_of(module, getattr(torch.nn, name)(4, 3, layers, bidirectional=both, bias=bias, **options))
        inputs = [lf.Parameter(x) for x in arrays]
        tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
        values, expected = [], []
        for x, tensor in zip(inputs, tensors, strict=True):
            start = rng.standard_normal((2, layers * (1 + both), 3))
            pairs = list(zip(*start, strict=True)) if name == "LSTM" else list(start[0])
            outputs, finals = module(x, pairs)
            values += [*outputs, *(part for final in finals for part in (final if name == "LSTM" else (final,)))]
            state = torch.tensor(start)
            their_outputs, theirs = twin(tensor, tuple(state) if name == "LSTM" else state[0])
            flat = zip(*theirs, strict=True) if name == "LSTM" else ((h,) for h in theirs)
            expected += [*their_outputs, *(part for final in flat for part in final)]
        compare(values, expected)
    compare_gradients(module, twin, inputs, tensors)


MASK = np.triu(np.ones((4, 4), bool), 1)
ATTENTION = {
    "self": ({}, {}, False),
    "without bias": ({"bias": False}, {}, False),
    "cross": ({}, {}, True),
    "no weights": ({}, {"need_weights": False}, False),
    "by head": ({}, {"average_attn_weights": False}, False),
    "boolean mask": ({}, {"attn_mask": MASK}, False),
    "added mask": ({}, {"attn_mask": RNG.standard_normal((4, 4))}, False),
    "mask by head": ({}, {"attn_mask": RNG.standard_normal((2, 4, 4))}, False),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_multihead_attention(name: str) -> None:
    options, call, cross = ATTENTION[name]
    rng = np.random.default_rng(3)
    lengths = (4, 4) if "attn_mask" in call else (4, 2, 4)
    queries = [rng.standard_normal((t, 6)) for t in lengths]
    others = [rng.standard_normal((2, t + 1, 6)) for t in lengths]
    theirs_call = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in call.items()}
    with lf.using(dtype="float64"):
        module = scrambled(nn.MultiheadAttention(6, 2, **options))
        twin = twin_of(module, torch.nn.MultiheadAttention(6, 2, **options))
        inputs, tensors, values, expected = [], [], [], []
        for query, other in zip(queries, others, strict=True):
            given = [query, *other] if cross else [query]
            ours, theirs = [lf.Parameter(x) for x in given], [torch.tensor(x, requires_grad=True) for x in given]
            inputs, tensors = inputs + ours, tensors + theirs
            found = module(*(ours if cross else ours * 3), **call)
            wanted = twin(*(theirs if cross else theirs * 3), **theirs_call)
            assert (found[1] is None) == (wanted[1] is None)
            values += [v for v in found if v is not None]
            expected += [v for v in wanted if v is not None]
        compare(values, expected)
    compare_gradients(module, twin, inputs, tensors)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("is_causal", [False, True])
def test_transformer_encoder(norm_first: bool, activation: str, is_causal: bool) -> None:
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal((t, 6)) for t in (4, 2, 4)]
    how = {"dropout": 0.0, "activation": activation, "norm_first": norm_first}
    with lf.using(dtype="float64"):
        module = scrambled(nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, **how), 2, nn.LayerNorm(6)))
        layer = torch.nn.TransformerEncoderLayer(6, 2, 8, **how)
        peer = torch.nn.TransformerEncoder(layer, 2, torch.nn.LayerNorm(6), enable_nested_tensor=False)
        twin = twin_of(module, peer).train()  # evaluating, it takes another path, without gradients
        inputs = [lf.Parameter(x) for x in arrays]
        tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
        masks = [torch.triu(torch.full((len(x), len(x)), -torch.inf, dtype=torch.float64), 1) for x in arrays]
        expected = [
            twin(t, mask=m if is_causal else None, is_causal=is_causal) for t, m in zip(tensors, masks, strict=True)
        ]
        compare([module(x, is_causal=is_causal) for x in inputs], expected)
    compare_gradients(module, twin, inputs, tensors)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("masked", ["causal", "masks", "none"])
def test_transformer_decoder(norm_first: bool, masked: str) -> None:
    rng = np.random.default_rng(3)
    pairs = [(rng.standard_normal((t, 6)), rng.standard_normal((s, 6))) for t, s in ((4, 3), (2, 5), (4, 1), (1, 1))]
    how = {"dropout": 0.0, "activation": "gelu", "norm_first": norm_first}
    with lf.using(dtype="float64"):
        module = scrambled(nn.TransformerDecoder(nn.TransformerDecoderLayer(6, 2, 8, **how), 2, nn.LayerNorm(6)))
        layer = torch.nn.TransformerDecoderLayer(6, 2, 8, **how)
        twin = twin_of(module, torch.nn.TransformerDecoder(layer, 2, torch.nn.LayerNorm(6)))
        inputs = [(lf.Parameter(x), lf.Parameter(memory)) for x, memory in pairs]
        tensors = [[torch.tensor(a, requires_grad=True) for a in pair] for pair in pairs]
        values, expected = [], []
        for given, (tgt, memory) in zip(inputs, tensors, strict=True):
            t, s = len(tgt), len(memory)
            causal = torch.triu(torch.full((t, t), -torch.inf, dtype=torch.float64), 1)
            extra = rng.standard_normal((t, s))
            if masked == "masks":
                values.append(module(*given, causal.numpy(), extra))
                expected.append(twin(tgt, memory, causal, torch.tensor(extra)))
            else:
                is_causal = masked == "causal"
                values.append(module(*given, tgt_is_causal=is_causal))
                expected.append(twin(tgt, memory, tgt_mask=causal if is_causal else None))
        compare(values, expected)
    compare_gradients(module, twin, [x for pair in inputs for x in pair], [t for pair in tensors for t in pair])


BAGS = ([3, 1, 3, 4], [2], [0, 0, 5], [5, 5])


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
@pytest.mark.parametrize("padding_idx", [None, 5])
@pytest.mark.parametrize("form", ["bag", "offsets", "matrix"])
def test_embedding_bag(mode: str, padding_idx: int | None, form: str) -> None:
    with lf.using(dtype="float64"):
        module = scrambled(nn.EmbeddingBag(6, 3, mode=mode, padding_idx=padding_idx))
        twin = twin_of(module, torch.nn.EmbeddingBag(6, 3, mode=mode, padding_idx=padding_idx))
        if form == "bag":
            compare([module(bag) for bag in BAGS], [twin(torch.tensor([bag]))[0] for bag in BAGS])
        elif form == "offsets":
            flat, offsets = [i for bag in BAGS for i in bag], [0, 4, 4, 5, 8]  # the second is empty
            compare([module(flat, offsets)], [twin(torch.tensor(flat), torch.tensor(offsets))])
        else:
            matrices = [np.array(BAGS[0]).reshape(2, 2), np.array(BAGS[2:3])]
            compare([module(m) for m in matrices], [twin(torch.tensor(m)) for m in matrices])
    compare_gradients(module, twin, [], [])


def test_weights_in_an_embedding_bag() -> None:
    rng = np.random.default_rng(1)
    with lf.using(dtype="float64"):
        module = scrambled(nn.EmbeddingBag(6, 3, mode="sum", padding_idx=5))
        twin = twin_of(module, torch.nn.EmbeddingBag(6, 3, mode="sum", padding_idx=5))
        weights = [rng.standard_normal(len(bag)) for bag in BAGS]
        inputs = [lf.Parameter(w) for w in weights]
        tensors = [torch.tensor(w, requires_grad=True) for w in weights]
        pairs = zip(BAGS, tensors, strict=True)
        expected = [twin(torch.tensor([bag]), per_sample_weights=w[None])[0] for bag, w in pairs]
        compare([module(bag, None, w) for bag, w in zip(BAGS, inputs, strict=True)], expected)
    compare_gradients(module, twin, inputs[:3], tensors[:3])


NORMS = {
    "vectors": ("BatchNorm1d", [(3,)] * 4, {}),
    "sequences": ("BatchNorm1d", [(3, 5)] * 4, {}),
    "images": ("BatchNorm2d", [(3, 4, 2)] * 4, {}),
    "options": ("BatchNorm1d", [(3,)] * 4, {"eps": 0.1, "momentum": 0.5, "affine": False}),
    "mean of all": ("BatchNorm2d", [(3, 2, 2)] * 2, {"momentum": None}),
    "untracked": ("BatchNorm1d", [(3,)] * 4, {"track_running_stats": False}),
}


@pytest.mark.parametrize("listed", [True, False], ids=["list", "stack"])
@pytest.mark.parametrize("name", NORMS)
def test_batch_norm(name: str, listed: bool) -> None:
    kind, shapes, options = NORMS[name]
    rng = np.random.default_rng(4)
    with lf.using(dtype="float64"):
        module = scrambled(getattr(nn, kind)(3, **options))
        twin = twin_of(module, getattr(torch.nn, kind)(3, **options))
        for training in (True, True, False):
            module.train(training).zero_grad()
            twin.train(training).zero_grad()
            batch = rng.standard_normal((len(shapes), *shapes[0]))
            inputs = [lf.Parameter(x) for x in batch] if listed else [lf.Parameter(batch)]
            tensor = torch.tensor(batch, requires_grad=True)
            values = module(inputs) if listed else [module(inputs[0])]
            expected = twin(tensor)
            compare(values, list(expected) if listed else [expected])
            compare_gradients(module, twin, [], [])
            for x, gradient in zip(inputs, tensor.grad if listed else [tensor.grad], strict=True):
                assert_close(x.grad, gradient, TOLERANCE)
    wanted = twin.state_dict()
    assert list(module.state_dict()) == list(wanted)
    for buffer, array in module.state_dict().items():
        assert_close(array, wanted[buffer], TOLERANCE)


def test_every_layer_that_pytorch_has_too_is_compared() -> None:
    compared = {row.name for row in LAYERS} | {row.name for row in LOSSES} | {"RNN", "GRU", "LSTM", "CTCLoss"}
    compared |= {"MultiheadAttention", "TransformerEncoder", "TransformerEncoderLayer", "BatchNorm1d", "BatchNorm2d"}
    compared |= {"TransformerDecoder", "TransformerDecoderLayer", "EmbeddingBag"}
    elsewhere = {"Embedding", "GRUCell", "LSTMCell", "RNNCell", "Sequential", "ModuleDict", "ModuleList", "Module"}
    shared = {n for n in nn.__all__ if isinstance(getattr(torch.nn, n, None), type)} - elsewhere - {"Parameter"}
    assert shared == compared
