"""The lecture's Ignite programs beside the same programs in Ignite: same digits, same weights, same lines."""

import gzip
import runpy
from pathlib import Path

import numpy as np
import pytest

import lazyflow as lf
from tests.train.peer import ignite

EXAMPLE = runpy.run_path(str(Path(lf.__file__).parents[1] / "examples" / "lecture" / "ignite.py"))
BATCHES = [EXAMPLE["drawn"](32, seed) for seed in range(6)]
HELD_OUT = [EXAMPLE["drawn"](50, seed) for seed in (10, 11)]


def float64(batches):
    return [[(image.astype(np.float64), digit) for image, digit in batch] for batch in batches]


def as_tensors(torch, batches):
    return [tuple(torch.tensor(np.array(column)) for column in zip(*batch, strict=True)) for batch in batches]


def twin(torch, model):
    """The model in PyTorch, with our weights."""

    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.output = torch.nn.Linear(64, 32), torch.nn.Linear(32, 10)

        def forward(self, images):
            return torch.nn.functional.log_softmax(self.output(torch.relu(self.hidden(images))), dim=1)

    other = Twin().double()
    other.load_state_dict({name: torch.tensor(array) for name, array in model.state_dict().items()})
    return other


def their_lines(torch, ignite, model, train_loader, val_loader, *, lr, momentum, epochs):
    """The lecture's first program as it stands there, and what it writes."""
    loss = torch.nn.functional.nll_loss
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    trainer = ignite.engine.create_supervised_trainer(model, optimizer, loss)
    evaluator = ignite.engine.create_supervised_evaluator(
        model, metrics={"accuracy": ignite.metrics.Accuracy(), "nll": ignite.metrics.Loss(loss)}
    )
    lines = []

    @trainer.on(ignite.engine.Events.EPOCH_COMPLETED)
    def log_validation_results(engine):
        evaluator.run(val_loader)
        found = evaluator.state.metrics
        lines.append(
            f"Val - Epoch: {engine.state.epoch} Avg accuracy: {found['accuracy']:.2f} Avg loss: {found['nll']:.2f}"
        )

    trainer.run(train_loader, max_epochs=epochs)
    return lines


def assert_same_weights(model, other):
    for name, array in other.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[name], array, rtol=1e-9, atol=1e-9)


@pytest.mark.peer
def test_the_trainer_and_the_evaluator_give_the_numbers_of_ignite(capsys):
    torch, peer = ignite()
    with lf.using(dtype="float64"):
        lf.seed(0)
        model = EXAMPLE["Classifier"]()
        other = twin(torch, model)
        options = {"lr": 0.1, "momentum": 0.5, "epochs": 4}
        EXAMPLE["train_and_validate"](model, float64(BATCHES), float64(HELD_OUT), **options)
    lines = their_lines(
        torch, peer, other, as_tensors(torch, float64(BATCHES)), as_tensors(torch, float64(HELD_OUT)), **options
    )
    assert capsys.readouterr().out.splitlines() == lines
    assert_same_weights(model, other)


@pytest.mark.peer
def test_the_own_process_function_gives_the_numbers_of_ignite(capsys):
    torch, peer = ignite()
    with lf.using(dtype="float64"):
        lf.seed(0)
        model = EXAMPLE["Classifier"]()
        other = twin(torch, model)
        last = EXAMPLE["train_with_own_process_function"](model, float64(BATCHES), lr=0.1)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)

    def train_and_store_loss(engine, batch):
        inputs, targets = batch
        optimizer.zero_grad()
        loss = torch.nn.functional.nll_loss(other(inputs), targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    state = peer.engine.Engine(train_and_store_loss).run(as_tensors(torch, float64(BATCHES)))
    assert last == pytest.approx(state.output, rel=1e-9)
    assert_same_weights(model, other)
    assert capsys.readouterr().out == 2 * "Done training on epoch 0001\n"


def test_the_events_come_in_the_order_of_the_slide_and_the_exception_to_the_caller():
    iteration = ["ITERATION_STARTED", "ITERATION_COMPLETED"]
    first = ["EPOCH_STARTED", *iteration, *iteration, "EPOCH_COMPLETED"]
    second = ["EPOCH_STARTED", *iteration, "ITERATION_STARTED", "EXCEPTION_RAISED"]
    assert EXAMPLE["events_of_a_run"]() == ["STARTED", *first, *second, "the caller"]


def test_it_learns_the_digits_that_it_draws(capsys):
    EXAMPLE["main"]([])
    lines = capsys.readouterr().out.splitlines()
    assert lines[9].startswith("Val - Epoch: 10 Avg accuracy: 0.9")


@pytest.mark.parametrize("zipped", [False, True])
def test_it_reads_the_digits_of_a_folder(zipped, tmp_path, capsys):
    for part, seed in (("tra", 0), ("tes", 1)):
        images = [
            [*np.clip(16 * image, 0, 16).astype(int).tolist(), digit] for image, digit in EXAMPLE["drawn"](300, seed)
        ]
        text = "".join(",".join(map(str, row)) + "\n" for row in images)
        if zipped:
            (tmp_path / f"optdigits.{part}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (tmp_path / f"optdigits.{part}").write_text(text)
    EXAMPLE["main"](["--data", str(tmp_path), "--epochs", "2"])
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_missing_files_are_named(tmp_path):
    with pytest.raises(SystemExit, match=r"optdigits\.tra or optdigits\.tra\.gz beside it"):
        EXAMPLE["main"](["--data", str(tmp_path)])
