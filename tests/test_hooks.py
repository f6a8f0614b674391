"""Hooks on values: called with the whole gradient, once, where it is complete; they may replace it."""

import numpy as np
import pytest

import lazyflow as lf


@pytest.fixture
def w():
    return lf.Parameter(np.array([1.0, 2.0, 3.0]), name="w")


def seen_by(value):
    seen = []
    value.register_hook(lambda g: seen.append(g.copy()))
    return seen


def test_a_hook_sees_the_gradient_summed_over_all_uses(w):
    h = w * 2
    early, late = lf.tanh(h), h * h
    seen = seen_by(h)  # after its uses were recorded
    lf.sum(early + late).backward()
    expected = 1 - np.tanh(h.numpy()) ** 2 + 2 * h.numpy()
    assert len(seen) == 1
    np.testing.assert_allclose(seen[0], expected)
    np.testing.assert_allclose(w.grad, 2 * expected)


def test_what_a_hook_returns_takes_the_gradients_place(w):
    h = w * 2
    h.retain_grad()
    h.register_hook(lambda g: g + 1)
    h.register_hook(lambda g: None)
    h.register_hook(lambda g: 10 * g)
    lf.sum(h).backward()
    np.testing.assert_allclose(h.grad, [20, 20, 20])
    np.testing.assert_allclose(w.grad, [40, 40, 40])


@pytest.mark.parametrize("batching", ["phases", "none"])
def test_only_the_hooked_one_of_several_in_a_launch(w, batching):
    with lf.using(batching=batching):
        hs = [lf.tanh(w * float(i)) for i in range(4)]
        hs[2].register_hook(np.zeros_like)
        lf.sum([lf.sum(h) for h in hs]).backward()
    kept = [i * (1 - np.tanh(i * w.numpy()) ** 2) for i in (0, 1, 3)]
    np.testing.assert_allclose(w.grad, sum(kept))


@pytest.mark.parametrize(
    "cut", [lambda h: h[1:], lambda h: lf.split(h, 3)[2], lambda h: lf.reshape(h, (3, 1))[1], lambda h: h[0]]
)
def test_a_view_has_a_gradient_of_its_own(w, cut):
    h = w * 2
    part = cut(h)
    seen = seen_by(part)
    (lf.sum(h) + lf.sum(part * 5)).backward()
    np.testing.assert_array_equal(seen[0], np.full(part.shape, 5.0))


def test_a_value_computed_before_it_is_hooked(w):
    h = w * 2
    y = lf.tanh(h)
    h.numpy()
    seen = seen_by(h)
    lf.sum(y * h).backward()
    np.testing.assert_allclose(seen[0], np.tanh(2 * w.numpy()) + 2 * w.numpy() * (1 - np.tanh(2 * w.numpy()) ** 2))


def test_across_values_in_the_middle(w):
    h = w * 2
    seen = seen_by(h)
    total = lf.sum(h).item()
    (lf.sum(h * h) * total).backward()
    np.testing.assert_allclose(seen[0], 2 * h.numpy() * total)


def test_every_backward_calls_it_and_only_if_it_gets_there(w):
    h, other = w * 2, w * 3
    seen = seen_by(h)
    y = lf.sum(h)
    lf.sum(other).backward()
    assert not seen
    y.backward()
    y.backward()
    assert len(seen) == 2


def test_the_root_itself(w):
    y = lf.sum(w)
    y.register_hook(lambda g: 7 * g)
    y.backward()
    assert w.grad.tolist() == [7, 7, 7]


def test_handles_remove_their_hook(w):
    h = w * 2
    seen = []
    first = h.register_hook(lambda g: seen.append("first"))
    with h.register_hook(lambda g: seen.append("second")):
        lf.sum(h).backward()
    first.remove()
    first.remove()
    lf.sum(h * 3).backward()
    assert seen == ["first", "second"]


def test_parameters_have_hooks_of_what_is_added(w):
    handle = w.register_hook(lambda g: g / 2)
    lf.sum(w * 4).backward()
    lf.sum(w).backward()
    assert w.grad.tolist() == [2.5, 2.5, 2.5]
    handle.remove()
    w.backward(np.ones(3))
    assert w.grad.tolist() == [3.5, 3.5, 3.5]
    table, seen = lf.Parameter(np.ones((3, 2))), []
    table.register_hook(lambda g: seen.append(g.indices.tolist()))
    lf.sum(lf.embedding(table, 1)).backward()
    assert seen == [[1]]


