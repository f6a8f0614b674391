"""What `lf.compare` leaves as it was, wherever it ends."""

import functools

import pytest

import lazyflow as lf
from lazyflow import optim
from tests.inspect.tagger import QUICK, SENTENCES, Tagger, state
from tests.interrupts import bytecodes, interrupted


def refusing(model, at):
    """A loss that fails at a call."""
    calls = []

    def loss_of(sentence):
        calls.append(sentence)
        if len(calls) == at:
            model.eval()
            raise KeyboardInterrupt
        return model.loss(sentence)

    return loss_of


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_nothing_changes(model, train, gradients):
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    if gradients:
        model.loss(SENTENCES[3]).backward()
        optimizer.step()
    model.dropout.eval()
    before = state(model, optimizer)
    lf.compare(model.loss, SENTENCES, batch=3, train=train, optimizer=optimizer if train else None, **QUICK)
    assert state(model, optimizer) == before


@pytest.mark.parametrize("at", [1, 2, 7, 11, 14, 16, 30, 44])
def test_nothing_changes_after_an_interrupt(model, at):
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.loss(SENTENCES[3]).backward()
    optimizer.step()
    before, settings = state(model, optimizer), lf.settings.current()
    with pytest.raises(KeyboardInterrupt):
        lf.compare(refusing(model, at), SENTENCES, batch=3, optimizer=optimizer, **QUICK)
    assert state(model, optimizer) == before
    assert lf.settings.current() is settings


def test_nothing_changes_wherever_an_interrupt_comes(model):
    """Among the bytecodes that put things back, the last ones foremost."""
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    before = state(model, optimizer)

    def run():
        lf.compare(model.loss, SENTENCES[:2], batch=2, modes=["phases"], optimizer=optimizer, **QUICK)

    files = ("inspect/unchanged.py",)
    count = bytecodes(run, files)
    for at in (*range(0, count, count // 12), *range(count - 1200, count, 97)):
        interrupted(run, at, files)
        assert state(model, optimizer) == before, at


def test_a_gradient_that_waits_is_neither_used_nor_lost(model):
    model.loss(SENTENCES[3]).backward()
    (row,) = lf.compare(model.loss, SENTENCES, batch=3, modes=["phases"], **QUICK).rows
    assert row.gradients_differ < 1e-5


def test_values_that_were_computed_stay(model):
    loss = model.loss(SENTENCES[3])
    value = loss.item()
    lf.compare(model.loss, SENTENCES, batch=3, optimizer=optim.SGD(model.parameters(), lr=0.1), **QUICK)
    loss.backward()
    assert loss.item() == value, "no dropout is drawn anew"


@pytest.mark.parametrize("spelling", ["method", "partial", "closure", "global", "model"])
def test_generators_are_found_however_the_model_is_named(model, spelling, monkeypatch):
    monkeypatch.setitem(globals(), "of_the_module", model)
    hidden = {"loss": model.loss}.__getitem__
    loss_of, further = {
        "method": (model.loss, None),
        "partial": (functools.partial(Tagger.loss, model), None),
        "closure": (lambda sentence: model.loss(sentence), None),
        "global": (lambda sentence: of_the_module.loss(sentence), None),  # noqa: F821
        "model": (lambda sentence: hidden("loss")(sentence), [model]),
    }[spelling]
    before = state(model)
    (row,) = lf.compare(loss_of, SENTENCES, batch=3, modes=["phases"], model=further, **QUICK).rows
    assert row.differs < 1e-5 and state(model) == before


def test_parameters_that_loss_of_changes_are_put_back():
    w = lf.Parameter([1.0, 2.0])

    def loss_of(x):
        with lf.no_grad():
            w.assign(w.numpy() * 2)
        return lf.sum(w * x)

    lf.compare(loss_of, [1.0, 2.0], batch=2, **QUICK)
    assert w.numpy().tolist() == [1.0, 2.0]


W = lf.Parameter([1.0, 2.0])


def loss(x):
    return lf.sum(W * x)
