"""Numbers among the arguments of a cell: payload where they are only operands, else part of what its program is."""

import numpy as np
import pytest

import lazyflow as lf
from tests.cells.test_cell import Counted

X = np.array([0.5, -1.0, 2.0])


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


def test_numbers_that_are_only_operands_do_not_count():
    table = lf.Parameter(np.arange(12.0).reshape(4, 3))
    cell = Counted(lambda i, factor, x: lf.embedding(table, i) * factor + lf.pick(x, i))
    x = lf.constant(np.array([10.0, 20.0, 30.0]))
    found = [cell.call(i, factor, x) for i, factor in ((0, 1.5), (1, -2.0), (2, 0.0))]
    assert cell.runs == 1
    for (i, factor), e in zip(((0, 1.5), (1, -2.0), (2, 0.0)), found, strict=True):
        close(e.numpy(), table.numpy()[i] * factor + [10.0, 20.0, 30.0][i])


DECIDING = {
    "range": lambda x, n: lf.sum([x] * n) if n else x,
    "loop": lambda x, n: lf.sum([x * k for k in range(n + 1)]),
    "branch": lambda x, n: x * 2 if n > 2 else x + n,
    "subscript": lambda x, n: x * x[n % 3],
    "subscript alone": lambda x, n: x * x[min(n, 2)],
    "slice": lambda x, n: x[: n % 3 + 1],
    "arithmetic": lambda x, n: x * (n + 1),
    "power": lambda x, n: x * 2**n,
    "numpy": lambda x, n: x * np.float64(n),
    "attribute": lambda x, n: x + n.bit_length(),
    "a kind": lambda x, n: x + n if isinstance(n, int) else x * 0,
    "text": lambda x, n: x * len(f"{n}"),
    "key": lambda x, n: x * {0: 1.0}.get(n, 2.0),
    "shape": lambda x, n: lf.concatenate([x, np.zeros(n)]) if n else x,
    "axis": lambda x, n: lf.sum(lf.stack([x, x]), axis=n % 2),
    "returned": lambda x, n: (x, n)[0] + (x, n)[1],
}


@pytest.mark.parametrize("body", DECIDING.values(), ids=DECIDING)
def test_numbers_whose_value_decides(body):
    cell = lf.cell(body)
    for n in (0, 3, 1, 3, 0, 2, 1, 5):
        close(cell(lf.constant(X), n).numpy(), body(lf.constant(X), n).numpy())


def test_a_bare_subscript_decides():
    cell = lf.cell(lambda x, n: x[n] + x[n:][0])
    for n in (0, 2, 1, -1, 0):
        close(cell(lf.constant(X), n).numpy(), 2 * X[n])


def test_words_that_are_integers_of_numpy():
    table = lf.Parameter(np.arange(12.0).reshape(4, 3))
    runs = []
    cell = lf.cell(lambda x, i: (runs.append(1), lf.embedding(table, i) * x)[1])
    x = lf.constant(X)
    for i in np.array([0, 3, 1, 1, 2]):
        close(cell(x, i).numpy(), table.numpy()[i] * X)
    assert len(runs) == 1
    with pytest.raises(IndexError):
        cell(x, np.int64(4))
