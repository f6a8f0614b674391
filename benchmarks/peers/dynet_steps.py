"""Steps that are looked at in DyNet, without automatic batching, which has nothing to batch there."""

from __future__ import annotations

import dynet_config  # type: ignore[import-not-found]

from benchmarks.peers import Array

dynet_config.set(mem="500,500,150,100", autobatch=0, random_seed=1)
import dynet as dy  # type: ignore[import-not-found]  # noqa: E402  (reads its configuration when imported)


class Steps:
    """See `benchmarks.steps`."""

    def __init__(self, weight: Array, bias: Array) -> None:
        self.model = dy.ParameterCollection()
        self.weight, self.bias = (self.model.parameters_from_numpy(array) for array in (weight, bias))
        self.start = [1.0] * len(bias)

    def run(self, count: int) -> dy.Expression:
        dy.renew_cg()
        h = dy.inputVector(self.start)
        for _ in range(count):
            h = dy.tanh(dy.affine_transform([self.bias, self.weight, h]))
            dy.pick(h, 0).value()
        return h

    def train(self, count: int) -> None:
        loss = dy.sum_elems(self.run(count))
        loss.forward()
        loss.backward()
