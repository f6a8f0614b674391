"""Every field of every saved state, replaced by whatever may come instead: the state is loaded wholly, and then works,
or refused with a `CheckpointError`, and then nothing has changed.
"""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import safetensors.numpy

import lazyflow as lf
from lazyflow import io, nn, optim, train
from lazyflow.data import batches
from lazyflow.errors import CheckpointError
from lazyflow.random import Stream
from tests.optim.fake import FakeParameter

DELETE = type("Delete", (), {"__repr__": lambda self: "deleted"})()
EXTRA = type("Extra", (), {"__repr__": lambda self: "an extra entry"})()

JSON_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**70), 10**400, 0.5, -0.5, 1e308, math.nan, math.inf, -math.inf,
    "", "x", "1", [], [1], [None], [[]], {}, {"a": 1}, {"$array": "none"}, DELETE, EXTRA,
]  # fmt: skip
VALUES = [*JSON_VALUES, np.zeros(3), np.float32(1), np.zeros((2, 2), np.int8), np.array(None), b"x", 1j, object(), {1}]


def stepped(optimizer: Any) -> Any:
    """After two steps, so that everything that is kept is there."""
    for value in (1.0, -2.0):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = np.full(parameter.array.shape, value)
        optimizer.step()
    return optimizer


def parameters() -> list[FakeParameter]:
    return [FakeParameter(np.linspace(0.1, 1, 6).reshape(3, 2), "w"), FakeParameter(np.ones(2), "b")]


def schedule(make: Callable[[Any], Any]) -> Callable[[], Any]:
    def made() -> Any:
        found = make(optim.SGD([{"params": [p], "lr": 0.5} for p in parameters()]))
        found.step(*([1.0] if isinstance(found, optim.ReduceLROnPlateau) else []))
        return found

    return made


def averaged(make: Callable[[Any], Any]) -> Callable[[], Any]:
    def made() -> Any:
        found = make(parameters())
        found.update()
        return found

    return made


def running_batches() -> Any:
    run = batches(range(7), 3, shuffle=True, seed=2)
    next(iter(run))
    return run


def stopping() -> Any:
    return train.EarlyStopping(2, lambda engine: 1.0)


def run_engine() -> Any:
    engine = train.Engine(lambda engine, batch: batch)
    engine.run([1, 2], max_epochs=2)
    return engine


class Clipped(optim.SGD):
    """A user's own optimizer, with an option and a moment of its own."""

    defaults: ClassVar[Any] = {**optim.SGD.defaults, "most": 1.0, "mode": "norm"}

    def init_single(self, parameter: Any, options: Any) -> dict[str, Any]:
        return {**super().init_single(parameter, options), "largest": np.zeros_like(parameter)}


MAKERS: dict[str, Callable[[], Any]] = {
    "module": lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)),
    "SGD": lambda: stepped(optim.SGD(parameters(), momentum=0.9, nesterov=True)),
    "Adam": lambda: stepped(optim.Adam(parameters(), amsgrad=True)),
    "AdamW": lambda: stepped(optim.AdamW([{"params": [p], "lr": 0.1} for p in parameters()])),
    "Adagrad": lambda: stepped(optim.Adagrad(parameters())),
    "Adadelta": lambda: stepped(optim.Adadelta(parameters())),
    "RMSprop": lambda: stepped(optim.RMSprop(parameters(), momentum=0.1, centered=True)),
    "own optimizer": lambda: stepped(Clipped(parameters(), momentum=0.5)),
    "StepLR": schedule(lambda o: optim.StepLR(o, 2)),
    "MultiStepLR": schedule(lambda o: optim.MultiStepLR(o, [1, 3])),
    "ExponentialLR": schedule(lambda o: optim.ExponentialLR(o, 0.5)),
    "CosineAnnealingLR": schedule(lambda o: optim.CosineAnnealingLR(o, 5)),
    "CyclicLR": schedule(lambda o: optim.CyclicLR(o, 0.1, 0.3, 3)),
    "LinearWarmup": schedule(lambda o: optim.LinearWarmup(o, 3, after=optim.StepLR(o, 2))),
    "LambdaLR": schedule(lambda o: optim.LambdaLR(o, lambda time: 1 / (1 + time))),
    "ReduceLROnPlateau": schedule(lambda o: optim.ReduceLROnPlateau(o, patience=2)),
    "ExponentialMovingAverage": averaged(lambda ps: optim.ExponentialMovingAverage(ps, 0.5)),
    "SimpleAverage": averaged(optim.SimpleAverage),
    "stream": lambda: Stream(3),
    "batches": running_batches,
    "EarlyStopping": stopping,
    "engine": run_engine,
}