def test_other_numbers_become_the_gradients_dtype():
    w = lf.Parameter([1.0, 2.0])
    h = w * 2
    h.register_hook(lambda g: [1, 2])
    lf.sum(h).backward()
    assert w.grad.dtype == np.float32 and w.grad.tolist() == [2, 4]


def used_view(w):
    part = (w * 2)[1:]
    part * 3
    part.register_hook(print)


def test_the_result_of_a_cell(w):
    @lf.cell
    def step(x):
        return lf.tanh(x) * x, x * 3

    h = w * 1
    first, second = step(h)
    first.retain_grad()
    seen = seen_by(second)
    (lf.sum(first * 5) + lf.sum(second * second)).backward()
    np.testing.assert_allclose(seen[0], 6 * w.numpy())
    np.testing.assert_allclose(first.grad, [5, 5, 5])
    assert w.grad is not None


def hook_inside_a_cell(w):
    @lf.cell
    def step(x):
        y = x * 2
        y.register_hook(print)
        return y

    step(w * 1)


def answered(answer):
    def run(w):
        h = w * 2
        h.register_hook(lambda g: answer)
        lf.sum(h).backward()

    return run


MISTAKES = {
    "constant": (lambda w: lf.constant([1.0]).register_hook(print), lf.GradientError, ["depends on no parameter"]),
    "detached": (lambda w: (w * 2).detach().register_hook(print), lf.GradientError, ["depends on no parameter"]),
    "no function": (lambda w: (w * 2).register_hook(3), TypeError, ["a hook is a function", "int"]),
    "parameter": (lambda w: w.register_hook("print"), TypeError, ["a hook is a function", "str"]),
    "used view": (used_view, lf.GradientError, ["before the first use"]),
    "in a cell": (hook_inside_a_cell, lf.CellError, ["step", "on a result"]),
    "shape": (answered(np.ones(2)), lf.ShapeError, ["<lambda>", "(2,)", "(3,)"]),
    "scalar": (answered(1.0), lf.ShapeError, ["()", "(3,)"]),
    "text": (answered("zero"), TypeError, ["gradient or None", "str"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake, w):
    action, error, words = MISTAKES[mistake]
    with pytest.raises(error) as caught:
        action(w)
    for word in words:
        assert word in str(caught.value)
    assert w.grad is None


def test_a_retained_gradient_is_whole_where_a_later_run_knows_the_value(w):
    h = w * 2
    h.retain_grad()
    y = lf.tanh(h)
    h.numpy()  # the next run copies it twice: for this tape, and for the next one
    lf.sum(y * h).backward()
    np.testing.assert_allclose(h.grad, w.grad / 2)


def test_equal_values_keep_a_gradient_each():
    table = lf.Parameter(np.arange(6.0).reshape(3, 2))
    first, second = lf.tanh(lf.embedding(table, 1)), lf.tanh(lf.embedding(table, 1))
    first.retain_grad()
    seen = seen_by(second)
    (lf.sum(first * 2) + lf.sum(second * 3)).backward()
    np.testing.assert_allclose(first.grad, [2, 2])
    np.testing.assert_allclose(seen[0], [3, 3])


def test_a_hook_on_a_value_that_was_computed_together_with_an_equal_one():
    table = lf.Parameter(np.arange(6.0).reshape(3, 2))
    first, second = lf.embedding(table, 1), lf.embedding(table, 1)
    y = lf.sum(first * 2) + lf.sum(second * 3)
    y.forward()
    seen = seen_by(second)
    y.backward()
    assert seen[0].tolist() == [3, 3]
    assert table.grad.to_dense()[1].tolist() == [5, 5]


def test_a_hook_that_comes_while_backward_runs_on_a_value_that_was_computed_together_with_an_equal_one():
    table = lf.Parameter(np.arange(6.0).reshape(3, 2))
    first, second = lf.embedding(table, 1), lf.embedding(table, 1)
    y = lf.sum(first * 2) + lf.sum(second * 3)
    y.forward()
    z = y * 2
    z.register_hook(lambda gradient: second.register_hook(print) and None)
    with pytest.raises(lf.GradientError, match="before backward"):
        (z + 1).backward()
