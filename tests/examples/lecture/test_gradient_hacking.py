"""The slides on gradient hacking, beside PyTorch: what the hooks see, and the assertion at the end."""

from functools import partial

import numpy as np
import pytest

import lazyflow as lf
from tests.examples.lecture.support import copied, program


@pytest.fixture(scope="module")
def slides():
    return program("gradient_hacking")


def noting(seen, grad, name=None, value=None):
    seen[name] = np.asarray(grad).copy(), value.detach().numpy().copy()


@pytest.mark.peer
def test_the_hooks_see_what_pytorchs_see(slides):
    torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")

    class Network(torch.nn.Module):
        def __init__(self, n_in=2, n_out=2):
            super().__init__()
            self.layer1 = torch.nn.Linear(n_in, n_out, bias=False)
            self.layer2 = torch.nn.Linear(n_out, n_out, bias=False)
            self.layer3 = torch.nn.Linear(n_out * 2, 1, bias=False)
            self.fun = torch.nn.LeakyReLU(negative_slope=1.0)

        def forward(self, input):
            out1 = self.layer1(input)
            out1.retain_grad()
            path1 = self.fun(out1)
            path1.retain_grad()
            path2 = self.fun(out1)
            path2.retain_grad()
            out3 = self.layer3(torch.cat((path2, self.layer2(path1)), dim=1))
            for name, value in (("out1", out1), ("path1", path1), ("path2", path2)):
                value.register_hook(partial(noting, expected, name=name, value=value))
            return {"out1": out1, "path1": path1, "path2": path2, "y": out3}

    found, expected = {}, {}
    slides.Network.forward.__globals__["print_tensor_grad"] = partial(noting, found)
    with lf.using(dtype="float64"):
        ours = slides.Network()
        theirs = copied(ours, Network())
        out = ours(lf.constant(np.ones((1, 2))))
        out["y"].backward()
    wanted = theirs(torch.ones(1, 2, dtype=torch.float64))
    wanted["y"].backward()
    assert sorted(found) == sorted(expected) == ["out1", "path1", "path2"]
    for name in found:
        np.testing.assert_allclose(found[name][0], expected[name][0], rtol=1e-9)
        np.testing.assert_allclose(found[name][1], expected[name][1], rtol=1e-9)
        np.testing.assert_allclose(out[name].grad, wanted[name].grad, rtol=1e-9)
    for name, parameter in ours.named_parameters():
        np.testing.assert_allclose(parameter.grad, theirs.get_parameter(name).grad, rtol=1e-9)


def test_the_program_prints_every_gradient_and_its_assertion_holds(capsys):
    program("gradient_hacking").main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["layer2"] * 3
    assert sorted(line.split()[0] for line in lines[3:]) == ["out1", "out1", "path1", "path1", "path2", "path2"]
