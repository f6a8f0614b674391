"""Optimizers with the engine: real parameters, real gradients, and checkpoints of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from lazyflow.random import default_stream
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


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 4)
        self.out = nn.Linear(4, 3)

    def loss(self, i: int) -> Any:
        return lf.cross_entropy(self.out(lf.dropout(self.words(i), 0.5)), i % 3)


def run() -> dict[str, Any]:
    lf.seed(1)
    model = Net()
    optimizer = lf.optim.Adam(
        [{"params": model.words.parameters(), "lr": 0.1}, {"params": model.out.parameters()}], weight_decay=0.01
    )
    schedule = lf.optim.CosineAnnealingLR(optimizer, 20)
    order = lf.data.batches(range(20), 3, shuffle=True)
    return {"model": model, "optimizer": optimizer, "schedule": schedule, "batches": order, "noise": default_stream()}


def train(parts: dict[str, Any], stop: int = 0) -> None:
    for step, words in enumerate(parts["batches"], 1):
        parts["optimizer"].zero_grad()
        lf.mean([parts["model"].loss(i) for i in words]).backward()
        parts["optimizer"].step()
        parts["schedule"].step()
        if step == stop:
            return


def test_a_stopped_training_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    whole = run()
    train(whole)
    stopped = run()
    train(stopped, 4)
    lf.save(tmp_path / "run.safetensors", **stopped)
    resumed = run()
    lf.load(tmp_path / "run.safetensors", **resumed)
    train(resumed)
    expected = whole["model"].state_dict()
    for name, value in resumed["model"].state_dict().items():
        np.testing.assert_array_equal(value, expected[name])
    train(stopped)  # after lf.seed(1) for the resumed one, so with other noise
    assert any((value != expected[name]).any() for name, value in stopped["model"].state_dict().items())


def test_a_checkpoint_of_another_model_changes_nothing(tmp_path: Path) -> None:
    parts = run()
    lf.save(tmp_path / "run.safetensors", **parts)
    other = run()
    other["model"].more = nn.Linear(2, 2)
    train(other, 2)
    before = other["model"].state_dict()
    with pytest.raises(lf.CheckpointError, match=r"\n  model.more.weight: missing, expected float32 of shape \(2, 2\)"):
        lf.load(tmp_path / "run.safetensors", **other)
    assert other["optimizer"].state_dict()["state"]["0"]["step"] == 2
    for name, value in other["model"].state_dict().items():
        np.testing.assert_array_equal(value, before[name])
