"""Loops that numba compiles, where it is installed (extra ``jit``): printed as modules, and kept on disk.

Compiled code is kept next to the printed source, in a folder of the user's cache, by numba itself; a second process
loads it in milliseconds. Loading is running, so that folder must be the user's alone (`is_private`).

``-hoist-runtime-checks=false``: the checks that rows do not overlap stay with each row. Moved in front of the outer
loop they would ask whether *any* rows overlap, and the columns of one matrix do: then LLVM runs the loop one element at
a time, seven times slower.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import importlib.util
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

from lazyflow import loops
from lazyflow.locks import Lock


@functools.cache
def is_available() -> bool:
    """Whether numba is installed (extra ``jit``)."""
    return importlib.util.find_spec("numba") is not None


PATIENCE = 16  # graphs that are planned by whole arrays first: a script that soon ends need not wait for the compiler


class _Planned:
    """How many graphs this process has planned."""

    count = 0


def note_planning() -> None:
    """Another graph is about to be planned."""
    _Planned.count += 1


def by_loops() -> bool:
    """Whether to plan by the loops of `lazyflow.loops`, which take numba 9 s, or by whole arrays, with the same result:
    once the process has planned `PATIENCE` graphs, or at once where the loops were compiled before."""
    return is_available() and (_Planned.count > PATIENCE or _has_loops())


@functools.cache
def _has_loops() -> bool:
    return is_kept(_source_of_loops())


@functools.cache
def _source_of_loops() -> str:
    return Path(loops.__file__).read_text(encoding="utf-8")


@functools.cache
def _prepare_compiler() -> None:
    import llvmlite.binding as llvm

    llvm.set_option("", "-hoist-runtime-checks=false")


@functools.cache
def _folder() -> Path:
    """Where printed kernels are kept, so that numba finds what it compiled of them before: what lies there is run.

    So it must be a folder that nobody else can write to, or have written to; else it is one of this process alone,
    which ends with it.
    """
    base = Path(os.path.realpath(Path.home())) / ".cache" / "lazyflow" / "kernels"
    with contextlib.suppress(OSError, RuntimeError):
        for folder in (*reversed(base.parents), base):
            folder.mkdir(mode=0o700, exist_ok=True)
        if os.access(base, os.W_OK) and is_private(base):
            return base
    return _own_folder()


def _own_folder() -> Path:
    base = Path(tempfile.mkdtemp(prefix="lazyflow-kernels-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    return base


def is_private(folder: Path) -> bool:
    """Whether nobody but this user and the administrator can have written into a folder, as ssh asks of its keys.

    The folder and all that is in it belong to the user, others may not write there, and there are no links; those above
    it belong to the user or to root, and where others may write, they may not replace what is not theirs (the sticky
    bit). True where there are no owners and modes, as on Windows.
    """
    if not hasattr(os, "geteuid"):
        return True
    above = [path.lstat() for path in folder.parents]
    inside = [entry.stat(follow_symlinks=False) for entry in _entries(folder)]
    return all(map(_is_guarded, above)) and all(map(_is_own, [folder.lstat(), *inside]))


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(Path(entry.path))


_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def _is_own(found: os.stat_result) -> bool:
    kind = stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)
    return kind and found.st_uid == os.geteuid() and not found.st_mode & _OTHERS_WRITE


def _is_guarded(found: os.stat_result) -> bool:
    owned = stat.S_ISDIR(found.st_mode) and found.st_uid in (0, os.geteuid())
    return owned and (not found.st_mode & _OTHERS_WRITE or bool(found.st_mode & stat.S_ISVTX))


@contextlib.contextmanager
def _kept_beside_sources() -> Iterator[None]:
    """What numba decorates in the block it keeps in the folder above, also where its own settings name another."""
    import numba

    config: Any = numba.config
    before, config.CACHE_DIR = config.CACHE_DIR, ""
    try:
        yield
    finally:
        config.CACHE_DIR = before


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of `lazyflow.loops`, compiled when it is first called, with the functions there that it calls; numba
    keeps that on disk, too.

    Raises ``ImportError`` without numba.
    """
    from numba import njit

    # Of a copy among the printed kernels: the folder of the package may not be writable.
    kept = module(_source_of_loops())
    with _loading, _kept_beside_sources():
        found: Callable[..., Any] = njit(cache=True, nogil=True)(_bound(getattr(kept, function.__name__), njit))
    return found


