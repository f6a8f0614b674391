"""Arrays of other libraries by DLPack: what is a copy, and that no gradient is lost in silence."""

import numpy as np
import pytest

import lazyflow as lf

X = np.array([[0.3, -0.7, 1.1], [0.2, 0.4, -0.6]])


@pytest.mark.host
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_dlpack_to_numpy_and_back(dtype):
    x = (X * 3).astype(dtype)
    e = lf.from_dlpack(x)
    assert e.dtype == dtype and e.__dlpack_device__() == (1, 0)
    x[...] = 0
    np.testing.assert_array_equal(np.from_dlpack(e), (X * 3).astype(dtype))


@pytest.mark.host
def test_dlpack_of_a_parameter_is_a_copy():
    w = lf.Parameter(X, requires_grad=False)
    taken = np.from_dlpack(w)
    assert not np.shares_memory(taken, w.array)
    np.testing.assert_array_equal(taken, X)


@pytest.mark.host  # NumPy takes what lies on the host
@pytest.mark.parametrize("e", [lf.Parameter(X), lf.Parameter(X) * 2.0], ids=["parameter", "result"])
def test_dlpack_loses_no_gradient(e):
    with pytest.raises(lf.GradientError, match=r"write x\.numpy\(\)"):
        np.from_dlpack(e)
    np.testing.assert_array_equal(np.from_dlpack(e.detach()), e.numpy())


@pytest.mark.host
@pytest.mark.peer
def test_dlpack_with_torch():
    torch = pytest.importorskip("torch", reason="an array library that speaks DLPack (extra 'peers')")
    e = lf.from_dlpack(torch.tensor(X)) * 2
    np.testing.assert_array_equal(torch.from_dlpack(e).numpy(), 2 * X)
    for convert in (torch.tensor, torch.as_tensor, torch.asarray, torch.from_dlpack):
        with pytest.raises(lf.GradientError, match=r"write x\.numpy\(\)"):
            convert(lf.Parameter(X))
