"""What ``import lazyflow as lf`` offers: every function of `lazyflow.functions`, by the same name."""

import base64
import importlib
import pickle
import types
import zlib

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import errors, functions, nn
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
    **{
        f"{kind}attention": "nn.functional.scaled_dot_product_attention"
        for kind in ("", "masked_", "dropped_", "masked_dropped_")
    },
    **{f"{kind}attention_weights": "nn.MultiheadAttention" for kind in ("", "masked_", "dropped_", "masked_dropped_")},
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
    "standardise": "nn.functional.layer_norm",
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


# A model, a constant and three functions, written when the package had no rooms.
OLD_PICKLE = (
    "eNpdUWlT1EAQzS4LwoA3h+J9oMEjiOKNLt5KkLJGP+QLlZpkJzsps7P7JhNhraIKPwSWv+Uf00lWa8VJTWemp/u919071Q1Ydpiw"
    "790oaW86UjphW2oWS67IZ46MSx2zhKAy/wPVbQzZ3qhlWVqZiFg2UeuVdz/IooirFMOhb85xomPp+yTlmmBkA4dyjFKMeSNFaKx5"
    "KwXZwPhB3sRwMkXW+j9MGMLD2zhii1pPDAuDcjTHMYrj3rhBMfARZzpTPMUJt+pNGF870wPnSbdS0m3yuCk0JgdUfKujiJ/JThx+"
    "TXiDYMr+7/ETU6zFtekApkOZtTpdxw/bijutzBTGlGJd4ituGpVqlYWmxpl+GJGN/itOuVaO06FJa/AwJVwWB4JZr2I0BThTakuY"
    "adMizu7iHMX5PVyguGi7FfNVd3HpD2RDdzsm87JXNRnREq7s9/ZwlWLOdodKtGVcW19fX/1lVmlcS+N6sC9mvTGrWD936sauwBaG"
    "aJ7ihsbNQEz2vCHjDjsZbmncpnC8WiEtZikWxJQtpsWMKKu4I4y0RYq7pbQc98RcAV4rwa06lgrc+xQPNB4GYqEnDN4jisdZcGC8"
    "LNTxN1NwW5IvTAqCJ2bAT7exPBjwsxzPKepZwP/NLUdS9ppJ0+qVv7peFLpeUrwqdFVzvO7rOlj0m0LcW4p3Gu+DHB8oVgfIUSbD"
    "QlDqKN7IQk7SdqRbbIvAHQQ1FWuQ0mBt4G2xDik2PnLnN8RpDsc="
)  # fmt: skip
MODULES = (
    *("", "numpy", "numpy.linalg", "numpy.random", "nn", "nn.functional", "nn.init", "optim", "data", "train"),
    *("train.metrics", "errors"),
)


@pytest.mark.parametrize("module", MODULES)
def test_functions_and_classes_go_through_pickle(module):
    found = importlib.import_module(f"lazyflow.{module}".rstrip("."))
    offered = [getattr(found, name) for name in getattr(found, "__all__", dir(found)) if not name.startswith("_")]
    offered = [thing for thing in offered if callable(thing) and not isinstance(thing, types.ModuleType)]
    assert offered
    assert all(pickle.loads(pickle.dumps(thing)) is thing for thing in offered)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_modules_go_through_every_protocol_of_pickle(protocol):
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    again = pickle.loads(pickle.dumps(model, protocol))
    np.testing.assert_array_equal(again([1.0, 2.0]).numpy(), model([1.0, 2.0]).numpy())


def test_pickles_of_before_load():
    model, constant, *found = pickle.loads(zlib.decompress(base64.b64decode("".join(OLD_PICKLE))))
    assert isinstance(model, nn.Sequential) and found == [lf.softmax, lf.grad, lf.map]
    np.testing.assert_array_equal(model[0].weight.numpy(), [[1, 2]])
    np.testing.assert_allclose(model(constant).numpy(), np.tanh([5.5]), rtol=1e-6)
