"""Chainer's way: define by run, a function beneath every module, and one line that moves a model to a GPU.

    python examples/lecture/chainer_cupy.py [--device cuda]

What Chainer calls links and functions are modules (``nn.Linear``) and functions (``lf.affine``). CuPy does on the GPU
what NumPy does on the CPU: the same kernels run under either.
"""

import argparse

import numpy as np

import lazyflow as lf
from lazyflow import nn, optim


class MLP(nn.Module):
    """A network of modules. Its graph is what its forward does."""

    def __init__(self, inputs, hidden, classes):
        super().__init__()
        self.l1 = nn.Linear(inputs, hidden)
        self.l2 = nn.Linear(hidden, hidden)
        self.l3 = nn.Linear(hidden, classes)

    def forward(self, x):
        """The scores of one example."""
        return self.l3(lf.relu(self.l2(lf.relu(self.l1(x)))))


def functional(parameters, x):
    """The same network as functions of its parameters, by the names that they have in the module."""
    for name in ("l1", "l2"):
        x = lf.relu(lf.affine(parameters[f"{name}.weight"], parameters[f"{name}.bias"], x))
    return lf.affine(parameters["l3.weight"], parameters["l3.bias"], x)


def train(model, examples, labels, device="cpu", epochs=5, rate=0.1):
    """Gradient descent on all examples, on any device; returns the loss of every epoch."""
    model.to(device)  # the one line
    optimizer = optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    losses = []
    with lf.using(device=device):
        for _ in range(epochs):
            loss = lf.mean([lf.cross_entropy(model(x), int(y)) for x, y in zip(examples, labels, strict=True)])
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return losses


def default_device():
    """The GPU where there is one."""
    try:
        with lf.using(device="cuda"):
            return "cuda"
    except lf.DeviceError:
        return "cpu"


def data(examples, seed=0):
    """Points of two rings."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=examples)
    angles = rng.uniform(0, 2 * np.pi, examples)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (1 + labels)[:, None]
    return points + 0.1 * rng.normal(size=points.shape), labels


def main():
    """Train where the device says, then compare both forms."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=default_device(), help="cpu, cuda or cuda:N")
    device = parser.parse_args().device
    with lf.using(dtype="float64"):
        examples, labels = data(200)
        model = MLP(2, 16, 2)
        for epoch, loss in enumerate(train(model, examples, labels, device, epochs=20)):
            if epoch % 5 == 0:
                print(f"epoch {epoch:2} on {device}: loss {loss:.4f}")
        with lf.using(device=device):
            scores = functional(dict(model.named_parameters()), examples[0]).numpy(), model(examples[0]).numpy()
        print("the functional form agrees:", np.allclose(*scores))


if __name__ == "__main__":
    main()
