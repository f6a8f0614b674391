"""Layers and cells: what a model is built of. Every ``forward`` is for one example; the engine does the batching."""

from lazyflow.expr import Parameter
from lazyflow.nn import init
from lazyflow.nn.container import ModuleDict, ModuleList, Sequential
from lazyflow.nn.dropout import Dropout
from lazyflow.nn.embedding import Embedding
from lazyflow.nn.linear import Linear
from lazyflow.nn.module import Module
from lazyflow.nn.normalization import LayerNorm
from lazyflow.nn.recurrent import LSTM, BiLSTM, GRUCell, LSTMCell, RNNCell
from lazyflow.nn.tree import BinaryTreeLSTMCell, ChildSumTreeLSTMCell

__all__ = [
    "LSTM",
    "BiLSTM",
    "BinaryTreeLSTMCell",
    "ChildSumTreeLSTMCell",
    "Dropout",
    "Embedding",
    "GRUCell",
    "LSTMCell",
    "LayerNorm",
    "Linear",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Parameter",
    "RNNCell",
    "Sequential",
    "init",
]  # fmt: skip
