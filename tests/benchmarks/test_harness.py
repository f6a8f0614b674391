"""Measuring side by side: the order of the runs, medians and ratios, tables and saved results."""

from __future__ import annotations

import json

import pytest

from benchmarks import harness


def test_candidates_alternate_and_get_the_round():
    calls = []
    found = harness.alternate({name: lambda r, name=name: calls.append((name, r)) or r for name in "ABC"}, 5)
    assert calls == [(name, r) for r in range(5) for name in "ABC"]
    assert found == {name: [0, 1, 2, 3, 4] for name in "ABC"}


def test_too_few_rounds_for_a_median_are_refused():
    with pytest.raises(ValueError, match="at least 5 repeats, got 4"):
        harness.alternate({"A": lambda r: r}, 4)


@pytest.mark.parametrize(
    ("numerators", "denominators", "ratio"),
    [([2.0], [1.0], 2.0), ([1.0, 10.0, 100.0], [1.0, 5.0, 10.0], 2.0), ([1.0, 3.0], [1.0, 1.0], 2.0)],
)
def test_ratios_are_paired(numerators, denominators, ratio):
    assert harness.paired_ratio(numerators, denominators) == ratio


def test_a_part_that_a_round_lacks_counts_as_zero():
    assert harness.median_of_parts([{"a": 1.0, "b": 4.0}, {"a": 3.0}, {"a": 2.0}]) == {"a": 2.0, "b": 0.0}


def test_table():
    text = harness.table(
        ["name", "n"], [["short", 1], ["a longer name", 1_234_567], ["none", None], ["float", 0.12345]]
    )
    assert text.splitlines() == [
        "name                   n",
        "short                  1",
        "a longer name  1,234,567",
        "none                   -",
        "float              0.123",
    ]


def test_a_stopwatch_adds_up_its_laps(monkeypatch):
    times = iter([0.0, 1.0, 3.0, 10.0, 14.0])
    monkeypatch.setattr(harness.time, "perf_counter", lambda: next(times))
    watch = harness.Stopwatch()
    watch.start()
    watch.lap("forward")
    watch.lap("backward")
    watch.start()
    watch.lap("forward")
    assert watch.take() == {"forward": 5.0, "backward": 2.0}
    assert watch.take() == {}


@pytest.mark.parametrize(("threads", "number"), [("1", "1"), ("3", "3"), ("all", str(harness.cores()))])
def test_thread_environment(threads, number):
    environment = harness.thread_environment(threads)
    assert {environment[name] for name in harness.THREAD_VARIABLES} == {number}
    assert "PATH" in environment


def test_results_are_saved_with_the_machine(tmp_path):
    path = harness.save("launches", "all", {"answer": 42}, tmp_path / "new")
    assert path == tmp_path / "new" / "launches-all.json"
    saved = json.loads(path.read_text())
    assert saved["answer"] == 42 and saved["benchmark"] == "launches"
    assert set(saved["machine"]) == {"cpu", "cores", "threads", "system", "python", "numpy", "kernels", "notes", "date"}