def use(target: Any) -> None:
    """What an object is for; a state that was loaded must let it go on."""
    if isinstance(target, optim.Optimizer):
        stepped(target)
    elif isinstance(target, nn.Module):
        target(lf.constant(np.ones((2, 2), np.float32))).numpy()
    elif isinstance(target, Stream):
        target.generator()
    elif isinstance(target, optim.ReduceLROnPlateau):
        target.step(2.0)
    elif isinstance(target, optim.Schedule):
        target.get_last_lr()
    elif isinstance(target, train.Engine):
        target.run([1], max_epochs=target.state.epoch + 1)
    elif isinstance(target, train.EarlyStopping):
        target(run_engine())
    elif hasattr(target, "update"):
        target.update()
    else:
        list(target), list(target)


def frozen(value: Any) -> Any:
    """A state in a form that compares every bit."""
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [frozen(item) for item in value]
    if hasattr(value, "dtype"):
        return str(value.dtype), value.shape, np.asarray(value).tobytes()
    return type(value).__name__, repr(value)


def everything(target: Any) -> Any:
    """The state of an object and of what it changes."""
    rates = [group["lr"] for group in target.optimizer.param_groups] if hasattr(target, "optimizer") else []
    return frozen([target.state_dict(), rates])


def paths(state: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(state, dict):
        for key, value in state.items():
            yield from paths(value, (*path, key))
    elif isinstance(state, list):
        for index, value in enumerate(state):
            yield from paths(value, (*path, index))


def changed(state: Any, path: tuple[Any, ...], value: Any) -> Any:
    """``state`` with another value at ``path``; None where the change makes no sense there."""
    if not path and value is not DELETE and value is not EXTRA:
        return value
    state = copy.deepcopy(state)
    place = state
    for key in path if value is EXTRA else path[:-1]:
        place = place[key]
    if value is EXTRA:
        if isinstance(place, dict):
            place["extra"] = []
        elif isinstance(place, list):
            place.append({})
        else:
            return None
    elif not path:
        return None
    elif value is DELETE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return state


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_a_changed_state_is_loaded_wholly_or_not_at_all(name: str, tmp_path: Path) -> None:
    make = MAKERS[name]
    state = make().state_dict()
    target = make()
    before = everything(target)
    for path in paths(state):
        for value in VALUES:
            given = changed(state, path, value)
            try:
                target.load_state_dict(given)
            except CheckpointError:
                assert everything(target) == before, (path, value)
                continue
            io.save(tmp_path / "again", x=target)
            make().load_state_dict(target.state_dict())
            use(target)
            target = make()
            before = everything(target)


@pytest.mark.host  # every byte of a file
def test_a_changed_file_is_loaded_wholly_or_not_at_all(tmp_path: Path) -> None:
    names = ["module", "Adam", "LinearWarmup", "ReduceLROnPlateau", "ExponentialMovingAverage", "stream", "batches"]
    objects = {name: MAKERS[name]() for name in [*names, "EarlyStopping", "engine"]}
    path = tmp_path / "run"
    io.save(path, **objects)
    arrays = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["lazyflow"])
    before = {name: everything(target) for name, target in objects.items()}
    for place in paths(header):
        for value in JSON_VALUES:
            if value == 10**400 and len(place) > 3:  # one is enough: it is long
                continue
            text = json.dumps(changed(header, place, value))
            safetensors.numpy.save_file(arrays, path, {"lazyflow": text})
            try:
                io.load(path, **objects)
            except CheckpointError:
                assert {name: everything(target) for name, target in objects.items()} == before, (place, value)
            else:
                objects = {name: MAKERS[name]() for name in objects}
                before = {name: everything(target) for name, target in objects.items()}


class Foreign:
    """An object of another library: it has no check of its own, and finds out late."""

    def state_dict(self) -> dict[str, Any]:
        return {"n": 1}

    def load_state_dict(self, state: Any) -> None:
        raise RuntimeError("too late")


def test_an_object_without_a_check_raises_before_the_others_change(tmp_path: Path) -> None:
    model = MAKERS["module"]()
    io.save(tmp_path / "run", model=MAKERS["module"](), foreign=Foreign())
    before = everything(model)
    with pytest.raises(RuntimeError, match="too late"):
        io.load(tmp_path / "run", model=model, foreign=Foreign())
    assert everything(model) == before


