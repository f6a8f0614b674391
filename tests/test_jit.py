"""Kernels on disk: written whole, loaded once, and only from a folder of one's own."""

import importlib.util
import os
import stat
import sys
import tempfile
import threading

import pytest

from lazyflow import jit

needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs numba: the extra jit")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A home of its own, and a folder for temporary files."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    jit._folder.cache_clear()
    yield tmp_path
    jit._folder.cache_clear()


def forget(text):
    module = jit.module(text)
    del sys.modules[module.__name__]
    return module


@needs_numba
def test_a_module_is_written_whole_and_loaded_once(elsewhere):
    text = "VALUE = 17\n"
    module = jit.module(text)
    assert (module.VALUE, jit.module(text) is module) == (17, True)
    [path] = (elsewhere / "home" / ".cache" / "lazyflow" / "kernels").glob("*")
    assert path.read_text(encoding="utf-8") == text
    path.write_text("VALUE = 1", encoding="utf-8")
    del sys.modules[module.__name__]
    assert forget(text).VALUE == 17


@needs_numba
def test_several_threads_load_one_module(elsewhere):
    text, found = "VALUE = 18\n", []
    threads = [threading.Thread(target=lambda: found.append(jit.module(text))) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 8
    assert {id(m) for m in found} == {id(forget(text))}


def changed_mode(path, mode):
    path.chmod(mode)


def foreign(path):
    os.chown(path, 12345, 12345)


def linked(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


AS_ROOT = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs the permissions of POSIX")
@pytest.mark.parametrize("what", ["kernels", "lazyflow", ".cache", "home", "__pycache__", "kernel.py", "kernel.nbi"])
@pytest.mark.parametrize(
    "planted",
    [
        pytest.param(lambda path: changed_mode(path, 0o777), id="world-writable"),
        pytest.param(lambda path: changed_mode(path, 0o720), id="group-writable"),
        pytest.param(foreign, id="of another user", marks=AS_ROOT),
        pytest.param(linked, id="a link"),
    ],
)
def test_nothing_is_loaded_from_where_others_can_write(elsewhere, what, planted):
    kernels = elsewhere / "home" / ".cache" / "lazyflow" / "kernels"
    (kernels / "__pycache__").mkdir(parents=True)
    for folder in (kernels, kernels / "__pycache__", *list(kernels.parents)[:3]):
        folder.chmod(0o755)
    files = [kernels / "kernel.py", kernels / "__pycache__" / "kernel.nbi"]
    for file in files:
        file.write_text("raise SystemExit('planted')", encoding="utf-8")
        file.chmod(0o644)
    assert jit._folder() == kernels
    jit._folder.cache_clear()
    [target] = [p for p in (*files, kernels / "__pycache__", kernels, *kernels.parents) if p.name == what][:1]
    planted(target)
    if what == "home" and target.is_symlink():
        assert jit._folder() == target.resolve() / kernels.relative_to(target)  # the home itself may be a link
        return
    found = jit._folder()
    assert found.parent == elsewhere and found != kernels
    assert stat.S_IMODE(found.stat().st_mode) == 0o700 and not list(found.iterdir())


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs the permissions of POSIX")
def test_a_folder_of_ones_own_below_a_sticky_one(elsewhere):
    (elsewhere / "home").mkdir(mode=0o700)
    (elsewhere / "home").chmod(0o1777)
    kernels = elsewhere / "home" / ".cache" / "lazyflow" / "kernels"
    assert jit._folder() == kernels and stat.S_IMODE(kernels.stat().st_mode) == 0o700


@needs_numba
def test_numba_keeps_nothing_elsewhere(elsewhere, monkeypatch):
    from numba import config

    monkeypatch.setattr(config, "CACHE_DIR", str(elsewhere / "shared"))
    text = "from numba import njit\n\n\n@njit(cache=True)\ndef half(x):\n    return x / 2\n"
    assert jit.module(text).half(3.0) == 1.5
    assert not (elsewhere / "shared").exists() and str(elsewhere / "shared") == config.CACHE_DIR
    assert jit.is_kept(text)


def test_a_home_that_cannot_be_written_to(elsewhere):
    (elsewhere / "home").write_text("no folder", encoding="utf-8")
    assert jit._folder().parent == elsewhere


def test_graphs_are_planned_by_loops_once_there_were_some(monkeypatch):
    """At once where the loops were compiled before."""
    monkeypatch.setattr(jit, "is_available", lambda: True)
    for kept in (False, True):
        monkeypatch.setattr(jit, "_has_loops", lambda kept=kept: kept)
        monkeypatch.setattr(jit._Planned, "count", 0)
        found = []
        for _ in range(jit.PATIENCE + 2):
            jit.note_planning()
            found.append(jit.by_loops())
        assert found == [kept] * jit.PATIENCE + [True] * 2
