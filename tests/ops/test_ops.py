"""Every operation against its rows in `tests.ops.cases` and the tables beside it, by the checks of the harness."""

import pytest

import lazyflow.ops  # noqa: F401  (fills the table of operations)
from lazyflow.device import array_module
from lazyflow.ops.base import OPS
from tests.ops import (
    cases,
    cases_attention,
    cases_conv,
    cases_decompositions,
    cases_linalg,
    cases_segment,
    cases_simplex,
)
from tests.ops.harness import CHECKS, infer

CASES = (
    *cases.CASES,
    *cases_attention.CASES,
    *cases_linalg.CASES,
    *cases_conv.CASES,
    *cases_decompositions.CASES,
    *cases_segment.CASES,
    *cases_simplex.CASES,
)
ERRORS = (
    *cases.ERRORS,
    *cases_attention.ERRORS,
    *cases_linalg.ERRORS,
    *cases_conv.ERRORS,
    *cases_decompositions.ERRORS,
    *cases_segment.ERRORS,
    *cases_simplex.ERRORS,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_operation(case, check):
    check(case)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_operation_on_the_gpu(case):
    for check in CHECKS:
        check(case, array_module("cuda:0"))


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: case.id)
def test_refused_operands(case):
    with pytest.raises(case.error, match=case.message):
        infer(case)


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_operation_has_a_row(name):
    assert name in {case.op for case in CASES}, f"add a Case for {name!r} to tests/ops/cases.py or cases_linalg.py"


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_operation_refuses_something(name):
    assert name in {case.op for case in ERRORS}, (
        f"add an ErrorCase for {name!r} to tests/ops/cases.py or cases_linalg.py"
    )


@pytest.mark.parametrize("name", sorted(name for name, op in OPS.items() if any(op.vjps)))
def test_every_vjp_is_checked_numerically(name):
    rows = [
        c
        for c in CASES
        if c.op == name and c.gradient and all(s.dtype in ("float64", "int64", "bool", "int32") for s in c.operands)
    ]
    assert rows, f"{name!r} has vjps; give it a row in float64"
