"""What calls of cells keep in 16 bits on a device: beside float32, within the bounds of the type; bytes, launches."""

import gc
import sys

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import device as devices
from lazyflow import nn, optim
from lazyflow.cuda.module import functions
from lazyflow.cuda.text import NUMBER_FORMS, STORED
from lazyflow.fuse.cuda import narrowed
from tests import counted, simcupy
from tests.places import here

pytestmark = pytest.mark.gpu
CUDA = "cuda:0"
ERROR = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # of one rounding, relative
EVERY = np.arange(1 << 16, dtype=np.uint16)


@pytest.fixture(autouse=True)
def on_a_device():
    with devices.on(CUDA), lf.using(device=CUDA, storage=None):
        yield


# One number.


def widened(bits, stored):
    """What a kernel makes of numbers in 16 bits."""
    text = f"""extern "C" __global__ void widen_{stored}(const unsigned short* a, float* b, int n) {{
        const int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) b[i] = {NUMBER_FORMS[stored].value}(a[i]);
    }}"""
    [kernel] = functions(text, (f"widen_{stored}",))
    out = devices.array_module(CUDA).empty(bits.size, np.float32)
    kernel((-(-bits.size // 128),), (128,), (devices.to_device(bits, CUDA), out, np.int32(bits.size)))
    return devices.to_host(out)


def rounded(values, stored):
    """The numbers in 16 bits that are nearest, by NumPy, or by a look at all of them."""
    if stored == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    steps = (np.arange(0x7F81, dtype=np.uint32) << 16).view(np.float32).astype(np.float64)
    steps[-1] = 2.0**128  # what rounds to this one is infinite
    size = np.abs(values.astype(np.float64))
    low = np.clip(np.searchsorted(steps, size, side="right") - 1, 0, len(steps) - 2)
    below, above = size - steps[low], steps[low + 1] - size
    up = (above < below) | ((above == below) & (low % 2 == 1))
    found = np.where(np.isinf(values), len(steps) - 1, low + up).astype(np.uint16)
    return found | (np.signbit(values).astype(np.uint16) << 15)


@pytest.mark.parametrize("stored", STORED)
def test_every_number_is_read_and_written_back_as_it_was(stored):
    bits = EVERY.view(np.float16) if stored == "float16" else (EVERY.astype(np.uint32) << 16).view(np.float32)
    found = widened(EVERY, stored)
    np.testing.assert_array_equal(found, bits.astype(np.float32))
    back = devices.to_host(narrowed(here(found.reshape(256, 256)), stored)).view(np.uint16).ravel()
    known = ~np.isnan(found)
    np.testing.assert_array_equal(back[known], EVERY[known])
    assert np.isnan(widened(back[~known], stored)).all()


@pytest.mark.parametrize("stored", STORED)
def test_numbers_are_rounded_to_nearest_even(stored):
    rng = np.random.default_rng(4)
    values = np.concatenate(
        [
            rng.integers(0, 1 << 32, 20000, dtype=np.uint32).view(np.float32),
            (rng.normal(size=20000) * 2.0 ** rng.integers(-30, 20, 20000)).astype(np.float32),
            (rng.integers(0, 1 << 32, 5000, dtype=np.uint32) & 0xFFFFF000).view(np.float32),
            (rng.integers(0, 1 << 32, 5000, dtype=np.uint32) & 0xFFFF8000).view(np.float32),
            np.array([65504, 65519.99, 65520, 3.3961776e38, 2.0**-24, 2.0**-25, -(2.0**-25) * 1.001, 0.0, -0.0], "f4"),
            np.array([np.inf, -np.inf, 1e-45, 6.1e-5], np.float32),
        ]
    )
    values = values[~np.isnan(values)]
    found = devices.to_host(narrowed(here(values[None]), stored)).view(np.uint16).ravel()
    np.testing.assert_array_equal(found, rounded(values, stored))


# Whole models.


@lf.cell
def mixed(weight, x, h):
    """A gather of two inputs, a norm that is an operation of its own, a product of what it makes, and two results."""
    a = lf.tanh(lf.matmul(weight, lf.concatenate([x, h])))
    b = lf.log_softmax(a)
    return lf.exp(b) * a + h, lf.sigmoid(a)


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = lf.Parameter(np.random.default_rng(5).normal(size=(4, 8)).astype(np.float32))

    def forward(self, x, h):
        return mixed(self.weight, x, x if h is None else h)[0]


class TreeGRU(nn.Module):
    """What is computed is put side by side, for a second product."""

    def __init__(self):
        super().__init__()
        self.gates, self.candidate = nn.Linear(8, 12), nn.Linear(8, 4)

    @lf.cell
    def whole(self, left, right):
        z, r, s = lf.split(lf.sigmoid(self.gates(lf.concatenate([left, right]))), 3)
        new = lf.tanh(self.candidate(lf.concatenate([r * left, s * right])))
        return z * new + (1 - z) * (left + right) / 2

    def forward(self, x, h):
        return self.whole(x, x if h is None else h)


CELLS = {
    "RNN": lambda: nn.RNNCell(4, 4),
    "GRU": lambda: nn.GRUCell(4, 4),
    "LSTM": lambda: nn.LSTMCell(4, 4),
    "layers": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh()),
    "of parts that are computed": TreeGRU,
    "with an operation of its own": Mixed,
}


def step(name, storage, **settings):
    """A loss and its gradients: sequences of several lengths, and rows that meet."""
    lf.seed(3)
    rng = np.random.default_rng(6)
    with lf.using(storage=storage, **settings):
        cell = CELLS[name]()
        table = lf.Parameter(rng.normal(size=(6, 4)).astype(np.float32))
        losses = []
        for n in (2, 4, 5, 3):
            state = None
            for word in rng.integers(0, 6, n).tolist():
                state = cell(table[word]) if name == "layers" else cell(table[word], state)
            h = state[0] if isinstance(state, tuple) else state
            losses.append(lf.sum(h * h) + 1)
        loss = lf.mean(losses)
        explained = lf.explain(loss)
        loss.backward()
        gradients = [p.grad for p in (table, *cell.parameters())]
    dense = [g.to_dense() if isinstance(g, lf.RowSparse) else g for g in gradients]
    return loss, [devices.to_host(g) for g in dense], explained


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("name", CELLS)
def test_values_and_gradients_are_those_of_float32_within_the_bounds_of_the_type(name, stored, deterministic):
    expected, slopes, _ = step(name, None)
    found, gradients, _ = step(name, stored, deterministic=deterministic)
    assert found.numpy().dtype == np.float32
    assert 0 < abs(found.item() - expected.item()) < 10 * ERROR[stored] * expected.item()
    for gradient, slope in zip(gradients, slopes, strict=True):
        assert gradient.dtype == np.float32
        assert np.abs(gradient - slope).max() <= 16 * ERROR[stored] * np.abs(slope).max()


@pytest.mark.parametrize("stored", STORED)
def test_a_second_backward_is_the_first_one_again(stored):
    with lf.using(storage=stored):
        cell, x = nn.LSTMCell(4, 4), lf.Parameter(np.ones(4, np.float32))
        loss = lf.sum(cell(x, cell(x, None))[0])
        found = []
        for _ in range(2):
            loss.backward()
            found.append(devices.to_host(x.grad).copy())
            x.grad = None
    np.testing.assert_array_equal(*found)


def kept(explained, *words):
    return sum(share.nbytes for share in explained.memory if any(word in share.what for word in words))


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU", "layers", "of parts that are computed"])
def test_what_calls_keep_takes_half_the_bytes(name):
    whole, *halves = [kept(step(name, storage)[2], "keep", "left sides") for storage in (None, *STORED)]
    assert halves == [whole // 2] * 2 and whole > 0


def test_the_device_holds_as_many_bytes_fewer_after_a_forward():
    """But for the copies of the weights, one for each product."""
    if sys.modules.get("cupy") is not simcupy.namespace.CUPY:
        pytest.skip("the pool of a GPU rounds: --device simulated")
    pool, taken = devices.array_module(CUDA).get_default_memory_pool(), []
    gc.collect()  # what others have left goes now, not in the middle
    for storage in (None, *STORED):
        with lf.using(storage=storage):
            cell, table = nn.RNNCell(32, 32), lf.Parameter(np.ones((300, 32), np.float32))
            pairs = np.random.default_rng(1).integers(0, 300, (100, 2)).tolist()
            loss = lf.sum([lf.sum(cell(table[i], cell(table[j], None))) for i, j in pairs])
            before = pool.used_bytes()
            loss.forward()
            taken.append((pool.used_bytes() - before, kept(lf.explain(loss), "keep")))
            del loss
    weights = 3 * 2 * 32 * 32  # without a state, the first product alone
    (whole, known), *halves = taken
    assert all(whole - half == known - less - weights > 0 for half, less in halves)


def test_what_leaves_the_range_of_float16_is_infinite_and_finite_under_check_finite():
    found = {}
    for storage in (None, *STORED):
        for checked in (False, True):
            with lf.using(storage=storage, check_finite=checked):
                layer = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False), nn.ReLU())
                layer[0].weight.assign(np.full((2, 2), 1000, np.float32))
                layer[2].weight.assign(np.full((2, 2), 0.001, np.float32))
                found[storage, checked] = lf.sum(layer(lf.constant(np.full(2, 50, np.float32)))).item()
    assert found["float16", False] == np.inf
    np.testing.assert_allclose([v for key, v in found.items() if key != ("float16", False)], 400, rtol=0.02)


def trained(storage, scaler, steps=4):
    """What becomes of a layer by steps along gradients below what float16 has, and which of them were taken."""
    lf.seed(1)
    with lf.using(storage=storage):
        cell, x = nn.GRUCell(3, 3), lf.Parameter(np.ones(3, np.float32))
        optimizer, taken = optim.SGD([*cell.parameters(), x], lr=1e10), []
        for _ in range(steps):
            loss = lf.sum(cell(x, cell(x, None))) * 1e-12
            scaler.scale(loss).backward()
            taken.append(scaler.step(optimizer))
            scaler.update()
            optimizer.zero_grad()
    return np.concatenate([p.numpy().ravel() for p in optimizer.param_groups[0]["params"]]), taken


def test_a_scaled_loss_keeps_small_gradients_in_float16():
    still, _ = trained("float16", optim.GradScaler(enabled=False), steps=0)
    expected, _ = trained(None, optim.GradScaler(enabled=False))
    lost, _ = trained("float16", optim.GradScaler(enabled=False))
    found, taken = trained("float16", optim.GradScaler(2.0**36))
    assert all(taken) and np.abs(expected - still).max() > 0.01
    assert np.abs(lost - still).max() < 0.5 * np.abs(expected - still).max()  # what comes of float32 directly
    np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected - still).max())


