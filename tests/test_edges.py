"""Sequences and sizes at the edge: hooks registered twice, groups that join late, devices of numbers, no elements."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn, optim, settings
from lazyflow.ops import OPS
from lazyflow.optim import schedules
from lazyflow.record.expr import signature_of
from lazyflow.record.tape import INDEX, SCALAR

# Hooks


def test_a_hook_registered_twice_is_removed_once() -> None:
    w = lf.Parameter([1.0])
    calls: list[str] = []

    def double(g: Any) -> Any:
        calls.append("double")
        return 2 * g

    def note(g: Any) -> None:
        calls.append("note")

    first, _, second = w.register_hook(double), w.register_hook(note), w.register_hook(double)
    second.remove()
    second.remove()
    (w * 1).backward()
    assert calls == ["double", "note"]
    np.testing.assert_array_equal(w.grad, [2.0])
    first.remove()
    calls.clear()
    (w * 1).backward()
    assert calls == ["note"]


def test_a_module_hook_registered_twice_is_removed_once() -> None:
    layer = nn.Identity()

    def add_one(module: Any, args: Any) -> Any:
        return (args[0] + 1,)

    handles = [layer.register_forward_pre_hook(add_one) for _ in range(3)]
    for left in (2, 1, 0):
        handles.pop().remove()
        assert layer(0) == left
    assert layer._hooks is None


def test_a_hook_may_remove_itself() -> None:
    w = lf.Parameter([1.0])
    handles: list[Any] = []

    def once(g: Any) -> Any:
        handles.pop().remove()
        return 3 * g

    handles.append(w.register_hook(once))
    w.register_hook(lambda g: 2 * g)
    for expected in (6.0, 8.0):
        (w * 1).backward()
        np.testing.assert_array_equal(w.grad, [expected])


# Schedules

MAKERS: dict[str, tuple[Any, str, tuple[Any, ...]]] = {
    "StepLR": (schedules.StepLR, "StepLR", (2, 0.5)),
    "MultiStepLR": (schedules.MultiStepLR, "MultiStepLR", ([2, 4], 0.5)),
    "ExponentialLR": (schedules.ExponentialLR, "ExponentialLR", (0.5,)),
    "CosineAnnealingLR": (schedules.CosineAnnealingLR, "CosineAnnealingLR", (9, 0.01)),
}


def _optimizer() -> Any:
    return optim.SGD([lf.Parameter([1.0])], lr=0.8)


@pytest.mark.parametrize(("make", "name", "numbers"), MAKERS.values(), ids=MAKERS)
def test_a_group_that_joins_a_schedule_goes_on_from_its_rate(make: Any, name: str, numbers: Any) -> None:
    """The same as PyTorch's recursive formulas, which go from rate to rate."""
    torch = pytest.importorskip("torch")
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.8)
    schedule = getattr(torch.optim.lr_scheduler, name)(theirs, *numbers)
    mine = _optimizer()
    ours = make(mine, *numbers)
    for time in range(6):
        if time == 3:
            mine.add_param_group({"params": [lf.Parameter([1.0])], "lr": 0.3})
            theirs.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.3})
            schedule.base_lrs.append(0.3)
        theirs.step()
        schedule.step()
        ours.step()
        np.testing.assert_allclose(ours.get_last_lr(), [g["lr"] for g in theirs.param_groups], rtol=1e-9)


@pytest.mark.parametrize("stepped", [False, True])
def test_a_schedule_with_a_group_that_joined_is_saved_and_resumed(stepped: bool) -> None:
    def joined() -> tuple[Any, Any]:
        optimizer = _optimizer()
        schedule = schedules.ExponentialLR(optimizer, 0.5)
        return optimizer, schedule

    optimizer, schedule = joined()
    schedule.step()
    optimizer.add_param_group({"params": [lf.Parameter([1.0])], "lr": 0.3})
    if stepped:
        schedule.step()
    state = optimizer.state_dict(), schedule.state_dict()
    other, again = joined()
    other.add_param_group({"params": [lf.Parameter([1.0])], "lr": 0.1})
    other.load_state_dict(state[0])
    again.load_state_dict(state[1])
    assert again.get_last_lr() == schedule.get_last_lr()
    schedule.step()
    again.step()
    assert again.get_last_lr() == schedule.get_last_lr()


