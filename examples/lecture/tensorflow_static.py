"""What static graphs are praised for, and what they cost, without the cost.

    python examples/lecture/tensorflow_static.py

Preprocessing is part of the model, so that what serves it gets raw data, as in training. A model is defined once, as a
module. But there is no ``tf.cond`` and no ``tf.while_loop``, as ``if`` and ``while`` will do; no variable scopes, as
parameters have the names of attributes; and no ``tf.Print``, as a value in the middle of a model can be printed.
"""

import numpy as np

import lazyflow as lf
from lazyflow import nn, optim


class Classifier(nn.Module):
    """Classifies raw measurements, by a network that looks again while it is not sure."""

    def __init__(self, features, hidden, classes, looks=4, verbose=False):
        super().__init__()
        self.register_buffer("mean", np.zeros(features))
        self.register_buffer("scale", np.ones(features))
        self.input = nn.Linear(features, hidden)
        self.look = nn.Linear(hidden, hidden)
        self.output = nn.Linear(hidden, classes)
        self.looks, self.verbose = looks, verbose

    def fit_preprocessing(self, raw):
        """Take mean and scale from the training data; they are saved with the model."""
        self.mean, self.scale = raw.mean(axis=0), 1 / raw.std(axis=0)

    def preprocess(self, raw):
        """Part of the graph: standardised, and without outliers."""
        return lf.clip((lf.constant(raw) - self.mean) * self.scale, -3.0, 3.0)

    def forward(self, raw):
        """The scores of one example's raw measurements."""
        state = lf.tanh(self.input(self.preprocess(raw)))
        scores = self.output(state)
        looks = 1
        while looks < self.looks and lf.max(lf.softmax(scores)) < 0.9:
            state = lf.tanh(self.look(state)) + state
            scores = self.output(state)
            looks += 1
        if self.verbose:
            print("Length of state:", lf.norm(state).item(), "after", looks, "looks")
        return scores


def train(model, examples, labels, epochs=10, rate=0.05):
    """Gradient descent on all examples; returns the loss of every epoch."""
    optimizer = optim.SGD(model.parameters(), lr=rate)
    losses = []
    for _ in range(epochs):
        loss = lf.mean([lf.cross_entropy(model(x), int(label)) for x, label in zip(examples, labels, strict=True)])
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def data(examples, seed=0):
    """Raw measurements on scales of their own, of three classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=examples)
    centres = rng.normal(size=(3, 4))
    return (centres[labels] + 0.5 * rng.normal(size=(examples, 4))) * [1, 10, 100, 1000] + [0, 5, 500, -2], labels


def main():
    """Train, then watch one example on its way."""
    with lf.using(dtype="float64"):
        examples, labels = data(30)
        model = Classifier(4, 8, 3)
        model.fit_preprocessing(examples)
        for epoch, loss in enumerate(train(model, examples, labels, epochs=12, rate=0.3)):
            if epoch % 4 == 0:
                print(f"epoch {epoch:2}: loss {loss:.4f}")
        model.verbose = True
        print("class", lf.argmax(model(examples[0])).item(), "of", labels[0])


if __name__ == "__main__":
    main()
