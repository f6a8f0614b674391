"""Every input that a person can get wrong: what is raised, that the message says what to do, and that nothing is
half-done."""

import inspect
import traceback

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import functions
from lazyflow.nn import functional

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
    "keepdims of a dtype": (lambda: lf.mean(c(2, 3), 0, np.float64), TypeError, ["mean", "keepdims", "astype"]),
    "keepdims of a text": (lambda: c(2, 3).argmax(0, "yes"), TypeError, ["argmax", "keepdims", "'yes'"]),
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
    "lookup list": (
        lambda: lf.embedding(lf.Parameter(TABLE), [[1, 2], [12, 3]]),
        IndexError,
        ["12", "(element [1, 0])", "(10, 3)"],
    ),
    "lookup float": (lambda: lf.embedding(lf.Parameter(TABLE), 1.5), lf.DTypeError, ["integer", "float32", "astype"]),
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


FUNCTIONS = {f"{m.__name__}.{n}": getattr(m, n) for m in (functions, functional) for n in m.__all__}
MISFITS = {"none": ((), {}), "many": ((1,) * 20, {}), "unknown": ((1,), {"nonsense": 1}), "twice": ((1,), {"x": 1})}


def words_of_python(function, args, kwargs):
    """What Python says of these arguments to a function of that name and these parameters, if they do not fit."""
    signature = inspect.signature(function)
    plain = [p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else 0)
             for p in signature.parameters.values()]  # fmt: skip
    other = eval(f"lambda {str(inspect.Signature(plain))[1:-1]}: None")
    other.__qualname__ = function.__name__
    try:
        other(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return None


@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_that_do_not_fit_a_function_are_told_as_by_python(name, misfit):
    function, (args, kwargs) = FUNCTIONS[name], MISFITS[misfit]
    expected = words_of_python(function, args, kwargs)
    assert expected is not None or misfit in ("none", "twice")
    if expected is not None:
        assert expected.startswith(name.rpartition(".")[2] + "()")
        with pytest.raises(TypeError) as caught:
            function(*args, **kwargs)
        assert str(caught.value) == expected


def one_more(*values):
    """Indices that nobody knows before they are computed, one more than these."""
    return lf.constant(np.array(values)) + 1


# Indices that are computed: what is recorded with them, and words of the message. Each stands in a line of its own.
COMPUTED = {
    "lookup": (lambda i: lf.embedding(lf.Parameter(TABLE), i), 9, "lookup: index 10 .*an axis of 10 elements"),
    "take": (lambda i: lf.take(c(1, 3), i), 0, "take: index 1 .*an axis of 1 element"),
    "subscript": (lambda i: c(4, 3)[i], -6, "take: index -5 .*an axis of 4 elements"),
    "take_along_axis": (lambda i: lf.take_along_axis(c(1, 3), i.reshape(1, -1)), 2, "take_along_axis: index 3 "),
    "one_hot": (lambda i: lf.one_hot(i, 5), -2, "one_hot: index -1 .*an axis of 5 elements"),
    "scatter": (lambda i: lf.scatter(c(2), i, 5), 4, "scatter: index 5 "),
    "segment_sum": (lambda i: lf.segment_sum(c(2), i, 5), -2, "segment_sum: index -1 "),
    "segment_mean": (lambda i: lf.segment_mean(c(2), i, 5), 4, "segment_mean: index 5 "),
    "segment_max": (lambda i: lf.segment_max(c(2), i, 5), 4, "segment_max: index 5 "),
    "segment_softmax": (lambda i: lf.segment_softmax(c(2), i, 5), 4, "segment_softmax: index 5 "),
    "cross_entropy": (lambda i: lf.cross_entropy(c(2, 5), i), 4, "class 5 .*5 scores; classes are numbered from 0"),
}


@pytest.mark.host  # a device is not asked whether indices that it computes are in range: that would be a wait
@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("name", COMPUTED)
def test_a_computed_index_out_of_range_is_found_at_its_line(name, checked):
    record, wrong, text = COMPUTED[name]
    with lf.using(check_finite=checked):
        values = [lf.sum(record(one_more(0, -1))), lf.sum(record(one_more(-1, wrong)))]
        with pytest.raises(IndexError, match=text) as caught:
            lf.forward(values)
    own, first = f", at {__file__}:{record.__code__.co_firstlineno}", " (where it was first recorded)"
    assert str(caught.value).endswith(own) if checked else str(caught.value).endswith(first)


@pytest.mark.host
def test_under_check_finite_the_line_is_that_of_the_very_node():
    table = lf.Parameter(TABLE)
    with lf.using(check_finite=True):
        good = lf.embedding(table, one_more(0, 1))
        bad = lf.embedding(table, one_more(0, 9))
        with pytest.raises(IndexError) as caught:
            lf.sum(good + bad).forward()
    line = test_under_check_finite_the_line_is_that_of_the_very_node.__code__.co_firstlineno + 5
    assert str(caught.value).endswith(f", at {__file__}:{line}")


@pytest.mark.host
def test_of_nodes_of_other_lengths_the_line_is_that_of_the_length():
    def sums(n, *index):  # a launch has them all, and a signature that is none of theirs
        return lf.segment_sum(c(len(index), 13), one_more(*index), n)

    good = sums(9, 1, 2), sums(8, 1, 2, 3)
    bad = lf.segment_sum(c(4, 13), one_more(0, 1, 2, 9), 7)
    with pytest.raises(
        IndexError, match="segment_sum: index 10 is out of range for an axis of 7 elements, at "
    ) as caught:
        lf.forward([*good, bad])
    line = test_of_nodes_of_other_lengths_the_line_is_that_of_the_length.__code__.co_firstlineno + 6
    first = f"{__file__}:{sums.__code__.co_firstlineno + 1}"
    assert f" or {__file__}:{line} (" in str(caught.value) and f", at {first} (" in str(caught.value)


@pytest.mark.host
def test_of_nodes_that_are_taken_one_by_one_the_line_and_the_shape_are_those_that_fail():
    def good(n):  # a launch takes them all
        return lf.cholesky(lf.constant(np.eye(n, dtype=np.float32)))

    def bad(n):
        return lf.cholesky(lf.constant(-np.eye(n, dtype=np.float32)))

    with pytest.raises(np.linalg.LinAlgError) as caught:
        lf.forward([good(2), good(3), bad(5), good(4), good(6)])
    line = f"{__file__}:{bad.__code__.co_firstlineno + 1} (where it was first recorded)"
    assert str(caught.value).endswith(f", in cholesky(float32[5, 5]) -> float32[5, 5], at {line}")


@pytest.mark.host
def test_a_cell_names_the_line_of_its_calls_and_under_check_finite_that_of_its_body():
    table = lf.Parameter(TABLE)

    def body(index):
        return lf.tanh(lf.sum(lf.embedding(table, index)))

    cell = lf.cell(body)
    calls = lambda: [cell(one_more(k)) for k in (0, 1, 9)]  # noqa: E731
    for checked, line in ((False, calls.__code__.co_firstlineno), (True, body.__code__.co_firstlineno + 1)):
        with lf.using(check_finite=checked), pytest.raises(IndexError, match=rf"lookup: index 10 .*, at .*:{line}\b"):
            lf.forward(calls())


_inverse = lf.cell(lambda x: lf.numpy.linalg.inv(x * 1.0))

# Matrices that only a run finds wrong, each of a size of its own: in a line of its own what is recorded with them, the
# operation, and words of the message.
WRONG = {
    "inv": (lambda x: lf.numpy.linalg.inv(x * 1.0), 5, "Singular matrix, in inv(float64[5, 5]) -> float64[5, 5]"),
    "cholesky": (lambda x: lf.numpy.linalg.cholesky(x * 1.0), 6, "not positive definite, in cholesky(float64[6, 6])"),
    "solve": (lambda x: lf.numpy.linalg.solve(x * 1.0, np.ones(7)), 7, "Singular matrix, in solve(float64[7, 7], "),
    "power": (lambda x: lf.numpy.linalg.matrix_power(x * 1.0, -1), 8, "Singular matrix, in inv(float64[8, 8])"),
    "cell": (lambda x: _inverse(x), 9, "Singular matrix, in "),
}


@pytest.mark.host  # a device says nothing of a matrix
@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("name", WRONG)
def test_what_a_kernel_raises_names_operation_shapes_and_line(name, checked):
    record, n, text = WRONG[name]
    with lf.using(check_finite=checked, dtype="float64"):
        values = [record(lf.constant(np.eye(n))), record(lf.constant(np.zeros((n, n))))]
        with pytest.raises(np.linalg.LinAlgError) as caught:
            lf.forward(values)
    found, line = str(caught.value), record.__code__.co_firstlineno
    if name == "cell" and checked:
        line = _inverse.__wrapped__.__code__.co_firstlineno  # that of its body
    assert text in found and f", at {__file__}:{line}" in found


@pytest.mark.host
def test_under_check_finite_the_line_of_a_wrong_matrix_is_that_of_the_very_node():
    with lf.using(check_finite=True, dtype="float64"):
        good = lf.numpy.linalg.inv(lf.constant(np.eye(2)))
        bad = lf.numpy.linalg.inv(lf.constant(np.zeros((2, 2))))  # here
        with pytest.raises(np.linalg.LinAlgError) as caught:
            lf.sum(good + bad).forward()
    line = test_under_check_finite_the_line_of_a_wrong_matrix_is_that_of_the_very_node.__code__.co_firstlineno + 4
    assert str(caught.value).endswith(f", at {__file__}:{line}")


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
