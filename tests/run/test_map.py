"""`lf.map`: what a loop over the examples gives, in fewer launches. The reference is that loop."""

import contextlib
import gc
import io
import sys
import threading
import traceback
import weakref
from contextvars import ContextVar

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import map as mapped
from lazyflow import nn, optim
from lazyflow.record import tape
from tests import simcupy
from tests.deciding import XS, maps, needs_fibers, parameter, steps


def gradient(w, outputs):
    w.zero_grad()
    lf.sum([lf.sum(h) for h in outputs]).backward()
    return w.grad


@pytest.mark.parametrize("together", [None, 1, 2, 3, 100])
def test_values_and_gradients_are_those_of_a_loop(together):
    w = parameter(1, 3, 3)
    expected = [steps(w, x) for x in XS]
    found = lf.map(lambda x: steps(w, x), XS, together=together)
    assert [count for _, count in found] == [count for _, count in expected]
    assert len({count for _, count in expected}) > 2, "the examples decide differently"
    for (h, _), (k, _) in zip(found, expected, strict=True):
        np.testing.assert_allclose(h.numpy(), k.numpy())
    np.testing.assert_allclose(gradient(w, [h for h, _ in found]), gradient(w, [h for h, _ in expected]))


def test_what_is_not_asked_for_raises_nothing():
    w = lf.Parameter(2.0)

    def fn(x):
        with lf.using(check_finite=True):
            hidden = lf.log(-w * x)
            return (w * x).item(), hidden.shape

    assert lf.map(fn, [1.0, 2.0]) == [(2.0, ()), (4.0, ())]
    none = lf.constant(np.zeros((2, 2)))
    assert lf.map(lambda x: [lf.inv(none * x), (w * x).item()][1], [1.0, 2.0]) == [2.0, 4.0]


@pytest.mark.gpu
@needs_fibers
def test_the_answers_of_a_round_are_one_transfer():
    if sys.modules.get("cupy") is not simcupy.namespace.CUPY:
        pytest.skip("only the simulator counts transfers: --device simulated")
    with lf.using(device="cuda:0"):
        w = parameter(1, 3, 3)
        expected = [(lf.tanh(w @ x)).numpy() for x in XS]
        with simcupy.counting() as seen:
            found = lf.map(lambda x: lf.tanh(w @ x).numpy(), XS)
    assert seen.d2h == 1
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    found[0][:] = 0
    np.testing.assert_allclose(found[1:], expected[1:], rtol=1e-6)


@pytest.mark.gpu
def test_the_values_of_several_expressions_are_one_transfer():
    if sys.modules.get("cupy") is not simcupy.namespace.CUPY:
        pytest.skip("only the simulator counts transfers: --device simulated")
    with lf.using(device="cuda:0"):
        w = parameter(1, 3, 3)
        expected = [lf.tanh(w @ x).numpy() for x in XS]
        with simcupy.counting() as seen:
            found = lf.forward([lf.tanh(w @ x) for x in XS])
    assert seen.d2h == 1
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_several_iterables_end_with_the_shortest_as_pythons_map_does():
    assert lf.map(lambda x, y: float(x + y), map(lf.constant, [1.0, 2.0, 3.0]), iter([10.0, 20.0])) == [11.0, 22.0]
    assert lf.map(float, []) == []


def test_what_is_no_function_and_no_number_is_refused():
    with pytest.raises(TypeError, match="fn must be a function"):
        lf.map([1.0], float)
    with pytest.raises(TypeError, match="give the examples"):
        lf.map(float)
    for together in (0, -1, 1.5, True, "all"):
        with pytest.raises(ValueError, match="together must be"):
            lf.map(float, [1.0], together=together)


