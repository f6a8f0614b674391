"""Operations by rows: of joined rows each gives what it gives of every value by itself."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.ops.base import OPS
from lazyflow.ops.rows import RULES, by_parts, by_rows
from lazyflow.record.tape import signature_by_id


def launches_of(values, prefix):
    """Of each signature whose name begins so how many launches a forward has."""
    groups = lf.explain(lf.sum([lf.sum(x) for x in values]), groups=100).groups
    return [g.launches for g in groups if g.signature.startswith(prefix)]


# Operations by rows, with values of one example for each.
CASES = {
    "sum": lambda x, m: lf.sum(x, axis=1),
    "mean": lambda x, m: lf.mean(x, axis=-1, keepdims=True),
    "prod": lambda x, m: lf.prod(x, axis=1),
    "max": lambda x, m: lf.max(x, axis=1),
    "min": lambda x, m: lf.min(x, axis=1),
    "any": lambda x, m: lf.any(x > 0, axis=1),
    "all": lambda x, m: lf.all(x > 0, axis=1),
    "argmax": lambda x, m: lf.argmax(x, axis=1),
    "argmin": lambda x, m: lf.argmin(x, axis=1),
    "var": lambda x, m: lf.var(x, axis=1),
    "std": lambda x, m: lf.std(x, axis=1),
    "norm": lambda x, m: lf.norm(x, axis=1),
    "logsumexp": lambda x, m: lf.logsumexp(x, axis=1),
    "softmax": lambda x, m: lf.softmax(x, axis=1),
    "log_softmax": lambda x, m: lf.log_softmax(x, axis=1),
    "sparsemax": lambda x, m: lf.sparsemax(x, axis=1),
    "flip": lambda x, m: lf.flip(x, axis=1),
    "matmul": lambda x, m: x @ m,
    "dot": lambda x, m: x @ m[0],
    "einsum": lambda x, m: lf.einsum("ij,kj->ik", x, m),
    "take": lambda x, m: lf.take(x, np.array([2, 0, 2]), axis=1),
    "pick": lambda x, m: lf.pick(x, 2, axis=1),
    "astype": lambda x, m: x.astype("float32"),
    "one_hot": lambda x, m: lf.one_hot(lf.argmax(x, axis=1), 3),
    "broadcast_to": lambda x, m: lf.broadcast_to(lf.sum(x, axis=1, keepdims=True), (x.shape[0], 4)),
    "concatenate": lambda x, m: lf.concatenate([x, x[:, :1]], axis=1),
    "concatenate_same": lambda x, m: lf.concatenate([x, x * 2, x], axis=-1),
    "getitem": lambda x, m: x[:, 1:],
    "pad": lambda x, m: lf.pad(x, ((0, 0), (1, 2))),
    "swapaxes": lambda x, m: lf.swapaxes(x.reshape(x.shape[0], 1, 3) * 2, 1, 2),
    "transpose": lambda x, m: lf.transpose(x.reshape(x.shape[0], 1, 3) * 2, (0, 2, 1)),
    "affine": lambda x, m: lf.affine(m, m[0], x),
    "nll": lambda x, m: lf.nn.functional.nll_loss(x, np.arange(x.shape[0]) % 3, reduction="none"),
    "cross_entropy": lambda x, m: lf.nn.functional.cross_entropy(x, np.arange(x.shape[0]) % 3, reduction="none"),
}


M = np.random.default_rng(8).normal(size=(3, 3))


# Operations that are others by rows.
OTHERS = {"dot": "matmul", "concatenate_same": "concatenate"}


@pytest.mark.parametrize("name", CASES)
def test_operations(name):
    """Each by rows, with its gradient, as by itself."""
    arrays = [np.random.default_rng(n).normal(size=(n, 3)) for n in (1, 4, 2, 3, 1, 2)]
    table, m = lf.Parameter(np.concatenate(arrays)), lf.constant(M)
    rows = np.split(np.arange(len(table.numpy())), np.cumsum([len(a) for a in arrays])[:-1])

    def recorded():
        return [CASES[name](lf.embedding(table, r) * 1.5, m) for r in rows]

    def run(batching):
        table.grad = None
        with lf.using(batching=batching):
            found = recorded()
            loss = lf.sum([lf.sum(lf.square(x.astype("float64")) + lf.tanh(x.astype("float64"))) for x in found])
            if found[0].requires_grad:
                loss.backward()
            return [x.numpy() for x in found], None if table.grad is None else table.grad.to_dense()

    assert set(launches_of(recorded(), f"rows of {OTHERS.get(name, name)}(")) == {1}
    (found, slopes), (expected, right) = run("phases"), run("none")
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    if right is not None:
        np.testing.assert_allclose(slopes, right, rtol=1e-9, atol=1e-12)


def test_rules_are_of_operations():
    assert set(RULES) <= set(OPS)


# What is no operation by rows, and what has no rows of its own number end to end, of x (4, 3) and a square.
NOT_BY_ROWS = {
    "flip": lambda x, square: lf.flip(x, axis=0),
    "sum": lambda x, square: lf.sum(x, axis=(0, 1), keepdims=True),
    "pad": lambda x, square: lf.pad(x, ((1, 0), (0, 0))),
    "transpose": lambda x, square: lf.transpose(square, (1, 0)),
    "swapaxes": lambda x, square: lf.swapaxes(square, 0, 1),
    "getitem": lambda x, square: x[::2],
    "concatenate": lambda x, square: lf.concatenate([x, x[:2]], axis=0),
    "concatenate_same": lambda x, square: lf.concatenate([x, x], axis=0),
    "broadcast_to": lambda x, square: lf.broadcast_to(x[0], (4, 3)),
    "broadcast_to rows": lambda x, square: lf.broadcast_to(x[:1], (4, 3)),
    "row and column": lambda x, square: lf.einsum("ij,ji->i", x, lf.transpose(x, (1, 0))),
    "one row": lambda x, square: lf.take(x, lf.argmax(x[0])),
    "one loss": lambda x, square: lf.cross_entropy(x, np.arange(4) % 3),
    "vector of a layer": lambda x, square: lf.affine(square, square[0], x[0, :1].reshape(1) + square[0]),
    "no rows": lambda x, square: lf.tanh(x[:0]),
    "a number": lambda x, square: lf.tanh(x[0, 0]),
}
NOT_BY_PARTS = {
    "sum of all, kept": lambda x, square: lf.sum(x, axis=(0, 1), keepdims=True),
    "sum of columns": lambda x, square: lf.sum(x, axis=1),
    "sum of no rows": lambda x, square: lf.sum(x[:0], axis=0),
    "softmax of columns": lambda x, square: lf.softmax(x, axis=1),
    "index of matrices": lambda x, square: lf.scatter(x.reshape(2, 2, 3), np.zeros((2, 2), int), 2),
    "columns": lambda x, square: lf.take(x, np.array([1]), axis=1),
    "one row": lambda x, square: lf.take(x, lf.argmax(x[0])),
    "a draw": lambda x, square: lf.uniform(()),
    "running sums of all": lambda x, square: lf.cumsum(x),
    "running sums of columns": lambda x, square: lf.cumsum(x, axis=1),
    "columns turned round": lambda x, square: lf.flip(x, axis=1),
    "order of columns": lambda x, square: lf.argsort(x, axis=1),
    "pad of columns": lambda x, square: lf.pad(x, ((1, 1), (0, 1))),
    "pad by what is there": lambda x, square: lf.pad(x, ((1, 1), (0, 0)), mode="edge"),
    "pad by nothing": lambda x, square: lf.pad(x, 0),
    "one column": lambda x, square: lf.pick(x, 1),
    "losses by row": lambda x, square: lf.cross_entropy(x, np.arange(4) % 3),
    "losses of elements": lambda x, square: lf.mse(x, x * 2, reduction="none"),
    "columns side by side": lambda x, square: lf.concatenate([x, x], axis=1),
    "stack along columns": lambda x, square: lf.stack([x, x], axis=1),
}


def rule_of(rule, e):
    signature = signature_by_id(e.tape.signatures[e.row])
    shapes = [o.shape for o in signature.operands] if not signature.op.stacked else [signature.operands[0].shape] * 2
    return rule(signature.op, shapes, e.shape, signature.static)


@pytest.mark.parametrize("name", NOT_BY_ROWS)
def test_what_is_no_operation_by_rows(name):
    x, square = (lf.constant(np.ones((n, 3), np.float32)) * 1.0 for n in (4, 3))
    assert rule_of(by_rows, NOT_BY_ROWS[name](x, square)) is None


@pytest.mark.parametrize("name", NOT_BY_PARTS)
def test_what_has_no_rows_of_its_own_number(name):
    x, square = (lf.constant(np.ones((n, 3), np.float32)) * 1.0 for n in (4, 3))
    assert rule_of(by_parts, NOT_BY_PARTS[name](x, square)) is None


def test_the_rules_that_are_asked_answer_where_they_hold():
    x = lf.constant(np.ones((4, 3), np.float32)) * 1.0
    for rule, e in ((by_rows, lf.tanh(x)), (by_rows, lf.sum(x, axis=1)), (by_parts, lf.sum(x, axis=0))):
        assert rule_of(rule, e) is not None
    assert rule_of(by_parts, lf.stack([x, x])).row == (3,), "rows of matrices"
    assert rule_of(by_parts, lf.stack([x[0], x[1]])).row == (3,), "vectors as they are"
