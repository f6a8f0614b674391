"""The operations as functions: what a model is written in.

Each function takes expressions, arrays or numbers, records one node (or none, where another offset into the same
memory will do), and
returns an `Expr`. Shapes in the documentation are those of one example: there is no batch axis to think of.
"""

from typing import TYPE_CHECKING

from lazyflow.functions import (
    convolution,
    elementwise,
    index,
    interchange,
    linalg,
    loss,
    operators,
    random,
    reduce,
    segment,
    shape,
)
from lazyflow.functions.convolution import *  # noqa: F403
from lazyflow.functions.elementwise import *  # noqa: F403
from lazyflow.functions.index import *  # noqa: F403
from lazyflow.functions.interchange import *  # noqa: F403
from lazyflow.functions.linalg import *  # noqa: F403
from lazyflow.functions.loss import *  # noqa: F403
from lazyflow.functions.random import *  # noqa: F403
from lazyflow.functions.reduce import *  # noqa: F403
from lazyflow.functions.segment import *  # noqa: F403
from lazyflow.functions.shape import *  # noqa: F403

assert operators.METHODS  # imported for the methods that it fills in

if not TYPE_CHECKING:  # type checkers take what the lines above import
    _MODULES = convolution, elementwise, index, interchange, linalg, loss, random, reduce, segment, shape
    __all__ = [name for module in _MODULES for name in module.__all__]