def test_groups_join_other_schedules() -> None:
    by_function = _optimizer()
    schedule = schedules.LambdaLR(by_function, lambda time: 1 / (1 + time))
    schedule.step()
    by_function.add_param_group({"params": [lf.Parameter([1.0])], "lr": 0.5})
    schedule.step()
    np.testing.assert_allclose(schedule.get_last_lr(), [0.8 / 3, 1.0 / 3])
    by_functions = _optimizer()
    each = schedules.LambdaLR(by_functions, [lambda time: 1.0])
    by_functions.add_param_group({"params": [lf.Parameter([1.0])]})
    with pytest.raises(ValueError, match="lr_lambdas"):
        each.step()
    plateau = _optimizer()
    reduce = schedules.ReduceLROnPlateau(plateau, patience=0, factor=0.5)
    plateau.add_param_group({"params": [lf.Parameter([1.0])], "lr": 0.4})
    reduce.step(1.0)
    reduce.step(1.0)
    assert reduce.get_last_lr() == [0.4, 0.2]


@pytest.mark.parametrize(("mode", "sign"), [("min", 1.0), ("max", -1.0)])
def test_what_is_worse_is_no_improvement_of_a_negative_metric(mode: str, sign: float) -> None:
    """Better is by a share of the best value's size, whatever its sign."""
    for value, bad in ((-10.0, 1), (-9.5, 1), (-10.5, 1), (-11.5, 0)):
        schedule = schedules.ReduceLROnPlateau(_optimizer(), mode, patience=5, threshold=0.1)
        schedule.step(sign * -10.0)
        schedule.step(sign * value)
        assert schedule.num_bad_epochs == bad


# The signature of numbers alone


def test_operations_of_numbers_alone_know_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    attrs = {"shape": (7,), "dtype": np.dtype(np.float32)}
    here = settings.current()
    types = INDEX, INDEX, SCALAR, SCALAR
    found = []
    for device in ("cpu", "cuda:0", "cpu"):
        monkeypatch.setattr(settings, "current", lambda device=device: replace(here, device=device))
        found.append(signature_of(OPS["uniform"], types, attrs))
    assert [s.type.device for s in found] == ["cpu", "cuda:0", "cpu"]
    assert found[0] is found[2]


# A branch that is a constant


def test_the_gradient_of_a_constant_branch_is_zero() -> None:
    def f(x: Any) -> Any:
        return 0 if x < 0 else x * x * x

    assert lf.grad(f)(-1.0) == 0.0
    assert lf.grad(f)(2.0) == 12.0
    assert lf.grad(lf.grad(f))(-1.0) == 0.0
    assert lf.value_and_grad(lambda x: 0.0)(np.ones(2))[1].tolist() == [0.0, 0.0]
    assert lf.jacobian(lambda x: 1)(np.ones(2)).tolist() == [0.0, 0.0]
    assert lf.vjp(lambda x: 0, 2.0)[1](1.0) == (0.0,)
    assert lf.jvp(lambda x: 1, (2.0,), (1.0,)) == (1.0, 0.0)
    with pytest.raises(lf.GradientError, match="no expression"):
        lf.grad(lambda x: lf.sum(x).item())(np.ones(2))


# States of other libraries


def test_the_state_of_a_torch_module_is_loaded() -> None:
    torch = pytest.importorskip("torch")
    for theirs, ours in (
        (torch.nn.LSTM(2, 3), nn.LSTM(2, 3)),
        (torch.nn.Linear(2, 3), nn.Linear(2, 3)),
        (torch.nn.BatchNorm1d(3), nn.BatchNorm1d(3)),
    ):
        for state in (theirs.state_dict(), {**theirs.state_dict(), **dict(theirs.named_parameters())}):
            ours.load_state_dict(state)
            for name, value in theirs.state_dict().items():
                np.testing.assert_array_equal(ours.state_dict()[name], value.numpy())


def test_lists_of_numbers_are_loaded() -> None:
    layer = nn.Linear(2, 1)
    layer.load_state_dict({"weight": [[1, 2]], "bias": [3.0]})
    np.testing.assert_array_equal(layer([1.0, 1.0]).numpy(), [6.0])
    with pytest.raises(lf.LazyflowError, match="nothing was changed"):
        layer.load_state_dict({"weight": [[1, 2], [3]], "bias": [3.0]})


