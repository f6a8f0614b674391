"""A model with all that a measurement might change, and what it is at a moment."""

import random

import numpy as np

import lazyflow as lf
from lazyflow import nn
from lazyflow.device import to_host

QUICK = {"seconds": 0, "progress": False}
SENTENCES = [[(3 * n + k) % 7 for k in range(n)] for n in (1, 2, 3, 5, 8, 4, 7)]


class Tagger(nn.Module):
    """With everything that a measurement might change: dropout, a buffer, a stream of its own, a mode."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.cell = nn.GRUCell(4, 4)
        self.dropout = nn.Dropout(0.5)
        self.noise = lf.Stream(5)
        self.output = nn.Linear(4, 3)
        self.register_buffer("seen", np.zeros(2))
        self.generator = np.random.default_rng(3)

    def scores(self, sentence):
        h = None
        for word in sentence:
            h = self.cell(self.embedding(word), h)
        return self.output(self.dropout(h) + 0.1 * lf.normal((4,), stream=self.noise))

    def loss(self, sentence):
        self.seen = self.seen + 1.0
        scale = self.generator.random() + random.random() + np.random.random()  # noqa: NPY002
        return scale * lf.cross_entropy(self.scores(sentence), len(sentence) % 3)


def dense(gradient):
    return to_host(getattr(gradient, "to_dense", lambda: gradient)()).tobytes()


def state(model, optimizer=None):
    """All of it, for comparing to the bit."""
    parameters = list(model.parameters())
    return {
        "values": [p.numpy().tobytes() for p in parameters],
        "gradients": [None if p.grad is None else (id(p.grad), dense(p.grad)) for p in parameters],
        "buffers": [b.tobytes() for b in model.buffers()],
        "modes": [m.training for m in model.modules()],
        "streams": [s.state_dict() for s in (lf.random.default_stream(), model.noise)],
        "python": random.getstate(),
        "numpy": [repr(g) for g in (np.random.get_state(), model.generator.bit_generator.state)],  # noqa: NPY002
        "optimizer": None if optimizer is None else repr(optimizer.state_dict()),
    }  # fmt: skip
