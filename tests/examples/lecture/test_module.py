"""The custom module with loops and ifs, beside the same one in PyTorch."""

import re

import numpy as np
import pytest

import lazyflow as lf
from tests.examples.lecture.support import copied, program


@pytest.fixture(scope="module")
def slide():
    return program("module")


@pytest.mark.peer
def test_it_gives_what_pytorch_gives(slide):
    torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")

    class Network(torch.nn.Module):
        def __init__(self, input_dim, hidden_dim, output_dim):
            super().__init__()
            self.linear1 = torch.nn.Linear(input_dim, hidden_dim)
            self.again = torch.nn.Linear(hidden_dim, hidden_dim)
            self.linear2 = torch.nn.Linear(hidden_dim, output_dim)

        def forward(self, inputs):
            output = torch.relu(self.linear1(inputs[0]))
            for vector in inputs[1:]:
                output = torch.relu(self.linear1(vector) + self.again(output))
            taken.append(bool(output.mean() > 0.2))
            if taken[-1]:
                output = output - output.mean()
            return self.linear2(output)

    taken = []
    data = [(list(np.float64(x)), np.float64(y)) for x, y in slide.examples(24, 4, seed=1)]
    with lf.using(dtype="float64"):
        lf.seed(2)
        ours = slide.Network(4, 6, 1)
        theirs = copied(ours, Network(4, 6, 1))
        found = slide.train(ours, data, epochs=3, batch=8)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05)
    tensors = [([torch.tensor(v) for v in x], torch.tensor(y)) for x, y in data]
    expected = []
    for _ in range(3):
        losses = []
        for start in range(0, len(data), 8):
            batch = tensors[start : start + 8]
            loss = sum(torch.nn.functional.mse_loss(theirs(x), y) for x, y in batch) / len(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        expected.append(np.mean(losses))
    assert 0 < sum(taken) < len(taken), "both ways are taken"
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    for name, array in ours.state_dict().items():
        np.testing.assert_allclose(array, theirs.state_dict()[name].numpy(), rtol=1e-9, atol=1e-12, err_msg=name)


def test_the_program_prints_a_falling_loss(slide, capsys):
    slide.main()
    losses = [float(n) for n in re.findall(r"loss ([\d.]+)", capsys.readouterr().out)]
    assert len(losses) == 5 and losses == sorted(losses, reverse=True)