ASKING = {
    "item": lambda x: x.item(),
    "numpy": lambda x: x.numpy().item(),
    "bool": lambda x: bool(x),
    "float": lambda x: float(x),
    "int": lambda x: int(x),
    "if": lambda x: 1 if x > 2 else 0,
    "while": lambda x: next(k for k in range(9) if not x > k),
    "format": lambda x: float(f"{x:.3f}"),
    "index": lambda x: list(range(9))[x.astype("int64")],
    "array": lambda x: np.asarray(x.detach()).item(),
    "forward": lambda x: x.forward().item(),
    "forward of a list": lambda x: lf.forward([x, x + 1])[1].item(),
    "argmax": lambda x: lf.stack([x, 5 - x]).argmax().item(),
    "compared": lambda x: x == 3.0 and 7,
    "maximum": lambda x: max([x, x * 0 + 2], key=float).item(),
    "sorted": lambda x: [float(e) for e in sorted([x, lf.constant(2.5)])],
    "assigned": lambda x: float(lf.Parameter(x.detach())),
    "gradient": lambda x: lf.grad(lambda y: y * y)(x).item(),
}


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_every_way_to_ask_waits_for_the_others(ask):
    w = lf.Parameter(2.0)
    expected = [ask(w * x) for x in (0.5, 1.5, 2.0)]
    with lf.rounds() as seen:
        assert lf.map(lambda x: ask(w * x), (0.5, 1.5, 2.0)) == expected
    if maps.greenlet is not None:
        assert seen.seen[0].examples == 3


def test_nothing_asked_for_nothing_computed():
    w = lf.Parameter(2.0)
    with lf.rounds() as seen:
        losses = lf.map(lambda x: w * x, [1.0, 2.0])
    assert not seen.seen and losses[0].tape is losses[1].tape and losses[0].tape.computed is None
    assert str(seen).startswith("0 rounds")
    lf.sum(losses).backward()
    assert w.grad == 3


# The context


def test_blocks_inside_belong_to_the_example():
    w = lf.Parameter(2.0)

    def fn(x):
        with contextlib.ExitStack() as blocks:
            if x % 2:
                blocks.enter_context(lf.no_grad())
                blocks.enter_context(lf.using(dtype="float64"))
            first = w * x
            assert first.item() == 2 * x
            second = w * x + first
            return first.requires_grad, second.requires_grad, lf.constant([x]).dtype, (second + 1).item()

    found = lf.map(fn, [1.0, 2.0, 3.0, 4.0])
    assert found == [
        (x % 2 == 0, x % 2 == 0, np.dtype("f8" if x % 2 else "f4"), 4 * x + 1) for x in (1.0, 2.0, 3.0, 4.0)
    ]
    assert (w * 1.0).requires_grad


def test_an_example_begins_with_a_copy_of_the_callers_context():
    name = ContextVar("name", default="none")
    name.set("outside")

    def fn(x):
        before = name.get()
        name.set(str(x))
        lf.constant(x).forward()
        assert (lf.constant(x) + 1).item() == x + 1
        return before, name.get()

    with lf.no_grad():
        assert not lf.map(lambda x: (lf.Parameter(1.0) * x).requires_grad, [1.0])[0]
        assert lf.map(fn, [1.0, 2.0]) == [("outside", "1.0"), ("outside", "2.0")]
    assert name.get() == "outside"


