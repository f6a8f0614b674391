"""Handlers for what nearly every training run needs: progress, checkpoints, stopping, timing, learning rates."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lazyflow.io import save
from lazyflow.record.expr import Expr
from lazyflow.state import check_kind, differences, is_array, miscounts, misscored, raise_differences
from lazyflow.train.batch import host
from lazyflow.train.checks import check_call, check_count
from lazyflow.train.engine import Engine
from lazyflow.train.events import Events

__all__ = ["EarlyStopping", "LRScheduler", "ModelCheckpoint", "ProgressBar", "TerminateOnNan", "Timer"]

Score = Callable[[Engine], float]


class ProgressBar:
    """A tqdm bar over the batches of each epoch, with numbers behind it.

    ``persist``: leave the bars of finished epochs on the screen. ``options`` go to ``tqdm`` (``desc``, ``file``,
    ``ncols``, ``mininterval``, ...). Print with `log_message` while a bar is there.

    >>> import io
    >>> from lazyflow import train
    >>> engine = train.Engine(lambda engine, batch: batch)
    >>> screen = io.StringIO()
    >>> train.ProgressBar(persist=True, file=screen, ncols=90).attach(engine, output_transform=lambda x: {"loss": x})
    >>> state = engine.run([3.0, 2.0])
    >>> "epoch 1/1" in screen.getvalue() and "loss=2" in screen.getvalue()
    True
    """

    def __init__(self, *, persist: bool = False, **options: Any) -> None:
        self.options = {"leave": persist, "unit": "batch", **options}
        self.bar: Any = None

    def attach(
        self,
        engine: Engine,
        metric_names: Sequence[str] | str = (),
        output_transform: Callable[[Any], Mapping[str, Any]] | None = None,
    ) -> None:
        """Show the progress of ``engine``.

        Behind the bar stand the metrics of ``metric_names`` (``"all"`` for all there are), once they have a value, and
        what ``output_transform`` makes of ``state.output``: a dict of numbers. Attach it after the metrics. Raises
        ``TypeError`` for names that are no list of strings.
        """
        if isinstance(metric_names, str) and metric_names != "all":
            raise TypeError(f"metric_names must be a list of names or 'all', got {metric_names!r}")
        if output_transform is not None:
            check_call("output_transform", output_transform, ("output",))
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance, metric_names, output_transform)
        engine.add_event_handler(Events.EPOCH_COMPLETED | Events.COMPLETED, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._close_after)

    def log_message(self, message: str) -> None:
        """Print a line without tearing the bar."""
        tqdm.write(message, file=self.options.get("file"))

    def _open(self, engine: Engine) -> None:
        state = engine.state
        description = f"epoch {state.epoch}/{state.max_epochs}"
        self.bar = tqdm(total=state.epoch_length, **{"desc": description, **self.options})

    def _advance(self, engine: Engine, metric_names: Any, output_transform: Any) -> None:
        metrics = engine.state.metrics
        names = list(metrics) if metric_names == "all" else [name for name in metric_names if name in metrics]
        shown = {name: metrics[name] for name in names}
        shown.update({} if output_transform is None else output_transform(engine.state.output))
        numbers = {name: float(value) for name, value in shown.items() if np.ndim(value) == 0}
        self.bar.set_postfix(numbers, refresh=False)
        self.bar.update()

    def _close(self, engine: Engine) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _close_after(self, engine: Engine, error: BaseException) -> None:
        self._close(engine)


class ModelCheckpoint:
    """Saves objects with `lazyflow.save` whenever it is called as a handler, and keeps the newest or the best files.

    ``folder`` is made if it is not there. Files are ``{prefix}_{n}.safetensors`` with n what `Engine.event_count` says
    of the event (the epoch for ``EPOCH_COMPLETED``), or what ``global_step(engine)`` returns. ``n_saved``: how many to
    keep, None for all. ``score_function(engine)``: the higher the better; the best are kept then, in files
    ``{prefix}_{n}_{score_name}={score:.4f}.safetensors``, and a NaN is never saved. ``to_save``: the objects by name,
    here or as the handler's argument. A file appears complete or not at all, and an older one goes only after that.

    `last` is the path that was saved last, `kept` are all paths, best last. `lazyflow.load` reads a file; with the
    trainer among the objects, its next run goes on after the epoch saved.

    Raises ``ValueError`` for ``n_saved`` below 1 and, with ``require_empty``, for a folder with files of that prefix,
    which might be those of another run; ``TypeError`` when there is nothing to save.

    >>> import os, tempfile
    >>> import lazyflow as lf
    >>> from lazyflow import train
    >>> folder, model = tempfile.mkdtemp(), lf.nn.Linear(2, 1)
    >>> engine = train.Engine(lambda engine, batch: batch)
    >>> checkpoint = train.ModelCheckpoint(folder, "run", n_saved=2)
    >>> handle = engine.add_event_handler(train.Events.EPOCH_COMPLETED, checkpoint, {"model": model, "trainer": engine})
    >>> state = engine.run([1, 2], max_epochs=5)
    >>> sorted(os.listdir(folder))
    ['run_4.safetensors', 'run_5.safetensors']
    >>> arrays = lf.load(checkpoint.last, model=model, trainer=engine)
    >>> engine.run([1, 2], max_epochs=6).epoch
    6
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        prefix: str = "checkpoint",
        *,
        to_save: Mapping[str, Any] | None = None,
        n_saved: int | None = 1,
        score_function: Score | None = None,
        score_name: str = "score",
        global_step: Callable[[Engine], int] | None = None,
        require_empty: bool = True,
    ) -> None:
        if n_saved is not None:
            check_count("ModelCheckpoint: n_saved", n_saved, 1)
        for name, function in (("score_function", score_function), ("global_step", global_step)):
            if function is not None:
                check_call(f"ModelCheckpoint: {name}", function, ("engine",))
        self.folder, self.prefix, self.to_save, self.n_saved = Path(folder), prefix, to_save, n_saved
        self.score_function, self.score_name, self.global_step = score_function, score_name, global_step
        self.folder.mkdir(parents=True, exist_ok=True)
        if require_empty and (found := sorted(self.folder.glob(f"{prefix}_*.safetensors"))):
            raise ValueError(
                f"ModelCheckpoint: {self.folder} has {len(found)} files of the prefix {prefix!r}, such as "
                f"{found[0].name}; choose another folder or prefix, or pass require_empty=False to keep them beside"
            )
        self.last: Path | None = None
        self._kept: list[tuple[float, Path]] = []

    @property
    def kept(self) -> list[Path]:
        """The files that were saved and are still kept: by rising score, or in the order in which they were saved."""
        return [path for _, path in self._kept]

    def __call__(self, engine: Engine, to_save: Mapping[str, Any] | None = None) -> None:
        objects = to_save if to_save is not None else self.to_save
        if not isinstance(objects, Mapping) or not objects:
            raise TypeError(
                "ModelCheckpoint: nothing to save; add it as add_event_handler(event, checkpoint, {'model': model}), "
                f"or make it with to_save={{...}}; got {objects!r}"
            )
        step = self._step(engine)
        score = float(step if self.score_function is None else self.score_function(engine))
        if self._is_kept(score):
            self._save(objects, step, score)

    def _step(self, engine: Engine) -> int:
        if self.global_step is not None:
            return int(self.global_step(engine))
        return engine.event_count(Events.ITERATION_COMPLETED if engine.current_event is None else engine.current_event)

    def _is_kept(self, score: float) -> bool:
        """Whether this score is among those to be kept."""
        if self.score_function is None:
            return True
        full = self.n_saved is not None and len(self._kept) >= self.n_saved
        return score > self._kept[0][0] if full else not math.isnan(score)

    def _save(self, objects: Mapping[str, Any], step: int, score: float) -> None:
        scored = "" if self.score_function is None else f"_{self.score_name}={score:.4f}"
        path = self.folder / f"{self.prefix}_{step}{scored}.safetensors"
        save(path, **objects)
        self.last = path
        self._kept = [(s, p) for s, p in self._kept if p != path] + [(score, path)]
        if self.score_function is not None:
            self._kept.sort(key=lambda entry: entry[0])
        while self.n_saved is not None and len(self._kept) > self.n_saved:
            self._kept.pop(0)[1].unlink(missing_ok=True)


