"""A model with its preprocessing and its branches, against the same in NumPy under autograd."""

import numpy as np
import pytest

import lazyflow as lf
from tests.examples.lecture.examples import names


@pytest.fixture(scope="module")
def program():
    return names("tensorflow_static")


@pytest.fixture
def fitted(program):
    examples, labels = program["data"](20)
    with lf.using(dtype="float64"):
        lf.seed(3)
        model = program["Classifier"](4, 5, 3)
        model.fit_preprocessing(examples)
    return model, examples, labels


def test_preprocessing_is_part_of_what_is_saved(program, fitted, tmp_path):
    model, examples, _ = fitted
    lf.save(tmp_path / "model.safetensors", model=model)
    with lf.using(dtype="float64"):
        again = program["Classifier"](4, 5, 3)
    lf.load(tmp_path / "model.safetensors", model=again)
    np.testing.assert_array_equal(again(examples[0]).numpy(), model(examples[0]).numpy())


def test_a_value_inside_the_model_is_printed_without_an_api(fitted, capsys):
    model, examples, _ = fitted
    model.verbose = True
    quiet = model(examples[0]).numpy()
    assert "Length of state: " in capsys.readouterr().out
    model.verbose = False
    np.testing.assert_array_equal(model(examples[0]).numpy(), quiet)
    assert capsys.readouterr().out == ""


@pytest.mark.peer
def test_the_same_numbers_as_autograd(program, fitted):
    autograd = pytest.importorskip("autograd", reason="compared with autograd (extra 'peers')")
    anp = pytest.importorskip("autograd.numpy")
    model, examples, labels = fitted
    values = model.state_dict()
    mean, scale = values.pop("mean"), values.pop("scale")

    def linear(p, name, x):
        return anp.dot(p[f"{name}.weight"], x) + p[f"{name}.bias"]

    def loss_of(p, raw, label):
        x = anp.clip((raw - mean) * scale, -3.0, 3.0)
        state = anp.tanh(linear(p, "input", x))
        scores, looks = linear(p, "output", state), 1
        while looks < 4 and anp.max(anp.exp(scores) / anp.sum(anp.exp(scores))) < 0.9:
            state = anp.tanh(linear(p, "look", state)) + state
            scores, looks = linear(p, "output", state), looks + 1
        return anp.log(anp.sum(anp.exp(scores))) - scores[label]

    def loss(p):
        return sum(loss_of(p, x, y) for x, y in zip(examples, labels, strict=True)) / len(labels)

    ours, theirs = program["train"](model, examples, labels, epochs=6), []
    for _ in range(6):
        value, gradient = autograd.value_and_grad(loss)(values)
        theirs.append(value)
        values = {name: values[name] - 0.05 * gradient[name] for name in values}
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    trained = model.state_dict()
    for name, value in values.items():
        np.testing.assert_allclose(trained[name], value, rtol=1e-9, atol=1e-12, err_msg=name)


def test_main_runs(program, capsys):
    program["main"]()
    out = capsys.readouterr().out
    assert "epoch  8" in out and "Length of state" in out