@pytest.mark.parametrize("batching", ["none", "depth"])
def test_settings_of_a_run_are_those_of_the_example_that_asks(batching):
    w = lf.Parameter([2.0, 3.0])

    def fn(x):
        with lf.using(batching=batching if x > 2 else "phases", check_finite=x > 2):
            return lf.sum(lf.tanh(w) * x).item()

    with lf.rounds() as seen:
        found = lf.map(fn, [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(found, np.tanh([2.0, 3.0]).sum() * np.arange(1, 5), rtol=1e-6)
    if maps.greenlet is not None:
        assert [r.examples for r in seen.seen] == [2, 2]


def test_generators_and_context_managers_keep_their_places():
    w, ended = lf.Parameter(0.5), []

    def halves(x):
        try:
            while x > 1:
                yield x
                x = w * x
        finally:
            ended.append(x.item())

    @contextlib.contextmanager
    def block(x):
        with lf.no_grad():
            yield (w * x).item()

    def fn(x):
        with block(x) as half:
            return [float(h) for h in halves(lf.constant(x))], half

    assert lf.map(fn, [1.0, 4.0, 3.0]) == [([], 0.5), ([4.0, 2.0], 2.0), ([3.0, 1.5], 1.5)]
    assert sorted(ended) == [0.75, 1.0, 1.0]


# Random numbers


def drawing(x):
    """Draws by the default stream, by dropout, in a cell, as an example's decisions want it."""
    h = lf.constant([x, x]) + lf.normal((2,))
    found = [h.numpy()]
    while lf.uniform() < 0.6:
        h = CELL(lf.dropout(h, 0.5))
        found.append(h.numpy())
    found.append(lf.random.generator().normal(size=2))
    return np.concatenate(found)


@lf.cell
def CELL(h):
    return h + lf.uniform((2,))


@pytest.mark.parametrize("together", [1, 2, 4, 100])
def test_draws_do_not_depend_on_turns(together):
    lf.seed(3)
    expected = [lf.map(drawing, range(9)), lf.map(drawing, range(9)), lf.normal().item()]
    lf.seed(3)
    found = [lf.map(drawing, range(9), together=together) for _ in range(2)]
    for some, others in zip(found, expected, strict=False):
        for a, b in zip(some, others, strict=True):
            np.testing.assert_array_equal(a, b)
    assert lf.normal().item() == expected[-1], "the stream outside stands where it stood"
    values = np.concatenate([a[:2] - i for some in found for i, a in enumerate(some)])
    assert len(set(values.tolist())) == len(values), "all examples of all maps draw differently"


def test_streams_that_are_given_are_the_examples_own_and_those_made_inside_are_as_made():
    given = lf.Stream(5)
    layer = nn.Dropout(0.5, stream=given)

    def fn(x):
        own = lf.Stream(int(x))
        first = layer(lf.constant(np.full(64, x))).numpy()
        return first, lf.uniform(stream=own).item(), own.state_dict(), lf.uniform(stream=given).item()

    found = lf.map(fn, [1.0, 2.0, 1.0])
    given.reseed(5)
    for a, b in zip(found, lf.map(fn, [1.0, 2.0, 1.0], together=1), strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:] == b[1:]
    assert found[0][1] == found[2][1] == lf.uniform(stream=lf.Stream(1)).item()
    assert found[0][2] == {"seed": 1, "count": 1}
    assert not np.array_equal(found[0][0], found[2][0]) and found[0][3] != found[2][3]
    assert given.count == 1, "a map takes one draw of a stream, whatever happens inside"


def test_draws_inside_of_inner_maps():
    def outer(n, together):
        return lf.map(lambda k: lf.normal().item() + k, range(n), together=together)

    lf.seed(1)
    found = lf.map(lambda n: outer(n, None), [3, 1, 4])
    lf.seed(1)
    assert lf.map(lambda n: outer(n, 2), [3, 1, 4], together=1) == found


def test_a_kept_root_draws_anew():
    w = lf.Parameter(1.0)
    lf.seed(4)
    kept = lf.map(lambda x: (w * lf.normal(), CELL(w * lf.constant([x, x]))), [1.0, 2.0])
    first = [e.numpy().copy() for pair in kept for e in pair]
    w.assign(1.0)
    second = [e.forward().numpy() for pair in kept for e in pair]
    assert all((a != b).all() for a, b in zip(first, second, strict=True))


# Errors and interrupts


class Broken(Exception):
    pass


@pytest.mark.parametrize("error", [Broken("no"), KeyboardInterrupt(), SystemExit(3)], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("together", [None, 3, 1])
def test_an_error_ends_the_others_and_names_its_example(error, together):
    w, ended = lf.Parameter(0.5), []

    def fn(x, name):
        try:
            with lf.no_grad():
                for k in range(5):
                    if k == 2 and name == "third":
                        fails(error)
                    x = w * x
                    x.item()
        finally:
            ended.append((name, (x * 2).shape, (x * 2).item()))

    names = ["first", "second", "third", "fourth"]
    with pytest.raises(type(error)) as caught:
        lf.map(fn, [lf.constant(x) for x in (8.0, 4.0, 2.0, 1.0)], names, together=together)
    assert caught.value is error
    assert any("example 2 of lf.map" in note and "'third'" in note for note in error.__notes__)
    assert [f.name for f in traceback.extract_tb(error.__traceback__)][-2:] == ["fn", "fails"]
    begun = {None: names, 3: names[:3], 1: names[:3]}[together if maps.greenlet is not None else 1]
    assert {name for name, _, _ in ended} == set(begun)
    assert lf.uniform().item() >= 0 and (w * 1.0).requires_grad
    assert lf.map(lambda x: (w * x).item(), [2.0]) == [1.0]


def fails(error):
    raise error


@needs_fibers
def test_errors_of_those_that_are_ended_are_told():
    w = lf.Parameter(1.0)

    def fn(x):
        try:
            (w * x).item()
            if x == 1:
                raise Broken("first")
            (w * x + 1).item()
        finally:
            if x == 2:
                raise ValueError("second")

    with pytest.raises(Broken, match="first") as caught:
        lf.map(fn, [1.0, 2.0, 3.0])
    assert any("example 1" in note and "ValueError: second" in note for note in caught.value.__notes__)


@needs_fibers
def test_one_that_does_not_give_up_is_let_run_to_its_end():
    w, seen = lf.Parameter(1.0), []

    def stubborn(x):
        try:
            for k in range(4):
                if x == 0 and k == 2:
                    raise Broken
                try:
                    seen.append((w * (x + k)).item())
                except maps.GreenletExit:
                    seen.append("ended")
        except Broken:
            raise

    with pytest.raises(Broken):
        lf.map(stubborn, [0.0, 10.0])
    assert seen == [0, 10, 1, "ended", 12, 13]


def test_an_error_of_a_value_is_raised_where_it_was_asked_for():
    w = lf.Parameter(1.0)

    def fn(x):
        with lf.using(check_finite=True):
            try:
                found = lf.log(w * x).item()
            except lf.NonFiniteError:
                found = None
            return found, (w * x + 1).item()

    assert lf.map(fn, [1.0, -1.0, 1.0]) == [(0.0, 2.0), (None, 0.0), (0.0, 2.0)]


@pytest.mark.host
def test_an_error_of_a_kernel_belongs_to_its_example():
    with pytest.raises(np.linalg.LinAlgError) as caught:
        lf.map(lambda x: lf.inv(lf.constant(x)).numpy(), [np.eye(2), np.ones((2, 2)) * 0, np.eye(2)])
    assert "example 1" in caught.value.__notes__[0]


def test_leaving_a_greenlet_by_its_own_error_is_no_result():
    if maps.greenlet is None:
        pytest.skip("greenlet is not installed")
    with pytest.raises(maps.GreenletExit):
        lf.map(lambda x: fails(maps.GreenletExit()), [1.0, 2.0])


@needs_fibers
def test_a_backward_that_cannot_be_belongs_to_its_example():
    w = lf.Parameter(2.0)

    def fn(x):
        try:
            ((w if x else lf.constant(1.0)) * x).backward()
        except lf.GradientError:
            return "none"
        return "some"

    assert lf.map(fn, [1.0, 0.0, 3.0]) == ["some", "none", "some"]
    assert w.grad == 4


def test_a_value_inside_of_a_cell_is_refused_as_ever():
    @lf.cell
    def decides(h):
        return h if lf.sum(h) > 0 else -h

    with pytest.raises(lf.CellError):
        lf.map(lambda x: decides(lf.constant(x)), [np.ones(2), np.ones(2)])


# What belongs to all examples


def test_an_example_trains_what_is_its_own():
    def fn(start):
        w = lf.Parameter(start)
        optimizer = optim.SGD([w], lr=0.25)
        while (loss := (w - 3.0) * (w - 3.0)) > 1e-3:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return w.item()

    with lf.rounds() as seen:
        found = lf.map(fn, [0.0, 2.0, 9.0])
    assert found == [fn(x) for x in (0.0, 2.0, 9.0)]
    assert maps.greenlet is None or seen.seen[1].examples == 3, "they go backward together, too"


def test_backward_inside_adds_to_the_gradients():
    w, seen = parameter(2, 3), []

    def fn(x):
        loss = lf.sum(lf.tanh(w * x))
        hidden = w * loss.item()
        hidden.register_hook(lambda g: seen.append((w * x)[0].item()))
        (loss + lf.sum(hidden)).backward()
        return loss.item()

    found = lf.map(fn, XS)
    together, w.grad = w.grad, None
    assert found == pytest.approx([fn(x) for x in XS])
    np.testing.assert_allclose(together, w.grad)
    np.testing.assert_allclose(seen[: len(XS)], seen[len(XS) :])


@pytest.mark.parametrize("inner", [None, 1])
def test_maps_inside_wait_for_the_examples_around_them_whatever_their_own_do(inner):
    w = parameter(2, 3)

    def part(x, k):
        loss = lf.sum(lf.tanh(w * x * k))
        loss.backward()
        return loss.item() + lf.sum(w * k).item()

    def fn(x):
        return lf.map(lambda k: part(x, k), [1.0, 2.0], together=inner)

    with lf.rounds() as seen:
        found = lf.map(fn, XS)
    together, w.grad = w.grad, None
    assert found == [pytest.approx([part(x, k) for k in (1.0, 2.0)]) for x in XS]
    np.testing.assert_allclose(together, w.grad)
    assert maps.greenlet is None or {r.examples for r in seen.seen} == {len(XS)}


def test_threads_may_each_have_a_map():
    w, found = lf.Parameter(0.5), {}

    def count(x):
        x, n = lf.constant(x), 0
        while x > 1:
            x, n = w * x, n + 1
        return n

    def run(k):
        found[k] = lf.map(count, [1.0 * k, 3.0 * k])

    threads = [threading.Thread(target=run, args=(k,)) for k in (1, 5, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {k: [count(1.0 * k), count(3.0 * k)] for k in (1, 5, 30)}


# Many, and long


def test_ten_thousand_examples():
    w = lf.Parameter(0.5)

    def fn(k):
        return k if (w * k) % 2 > 1 else -(w * k).item()

    assert lf.map(fn, range(10_000)) == [k if k / 2 % 2 > 1 else -k / 2 for k in range(10_000)]


@pytest.mark.parametrize("grad", [False, True])
def test_steps_that_are_over_are_freed_while_examples_run(grad):
    w, alive = parameter(3, 4, 4), []

    def living():
        return sum(ref() is not None for ref in tape._tapes)

    def fn(x):
        h = lf.constant(x)
        for _ in range(60):
            h = lf.tanh(w @ h)
            if not grad or lf.sum(h).item() > 100:
                lf.sum(h).item()
            alive.append(living())
        return h

    gc.collect()
    gc.disable()
    try:
        before = living()
        if grad:
            found = lf.map(fn, [np.ones(4)] * 3)
            kept = [weakref.ref(h.tape) for h in found]
            del found
            assert not any(ref() for ref in kept), "nothing waits for the garbage collector"
        else:
            with lf.no_grad():
                lf.map(fn, [np.ones(4)] * 3)
            assert max(alive) < before + 12
        assert living() <= before + 1
    finally:
        gc.enable()


def test_a_progress_bar_on_request(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    lf.map(lambda x: (lf.constant(x) + 1).item(), [1.0, 2.0])
    assert not screen.getvalue()
    lf.map(lambda x: (lf.constant(x) + 1).item(), [1.0, 2.0], progress=True)
    assert "lf.map" in screen.getvalue() and "2/2" in screen.getvalue()


def test_examples_come_as_there_is_room():
    begun, most = [], []

    def coming():
        for k in range(20):
            begun.append(k)
            yield float(k)

    def fn(x):
        for k in range(int(x) % 3):
            most.append(len(begun))
            (lf.constant(x) + k).item()
        return x

    assert lf.map(fn, coming(), together=4) == [float(k) for k in range(20)]
    assert most[0] <= 5


def test_without_greenlet_one_after_another_and_said_once(monkeypatch):
    monkeypatch.setattr(maps, "greenlet", None)
    maps._say_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="greenlet is not installed") as said:
        assert lf.map(lambda x: (lf.constant(x) + 1).item(), [1.0, 2.0]) == [2.0, 3.0]
    assert len(said) == 1 and said[0].filename == __file__
    assert lf.map(lambda x: (lf.constant(x) + 1).item(), [1.0, 2.0]) == [2.0, 3.0]
    maps._say_once.cache_clear()


def test_the_name_is_the_function():
    assert mapped is lf.map


@needs_fibers
def test_examples_that_never_ask_share_a_greenlet_and_no_context():
    name = ContextVar("name", default="none")
    w = lf.Parameter(1.0)

    def fn(k):
        before = name.get()
        name.set(str(k))
        if k % 3 == 2:
            (w * k).item()
        return maps.getcurrent(), before, name.get(), lf.uniform().tape.grad

    with lf.no_grad():
        found = lf.map(fn, range(7))
    greenlets = [g for g, *_ in found]
    assert [greenlets.index(g) for g in greenlets] == [0, 0, 0, 3, 3, 3, 6]
    assert [rest for _, *rest in found] == [["none", str(k), False] for k in range(7)]
