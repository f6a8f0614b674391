"""Every operation is differentiated twice, in forward and reverse mode, or says by name that it is not.

The vjps run on expressions here, as they run on arrays in `tests.ops.test_ops`.
"""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.ops.base import OPS, Op
from lazyflow.record.expr import record
from tests.ops.harness import draw, infer
from tests.ops.test_ops import CASES

DIFFERENTIABLE = sorted(name for name, op in OPS.items() if any(op.vjps))
ONCE = [name for name in DIFFERENTIABLE if OPS[name].once]
EACH = 2  # rows of an operation's table that are tried


def inputs(case, arrays):
    """The operands to differentiate by."""
    vjps = case.record.vjps
    return [i for i, a in enumerate(arrays) if a.dtype == np.float64 and vjps[0 if case.record.stacked else i]]


def suits(case):
    arrays = [a[0] for a in draw(case, 1)]
    doubles = all(a.dtype.kind != "f" or a.dtype == np.float64 for a in arrays)
    zeros = case.op == "power" and any(spec.choices for spec in case.operands)  # no numeric derivative beside 0 ** b
    return bool(
        case.gradient
        and doubles
        and not zeros
        and infer(case).dtype == np.float64
        and all(a.size for a in arrays)
        and inputs(case, arrays)
    )


def rows():
    for name in sorted(set(DIFFERENTIABLE) - set(ONCE)):
        found = [case for case in CASES if case.op == name and suits(case)]
        yield from found[:: max(1, len(found) // EACH)][: EACH + 1]


def payload(case, array):
    """An index as a model's code gives it."""
    is_index = array.dtype.kind in "iu" and not array.ndim and not case.record.elementwise
    return int(array) if is_index else lf.constant(array)


@pytest.mark.parametrize("case", list(rows()), ids=lambda case: case.id)
def test_second_derivatives(case):
    arrays = [a[0] for a in draw(case, 1)]
    numbers = inputs(case, arrays)

    def f(*values):
        given = dict(zip(numbers, values, strict=True))
        return record(case.record, [given.get(i, payload(case, a)) for i, a in enumerate(arrays)], **case.attrs)

    every = tuple(range(len(numbers)))
    lf.check_grads(f, argnum=every, order=2, tolerance=1e-5)(*(arrays[i] for i in numbers))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_every_operation_is_tried(name):
    assert any(case.op == name and suits(case) for case in CASES), f"{name}: give it a row in float64"


def test_what_cannot_be_differentiated_twice_is_named():
    for case in (c for c in CASES if c.op in ONCE and suits(c)):
        arrays = [a[0] for a in draw(case, 1)]
        given = {i: lf.Parameter(arrays[i]) for i in inputs(case, arrays)}
        y = record(case.record, [given.get(i, payload(case, a)) for i, a in enumerate(arrays)], **case.attrs)
        with pytest.raises(lf.GradientError, match=f"{case.op} can be differentiated once only"):
            lf.gradients(y, list(given.values()), cotangent=np.ones(y.shape))


def test_an_operation_that_is_differentiated_once_says_so():
    tanh = OPS["tanh"]
    once = Op("only_once", tanh.infer, tanh.forward, tanh.vjps, elementwise=True, once=True)
    with pytest.raises(lf.GradientError, match="only_once can be differentiated once only"):
        lf.grad(lambda x: lf.sum(record(once, (x,))))(np.ones(2))
    w = lf.Parameter(np.ones(2))
    lf.sum(record(once, (w,))).backward()
    np.testing.assert_allclose(w.grad, 1 - np.tanh(1) ** 2)
