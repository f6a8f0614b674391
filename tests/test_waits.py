"""Nobody waits for a device in a training step: no copy to the host in forward, backward and update; and the gradients
are those of the CPU."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import device as devices
from lazyflow import nn
from tests import simcupy
from tests.counted import is_simulated

pytestmark = pytest.mark.gpu
CUDA, WORDS, LENGTHS = "cuda:0", 20, (3, 4, 7, 3)


class Model(nn.Module):
    """A table that is read by arrays of words, and cells with operations of their own."""

    def __init__(self):
        super().__init__()
        self.table, self.mix, self.norm = nn.Embedding(WORDS, 6), nn.Linear(12, 12), nn.LayerNorm(6)

    @lf.cell
    def pair(self, x, h):
        """Two results, each by operations that have kernels of their own."""
        a, b = lf.split(self.mix(lf.concatenate([x, h])), 2)
        return lf.softmax(self.norm(b)) * lf.logsumexp(a), lf.cumsum(lf.tanh(a))

    @lf.cell
    def read(self, words, h):
        """A look-up by an array inside of a cell."""
        return lf.softmax(lf.mean(self.table(words), axis=0) + h)

    @lf.cell
    def solve(self, x):
        """Two results by operations that solve, and decompose."""
        a = lf.outer(x, x) * 0.1 + np.eye(6)
        values, vectors = lf.eigh(a + np.diag(np.arange(6.0)))
        return lf.solve(a, x) + lf.inv(a) @ values, lf.cholesky(a) @ x * lf.slogdet(a)[1] + lf.svd(a)[1] + vectors[
            0
        ] ** 2

    def run(self, words, which):
        h = self.table(0)
        for word in words.tolist():
            h = self.pair(self.table(word), h)[which]
        return lf.sum(h * h)


def arrays_of_one_length(model, rng):
    return [lf.sum(lf.tanh(model.table(rng.integers(WORDS, size=5)))) for _ in LENGTHS]


def arrays_of_any_length(model, rng):
    return [lf.sum(lf.tanh(model.table(rng.integers(WORDS, size=n)))) for n in LENGTHS]


def one_array(model, rng):
    words = rng.integers(WORDS, size=4)
    return [lf.sum(lf.tanh(model.table(words)) * float(n)) for n in LENGTHS]


def matrices(model, rng):
    return [lf.sum(lf.tanh(model.table(rng.integers(WORDS, size=(n, 2))))) for n in LENGTHS]


def arrays_and_words(model, rng):
    """The gradients of the table are sums of rows."""
    words = [rng.integers(WORDS, size=n) for n in LENGTHS]
    return [lf.sum(lf.tanh(model.table(some)) * model.table(int(some[0]))) for some in words]


def all_results(model, rng):
    return [model.run(rng.integers(WORDS, size=n), which) for n in LENGTHS for which in (0, 1)]


def first_results(model, rng):
    return [model.run(rng.integers(WORDS, size=n), 0) for n in LENGTHS]


def second_results(model, rng):
    return [model.run(rng.integers(WORDS, size=n), 1) for n in LENGTHS]


def arrays_in_cells(model, rng):
    found = []
    for n in LENGTHS:
        h = model.table(0)
        for _ in range(n):
            h = model.read(lf.constant(rng.integers(WORDS, size=4)), h)
        found.append(lf.sum(h * h))
    return found


def solving(model, rng):
    found = [model.solve(lf.tanh(model.table(int(word))))[which] for word in range(4) for which in (0, 1)]
    return [lf.sum(y * y) for y in found]


PROGRAMS = {
    program.__name__.replace("_", " "): program
    for program in (
        arrays_of_one_length, arrays_of_any_length, one_array, matrices, arrays_and_words, all_results, first_results,
        second_results, arrays_in_cells, solving,
    )
}  # fmt: skip


def steps(program, device):
    """What the second of two training steps asks of a device; the gradients, and what becomes of the parameters."""
    lf.seed(4)
    rng = np.random.default_rng(2)
    with lf.using(device=device):
        model = Model()
        optimizer = lf.optim.Adam(model.parameters())
        for _ in range(2):
            with simcupy.counting("lazyflow/") as seen:
                optimizer.zero_grad()
                lf.mean(program(model, rng)).backward()
                optimizer.step()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    dense = [g.to_dense() if isinstance(g, lf.RowSparse) else g for g in found]
    return seen, [devices.to_host(array) for array in (*dense, *(p.array for p in model.parameters()))]


@pytest.mark.parametrize("dedupe", [True, False])
@pytest.mark.parametrize("name", PROGRAMS)
def test_nobody_waits(name, dedupe):
    with lf.using(dedupe=dedupe):
        seen, found = steps(PROGRAMS[name], CUDA)
    for one, other in zip(found, steps(PROGRAMS[name], "cpu")[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-6)
    if is_simulated():
        assert (seen.syncs, seen.d2h, seen.implicit) == (0, 0, 0), seen.table()


def test_accumulated_gradients_of_a_table_are_summed_without_a_wait():
    """The indices of each lie on the host, too."""
    with lf.using(device=CUDA):
        table = nn.Embedding(WORDS, 6)
        for _ in range(2):
            with simcupy.counting() as seen:
                for words in ([1, 3, 1], [3, 7]):
                    lf.sum(table(np.array(words))).backward()
    gradient = table.weight.grad
    assert gradient.host.tolist() == devices.to_host(gradient.indices).tolist() == [1, 3, 7]
    assert devices.to_host(gradient.values)[:, 0].tolist() == [4, 4, 2]
    assert gradient.to("cpu").host is None
    if is_simulated():
        assert seen.syncs == 0, seen
