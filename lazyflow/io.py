"""Checkpoints: named arrays in one safetensors file, checked before anything changes and written atomically.

Works with anything that has ``state_dict()`` and ``load_state_dict(state)``: modules, optimizers, schedules, random
streams, batches; see `lazyflow.state` for the form of a state. The arrays become the file's tensors, under dotted names
(``model.encoder.weight``, ``optimizer.state.0.exp_avg``). What is not an array goes to the file's metadata, as JSON
with a reference in place of each array; a flat dict of arrays needs none, so any other program's safetensors file loads
too.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from lazyflow.device import HostArray, to_host
from lazyflow.errors import CheckpointError
from lazyflow.state import differences, is_array

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, what a killed process has left stays
    fcntl = None  # type: ignore[assignment]

__all__ = ["atomic_path", "load", "save"]

Array = Any
_KEY = "lazyflow"  # of the metadata
_REFERENCE = "$array"
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_SUPPORTED = "bool, integers of 8 to 64 bits, float16, float32, float64"


def save(path: str | os.PathLike[str], object: Any = None, /, **objects: Any) -> None:
    """Write ``object``, or several named ``objects``, to the safetensors file ``path``.

    Each object has a ``state_dict()`` or is a dict of arrays and JSON scalars, which may be nested. A single positional
    object is stored under its own names, named ones under ``name.``. Arrays on a GPU are copied to the host. The file
    appears complete or not at all: an error leaves an older file of that name as it was. What a process that was killed
    while it wrote has left beside the file is removed by the next save of that name.

    Raises ``TypeError`` for what cannot be stored (naming the entry) and ``OSError`` when the file cannot be written,
    a full disk included.

    >>> import numpy as np, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "weights.safetensors")
    >>> save(path, {"w": np.zeros((2, 3), np.float32)})
    >>> load(path)["w"].shape
    (2, 3)
    """
    arrays: dict[str, HostArray] = {}
    skeletons = {name: _stored(_state(name, value), name, arrays) for name, value in _named(object, objects).items()}
    metadata = {_KEY: json.dumps({"version": 1, "objects": skeletons}, ensure_ascii=False)}
    with atomic_path(path) as temporary:
        try:
            safetensors.numpy.save_file(arrays, temporary, metadata=metadata)
        except safetensors.SafetensorError as error:
            raise _as_os_error(error, path) from None


def _as_os_error(error: Exception, path: str | os.PathLike[str]) -> OSError:
    """The library gives what the system said, a full disk say, in words with the number in brackets."""
    number = re.search(r"os error (\d+)", str(error))
    if number is None:
        return OSError(f"{path}: could not be written: {error}")
    return OSError(int(number[1]), os.strerror(int(number[1])), os.fspath(path))


def load(path: str | os.PathLike[str], object: Any = None, /, **objects: Any) -> dict[str, Array]:
    """Read ``path``, restore the given objects in place, and return all arrays of the file by name.

    Objects take back what `save` stored under the same name. The file may hold more objects than are asked for. A dict
    given as an object must have the entries of the saved one, and is updated; a list of numbers and strings in it, such
    as a history of losses, may have another length.

    Raises `CheckpointError` that lists every missing, unexpected, misshapen or differently typed entry of all objects,
    and every value that an object cannot go on with, and changes none of them; also for a file that is damaged or no
    safetensors file. An object of another library, whose ``load_state_dict`` may raise what it likes because it has no
    ``check_state_dict``, is given its state before the others.

    >>> import numpy as np, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "run.safetensors")
    >>> save(path, weights={"w": np.ones(2)}, progress={"epoch": 3})
    >>> progress = {"epoch": 0}
    >>> sorted(load(path, progress=progress)), progress
    (['weights.w'], {'epoch': 3})
    >>> load(path, weights={"w": np.ones(3)})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    lazyflow.errors.CheckpointError: ...run.safetensors does not fit, and nothing was changed:
      weights.w: expected shape (3,), got (2,)
    """
    arrays, skeletons = _read(path)
    targets = _named(object, objects)
    states, problems = {}, []
    for name, target in targets.items():
        if name in skeletons or (not skeletons and name == ""):
            try:
                states[name] = _restored(skeletons.get(name, {}), name, arrays, path)
                problems.extend(_problems(name, target, states[name]))
            except RecursionError:
                problems.append(f"{name or 'the object'}: nested too deeply")
        else:
            problems.append(f"{name or 'a single object'}: not in the file, which holds {_contents(skeletons, arrays)}")
    if problems:
        raise CheckpointError("\n  ".join([f"{path} does not fit, and nothing was changed:", *problems]))
    for name, target in sorted(targets.items(), key=lambda item: _checks(item[1])):
        _assign(target, states[name])
    return arrays


def _checks(target: Any) -> bool:
    """Whether nothing can fail any more once the states were compared."""
    return isinstance(target, MutableMapping) or callable(getattr(target, "check_state_dict", None))


def _contents(skeletons: Mapping[str, Any], arrays: Mapping[str, Array]) -> str:
    named = ", ".join(name for name in skeletons if name)
    return named or f"{len(arrays)} arrays without an object's name (load them with load(path, object))"


def _named(single: Any, objects: Mapping[str, Any]) -> dict[str, Any]:
    """The objects by name; a single positional one has the empty name, under which nothing is prefixed."""
    if single is not None:
        if objects:
            raise TypeError(f"give one object by position or several by name, not both; got also {', '.join(objects)}")
        return {"": single}
    for name in objects:
        if "." in name or not name:
            raise ValueError(f"the name of an object must be non-empty and without a dot, got {name!r}")
    return dict(objects)


def _state(name: str, value: Any) -> Any:
    if callable(getattr(value, "state_dict", None)):
        return value.state_dict()
    if isinstance(value, Mapping):
        return value
    if value is None or isinstance(value, int | float | str):
        raise TypeError(
            f"{name or 'the object'}: numbers and text are saved in a dict, as in progress={{'epoch': 3}}; "
            f"got {value!r}"
        )
    raise TypeError(
        f"{name or 'the object'}: a {type(value).__name__} has no state_dict(); "
        "give a module, an optimizer or a dict of arrays"
    )


# Writing: a state becomes arrays with names and, unless it is a flat dict of arrays, a JSON skeleton that refers to
# them.


def _stored(state: Any, name: str, arrays: dict[str, HostArray]) -> Any:
    flat = isinstance(state, Mapping) and all(is_array(value) for value in state.values())
    skeleton = _skeleton(state, name, arrays)
    return {} if flat else {"state": skeleton}


def _skeleton(state: Any, path: str, arrays: dict[str, HostArray]) -> Any:
    if is_array(state):
        return {_REFERENCE: _keep(state, path, arrays)}
    if isinstance(state, Mapping):
        for key in state:
            if not isinstance(key, str) or key == _REFERENCE:
                raise TypeError(f"{path or 'the object'}: names of a state are strings, got {key!r}")
        return {key: _skeleton(value, f"{path}.{key}" if path else key, arrays) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [_skeleton(value, f"{path}.{index}", arrays) for index, value in enumerate(state)]
    if state is None or isinstance(state, str | int | float):
        return state
    raise TypeError(
        f"{path}: cannot store a {type(state).__name__}; "
        "a state holds arrays, numbers, strings, booleans, None, dicts and lists"
    )


def _keep(value: Any, path: str, arrays: dict[str, HostArray]) -> str:
    """File ``value`` under ``path``, or under the next free name when a key with dots has taken it."""
    array = np.asarray(to_host(value))
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(f"{path}: cannot store dtype {array.dtype}; there are {_SUPPORTED}")
    name, number = path, 1
    while name in arrays:
        number += 1
        name = f"{path}#{number}"
    # safetensors writes the memory as it lies, whatever the strides; np.ascontiguousarray would give a scalar an axis
    arrays[name] = array if array.flags.c_contiguous else array.copy(order="C")
    return name


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside ``path`` to write to, which takes its place when the block ends without an error.

    The data are on the disk before the name changes, so a crash leaves the old file or the new one; after an error the
    temporary file is removed. That of a process that was killed is removed by the next block for the same ``path``.

    >>> import os, tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic_path(path) as temporary:
    ...     _ = temporary.write_text("complete")
    >>> path.read_text(), os.listdir(path.parent)
    ('complete', ['a.txt'])
    """
    target = Path(os.path.realpath(path))  # replace what a link points to, not the link
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder to write to", str(target.parent))
    _sweep(target)
    temporary, lock = _locked_temporary(target)
    try:
        mode = temporary.stat().st_mode  # as the user's umask has it; a library that writes may set another
        yield temporary
        temporary.chmod(mode)
        _flush(temporary, os.O_RDWR)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    finally:
        os.close(lock)
    if hasattr(os, "O_DIRECTORY"):
        _flush(target.parent, os.O_RDONLY)


