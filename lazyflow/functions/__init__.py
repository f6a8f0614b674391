"""The operations as functions: what a model is written in.

Each function takes expressions, arrays or numbers, records one node (or none, where another offset into the same
memory will do), and
returns an `Expr`. Shapes in the documentation are those of one example: there is no batch axis to think of.
"""

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

__all__ = []
__all__ += convolution.__all__
__all__ += elementwise.__all__
__all__ += index.__all__
__all__ += interchange.__all__
__all__ += linalg.__all__
__all__ += loss.__all__
__all__ += random.__all__
__all__ += reduce.__all__
__all__ += segment.__all__
__all__ += shape.__all__
