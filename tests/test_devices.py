"""Several devices in one program: CuPy computes on the current device, and refuses arrays of another.

lazyflow makes the device of a model current while it computes, and leaves the user's current device as it was.
"""

import threading

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import device as devices
from lazyflow import nn, train
from tests.test_device import numbers, on_both

pytestmark = pytest.mark.gpu
FIRST, SECOND = "cuda:0", "cuda:1"


@pytest.fixture(autouse=True)
def cupy():
    """CuPy, whose current device is the first before and after."""
    found = devices.array_module(FIRST)
    if found.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two devices, and this machine has one")
    yield found
    assert found.cuda.runtime.getDevice() == 0


class Net(nn.Module):
    """A table, a layer with running averages, noise and a head."""

    def __init__(self, sparse=True, dtype="float32"):
        super().__init__()
        with lf.using(dtype=dtype):
            self.table, self.norm = nn.Embedding(7, 4, sparse=sparse), nn.BatchNorm1d(4)
            self.noise, self.head = nn.Dropout(0.25), nn.Linear(4, 3)

    def forward(self, words, targets):
        rows = self.norm(lf.stack([self.table(word) for word in words]))
        return lf.mean([lf.cross_entropy(self.head(self.noise(row)), t) for row, t in zip(rows, targets, strict=True)])


OPTIMIZERS = {
    "SGD": lambda p: lf.optim.SGD(p, lr=0.1, momentum=0.5, weight_decay=0.1),
    "Adam": lambda p: lf.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: lf.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "Adagrad": lambda p: lf.optim.Adagrad(p, lr=0.1),
    "RMSprop": lambda p: lf.optim.RMSprop(p, lr=0.01, centered=True),
    "dense": lambda p: lf.optim.Adam(p, lr=0.01, sparse=False),
}
BATCHES = [([1, 3, 1, 5], [0, 2, 1, 1]), ([2, 2, 6, 0], [1, 1, 0, 2]), ([4, 1, 2, 3], [2, 0, 0, 1])]


def trained(places, optimizer="Adam", norm=0.5, **options):
    """All parameters and buffers after steps, each on the device that ``places`` names for it."""
    lf.seed(3)
    net = Net(**options)
    made = OPTIMIZERS[optimizer](net.parameters())
    average = lf.optim.ExponentialMovingAverage(net.parameters(), decay=0.5)
    for place, batch in zip(places, BATCHES, strict=True):
        net.to(place)
        with lf.using(device=place):
            made.zero_grad()
            net(*batch).backward()
            lf.optim.clip_grad_value(net.parameters(), 0.2)
            lf.optim.clip_grad_norm(net.parameters(), norm)
            made.step()
            average.update()
    with average.applied():
        averaged = [p.numpy() for p in net.parameters()]
    return [*net.state_dict().values(), *averaged]


