"""Learning-rate schedules, against formulas and against PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lazyflow import optim
from lazyflow.errors import CheckpointError
from tests.optim.fake import FakeParameter

Make = Callable[[optim.Optimizer], optim.Schedule]

TABLE: dict[str, tuple[Make, Callable[[int], float], tuple[str, dict[str, Any]]]] = {
    "StepLR": (
        lambda o: optim.StepLR(o, 3, gamma=0.5),
        lambda t: 0.5 ** (t // 3),
        ("StepLR", {"step_size": 3, "gamma": 0.5}),
    ),
    "MultiStepLR": (
        lambda o: optim.MultiStepLR(o, [6, 2], gamma=0.1),
        lambda t: 0.1 ** ((t >= 2) + (t >= 6)),
        ("MultiStepLR", {"milestones": [2, 6], "gamma": 0.1}),
    ),
    "ExponentialLR": (lambda o: optim.ExponentialLR(o, 0.9), lambda t: 0.9**t, ("ExponentialLR", {"gamma": 0.9})),
    "CosineAnnealingLR": (
        lambda o: optim.CosineAnnealingLR(o, 5),
        lambda t: (1 + math.cos(math.pi * t / 5)) / 2,
        ("CosineAnnealingLR", {"T_max": 5}),
    ),
    "LinearWarmup": (
        lambda o: optim.LinearWarmup(o, 4, start_factor=0.2),
        lambda t: min(1.0, 0.2 + 0.8 * t / 4),
        ("LinearLR", {"start_factor": 0.2, "total_iters": 4}),
    ),
    "LambdaLR": (
        lambda o: optim.LambdaLR(o, lambda t: 1 / (1 + t)),
        lambda t: 1 / (1 + t),
        ("LambdaLR", {"lr_lambda": lambda t: 1 / (1 + t)}),
    ),
}
every_schedule = pytest.mark.parametrize("name", TABLE)


def optimizer(*rates: float) -> optim.SGD:
    return optim.SGD([{"params": [FakeParameter(np.ones(2))], "lr": rate} for rate in rates or (0.4, 2.0)])


def rates(schedule: Any, steps: int) -> list[list[float]]:
    seen = [schedule.get_last_lr()]
    for _ in range(steps):
        schedule.step()
        seen.append(schedule.get_last_lr())
    return seen


@every_schedule
def test_the_formula_for_every_group(name: str) -> None:
    make, factor, _ = TABLE[name]
    for time, found in enumerate(rates(make(optimizer()), 12)):
        assert found == pytest.approx([0.4 * factor(time), 2.0 * factor(time)])


@pytest.mark.peer
@every_schedule
def test_pytorch_gives_the_same(name: str) -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")
    make, _, (peer, options) = TABLE[name]
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    schedule = getattr(torch.optim.lr_scheduler, peer)(theirs, **options)
    for (found,) in rates(make(optimizer(0.4)), 12):
        assert found == pytest.approx(schedule.get_last_lr()[0], rel=1e-9, abs=1e-12)
        theirs.step()
        schedule.step()


def test_the_optimizer_uses_the_rate() -> None:
    p = FakeParameter(np.zeros(1))
    p.grad = np.ones(1)
    descent = optim.SGD([p], lr=1.0)
    schedule = optim.ExponentialLR(descent, 0.5)
    for _ in range(3):
        descent.step()
        schedule.step()
    assert p.array.tolist() == [-1.75]


def test_a_minimum_of_the_cosine() -> None:
    schedule = optim.CosineAnnealingLR(optimizer(1.0), 4, eta_min=0.2)
    assert rates(schedule, 4)[2][0] == pytest.approx(0.6)
    assert schedule.get_last_lr()[0] == pytest.approx(0.2)


def test_warmup_by_default_goes_up_in_equal_parts_and_hands_over() -> None:
    descent = optimizer(1.0)
    schedule = optim.LinearWarmup(descent, 3, after=optim.StepLR(descent, 2, gamma=0.5))
    assert [r for (r,) in rates(schedule, 7)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.5, 0.25])


def test_lambdas_of_their_own_for_every_group() -> None:
    schedule = optim.LambdaLR(optimizer(), [lambda t: 1.0, lambda t: 0.0 if t else 1.0])
    assert rates(schedule, 1) == [[0.4, 2.0], [0.4, 0.0]]


PAIRS = [(first, second) for first in TABLE for second in TABLE]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_schedules_of_one_optimizer_multiply(first: str, second: str) -> None:
    """In steps of which no factor is zero, and after they were saved and loaded in between."""
    descent, resumed = optimizer(), optimizer()
    pair = [TABLE[first][0](descent), TABLE[second][0](descent)]
    others = [TABLE[first][0](resumed), TABLE[second][0](resumed)]
    for time in range(1, 5):
        for schedule in pair if time % 2 else others:
            schedule.step()
        factor = TABLE[first][1](time) * TABLE[second][1](time)
        assert (pair if time % 2 else others)[0].get_last_lr() == pytest.approx([0.4 * factor, 2.0 * factor])
        for one, other in zip(pair, others, strict=True):
            (other if time % 2 else one).load_state_dict((one if time % 2 else other).state_dict())


@pytest.mark.parametrize(("first", "second"), [pair for pair in PAIRS if "LambdaLR" not in pair])
def test_schedules_chain_as_in_pytorch(first: str, second: str) -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")
    ours, theirs = optimizer(0.4), torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    pair = [TABLE[name][0](ours) for name in (first, second)]
    peers = [
        getattr(torch.optim.lr_scheduler, TABLE[name][2][0])(theirs, **TABLE[name][2][1]) for name in (first, second)
    ]
    for _ in range(4):
        for schedule in (*pair, *peers):
            schedule.optimizer.step() if schedule in peers else None  # or PyTorch warns
            schedule.step()
        assert pair[0].get_last_lr() == pytest.approx([group["lr"] for group in theirs.param_groups])


def test_a_rate_that_was_set_by_hand_is_gone_on_from() -> None:
    descent = optimizer(0.8, 0.8)
    halving = optim.ExponentialLR(descent, 0.5)
    plateau = optim.ReduceLROnPlateau(descent, factor=0.1, patience=0)
    halving.step()
    descent.param_groups[0]["lr"] = 3.0
    halving.step()
    assert halving.get_last_lr() == [1.5, 0.2]
    for loss in (1.0, 2.0):
        plateau.step(loss)
    halving.step()
    assert halving.get_last_lr() == pytest.approx([0.075, 0.01])


CYCLES: list[dict[str, Any]] = [
    {"step_size_up": 3},
    {"step_size_up": 2, "step_size_down": 4},
    {"step_size_up": 3, "mode": "triangular2"},
    {"step_size_up": 2, "step_size_down": 1, "mode": "exp_range", "gamma": 0.9},
]


@pytest.mark.parametrize("options", CYCLES)
def test_cycles(options: dict[str, Any]) -> None:
    up, gamma = options["step_size_up"], options.get("gamma", 1.0)
    down = options.get("step_size_down", up)
    height = {"triangular2": lambda t: 0.5 ** (t // (up + down)), "exp_range": lambda t: gamma**t}
    for time, found in enumerate(rates(optim.CyclicLR(optimizer(), 0.1, 0.5, **options), 15)):
        share = np.interp(time % (up + down), [0, up, up + down], [0.0, 1.0, 0.0])
        want = 0.1 + 0.4 * share * height.get(options.get("mode", ""), lambda t: 1.0)(time)
        assert found == pytest.approx([want, want])


@pytest.mark.peer
@pytest.mark.parametrize("options", CYCLES)
def test_cycles_of_pytorch(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    schedule = torch.optim.lr_scheduler.CyclicLR(theirs, 0.1, 0.5, cycle_momentum=False, **options)
    for (found,) in rates(optim.CyclicLR(optimizer(0.4), 0.1, 0.5, **options), 15):
        assert found == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        theirs.step()
        schedule.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_lr": -0.1}, "base_lr must be a finite number"),
        ({"max_lr": 0.05}, "max_lr must be a finite number of at least 0.1"),
        ({"step_size_up": 0}, "step_size_up must be an integer"),
        ({"step_size_down": 1.5}, "step_size_down must be an integer"),
        ({"mode": "sine"}, "mode must be"),
        ({"gamma": math.nan}, "gamma must be"),
    ],
)
def test_cycles_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"CyclicLR: {message}"):
        optim.CyclicLR(optimizer(), **{"base_lr": 0.1, "max_lr": 0.5, **options})


def test_cycles_go_on_from_a_checkpoint() -> None:
    first = optim.CyclicLR(optimizer(), 0.1, 0.5, 3)
    rates(first, 4)
    second = optim.CyclicLR(optimizer(), 0.2, 0.6, 2)
    second.load_state_dict(first.state_dict())
    assert rates(second, 5) == rates(first, 5)


# Saving and restoring.


@every_schedule
def test_a_stopped_schedule_resumes(name: str) -> None:
    make = TABLE[name][0]
    whole = rates(make(optimizer()), 9)
    first = make(optimizer())
    rates(first, 4)
    decayed = optimizer(*first.get_last_lr())  # as a resumed optimizer has it
    second = make(decayed)
    second.load_state_dict(first.state_dict())
    assert rates(second, 5) == whole[4:]


def test_a_warmup_saves_what_comes_after() -> None:
    def make() -> optim.Schedule:
        descent = optimizer(1.0)
        return optim.LinearWarmup(descent, 2, after=optim.ExponentialLR(descent, 0.5))

    first, second = make(), make()
    whole = rates(first, 3)
    second.load_state_dict(first.state_dict())
    assert second.get_last_lr() == whole[-1]
    assert rates(second, 2) == rates(first, 2)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"kind": "ExponentialLR"}, "expected the state of StepLR, got that of ExponentialLR"),
        ([1], "expected the state of StepLR, got a list without a kind"),
        ({"kind": "StepLR", "last_epoch": 1, "base_lrs": [0.1], "step_size": 3}, "gamma: missing"),
        (
            {"kind": "StepLR", "last_epoch": "1", "base_lrs": [0.1, 0.1], "step_size": 3, "gamma": 1},
            "last_epoch: expected a number",
        ),
        ({"kind": "StepLR", "last_epoch": 1, "base_lrs": [0.1], "step_size": 3, "gamma": 1}, "base_lrs.1: missing"),
    ],
)
def test_a_state_that_does_not_fit(state: Any, message: str) -> None:
    schedule = optim.StepLR(optimizer(), 3)
    before = schedule.state_dict()
    with pytest.raises(CheckpointError, match=message):
        schedule.load_state_dict(state)
    assert schedule.state_dict() == before


# Plateaus.

LOSSES = [5.0, 4.0, 4.0, 4.0, 4.0, 3.0, float("nan"), 3.0, 3.0, 2.9999, 3.1, 3.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


@pytest.mark.peer
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    "options", [{"patience": 1}, {"patience": 0, "cooldown": 2, "factor": 0.5, "min_lr": 0.05}], ids=str
)
def test_plateaus_as_in_pytorch(mode: str, threshold_mode: str, sign: float, options: dict[str, Any]) -> None:
    """Beside PyTorch on positive metrics: there, a share of a negative one takes what is worse for better."""
    torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    peer = torch.optim.lr_scheduler.ReduceLROnPlateau(
        theirs,
        mode if sign > 0 else {"min": "max", "max": "min"}[mode],
        threshold_mode=threshold_mode,
        threshold=0.01,
        **options,
    )
    ours = optim.ReduceLROnPlateau(optimizer(1.0), mode, threshold_mode=threshold_mode, threshold=0.01, **options)
    for loss in LOSSES:
        peer.step(loss)
        ours.step(sign * loss)
        assert ours.get_last_lr() == pytest.approx(peer.get_last_lr())


def test_a_plateau_by_hand() -> None:
    schedule = optim.ReduceLROnPlateau(optimizer(1.0, 8.0), factor=0.5, patience=1, min_lr=0.4)
    found = []
    for loss in (3.0, 3.0, 3.0, 3.0, 3.0, 1.0, 1.0, 1.0):
        schedule.step(loss)
        found.append(schedule.get_last_lr())
    assert found == [[1.0, 8.0]] * 2 + [[0.5, 4.0]] * 2 + [[0.4, 2.0]] * 3 + [[0.4, 1.0]]


def test_a_plateau_resumes() -> None:
    first, second = (optim.ReduceLROnPlateau(optimizer(1.0), patience=1) for _ in range(2))
    for loss in (3.0, 3.0):
        first.step(loss)
    second.load_state_dict(first.state_dict())
    second.step(3.0)
    assert second.get_last_lr() == pytest.approx([0.1])
    with pytest.raises(CheckpointError, match="best: missing"):
        second.load_state_dict({name: value for name, value in first.state_dict().items() if name != "best"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: optim.StepLR(o, 0), "StepLR: step_size must be an integer of at least 1; got 0"),
        (lambda o: optim.StepLR(o, 1.5), "step_size must be an integer"),
        (lambda o: optim.StepLR(o, 2, gamma=-1), "gamma must be a finite number of at least 0"),
        (lambda o: optim.MultiStepLR(o, [1, -2]), "a milestone must be"),
        (lambda o: optim.ExponentialLR(o, math.nan), "gamma must be"),
        (lambda o: optim.CosineAnnealingLR(o, 0), "T_max must be"),
        (
            lambda o: optim.LinearWarmup(o, 3, start_factor=2.0),
            "start_factor must be a finite number from 0 to 1; got 2.0",
        ),
        (
            lambda o: optim.LinearWarmup(o, 3, after=optim.StepLR(optimizer(), 2)),
            "after must be a schedule of the same optimizer",
        ),
        (lambda o: optim.LambdaLR(o, [abs]), "expected one function or 2, one for each group; got 1"),
        (lambda o: optim.ReduceLROnPlateau(o, "least"), "mode must be 'min' or 'max'"),
        (lambda o: optim.ReduceLROnPlateau(o, factor=1.0), "factor must be a number from 0 to below 1"),
        (lambda o: optim.ReduceLROnPlateau(o, patience=-1), "patience must be"),
    ],
)
def test_options_out_of_range(make: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(optimizer())


def test_a_schedule_needs_an_optimizer() -> None:
    with pytest.raises(TypeError, match="expected an optimizer, got a list"):
        optim.StepLR([FakeParameter(np.ones(1))], 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [-1.0, -1e-300, float("nan"), float("inf"), True, None])
def test_a_checkpoint_has_no_rate_that_no_optimizer_has(rate: Any) -> None:
    schedule = optim.StepLR(optim.SGD([FakeParameter(np.zeros(1))], lr=0.1), 2)
    before = schedule.state_dict()
    with pytest.raises(CheckpointError, match="base_lrs must be a finite number, not below zero"):
        schedule.load_state_dict({**before, "base_lrs": [rate]})
    assert schedule.state_dict() == before
