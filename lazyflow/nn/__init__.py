"""Layers and cells: what a model is built of. Every ``forward`` is for one example; the engine does the batching."""

import types as _types
import typing as _typing

from lazyflow.nn import functional as functional
from lazyflow.nn import init as init
from lazyflow.nn.activation import *
from lazyflow.nn.attention import *
from lazyflow.nn.container import *
from lazyflow.nn.convolution import *
from lazyflow.nn.dropout import *
from lazyflow.nn.embedding import *
from lazyflow.nn.graph import *
from lazyflow.nn.linear import *
from lazyflow.nn.loss import *
from lazyflow.nn.module import Module as Module
from lazyflow.nn.noise import *
from lazyflow.nn.normalization import *
from lazyflow.nn.recurrent import *
from lazyflow.nn.shape import *
from lazyflow.nn.softmax import *
from lazyflow.nn.tree import *
from lazyflow.nn.variants import *
from lazyflow.nn.weights import *
from lazyflow.record.expr import Parameter as Parameter

if not _typing.TYPE_CHECKING:  # type checkers take what the lines above import
    _MODULE = _types.ModuleType
    __all__ = [n for n, value in list(globals().items()) if not n.startswith("_") and type(value) is not _MODULE]
    __all__ += ["functional", "init"]
