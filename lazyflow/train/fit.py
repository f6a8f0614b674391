"""`fit`: from data to a trained model in one call (after Keras), for when a loop of one's own has nothing to add."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lazyflow.data import Batches, batches
from lazyflow.nn import Module
from lazyflow.optim import Adam
from lazyflow.record.expr import Expr
from lazyflow.train.batch import examples, values
from lazyflow.train.checks import check_count
from lazyflow.train.engine import Engine
from lazyflow.train.events import Events
from lazyflow.train.handlers import ProgressBar
from lazyflow.train.metrics import Loss, Metric
from lazyflow.train.supervised import create_supervised_evaluator, create_supervised_trainer

__all__ = ["History", "fit"]

BATCH_SIZE = 32


class History(dict[str, list[Any]]):
    """What `fit` measured: for each name a list with a value for every epoch. Prints as a table.

    >>> history = History()
    >>> history.append({"loss": 0.5, "val_loss": 0.75})
    >>> history.append({"loss": 0.25, "val_loss": 0.5})
    >>> history["loss"]
    [0.5, 0.25]
    >>> print(history)
    epoch    loss  val_loss
        1  0.5000    0.7500
        2  0.2500    0.5000
    """

    def append(self, epoch: Mapping[str, Any]) -> None:
        """Add the values of one more epoch."""
        for name, value in epoch.items():
            self.setdefault(name, []).append(value)

    def __str__(self) -> str:
        shown = {name: list(map(_number, column)) for name, column in self.items() if all(map(_is_number, column))}
        count = max(map(len, shown.values()), default=0)
        table = {"epoch": [str(i + 1) for i in range(count)], **shown}
        columns = [[name, *cells] for name, cells in table.items()]
        widths = [max(map(len, column)) for column in columns]
        lines = zip(*([cell.rjust(width) for cell in c] for c, width in zip(columns, widths, strict=True)), strict=True)
        return "\n".join("  ".join(line) for line in lines)


def _is_number(value: Any) -> bool:
    return np.ndim(value) == 0


def _number(value: Any) -> str:
    return f"{float(value):.4f}"


class _Step(NamedTuple):
    """The output of a training step: the mean loss of the batch, how many examples, what the metrics see."""

    loss: float
    size: int
    seen: tuple[Any, Any] | None


class _MeanLoss(Metric):
    """The mean of the loss over the examples of an epoch, each under the parameters of its step."""

    def reset(self) -> None:
        self.sum, self.count = 0.0, 0

    def update(self, output: _Step) -> None:
        self.sum += output.loss * output.size
        self.count += output.size

    def compute(self) -> float:
        if not self.count:
            raise self.nothing_seen()
        return self.sum / self.count


class _OfStep(Metric):
    """A metric of predictions and targets, updated with a `_Step`."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        super().__init__()

    def reset(self) -> None:
        self.metric.reset()

    def update(self, output: _Step) -> None:
        self.metric.update(self.metric.output_transform(output.seen))

    def compute(self) -> Any:
        return self.metric.compute()


def fit(
    model: Callable[[Any], Any],
    loss: Callable[[Any, Any], Any],
    data: Any,
    *,
    epochs: int = 1,
    batch_size: int | None = None,
    optimizer: Any = Adam,
    validation: Any = None,
    metrics: Mapping[str, Metric] | None = None,
    callbacks: Sequence[Any] = (),
    shuffle: bool = True,
    seed: int | None = None,
    device: str | None = None,
    progress: bool = True,
) -> History:
    """Train ``model`` to make the mean of ``loss(model(x), y)`` small, and return what was measured.

    ``model`` and ``loss`` see one example, as everywhere in lazyflow.

    - ``data``: a list of examples ``(x, y)``, a tuple ``(xs, ys)`` of arrays with a leading batch axis, or the
      `lazyflow.data.Batches` of your own. ``batch_size`` examples (32 unless given) make a step.
    - ``optimizer``: an optimizer, or a function that makes one of the parameters, such as the class.
    - ``validation``: data, of any of those kinds, on which to measure after every epoch; or the fraction of ``data`` to
      hold out for that: the last examples, before shuffling.
    - ``metrics``: by name; measured on the training examples as training goes on, and on those of ``validation``.
    - ``callbacks``: handlers such as `EarlyStopping` and `ModelCheckpoint`, called with the trainer when an epoch is
      complete and validated; what has an ``attach`` is attached to the trainer instead. They find all values in
      ``engine.state.metrics``.
    - ``seed`` fixes the order of the examples, which is another in every epoch unless ``shuffle`` is false. Initial
      weights and dropout follow `lazyflow.seed`.
    - ``progress``: a bar over the batches, and a line for each epoch.

    The history has the keys ``"loss"``, the metrics' names and, with ``"val_"`` before them, those of the validation.

    Raises ``ValueError`` for no examples, ``epochs`` or ``batch_size`` below 1, and a fraction that leaves one part
    empty; ``TypeError`` for data, an optimizer, metrics or callbacks of another kind.

    >>> import lazyflow as lf
    >>> from lazyflow import nn, optim, train
    >>> model = nn.Linear(1, 1)
    >>> line = [([x], [2 * x + 1]) for x in (-1.0, 0.0, 1.0, 2.0)]
    >>> history = train.fit(model, lf.mse, line, epochs=100, optimizer=optim.Adam(model.parameters(), lr=0.1),
    ...                     progress=False)
    >>> len(history["loss"]), history["loss"][-1] < 0.1
    (100, True)
    """
    check_count("epochs", epochs, 1)
    training, held_out = _split(data, validation, batch_size, shuffle, seed)
    metrics = _named(metrics)
    evaluator = create_supervised_evaluator(model, {"loss": Loss(loss), **metrics}, device=device)
    trainer = create_supervised_trainer(
        model, _made(optimizer, model), loss, device=device, output_transform=_steps(bool(metrics))
    )
    for name, metric in {"loss": _MeanLoss(), **{n: _OfStep(m) for n, m in metrics.items()}}.items():
        metric.attach(trainer, name)
    if held_out is not None:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, _validate, evaluator, held_out)
    history = History()
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: history.append(engine.state.metrics))
    if progress:
        _show_progress(trainer)
    for callback in callbacks:
        _add(trainer, callback)
    trainer.run(training, max_epochs=epochs)
    return history