# Whoever writes a temporary file holds a lock on it, which the system lifts when the process ends, however it ends. So
# a file of this pattern that can be locked is one that nobody writes any more, in whatever process or thread.


def _locked_temporary(target: Path) -> tuple[Path, int]:
    """A new temporary file for ``target`` and the descriptor that holds its lock."""
    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        _lock(descriptor)
        if os.fstat(descriptor).st_nlink:  # 0: another process has swept it before it was locked
            return temporary, descriptor
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether the file was locked, which nobody else had done; False also where there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sweep(target: Path) -> None:
    """Remove the temporary files of ``target`` that killed processes have left."""
    pattern = re.compile(re.escape(f".{target.name}.") + r"[0-9a-f]{16}\.tmp")
    with contextlib.suppress(OSError):  # a folder that is missing or cannot be listed: writing will say so
        for name in os.listdir(target.parent):
            if pattern.fullmatch(name):
                _remove_stale(target.with_name(name))


def _remove_stale(temporary: Path) -> None:
    with contextlib.suppress(OSError):  # gone meanwhile, or another user's
        descriptor = os.open(temporary, os.O_WRONLY | _NOFOLLOW)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode) and _lock(descriptor):
                temporary.unlink()
        finally:
            os.close(descriptor)


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Reading: the skeletons say what belongs to which object; without one, an object is the arrays under its name.


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, Any]]:
    try:
        with safetensors.safe_open(os.fspath(path), framework="numpy") as file:  # type: ignore[no-untyped-call, unused-ignore]
            arrays = {name: _tensor(file, name, path) for name in sorted(file.keys())}
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path}: expected a complete safetensors file, got: {error}") from None
    return arrays, _skeletons(path, metadata)


