"""The numbers of every optimizer: against formulas in float64, against PyTorch, and dense against row-sparse."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest

from lazyflow import core, optim
from lazyflow.device import to_device, to_host
from lazyflow.ops.sparse import RowSparse
from lazyflow.optim import base
from tests.optim.cases import CASES, Case, case_id
from tests.optim.fake import FakeParameter, random_rows, rows
from tests.optim.reference import descend

STEPS = 7
every_case = pytest.mark.parametrize("case", CASES, ids=case_id)


def gradients(shape: tuple[int, ...], dtype: Any = np.float64, seed: int = 1) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for _ in range(STEPS)]


def start(shape: tuple[int, ...], dtype: Any = np.float64) -> Any:
    return np.random.default_rng(2).standard_normal(shape).astype(dtype)


def run(case: Case, array: Any, grads: list[Any], **options: Any) -> FakeParameter:
    parameter = FakeParameter(array)
    optimizer = case.make([parameter], **{**case.options, **options})
    for gradient in grads:
        parameter.grad = gradient
        optimizer.step()
    return parameter


@every_case
@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (2, 3, 2), (0, 3)], ids=str)
def test_the_formula_in_float64(case: Case, shape: tuple[int, ...]) -> None:
    grads = gradients(shape)
    expected = descend(case.rule, start(shape), grads, **case.options, **case.extra)
    np.testing.assert_allclose(run(case, start(shape), grads).array, expected, rtol=1e-12, atol=1e-13)


@every_case
def test_float32_keeps_its_dtype_and_the_numbers(case: Case) -> None:
    grads = gradients((6, 4), np.float32)
    parameter = run(case, start((6, 4), np.float32), grads)
    expected = descend(case.rule, start((6, 4), np.float32), grads, **case.options, **case.extra)
    assert parameter.array.dtype == np.float32
    np.testing.assert_allclose(parameter.array, expected, rtol=2e-5, atol=2e-6)


@every_case
def test_float16_is_updated_in_float32(case: Case) -> None:
    grads = [np.full((3,), 1e-4, np.float16)] * 3  # its square is below the smallest float16
    parameter = run(case, start((3,), np.float16), grads)
    expected = descend(case.rule, start((3,), np.float16), grads, **case.options, **case.extra)
    assert parameter.array.dtype == np.float16
    np.testing.assert_allclose(parameter.array, expected, rtol=3e-3, atol=2e-3)


@pytest.mark.peer
@every_case
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pytorch_gives_the_same(case: Case, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")
    grads = gradients((5, 7), dtype)
    theirs = torch.tensor(start((5, 7), dtype), requires_grad=True)
    peer = getattr(torch.optim, case.peer)([theirs], **case.options, **case.peer_extra)
    for gradient in grads:
        theirs.grad = torch.tensor(gradient)
        peer.step()
    tolerance = {"rtol": 3e-6, "atol": 2e-6} if dtype == "float32" else {"rtol": 1e-11, "atol": 1e-12}
    np.testing.assert_allclose(run(case, start((5, 7), dtype), grads).array, theirs.detach().numpy(), **tolerance)


@every_case
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", ["dense", "by columns", "of two layouts", "rows", "of another dtype"])
def test_with_and_without_the_core_the_bits_are_the_same(case: Case, dtype: Any, kind: str) -> None:
    shape = (6, 4)
    grads = gradients(shape, np.float64 if kind == "of another dtype" else dtype)
    array = start(shape, dtype)
    if kind == "rows":
        grads = [random_rows(np.random.default_rng(k), shape, 3, dtype) for k in range(STEPS)]
    elif kind != "dense":
        grads = [np.asfortranarray(g) for g in grads]
        array = array if kind == "of two layouts" else np.asfortranarray(array)
    compiled = run(case, array, grads)
    with mock.patch.object(core, "machine", None):
        by_calls = run(case, array, grads)
    np.testing.assert_array_equal(compiled.array, by_calls.array)


def test_eps_counts_as_in_pytorch_where_gradients_are_tiny() -> None:
    case = next(case for case in CASES if case.make is optim.Adam)
    grads = [gradient * 1e-8 for gradient in gradients((4,))]
    expected = descend("adam", start((4,)), grads, **case.options)
    moved = expected - start((4,))
    np.testing.assert_allclose(run(case, start((4,)), grads).array - start((4,)), moved, rtol=1e-9)


@pytest.mark.gpu
@every_case
@pytest.mark.parametrize("sparse", [True, False])
def test_the_same_on_a_gpu(case: Case, sparse: bool) -> None:
    grads = [*gradients((8, 3))[:2], random_rows(np.random.default_rng(3), (8, 3), 3), gradients((8, 3))[2]]
    expected = run(case, start((8, 3)), grads, sparse=sparse)
    parameter = FakeParameter(start((8, 3)))
    optimizer = case.make([parameter], **case.options, sparse=sparse)
    for step, gradient in enumerate(grads):
        if step == 1:  # the moments follow the parameter there
            parameter.array = to_device(parameter.array, "cuda:0")
        on_device = step >= 1
        parameter.grad = gradient if not on_device else _moved(gradient)
        optim.clip_grad_norm([parameter], 1e6)
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    np.testing.assert_allclose(to_host(parameter.array), expected.array, rtol=1e-12, atol=1e-13)


def _moved(gradient: Any) -> Any:
    return gradient.to("cuda:0") if isinstance(gradient, RowSparse) else to_device(gradient, "cuda:0")


# Blocks and layouts change nothing.


@every_case
@pytest.mark.parametrize("block", [1, 4, 5, 64])
@pytest.mark.parametrize("layout", ["C", "F", "mixed"])
def test_blocks_and_memory_layouts_change_nothing(
    case: Case, block: int, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (5, 3)
    whole = run(case, start(shape), gradients(shape)).array
    grads = [g if layout == "C" else np.asfortranarray(g) for g in gradients(shape)]
    array = np.asfortranarray(start(shape)) if layout == "F" else start(shape)
    monkeypatch.setattr(base, "BLOCK", block)
    np.testing.assert_array_equal(run(case, array, grads).array, whole)


@every_case
@pytest.mark.parametrize("block", [1, 8, 1024])
def test_row_blocks_change_nothing(case: Case, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    grads = [random_rows(rng, (9, 2), 5) for _ in range(STEPS)]
    whole = run(case, start((9, 2)), grads).array
    monkeypatch.setattr(base, "BLOCK", block)
    np.testing.assert_array_equal(run(case, start((9, 2)), grads).array, whole)
    np.testing.assert_array_equal(run(case, np.asfortranarray(start((9, 2))), grads).array, whole)


@every_case
def test_gradients_are_not_changed(case: Case) -> None:
    grads = gradients((4, 3))
    grads[2] = random_rows(np.random.default_rng(5), (4, 3), 2)
    before = [g.values.copy() if isinstance(g, RowSparse) else g.copy() for g in grads]
    run(case, start((4, 3)), grads)
    for gradient, copy in zip(grads, before, strict=True):
        np.testing.assert_array_equal(gradient.values if isinstance(gradient, RowSparse) else gradient, copy)


# Row-sparse gradients.


@every_case
def test_all_rows_touched_is_dense(case: Case) -> None:
    grads = gradients((4, 3))
    dense = run(case, start((4, 3)), grads)
    sparse = run(case, start((4, 3)), [rows(np.arange(4), g, (4, 3)) for g in grads])
    np.testing.assert_array_equal(sparse.array, dense.array)


@every_case
@pytest.mark.parametrize("shape", [(8,), (8, 3), (8, 2, 2)], ids=str)
def test_touched_rows_behave_as_a_small_dense_parameter(case: Case, shape: tuple[int, ...]) -> None:
    """The definition of the lazy update: cut the touched rows out, and you have an ordinary dense parameter."""
    touched = np.array([1, 4, 6])
    grads = gradients((3, *shape[1:]))
    table = run(case, start(shape), [rows(touched, g, shape) for g in grads]).array
    np.testing.assert_array_equal(table[touched], run(case, start(shape)[touched], grads).array)
    untouched = np.setdiff1d(np.arange(8), touched)
    np.testing.assert_array_equal(table[untouched], start(shape)[untouched])


@every_case
def test_sparse_false_is_the_dense_gradient(case: Case) -> None:
    rng = np.random.default_rng(7)
    grads = [random_rows(rng, (8, 3), 3) for _ in range(STEPS)]
    dense = run(case, start((8, 3)), [g.to_dense() for g in grads])
    np.testing.assert_array_equal(run(case, start((8, 3)), grads, sparse=False).array, dense.array)


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.make in (optim.SGD, optim.Adagrad) and not c.options.keys() & {"momentum", "weight_decay"}],
    ids=case_id,
)
def test_where_nothing_decays_sparse_and_dense_agree(case: Case) -> None:
    rng = np.random.default_rng(11)
    grads = [random_rows(rng, (8, 3), 3) for _ in range(STEPS)]
    dense = run(case, start((8, 3)), [g.to_dense() for g in grads])
    np.testing.assert_array_equal(run(case, start((8, 3)), grads).array, dense.array)


def moments(optimizer: optim.Optimizer) -> dict[str, Any]:
    kept: dict[str, Any] = optimizer.state_dict()["state"]["0"]
    return kept


def test_lazy_adam_keeps_the_moments_of_untouched_rows_and_counts_steps_globally() -> None:
    parameter = FakeParameter(np.zeros((3, 1)))
    optimizer = optim.Adam([parameter], lr=0.1)
    parameter.grad = rows([0], [[2.0]], (3, 1))
    optimizer.step()
    first = {name: np.copy(value) for name, value in moments(optimizer).items()}
    for _ in range(9):
        parameter.grad = rows([1], [[1.0]], (3, 1))
        optimizer.step()
    late = moments(optimizer)
    assert late["step"] == 10
    for name in ("exp_avg", "exp_avg_sq"):
        assert late[name][0] == first[name][0] and late[name][2] == 0
    parameter.grad = rows([2], [[5.0]], (3, 1))
    optimizer.step()  # row 2 is touched for the first time, at the parameter's 11th step
    mean, square = 0.1 * 5.0, 0.001 * 25.0
    expected = -0.1 * (mean / (1 - 0.9**11)) / (np.sqrt(square / (1 - 0.999**11)) + 1e-8)
    np.testing.assert_allclose(parameter.array[2, 0], expected, rtol=1e-12)


def test_dense_adam_on_request_moves_rows_without_a_gradient() -> None:
    parameter = FakeParameter(np.zeros((2, 1)))
    optimizer = optim.Adam([parameter], lr=0.1, sparse=False)
    parameter.grad = rows([0], [[2.0]], (2, 1))
    optimizer.step()
    before = parameter.array[0, 0], moments(optimizer)["exp_avg"][0, 0]
    parameter.grad = rows([1], [[2.0]], (2, 1))
    optimizer.step()
    assert parameter.array[0, 0] < before[0]
    assert moments(optimizer)["exp_avg"][0, 0] == pytest.approx(0.9 * before[1])


@pytest.mark.peer
def test_sparse_adam_of_pytorch_up_to_eps() -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")
    rng = np.random.default_rng(13)
    grads = [random_rows(rng, (8, 3), 3) for _ in range(STEPS)]
    theirs = torch.tensor(start((8, 3)), requires_grad=True)
    peer = torch.optim.SparseAdam([theirs], lr=0.05, eps=1e-14)
    for g in grads:
        theirs.grad = torch.sparse_coo_tensor(
            torch.tensor(g.indices)[None], torch.tensor(g.values), (8, 3), check_invariants=True
        )
        peer.step()
    parameter = FakeParameter(start((8, 3)))
    optimizer = optim.Adam([parameter], lr=0.05, eps=1e-14)
    for g in grads:
        parameter.grad = g
        optimizer.step()
    np.testing.assert_allclose(parameter.array, theirs.detach().numpy(), rtol=1e-10)


def test_a_gradient_of_no_rows_counts_as_a_step_and_moves_nothing() -> None:
    parameter = FakeParameter(start((3, 2)))
    optimizer = optim.Adam([parameter])
    parameter.grad = rows([], np.zeros((0, 2)), (3, 2))
    optimizer.step()
    assert moments(optimizer)["step"] == 1
    np.testing.assert_array_equal(parameter.array, start((3, 2)))


def test_amsgrad_divides_by_the_largest_moment_so_far() -> None:
    parameter = FakeParameter(np.zeros(1))
    optimizer = optim.AMSGrad([parameter], lr=0.1, betas=(0.0, 0.0))
    for gradient in (10.0, 1.0):
        parameter.grad = np.array([gradient])
        optimizer.step()
    np.testing.assert_allclose(parameter.array, [-0.1 - 0.01], rtol=1e-9)


def test_centered_rmsprop_survives_a_variance_that_rounds_below_zero() -> None:
    parameter = FakeParameter(np.zeros(1000, np.float32))
    optimizer = optim.RMSprop([parameter], centered=True, alpha=0.0)
    parameter.grad = np.random.default_rng(17).standard_normal(1000).astype(np.float32)
    optimizer.step()
    assert np.isfinite(parameter.array).all()
