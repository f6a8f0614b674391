"""The kernels of whole operations on a device, each counted by itself: one launch forward, and one for its cotangents.

And those of an update, of clipping, and of one level of a recurrence, by kind.
"""

from collections import Counter

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from lazyflow.record.expr import ENGINE
from tests import simcupy
from tests.counted import TreeLSTM, is_simulated

pytestmark = pytest.mark.gpu
CUDA, NODES = "cuda:0", 6


@pytest.fixture(autouse=True)
def simulated():
    if not is_simulated():
        pytest.skip("only the simulator counts: --device simulated")


def kernels(seen):
    """What was launched, without the dtype in the name."""
    ours = {kind.removeprefix("RawKernel "): n for kind, n in seen.kinds.items() if kind.startswith("RawKernel ")}
    return Counter({name.removesuffix("_float"): n for name, n in ours.items()})


def rows_of(weight, k):
    return [weight[i] for i in range(k + 1)]


INDEX = np.array([1, 0, 1])


def read(weight, k):
    return lf.embedding(weight, np.array([k, 2, k]))


def of_length(weight, k):
    return lf.embedding(weight, np.arange(1 + k % 3))


def attended(weight, k, mask=None, p=0.0):
    x = lf.embedding(weight, np.array([k, 2]))
    return nn.functional.scaled_dot_product_attention(x, x, x, mask, p)


def weighed(weight, k):
    x = lf.embedding(weight, np.array([k, 2]))
    return nn.functional.attention.weights_by(x, x, 1, False, True, None, False, None)


# Of `NODES` nodes, the k-th by a weight (8, 5) and a vector (5,): the kernels forward, and backward.
OPERATIONS = {
    "cross_entropy": (lambda w, v, k: lf.cross_entropy(w[k], k % 3), ["cross_entropy"], ["cross_entropy_slopes"]),
    "softmax": (lambda w, v, k: lf.softmax(w[k]), ["along"], ["along"]),
    "log_softmax": (lambda w, v, k: lf.log_softmax(w[k]), ["along"], ["along"]),
    "layer norm": (lambda w, v, k: nn.functional.layer_norm(w[k], (5,), v, v), ["along"], ["along"]),
    "segment sum": (lambda w, v, k: lf.sum(rows_of(w, k)), ["sum_groups"], ["repeat_groups"]),
    "segment mean": (lambda w, v, k: lf.mean(rows_of(w, k)), ["sum_groups"], ["repeat_groups"]),
    "segment sum by an index": (
        lambda w, v, k: lf.segment_sum(read(w, k), INDEX, 2),
        ["sum_segments"],
        ["spread_segments"],
    ),
    "segment mean by an index": (
        lambda w, v, k: lf.segment_mean(read(w, k), INDEX, 2),
        ["sum_segments"],
        ["spread_segments"],
    ),
    **{
        f"{name} by an index": (
            lambda w, v, k, name=name: getattr(lf, name)(read(w, k), INDEX, 2),
            ["along_segments"],
            ["along_segments"],
        )
        for name in ("segment_max", "segment_softmax")
    },
    "softmax of columns": (lambda w, v, k: lf.softmax(read(w, k), axis=0), ["along_segments"], ["along_segments"]),
    **{
        f"{name} of all": (lambda w, v, k, name=name: getattr(lf, name)(w[k] * v), *[["reduce_stretches"]] * 2)
        for name in ("var", "std", "norm", "logsumexp")
    },
    "order": (
        lambda w, v, k: lf.sum(lf.argsort(of_length(w, k), axis=0).astype("float32") * of_length(w, k), axis=0),
        ["order_stretches", "sum_groups"],
        ["repeat_groups", "add_rows_1"],
    ),
    "rows around": (
        lambda w, v, k: lf.sum(lf.pad(of_length(w, k), ((1, 0), (0, 0))), axis=0),
        ["pad_stretches", "sum_groups"],
        ["pad_stretches", "repeat_groups"],
    ),
    **{
        f"{name} of lengths": (
            lambda w, v, k, name=name: getattr(lf, name)(of_length(w, k), axis=0),
            *[["reduce_stretches"]] * 2,
        )
        for name in ("var", "std", "norm", "logsumexp")
    },
    "embedding": (lambda w, v, k: lf.embedding(w, k % 3), [], []),
    "embedding of an array": (lambda w, v, k: lf.embedding(w, np.array([k, 2])), [], []),
    "attention": (lambda w, v, k: attended(w, k), ["attend"], ["attend_back", "attend_back_of_keys"]),
    "attention with a mask": (
        lambda w, v, k: attended(w, k, np.tri(2, dtype=bool)),
        ["attend"],
        ["attend_back", "attend_back_of_keys"],
    ),
    "weights of attention": (
        lambda w, v, k: weighed(w, k),
        ["attention_weights"],
        ["attend_back", "attend_back_of_keys"],
    ),
    "attention with dropout": (
        lambda w, v, k: attended(w, k, p=0.5),
        ["draw", "attend"],
        ["attend_back", "attend_back_of_keys"],
    ),
    "draw": (lambda w, v, k: lf.uniform((5,)) * w[k], ["draw"], []),
    "dropout": (lambda w, v, k: lf.dropout(w[k], 0.5), ["draw"], []),
}


