"""Theano's way: define a graph once, ask for the gradient of its parameters as a graph, run both many times.

    python examples/lecture/theano_function.py

The graph is what was recorded, kept by whoever holds its roots. ``lf.gradients`` extends it by the gradients, as
``T.grad`` does; ``lf.forward`` runs it under what the parameters hold now. Its plan is kept when it runs for the second
time, and from the third run on nothing is planned anew, as with a compiled function. Data enters as parameters that no
gradient flows to, as through Theano's shared variables.
"""

import numpy as np

import lazyflow as lf


def function(inputs, outputs, updates):
    """A function of arrays for ``inputs`` that runs the graph, changes parameters, and returns the outputs' values.

    ``updates``: pairs of a parameter and the expression of its next value.
    """
    roots = [*outputs, *(new for _, new in updates)]

    def run(*arrays):
        for parameter, array in zip(inputs, arrays, strict=True):
            parameter.data = array
        values = lf.forward(roots)
        for (parameter, _), new in zip(updates, values[len(outputs) :], strict=True):
            parameter.data = new
        return values[: len(outputs)]

    return run


class LogisticRegression:
    """The graph, defined when the object is made, and the functions that run it."""

    def __init__(self, examples, features, rate=0.1, decay=0.01):
        self.x = lf.Parameter(np.zeros((examples, features)), requires_grad=False)
        self.y = lf.Parameter(np.zeros(examples), requires_grad=False)
        self.w = lf.Parameter(np.zeros(features), name="w")
        self.b = lf.Parameter(np.zeros(()), name="b")

        scores = self.x @ self.w + self.b
        entropy = lf.softplus(scores) - scores * self.y  # the cross-entropy of sigmoid(scores)
        self.cost = lf.mean(entropy) + decay * lf.sum(self.w**2)
        self.gw, self.gb = lf.gradients(self.cost, [self.w, self.b])

        updates = [(self.w, self.w - rate * self.gw), (self.b, self.b - rate * self.gb)]
        self.train = function([self.x, self.y], [self.cost], updates)
        self.predict = function([self.x], [lf.sigmoid(scores) > 0.5], [])


def data(examples, features, seed=0):
    """Points, and on which side of a random plane they lie."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(examples, features))
    return points, (points @ rng.normal(size=features) > 0).astype(np.float64)


def main():
    """Train on one batch, over and over."""
    points, labels = data(400, 30)
    model = LogisticRegression(400, 30)
    print(lf.explain(model.cost))
    for step in range(200):
        (cost,) = model.train(points, labels)
        if step % 50 == 0:
            print(f"step {step:3}: cost {cost:.4f}")
    print(lf.explain(model.cost).plans)
    (predicted,) = model.predict(points)
    print(f"accuracy {np.mean(predicted == labels):.3f}")


if __name__ == "__main__":
    main()
