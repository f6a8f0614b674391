"""DyNet's loop: for each data point, define the graph and add the data, then forward, backward, update.

    python examples/lecture/dynet_loop.py

A recurrent network says whether a word of zeros and ones holds an odd number of ones. Words have any length, so every
data point has a graph of its own; no ``renew_cg``, and no option for batching. In the lecture's table, lazy frameworks
have their errors deferred to the forward. Here a wrong line fails as it runs: see `mistaken`.
"""

import numpy as np

import lazyflow as lf
from lazyflow import optim


class Parity:
    """A state that every bit moves on, and a score at the end."""

    def __init__(self, hidden, seed=0):
        rng = np.random.default_rng(seed)
        self.W = lf.Parameter(rng.normal(size=(hidden, hidden)) / np.sqrt(hidden), name="W")
        self.E = lf.Parameter(rng.normal(size=(2, hidden)), name="E")
        self.v = lf.Parameter(rng.normal(size=hidden), name="v")

    def parameters(self):
        """All of them."""
        return [self.W, self.E, self.v]

    def score(self, bits):
        """Positive where there are more likely an odd number of ones. Plain Python: a loop over the word."""
        state = lf.embedding(self.E, bits[0])
        for bit in bits[1:]:
            state = lf.tanh(self.W @ state + lf.embedding(self.E, bit))
        return lf.dot(self.v, state)

    def loss(self, bits):
        """The binary cross-entropy of one word."""
        return lf.bce_with_logits(self.score(bits), float(sum(bits) % 2))


def train(model, words, rate=0.05, batch=1):
    """One pass over the data; returns the loss of every update."""
    trainer = optim.SGD(model.parameters(), lr=rate, sparse=False)
    losses = []
    for start in range(0, len(words), batch):
        loss = lf.sum([model.loss(word) for word in words[start : start + batch]])  # 1. define, add data
        losses.append(loss.forward().item())  # 2. forward
        loss.backward()  # 3. backward
        trainer.step()  # 4. update
        trainer.zero_grad()
    return losses


def mistaken(model):
    """A matrix of the wrong size: the error is raised by the line that is wrong, before anything has run."""
    hidden = model.W.shape[0]
    state = lf.tanh(lf.embedding(model.E, 0))
    wrong = lf.constant(np.ones((hidden + 1, hidden + 1)))
    state = wrong @ state  # this line
    return lf.dot(model.v, state)


def words(count, longest, seed=0):
    """Random words of zeros and ones, of 1 to ``longest`` bits."""
    rng = np.random.default_rng(seed)
    return [rng.integers(2, size=rng.integers(1, longest + 1)).tolist() for _ in range(count)]


def main():
    """Train in batches of 16, then make the mistake."""
    model = Parity(16)
    losses = train(model, words(3000, 5), batch=16)
    for i in range(0, len(losses), 40):
        print(f"update {i:3}: loss {losses[i] / 16:.4f}")
    try:
        mistaken(model)
    except lf.ShapeError as error:
        print("at its line:", error)


if __name__ == "__main__":
    main()
