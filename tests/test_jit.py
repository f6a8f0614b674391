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


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs the permissions of POSIX")
def test_a_folder_that_others_can_write_to_is_not_used(elsewhere):
    planted = elsewhere / f"lazyflow-kernels-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    found = jit._temporary_folder()
    assert found != planted
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    planted.chmod(0o700)
    assert jit._temporary_folder() == planted


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