class EarlyStopping:
    """Ends a run when a score has not improved for ``patience`` calls; the same numbers as Ignite's.

    ``score_function(engine)``: the higher the better, or, with ``mode="min"``, the lower. It has improved when it is
    better than the best so far by more than ``threshold``. A smaller gain does not count, but moves the best, unless
    ``cumulative``: then small gains may add up to one that counts. A NaN is no improvement. ``trainer``: the engine to
    end, by default the one whose event this handles.

    `best` and `counter`, the calls since the last improvement, are what a checkpoint keeps.

    Raises ``ValueError`` for ``patience`` below 1, a negative ``threshold`` or another ``mode``, ``TypeError`` for a
    score that is no function of the engine.

    >>> from lazyflow import train
    >>> trainer = train.Engine(lambda engine, batch: batch)
    >>> stopping = train.EarlyStopping(2, lambda engine: [1, 3, 2, 3, 9][engine.state.epoch - 1])
    >>> handle = trainer.add_event_handler(train.Events.EPOCH_COMPLETED, stopping)
    >>> trainer.run([0], max_epochs=5).epoch
    4
    """

    def __init__(
        self,
        patience: int,
        score_function: Score,
        trainer: Engine | None = None,
        *,
        threshold: float = 0.0,
        cumulative: bool = False,
        mode: str = "max",
    ) -> None:
        self.patience = check_count("EarlyStopping: patience", patience, 1)
        check_call("EarlyStopping: score_function", score_function, ("engine",))
        if mode not in ("min", "max"):
            raise ValueError(f"EarlyStopping: mode must be 'min' or 'max', got {mode!r}")
        if not threshold >= 0:
            raise ValueError(f"EarlyStopping: threshold must be at least 0, got {threshold!r}")
        if trainer is not None and not isinstance(trainer, Engine):
            raise TypeError(f"EarlyStopping: trainer must be a train.Engine, got {trainer!r}")
        self.score_function, self.trainer = score_function, trainer
        self.threshold, self.cumulative, self.sign = threshold, cumulative, 1.0 if mode == "max" else -1.0
        self.best, self.counter = -self.sign * math.inf, 0

    def __call__(self, engine: Engine) -> None:
        score = float(self.score_function(engine))
        gain = self.sign * (score - self.best)
        if gain > self.threshold:
            self.best, self.counter = score, 0
            return
        if gain > 0 and not self.cumulative:
            self.best = score
        self.counter += 1
        if self.counter >= self.patience:
            (self.trainer or engine).terminate()

    def state_dict(self) -> dict[str, Any]:
        """The best score and the calls since it improved."""
        return {"kind": "EarlyStopping", "best": self.best, "counter": self.counter}

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `CheckpointError` with everything that keeps ``state`` from being loaded."""
        check_kind("EarlyStopping", state)
        raise_differences("EarlyStopping", differences(self.state_dict(), state))
        raise_differences("EarlyStopping", [*misscored(state, "best"), *miscounts(state, "counter")])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved. Raises `CheckpointError` if it is that of something else."""
        self.check_state_dict(state)
        self.best, self.counter = float(state["best"]), int(state["counter"])