def test_a_scale_too_large_for_float16_comes_down_until_steps_are_taken():
    scaler = optim.GradScaler(2.0**70)
    _, taken = trained("float16", scaler, steps=30)
    assert taken == sorted(taken) and True in taken and scaler.get_scale() == 2.0 ** (70 - taken.count(False))


@lf.cell
def squares(x):
    return x * x


# Launches, and where it cannot be.


@pytest.mark.parametrize("stored", STORED)
def test_a_step_takes_few_launches_more(stored):
    if sys.modules.get("cupy") is not simcupy.namespace.CUPY:
        pytest.skip("only the simulator counts: --device simulated")
    for name, more in (("Tree-LSTM", 3), ("tagger", 10), ("loop", 0)):
        plain = counted.seen_in_step(name)
        with lf.using(storage=stored):
            seen = counted.seen_in_step(name)
        assert seen.launches <= plain.launches + more, seen.table()
        assert (seen.h2d, seen.d2h, seen.syncs, seen.implicit) == (plain.h2d, plain.d2h, plain.syncs, 0)


@pytest.mark.parametrize("given", [{"device": "cpu"}, {"fuse": "off"}])
def test_where_no_kernel_is_printed_it_is_an_error(given):
    with lf.using(storage="float16", **given):
        x = squares(lf.constant([1.0, 2.0]))
        with pytest.raises(lf.DeviceError, match=r"storage='float16'.*leave the setting out"):
            x.forward()


def test_other_dtypes_stay_as_they_are():
    found = []
    for storage in (None, "bfloat16"):
        with lf.using(storage=storage, dtype="float64"):
            lf.seed(2)
            cell, x = nn.GRUCell(3, 3), lf.Parameter(np.arange(3.0))
            loss = lf.sum(cell(x, cell(x, None)))
            loss.backward()
            found.append([loss.item(), *devices.to_host(x.grad)])
    assert found[0] == found[1]
