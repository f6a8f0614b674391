"""Programs on a device: what the user gives and gets there, and that nothing goes to the host unasked.

``pytest --device simulated`` runs this without a GPU. Each program is one on the CPU as well, with the same values.
"""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import device as devices
from lazyflow import nn
from lazyflow.ops.base import OPS

pytestmark = pytest.mark.gpu
CUDA = "cuda:0"


@pytest.fixture
def cupy():
    return devices.array_module(CUDA)


def on_both(program, place=CUDA):
    """The values of ``program(xp)``, which makes its arrays by ``xp``, on the CPU and on the device."""
    found = []
    for device in ("cpu", place):
        with lf.using(device=device):
            lf.seed(5)
            found.append([devices.to_host(value_of(v)) for v in program(devices.array_module(device))])
    for on_cpu, on_gpu in zip(*found, strict=True):
        assert on_cpu.dtype == on_gpu.dtype
        np.testing.assert_allclose(on_gpu, on_cpu, rtol=2e-6, atol=2e-6)


def value_of(value):
    if isinstance(value, lf.RowSparse):
        return value.to_dense()
    return value.numpy() if isinstance(value, lf.Expr) else np.asarray(value) if np.isscalar(value) else value


def numbers(xp, *shape, dtype="float32"):
    return xp.asarray(np.random.default_rng(7).standard_normal(shape).astype(dtype))


def trained_by_hand(update):
    def program(xp):
        w = lf.Parameter(numbers(xp, 3, 2))
        for _ in range(3):
            lf.sum(lf.tanh(w) ** 2).backward()
            with lf.no_grad():
                w = update(w)
            w.zero_grad()
        return [w]

    return program


def minus(w):
    w -= 0.1 * w.grad
    return w


def minus_row_of_numbers(w):
    w -= [0.5, 0.25]
    w *= np.float32(0.9)
    w /= lf.constant([2.0, 3.0])
    w += lf.Parameter(np.ones((3, 2), np.float32))
    return w


def by_data(w):
    w.data -= 0.1 * w.grad
    w.data[0] = 0
    return w


def by_assign(w):
    w.assign(w.grad)
    w.assign(lf.tanh(w))
    w.assign([[1.0, 2.0]] * 3)
    return w


@pytest.mark.parametrize("update", [minus, minus_row_of_numbers, by_data, by_assign], ids=lambda f: f.__name__)
def test_updates_by_hand(update):
    on_both(trained_by_hand(update))


def test_a_sparse_gradient_by_hand():
    def program(xp):
        table = lf.Parameter(numbers(xp, 5, 2))
        lf.sum(lf.embedding(table, [1, 3, 1])).backward()
        with lf.no_grad():
            table -= 0.1 * table.grad.to_dense()
        return [table, table.grad]

    on_both(program)


GIVEN = {
    "an array": lambda xp: numbers(xp, 3),
    "a view": lambda xp: numbers(xp, 4, 3).T[::2],
    "float16": lambda xp: numbers(xp, 3, dtype="float16"),
    "a list of arrays": lambda xp: [numbers(xp, 3), numbers(xp, 3)],
    "a list of lists": lambda xp: [[numbers(xp, 3), numbers(xp, 3)]],
    "a list of scalars": lambda xp: [numbers(xp, 3)[0], numbers(xp, 3)[1]],
    "scalars beside numbers": lambda xp: [numbers(xp, 3)[0], 2.5],
    "arrays of both": lambda xp: [numbers(xp, 3), numbers(np, 3)],
    "no axis": lambda xp: numbers(xp)[()] if xp is np else numbers(xp),
}


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("kind", [lf.Parameter, lf.constant, lf.sum, lf.exp])
def test_arrays_and_lists_of_them(name, kind):
    on_both(lambda xp: [kind(GIVEN[name](xp))])


def test_an_array_is_copied_and_goes_to_the_default_device(cupy):
    given = cupy.ones(3, np.float32)
    with lf.using(device=CUDA):
        w, c = lf.Parameter(given), lf.constant(given)
    with lf.using(device="cpu"):
        other = lf.Parameter(given)
    given[:] = 5
    assert w.device == CUDA and other.device == "cpu"
    assert w.numpy().tolist() == c.numpy().tolist() == other.numpy().tolist() == [1, 1, 1]


def test_lists_of_arrays_of_two_shapes(cupy):
    with pytest.raises(lf.ShapeError, match=r"\(2,\), \(3,\)"):
        lf.constant([cupy.ones(3), cupy.ones(2)])