def forward_and_backward(function):
    """What the nodes of a function ask for in the second of two steps, forward and backward; the loss is their sum."""
    with lf.using(device=CUDA):
        parameters = [lf.Parameter(np.full(shape, 0.5, np.float32)) for shape in ((8, 5), (5,))]
        for _ in range(2):
            roots = [function(*parameters, k) for k in range(NODES)]
            with simcupy.counting() as forward:
                ENGINE[0].forward(roots)
            with simcupy.counting() as back:
                lf.mean([lf.sum(root) for root in roots]).backward()
    assert not (forward.syncs or back.syncs)
    return kernels(forward), kernels(back)


# What the loss asks for in addition, and the gradient of the weight, whose rows are read: that of an embedding.
LOSS, ROWS_READ = Counter(fetch=1, sum_groups=2, repeat_groups=1), Counter(sum_groups=1)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_of_many_nodes_is_a_kernel_in_either_direction(name):
    function, forward, back = OPERATIONS[name]
    found, found_back = forward_and_backward(function)
    assert found == Counter(forward)
    assert found_back == LOSS + ROWS_READ + Counter(back)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop", "Adagrad"])
def test_an_update_is_one_launch_and_clipping_two(name, sparse):
    with lf.using(device=CUDA):
        table, layers = nn.Embedding(9, 4, sparse=sparse), [nn.Linear(4, 4) for _ in range(3)]
        parameters = [p for module in (table, *layers) for p in module.parameters()]
        optimizer = getattr(lf.optim, name)(parameters, lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            lf.mean([lf.sum(nn.Sequential(table, *layers)(word)) for word in (1, 2, 1)]).backward()
            with simcupy.counting() as clipped:
                lf.optim.clip_grad_norm(parameters, 0.01)
            with simcupy.counting() as updated:
                optimizer.step()
    assert (kernels(clipped), clipped.launches) == ({"squares": 1, "scaled": 1}, 2)
    assert (kernels(updated), updated.launches) == ({"update": 1}, 1)
    assert clipped.syncs == updated.syncs == 0 and clipped.h2d == updated.h2d == 1


def tree_of(levels, word=0):
    return word % 7 if not levels else (tree_of(levels - 1, 2 * word), tree_of(levels - 1, 2 * word + 1))


def asked_by_trees(levels):
    lf.seed(1)
    with lf.using(device=CUDA):
        model = TreeLSTM()
        for _ in range(2):
            loss = lf.mean([model(tree_of(levels, word), word) for word in (1, 2)])
            with simcupy.counting() as forward:
                loss.forward()
            with simcupy.counting() as back:
                loss.backward()
    return forward.kinds, back.kinds


def test_one_level_more_is_a_gather_a_product_and_a_kernel():
    """And the same three backward."""
    few, many = asked_by_trees(4), asked_by_trees(5)
    forward, back = (dict(more - less) for more, less in zip(many, few, strict=True))
    assert forward == {"RawKernel gather_2_float": 1, "gemm": 1, "RawKernel fused_0": 1}
    assert back == {"RawKernel fused_1": 1, "gemm": 1, "RawKernel add_rows_2_float": 1}
