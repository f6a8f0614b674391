"""DyNet's loop, against DyNet itself in float32 and against autograd in float64; the error at its line."""

import traceback

import numpy as np
import pytest

import lazyflow as lf
from tests.examples.lecture.examples import names

WORDS = 30


@pytest.fixture(scope="module")
def program():
    return names("dynet_loop")


@pytest.fixture
def words(program):
    return program["words"](WORDS, 5, seed=2)


def test_the_error_is_raised_by_the_line_that_is_wrong(program):
    with pytest.raises(lf.ShapeError, match="sums over 5 and 4") as caught:
        program["mistaken"](program["Parity"](4))
    ours = [frame for frame in traceback.extract_tb(caught.tb) if frame.filename.endswith("dynet_loop.py")]
    assert ours[-1].line.endswith("# this line")


def test_batches_sum_what_single_words_give(program, words):
    one, batch = program["Parity"](4), program["Parity"](4)
    singles = program["train"](one, words, rate=0.0)
    batches = program["train"](batch, words, rate=0.0, batch=10)
    np.testing.assert_allclose(np.reshape(singles, (3, 10)).sum(1), batches, rtol=1e-12)


@pytest.mark.peer
def test_the_same_numbers_as_autograd(program, words):
    autograd = pytest.importorskip("autograd", reason="compared with autograd (extra 'peers')")
    anp = pytest.importorskip("autograd.numpy")
    model = program["Parity"](4)
    p = {"W": model.W.numpy(), "E": model.E.numpy(), "v": model.v.numpy()}

    def loss(p, bits):
        state = p["E"][bits[0]]
        for bit in bits[1:]:
            state = anp.tanh(anp.dot(p["W"], state) + p["E"][bit])
        score = anp.dot(p["v"], state)
        return anp.logaddexp(0, score) - score * (sum(bits) % 2)

    ours, theirs = program["train"](model, words), []
    for bits in words:
        value, gradient = autograd.value_and_grad(loss)(p, bits)
        theirs.append(value)
        p = {name: p[name] - 0.05 * gradient[name] for name in p}
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    for name in p:
        np.testing.assert_allclose(getattr(model, name).numpy(), p[name], rtol=1e-9, err_msg=name)


@pytest.mark.peer
def test_the_same_numbers_as_dynet(program, words):
    pytest.importorskip("dynet_config", reason="the original, which is not installed (extra 'peers')")
    from benchmarks.peers.dynet_tree_lstm import dy  # configured there, once for the process

    model = program["Parity"](4)
    collection = dy.ParameterCollection()
    W, v = (collection.parameters_from_numpy(x.numpy().astype("float32")) for x in (model.W, model.v))
    E = collection.lookup_parameters_from_numpy(model.E.numpy().astype("float32"))
    trainer = dy.SimpleSGDTrainer(collection, learning_rate=0.05)
    ours, theirs = program["train"](model, words), []
    for bits in words:
        dy.renew_cg()
        state = E[bits[0]]
        for bit in bits[1:]:
            state = dy.tanh(W * state + E[bit])
        loss = dy.binary_log_loss(dy.logistic(dy.dot_product(v, state)), dy.scalarInput(sum(bits) % 2))
        theirs.append(loss.value())
        loss.backward()
        trainer.update()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.W.numpy(), W.as_array(), rtol=1e-4, atol=1e-5)


def test_main_learns_and_shows_the_error(program, capsys):
    program["main"]()
    out = capsys.readouterr().out
    assert "update 160: loss 0.0" in out and "at its line: matmul" in out
