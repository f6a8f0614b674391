"""Names that two libraries give two meanings: what is meant here happens, the other use is an error that says so."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import data, nn

X = np.array([[1.0, 5.0], [4.0, 2.0]], np.float32)


@pytest.mark.parametrize("name", ["max", "min"])
def test_a_maximum_is_not_unpacked_into_values_and_indices(name: str) -> None:
    x = lf.constant(X)
    for call in (getattr(x, name), lambda axis: getattr(lf, name)(x, axis)):
        with pytest.raises(TypeError, match=f"arg{name}"):
            _values, _indices = call(1)
        np.testing.assert_array_equal(call(1).numpy(), getattr(X, name)(1))
        np.testing.assert_array_equal([e.item() for e in call(1)[:]], getattr(X, name)(1))
    assert [e.item() for e in getattr(lf.numpy, name)(x, 1)] == getattr(X, name)(1).tolist()
    with pytest.raises(TypeError, match=f"{name}imum"):
        getattr(lf, name)(x, x)


@pytest.mark.parametrize("name", ["max", "min"])
def test_the_library_goes_over_the_elements_of_a_maximum(name: str) -> None:
    largest, layer = getattr(lf, name)(lf.constant([X, -X]), axis=0), nn.LSTM(2, 3)
    assert [h.numpy().tolist() for h in layer(largest)[0]] == [h.numpy().tolist() for h in layer(largest[:])[0]]
    np.testing.assert_array_equal(lf.vmap(lf.tanh)(largest).numpy(), lf.tanh(largest).numpy())
    np.testing.assert_array_equal(lf.numpy.unstack(largest)[1].numpy(), largest[1].numpy())


@pytest.mark.parametrize("name", ["max", "min", "prod", "any", "all", "logsumexp"])
def test_reductions_of_a_list_are_elementwise(name: str) -> None:
    parts = [lf.constant(row) for row in (X > 2 if name in ("any", "all") else X)]
    expected = getattr(lf, name)(lf.stack(parts), axis=0).numpy()
    np.testing.assert_array_equal(getattr(lf, name)(parts).numpy(), expected)
    with pytest.raises(TypeError, match="no axis"):
        getattr(lf, name)(parts, axis=0)


def test_the_maximum_of_a_list_hands_gradients_on() -> None:
    a, b = lf.Parameter([1.0, 5.0]), lf.Parameter([4.0, 2.0])
    lf.sum(lf.max([a, b.detach()]) + lf.max([a, b])).backward()
    np.testing.assert_array_equal(a.grad, [0.0, 2.0])
    np.testing.assert_array_equal(b.grad, [1.0, 0.0])


def test_an_lstms_layers_are_not_taken_for_h_and_c() -> None:
    lstm = nn.LSTM(2, 3, 2)
    xs = [np.ones(2), np.zeros(2)]
    outputs, [(h0, _c0), (h1, _c1)] = lstm(xs)
    np.testing.assert_array_equal(outputs[-1].numpy(), h1.numpy())
    outputs, (h, c) = lstm(xs)  # binds layers
    uses = [lambda: h[-1], lambda: lf.sum(h), lambda: lf.stack(h), lambda: lf.concatenate(h), lambda: h.shape,
            lambda: c.numpy(), lambda: lstm.__class__(3, 2)(h), lambda: nn.Linear(3, 1)(h)]  # fmt: skip
    for use in uses:
        with pytest.raises((TypeError, lf.LazyflowError), match=r"pair|state|expressions"):
            use()
    again, _ = lstm(xs, lstm(xs)[1])  # states go in as they come out
    assert again[0].shape == h0.shape
    for state in ((np.zeros((2, 3)), np.zeros((2, 3))), (np.zeros(3), np.zeros(3))):
        with pytest.raises(lf.ShapeError, match="h_n, c_n"):
            lstm(xs, state)


@pytest.mark.parametrize("layer", [nn.LSTM(2, 3), nn.GRU(2, 3), nn.RNN(2, 3)], ids=lambda layer: type(layer).__name__)
def test_one_layers_states_are_unpacked_as_a_list_of_one(layer: Any) -> None:
    xs = [np.ones(2), np.zeros(2)]
    _, [_only] = layer(xs)
    with pytest.raises(ValueError, match=r"one for each layer and direction, 1 here.*got 2 names"):
        _, (_h, _c) = layer(xs)
    _, states = layer(xs)
    with pytest.raises(ValueError, match=r"outputs, \[\(h, c\)\] = lstm\(xs\) or outputs, \[h\] = gru\(xs\)"):
        _h, _c = states
    for repeat in (lambda: states * 2, lambda: 2 * states):
        with pytest.raises(TypeError, match="one for each layer and direction"):
            repeat()
    assert list(states) == [*states] == [s for s in states] == states + [] and len(states) == 1  # noqa: C416, RUF005
    assert type(copy.deepcopy(states)) is type(states)


def test_masks_go_by_name_into_attention() -> None:
    q = np.ones((3, 4), np.float32)
    with pytest.raises(TypeError, match="attn_mask"):
        nn.MultiheadAttention(4, 2)(q, q, q, np.zeros((3, 3), bool))


def test_a_word_is_no_truth_value_of_gelu() -> None:
    x = lf.constant([0.5, -1.0])
    np.testing.assert_array_equal(lf.gelu(x, "none").numpy(), lf.gelu(x).numpy())
    np.testing.assert_array_equal(lf.gelu(x, "tanh").numpy(), lf.gelu(x, True).numpy())
    with pytest.raises(ValueError, match="tanh"):
        lf.gelu(x, "erf")


def test_uniform_takes_the_shape_first() -> None:
    with pytest.raises(ValueError, match=r"uniform\(shape, low, high\)"):
        lf.uniform(0, 1)


def pairs(batches: Any) -> list[Any]:
    return [[tuple(map(float, example)) for example in batch] for batch in batches]


def test_columns_in_a_tuple_are_examples_in_rows() -> None:
    xs, ys = np.array([1.0, 2.0, 3.0]), [4, 5, 6]
    expected = [[(1.0, 4.0), (2.0, 5.0)], [(3.0, 6.0)]]
    assert pairs(data.batches((xs, ys), 2)) == expected
    assert pairs(data.batches(list(zip(xs, ys, strict=True)), 2)) == expected
    assert pairs(data.batches(zip(xs, ys, strict=True), 2)) == expected
    assert pairs(data.batches(((a, b) for a, b in expected[0]), 2)) == expected[:1]
    with pytest.raises(lf.ShapeError, match="2 and 3"):
        data.batches((xs[:2], ys), 2)
    with pytest.raises(TypeError, match="examples"):
        data.batches({"x": xs, "y": ys}, 2)


def test_tables_are_data() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": [1.0, 2.0, 3.0], "y": [0, 1, 0]}, index=[7, 8, 9])
    rows = [{"x": 1.0, "y": 0}, {"x": 2.0, "y": 1}, {"x": 3.0, "y": 0}]
    assert list(data.batches(frame, 2)) == [rows[:2], rows[2:]]
    assert list(data.batches(frame["x"], 2)) == [[1.0, 2.0], [3.0]]
    assert pairs(data.batches((frame["x"], frame["y"]), 2)) == [[(1.0, 0.0), (2.0, 1.0)], [(3.0, 0.0)]]
    np.testing.assert_array_equal(lf.constant(frame[["x"]]).numpy(), [[1.0], [2.0], [3.0]])
    with pytest.raises(lf.DTypeError, match="select_dtypes"):
        lf.constant(pandas.DataFrame({"x": [1.0], "name": ["a"]}))


def test_arrow_tables_are_data() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"x": [1.0, 2.0], "y": [0, 1]})
    assert list(data.batches(table, 1)) == [[{"x": 1.0, "y": 0}], [{"x": 2.0, "y": 1}]]
    assert pairs(data.batches((table["x"], table["y"]), 2)) == [[(1.0, 0.0), (2.0, 1.0)]]
