"""Optimizers with the engine: real parameters, real gradients, and checkpoints of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lazyflow as lf
from tests.optim.cases import CASES, Case, case_id


def parts() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    table = lf.Parameter(rng.standard_normal((20, 4)), name="table")
    weight = lf.Parameter(rng.standard_normal((3, 4)), name="weight")
    return {"table": table, "weight": weight}


def loss(made: dict[str, Any], words: list[int]) -> Any:
    return lf.sum([lf.cross_entropy(lf.matmul(made["weight"], lf.embedding(made["table"], i)), i % 3) for i in words])


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_loss_falls_and_only_rows_that_were_read_move(case: Case) -> None:
    made = parts()
    start = made["table"].numpy()
    optimizer = case.make(made.values(), **case.options)
    words = [3, 7, 7, 11]
    first = loss(made, words).item()
    for _ in range(30):
        optimizer.zero_grad()
        loss(made, words).backward()
        assert isinstance(made["table"].grad, lf.RowSparse)
        lf.optim.clip_grad_norm(made.values(), 1.0)
        optimizer.step()
    assert loss(made, words).item() < first - 0.01
    moved = (made["table"].numpy() != start).any(axis=1)
    assert np.flatnonzero(moved).tolist() == [3, 7, 11]


def test_a_kept_root_sees_the_update() -> None:
    w = lf.Parameter([1.0, 2.0])
    root = lf.sum(w * w)
    optimizer = lf.optim.SGD([w], lr=0.25)
    root.backward()
    optimizer.step()
    assert root.forward().item() == pytest.approx(0.5**2 + 1.0)


def test_a_stopped_training_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    def run() -> dict[str, Any]:
        made = parts()
        optimizer = lf.optim.Adam([{"params": [made["table"]], "lr": 0.1}, {"params": [made["weight"]]}])
        schedule = lf.optim.CosineAnnealingLR(optimizer, 20)
        order = lf.data.batches(range(20), 3, shuffle=True, seed=3)
        return {"made": made, "optimizer": optimizer, "schedule": schedule, "batches": order}

    def train(state: dict[str, Any], stop: int) -> None:
        for step, words in enumerate(state["batches"], 1):
            state["optimizer"].zero_grad()
            loss(state["made"], words).backward()
            state["optimizer"].step()
            state["schedule"].step()
            if step == stop:
                return

    def saved(state: dict[str, Any]) -> dict[str, Any]:
        arrays = {name: parameter.numpy() for name, parameter in state["made"].items()}
        return {"weights": arrays, **{name: state[name] for name in ("optimizer", "schedule", "batches")}}

    whole, path = run(), tmp_path / "run.safetensors"
    train(whole, 0)
    stopped = run()
    train(stopped, 4)
    lf.save(path, **saved(stopped))

    resumed = run()
    objects = saved(resumed)
    lf.load(path, **objects)
    for name, parameter in resumed["made"].items():
        parameter.assign(objects["weights"][name])
    train(resumed, 0)
    for name, parameter in whole["made"].items():
        np.testing.assert_array_equal(resumed["made"][name].numpy(), parameter.numpy())