INDEX = {
    "take": lambda x, i: lf.take(x, i),
    "along an axis": lambda x, i: lf.take(x, i, axis=1),
    "brackets": lambda x, i: x[i],
    "embedding": lambda x, i: lf.embedding(x, i),
    "one_hot": lambda x, i: lf.one_hot(i, 4) * x[0, 0],
    "scatter": lambda x, i: lf.scatter(x[:3], i, 4),
    "pick": lambda x, i: lf.pick(x, i[0]),
    "take_along_axis": lambda x, i: lf.take_along_axis(x, i[None, :], 1),
    "cross entropy": lambda x, i: lf.cross_entropy(x[:3], i),
}


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint64"])
@pytest.mark.parametrize("name", INDEX)
def test_arrays_as_indices(name, dtype):
    def program(xp):
        x = lf.Parameter(numbers(xp, 4, 4))
        y = INDEX[name](x, xp.asarray(np.array([3, 0, 3], dtype)))
        lf.sum(y * y).backward()
        return [y, x.grad]

    on_both(program)


@pytest.mark.parametrize("name", INDEX)
@pytest.mark.parametrize("where", ["host", "device", "list"])
def test_wrong_indices_are_refused_at_the_line(name, where, cupy):
    wrong = {"host": np.array, "device": cupy.asarray, "list": list}[where]([7, 0, 1])
    with lf.using(device=CUDA):
        x = lf.Parameter(np.ones((4, 4), np.float32))
        with pytest.raises(IndexError, match="7"):
            INDEX[name](x, wrong if where != "list" or name != "take_along_axis" else np.array(wrong))


def computed_indices(xp):
    x = lf.Parameter(numbers(xp, 200, 3))
    index = lf.argsort(lf.sum(x, axis=1))[:5]
    rows = [lf.embedding(x, index), lf.take(x, index), x[index], lf.scatter(x[:5], index, 200)]
    lf.sum(lf.stack([lf.sum(r * r) for r in rows])).backward()
    return [*rows, x.grad]


def test_indices_that_are_computed():
    on_both(computed_indices)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_small_integers_as_indices_of_large_tables(dtype):
    def program(xp):
        x = lf.Parameter(numbers(xp, 300, 2))
        index = lf.constant(np.array([1, 100, 7], dtype)) + lf.constant(np.array([1, 2, 3], dtype))
        y = lf.take(x, index)
        lf.sum(y * y).backward()
        return [y, x.grad]

    on_both(program)


def test_functions_over_arrays(cupy):

    def f(x):
        return lf.sum(lf.tanh(x) * x)

    def program(xp):
        x, v = numbers(xp, 3, dtype="float64"), numbers(xp, 3, 2, dtype="float64")
        return [
            lf.grad(f)(x),
            lf.value_and_grad(f)(x)[0],
            lf.vmap(f)(v),
            lf.vmap(lambda a, b: a * b, in_axes=(1, None))(v, x),
            lf.vmap(lambda i: lf.one_hot(i, 3))(xp.asarray([0, 2])),
            lf.jvp(f, (x,), (x,))[1],
            *lf.vjp(f, x)[1](xp.asarray(2.0)),
            lf.hessian(f)(x),
        ]

    on_both(program)


@pytest.mark.parametrize("modes", [["fwd"], ["rev"], ["fwd", "rev"]])
def test_check_grads(modes):
    def right(x, y):
        return lf.tanh(x * y) * lf.constant([1.0, 2.0, 3.0])

    def wrong(x):
        return x * x.detach()

    for device in ("cpu", CUDA):
        with lf.using(device=device, dtype="float64"):
            x = numbers(devices.array_module(device), 3, dtype="float64")
            lf.check_grads(right, (0, 1), modes=modes)(x, x + 1)
            with pytest.raises(AssertionError, match="derivative"):
                lf.check_grads(wrong, modes=modes)(x)


def test_a_gradient_elsewhere_is_refused(cupy):
    with lf.using(device=CUDA):
        w = lf.Parameter(np.ones(3, np.float32))
    with pytest.raises(lf.DeviceError, match=r"on cuda:0 must lie there too, got one on cpu: write cupy.asarray"):
        w.grad = np.ones(3, np.float32)
    with pytest.raises(lf.DeviceError, match="cpu"):
        w.grad = lf.RowSparse(np.array([1]), np.ones(1, np.float32), (3,))
    assert w.grad is None
    w.grad = cupy.ones(3, np.float32)
    w.to("cpu")
    assert isinstance(w.grad, np.ndarray)
    with pytest.raises(lf.DeviceError, match=r"on cpu must lie there too, got one on cuda:0: write gradient.get"):
        w.grad = cupy.ones(3, np.float32)


