"""Gradient hacking (PyTorch): hooks that see the gradient of each path before they are summed.

    python examples/lecture/gradient_hacking.py

A value that takes two paths has one gradient for each of them, and a backward sums them. To get at the two, each path
begins with a leaky ReLU of slope 1, which changes nothing but is a node of its own, with a gradient of its own.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import lazyflow as lf
from lazyflow import nn


def print_tensor_grad(grad: Any, name: str | None = None, value: Any = None) -> None:
    """A hook of a value."""
    print(name, "value", value.numpy(), "grad", grad)


def print_module_grad(module: nn.Module, grad_input: Any, grad_out: Any, name: str | None = None) -> None:
    """A backward hook of a module."""
    print(name, "grad of input", grad_input, "grad of output", grad_out)


class Network(nn.Module):
    """``out1`` goes to ``layer2`` and past it, and both meet in ``layer3``."""

    def __init__(self, n_in: int = 2, n_out: int = 2) -> None:
        super().__init__()
        self.layer1 = nn.Linear(n_in, n_out, bias=False)
        self.layer2 = nn.Linear(n_out, n_out, bias=False)
        self.layer3 = nn.Linear(n_out * 2, 1, bias=False)
        self.fun = nn.LeakyReLU(negative_slope=1.0)

    def forward(self, input: Any) -> dict[str, lf.Expr]:
        """The result, and what the paths are made of."""
        out1 = self.layer1(input)
        out1.retain_grad()

        path1 = self.fun(out1)
        path1.retain_grad()
        path2 = self.fun(out1)
        path2.retain_grad()

        out2 = self.layer2(path1)
        input3 = lf.concatenate((path2, out2), axis=1)
        out3 = self.layer3(input3)

        out1.register_hook(partial(print_tensor_grad, name="out1", value=out1))
        path1.register_hook(partial(print_tensor_grad, name="path1", value=path1))
        path2.register_hook(partial(print_tensor_grad, name="path2", value=path2))

        return {"out1": out1, "path1": path1, "path2": path2, "y": out3}


def main() -> None:
    """One backward, and what its hooks print."""
    lf.seed(17)
    network = Network()
    network.layer2.register_forward_pre_hook(lambda module, args: print("layer2 takes", args[0].shape))
    network.layer2.register_forward_hook(lambda module, args, output: print("layer2 gives", output.shape))
    network.layer2.register_full_backward_hook(partial(print_module_grad, name="layer2"))
    x = lf.constant(np.ones((1, 2), np.float32))
    out = network(x)
    out["y"].backward()
    # Verify that the gradient of the output of the first layer is the
    # same as the sum of the two paths taken by that output.
    print("out1", out["out1"].grad)
    print("path1", out["path1"].grad)
    print("path2", out["path2"].grad)
    assert np.all(out["out1"].grad == out["path1"].grad + out["path2"].grad)


if __name__ == "__main__":
    main()
