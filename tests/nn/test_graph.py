"""Layers over graphs against dense formulas in NumPy, and how many launches a minibatch of graphs takes."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from tests.nn.support import scrambled

# Nodes and edges; of the last a node without edges, one with edges to itself, and two edges between the same nodes.
SIZES = [(3, 4), (1, 0), (5, 9), (2, 1), (4, 4)]


def graphs_of(seed, sizes=SIZES, loops=True):
    rng = np.random.default_rng(seed)
    found = []
    for n, m in sizes:
        edges = rng.integers(0, n, (2, m))
        edges = edges if loops else edges[:, edges[0] != edges[1]]
        found.append((rng.normal(size=(n, 3)), edges, rng.uniform(0.5, 2, edges.shape[1])))
    found.append((rng.normal(size=(4, 3)), np.array([[0, 0, 2, 2], [1, 1, 2, 0]]), rng.uniform(0.5, 2, 4)))
    return found


def adjacency(n, edges, weight=None):
    """Of node i in row i what leads into it."""
    found = np.zeros((n, n))
    np.add.at(found, (edges[1], edges[0]), 1.0 if weight is None else weight)
    return found


def gcn(m, x, edges, weight):
    ones = np.ones(edges.shape[1]) if weight is None else weight
    between = edges[0] != edges[1]
    a = adjacency(len(x), edges[:, between], ones[between])
    own = np.diag(adjacency(len(x), edges, ones)).copy() if weight is not None else np.zeros(len(x))
    a += np.diag(np.where(own == 0, 1.0, own))
    root = a.sum(1) ** -0.5
    return (root[:, None] * a * root) @ x @ m.lin.weight.numpy().T + (0 if m.bias is None else m.bias.numpy())


def linear(layer, x):
    return x @ layer.weight.numpy().T + (0 if layer.bias is None else layer.bias.numpy())


def graph_conv(m, x, edges, weight):
    messages = x[edges[0]] * (1.0 if weight is None else weight[:, None])
    found = np.zeros(x.shape)
    for i in range(len(x)):
        mine = messages[edges[1] == i]
        if len(mine):
            found[i] = {"add": mine.sum, "mean": mine.mean, "max": mine.max}[m.aggr](0)
    return linear(m.lin_rel, found) + linear(m.lin_root, x)


def gin(m, x, edges, weight):
    eps = m.eps if isinstance(m.eps, float) else m.eps.numpy()
    return linear(m.nn[2], np.tanh(linear(m.nn[0], (1 + eps) * x + adjacency(len(x), edges) @ x)))


def gat(m, x, edges, weight):
    n, found = len(x), []
    counts = adjacency(n, edges[:, edges[0] != edges[1]] if m.add_self_loops else edges)
    counts = counts + np.eye(n) if m.add_self_loops else counts
    h = linear(m.lin, x).reshape(n, m.heads, m.out_channels)
    for k in range(m.heads):
        scores = (h[:, k] @ m.att_dst.numpy()[0, k])[:, None] + h[:, k] @ m.att_src.numpy()[0, k]
        weights = counts * np.exp(np.where(scores > 0, scores, m.negative_slope * scores))
        total = weights.sum(1, keepdims=True)
        found.append(weights / np.where(total > 0, total, 1) @ h[:, k])
    y = np.concatenate(found, 1) if m.concat else np.mean(found, 0)
    return y + (0 if m.bias is None else m.bias.numpy())


def network():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


LAYERS = {
    "GCNConv": (lambda: nn.GCNConv(3, 2), gcn, True),
    "GCNConv without bias": (lambda: nn.GCNConv(3, 2, bias=False), gcn, True),
    "GraphConv": (lambda: nn.GraphConv(3, 2), graph_conv, True),
    "GraphConv mean": (lambda: nn.GraphConv(3, 2, aggr="mean", bias=False), graph_conv, True),
    "GraphConv max": (lambda: nn.GraphConv(3, 2, "max"), graph_conv, True),
    "GINConv": (lambda: nn.GINConv(network(), 0.25), gin, False),
    "GINConv trained": (lambda: nn.GINConv(network(), 0.25, train_eps=True), gin, False),
    "GATConv": (lambda: nn.GATConv(3, 2), gat, False),
    "GATConv heads": (lambda: nn.GATConv(3, 2, heads=3, negative_slope=0.1), gat, False),
    "GATConv mean of heads": (lambda: nn.GATConv(3, 2, 3, concat=False, bias=False, add_self_loops=False), gat, False),
}


@pytest.mark.parametrize(("name", "weighted"), [(n, w) for w in (False, True) for n in LAYERS if LAYERS[n][2] or not w])
def test_layers_are_the_dense_formulas(name, weighted):
    make, dense, _ = LAYERS[name]
    with lf.using(dtype="float64"):
        module = scrambled(make())
        graphs = graphs_of(1)
        found = [module(x, e, w) if weighted else module(x, e) for x, e, w in graphs]
        lf.forward(found)
    for y, (x, edges, weight) in zip(found, graphs, strict=True):
        np.testing.assert_allclose(y.numpy(), dense(module, x, edges, weight if weighted else None), rtol=1e-10)


@pytest.mark.host
@pytest.mark.parametrize("name", LAYERS)
def test_gradients(name):
    """As one graph at a time, and numerically of one."""
    make, _, takes_weights = LAYERS[name]
    with lf.using(dtype="float64"):
        module, graphs = scrambled(make()), graphs_of(2)
        extra = [(w,) if takes_weights else () for _, _, w in graphs]

        def run(batching):
            module.zero_grad()
            with lf.using(batching=batching):
                inputs = [lf.Parameter(x) for x, _, _ in graphs]
                pairs = zip(inputs, graphs, extra, strict=True)
                lf.sum([lf.sum(lf.sin(module(x, e, *w))) for x, (_, e, _), w in pairs]).backward()
                return [p.grad for p in (*module.parameters(), *inputs)]

        for a, b in zip(run("phases"), run("none"), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
        x, edges, weight = graphs[2]
        if takes_weights and "max" not in name:
            lf.check_grads(lambda a, w: lf.sum(lf.sin(module(a, edges, w))), argnum=(0, 1), tolerance=1e-5)(x, weight)
        else:
            lf.check_grads(lambda a: lf.sum(lf.sin(module(a, edges))), tolerance=1e-5)(x)


@pytest.mark.parametrize("name", LAYERS)
def test_a_minibatch_of_graphs_takes_the_launches_of_one(name):
    module = scrambled(LAYERS[name][0]())
    rng = np.random.default_rng(5)
    graphs = graphs_of(3, [(int(n), int(m)) for n, m in rng.integers(2, 30, (40, 2))], loops=False)

    def launches(some):
        return lf.explain(lf.sum([lf.sum(lf.mean(module(x, e), axis=0)) for x, e, _ in some])).launches

    assert launches(graphs) <= launches(graphs[:1]) + 3


def test_attention_pooling():
    with lf.using(dtype="float64"):
        pool = scrambled(nn.AttentionPooling(3, 4))
        rows = [np.random.default_rng(n).normal(size=(n, 3)) for n in (1, 4, 2, 6)]

        def dense(x):
            scores = np.exp(np.tanh(linear(pool.lin, x)) @ pool.context.numpy())
            return scores / scores.sum() @ x

        found = [pool(x) for x in rows]
        segments = [np.arange(len(x)) // 2 for x in rows]
        by_segments = [pool(x, s, 4) for x, s in zip(rows, segments, strict=True)]
        lf.forward([*found, *by_segments])
        for y, each, x, s in zip(found, by_segments, rows, segments, strict=True):
            np.testing.assert_allclose(y.numpy(), dense(x), rtol=1e-12)
            want = [dense(x[s == i]) if (s == i).any() else np.zeros(3) for i in range(4)]
            np.testing.assert_allclose(each.numpy(), want, rtol=1e-12)
        assert (pool.lin.weight.shape, pool.context.shape) == ((4, 3), (4,))
        assert nn.AttentionPooling(3).lin.weight.shape == (3, 3), "by default as wide as the rows"
        with pytest.raises(TypeError, match="say n"):
            pool(rows[0], [0])
        with pytest.raises(lf.ShapeError, match=r"rows \(n, 3\), got shape \(3,\)"):
            pool(rows[0][0])


def test_weights_of_edges_are_dropped_while_training():
    layer = nn.GATConv(3, 2, dropout=0.9, stream=lf.Stream(3))
    (x, edges, _) = graphs_of(4)[2]
    dropped, whole = layer(x, edges).numpy(), layer.eval()(x, edges).numpy()
    assert not np.allclose(dropped, whole)
    assert np.array_equal(layer(x, edges).numpy(), whole)


X = np.ones((3, 3), np.float32)


NAMES = {
    "GCNConv": {"lin.weight": (2, 3), "bias": (2,)},
    "GCNConv without bias": {"lin.weight": (2, 3)},
    "GraphConv": {"lin_rel.weight": (2, 3), "lin_rel.bias": (2,), "lin_root.weight": (2, 3)},
    "GraphConv mean": {"lin_rel.weight": (2, 3), "lin_root.weight": (2, 3)},
    "GINConv trained": {
        "eps": (1,), "nn.0.weight": (5, 3), "nn.0.bias": (5,), "nn.2.weight": (2, 5), "nn.2.bias": (2,)
    },
    "GATConv heads": {"lin.weight": (6, 3), "att_src": (1, 3, 2), "att_dst": (1, 3, 2), "bias": (6,)},
    "GATConv mean of heads": {"lin.weight": (6, 3), "att_src": (1, 3, 2), "att_dst": (1, 3, 2)},
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_pytorch_geometric(name):
    assert {n: p.shape for n, p in LAYERS[name][0]().named_parameters()} == NAMES[name]


def test_a_node_whose_weights_sum_to_zero_gets_no_messages():
    """Its degree has no inverse root; in PyTorch Geometric that is 0, too."""
    layer, x = scrambled(nn.GCNConv(3, 2)), lf.Parameter(np.ones((2, 3), np.float32))
    y = layer(x, [[0], [1]], [-1.0])
    np.testing.assert_array_equal(y.numpy()[1], layer.bias.numpy())
    lf.sum(y).backward()
    assert np.isfinite(x.grad).all() and np.isfinite(layer.lin.weight.grad).all() and not x.grad[1].any()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint64"])
def test_edges_are_integers_of_any_kind(name, dtype):
    module = scrambled(LAYERS[name][0]())
    x, edges, _ = graphs_of(6)[2]
    np.testing.assert_array_equal(module(x, edges.astype(dtype)).numpy(), module(x, edges).numpy())


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("none", [[], np.transpose([]), np.zeros((2, 0)), np.zeros((2, 0), np.int32)])
def test_a_graph_without_edges(name, none):
    """A molecule of one atom, whose list of bonds is empty; of several nodes, each is alone."""
    make, dense, _ = LAYERS[name]
    with lf.using(dtype="float64"):
        module = scrambled(make())
        for n in (1, 3):
            x = np.random.default_rng(n).normal(size=(n, 3))
            want = dense(module, x, np.zeros((2, 0), np.int64), None)
            np.testing.assert_allclose(module(x, none).numpy(), want, rtol=1e-10)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    ("x", "edges", "error", "text"),
    [
        (
            X,
            [[0.0, 1.0], [1.0, 2.0]],
            lf.DTypeError,
            r"edge_index must be an integer, got float32; .*astype\('int64'\)",
        ),
        (X, np.ones((2, 1), bool), lf.DTypeError, "edge_index must be an integer, got bool"),
        (
            X[None],
            [[0], [1]],
            lf.ShapeError,
            r"x is the nodes of one graph \(n, 3\), got shape \(1, 3, 3\); there is no batch",
        ),
        (X[0], [[0], [1]], lf.ShapeError, r"x is the nodes of one graph \(n, 3\), got shape \(3,\)$"),
    ],
)
def test_every_layer_refuses(name, x, edges, error, text):
    layer = LAYERS[name][0]()
    with pytest.raises(error, match=f"^{type(layer).__name__}: .*{text}"):
        layer(x, edges)


REFUSED = (
    (lambda: nn.GCNConv(3, 2)(X, [[0, 3], [1, 1]]), IndexError, r"edge_index: index 3 \(element \[0, 1\]\) .* 3 nodes"),
    (lambda: nn.GATConv(3, 2)(X, [[0, 1], [1, -1]]), IndexError, r"index -1 \(element \[1, 1\]\) is out of range"),
    (lambda: nn.GCNConv(3, 2)(X[:1], [[0], [1]]), IndexError, "is out of range for 1 node$"),
    (lambda: nn.GraphConv(3, 2)(X, [[0, 1], [1, 2], [2, 0]]), lf.ShapeError, r"\(2, m\).*\(3, 2\).*np.transpose"),
    (lambda: nn.GraphConv(3, 2)(X, np.zeros((3, 0), int)), lf.ShapeError, r"\(2, m\).*\(3, 0\)"),
    (lambda: nn.GINConv(network())(X, lf.constant([[0], [1]])), TypeError, "not an expression"),
    (lambda: nn.GCNConv(4, 2)(X, [[0], [1]]), lf.ShapeError, r"one graph \(n, 4\), got shape \(3, 3\)$"),
    (lambda: nn.GCNConv(3, 2)(X, [[0], [1]], [1.0, 2.0]), lf.ShapeError, r"must be \(1,\), .*got shape \(2,\)"),
    (lambda: nn.GraphConv(3, 2, aggr="prod"), ValueError, "aggr must be add, mean, max, got 'prod'"),
    (lambda: nn.GINConv(3), TypeError, "nn must be a module or a function, got 3"),
    (lambda: nn.GATConv(3, 2, heads=0), ValueError, "heads must be at least 1, got 0"),
    (lambda: nn.EmbeddingBag(3, 2, mode="prod"), ValueError, "mode must be sum, mean, max, got 'prod'"),
    (lambda: nn.EmbeddingBag(3, 2)([0, 3]), IndexError, "index 3"),
    (lambda: nn.EmbeddingBag(3, 2)([0, 1], [1]), ValueError, "rising from 0 up to 2"),
    (lambda: nn.EmbeddingBag(3, 2)([[0, 1]], [0]), lf.ShapeError, r"got shape \(1, 2\) and offsets"),
    (lambda: nn.EmbeddingBag(3, 2)([0, 1], None, [1.0, 2.0]), ValueError, "are for mode='sum', not 'mean'"),
    (lambda: nn.EmbeddingBag(3, 2)([0.5]), lf.DTypeError, "element of input must be an integer"),
    (lambda: nn.EmbeddingBag(3, 2)([0], [0.5]), lf.DTypeError, "element of offsets must be an integer"),
)


@pytest.mark.parametrize(("call", "error", "text"), REFUSED)
def test_refused(call, error, text):
    with pytest.raises(error, match=text):
        call()
