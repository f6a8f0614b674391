"""What is detached stays detached, whatever it is grouped with: random programs beside reverse mode written by hand.

The reference keeps for each value its parents and the products with their Jacobians; a detached value has none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import lazyflow as lf

SIZE = 4


@dataclass
class Value:
    """An array and what its gradient is handed on to."""

    array: np.ndarray
    edges: list[tuple[Value, Any]] = field(default_factory=list)

    def detached(self) -> Value:
        return Value(self.array)


def gradients(root: Value, parameters: list[Value]) -> list[np.ndarray | None]:
    order: list[Value] = []
    seen: set[int] = set()

    def visit(v: Value) -> None:
        if id(v) not in seen:
            seen.add(id(v))
            for parent, _ in v.edges:
                visit(parent)
            order.append(v)

    visit(root)
    found: dict[int, np.ndarray] = {id(root): np.ones_like(root.array)}
    for v in reversed(order):
        if id(v) in found:
            for parent, vjp in v.edges:
                found[id(parent)] = found.get(id(parent), 0) + vjp(found[id(v)])
    return [found.get(id(p)) for p in parameters]


Pair = tuple[Any, Value]  # an expression, and the same by the reference


def product_of(p: Value, q: Value) -> Value:
    return Value(p.array * q.array, [(p, lambda g: g * q.array), (q, lambda g: g * p.array)])


def tanh_of(p: Value) -> Value:
    y = np.tanh(p.array)
    return Value(y, [(p, lambda g: g * (1 - y * y))])


def multiplied(a: Pair, b: Pair) -> Pair:
    return a[0] * b[0], product_of(a[1], b[1])


def through_tanh(a: Pair) -> Pair:
    return lf.tanh(a[0]), tanh_of(a[1])


def summed(pairs: list[Pair]) -> Pair:
    return lf.sum([x for x, _ in pairs]), Value(sum(p.array for _, p in pairs), [(p, lambda g: g) for _, p in pairs])


def averaged(pairs: list[Pair]) -> Pair:
    n = len(pairs)
    return lf.mean([x for x, _ in pairs]), Value(
        sum(p.array for _, p in pairs) / n, [(p, lambda g: g / n) for _, p in pairs]
    )


def _row(i: int, n: int, scale: float) -> Any:
    return lambda g: g * scale * (i + 1)


def _weighted(pairs: list[Pair]) -> Value:
    return Value(sum(p.array * (i + 1) for i, (_, p) in enumerate(pairs)), [
        (p, _row(i, len(pairs), 1.0)) for i, (_, p) in enumerate(pairs)
    ])  # fmt: skip


def stacked(pairs: list[Pair], axis: int) -> Pair:
    n = len(pairs)
    weights = np.arange(1.0, n + 1)
    joined = lf.stack([x for x, _ in pairs], axis)
    return lf.sum(joined * (weights[:, None] if axis == 0 else weights), axis=axis), _weighted(pairs)


def concatenated(pairs: list[Pair], axis: int) -> Pair:
    parts = [x.reshape(2, 2) for x, _ in pairs]
    blocks = lf.split(lf.concatenate(parts, axis), len(pairs), axis)
    return lf.sum([b.reshape(SIZE) * float(i + 1) for i, b in enumerate(blocks)]), _weighted(pairs)


def chosen(mask: np.ndarray, a: Pair, b: Pair) -> Pair:
    (x, p), (y, q) = a, b
    return lf.where(mask, x, y), Value(
        np.where(mask, p.array, q.array), [(p, lambda g: g * mask), (q, lambda g: g * ~mask)]
    )


def swapped(a: Pair, detach_first: bool) -> Pair:
    """The two halves exchanged, one of them detached at times: views of one memory."""
    x, p = a
    first, second = x[:2], x[2:]
    kept = np.ones(SIZE)
    if detach_first:
        first, kept = first.detach(), np.array([0.0, 0.0, 1.0, 1.0])
    return lf.concatenate([second, first]), Value(np.roll(p.array, 2), [(p, lambda g: np.roll(g, -2) * kept)])


@lf.cell
def _in_a_cell(x: Any, y: Any) -> Any:
    z = lf.tanh(x * y)
    return lf.sum([z, x.detach(), y]) + lf.sum(lf.stack([z.detach(), z, y.detach()]), axis=0)


def in_a_cell(a: Pair, b: Pair) -> Pair:
    (x, p), (y, q) = a, b
    z = tanh_of(product_of(p, q))
    value = Value(2 * z.array + z.array + p.array + 2 * q.array, [(z, lambda g: 2 * g), (q, lambda g: g)])
    return _in_a_cell(x, y), value


def not_recorded(a: Pair, b: Pair) -> Pair:
    (x, p), (y, q) = a, b
    with lf.no_grad():
        z = x * y
    return z, Value(p.array * q.array)


def program(rng: np.random.Generator, leaves: list[Pair], steps: int) -> Pair:
    """A random program over vectors; every value may be used again, whole or detached."""
    pool = list(leaves)

    def some(n: int) -> list[Pair]:
        return [pool[i] for i in rng.integers(len(pool), size=n)]

    def several() -> list[Pair]:
        return some(int(rng.integers(2, 5)))

    makers = [
        lambda: multiplied(*some(2)),
        lambda: through_tanh(*some(1)),
        lambda: summed(several()),
        lambda: averaged(several()),
        lambda: stacked(several(), 0),
        lambda: stacked(several(), 1),
        lambda: concatenated(several(), 0),
        lambda: concatenated(several(), 1),
        lambda: chosen(rng.random(SIZE) < 0.5, *some(2)),
        lambda: swapped(*some(1), bool(rng.integers(2))),
        lambda: in_a_cell(*some(2)),
        lambda: not_recorded(*some(2)),
    ]
    for _ in range(steps):
        x, p = makers[int(rng.integers(len(makers)))]()
        if rng.random() < 0.1:
            x.forward()
        if rng.random() < 0.3:
            x, p = x.detach(), p.detached()
        pool.append((x, p))
    x, p = summed([*pool[-4:], *some(2)])
    return lf.sum(x), Value(np.array(p.array.sum()), [(p, lambda g: np.full(SIZE, g))])


OPTIONS = [
    {},
    {"fuse": "off"},
    {"fuse": "numpy", "dedupe": False},
    {"batching": "none"},
    {"batching": "levels"},
    {"batching": "agenda"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("seed", range(25))
def test_random_programs_with_detached_values(seed: int, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=SIZE) * 0.5 for _ in range(4)]
    with lf.using(dtype="float64", **options):
        parameters = [lf.Parameter(a, requires_grad=i != 2) for i, a in enumerate(arrays[:3])]
        known = [Value(a) for a in arrays[:3]]
        leaves = [*zip(parameters, known, strict=True), (lf.constant(arrays[3]), Value(arrays[3]))]
        loss, reference = program(rng, leaves, 14)
        expected = gradients(reference, known[:2])
        np.testing.assert_allclose(loss.numpy(), reference.array, rtol=1e-9, atol=1e-9)
        if not loss.requires_grad:
            assert expected == [None, None]
            return
        loss.backward()
        recorded = lf.gradients(loss, parameters[:2])
        for parameter, gradient, again in zip(parameters, expected, recorded, strict=False):
            found = np.zeros(SIZE) if parameter.grad is None else parameter.grad
            wanted = np.zeros(SIZE) if gradient is None else gradient
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(again.numpy(), wanted, rtol=1e-9, atol=1e-9)
        assert parameters[2].grad is None


def listed(name: str, axis: int) -> Any:
    return lambda parts: getattr(lf, name)(parts, axis)


JOINS = {
    "sum": lf.sum,
    "mean": lf.mean,
    "stack 0": listed("stack", 0),
    "stack 1": listed("stack", 1),
    "concatenate 0": listed("concatenate", 0),
    "concatenate 1": listed("concatenate", 1),
    "numpy.array": lambda parts: lf.numpy.array(parts),
    "numpy.vstack": lambda parts: np.vstack(parts),
    "numpy.hstack": lambda parts: np.hstack(parts),
}


@pytest.mark.parametrize("join", JOINS.values(), ids=JOINS)
@pytest.mark.parametrize("form", ["computed", "view", "parameter", "evaluated"])
def test_a_list_keeps_what_is_detached(join: Any, form: str) -> None:
    """The gradient of a is that of the list without b, in every form that a detached b can have."""
    w, v = lf.Parameter(np.ones((2, 2))), lf.Parameter(np.full((2, 2), 2.0))
    a, b = w * 2, v * 3
    if form == "evaluated":
        b.forward()
    detached = {"computed": b, "view": b.reshape(4)[0:4].reshape(2, 2), "parameter": v, "evaluated": b}[form].detach()
    lf.sum(join([a, detached, b * 0 + 1, detached]) * 1.0).backward()
    count = 4 if join is lf.mean else 1
    np.testing.assert_allclose(w.grad, np.full((2, 2), 2.0 / count))
    np.testing.assert_allclose(v.grad, np.zeros((2, 2)))


@pytest.mark.parametrize("join", JOINS.values(), ids=JOINS)
def test_the_padding_row_is_never_trained(join: Any) -> None:
    table = lf.nn.Embedding(3, 4, padding_idx=0)
    lf.sum(join([table(i).reshape(2, 2) for i in (0, 1, 0, 2, 0)])).backward()
    dense = table.weight.grad.to_dense()
    assert not dense[0].any() and dense[1:].all()


def test_gradients_by_a_detached_value_do_not_go_on_to_what_it_was_detached_from() -> None:
    w = lf.Parameter([1.0, 2.0])
    h = w * 3
    slope = lf.grad(lambda x: lf.sum(x * x))(h.detach())
    lf.sum(slope * w).backward()
    np.testing.assert_allclose(w.grad, [6.0, 12.0])