def _named(metrics: Any) -> dict[str, Metric]:
    if not isinstance(metrics, Mapping | None):
        raise TypeError(f"metrics: expected a dict of metrics by name, got {metrics!r:.60}")
    if "loss" in (metrics or {}):
        raise ValueError("metrics: 'loss' is the name of the loss itself; give the metric another one")
    return dict(metrics or {})


def _steps(seen: bool) -> Callable[..., _Step]:
    """What a step puts out; the predictions are copied only for metrics that look at them."""

    def step(x: list[Any], y: list[Any], y_pred: list[Any], loss: Expr) -> _Step:
        return _Step(loss.item(), len(y), (values(y_pred), y) if seen else None)

    return step


def _split(data: Any, validation: Any, size: int | None, shuffle: bool, seed: int | None) -> tuple[Any, Any]:
    """The minibatches to train on and those to validate on, or None."""
    if isinstance(validation, float):
        data, validation = _held_out(data, validation)
    held_out = None if validation is None else _batches("validation", validation, size, shuffle=False)
    return _batches("data", data, size, shuffle=shuffle, seed=seed), held_out


def _held_out(data: Any, fraction: float) -> tuple[Any, Any]:
    if isinstance(data, Batches):
        raise TypeError("validation: a fraction cannot be held out of lf.data.Batches; give a list of examples")
    pairs = _examples("data", data)
    count = round(fraction * len(pairs))
    if not (0 < fraction < 1 and 0 < count < len(pairs)):
        raise ValueError(
            f"validation={fraction}: a fraction of the data is above 0 and below 1 and leaves an example on both "
            f"sides, of {len(pairs)}"
        )
    return pairs[:-count], pairs[-count:]


def _batches(what: str, data: Any, size: int | None, *, shuffle: bool, seed: int | None = None) -> Batches[Any]:
    if not isinstance(data, Batches):
        size = BATCH_SIZE if size is None else check_count("batch_size", size, 1)
        return batches(_examples(what, data), size, shuffle=shuffle, seed=seed)
    if what == "data" and size is not None:
        raise ValueError(f"batch_size={size}: lf.data.Batches have their size, {data.size}; leave batch_size out")
    return data


def _examples(what: str, data: Any) -> list[tuple[Any, Any]]:
    if not isinstance(data, Iterable) or isinstance(data, str | Mapping):
        raise TypeError(f"{what}: expected a list of examples (x, y) or a tuple (xs, ys), got {data!r:.60}")
    return examples(data if isinstance(data, tuple) else list(data))


def _made(optimizer: Any, model: Any) -> Any:
    """The optimizer, made for the model's parameters if it is not there yet."""
    if not isinstance(optimizer, type) and hasattr(optimizer, "step"):
        return optimizer
    if not callable(optimizer):
        raise TypeError(f"optimizer must be one, or a function that makes one, such as optim.Adam; got {optimizer!r}")
    if not isinstance(model, Module):
        raise TypeError("the model is no nn.Module, so its parameters are not known; give an optimizer that has them")
    return optimizer(model.parameters())


def _validate(trainer: Engine, evaluator: Engine, held_out: Any) -> None:
    found = evaluator.run(held_out).metrics
    trainer.state.metrics.update({f"val_{name}": value for name, value in found.items()})


def _show_progress(trainer: Engine) -> None:
    bar = ProgressBar()
    bar.attach(trainer, output_transform=lambda step: {"loss": step.loss})

    def log(engine: Engine) -> None:
        numbers = [f"{name} {_number(value)}" for name, value in engine.state.metrics.items() if _is_number(value)]
        bar.log_message(f"epoch {engine.state.epoch}/{engine.state.max_epochs}: {', '.join(numbers)}")

    trainer.add_event_handler(Events.EPOCH_COMPLETED, log)


def _add(trainer: Engine, callback: Any) -> None:
    if callable(getattr(callback, "attach", None)):
        callback.attach(trainer)
    elif callable(callback):
        trainer.add_event_handler(Events.EPOCH_COMPLETED, callback)
    else:
        raise TypeError(
            f"a callback is a handler of the trainer's EPOCH_COMPLETED or has an attach(trainer), got {callback!r}; "
            "a learning-rate schedule goes into train.LRScheduler(schedule)"
        )
