"""Nanoseconds to record a line of a model, however it is spelled: operators, numbers, arrays, slices, layers, cells."""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import lazyflow as lf
from benchmarks import harness
from lazyflow import nn

CALLS = 2000  # of a line, before the tape is let go


@lf.cell
def _gated(a: Any, b: Any) -> Any:
    return lf.tanh(a) * b + a


@lf.cell
def _scaled(a: Any, by: Any) -> Any:
    return a * by


class _Counting(nn.Module):
    """A module that holds what modules hold beside parameters: an array, a dict, a list."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.zero = np.zeros(64, np.float32)
        self.names = {"a": 1, "b": 2}
        self.sizes = [1, 2, 3]

    @lf.cell
    def forward(self, x: Any) -> Any:
        return lf.tanh(self.linear(x)) + self.zero


def lines() -> Mapping[str, Callable[[lf.Expr], object]]:
    """Each line records of one vector of 64 numbers."""
    W, b = lf.Parameter(np.zeros((64, 64), "f4")), lf.Parameter(np.zeros(64, "f4"))
    array, mask = np.ones(64, "f4"), np.arange(64) % 2 == 0
    indices = np.array([3, 1, 2])
    linear, gru, counting = nn.Linear(64, 64), nn.GRUCell(64, 64), _Counting()
    earlier = lf.constant(array) * 2
    earlier.numpy()
    one, two = np.float32(2), np.int64(3)
    return {
        "tanh(x)": lf.tanh,
        "-x": lambda x: -x,
        "abs(x)": lambda x: abs(x),
        "x + x": lambda x: x + x,
        "x * x": lambda x: x * x,
        "x * 2.0": lambda x: x * 2.0,
        "2.0 * x": lambda x: 2.0 * x,
        "2 * x": lambda x: 2 * x,
        "1 - x": lambda x: 1 - x,
        "x - 1": lambda x: x - 1,
        "1 / x": lambda x: 1 / x,
        "x / 2": lambda x: x / 2,
        "x ** 2": lambda x: x**2,
        "2 ** x": lambda x: 2**x,
        "x * np.float32(2)": lambda x: x * one,
        "np.float32(2) * x": lambda x: one * x,
        "x + b": lambda x: x + b,
        "b + x": lambda x: b + x,
        "b * x": lambda x: b * x,
        "W @ x": lambda x: W @ x,
        "x @ W": lambda x: x @ W,
        "x @ x": lambda x: x @ x,
        "W @ x + b": lambda x: W @ x + b,
        "affine(W, b, x)": lambda x: lf.affine(W, b, x),
        "x + array": lambda x: x + array,
        "array * x": lambda x: array * x,
        "np.tanh(x)": np.tanh,
        "constant(array)": lambda x: lf.constant(array),
        "x + a value of an earlier forward": lambda x: x + earlier,
        "x > 0": lambda x: x > 0,
        "x == x": lambda x: x == x,
        "maximum(x, 0.0)": lambda x: lf.maximum(x, 0.0),
        "relu(x)": lf.relu,
        "leaky_relu(x)": lf.leaky_relu,
        "gelu(x)": lf.gelu,
        "clip(x, -1, 1)": lambda x: lf.clip(x, -1, 1),
        "where(x > 0, x, b)": lambda x: lf.where(x > 0, x, b),
        "where(mask, x, 0.0)": lambda x: lf.where(mask, x, 0.0),
        "x[:32]": lambda x: x[:32],
        "x[-1]": lambda x: x[-1],
        "x[3]": lambda x: x[3],
        "x[np.int64(3)]": lambda x: x[two],
        "x[::2]": lambda x: x[::2],
        "x[indices]": lambda x: x[indices],
        "x[:, None]": lambda x: x[:, None],
        "split(x, 4)": lambda x: lf.split(x, 4),
        "W[3]": lambda x: W[3],
        "embedding(W, 3)": lambda x: lf.embedding(W, 3),
        "embedding(W, np.int64(3))": lambda x: lf.embedding(W, two),
        "embedding(W, indices)": lambda x: lf.embedding(W, indices),
        "pick(x, 3)": lambda x: lf.pick(x, 3),
        "x.reshape(8, 8)": lambda x: x.reshape(8, 8),
        "x.reshape(8, 8).T": lambda x: x.reshape(8, 8).T,
        "x.astype('float64')": lambda x: x.astype("float64"),
        "concatenate([x, x])": lambda x: lf.concatenate([x, x]),
        "stack([x, x, x])": lambda x: lf.stack([x, x, x]),
        "sum([x, x, x])": lambda x: lf.sum([x, x, x]),
        "sum(x)": lf.sum,
        "x.sum()": lambda x: x.sum(),
        "x.sum(axis=0, keepdims=True)": lambda x: x.sum(axis=0, keepdims=True),
        "mean(x)": lf.mean,
        "max(x)": lf.max,
        "argmax(x)": lf.argmax,
        "x.mean()": lambda x: x.mean(),
        "norm(x)": lf.norm,
        "softmax(x)": lf.softmax,
        "log_softmax(x)": lf.log_softmax,
        "logsumexp(x)": lf.logsumexp,
        "dot(x, x)": lambda x: lf.dot(x, x),
        "outer(x, x)": lambda x: lf.outer(x, x),
        "cross_entropy(x, 3)": lambda x: lf.cross_entropy(x, 3),
        "cross_entropy(x, np.int64(3))": lambda x: lf.cross_entropy(x, two),
        "mse(x, x)": lambda x: lf.mse(x, x),
        "mse(x, array)": lambda x: lf.mse(x, array),
        "bce_with_logits(x, array)": lambda x: lf.nn.functional.binary_cross_entropy_with_logits(x, array),
        "dropout(x, 0.5)": lambda x: lf.dropout(x, 0.5),
        "uniform((64,))": lambda x: lf.uniform((64,)),
        "x.detach()": lambda x: x.detach(),
        "nn.Linear()(x)": linear,
        "nn.GRUCell()(x, x)": lambda x: gru(x, x),
        "a cell": lambda x: _gated(x, x),
        "a cell and a number": lambda x: _scaled(x, 2.0),
        "a cell and a NumPy number": lambda x: _scaled(x, one),
        "a cell and an array": lambda x: _gated(x, array),
        "a cell and a parameter": lambda x: _gated(x, b),
        "a cell and a value of an earlier forward": lambda x: _gated(x, earlier),
        "a cell of a module with an array and a dict": counting,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=harness.MINIMUM_REPEATS)


def nanoseconds(line: Callable[[lf.Expr], object], round_: int) -> tuple[float, float]:
    """Of a line, and of each node that it records."""
    del round_
    x = lf.constant(np.zeros(64, np.float32)) * 1.0
    line(x)
    gc.collect()
    before, start = len(x.tape), time.perf_counter()
    for _ in range(CALLS):
        line(x)
    seconds = time.perf_counter() - start
    return 1e9 * seconds / CALLS, 1e9 * seconds / max(len(x.tape) - before, CALLS)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns nanoseconds a line and a node."""
    found = {}
    for name, line in lines().items():
        for _ in range(2):
            nanoseconds(line, 0)
        rounds = [nanoseconds(line, k) for k in range(options.repeats)]
        found[name] = {"line": statistics.median(r[0] for r in rounds), "node": statistics.median(r[1] for r in rounds)}
    rows = [[name, cost["line"], cost["node"]] for name, cost in found.items()]
    print(harness.table(["line", "ns a line", "ns a node"], rows))
    dearest = max(found, key=lambda name: found[name]["node"])
    print(f"dearest node: {dearest}, {found[dearest]['node']:.0f} ns")
    return {"nanoseconds": found, "dearest": dearest}
