"""The slide's regression, beside PyTorch's with the same data and the same initial weights."""

import re

import numpy as np
import pytest

import lazyflow as lf
from tests.examples.lecture.support import copied, program


@pytest.fixture(scope="module")
def slide():
    return program("linear_regression")


def trained_by_torch(model, x, y, steps, learning_rate):
    torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")
    loss_fn, losses = torch.nn.MSELoss(reduction="sum"), []
    for _ in range(steps):
        loss = loss_fn(model(torch.tensor(x)), torch.tensor(y))
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for param in model.parameters():
                param -= learning_rate * param.grad
    return losses


@pytest.mark.peer
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-3)])
def test_it_gives_what_pytorch_gives(slide, dtype, tolerance):
    """In float32 a hundred steps apart by last digits at first, which some relu takes for another sign."""
    torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 200)).astype(dtype), rng.standard_normal((64, 10)).astype(dtype)
    with lf.using(dtype=dtype):
        ours = slide.network(200, 50, 10)
    peer = torch.nn.Sequential(torch.nn.Linear(200, 50), torch.nn.ReLU(), torch.nn.Linear(50, 10))
    theirs = copied(ours, peer)
    expected = trained_by_torch(theirs, x, y, 100, 1e-4)
    found = slide.train(ours, lf.constant(x), lf.constant(y), steps=100)
    np.testing.assert_allclose(found, expected, rtol=tolerance)
    for name, array in ours.state_dict().items():
        wanted = theirs.state_dict()[name].numpy()
        np.testing.assert_allclose(array, wanted, rtol=tolerance, atol=tolerance, err_msg=name)


def test_one_row_at_a_time_is_the_same_number(slide):
    model = slide.network(5, 4, 3)
    x, y = np.float32(np.random.default_rng(1).standard_normal((6, 5))), np.ones((6, 3), np.float32)
    loss_fn = lf.nn.MSELoss(reduction="sum")
    rows = lf.sum([loss_fn(model(lf.constant(a)), b) for a, b in zip(x, y, strict=True)])
    assert rows.item() == pytest.approx(loss_fn(model(x), y).item(), rel=1e-5)


def test_the_program_prints_a_falling_loss(slide, capsys):
    slide.main()
    losses = [float(n) for n in re.findall(r"^\d+ ([\d.e-]+)$", capsys.readouterr().out, re.MULTILINE)]
    assert len(losses) == 10 and losses == sorted(losses, reverse=True) and losses[-1] < 1e-3
