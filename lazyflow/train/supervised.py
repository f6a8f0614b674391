"""Engines for the usual case: examples ``(x, y)``, a model of ``x``, and a loss between what it gives and ``y``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lazyflow.nn import Module
from lazyflow.record.expr import Expr
from lazyflow.run.map import map as map_examples
from lazyflow.settings import using
from lazyflow.train.batch import examples, mean_of, values
from lazyflow.train.checks import check_call
from lazyflow.train.engine import Engine
from lazyflow.train.metrics import Metric

__all__ = ["create_supervised_evaluator", "create_supervised_trainer"]

Examples = list[tuple[Any, Any]]


def _loss_value(x: list[Any], y: list[Any], y_pred: list[Any], loss: Expr) -> Any:
    return loss.item()


def _prediction_and_target(x: list[Any], y: list[Any], y_pred: list[Any]) -> Any:
    return y_pred, y


def create_supervised_trainer(
    model: Callable[[Any], Any],
    optimizer: Any,
    loss_fn: Callable[[Any, Any], Any],
    *,
    device: str | None = None,
    prepare_batch: Callable[[Any], Examples] = examples,
    output_transform: Callable[[list[Any], list[Any], list[Any], Expr], Any] = _loss_value,
) -> Engine:
    """An engine that takes one optimizer step for every batch, down the mean of ``loss_fn(model(x), y)``.

    ``model`` and ``loss_fn`` see **one** example: nothing in them has a batch axis, and what the examples of a batch
    have in common runs together, also where they look at their own values (`lazyflow.map`). A batch is a list of pairs
    ``(x, y)``, or a tuple ``(xs, ys)`` of arrays with a leading batch axis (`train.examples` says all forms;
    ``prepare_batch`` may be another function of that kind).

    ``device``: where what is recorded runs; the model itself is moved by ``model.to(device)``. ``state.output`` is
    ``output_transform(x, y, y_pred, loss)``, lists of inputs, targets and outputs and the mean loss; by default the
    loss as a number. A model with modes is set to training at each batch.

    Raises ``TypeError`` for a model or a loss that cannot be called, `DeviceError` for a device that is not there; when
    it runs, `ShapeError` for a loss of one example that is not a single number. As Ignite's function of this name,
    where ``model`` sees a whole batch.

    >>> import lazyflow as lf
    >>> from lazyflow import nn, optim, train
    >>> model = nn.Linear(2, 1)
    >>> trainer = train.create_supervised_trainer(model, optim.SGD(model.parameters(), lr=0.1), lf.mse)
    >>> batches = [[([1.0, 0.0], [1.0]), ([0.0, 1.0], [2.0])]]
    >>> first = trainer.run(batches).output
    >>> trainer.run(batches, max_epochs=50).output < first
    True
    """
    check_call("the model", _called(model), ("x",))
    check_call("loss_fn", loss_fn, ("y_pred", "y"))
    if not (hasattr(optimizer, "zero_grad") and hasattr(optimizer, "step")):
        raise TypeError(f"expected an optimizer such as optim.Adam(model.parameters()), got {optimizer!r}")
    settings = using(**({} if device is None else {"device": device}))

    def update(engine: Engine, batch: Any) -> Any:
        if isinstance(model, Module):
            model.train()
        optimizer.zero_grad()
        with settings:
            x, y = _columns(prepare_batch(batch))
            y_pred, losses = _predicted(model, loss_fn, x, y)
            loss = mean_of(losses)
            loss.backward()
        optimizer.step()
        return output_transform(x, y, y_pred, loss)

    return Engine(update)


def create_supervised_evaluator(
    model: Callable[[Any], Any],
    metrics: Mapping[str, Metric] | None = None,
    *,
    device: str | None = None,
    prepare_batch: Callable[[Any], Examples] = examples,
    output_transform: Callable[[list[Any], list[Any], list[Any]], Any] = _prediction_and_target,
) -> Engine:
    """An engine that runs the model without gradients and with dropout off, and measures what it gives.

    After ``run(data)``, ``state.metrics`` has the value of each of ``metrics`` by its name. Batches, ``device`` and
    ``prepare_batch`` are those of `create_supervised_trainer`. ``state.output``, which the metrics see, is
    ``output_transform(x, y, y_pred)``, by default ``(y_pred, y)``: lists of NumPy arrays and of targets, one an
    example. Modules are back in the mode they had after each batch.

    Raises ``TypeError`` for a model that cannot be called or metrics that are none.

    >>> import lazyflow as lf
    >>> from lazyflow import train
    >>> evaluator = train.create_supervised_evaluator(lambda x: lf.constant(x), {"accuracy": train.Accuracy()})
    >>> evaluator.run([[([0.1, 0.9], 1), ([0.2, 0.8], 0)]]).metrics
    {'accuracy': 0.5}
    """
    check_call("the model", _called(model), ("x",))
    for name, metric in (metrics or {}).items():
        if not isinstance(metric, Metric):
            raise TypeError(f"metrics[{name!r}] must be a train.Metric such as train.Accuracy(), got {metric!r}")
    settings = using(grad=False, **({} if device is None else {"device": device}))

    def infer(engine: Engine, batch: Any) -> Any:
        with _evaluating(model), settings:
            x, y = _columns(prepare_batch(batch))
            y_pred = values(map_examples(model, x))
        return output_transform(x, y, y_pred)

    engine = Engine(infer)
    for name, metric in (metrics or {}).items():
        metric.attach(engine, name)
    return engine


def _called(model: Any) -> Any:
    """What is called with an example: the ``forward`` of a module, whose ``__call__`` takes anything."""
    return model.forward if isinstance(model, Module) else model


def _predicted(model: Any, loss_fn: Any, x: list[Any], y: list[Any]) -> tuple[list[Any], list[Any]]:
    """What the model makes of each example, and its loss."""

    def predicted(x: Any, y: Any) -> tuple[Any, Any]:
        y_pred = model(x)
        return y_pred, loss_fn(y_pred, y)

    pairs = map_examples(predicted, x, y)
    return [y_pred for y_pred, _ in pairs], [loss for _, loss in pairs]


def _columns(pairs: Examples) -> tuple[list[Any], list[Any]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """All modules in evaluation mode, and each in its own again afterwards."""
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, Module) else []
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode
