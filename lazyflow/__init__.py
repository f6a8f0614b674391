"""lazyflow: write a model for one example in plain Python; it runs batched.

Every operation records a node; `Expr.forward` groups what can run together across all examples into a few large
NumPy or CuPy calls, `Expr.backward` runs the same groups in reverse, and an optimizer updates the parameters.

    import lazyflow as lf
    from lazyflow import nn, optim, data
"""

from lazyflow import errors
from lazyflow.engine import forward
from lazyflow.errors import *  # noqa: F403
from lazyflow.explain import Explanation, explain
from lazyflow.expr import Expr, Parameter, constant
from lazyflow.functions import *  # noqa: F403
from lazyflow.io import load, save
from lazyflow.ops.sparse import RowSparse
from lazyflow.random import Stream, seed
from lazyflow.settings import no_grad, using

from lazyflow import data, functions, nn, optim, random  # isort: skip

__version__ = "0.1.0"
__all__ = [
    "Explanation", "Expr", "Parameter", "RowSparse", "Stream", "constant", "data", "errors", "explain", "forward", "functions", "load", "nn",
    "no_grad", "optim", "random", "save", "seed", "using",
]  # fmt: skip
__all__ += errors.__all__
__all__ += functions.__all__
