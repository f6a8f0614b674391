"""The lecture's Ignite programs: a trainer and an evaluator, handlers of events, and a process function of one's own.

    python examples/lecture/ignite.py                 digits of 8 by 8 pixels, which it draws itself
    python examples/lecture/ignite.py --data FOLDER   optdigits.tra and optdigits.tes of the UCI repository, or .gz

What is different from Ignite: the imports, and that the model is written for one image, without a batch axis.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

# The products of small models are too small to share among threads. NumPy reads this when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from tqdm import tqdm

import lazyflow as lf
from lazyflow import data, nn
from lazyflow.optim import SGD
from lazyflow.train import Accuracy, Engine, Events, Loss, create_supervised_evaluator, create_supervised_trainer

Example = tuple[np.ndarray[Any, Any], int]


class Classifier(nn.Module):
    """Log-probabilities of the ten digits for one image."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, hidden)
        self.output = nn.Linear(hidden, 10)

    def forward(self, image: Any) -> lf.Expr:
        """(64,) -> (10,)."""
        return lf.log_softmax(self.output(lf.relu(self.hidden(image))))


# The first program


def train_and_validate(
    model: nn.Module,
    train_loader: Any,
    val_loader: Any,
    *,
    lr: float = 0.1,
    momentum: float = 0.9,
    epochs: int = 10,
    device: str = "cpu",
) -> dict[str, float]:
    """Train, with a line of validation results after every epoch; returns the last ones."""
    # Instantiate the optimizer, trainer, and evaluator.
    optimizer = SGD(model.parameters(), lr=lr, momentum=momentum)
    trainer = create_supervised_trainer(model, optimizer, lf.nll, device=device)
    evaluator = create_supervised_evaluator(model, device=device, metrics={"accuracy": Accuracy(), "nll": Loss(lf.nll)})

    desc = "ITERATION - loss: {:.2f}"
    pbar = tqdm(initial=0, leave=False, total=len(train_loader), desc=desc.format(0))

    @trainer.on(Events.ITERATION_COMPLETED)
    def log_training_loss(engine: Engine) -> None:
        pbar.set_description(desc.format(engine.state.output))
        pbar.update()

    @trainer.on(Events.EPOCH_COMPLETED)
    def log_validation_results(engine: Engine) -> None:
        # When the model has seen every example in the training set, run the validation set and report metrics.
        evaluator.run(val_loader)
        metrics = evaluator.state.metrics
        avg_accuracy = metrics["accuracy"]
        avg_nll = metrics["nll"]
        tqdm.write(f"Val - Epoch: {engine.state.epoch} Avg accuracy: {avg_accuracy:.2f} Avg loss: {avg_nll:.2f}")
        pbar.n = pbar.last_print_n = 0

    # Now train the model.
    trainer.run(train_loader, max_epochs=epochs)
    pbar.close()
    return evaluator.state.metrics


# The second program


def train_with_own_process_function(
    model: nn.Module, data_loader: Iterable[list[Example]], loss_fn: Callable[..., lf.Expr] = lf.nll, lr: float = 0.1
) -> float:
    """One epoch with an engine around a function of one's own; returns the loss of the last batch."""
    optimizer = SGD(model.parameters(), lr=lr)

    def train_and_store_loss(engine: Engine, batch: list[Example]) -> float:
        # The process function gets called on each iteration.
        optimizer.zero_grad()
        loss = lf.mean([loss_fn(model(image), target) for image, target in batch])
        loss.backward()
        optimizer.step()
        return float(loss)

    engine = Engine(train_and_store_loss)

    @engine.on(Events.COMPLETED)
    def cleanup(engine: Engine) -> None:
        print(f"Done training on epoch {engine.state.epoch:04d}")

    # Can also add handlers via a method.
    engine.add_event_handler(Events.COMPLETED, cleanup)

    return float(engine.run(data_loader).output)


# The slide of events


def events_of_a_run() -> list[str]:
    """The events of two epochs of two batches, the last of which fails, by name."""

    def process(engine: Engine, batch: int) -> None:
        if engine.state.iteration == 4:
            raise RuntimeError("no batch of that name")

    engine, names = Engine(process), []
    for event in Events:
        # An exception comes to its handlers with the engine, and to the caller of run after that.
        engine.add_event_handler(event, lambda *engine_and_error, name=event.name: names.append(name))
    try:
        engine.run([0, 1], max_epochs=2)
    except RuntimeError:
        names.append("the caller")
    return names


# Data

GLYPHS = (
    ".###. #...# #..## #.#.# ##..# #...# .###.", "..#.. .##.. ..#.. ..#.. ..#.. ..#.. .###.",
    ".###. #...# ....# ..##. .#... #.... #####", ".###. #...# ....# ..##. ....# #...# .###.",
    "...#. ..##. .#.#. #..#. ##### ...#. ...#.", "##### #.... ####. ....# ....# #...# .###.",
    ".###. #.... #.... ####. #...# #...# .###.", "##### ....# ...#. ..#.. .#... .#... .#...",
    ".###. #...# #...# .###. #...# #...# .###.", ".###. #...# #...# .#### ....# ....# .###.",
)  # fmt: skip


def draw(digit: int, random: np.random.Generator) -> np.ndarray[Any, Any]:
    """One digit somewhere in 8 by 8 pixels, more or less bold, on a noisy ground; as (64,) numbers around 0 to 1."""
    glyph = np.array([[mark == "#" for mark in row] for row in GLYPHS[digit].split()], np.float32)
    image = random.normal(0.0, 0.15, (8, 8)).astype(np.float32)
    top, left = random.integers(0, 2), random.integers(0, 4)
    image[top : top + 7, left : left + 5] += glyph * random.uniform(0.5, 1.0)
    return image.reshape(64)


def drawn(count: int, seed: int) -> list[Example]:
    """``count`` drawn digits with what they are."""
    random = np.random.default_rng(seed)
    return [(draw(digit, random), digit) for digit in random.integers(0, 10, count).tolist()]


def read(folder: Path, part: str) -> list[Example]:
    """The digits of ``optdigits.tra`` or ``optdigits.tes``: 64 numbers from 0 to 16 and the digit on every line."""
    plain, zipped = folder / f"optdigits.{part}", folder / f"optdigits.{part}.gz"
    if not (plain.exists() or zipped.exists()):
        raise SystemExit(f"expected {plain} or {zipped.name} beside it: 64 numbers and the digit on every line")
    rows = np.loadtxt(plain if plain.exists() else zipped, delimiter=",", dtype=np.int64)
    return [(row[:64].astype(np.float32) / 16, int(row[64])) for row in rows]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the programs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="digits to learn, in place of drawn ones")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the digits")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0")
    options = parser.parse_args(arguments)
    lf.seed(0)
    folder = options.data
    training, held_out = (read(folder, "tra"), read(folder, "tes")) if folder else (drawn(2000, 0), drawn(500, 1))
    train_loader = data.batches(training, 64, shuffle=True, seed=0)
    val_loader = data.batches(held_out, 256)
    model = Classifier().to(options.device)
    train_and_validate(model, train_loader, val_loader, epochs=options.epochs, device=options.device)
    with lf.using(device=options.device):
        train_with_own_process_function(Classifier(), train_loader)
    print(*events_of_a_run())


if __name__ == "__main__":
    main()