def assert_alike(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_device_that_is_not_current(optimizer, dtype):
    found = trained([SECOND] * 3, optimizer, dtype=dtype)
    if dtype == "float32":
        assert_alike(found, trained(["cpu"] * 3, optimizer))
    else:
        assert_alike(found, trained([FIRST] * 3, optimizer, dtype=dtype))


MOVES = [["cpu", SECOND, FIRST], [FIRST, SECOND, "cpu"], [SECOND, "cpu", SECOND], [FIRST, FIRST, SECOND]]


@pytest.mark.parametrize("places", MOVES, ids=" ".join)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_model_moves_in_the_middle_of_training(places, optimizer):
    """Its gradients, moments, averages and running statistics move along."""
    assert_alike(trained(places, optimizer), trained(["cpu"] * 3, optimizer))


def two_models(places, norm_type):
    """Two models, one optimizer and one norm of both gradients."""
    lf.seed(4)
    models = [Net(sparse).to(place) for sparse, place in zip((True, False), places, strict=True)]
    parameters = [p for model in models for p in model.parameters()]
    optimizer, norms = lf.optim.Adam(parameters, lr=0.01), []
    for batch in BATCHES:
        optimizer.zero_grad()
        losses = []
        for model, place in zip(models, places, strict=True):
            with lf.using(device=place):
                losses.append(model(*batch))
        lf.forward(losses)
        for loss in losses:
            loss.backward()
        norms.append(lf.optim.clip_grad_norm(parameters, 0.3, norm_type=norm_type))
        optimizer.step()
    return [np.array(norms), *(p.numpy() for p in parameters)]


@pytest.mark.parametrize("norm_type", [1.0, 2.0, np.inf])
@pytest.mark.parametrize("places", [(FIRST, SECOND), (SECOND, FIRST), ("cpu", SECOND)], ids=" ".join)
def test_two_models_on_two_devices(places, norm_type):
    assert_alike(two_models(places, norm_type), two_models(("cpu", "cpu"), norm_type))


def test_mixing_is_refused_at_the_line():
    with lf.using(device=FIRST):
        w = lf.Parameter([1.0, 2.0])
    with lf.using(device=SECOND):
        v = lf.Parameter([1.0, 2.0])
    with pytest.raises(lf.DeviceError, match="cuda:0 and cuda:1"):
        w * v
    with pytest.raises(lf.DeviceError, match="got one on cuda:0"):
        v.grad = devices.to_device(np.ones(2, np.float32), FIRST)


def test_functions_of_arrays(cupy):

    def f(x):
        return lf.sum(lf.tanh(x) * x)

    def values(place):
        with lf.using(device=place, dtype="float64"):
            x = devices.to_device(numbers(np, 3, dtype="float64"), place)
            lf.check_grads(f, modes=["fwd", "rev"])(x)
            return [
                lf.grad(f)(x),
                lf.vmap(lambda a: a * 2.0)(x),
                lf.jvp(f, (x,), (x,))[1],
                *lf.vjp(f, x)[1](1.0),
                lf.hessian(f)(x),
                lf.hessian_vector_product(f)(x, x),
            ]

    found = values(SECOND)
    assert {devices.device_of(value) for value in found} == {SECOND}
    assert_alike([devices.to_host(value) for value in found], values("cpu"))


def test_arrays_of_another_device_are_brought(cupy):
    given = cupy.asarray(numbers(np, 3, 2))
    with lf.using(device=SECOND):
        w = lf.Parameter(given)
        y = w * lf.constant([given[0], given[1], given[2]])
        y.backward(given)
        w.assign(given * 2)
        lf.sum(w @ lf.constant(given[0])).backward()
    assert w.device == SECOND == devices.device_of(w.grad)
    np.testing.assert_allclose(w.numpy(), 2 * given.get())


def test_row_sparse_gradients(cupy):
    with lf.using(device=SECOND):
        table = lf.Parameter(numbers(np, 5, 2))
        for _ in range(2):
            lf.sum(lf.embedding(table, [1, 3, 1])).backward()
    gradient = table.grad
    assert devices.to_host(gradient.scale(2.0).to_dense()).sum() == 24
    assert devices.to_host(gradient.astype("float64").to_dense()).sum() == 12
    assert gradient.to(FIRST).to_dense().sum() == 12 == gradient.to("cpu").to_dense().sum()


def test_the_same_structure_on_one_device_after_the_other():
    """Plans and signatures that are kept do not hold anything of the device that they were used on first."""
    cell = lf.cell(lambda x, n: lf.tanh(x * n) + 0.5)
    for _ in range(2):
        for place in (FIRST, SECOND, "cpu"):
            with lf.using(device=place), lf.no_grad():
                x = lf.constant([0.5, 1.0])
                y = lf.stack([cell(x, n) for n in range(3)])[np.array([2, 0])] * lf.one_hot(1, 2)
                wanted = np.tanh(np.outer([2, 0], [0.5, 1.0])) + 0.5
                np.testing.assert_allclose(y.numpy(), wanted * [0, 1], rtol=1e-6)
                assert y.device == place


def test_hooks_run_with_the_device_current(cupy):
    seen = []
    with lf.using(device=SECOND):
        w = lf.Parameter([1.0, 2.0])
        y = w * 3.0
        for value in (w, y):
            value.register_hook(lambda g: seen.append(cupy.cuda.runtime.getDevice()) or g * 2)
        y.retain_grad()
        lf.sum(y).backward()
    assert seen == [1, 1] and devices.to_host(w.grad).tolist() == [12, 12]


def test_a_device_that_the_user_made_current_stays(cupy):
    with cupy.cuda.Device(1):
        with lf.using(device=FIRST):
            w = lf.Parameter([1.0, 2.0])
            lf.sum(w * w).backward()
            lf.optim.Adam([w]).step()
        assert cupy.cuda.runtime.getDevice() == 1
    assert w.device == FIRST


def test_a_device_of_a_thread():
    """Each thread has a current device, and a new one has the first."""
    found = {}

    def work(place):
        found[place] = trained([place] * 3)

    threads = [threading.Thread(target=work, args=(place,)) for place in (FIRST, SECOND)]
    for thread in threads:
        thread.start()
        thread.join()  # `lf.seed` is everybody's
    assert_alike(found[SECOND], found[FIRST])


@pytest.mark.parametrize("place", [FIRST, SECOND])
def test_streams(place, cupy):
    """What is computed goes into the stream that is current on the device; it stays current."""
    expected = trained(["cpu"] * 3)
    with cupy.cuda.Device(int(place[-1])):
        for non_blocking in (False, True):
            stream = cupy.cuda.Stream(non_blocking=non_blocking)
            with stream:
                found = trained([place] * 3)
                assert cupy.cuda.get_current_stream() == stream
            assert_alike(found, expected)


def test_exchange_of_arrays_of_the_second(cupy):
    with lf.using(device=SECOND):
        y = lf.constant([1.0, 2.0]) * 2.0
    assert y.__dlpack_device__() == (2, 1)
    with cupy.cuda.Device(1):
        assert cupy.from_dlpack(y).get().tolist() == [2, 4]
    with lf.using(device=SECOND):
        assert lf.from_dlpack(devices.to_device(np.ones(2), SECOND)).device == SECOND


def test_saving_and_loading(tmp_path):
    with lf.using(device=SECOND):
        net = Net()
        optimizer = lf.optim.Adam(net.parameters())
        net(*BATCHES[0]).backward()
        optimizer.step()
        lf.save(tmp_path / "m.safetensors", model=net, optimizer=optimizer)
        expected = net.state_dict()
        other = Net()
        lf.load(tmp_path / "m.safetensors", model=other, optimizer=lf.optim.Adam(other.parameters()))
    assert {p.device for p in other.parameters()} == {SECOND}
    assert_alike(other.state_dict().values(), expected.values())


def resumed(places, folder):
    """The state behind training whose second part, on another device, goes on from what the first has saved."""
    batches, path = iter(BATCHES), folder / "m.safetensors"
    for k, place in enumerate(places):
        lf.seed(8 + k)
        with lf.using(device=place):
            net = Net()
            optimizer = lf.optim.Adam(net.parameters(), lr=0.05)
            given = {"model": net, "optimizer": optimizer, "stream": lf.random.default_stream()}
            if k:
                lf.load(path, **given)
            for batch in batches if k else [next(batches)]:
                optimizer.zero_grad()
                net(*batch).backward()
                optimizer.step()
            lf.save(path, **given)
    return [devices.to_host(value) for value in net.state_dict().values()]


@pytest.mark.parametrize("places", [("cpu", FIRST), (FIRST, "cpu"), (SECOND, FIRST)], ids=" ".join)
def test_training_goes_on_from_a_checkpoint_of_another_device(places, tmp_path):
    """Parameters, moments, running averages and the stream of random numbers."""
    assert_alike(resumed(places, tmp_path), resumed(("cpu", "cpu"), tmp_path))


RANDOM = {
    "uniform": lambda x: lf.uniform((50,), low=-1.0, high=2.0),
    "bernoulli": lambda x: lf.bernoulli(0.3, (50,)),
    "dropout": lambda x: lf.dropout(x, 0.4),
    "categorical": lambda x: lf.categorical(x.reshape((10, 5))),
    "sample": lambda x: lf.sample(x.reshape((10, 5)), temperature=0.5),
    "normal": lambda x: lf.normal((50,)),
    "gumbel": lambda x: lf.gumbel((50,)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_are_the_same_everywhere(name, dtype):
    """Bits and masks; what is computed of them by logarithms to the last bits."""
    found = []
    for place in ("cpu", FIRST, SECOND):
        lf.seed(9)
        with lf.using(device=place, dtype=dtype):
            x = lf.constant(np.linspace(-1, 1, 50).astype(dtype))
            found.append(lf.forward([RANDOM[name](x) for _ in range(4)]))
    for values in found[1:]:
        for ours, theirs in zip(values, found[0], strict=True):
            if name in ("normal", "gumbel"):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5 if dtype == "float32" else 1e-13, atol=1e-7)
            else:
                np.testing.assert_array_equal(ours, theirs)


def test_a_trainer():
    def program(xp):
        place = lf.settings.current().device
        model = nn.Linear(4, 3).to(place)
        x, y = numbers(np, 6, 4), np.array([0, 1, 2, 2, 1, 0])
        optimizer = lf.optim.SGD(model.parameters(), lr=0.1)
        trainer = train.create_supervised_trainer(model, optimizer, lf.cross_entropy, device=place)
        evaluator = train.create_supervised_evaluator(model, {"accuracy": train.Accuracy()}, device=place)
        loss = trainer.run([(x, y)], max_epochs=3).output
        return [np.float32(loss), np.float32(evaluator.run([(x, y)]).metrics["accuracy"])]

    on_both(program, SECOND)