@pytest.mark.host  # CuPy has no such arrays
def test_a_read_only_buffer_is_found_before_anything_changes() -> None:
    model = MAKERS["module"]()
    state = MAKERS["module"]().state_dict()
    next(model.buffers()).flags.writeable = False
    before = everything(model)
    with pytest.raises(CheckpointError, match="is read-only"):
        model.load_state_dict(state)
    assert everything(model) == before


# Headers that nobody has written by this package.


def raw(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def entry(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> bytes:
    return json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


@pytest.mark.parametrize(
    "content",
    [
        raw(entry("BF16", (2,)), b"\0" * 4),
        raw(entry("F8_E4M3", (4,)), b"\0" * 4),
        raw(entry("C64", (1,), (0, 8)), b"\0" * 8),
        raw(entry("F128"), b"\0" * 4),
        raw(entry(shape=(2**40, 2**40)), b"\0" * 4),
        raw(entry(shape=(-1,)), b"\0" * 4),
        raw(entry(shape=(1.5,)), b"\0" * 4),
        raw(entry(shape=None), b"\0" * 4),
        raw(entry(offsets=(4, 0)), b"\0" * 4),
        raw(entry(offsets=(0, 2**63)), b"\0" * 4),
        raw(entry(offsets=(2, 6)), b"\0" * 8),
        raw(b'{"w": 3}'),
        raw(b'{"__metadata__": {"lazyflow": 3}}'),
        raw(b'{"__metadata__": {"lazyflow": "\\ud800"}}'),
        raw(b'{"__metadata__": []}'),
        raw(b"[" * 100_000 + b"]" * 100_000),
        raw(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        raw(b'{"__metadata__": {"lazyflow": "' + b"[" * 100_000 + b'"}}'),
        raw(b'{"__metadata__": {"lazyflow": "' + b"9" * 5000 + b'"}}'),
        raw(b"\xff\xfe"),
        raw(b""),
        (2**63).to_bytes(8, "little") + b"{}",
        (2**64 - 1).to_bytes(8, "little"),
        b"\0" * 8,
        b"\0" * 4096,
    ],
)
def test_hostile_headers(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        io.load(path, x={"w": np.zeros(1, np.float32)})


def test_metadata_nested_to_any_depth(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for depth in (100, 300, 500, 900, 1500):
        inner = '{"a":' * depth + "1" + "}" * depth
        text = f'{{"version": 1, "objects": {{"x": {{"state": {inner}}}}}}}'
        safetensors.numpy.save_file({}, path, {"lazyflow": text})
        with pytest.raises(CheckpointError):
            io.load(path, x={"a": 1})


# What killed processes and full disks leave.


def in_a_process(code: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.mark.host  # processes and files
def test_a_temporary_file_of_a_killed_process_is_swept(tmp_path: Path) -> None:
    killed = in_a_process(
        """
        import os, signal, sys
        from lazyflow.io import atomic_path
        with atomic_path(sys.argv[1]) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path / "run",
    )
    assert killed.returncode == -signal.SIGKILL and len(os.listdir(tmp_path)) == 1
    other, named_alike = tmp_path / f".other.{'0' * 16}.tmp", tmp_path / ".run.backup.tmp"
    other.touch()
    named_alike.touch()
    io.save(tmp_path / "run", w={"w": np.ones(1)})
    assert {*os.listdir(tmp_path)} == {named_alike.name, other.name, "run"}


@pytest.mark.host  # processes and files
def test_a_temporary_file_that_is_being_written_is_not_swept(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with io.atomic_path(path) as first:
        first.write_text("first")
        with io.atomic_path(path) as second:
            second.write_text("second")
        assert path.read_text() == "second" and first.read_text() == "first"
    assert path.read_text() == "first" and os.listdir(tmp_path) == ["run"]


def test_a_link_of_that_name_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    link = tmp_path / f".run.{'0' * 16}.tmp"
    link.symlink_to(precious)
    os.mkfifo(tmp_path / f".run.{'1' * 16}.tmp")
    io.save(tmp_path / "run", w={"w": np.ones(1)})
    assert precious.read_text() == "kept" and link.is_symlink()


@pytest.mark.host  # processes and files
def test_a_full_disk_is_an_oserror(tmp_path: Path) -> None:
    path = tmp_path / "run"
    io.save(path, model={"w": np.ones(3)})
    found = in_a_process(
        """
        import resource, sys
        import numpy as np
        import lazyflow as lf
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            lf.save(sys.argv[1], model={"w": np.ones(100_000)})
        except OSError as error:
            print(error.errno, error.filename)
        """,
        path,
    )
    assert found.stdout.split() == ["27", str(path)], found.stderr
    assert os.listdir(tmp_path) == ["run"] and io.load(path)["model.w"].shape == (3,)
