"""``python -m benchmarks decisions``: every part runs, and nothing is timed that is not equal."""

import numpy as np
import pytest

import lazyflow as lf
from benchmarks import __main__ as cli
from benchmarks import decisions
from benchmarks.breadth.base import has
from benchmarks.decisions import others, parsing

ARGUMENTS = ["--small", "--sentences", "6", "--batch", "3", "--rounds", "30"]
OURS = [parsing.MAP, parsing.LOOP, parsing.HAND, parsing.UNASKED]


def options(*arguments):
    return cli.parser().parse_args(["decisions", *ARGUMENTS, *arguments])


def small(libraries=()):
    task = parsing.task(None, 6, 3, small=True)
    return task, parsing.candidates(task, libraries)


def test_every_part_runs(capsys):
    results = decisions.run(options("--libraries"))
    assert list(results["parser"]["train"]) == list(results["parser"]["infer"]) == OURS
    assert all(one["per_s"] > 0 for one in results["parser"]["train"].values())
    found = results["parser"]["launches"]
    assert found["rows"] == pytest.approx(found["bound"]) and found["rounds"] < found["launches"]
    assert set(results["rounds"]) == {"training", "inference"} and len(results["gains"]["models"]) == 5
    printed = capsys.readouterr().out
    assert "at round 30" in printed and "nothing is asked for" in printed


@pytest.mark.peer
@pytest.mark.parametrize("name", parsing.PEERS)
def test_the_peers_parse_and_learn_alike(name):
    if not has(name):
        pytest.skip(f"compared with {parsing.PEERS[name]}, which is not installed (extra 'peers')")
    task, found = small([name])
    assert len(found) == len(OURS) + 2
    parsing.check_equal(task, found)


def test_what_is_not_equal_is_not_timed():
    task, found = small()
    found[parsing.HAND].library.parser.hidden.weight.assign(np.ones((5, 32)))
    with pytest.raises(AssertionError, match="by hand"):
        parsing.check_equal(task, found)


def test_the_writer_draws_the_same_by_a_map_of_one_at_a_time():
    lf.seed(0)
    writer = others.Writer(20, 4)
    found = []
    for together in (None, 1):
        lf.seed(1)
        with lf.no_grad():
            found.append(lf.map(writer.write, [1, 2, 3], together=together))
    assert found[0] == found[1]
