"""What ``import lazyflow as lf`` offers: every function of `lazyflow.functions`, by the same name."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import errors, functions
from lazyflow.ops import OPS

# Operations that users meet under another name, or as a part of one.
OTHER_NAMES = {
    **{
        name: f"numpy.{name}"
        for name in (
            *("bitwise_and", "bitwise_or", "bitwise_xor", "cbrt", "deg2rad", "exp2", "fmax", "fmin", "invert"),
            *("left_shift", "log10", "log2", "logaddexp", "logaddexp2", "rad2deg", "right_shift", "sinc"),
        )
    },
    "offsets": "take_along_axis",
    "concatenate_rows": "concatenate",
    "concatenate_same": "concatenate",
    "stack_rows": "stack",
    "binary_cross_entropy": "nn.functional.binary_cross_entropy",
    "detach": "Expr.detach",
    "dropout_mask": "dropout",
    "embed": "gradients",
    "embed_diagonal": "gradients",
    "gelu_tanh": "gelu",
    "getitem": "Expr.__getitem__",
    "identity": "sum",
    "einsum_or_zero": "gradients",
    "lookup": "embedding",
    "mean_list": "mean",
    "multiply_no_nan": "gradients",
    "multiply_or_zero": "gradients",
    "soft_cross_entropy": "cross_entropy",
    "sum_list": "sum",
}


@pytest.mark.parametrize("name", functions.__all__ + errors.__all__)
def test_every_function_and_error_is_offered(name):
    assert name in lf.__all__ and getattr(lf, name).__name__ == name
    assert getattr(lf, name).__doc__


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_operation_has_a_function(name):
    public = OTHER_NAMES.get(name, name)
    owner = lf
    for part in public.split("."):
        owner = getattr(owner, part)


def test_the_last_five_shape_functions():
    x = np.arange(6.0).reshape(2, 3)
    for ours, numpys in (
        (lf.roll(x, 1, axis=1), np.roll(x, 1, axis=1)),
        (lf.tile(x, (2, 1)), np.tile(x, (2, 1))),
        (lf.tril(x), np.tril(x)),
        (lf.triu(x, 1), np.triu(x, 1)),
        (lf.diagonal(x), np.diagonal(x)),
    ):
        np.testing.assert_array_equal(ours.numpy(), numpys)
