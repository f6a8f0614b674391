"""Every input that a person can get wrong: what is raised, that the message says what to do, and that nothing is
half-done."""

import traceback

import numpy as np
import pytest

import lazyflow as lf

from .conftest import missing_gpu


def fused_by(value):
    with lf.using(fuse=value):
        pass


def c(*shape, dtype="float32"):
    return lf.constant(np.ones(shape, dtype))


TABLE = np.zeros((10, 3), np.float32)
W = np.zeros((4, 3), np.float32)

# what is done, the error, and words of the message: what came, and what would fit
MISTAKES = {
    "add": (lambda: c(3) + c(4), lf.ShapeError, ["add", "(3,)", "(4,)"]),
    "multiply": (lambda: c(2, 3) * c(2), lf.ShapeError, ["multiply", "(2, 3)", "(2,)"]),
    "fuse": (lambda: fused_by("gcc"), ValueError, ["fuse", "core", "numpy", "off", "'gcc'"]),
    "fuse by numba": (lambda: fused_by("numba"), ValueError, ["fuse='numba'", "fuse='core'"]),
    "matmul": (lambda: c(4, 3) @ c(4), lf.ShapeError, ["matmul", "(4, 3)", "(4,)"]),
    "parameter matmul": (lambda: lf.Parameter(W) @ c(4), lf.ShapeError, ["matmul", "(4, 3)", "(4,)"]),
    "affine": (
        lambda: lf.affine(lf.Parameter(W), lf.Parameter(np.zeros(5, np.float32)), c(3)),
        lf.ShapeError,
        ["affine", "(4, 3)", "(5,)"],
    ),
    "dot": (lambda: lf.dot(c(3), c(4)), lf.ShapeError, ["dot", "(3,)", "(4,)"]),
    "outer": (lambda: lf.outer(c(3), c(2, 2)), lf.ShapeError, ["outer", "(2, 2)"]),
    "einsum": (lambda: lf.einsum("ij,j->i", c(2, 3), c(4)), lf.ShapeError, ["einsum"]),
    "einsum text": (lambda: lf.einsum("ij,j->k", c(2, 3), c(3)), lf.ShapeError, ["einsum", "k"]),
    "bilinear": (lambda: lf.bilinear(c(3), c(2, 4, 4), c(4)), lf.ShapeError, ["bilinear"]),
    "concatenate": (lambda: lf.concatenate([c(2, 3), c(2, 4)]), lf.ShapeError, ["concatenate", "(2, 3)", "(2, 4)"]),
    "concatenate nothing": (lambda: lf.concatenate([]), lf.ShapeError, ["concatenate", "empty"]),
    "concatenate one": (lambda: lf.concatenate(c(3)), TypeError, ["list"]),
    "stack": (lambda: lf.stack([c(3), c(4)]), lf.ShapeError, ["stack", "(3,)", "(4,)"]),
    "split": (lambda: lf.split(c(7), 2), lf.ShapeError, ["split", "7", "2"]),
    "reshape": (lambda: c(6).reshape(4, 2), lf.ShapeError, ["reshape", "(6,)", "(4, 2)"]),
    "transpose": (lambda: lf.transpose(c(2, 3), (0, 0)), lf.ShapeError, ["transpose"]),
    "squeeze": (lambda: lf.squeeze(c(2, 1), 0), lf.ShapeError, ["squeeze"]),
    "broadcast_to": (lambda: lf.broadcast_to(c(3), (3, 4)), lf.ShapeError, ["broadcast_to", "(3,)", "(3, 4)"]),
    "axis": (lambda: lf.sum(c(2, 3), axis=2), lf.ShapeError, ["sum", "axis 2", "2 axes"]),
    "axis twice": (lambda: lf.mean(c(2, 3), axis=(0, -2)), lf.ShapeError, ["mean", "twice"]),
    "softmax axis": (lambda: lf.softmax(c(3), axis=1), lf.ShapeError, ["softmax", "axis 1"]),
    "sum of nothing": (lambda: lf.sum([]), lf.ShapeError, ["empty"]),
    "mean of nothing": (lambda: lf.mean([]), lf.ShapeError, ["mean", "empty"]),
    "sum of shapes": (lambda: lf.sum([c(2), c(3)]), lf.ShapeError, ["sum", "[2]", "[3]"]),
    "cross_entropy class": (lambda: lf.cross_entropy(c(5), 5), IndexError, ["5", "(5,)"]),
    "cross_entropy negative": (lambda: lf.cross_entropy(c(5), -1), IndexError, ["-1"]),
    "cross_entropy shape": (
        lambda: lf.cross_entropy(c(5), np.ones(4, np.float32)),
        lf.ShapeError,
        ["cross_entropy", "(5,)", "(4,)"],
    ),
    "cross_entropy of a float": (lambda: lf.cross_entropy(c(5), 2.0), TypeError, ["a class is an integer", "float"]),
    "cross_entropy of a bool": (lambda: lf.cross_entropy(c(5), True), TypeError, ["a class is an integer", "bool"]),
    "cross_entropy of nothing": (lambda: lf.cross_entropy(None, 1), lf.DTypeError, ["NoneType", "return missing"]),
    "mse": (lambda: lf.mse(c(2), c(3)), lf.ShapeError, ["mse", "(2,)", "(3,)"]),
    "reduction": (lambda: lf.mse(c(2), c(2), reduction="average"), ValueError, ["average", "mean"]),
    "lookup": (lambda: lf.embedding(lf.Parameter(TABLE, name="words"), 10), IndexError, ["10", "words", "(10, 3)"]),
    "lookup negative": (lambda: lf.embedding(lf.Parameter(TABLE), -1), IndexError, ["-1", "0 to 9"]),
    "lookup list": (lambda: lf.embedding(lf.Parameter(TABLE), [1, 2, 12]), IndexError, ["12", "(10, 3)"]),
    "lookup float": (lambda: lf.embedding(lf.Parameter(TABLE), 1.5), TypeError, ["integer"]),
    "index": (lambda: c(3)[3], IndexError, ["3", "size 3"]),
    "too many indices": (lambda: c(3)[0, 1], IndexError, ["2 indices", "(3,)"]),
    "index by a float": (lambda: c(3)[1.0], TypeError, ["integers"]),
    "mask": (lambda: c(3)[np.array([True, False, True])], lf.DTypeError, ["integers", "where"]),
    "pick": (lambda: lf.pick(c(3), 3), IndexError, ["3", "(3,)"]),
    "take": (lambda: lf.take(c(3), [0, 5]), IndexError, ["5", "(3,)"]),
    "strings": (lambda: lf.constant("abc"), lf.DTypeError, ["numbers", "Vocabulary"]),
    "objects": (lambda: lf.constant([object()]), lf.DTypeError, ["numbers"]),
    "item of many": (lambda: c(3).item(), ValueError, ["(3,)", "numpy"]),
    "truth of many": (lambda: bool(c(3) > 0), ValueError, ["ambiguous", "any"]),
    "len of a scalar": (lambda: len(c()), TypeError, ["len"]),
    "integer gradient": (lambda: lf.Parameter(np.array([1, 2])), lf.DTypeError, ["int64", "requires_grad=False"]),
    "backward of a vector": (
        lambda: (lf.Parameter([1.0, 2.0]) * 2).backward(),
        lf.GradientError,
        ["(2,)", "backward(gradient)"],
    ),
    "backward of a constant": (lambda: lf.sum(c(3)).backward(), lf.GradientError, ["no parameter"]),
    "backward gradient shape": (
        lambda: (lf.Parameter([1.0, 2.0]) * 2).backward(np.ones(3)),
        lf.ShapeError,
        ["(2,)", "(3,)"],
    ),
    "parameter shape": (
        lambda: lf.Parameter([1.0, 2.0]).assign([1.0]),
        lf.ShapeError,
        ["(2,)", "(1,)", "keeps its shape"],
    ),
    "parameter data": (lambda: setattr(lf.Parameter([1.0, 2.0]), "data", [1.0]), lf.ShapeError, ["(2,)", "(1,)"]),
    "gradient shape": (lambda: setattr(lf.Parameter([1.0, 2.0]), "grad", np.ones(3)), lf.ShapeError, ["(2,)", "(3,)"]),
    "dropout p": (lambda: lf.dropout(c(3), 1.0), ValueError, ["p", "1.0"]),
    "seed": (lambda: lf.seed(-1), ValueError, ["-1"]),
    "batching": (lambda: lf.using(batching="fast"), ValueError, ["fast", "phases"]),
    "setting": (lambda: lf.using(batch="phases"), TypeError, ["batch", "batching"]),
    "dtype setting": (lambda: lf.using(dtype="int32"), lf.DTypeError, ["int32", "float32"]),
    "device": (lambda: lf.using(device="gpu"), lf.DeviceError, ["gpu", "cuda"]),
    "forward of a number": (lambda: lf.forward([3.0]), TypeError, ["expression", "float"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    action, error, words = MISTAKES[mistake]
    with pytest.raises(error) as caught:
        action()
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_was_recorded_before_a_mistake_still_runs(mistake):
    x = c(3) * 1.0
    action, error, _ = MISTAKES[mistake]
    with pytest.raises(error):
        action()
    assert lf.sum(lf.tanh(x)).item() == pytest.approx(3 * np.tanh(1.0), rel=1e-6)


def test_the_error_comes_from_the_line_that_made_the_mistake():
    try:
        first = c(3)
        second = first + c(4)  # here
        second.item()
    except lf.ShapeError as error:
        lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if frame.filename == __file__]
        assert lines == ["second = first + c(4)  # here"]


def test_a_repeated_mistake_is_a_repeated_error():
    a, b = c(3), c(4)
    for _ in range(3):
        with pytest.raises(lf.ShapeError):
            a + b


@pytest.mark.skipif(not missing_gpu(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_says_what_is_missing():
    with (
        pytest.raises(lf.DeviceError, match=r"device 'cuda' needs (CuPy|a GPU).*device='cpu'"),
        lf.using(device="cuda:0"),
    ):
        pass


def test_a_loss_that_raises_leaves_gradients_alone():
    w = lf.Parameter([1.0, 2.0])
    lf.sum(w).backward()
    with pytest.raises(lf.GradientError):
        (w * 2).backward()
    np.testing.assert_array_equal(w.grad, [1.0, 1.0])