def test_seeds_of_backward(cupy):
    def program(xp):
        w = lf.Parameter(numbers(xp, 3))
        y = w * w
        y.backward(xp.asarray([1.0, 2.0, 3.0]))
        y.backward(np.array([1.0, 2.0, 3.0]))
        y.backward([1, 0, 1])
        y.backward(lf.constant([1.0, 0.0, 2.0]))
        w.backward(xp.ones(3, np.float32))
        return [w.grad]

    on_both(program)


def gated(x, n, rate):
    return lf.tanh(x * rate) * n


def test_numbers_as_arguments_of_cells():
    cell = lf.cell(gated)
    table = lf.cell(lambda w, i, rate: lf.embedding(w, i) * rate + lf.one_hot(i, 2))

    def program(xp):
        w = lf.Parameter(numbers(xp, 4, 2))
        ys = [cell(w[k], k + 1, 0.5 * k) for k in range(4)]
        zs = [table(w, i, 0.25 * i) for i in (0, 1, 0)]
        total = lf.sum(lf.stack([lf.sum(y) for y in [*ys, *zs]]))
        total.backward()
        return [*ys, *zs, w.grad]

    on_both(program)


def test_lists_of_many_lengths():
    def program(xp):
        w = lf.Parameter(numbers(xp, 9))
        y = lf.stack([f([w[i] * 2.0 for i in range(n)]) for f in (lf.sum, lf.mean) for n in (1, 5, 9, 2, 5)])
        lf.sum(y * y).backward()
        return [y, w.grad]

    on_both(program)


def test_operations_of_numbers_alone():
    for device in ("cpu", CUDA, "cpu", CUDA):
        with lf.using(device=device):
            assert lf.normal((2,)).device == device
            assert (lf.constant([1.0, 2.0, 3.0]) * lf.one_hot(1, 3)).numpy().tolist() == [0, 2, 0]


def test_exchange_with_other_libraries(cupy):
    given = cupy.arange(3, dtype=np.float32)
    with lf.using(device=CUDA):
        x = lf.from_dlpack(given)
        assert x.device == CUDA and x.numpy().tolist() == [0, 1, 2]
        w = lf.Parameter(given, requires_grad=False)
        for e in (x, w, w * 2.0):
            assert e.__dlpack_device__() == (2, 0)
            taken = cupy.from_dlpack(e)
            assert isinstance(taken, cupy.ndarray)
            assert taken.get().tolist() == e.numpy().tolist()
        cupy.from_dlpack(w)[:] = 9
        assert w.numpy().tolist() == [0, 1, 2], "a parameter is handed out as a copy"


def test_modules_take_and_give_arrays(cupy, tmp_path):
    with lf.using(device=CUDA):
        net = nn.Linear(3, 2)
        state = net.state_dict()
        assert all(type(v) is np.ndarray for v in state.values())
        net.load_state_dict({k: cupy.asarray(v) for k, v in state.items()})
        lf.save(tmp_path / "x.safetensors", {"a": cupy.ones(3), "b": net.state_dict()})
    assert lf.load(tmp_path / "x.safetensors")["a"].tolist() == [1, 1, 1]


def test_hooks_take_and_give_arrays(cupy):
    def program(xp):
        w = lf.Parameter(numbers(xp, 3))
        y = w * 2.0
        y.register_hook(lambda g: g * 3)
        w.register_hook(lambda g: xp.ones(3, np.float64) + g)
        y.retain_grad()
        lf.sum(y * y).backward()
        return [w.grad, y.grad]

    on_both(program)


def test_the_current_device_of_the_user_stays(cupy):
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one device only")
    with lf.using(device="cuda:1"):
        w = lf.Parameter(np.ones((3, 3), np.float32))
        optimizer = lf.optim.Adam([w])
        assert cupy.cuda.runtime.getDevice() == 0
        y = lf.sum(w @ lf.constant([1.0, 2.0, 3.0]))
        y.backward()
        optimizer.step()
        y.numpy(), w.numpy()
        assert cupy.cuda.runtime.getDevice() == 0
    assert w.device == "cuda:1" and w.grad.device.id == w.array.device.id == 1


