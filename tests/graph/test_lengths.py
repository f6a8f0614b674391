"""Examples of eight lengths take the launches of one example: every function over values (n, d), and layers."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn

D = 6
LENGTHS = range(1, 9)
rng = np.random.default_rng(0)
TABLE = lf.Parameter(rng.normal(size=(64, D)))
W, B, FILTERS = (lf.Parameter(rng.normal(size=shape)) for shape in ((D, D), (D,), (2, D, 3)))
F = nn.functional


def zeros(x):
    return np.zeros(x.shape[0], int)


FUNCTIONS = {
    "affine": lambda x: lf.affine(W, B, x),
    "matmul": lambda x: x @ W,
    "matmul from the left": lambda x: W @ x.T,
    "matmul with itself": lambda x: x @ x.T,
    "matmul of a vector": lambda x: lf.softmax(x @ B) @ x,
    "outer": lambda x: lf.outer(x[:, 0], B),
    "einsum": lambda x: lf.einsum("ij,kj->ik", x, W),
    "inv": lambda x: lf.inv(x @ x.T + np.eye(x.shape[0])),
    "solve": lambda x: lf.solve(x @ x.T + np.eye(x.shape[0]), x),
    **{
        f"{name} over {axis}": lambda x, name=name, axis=axis: getattr(lf, name)(x, axis=axis)
        for name in (
            "sum",
            "mean",
            "prod",
            "max",
            "min",
            "argmax",
            "argmin",
            "var",
            "std",
            "norm",
            "logsumexp",
            "cumsum",
        )
        for axis in (None, 0, 1)
    },
    **{
        f"{name} over {axis}": lambda x, name=name, axis=axis: getattr(lf, name)(x, axis=axis)
        for name in ("softmax", "log_softmax", "sparsemax", "argsort", "flip")
        for axis in (0, 1)
    },
    "any": lambda x: lf.any(x > 0),
    "all": lambda x: lf.all(x > 0, axis=0),
    "topk": lambda x: lf.topk(x, 1, axis=0)[0],
    "topk of columns": lambda x: lf.topk(x, 2, axis=1)[0],
    "kmax_pool": lambda x: lf.kmax_pool(x, 1, axis=0),
    "take": lambda x: lf.take(x, np.arange(x.shape[0]) // 2),
    "take of columns": lambda x: lf.take(x, [1, 2], axis=1),
    "take_along_axis": lambda x: lf.take_along_axis(x, np.zeros((x.shape[0], 1), int), 1),
    "pick": lambda x: lf.pick(x, 1),
    "one_hot": lambda x: lf.one_hot(lf.argmax(x, axis=1), D),
    "scatter": lambda x: lf.scatter(x, np.arange(x.shape[0]) % 2, 2),
    "concatenate": lambda x: lf.concatenate([x, x * 2]),
    "concatenate with a row": lambda x: lf.concatenate([x, np.ones((1, D))]),
    "concatenate columns": lambda x: lf.concatenate([x, x * 2], axis=1),
    "stack": lambda x: lf.stack([x, x * 2]),
    "stack columns": lambda x: lf.stack([x, x * 2], axis=1),
    "stack rows": lambda x: lf.stack([lf.tanh(row) for row in x]),
    "stack numbers": lambda x: lf.stack([lf.sum(row) for row in x]),
    "split": lambda x: lf.split(x, 2, axis=1)[1],
    "slice": lambda x: x[::-1],
    "column": lambda x: x[:, 1],
    "roll": lambda x: lf.roll(x, 1, axis=0),
    "pad": lambda x: lf.pad(x, ((1, 1), (0, 0))),
    "pad both": lambda x: lf.pad(x, ((1, 1), (2, 0))),
    "norm of absolute values": lambda x: lf.norm(x, ord=1, axis=0),
    "norm of the largest": lambda x: lf.norm(x, ord=float("inf")),
    "variance of many": lambda x: lf.var(lf.concatenate([x, x * 2]), axis=0, ddof=1),
    "sums of two of three axes": lambda x: lf.sum(lf.reshape(x, (x.shape[0], 3, 2)), axis=(0, 1)),
    "deviations of two of three axes": lambda x: lf.std(lf.reshape(x, (x.shape[0], 3, 2)), axis=(0, 1)),
    "places among two of three axes": lambda x: lf.argmax(lf.reshape(x, (x.shape[0], 3, 2))),
    "transpose": lambda x: lf.transpose(x),
    "repeat": lambda x: lf.repeat(x, 2, axis=0),
    "tile": lambda x: lf.tile(x, (2, 1)),
    "triu": lambda x: lf.triu(x),
    "broadcast_to": lambda x: lf.broadcast_to(x, (2, *x.shape)),
    "where": lambda x: lf.where(x > 0, x, 0.0),
    "astype": lambda x: x.astype("float32"),
    "dropout": lambda x: lf.dropout(x, 0.5),
    "dropout of rows": lambda x: lf.dropout(x, 0.5, axis=1),
    **{
        name: lambda x, name=name: x * getattr(lf, name)(*([0.5] if name == "bernoulli" else []), shape=x.shape)
        for name in ("normal", "uniform", "gumbel", "bernoulli")
    },
    "categorical": lambda x: lf.categorical(x),
    "cross_entropy": lambda x: lf.cross_entropy(x, zeros(x)),
    "losses of rows": lambda x: F.nll_loss(x, zeros(x), reduction="none"),
    "mse": lambda x: lf.mse(x, x * 0),
    "conv": lambda x: lf.conv(x.T, FILTERS, padding=1),
    "max_pool": lambda x: lf.max_pool(x.T, 1),
    "sum of a list": lambda x: lf.sum([x, x * 2]),
    "max of a list": lambda x: lf.max([x, x * 2]),
    "vector of rows": lambda x: x + lf.sum(x, axis=0),
    "vmap": lambda x: lf.vmap(lf.tanh)(x),
    "segment_sum": lambda x: lf.segment_sum(x, np.arange(x.shape[0]) // 2, 4),
}


def values(lengths):
    return [lf.tanh(lf.embedding(TABLE, 8 * (n - 1) + np.arange(n)) * 1.5) for n in lengths]


def launches(f, lengths):
    return lf.explain([f(x) for x in values(lengths)], groups=99)


@pytest.mark.host
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    one, many = (launches(FUNCTIONS[name], lengths) for lengths in ([8], LENGTHS))
    assert many.launches <= one.launches + 2, many


def values_and_gradients(f, batching):
    lf.seed(2)
    with lf.using(batching=batching, dtype="float64"):
        found = [f(x) for x in values(LENGTHS)]
        if found[0].requires_grad:
            lf.sum([lf.sum(lf.sin(y)) for y in found]).backward()
        grads = [p.grad for p in (TABLE, W, B, FILTERS)]
        for p in (TABLE, W, B, FILTERS):
            p.zero_grad()
        dense = [g.to_dense() if hasattr(g, "to_dense") else 0 if g is None else g for g in grads]
        return [*[y.numpy() for y in found], *dense]


@pytest.mark.host  # its parameters are made when it is read
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_the_values_and_gradients_of_one_example_at_a_time(name):
    found, expected = (values_and_gradients(FUNCTIONS[name], batching) for batching in ("phases", "none"))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-11)


def layer(make, call=lambda m, x: m(x)):
    return make, call


def last_states(m, x):
    return lf.concatenate([h for h, _ in m(x)[1]])


def masked(m, x):
    """Places see those near by."""
    apart = np.abs(np.subtract.outer(*[np.arange(x.shape[0])] * 2))
    return m(x, x, x, need_weights=False, attn_mask=apart > 2)[0]


LAYERS = {
    "Linear": layer(lambda: nn.Linear(D, 3)),
    "LayerNorm": layer(lambda: nn.LayerNorm(D)),
    "RMSNorm": layer(lambda: nn.RMSNorm(D)),
    "GroupNorm": layer(lambda: nn.GroupNorm(2, D), lambda m, x: m(x.T)),
    "Conv1d": layer(lambda: nn.Conv1d(D, 3, 3, padding=1), lambda m, x: m(x.T)),
    "Conv1d, then the largest": layer(
        lambda: nn.Conv1d(D, 3, 3, padding=1), lambda m, x: lf.max(lf.relu(m(x.T)), axis=1)
    ),
    "AdaptiveAvgPool1d": layer(lambda: nn.AdaptiveAvgPool1d(2), lambda m, x: m(x.T)),
    "Dropout": layer(lambda: nn.Dropout(0.5)),
    "Embedding": layer(lambda: nn.Embedding(9, D), lambda m, x: m(np.arange(x.shape[0]))),
    "EmbeddingBag": layer(lambda: nn.EmbeddingBag(9, D), lambda m, x: m(np.arange(x.shape[0]))),
    "AttentionPooling": layer(lambda: nn.AttentionPooling(D)),
    "MultiheadAttention": layer(lambda: nn.MultiheadAttention(D, 2, dropout=0.1), lambda m, x: m(x, x, x)[0]),
    "TransformerEncoderLayer": layer(lambda: nn.TransformerEncoderLayer(D, 2, 8)),
    "TransformerDecoderLayer": layer(
        lambda: nn.TransformerDecoderLayer(D, 2, 8), lambda m, x: m(x, lf.concatenate([x, x * 2]), tgt_is_causal=True)
    ),
    "attention at once": layer(
        lambda: nn.MultiheadAttention(D, 2), lambda m, x: m(x, x, x, need_weights=False, is_causal=True)[0]
    ),
    "attention to others at once": layer(
        lambda: nn.MultiheadAttention(D, 3),
        lambda m, x: m(x, lf.concatenate([x, x * 2]), lf.concatenate([x * 3, x]), need_weights=False)[0],
    ),
    "scaled_dot_product_attention": layer(
        lambda: nn.Linear(D, D), lambda m, x: F.scaled_dot_product_attention(m(x), x, m(x), is_causal=True)
    ),
    "attention with a mask at once": layer(lambda: nn.MultiheadAttention(D, 2), lambda m, x: masked(m, x)),
    "attention with dropout at once": layer(
        lambda: nn.MultiheadAttention(D, 2, dropout=0.25), lambda m, x: m(x, x, x, need_weights=False)[0]
    ),
    "TransformerEncoderLayer without dropout": layer(lambda: nn.TransformerEncoderLayer(D, 2, 8, dropout=0.0)),
    "TransformerDecoderLayer without dropout": layer(
        lambda: nn.TransformerDecoderLayer(D, 2, 8, dropout=0.0),
        lambda m, x: m(x, lf.concatenate([x, x * 2]), tgt_is_causal=True),
    ),
    "LSTM": layer(lambda: nn.LSTM(D, 3), last_states),
    "BiLSTM": layer(lambda: nn.BiLSTM(D, 3), last_states),
    "outputs of a BiLSTM": layer(lambda: nn.BiLSTM(D, 3), lambda m, x: lf.stack(m(x)[0])),
}
# Of a second length on, these are recorded op by op, not as one node: see `lazyflow.nn.one_node`. Eight lengths then
# take no more than so many.
OP_BY_OP = {
    "MultiheadAttention": 20,
    "TransformerEncoderLayer": 45,
    "TransformerDecoderLayer": 80,
    "attention at once": 10,
    "attention to others at once": 20,
    "attention with a mask at once": 11,
    "attention with dropout at once": 11,
    "TransformerEncoderLayer without dropout": 21,
    "TransformerDecoderLayer without dropout": 40,
}


@pytest.mark.host
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    make, call = LAYERS[name]
    with lf.using(dtype="float64"):
        module = make()
        one, many = (launches(lambda x: call(module, x), lengths) for lengths in ([8], LENGTHS))
    assert many.launches <= OP_BY_OP.get(name, one.launches + 2), many


AT_ONCE = [name for name in LAYERS if "at once" in name or "without dropout" in name]


@pytest.mark.gpu
@pytest.mark.parametrize("name", AT_ONCE)
def test_attention_takes_the_launches_of_the_host_on_a_device(name):
    """And not one for each length."""
    make, call = LAYERS[name]

    def groups(device):
        with lf.using(device=device):
            module, table = make(), nn.Embedding(64, D)
            values = [table(8 * (n - 1) + np.arange(n)) for n in LENGTHS]
            return lf.explain([call(module, x) for x in values for _ in range(2)], groups=999)

    here, there = groups("cpu"), groups("cuda:0")
    assert there.launches <= here.launches
    attentions = [g.launches for g in there.groups if "attention" in g.signature]
    assert attentions == [1] * len(attentions) and 1 <= len(attentions) <= 2


@pytest.mark.host
@pytest.mark.parametrize("name", LAYERS)
def test_layers_have_the_values_and_gradients_of_one_example_at_a_time(name):
    make, call = LAYERS[name]
    with lf.using(dtype="float64"):
        module = make()

        def run(batching):
            lf.seed(2)
            module.zero_grad()
            with lf.using(batching=batching):
                found = [call(module, x) for x in values(LENGTHS)]
                lf.sum([lf.sum(lf.sin(y)) for y in found]).backward()
                sparse = [p.grad for p in module.parameters()]
                return [y.numpy() for y in found], [g.to_dense() if hasattr(g, "to_dense") else g for g in sparse]

        (found, slopes), (expected, right) = run("phases"), run("none")
    for a, b in zip([*found, *slopes], [*expected, *right], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