class TerminateOnNan:
    """Ends a run, with a ``RuntimeWarning``, when the output of the process function has a NaN or an infinity.

    The output may be numbers, arrays, expressions, and lists, tuples and dicts of them; ``output_transform`` picks what
    is looked at. Add it for ``ITERATION_COMPLETED``, or `attach` it. ``lazyflow.using(check_finite=True)`` names the
    operation that made the first one.

    >>> import warnings
    >>> from lazyflow import train
    >>> engine = train.Engine(lambda engine, batch: batch)
    >>> train.TerminateOnNan().attach(engine)
    >>> with warnings.catch_warnings(record=True):
    ...     warnings.simplefilter("always")
    ...     engine.run([1.0, float("nan"), 2.0]).iteration
    2
    """

    def __init__(self, output_transform: Callable[[Any], Any] = lambda output: output) -> None:
        check_call("TerminateOnNan: output_transform", output_transform, ("output",))
        self.output_transform = output_transform

    def attach(self, engine: Engine) -> None:
        """Look at every output of ``engine``."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if not _finite(self.output_transform(engine.state.output)):
            warnings.warn(
                f"the output of iteration {engine.state.iteration} is not finite, and the run ends here; "
                "with lf.using(check_finite=True) the error names the operation",
                RuntimeWarning,
                stacklevel=2,
            )
            engine.terminate()


def _finite(output: Any) -> bool:
    """Whether there is no NaN and no infinity in it; what is no number counts as finite."""
    if isinstance(output, Mapping):
        return all(map(_finite, output.values()))
    if isinstance(output, tuple | list):
        return all(map(_finite, output))
    if is_array(output) or isinstance(output, Expr | float):
        array = host(output)
        return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())
    return True


class Timer:
    """Measures seconds: of a run, or of a part of it, summed up or averaged over steps.

    ``value()`` is what has passed since the start or the last `reset` without the pauses; with ``average``, per
    `step`. `attach` lets an engine do it: by default from ``STARTED`` on. ``clock`` returns the time in seconds.

    >>> from lazyflow import train
    >>> engine = train.Engine(lambda engine, batch: sum(range(batch)))
    >>> timer = train.Timer(average=True)
    >>> timer.attach(engine, resume=train.Events.ITERATION_STARTED, pause=train.Events.ITERATION_COMPLETED,
    ...              step=train.Events.ITERATION_COMPLETED)
    >>> state = engine.run([1000, 1000])
    >>> timer.steps, timer.value() > 0
    (2, True)
    """

    def __init__(self, average: bool = False, *, clock: Callable[[], float] = time.perf_counter) -> None:
        check_call("Timer: clock", clock, ())
        self.average, self.clock = average, clock
        self.reset()

    def attach(
        self, engine: Engine, *, start: Any = Events.STARTED, pause: Any = None, resume: Any = None, step: Any = None
    ) -> None:
        """Begin anew at ``start``, stop at ``pause``, go on at ``resume`` and count at ``step``: events or None.

        With ``resume``, time begins to count there.
        """
        engine.add_event_handler(start, self.reset if resume is None else self._wait)
        for event, handler in ((pause, self.pause), (resume, self.resume), (step, self.step)):
            if event is not None:
                engine.add_event_handler(event, handler)

    def reset(self) -> None:
        """Forget what was measured, and start."""
        self._wait()
        self.resume()

    def _wait(self) -> None:
        self.total, self.steps = 0.0, 0
        self._since: float | None = None

    def pause(self) -> None:
        """Stop the clock."""
        if self._since is not None:
            self.total += self.clock() - self._since
            self._since = None

    def resume(self) -> None:
        """Let the clock go on."""
        if self._since is None:
            self._since = self.clock()

    def step(self) -> None:
        """Count one step."""
        self.steps += 1

    def value(self) -> float:
        """The seconds measured; with ``average``, per step, and 0 before the first."""
        running = 0.0 if self._since is None else self.clock() - self._since
        total = self.total + running
        return (total / self.steps if self.steps else 0.0) if self.average else total


class LRScheduler:
    """Steps a learning-rate schedule whenever it is called as a handler.

    ``schedule``: one of `lazyflow.optim`. ``score_function(engine)`` gives what the step of a ``ReduceLROnPlateau``
    takes, and is there for that one only.

    Raises ``TypeError`` for what is no schedule and for a score that is missing or that the schedule does not take.

    >>> import lazyflow as lf
    >>> from lazyflow import optim, train
    >>> optimizer = optim.SGD([lf.Parameter([1.0])], lr=1.0)
    >>> trainer = train.Engine(lambda engine, batch: batch)
    >>> schedule = optim.ExponentialLR(optimizer, 0.5)
    >>> handle = trainer.add_event_handler(train.Events.EPOCH_COMPLETED, train.LRScheduler(schedule))
    >>> state = trainer.run([1, 2], max_epochs=3)
    >>> schedule.get_last_lr()
    [0.125]
    """

    def __init__(self, schedule: Any, score_function: Score | None = None) -> None:
        step = getattr(schedule, "step", None)
        if score_function is None:
            check_call("LRScheduler, without a score_function: the schedule's step", step, ())
        else:
            check_call("LRScheduler: score_function", score_function, ("engine",))
            check_call("LRScheduler, with a score_function: the schedule's step", step, ("score",))
        self.schedule, self.score_function = schedule, score_function

    def __call__(self, engine: Engine) -> None:
        if self.score_function is None:
            self.schedule.step()
        else:
            self.schedule.step(self.score_function(engine))