# No elements

EMPTY: dict[str, tuple[Any, tuple[tuple[int, ...], ...]]] = {
    "W @ x, no rows": (lambda W, x: W @ x, ((0, 3), (3,))),
    "W @ x, no columns": (lambda W, x: W @ x, ((3, 0), (0,))),
    "X @ W, no rows": (lambda x, W: x @ W, ((0, 3), (3, 2))),
    "stacks of none": (lambda a, b: a @ b, ((0, 2, 3), (3, 2))),
    "affine, no outputs": (lambda W, b, x: lf.affine(W, b, x), ((0, 3), (0,), (3,))),
    "affine, no inputs": (lambda W, b, x: lf.affine(W, b, x), ((3, 0), (3,), (0,))),
    "affine of no rows": (lambda W, b, x: lf.affine(W, b, x), ((2, 3), (2,), (0, 3))),
    "sum of a list": (lambda a, b: lf.sum([a, b]), ((0,), (0,))),
    "mean of a list": (lambda a, b: lf.mean([a, b]), ((0, 3), (0, 3))),
    "stack": (lambda a, b: lf.stack([a, b], 1), ((0,), (0,))),
    "concatenate": (lambda a, b: lf.concatenate([a, b]), ((0,), (3,))),
    "add": (lambda a, b: a + b, ((0, 3), (3,))),
    "outer": (lambda a, b: lf.outer(a, b), ((0,), (3,))),
    "dot": (lambda a, b: lf.dot(a, b), ((0,), (0,))),
    "bilinear": (lambda a, w, b: lf.bilinear(a, w, b), ((2,), (0, 2, 3), (3,))),
    "convolution of no channels": (lambda a, w: lf.conv(a, w), ((0, 5), (1, 0, 3))),
    "convolution to no channels": (lambda a, w: lf.conv(a, w), ((2, 5), (0, 2, 3))),
    "sum": (lambda a: lf.sum(a), ((0,),)),
    "rows of a table": (lambda a: lf.embedding(a, np.zeros(0, int)), ((3, 2),)),
    "scatter of no rows": (lambda a: lf.scatter(a, np.zeros(0, int), 3), ((0, 2),)),
    "layer norm": (lambda a: nn.functional.layer_norm(a, 3), ((0, 3),)),
    "losses": (lambda a: lf.cross_entropy(a, np.zeros(0, int), "sum"), ((0, 3),)),
}


@pytest.mark.parametrize("fuse", ["off", "auto"])
@pytest.mark.parametrize("by", ["parameters", "computed", "cell"])
@pytest.mark.parametrize(("f", "shapes"), EMPTY.values(), ids=EMPTY)
def test_no_elements(f: Any, shapes: Any, by: str, fuse: str) -> None:
    """The gradient of each operand has its shape, and is zero or as often one as a sum has it."""
    with lf.using(dtype="float64", fuse=fuse):
        parameters = [lf.Parameter(np.ones(s)) for s in shapes]
        operands = [p * 1 for p in parameters] if by != "parameters" else parameters
        function = lf.cell(f) if by == "cell" else f
        root = lf.sum(lf.sum([function(*operands) for _ in range(3)]))
        root.backward()
    for p in parameters:
        gradient = p.grad.to_dense() if hasattr(p.grad, "to_dense") else p.grad
        assert gradient is None or gradient.shape == p.shape
        assert gradient is None or np.isin(gradient, (0.0, 1.0, 3.0, 0.5, 1.5)).all()


def test_an_empty_sentence() -> None:
    x = np.zeros((0, 4), np.float32)
    for layer in (nn.Linear(4, 3), nn.LayerNorm(4)):
        lf.sum(layer(x)).backward()
        assert all(not p.grad.any() for p in layer.parameters())
    with pytest.raises(lf.ShapeError, match="no elements"):
        nn.MultiheadAttention(4, 2)(x, x, x)
    with pytest.raises(lf.ShapeError, match="no elements"):
        nn.TransformerEncoderLayer(4, 2, 8)(x)
    with pytest.raises(lf.ShapeError, match="empty list"):
        lf.max([])
