"""lazyflow: write a model for one example in plain Python; it runs batched.

Every operation records a node; `Expr.forward` groups what can run together across all examples into a few large
NumPy or CuPy calls, `Expr.backward` runs the same groups in reverse, and an optimizer updates the parameters.

    import lazyflow as lf
    from lazyflow import nn, optim, data, train

These four and what writes files are imported when a program first names them: each costs some of what NumPy costs.
"""

import sys as _sys
import typing as _typing
from importlib import import_module as _import_module

try:
    for _name in ("lazyflow.cells.cell", "lazyflow.run.engine"):  # they reach all that is compiled
        _import_module(_name)
except ImportError as _error:
    if not (_error.path or "").endswith((".so", ".pyd")):
        raise
    raise ImportError(
        f"{_error.name}: compiled modules are older than their sources: run `python -m pip install -e .` again",
        name=_error.name,
        path=_error.path,
    ) from _error

from lazyflow import errors as errors
from lazyflow.cells.cell import cell as cell
from lazyflow.derive.check_grads import check_grads as check_grads
from lazyflow.derive.grad import elementwise_grad as elementwise_grad
from lazyflow.derive.grad import grad as grad
from lazyflow.derive.grad import gradients as gradients
from lazyflow.derive.grad import hessian as hessian
from lazyflow.derive.grad import hessian_vector_product as hessian_vector_product
from lazyflow.derive.grad import jacobian as jacobian
from lazyflow.derive.grad import jvp as jvp
from lazyflow.derive.grad import make_jvp as make_jvp
from lazyflow.derive.grad import make_vjp as make_vjp
from lazyflow.derive.grad import value_and_grad as value_and_grad
from lazyflow.derive.grad import vjp as vjp
from lazyflow.derive.vmap import vmap as vmap
from lazyflow.errors import CellError as CellError
from lazyflow.errors import CheckpointError as CheckpointError
from lazyflow.errors import DeviceError as DeviceError
from lazyflow.errors import DTypeError as DTypeError
from lazyflow.errors import GradientError as GradientError
from lazyflow.errors import LazyflowError as LazyflowError
from lazyflow.errors import MapError as MapError
from lazyflow.errors import NonFiniteError as NonFiniteError
from lazyflow.errors import NotComputableError as NotComputableError
from lazyflow.errors import OutOfMemoryError as OutOfMemoryError
from lazyflow.errors import ParseError as ParseError
from lazyflow.errors import ShapeError as ShapeError
from lazyflow.errors import ThreadError as ThreadError
from lazyflow.errors import TornError as TornError
from lazyflow.errors import user_line as user_line
from lazyflow.functions import *
from lazyflow.inspect.compare import Comparison as Comparison
from lazyflow.inspect.compare import Measured as Measured
from lazyflow.inspect.compare import compare as compare
from lazyflow.inspect.explain import Explanation as Explanation
from lazyflow.inspect.explain import explain as explain
from lazyflow.inspect.info import Info as Info
from lazyflow.inspect.info import info as info
from lazyflow.ops.sparse import RowSparse as RowSparse
from lazyflow.random import Stream as Stream
from lazyflow.random import seed as seed
from lazyflow.record.expr import Expr as Expr
from lazyflow.record.expr import Parameter as Parameter
from lazyflow.record.expr import constant as constant
from lazyflow.run.engine import forward as forward
from lazyflow.run.map import map as map
from lazyflow.run.rounds import Rounds as Rounds
from lazyflow.run.rounds import rounds as rounds
from lazyflow.settings import no_grad as no_grad
from lazyflow.settings import using as using
from lazyflow.version import __version__ as __version__

from lazyflow import functions as functions  # isort: skip
from lazyflow import random as random  # isort: skip

if _typing.TYPE_CHECKING:
    from lazyflow import data as data
    from lazyflow import nn as nn
    from lazyflow import optim as optim
    from lazyflow import train as train
    from lazyflow.io import load as load
    from lazyflow.io import save as save

# Type checkers take what is imported above as a name of its own, or with a star.
if not _typing.TYPE_CHECKING:
    __all__ = [
        *functions.__all__,
        "CellError",
        "CheckpointError",
        "Comparison",
        "DTypeError",
        "DeviceError",
        "Explanation",
        "Expr",
        "GradientError",
        "Info",
        "LazyflowError",
        "MapError",
        "Measured",
        "NonFiniteError",
        "NotComputableError",
        "OutOfMemoryError",
        "Parameter",
        "ParseError",
        "Rounds",
        "RowSparse",
        "ShapeError",
        "Stream",
        "ThreadError",
        "TornError",
        "cell",
        "check_grads",
        "compare",
        "constant",
        "data",
        "elementwise_grad",
        "errors",
        "explain",
        "forward",
        "functions",
        "grad",
        "gradients",
        "hessian",
        "hessian_vector_product",
        "info",
        "jacobian",
        "jvp",
        "load",
        "make_jvp",
        "make_vjp",
        "map",
        "nn",
        "no_grad",
        "optim",
        "random",
        "rounds",
        "save",
        "seed",
        "train",
        "user_line",
        "using",
        "value_and_grad",
        "vjp",
        "vmap",
    ]

# Where pickles of before, and whoever imported a function from its file, look for what has moved since.
_sys.modules.update(
    {
        "lazyflow.cell": _sys.modules["lazyflow.cells.cell"],
        "lazyflow.check_grads": _sys.modules["lazyflow.derive.check_grads"],
        "lazyflow.compare": _sys.modules["lazyflow.inspect.compare"],
        "lazyflow.compared": _sys.modules["lazyflow.inspect.compared"],
        "lazyflow.engine": _sys.modules["lazyflow.run.engine"],
        "lazyflow.explain": _sys.modules["lazyflow.inspect.explain"],
        "lazyflow.expr": _sys.modules["lazyflow.record.expr"],
        "lazyflow.grad": _sys.modules["lazyflow.derive.grad"],
        "lazyflow.info": _sys.modules["lazyflow.inspect.info"],
        "lazyflow.map": _sys.modules["lazyflow.run.map"],
        "lazyflow.plans": _sys.modules["lazyflow.plan.plans"],
        "lazyflow.rounds": _sys.modules["lazyflow.run.rounds"],
        "lazyflow.vmap": _sys.modules["lazyflow.derive.vmap"],
    }
)

# By public name: the module, and what of it has that name, or None for the module itself. No module of these has the
# name of a function of its own, or whoever imports the module first would hide the function.
_LATER = {
    "data": ("lazyflow.data", None),
    "load": ("lazyflow.io", "load"),
    "nn": ("lazyflow.nn", None),
    "optim": ("lazyflow.optim", None),
    "save": ("lazyflow.io", "save"),
    "train": ("lazyflow.train", None),
}


if not _typing.TYPE_CHECKING:  # so that a name that is not there is an error, to type checkers too

    def __getattr__(name: str) -> _typing.Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        module, of_it = _LATER[name]
        found = _import_module(module)
        found = globals()[name] = found if of_it is None else getattr(found, of_it)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
