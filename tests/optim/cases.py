"""Every optimizer with every option that changes its numbers: the table that the tests of this folder go through."""

from __future__ import annotations

from typing import Any, NamedTuple

from lazyflow import optim


class Case(NamedTuple):
    make: type[optim.Optimizer]
    options: dict[str, Any]
    rule: str  # in reference.py
    extra: dict[str, Any]  # what the rule needs beside the options
    peer: str  # the name in torch.optim
    peer_extra: dict[str, Any]


def _case(make: type[optim.Optimizer], rule: str, peer: str, *, extra: dict[str, Any] | None = None,
          peer_extra: dict[str, Any] | None = None, **options: Any) -> Case:  # fmt: skip
    return Case(make, options, rule, extra or {}, peer, peer_extra or {})


CASES = [
    _case(optim.SGD, "sgd", "SGD", lr=0.1),
    _case(optim.SGD, "sgd", "SGD", lr=0.1, weight_decay=0.3),
    _case(optim.SGD, "sgd", "SGD", lr=0.1, momentum=0.9),
    _case(optim.SGD, "sgd", "SGD", lr=0.1, momentum=0.9, dampening=0.4, weight_decay=0.1),
    _case(optim.SGD, "sgd", "SGD", lr=0.1, momentum=0.7, nesterov=True),
    _case(optim.Adam, "adam", "Adam", lr=0.05),
    _case(optim.Adam, "adam", "Adam", lr=0.05, betas=(0.5, 0.8), eps=0.1, weight_decay=0.2),
    _case(optim.Adam, "adam", "Adam", lr=0.05, amsgrad=True, betas=(0.5, 0.6)),
    _case(
        optim.AMSGrad, "adam", "Adam", extra={"amsgrad": True}, peer_extra={"amsgrad": True}, lr=0.05, betas=(0.5, 0.6)
    ),
    _case(optim.AdamW, "adam", "AdamW", extra={"decoupled": True}, lr=0.05, weight_decay=0.3),
    _case(
        optim.AdamW,
        "adam",
        "AdamW",
        extra={"decoupled": True},
        lr=0.05,
        weight_decay=0.3,
        amsgrad=True,
        betas=(0.5, 0.6),
    ),
    _case(optim.Adagrad, "adagrad", "Adagrad", lr=0.1),
    _case(
        optim.Adagrad,
        "adagrad",
        "Adagrad",
        lr=0.1,
        lr_decay=0.5,
        weight_decay=0.1,
        initial_accumulator_value=0.3,
        eps=0.01,
    ),
    _case(optim.Adadelta, "adadelta", "Adadelta", lr=1.0),
    _case(optim.Adadelta, "adadelta", "Adadelta", lr=0.5, rho=0.6, eps=1e-3, weight_decay=0.2),
    _case(optim.RMSprop, "rmsprop", "RMSprop", lr=0.01),
    _case(optim.RMSprop, "rmsprop", "RMSprop", lr=0.01, alpha=0.8, eps=0.01, weight_decay=0.1),
    _case(optim.RMSprop, "rmsprop", "RMSprop", lr=0.01, momentum=0.8),
    _case(optim.RMSprop, "rmsprop", "RMSprop", lr=0.01, centered=True, momentum=0.5, alpha=0.7),
]


def case_id(case: Case) -> str:
    return case.make.__name__ + "".join(f",{name}={value}" for name, value in case.options.items() if name != "lr")
