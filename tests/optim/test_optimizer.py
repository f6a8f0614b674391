"""What all optimizers share: groups, options, errors, state, extension."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from lazyflow import nn, optim
from lazyflow.errors import CheckpointError
from tests.optim.cases import CASES, Case, case_id
from tests.optim.fake import FakeParameter, random_rows, rows

ALL = [optim.SGD, optim.Adam, optim.AdamW, optim.AMSGrad, optim.Adagrad, optim.Adadelta, optim.RMSprop]
every_case = pytest.mark.parametrize("case", CASES, ids=case_id)


def parameter(value: Any = (1.0, 2.0), gradient: Any = None, name: str = "") -> FakeParameter:
    made = FakeParameter(np.array(value, np.float64), name)
    made.grad = None if gradient is None else np.array(gradient, np.float64)
    return made


# Parameters and groups.


def test_parameters_without_a_gradient_are_left_alone() -> None:
    moved, still = parameter(gradient=(1.0, 1.0)), parameter()
    optimizer = optim.Adam([moved, still], weight_decay=0.1)
    optimizer.step()
    assert (moved.touched, still.touched) == (2, 0)  # before and after the update
    assert still.array.tolist() == [1.0, 2.0]
    assert list(optimizer.state_dict()["state"]) == ["0"]


def test_zero_grad_forgets_all_gradients() -> None:
    both = [parameter(gradient=(1.0, 1.0)), parameter(gradient=(2.0, 2.0))]
    optim.SGD(both).zero_grad()
    assert [p.grad for p in both] == [None, None]


def test_groups_have_options_of_their_own() -> None:
    a, b, c = (parameter(gradient=(1.0, 1.0)) for _ in range(3))
    optimizer = optim.SGD([{"params": [a]}, {"params": iter([b]), "lr": 1.0}], lr=0.1)
    optimizer.add_param_group({"params": c, "lr": 2.0, "weight_decay": 1.0})
    optimizer.step()
    for p, expected in ((a, [0.9, 1.9]), (b, [0.0, 1.0]), (c, [-3.0, -4.0])):
        np.testing.assert_allclose(p.array, expected)


def test_a_generator_of_parameters_is_fine() -> None:
    p = parameter(gradient=(1.0, 1.0))
    optim.SGD((p for _ in range(1)), lr=1.0).step()
    assert p.array.tolist() == [0.0, 1.0]


def test_options_may_change_between_steps() -> None:
    p = parameter(gradient=(1.0, 1.0))
    optimizer = optim.SGD([p], lr=0.5)
    optimizer.step()
    optimizer.param_groups[0].update(lr=0.25, momentum=0.5)
    optimizer.step()  # the buffer starts at zero
    optimizer.step()
    np.testing.assert_allclose(p.array, np.array([1.0, 2.0]) - 0.5 - 0.25 - 0.25 * 1.5)


def test_moments_stay_with_their_parameters_when_the_lists_of_groups_change() -> None:
    def stepped(*steps: str) -> list[list[float]]:
        """One optimizer for each of three parameters, which takes part in these steps."""
        found = []
        for k in range(3):
            alone = optim.SGD([w := parameter([k + 1.0], [k + 1.0])], lr=0.1, momentum=0.9)
            for _ in [some for some in steps if str(k) in some]:
                alone.step()
            found.append(w.array.tolist())
        return found

    params = [parameter([k + 1.0], [k + 1.0]) for k in range(3)]
    optimizer = optim.SGD([{"params": [params[0]]}, {"params": [params[1]]}], lr=0.1, momentum=0.9)

    optimizer.step()
    optimizer.param_groups[0]["params"].insert(0, params[2])
    optimizer.step()
    optimizer.param_groups[0]["params"].remove(params[0])
    state = optimizer.state_dict()
    optimizer.step()
    assert [w.array.tolist() for w in params] == stepped("01", "012", "12")
    assert sorted(state["state"]) == ["0", "1"], "what is saved is of those that are there"
    optimizer.param_groups[1]["params"].append(params[2])
    with pytest.raises(ValueError, match="given twice, at 0 and 2"):
        optimizer.step()


def test_the_state_follows_a_parameter_whose_array_was_replaced() -> None:
    p = parameter(gradient=(1.0, 1.0))
    optimizer = optim.SGD([p], lr=1.0, momentum=0.5)
    optimizer.step()
    p.array = np.zeros(2)
    optimizer.step()
    assert p.array.tolist() == [-1.5, -1.5]


# Errors.


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("params", [[], [{"params": []}], iter(())], ids=["list", "group", "iterator"])
def test_no_parameters(make: Callable[..., optim.Optimizer], params: Any) -> None:
    with pytest.raises(ValueError, match="no parameters to optimize"):
        make(params)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -0.1}, "lr must be a finite number, at least 0; got -0.1"),
        ({"lr": float("nan")}, "lr must be .* got nan"),
        ({"lr": float("inf")}, "lr must be .* got inf"),
        ({"lr": "0.1"}, "lr must be .* got '0.1'"),
        ({"lr": None}, "lr must be .* got None"),
        ({"lr": True}, "lr must be .* got True"),
        ({"weight_decay": -1}, "weight_decay must be"),
        ({"sparse": 1}, "sparse must be True or False; got 1"),
    ],
)
def test_options_of_all_out_of_range(
    make: Callable[..., optim.Optimizer], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make([parameter()], **options)
    with pytest.raises(ValueError, match=message):
        make([{"params": [parameter()], **options}])


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (optim.SGD, {"momentum": -0.1}, "momentum must be"),
        (optim.SGD, {"dampening": float("nan")}, "dampening must be"),
        (optim.SGD, {"nesterov": True}, "nesterov needs momentum > 0 and dampening == 0; got momentum 0.0"),
        (optim.SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov needs"),
        (optim.Adam, {"betas": (0.9, 1.0)}, "betas must be two numbers from 0 to below 1"),
        (optim.Adam, {"betas": 0.9}, "betas must be two"),
        (optim.Adam, {"betas": (0.9,)}, "betas must be two"),
        (optim.Adam, {"eps": -1e-8}, "eps must be"),
        (optim.Adagrad, {"lr_decay": -1}, "lr_decay must be"),
        (optim.Adagrad, {"initial_accumulator_value": -1}, "initial_accumulator_value must be"),
        (optim.Adadelta, {"rho": 1.0}, "rho must be"),
        (optim.RMSprop, {"alpha": -0.1}, "alpha must be"),
        (optim.RMSprop, {"centered": "no"}, "centered must be"),
    ],
)
def test_options_of_one_out_of_range(
    make: Callable[..., optim.Optimizer], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make([parameter()], **options)


def test_unknown_options() -> None:
    with pytest.raises(TypeError, match=r"a group of Adam has no option 'learning_rate'; there are lr, .*betas"):
        optim.Adam([{"params": [parameter()], "learning_rate": 0.1}])
    optimizer = optim.Adam([parameter(gradient=(1.0, 1.0))])
    optimizer.param_groups[0]["momentum"] = 0.9
    with pytest.raises(TypeError, match="no option 'momentum'"):
        optimizer.step()


def test_an_option_changed_to_nonsense_stops_the_step_before_anything_moves() -> None:
    p, q = parameter(gradient=(1.0, 1.0)), parameter(gradient=(1.0, 1.0))
    optimizer = optim.SGD([{"params": [p]}, {"params": [q]}])
    optimizer.param_groups[1]["lr"] = float("nan")
    with pytest.raises(ValueError, match=r"lr must be .* got nan"):
        optimizer.step()
    assert p.array.tolist() == q.array.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda p, q: optim.SGD([p, q, p]),
        lambda p, q: optim.SGD([{"params": [p, q, p]}]),
        lambda p, q: optim.SGD([{"params": [p, q]}, {"params": [p]}]),
        lambda p, q: optim.SGD([p, q]).add_param_group({"params": [p]}),
    ],
    ids=["list", "group", "groups", "later"],
)
def test_a_parameter_given_twice(make: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="given twice, at 0 and 2"):
        make(parameter(), parameter())


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (parameter(), r"expected a list .* write \[parameter\]"),
        ({"w": parameter()}, "expected a list of parameters or of groups, got a dict"),
        (nn.Linear(2, 2), r"got a Linear; write \.parameters\(\)"),
        ([type("Parameter", (), {})()], r"must be a Parameter, got a [\w.]+\.Parameter"),
        ([np.zeros(3)], "entry 0 of the parameters must be a Parameter, got a ndarray"),
        ([parameter(), "w"], "entry 1 of the parameters must be a Parameter, got a str"),
    ],
    ids=["one", "dict", "module", "another Parameter", "array", "string"],
)
def test_what_is_no_list_of_parameters(params: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        optim.SGD(params)


def test_a_group_without_params() -> None:
    with pytest.raises(ValueError, match="a group of parameters needs an entry 'params'; got lr"):
        optim.SGD([{"lr": 0.1}])


def test_a_gradient_of_another_shape() -> None:
    p = parameter(gradient=(1.0, 1.0, 1.0), name="w")
    with pytest.raises(ValueError, match=r"parameter 0 w has shape \(2,\), its gradient \(3,\)"):
        optim.SGD([p]).step()


# State.


def trained(
    case: Case, steps: int, state: Mapping[str, Any] | None = None, p: FakeParameter | None = None
) -> tuple[Any, ...]:
    p = FakeParameter(np.linspace(-1, 1, 12).reshape(4, 3), "w") if p is None else p
    optimizer = case.make([p, FakeParameter(np.ones(2), "unused")], **case.options)
    if state is not None:
        optimizer.load_state_dict(state)
    for step in range(steps):
        p.grad = (
            random_rows(np.random.default_rng(step), (4, 3), 2)
            if step % 2
            else np.sin(np.arange(12.0) + step).reshape(4, 3)
        )
        optimizer.step()
    return p, optimizer


@every_case
def test_a_stopped_run_resumes_to_the_same_numbers(case: Case) -> None:
    whole, optimizer = trained(case, 3)
    copy = FakeParameter(whole.array, "w")
    state = optimizer.state_dict()
    resumed, other = trained(case, 0, state, copy)
    for step in range(4):
        for p, o in ((whole, optimizer), (resumed, other)):
            p.grad = random_rows(np.random.default_rng(step), (4, 3), 2)
            o.step()
    np.testing.assert_array_equal(resumed.array, whole.array)


def test_a_loaded_state_is_a_copy_and_brings_its_options() -> None:
    _, optimizer = trained(CASES[2], 2)
    state = optimizer.state_dict()
    p = FakeParameter(np.zeros((4, 3)), "w")
    other = optim.SGD([p, FakeParameter(np.ones(2))], lr=7.0)
    other.load_state_dict(state)
    assert other.param_groups[0]["lr"] == 0.1 and other.param_groups[0]["momentum"] == 0.9
    before = state["state"]["0"]["momentum_buffer"].copy()
    p.grad = np.ones((4, 3))
    other.step()
    np.testing.assert_array_equal(state["state"]["0"]["momentum_buffer"], before)


def test_betas_stay_a_tuple_and_numbers_plain() -> None:
    optimizer = optim.Adam([parameter()], lr=np.float32(0.5), betas=(np.float64(0.5), 0.9))
    state = optimizer.state_dict()
    assert state["param_groups"][0]["betas"] == [0.5, 0.9] and type(state["param_groups"][0]["lr"]) is float
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.9)


def broken(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    _, optimizer = trained(CASES[5], 2)
    state = optimizer.state_dict()
    state = {
        **state,
        "param_groups": [dict(g) for g in state["param_groups"]],
        "state": {"0": dict(state["state"]["0"])},
    }
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (lambda s: s.update(kind="SGD"), ["expected the state of Adam, got that of SGD"]),
        (lambda s: s.pop("param_groups"), ["expected the entries 'param_groups', a list, and 'state', a dict"]),
        (lambda s: s["param_groups"].append({}), ["param_groups: expected 1, got 2"]),
        (lambda s: s["param_groups"].__setitem__(0, 3), ["param_groups.0: expected a dict with a list 'params'"]),
        (lambda s: s["param_groups"][0].pop("eps"), ["param_groups.0.eps: missing, expected 0.1"]),
        (lambda s: s["param_groups"][0].update(lr=-1.0), ["param_groups.0: Adam: lr must be a finite number"]),
        (lambda s: s["param_groups"][0].update(params=[]), ["param_groups.0.params: expected 2 parameters, got 0"]),
        (
            lambda s: s["param_groups"][0].update(
                momentum=0.1, params=[{"name": "v", "shape": [4, 3]}, {"name": "", "shape": [3]}]
            ),
            [
                "param_groups.0.momentum: not expected, got 0.1",
                "param_groups.0.params.0: expected the parameter 'w', got 'v'",
                "param_groups.0.params.1 unused: expected shape (2,), got [3]",
            ],
        ),
        (
            lambda s: s["state"]["0"].update(
                exp_avg=np.zeros((3, 4)), exp_avg_sq=np.zeros((4, 3), np.float32), step="1"
            ),
            [
                "state.0.step: expected a number, got '1'",
                "state.0.exp_avg: expected shape (4, 3), got (3, 4)",
                "state.0.exp_avg_sq: expected dtype float64, got float32",
            ],
        ),
        (lambda s: s["state"]["0"].pop("exp_avg"), ["state.0.exp_avg: missing, expected float64 of shape (4, 3)"]),
        (lambda s: s["state"].update({"2": {}}), ["state.2: not expected, there are 2 parameters"]),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change: Callable[[dict[str, Any]], None], lines: list[str]) -> None:
    _, optimizer = trained(CASES[6], 1)
    before = optimizer.state_dict()
    moments = {name: np.copy(value) for name, value in before["state"]["0"].items()}
    with pytest.raises(CheckpointError) as caught:
        optimizer.load_state_dict(broken(change))
    for line in lines:
        assert line in str(caught.value)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for name, value in moments.items():
        np.testing.assert_array_equal(after["state"]["0"][name], value)


# Extension: a new optimizer is two methods.


class Lion(optim.Optimizer):
    defaults: ClassVar[Mapping[str, Any]] = {"betas": (0.9, 0.99)}

    def init_single(self, parameter: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"mean": np.zeros_like(parameter)}

    def apply_single(self, gradient: Any, parameter: Any, state: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        (one, two), mean = options["betas"], state["mean"]
        parameter -= options["lr"] * np.sign(one * mean + (1 - one) * gradient)
        mean *= two
        mean += (1 - two) * gradient


def test_two_methods_make_an_optimizer() -> None:
    p = parameter(gradient=(1.0, -3.0))
    optimizer = Lion([p], lr=0.5)
    optimizer.step()
    assert p.array.tolist() == [0.5, 2.5]
    np.testing.assert_allclose(optimizer.state_dict()["state"]["0"]["mean"], [0.01, -0.03])
    p.grad = rows([1], [4.0], (2,))
    optimizer.step()
    assert p.array.tolist() == [0.5, 2.0]
    with pytest.raises(ValueError, match="Lion: betas"):
        Lion([parameter()], betas=(2, 2))
    with pytest.raises(TypeError, match="Lion has no option 'momentum'; there are lr, weight_decay, sparse, betas"):
        Lion([parameter()], momentum=0.9)


class Normalized(optim.Optimizer):
    elementwise = False

    def init_single(self, parameter: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"norms": np.zeros(3)}

    def apply_single(self, gradient: Any, parameter: Any, state: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        state["norms"][0] = np.linalg.norm(gradient)
        parameter -= options["lr"] * gradient / state["norms"][0]


def test_an_optimizer_that_sees_whole_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim.base, "BLOCK", 1)
    p = parameter(gradient=(3.0, 4.0))
    optimizer = Normalized([p], lr=1.0)
    optimizer.step()
    np.testing.assert_allclose(p.array, [0.4, 1.2])
    p.grad = rows([1], [2.0], (2,))
    optimizer.step()
    np.testing.assert_allclose(p.array, [0.4, 0.2])
    assert optimizer.state_dict()["state"]["0"]["norms"].shape == (3,)


def test_a_state_of_other_shapes_needs_whole_parameters() -> None:
    class Wrong(Normalized):
        elementwise = True

    with pytest.raises(
        ValueError, match=r"Wrong.init_single: 'norms' has shape \(3,\), the parameter \(2,\); set elementwise = False"
    ):
        Wrong([parameter(gradient=(1.0, 1.0))]).step()


def test_an_optimizer_without_a_rule() -> None:
    with pytest.raises(NotImplementedError, match="Optimizer needs a method apply_single"):
        optim.Optimizer([parameter(gradient=(1.0, 1.0))]).step()


# What a step prepares.


def test_formulas_and_numbers_are_made_once_for_all_that_have_taken_as_many_steps() -> None:
    asked: list[tuple[float, int]] = []

    class Asked(optim.Adam):
        def numbers(self, options: Any, step: int) -> dict[str, float]:
            asked.append((options["lr"], step))
            return super().numbers(options, step)

    params = [parameter(gradient=(1.0, -1.0)) for _ in range(4)]
    late = params[3]
    late.grad = None
    optimizer = Asked([{"params": params[:2], "lr": 0.1}, {"params": params[2:], "lr": 0.2}])
    optimizer.step()
    late.grad = np.array([1.0, -1.0])
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.3
    optimizer.step()
    assert asked == [(0.1, 1), (0.2, 1), (0.1, 2), (0.2, 2), (0.2, 1), (0.3, 3), (0.2, 3), (0.2, 2)]
    for p, rates in ((params[1], (0.1, 0.1, 0.3)), (params[2], (0.2, 0.2, 0.2)), (late, (0.2, 0.2))):
        alone = optim.Adam([q := parameter(gradient=(1.0, -1.0))])
        for lr in rates:
            alone.param_groups[0]["lr"] = lr
            alone.step()
        np.testing.assert_array_equal(p.array, q.array)


def test_a_step_keeps_no_reference_to_an_array() -> None:
    p = parameter(gradient=(1.0, 1.0))
    optimizer = optim.SGD([p], lr=1.0)
    optimizer.step()
    array, gradient = weakref.ref(p.array), weakref.ref(p.grad)
    p.array, p.grad = np.zeros(2, np.float32), np.ones(2, np.float32)
    assert array() is None and gradient() is None
    optimizer.step()  # in another dtype
    assert p.array.tolist() == [-1.0, -1.0] and p.array.dtype == np.float32


def test_an_array_that_may_not_be_written_is_not() -> None:
    p = parameter(gradient=(1.0, 1.0))
    p.array.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        optim.SGD([p], lr=1.0).step()
    assert p.array.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_gradients_may_change_their_kind_between_steps(kind: str) -> None:
    p = FakeParameter(np.ones((3, 2)))
    optimizer = optim.SGD([p], lr=1.0, momentum=0.5)
    dense, sparse = np.ones((3, 2)), rows(np.arange(3), np.ones((3, 2)), (3, 2))
    for k in range(3):
        p.grad = dense if (kind == "dense") == (k % 2 == 0) else sparse
        optimizer.step()
    np.testing.assert_array_equal(p.array, np.full((3, 2), 1.0 - 1.0 - 1.5 - 1.75))


# The pure form.


@every_case
def test_the_pure_form_gives_the_same_and_changes_nothing(case: Case) -> None:
    p, q = parameter(), parameter((3.0, 4.0, 5.0))
    optimizer = case.make([p, q], **case.options)
    init, update = optim.functional(case.make, **case.options)
    arrays: Mapping[str, Any] = {"p": p.array.copy(), "q": q.array.copy()}
    state = init(arrays)
    history = [(arrays, state)]
    for step in range(3):
        p.grad = np.array([1.0, -2.0]) + step
        q.grad = rows([0, 2], [1.0, step], (3,)) if step else None
        arrays, state = update({"p": p.grad, "q": q.grad}, arrays, state)
        optimizer.step()
        history.append((arrays, state))
    np.testing.assert_array_equal(arrays["p"], p.array)
    np.testing.assert_array_equal(arrays["q"], q.array)
    assert [(s["p"]["step"], s["q"]["step"]) for _, s in history] == [(0, 0), (1, 0), (2, 1), (3, 2)]
    again = update({"p": np.array([1.0, -2.0])}, *history[0])
    np.testing.assert_array_equal(again[0]["p"], history[1][0]["p"])
