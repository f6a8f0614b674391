"""`fit` on the spirals: it learns them, with the numbers of the same loop in PyTorch."""

import runpy
from pathlib import Path

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import data, optim, train

EXAMPLE = runpy.run_path(str(Path(lf.__file__).parents[1] / "examples" / "lecture" / "keras_fit.py"))


def test_it_learns_the_spirals_and_prints_a_line_for_every_epoch_and_the_history(capsys):
    EXAMPLE["main"]()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 31 and lines[14].startswith("epoch 15/15: loss ")
    assert lines[15].split() == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy"]
    assert float(lines[-1].split()[-1]) > 0.95


@pytest.mark.peer
def test_the_history_and_the_weights_are_those_of_a_loop_in_pytorch():
    torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")
    points, arms = EXAMPLE["spirals"](200, seed=3)
    points = points.astype(np.float64)
    with lf.using(dtype="float64"):
        lf.seed(0)
        model = EXAMPLE["network"]()
        initial = model.state_dict()
        history = train.fit(
            model, lf.cross_entropy, (points, arms), epochs=4, batch_size=32, validation=0.25, seed=5, progress=False,
            optimizer=optim.Adam(model.parameters(), 0.01), metrics={"accuracy": train.Accuracy()},
        )  # fmt: skip

    twin = torch.nn.Sequential(
        torch.nn.Linear(2, 32), torch.nn.Tanh(), torch.nn.Linear(32, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3)
    ).double()
    twin.load_state_dict({name: torch.tensor(array) for name, array in initial.items()})
    optimizer, loss_fn = torch.optim.Adam(twin.parameters(), 0.01), torch.nn.functional.cross_entropy
    x, y = torch.tensor(points), torch.tensor(arms)
    order, expected = data.batches(range(150), 32, shuffle=True, seed=5), []
    for _ in range(4):
        total, right = 0.0, 0
        for batch in order:
            scores = twin(x[batch])
            loss = loss_fn(scores, y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, right = total + loss.item() * len(batch), right + (scores.argmax(1) == y[batch]).sum().item()
        with torch.no_grad():
            scores = twin(x[150:])
        val_right = (scores.argmax(1) == y[150:]).sum().item()
        expected.append((total / 150, right / 150, loss_fn(scores, y[150:]).item(), val_right / 50))
    for column, values in zip(history.values(), zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(column, values, rtol=1e-9)
    for name, array in twin.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[name], array, rtol=1e-9, atol=1e-9)
