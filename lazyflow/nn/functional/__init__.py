"""The functions beneath the modules of `lazyflow.nn`, with PyTorch's names: stateless, weights are arguments.

Shapes are those of one example. ``dim`` is what the rest of lazyflow calls ``axis``; it has PyTorch's name where the
function has.
"""

from lazyflow.nn.functional import activation, attention, convolution, loss, maps, normalization
from lazyflow.nn.functional.activation import *
from lazyflow.nn.functional.attention import *
from lazyflow.nn.functional.convolution import *
from lazyflow.nn.functional.loss import *
from lazyflow.nn.functional.maps import *
from lazyflow.nn.functional.normalization import *

__all__ = []
__all__ += activation.__all__
__all__ += attention.__all__
__all__ += convolution.__all__
__all__ += loss.__all__
__all__ += maps.__all__
__all__ += normalization.__all__