def _tensor(file: Any, name: str, path: str | os.PathLike[str]) -> Array:
    try:
        return file.get_tensor(name)
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:  # a dtype that NumPy has not
        raise CheckpointError(f"{path}: cannot read the array {name!r} ({error}); there are {_SUPPORTED}") from None


def _skeletons(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    if _KEY not in metadata:
        return {}
    try:
        header = json.loads(metadata[_KEY])
        version, objects = header["version"], header["objects"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: the metadata entry {_KEY!r} is damaged: {error!r}") from None
    if version != 1 or not isinstance(objects, dict) or not all(isinstance(value, dict) for value in objects.values()):
        raise CheckpointError(
            f"{path}: expected version 1 of the format, got {version!r}; it was written by a newer lazyflow"
        )
    return objects


def _restored(skeleton: Any, name: str, arrays: Mapping[str, Array], path: str | os.PathLike[str]) -> Any:
    if "state" not in skeleton:
        prefix = f"{name}." if name else ""
        return {key[len(prefix) :]: array for key, array in arrays.items() if key.startswith(prefix)}
    return _filled(skeleton["state"], arrays, path)


def _filled(skeleton: Any, arrays: Mapping[str, Array], path: str | os.PathLike[str]) -> Any:
    if isinstance(skeleton, list):
        return [_filled(value, arrays, path) for value in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if _REFERENCE not in skeleton:
        return {key: _filled(value, arrays, path) for key, value in skeleton.items()}
    name = skeleton[_REFERENCE]
    if not isinstance(name, str) or name not in arrays:
        raise CheckpointError(f"{path}: the array {name!r} that its metadata names is missing")
    return arrays[name]


def _problems(name: str, target: Any, state: Any) -> list[str]:
    """The differences between a target and what the file holds for it, each with the object's name in front."""
    prefix = f"{name}." if name else ""
    if not callable(getattr(target, "check_state_dict", None)):
        return [prefix + line for line in differences(_state(name, target), state, lists_grow=True)]
    try:
        target.check_state_dict(state)
    except CheckpointError as error:
        first, *rest = str(error).split("\n")
        return [prefix + line.strip() for line in rest] if rest else [f"{name}: {first}" if name else first]
    return []


def _assign(target: Any, state: Any) -> None:
    if isinstance(target, MutableMapping):
        target.update(state)
    else:
        target.load_state_dict(state)
