"""JAX's opening example: NumPy code for one example, ``grad`` of it, ``vmap`` over many, and a cell as the ``jit``.

    python examples/lecture/jax_vmap.py

In JAX every example must do the same, in the same shapes. Here the calls are recorded one by one, and the engine finds
what they have in common, as it does for everything: equal structure is only the case in which it finds most.
"""

from itertools import pairwise

import lazyflow.numpy as np
from lazyflow import cell, grad, vmap


def predict(params, inputs):
    """The outputs of a fully connected network for one example."""
    for weight, bias in params[:-1]:
        inputs = np.tanh(np.dot(inputs, weight) + bias)
    weight, bias = params[-1]
    return np.dot(inputs, weight) + bias


def loss(params, inputs, targets):
    """The squared error for one example."""
    return np.sum((predict(params, inputs) - targets) ** 2)


def batch_loss(params, inputs, targets):
    """The mean over a batch of examples, along the first axis."""
    return np.mean(vmap(loss, in_axes=(None, 0, 0))(params, inputs, targets))


# One gradient for the whole batch, and one for each of its examples.
batch_gradient = grad(batch_loss)
gradients_of_each = vmap(grad(loss), in_axes=(None, 0, 0))

# JAX's jit: as a cell, the whole loss is one operation, recorded once for each set of shapes and one launch for all.
loss_as_cell = cell(loss)
losses_of_each = vmap(loss_as_cell, in_axes=(None, 0, 0))


def initial(sizes, stream):
    """Random weights and zero biases."""
    return [(np.random.normal(size=(m, n), stream=stream) / np.sqrt(m), np.zeros(n)) for m, n in pairwise(sizes)]


def train(params, inputs, targets, steps=20, rate=0.1):
    """Gradient descent on one batch."""
    for _ in range(steps):
        gradients = batch_gradient(params, inputs, targets)
        params = [(w - rate * gw, b - rate * gb) for (w, b), (gw, gb) in zip(params, gradients, strict=True)]
    return params


def data(examples, stream):
    """Points on a plane, and a curved surface above them."""
    inputs = np.random.uniform(-1.0, 1.0, (examples, 2), stream=stream)
    return inputs, np.sin(3 * inputs[:, :1]) * inputs[:, 1:]


def main():
    """Train, and show whose gradient is largest."""
    stream = np.random.Stream(0)
    inputs, targets = data(64, stream)
    params = initial([2, 16, 1], stream)
    print("Initial loss:", batch_loss(params, inputs, targets))
    params = train(params, inputs, targets)
    print("Trained loss:", batch_loss(params, inputs, targets))
    print("Largest loss:", np.max(losses_of_each(params, inputs, targets)))
    by_weight, _ = gradients_of_each(params, inputs, targets)[0]
    sizes = np.sqrt(np.sum(by_weight**2, axis=(1, 2)))
    print("Largest gradient: that of example", np.argmax(sizes), "at", inputs[np.argmax(sizes)])


if __name__ == "__main__":
    main()