def _bound(function: Any, njit: Callable[..., Any]) -> Any:
    """A function whose calls of functions of its module go to compiled ones."""
    names = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    inner = {n: f for n, f in names.items() if isinstance(f, FunctionType) and f.__module__ == function.__module__}
    called = {n: njit(cache=True, nogil=True)(_bound(f, njit)) for n, f in inner.items()}
    bound = FunctionType(function.__code__, {**function.__globals__, **called}, function.__name__)
    bound.__qualname__, bound.__module__ = function.__qualname__, function.__module__
    return bound


_loading = Lock()


def module(text: str) -> Any:
    """The module of a printed source, loaded; numba keeps what it compiles of it.

    Raises ``ImportError`` without numba.
    """
    _prepare_compiler()
    name = _name(text)
    with _loading:
        return sys.modules[name] if name in sys.modules else _loaded(name, text)


def _name(text: str) -> str:
    return "lazyflow_kernel_" + hashlib.sha256(text.encode()).hexdigest()[:24]


def is_kept(text: str) -> bool:
    """Whether something of a printed source was compiled before, by this process or another."""
    kept = (_folder() / "__pycache__").glob(f"{_name(text)}.*.nbi")
    return next(kept, None) is not None


def _loaded(name: str, text: str) -> Any:
    path = _folder() / f"{name}.py"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        fresh = path.with_suffix(f".{os.getpid()}.tmp")
        fresh.write_text(text, encoding="utf-8")
        fresh.chmod(0o600)
        os.replace(fresh, path)  # whole or not at all: another process may be reading
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _kept_beside_sources():
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # an interrupt must not leave half a module
        raise
    return module


_ROW_COPIES = '''"""Printed by lazyflow; see lazyflow/jit.py."""

from numba import njit


@njit(cache=True, boundscheck=False, nogil=True)
def gather(out, columns, buffer, at, low, widths):
    for i in range(out.shape[0]):
        for k in range(columns.size):
            target = out[i, columns[k] : columns[k] + widths[k]]
            row = buffer[at[k, low + i] : at[k, low + i] + widths[k]]
            for j in range(widths[k]):
                target[j] = row[j]


@njit(cache=True, boundscheck=False, nogil=True)
def add_several(buffer, at, low, rows, columns, widths):
    for i in range(rows.shape[0]):
        for k in range(columns.size):
            target = buffer[at[k, low + i] : at[k, low + i] + widths[k]]
            row = rows[i, columns[k] : columns[k] + widths[k]]
            for j in range(widths[k]):
                target[j] += row[j]


@njit(cache=True, boundscheck=False, nogil=True)
def add(buffer, at, rows, shift, width):
    for i in range(rows.shape[0]):
        target = buffer[at[i] : at[i] + width]
        row = rows[i, shift : shift + width]
        for j in range(width):
            target[j] += row[j]
'''


@functools.cache
def row_copies() -> Any:
    """Copies of rows of a flat buffer, which begin at the elements ``at``.

    ``gather(out, columns, buffer, at, low, widths)``: those of each ``at[k, low:]`` into columns of a matrix;
    ``add_several(buffer, at, low, rows, columns, widths)``: columns of a matrix to them, which may repeat;
    ``add(buffer, at, rows, shift, width)``: the same for one ``at`` and neighbouring columns.
    """
    return module(_ROW_COPIES)
