"""Checkpoints: what comes back, what is refused, and that nothing is ever half written or half loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lazyflow import optim
from lazyflow.data import batches
from lazyflow.errors import CheckpointError
from lazyflow.io import atomic_path, load, save
from lazyflow.random import Stream
from tests.optim.fake import FakeParameter


class Model:
    """A module as `lazyflow.io` sees one."""

    def __init__(self, **weights: Any) -> None:
        self.weights = {name.replace("__", "."): np.array(value) for name, value in weights.items()}
        self.loads = 0

    def state_dict(self) -> dict[str, Any]:
        return dict(self.weights)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loads += 1
        for name, value in state.items():
            self.weights[name][...] = value


def model(scale: float = 1.0) -> Model:
    return Model(encoder__weight=np.arange(6.0, dtype=np.float32).reshape(2, 3) * scale, bias=np.full(2, scale))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.safetensors"


# What comes back.


@pytest.mark.parametrize("named", [True, False])
def test_a_module(path: Path, named: bool) -> None:
    source, target = model(2.0), model(0.0)
    if named:
        save(path, model=source)
        found = load(path, model=target)
        assert sorted(found) == ["model.bias", "model.encoder.weight"]
    else:
        save(path, source)
        found = load(path, target)
        assert sorted(found) == ["bias", "encoder.weight"]
    for name, value in source.weights.items():
        np.testing.assert_array_equal(target.weights[name], value)
    assert target.weights["encoder.weight"].dtype == np.float32


def test_the_file_is_plain_safetensors(path: Path) -> None:
    save(path, model=model())
    assert sorted(safetensors.numpy.load_file(path)) == ["model.bias", "model.encoder.weight"]
    safetensors.numpy.save_file({"w": np.ones(2)}, path)
    target = Model(w=np.zeros(2))
    load(path, target)
    assert target.weights["w"].tolist() == [1.0, 1.0]


DTYPES = [
    "float16",
    "float32",
    "float64",
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (2, 3), (2, 1, 2)], ids=str)
def test_every_dtype_and_shape(path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = (
        (np.random.default_rng(1).standard_normal(shape) * 100).astype(dtype)
        if dtype[0] != "u"
        else np.ones(shape, dtype)
    )
    array = np.asarray(array)
    save(path, {"a": array})
    found = load(path)["a"]
    assert found.dtype == array.dtype and found.shape == shape
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(12.0).reshape(3, 4)[::2, 1::2],
        np.arange(4.0)[::-1],
        np.broadcast_to(np.float32(3), (2, 2)),
        np.arange(3, dtype=">i4"),
        np.float32(2.5),
    ],
    ids=["fortran", "strided", "reversed", "broadcast", "big-endian", "scalar"],
)
def test_every_memory_layout(path: Path, array: Any) -> None:
    save(path, {"a": array})
    np.testing.assert_array_equal(load(path)["a"], array)


NAMES = st.text(st.characters(blacklist_categories=("Cs",)), max_size=6)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**130), 2**130)
    | st.floats(allow_nan=False)
    | st.text("aé.#", max_size=3)
)
ARRAYS = arrays.arrays(
    st.sampled_from([np.float32, np.int64]), arrays.array_shapes(min_dims=0, max_side=3), elements=st.integers(-9, 9)
)
STATES = st.recursive(
    SCALARS | ARRAYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    return type(a) is type(b) and a == b


class Anything:
    """Takes what it gets."""

    def __init__(self, state: Any = None) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def check_state_dict(self, state: Any) -> None:
        """Fits."""

    def load_state_dict(self, state: Any) -> None:
        self.state = state


@given(first=st.dictionaries(NAMES, STATES, max_size=3), second=STATES)
def test_any_nested_state(tmp_path_factory: pytest.TempPathFactory, first: Any, second: Any) -> None:
    path = tmp_path_factory.mktemp("io") / "x.safetensors"
    save(path, a=Anything(first), b=Anything(second))
    a, b = Anything(), Anything()
    load(path, a=a, b=b)
    assert same(first, a.state) and same(second, b.state)


def test_names_with_dots_and_unicode_do_not_collide(path: Path) -> None:
    state = {"a.b": np.ones(1), "a": {"b": np.zeros(2)}, "größe 重み": np.ones(3)}
    target = Anything()
    save(path, x=Anything(state))
    found = load(path, x=target)
    assert same(target.state, state)
    assert sorted(found) == ["x.a.b", "x.a.b#2", "x.größe 重み"]


def test_a_dict_is_updated(path: Path) -> None:
    save(path, progress={"epoch": 3, "best": 0.5, "history": [1, 2]})
    progress = {"epoch": 0, "best": 0.0, "history": [0, 0]}
    load(path, progress=progress)
    assert progress == {"epoch": 3, "best": 0.5, "history": [1, 2]}


@pytest.mark.parametrize("before", [[], [0.5], [0.5, 0.25, 0.125, 9.0]], ids=len)
@pytest.mark.parametrize("kind", [float, np.float32], ids=["numbers", "NumPy's numbers"])
def test_a_history_has_the_length_of_the_saved_one(path: Path, before: list[float], kind: type) -> None:
    losses, scores = [kind(0.5), kind(0.25), kind(0.125)], [{"epoch": 1, "by": "f1"}, {"epoch": 2, "by": "f1"}]
    save(path, history={"losses": losses, "scores": scores, "of": {"dev": losses}})
    restored = {"losses": [kind(v) for v in before], "scores": [], "of": {"dev": []}}
    load(path, history=restored)
    assert restored == {"losses": losses, "scores": scores, "of": {"dev": losses}}


def test_a_history_of_an_object_that_has_one(path: Path) -> None:
    class Trainer:
        losses: Any = ()

        def state_dict(self) -> dict[str, Any]:
            return {"losses": list(self.losses)}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.losses = state["losses"]

    trained, resumed = Trainer(), Trainer()
    trained.losses = [0.5, 0.25]
    save(path, trainer=trained)
    load(path, trainer=resumed)
    assert resumed.losses == [0.5, 0.25]


def test_lists_of_arrays_keep_their_length(path: Path) -> None:
    save(path, layers={"weights": [np.ones(2), np.ones(3)]})
    with pytest.raises(CheckpointError, match=r"layers.weights.1: not expected, got float64 of shape \(3,\)"):
        load(path, layers={"weights": [np.zeros(2)]})


def test_only_some_of_the_objects(path: Path) -> None:
    save(path, model=model(2.0), other=model(3.0))
    target = model(0.0)
    assert len(load(path, model=target)) == 4
    assert target.weights["bias"].tolist() == [2.0, 2.0]


def test_an_object_without_arrays(path: Path) -> None:
    save(path, model=Model(), other=Model(w=[1.0]))
    load(path, model=Model())


def test_a_whole_run_resumes_to_the_same_numbers(path: Path) -> None:
    def run() -> dict[str, Any]:
        weight = FakeParameter(np.zeros(3), "w")
        optimizer = optim.Adam([weight], lr=0.1)
        return {
            "weights": {"w": weight.array},
            "optimizer": optimizer,
            "schedule": optim.LinearWarmup(optimizer, 5, after=optim.ExponentialLR(optimizer, 0.9)),
            "batches": batches(np.arange(10.0), 2, shuffle=True, seed=1),
            "noise": Stream(3),
        }

    def train(parts: dict[str, Any], steps: int, weight: Any = None) -> list[list[float]]:
        seen: list[list[float]] = []
        parameter = parts["optimizer"].param_groups[0]["params"][0]
        for batch in parts["batches"]:
            parameter.grad = parameter.array - sum(batch) + parts["noise"].generator().standard_normal(3)
            parts["optimizer"].step()
            parts["schedule"].step()
            seen.append(parameter.array.tolist())
            if len(seen) == steps:
                break
        return seen

    whole = run()
    train(whole, 3)
    save(path, **whole)
    resumed = run()
    load(path, **resumed)
    resumed["optimizer"].param_groups[0]["params"][0].array[...] = resumed["weights"]["w"]
    whole["batches"].load_state_dict(whole["batches"].state_dict())
    assert train(resumed, 2) == train(whole, 2)
    assert resumed["optimizer"].param_groups[0]["lr"] == whole["optimizer"].param_groups[0]["lr"]


# What is refused.


def test_every_difference_of_every_object_is_listed_and_nothing_changes(path: Path) -> None:
    weight = FakeParameter(np.zeros(3), "w")
    optimizer = optim.SGD([weight], momentum=0.9)
    save(path, model=model(2.0), other=model(3.0), opt=optim.SGD([FakeParameter(np.zeros(4), "v")]), run={"epoch": 1})
    good, epoch = model(0.0), {"epoch": "none"}
    bad = Model(encoder__weight=np.zeros((3, 2)), more=np.zeros(1))
    with pytest.raises(CheckpointError) as caught:
        load(path, model=good, other=bad, opt=optimizer, run=epoch, absent=model())
    assert str(caught.value).split("\n") == [
        f"{path} does not fit, and nothing was changed:",
        "  other.encoder.weight: expected shape (3, 2), got (2, 3)",
        "  other.encoder.weight: expected dtype float64, got float32",
        "  other.more: missing, expected float64 of shape (1,)",
        "  other.bias: not expected, got float64 of shape (2,)",
        "  opt.param_groups.0.params.0: expected the parameter 'w', got 'v'",
        "  run.epoch: expected a string, got 1",
        "  absent: not in the file, which holds model, other, opt, run",
    ]
    assert good.loads == 0 and good.weights["bias"].tolist() == [0.0, 0.0] and epoch == {"epoch": "none"}
    assert optimizer.param_groups[0]["momentum"] == 0.9


def test_a_check_with_one_line(path: Path) -> None:
    save(path, opt=optim.SGD([FakeParameter(np.zeros(4))]))
    with pytest.raises(
        CheckpointError, match=r"\n  opt: expected the state of Adam, got that of SGD; nothing was changed$"
    ):
        load(path, opt=optim.Adam([FakeParameter(np.zeros(4))]))


def test_named_and_single_objects_are_not_the_same(path: Path) -> None:
    save(path, model())
    with pytest.raises(CheckpointError, match="model: not in the file, which holds 2 arrays without an object's name"):
        load(path, model=model())
    save(path, model=model())
    with pytest.raises(CheckpointError, match="a single object: not in the file, which holds model"):
        load(path, model())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda p: save(p, 3),
            TypeError,
            r"the object: numbers and text are saved in a dict, as in progress=\{'epoch': 3\}; got 3",
        ),
        (lambda p: save(p.parent / "no" / "x", model()), FileNotFoundError, "there is no such folder to write to"),
        (lambda p: save(p, model=np.zeros(2)), TypeError, r"model: a ndarray has no state_dict\(\)"),
        (
            lambda p: save(p, model(), other=model()),
            TypeError,
            "one object by position or several by name, not both; got also other",
        ),
        (lambda p: save(p, **{"a.b": model()}), ValueError, "non-empty and without a dot, got 'a.b'"),
        (lambda p: save(p, {"a": {"b": {1, 2}}}), TypeError, "a.b: cannot store a set; a state holds arrays"),
        (lambda p: save(p, x={"a": {3: 1}}), TypeError, "x.a: names of a state are strings, got 3"),
        (lambda p: save(p, {"a": np.zeros(2, complex)}), TypeError, "a: cannot store dtype complex128; there are bool"),
        (lambda p: save(p, {"a": np.array(["x"])}), TypeError, "a: cannot store dtype <U1"),
        (lambda p: save(p, {"a": np.array([None])}), TypeError, "a: cannot store dtype object"),
    ],
)
def test_what_cannot_be_saved(path: Path, call: Callable[[Path], None], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(path)
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("content", [b"", b"123", b"no safetensors at all" * 10], ids=["empty", "short", "text"])
def test_a_file_of_another_format(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="expected a complete safetensors file, got"):
        load(path)


def test_a_truncated_file(path: Path) -> None:
    save(path, model=model())
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="expected a complete safetensors file"):
        load(path, model=model())


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "the metadata entry 'lazyflow' is damaged"),
        ("[]", "the metadata entry 'lazyflow' is damaged"),
        (json.dumps({"version": 1, "objects": {"x": 3}}), "expected version 1"),
        (json.dumps({"version": 2, "objects": {}}), "expected version 1 of the format, got 2"),
        (
            json.dumps({"version": 1, "objects": {"x": {"state": {"$array": "x.b"}}}}),
            "the array 'x.b' that its metadata names is missing",
        ),
    ],
)
def test_damaged_metadata(path: Path, metadata: str, message: str) -> None:
    safetensors.numpy.save_file({"x.a": np.zeros(1)}, path, {"lazyflow": metadata})
    with pytest.raises(CheckpointError, match=message):
        load(path, x=Anything())


def test_a_missing_file(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(path)
    with pytest.raises(FileNotFoundError):
        save(path.parent / "no folder" / "x.safetensors", model())


# Atomic writing.


def test_a_failed_write_leaves_the_old_file_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(path, model(1.0))

    def fail(*arguments: Any, **options: Any) -> None:
        Path(arguments[1]).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        save(path, model(2.0))
    assert os.listdir(path.parent) == [path.name]
    assert load(path)["bias"].tolist() == [1.0, 1.0]


def test_an_interrupt_leaves_the_old_file(path: Path) -> None:
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("new")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(path.parent) == [path.name]


def test_the_mode_follows_the_umask_and_links_stay_links(path: Path) -> None:
    before = os.umask(0o027)
    try:
        save(path, model())
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    link = path.with_name("latest")
    link.symlink_to(path)
    save(link, model(5.0))
    assert link.is_symlink() and load(path)["bias"].tolist() == [5.0, 5.0]
