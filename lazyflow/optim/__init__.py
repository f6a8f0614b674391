"""Optimizers, clipping, loss scaling and learning-rate schedules, with the names and the numbers of PyTorch."""

import types as _types
import typing as _typing

from lazyflow.optim.adam import *
from lazyflow.optim.adaptive import *
from lazyflow.optim.average import *
from lazyflow.optim.base import Optimizer as Optimizer
from lazyflow.optim.clip import *
from lazyflow.optim.exponentiated import *
from lazyflow.optim.functional import functional as functional
from lazyflow.optim.scaler import *
from lazyflow.optim.schedules import *
from lazyflow.optim.sgd import *

if not _typing.TYPE_CHECKING:  # type checkers take what the lines above import
    _MODULE = _types.ModuleType
    __all__ = [n for n, value in list(globals().items()) if not n.startswith("_") and type(value) is not _MODULE]
