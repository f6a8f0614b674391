"""The operations as functions: what a model is written in.

Each function takes expressions, arrays or numbers, records one node (or none, where another offset into the same memory
will do), and returns an `Expr`. Shapes in the documentation are those of one example: there is no batch axis to think
of.
"""

import types as _types
import typing as _typing

from lazyflow.functions.convolution import *
from lazyflow.functions.elementwise import *
from lazyflow.functions.index import *
from lazyflow.functions.interchange import *
from lazyflow.functions.linalg import *
from lazyflow.functions.loss import *
from lazyflow.functions.operators import METHODS as _METHODS
from lazyflow.functions.random import *
from lazyflow.functions.reduce import *
from lazyflow.functions.segment import *
from lazyflow.functions.shape import *

assert _METHODS  # imported for the methods that it fills in

if not _typing.TYPE_CHECKING:  # type checkers take what the lines above import
    _MODULE = _types.ModuleType
    __all__ = [n for n, value in list(globals().items()) if not n.startswith("_") and type(value) is not _MODULE]