def test_every_integer_operand_comes_from_the_host_or_the_device(cupy):
    x, index = cupy.asarray(np.arange(12.0).reshape(3, 4)), np.array([1, 3, 0])
    static = {"name": "take", "axis": -1, "ndim": 1, "index_ndim": 0}
    for i in (index, cupy.asarray(index)):
        assert OPS["take"].forward(cupy, x, i, **static).get().tolist() == [1, 7, 8]


F = nn.functional
TARGETS = {
    "smoothed": lambda x, i, w: F.cross_entropy(x, i, label_smoothing=0.1),
    "weights": lambda x, i, w: F.cross_entropy(x, i, weight=w),
    "ignored": lambda x, i, w: F.cross_entropy(x, i, ignore_index=2),
    "probabilities": lambda x, i, w: F.cross_entropy(x, abs(x.detach()), weight=w),
    "nll": lambda x, i, w: F.nll_loss(lf.log_softmax(x), i),
    "margin": lambda x, i, w: F.multi_margin_loss(x, i, weight=w),
    "labels": lambda x, i, w: F.multilabel_margin_loss(x[0], i),
    "ctc": lambda x, i, w: F.ctc_loss(lf.log_softmax(x), i[:2] + 1),
}


@pytest.mark.parametrize("name", TARGETS)
def test_arrays_as_targets_and_weights(name):
    def program(xp):
        x = lf.Parameter(numbers(xp, 4, 4))
        loss = TARGETS[name](x, xp.asarray(np.array([2, 0, 1, -1 if name == "labels" else 3])), abs(numbers(xp, 4)))
        loss.backward()
        return [loss, x.grad]

    on_both(program)


def test_soft_targets_stay_on_the_device():
    def program(xp):
        x = lf.Parameter(numbers(xp, 2, 4))
        loss = F.cross_entropy(x, abs(numbers(xp, 2, 4)))
        loss.backward()
        return [loss, x.grad]

    on_both(program)


@pytest.mark.parametrize("sparse", [True, False])
def test_an_embedding_with_padding(sparse):
    def program(xp):
        table = nn.Embedding(5, 2, padding_idx=1, sparse=sparse)
        nn.init.constant_(table.weight, xp.asarray(0.5))
        y = table(xp.asarray([3, 1, 0]))
        lf.sum(y * y).backward()
        return [y, table.weight.grad]

    on_both(program)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_averages(momentum):
    def program(xp):
        norm = nn.BatchNorm1d(3, momentum=momentum)
        lf.sum(norm(numbers(xp, 4, 3)) * 2.0).backward()
        norm(numbers(xp, 5, 3))
        return [norm.running_mean, norm.running_var, norm.num_batches_tracked, norm.eval()(numbers(xp, 2, 3))]

    on_both(program)


HIDDEN = {
    "affine": lambda w, b, x: lf.affine(w, b, x),
    "matmul": lambda w, b, x: w @ x,
    "outer": lambda w, b, x: lf.outer(b, x) * w,
    "bilinear": lambda w, b, x: lf.bilinear(b, w.reshape(1, 2, 3), x),
    "conv": lambda w, b, x: lf.conv(x.reshape(1, 3), w.reshape(1, 1, 6)[:, :, :2]),
    "by columns": lambda w, b, x: lf.affine(w, b, lf.stack([x, x * 0.5])),
}


@pytest.mark.parametrize("form", ["operations", "a cell", "recorded"])
@pytest.mark.parametrize("name", HIDDEN)
def test_an_example_that_a_mask_has_hidden_leaves_nothing(name, form):
    """Infinite operands, and cotangents that are zero, in the same products as other examples."""

    def program(xp):
        w, b = lf.Parameter(numbers(xp, 2, 3)), lf.Parameter(numbers(xp, 2))
        function = lf.cell(HIDDEN[name]) if form == "a cell" else HIDDEN[name]
        rows = [[1.0, 2.0, 3.0], [np.inf, 1.0, np.nan], [0.5, -0.5, 1.0], [1.0, -np.inf, 0.0]]
        losses = [lf.sum(function(w, b, lf.constant(row) * 1.0) ** 2) for row in rows]
        total = lf.sum([lf.where(k % 2 == 0, loss, 0.0) for k, loss in enumerate(losses)])
        if form == "recorded":
            return lf.gradients(total, [w])
        total.backward()
        return [w.grad]

    on_both(program)
    with lf.using(device=CUDA):
        assert np.isfinite(devices.to_host(value_of(program(devices.array_module(CUDA))[0]))).all()
