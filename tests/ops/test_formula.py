"""Formulas: the printed kernels compute what the formula says, in the memory they are given."""

import math
from unittest import mock

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import lazyflow as lf
from lazyflow import core
from lazyflow.ops import OPS
from lazyflow.ops.base import host_form
from lazyflow.ops.elementwise import elementwise
from lazyflow.ops.formula import compile_forward, compile_vjp, erf_of, evaluate, forward_source, parse, result_dtype

ELEMENTWISE = sorted(name for name, op in OPS.items() if op.formula)
BITS = ("bitwise_and", "bitwise_or", "bitwise_xor", "invert", "left_shift", "right_shift")
DERIVATIVES = [(name, operand) for name in ELEMENTWISE for operand in OPS[name].formula if operand != "y"]


class Counting:
    """NumPy that counts the functions taken from it, and whether they made an array or wrote into one."""

    def __init__(self):
        self.made, self.written = [], []

    def __getattr__(self, name):
        def function(*args, out=None, **more):
            (self.written if out is not None or name == "copyto" else self.made).append(name)
            return getattr(np, name)(*args, out=out, **more) if out is not None else getattr(np, name)(*args, **more)

        return function


def in_both_forms(make, *arguments):
    """A kernel as it is, by the machine where there is a core, and as NumPy calls."""
    kernel = make(*arguments)
    return [kernel, mock.patch.object(core, "machine", None)(kernel)]


def operands_of(name, dtype=np.float64, shape=(3, 2)):
    """An operand for each name of the formula, inside every function's domain but for arccosh."""
    names = parse(OPS[name].formula["y"]).operands
    rng = np.random.default_rng(0)
    low = 1.5 if name == "arccosh" else 0.1
    arrays = {n: rng.uniform(low, low + 0.8, shape).astype(dtype) for n in names}
    if name in BITS:
        return {n: (4 * a).astype(np.int64) for n, a in arrays.items()}
    return {n: a > low + 0.4 if n == "condition" else a for n, a in arrays.items()}


# Memory.


@pytest.mark.parametrize(
    ("name", "calls"),
    [("exp", 1), ("tanh", 1), ("multiply", 1), ("log", 1), ("relu", 1), ("erf", 0), ("softsign", 3), ("clip", 2)],
)
def test_with_out_nothing_is_allocated(name, calls):
    xp = Counting()
    operands = operands_of(name)
    out = np.empty((3, 2))
    assert OPS[name].forward(xp, *operands.values(), out=out) is out
    if name != "erf":  # its polynomials need memory of their own
        assert (len(xp.written), xp.made) == (calls, [])


def test_sigmoid_needs_one_array_beside_its_result():
    xp = Counting()
    OPS["sigmoid"].forward(xp, *operands_of("sigmoid").values(), out=np.empty((3, 2)))
    assert (len(xp.written), xp.made) == (3, ["add"])


@pytest.mark.parametrize("name", ["exp", "multiply", "divide", "sqrt", "logsigmoid"])
def test_a_gradient_makes_one_array(name):
    xp = Counting()
    operands = operands_of(name)
    for vjp in OPS[name].vjps:
        xp.made.clear()
        vjp(xp, np.ones((3, 2)), np.full((3, 2), 0.5), *operands.values(), out=np.empty((3, 2)))
        assert xp.made == []


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_forward_with_and_without_out(name):
    operands = operands_of(name)
    want = evaluate(parse(OPS[name].formula["y"]), np, **operands)
    before = {n: a.copy() for n, a in operands.items()}
    formula = parse(OPS[name].formula["y"])
    for kernel, ulps in zip(in_both_forms(compile_forward, name, formula), (8, 0), strict=True):
        out = np.empty(want.shape, want.dtype)
        assert kernel(np, *operands.values(), out=out) is out
        np.testing.assert_allclose(out, want, rtol=ulps * np.finfo(float).eps)
        np.testing.assert_array_equal(kernel(np, *operands.values()), out)
    for n, array in before.items():
        np.testing.assert_array_equal(operands[n], array)


@pytest.mark.parametrize(("name", "operand"), DERIVATIVES)
def test_vjps_with_and_without_out_and_from_their_text(name, operand):
    op, operands = OPS[name], operands_of(name)
    names = list(operands)
    y = op.forward(np, *operands.values())
    g = np.random.default_rng(1).standard_normal(y.shape)
    vjp = op.vjps[names.index(operand)]
    want = evaluate(parse(op.formula[operand]), np, g=g, y=y, **operands)
    np.testing.assert_allclose(vjp(np, g, y, *operands.values()), want, rtol=1e-14)
    out = np.empty(y.shape)
    assert vjp(np, g, y, *operands.values(), out=out) is out
    np.testing.assert_allclose(out, want, rtol=1e-14)


@pytest.mark.parametrize(("name", "operand"), DERIVATIVES)
def test_vjps_run_on_expressions(name, operand):
    op, operands = OPS[name], operands_of(name)
    y = op.forward(np, *operands.values())
    arrays = {"g": np.cos(y), "y": y, **operands}
    formula = parse(op.formula[operand])
    recorded = evaluate(formula, lf, **{n: lf.constant(a) for n, a in arrays.items()})
    np.testing.assert_allclose(recorded.numpy(), evaluate(formula, np, **arrays), rtol=1e-14)


# Random formulas against Python's own evaluation of their text, of functions that have one result.

_LEAVES = st.sampled_from(["a", "b", "c", "0.5", "2", "3.25"])
_FORMULAS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(st.sampled_from(["floor", "abs", "-", "sign"]), inner).map(lambda t: f"({t[0]}({t[1]}))"),
        inner.map(lambda inner: f"sqrt(abs({inner}))"),
        st.tuples(st.sampled_from(["maximum", "minimum"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
        st.tuples(inner, st.sampled_from(["<", ">="]), inner, inner, inner).map(
            lambda t: f"where({t[0]} {t[1]} {t[2]} + a, {t[3]} + c, {t[4]})"
        ),
        st.tuples(inner, inner, inner).map(lambda t: f"(({t[0]} + b) * ({t[1]} > {t[2]} - a) + c)"),
    ),
    max_leaves=12,
)


def weak(name):
    """A NumPy function that makes Python numbers of Python numbers, as constants in a formula stay weak."""
    function = getattr(np, name)
    return lambda *a: function(*a).item() if all(isinstance(v, int | float) for v in a) else function(*a)


_FUNCTIONS = {n: weak(n) for n in ("floor", "sqrt", "abs", "sign", "maximum", "minimum", "where")}
_SHAPES = {"a": (3, 2), "b": (3, 1), "c": (2,)}


def by_python(source, arrays):
    with np.errstate(all="ignore"):
        return eval(source, {"__builtins__": {}}, {**_FUNCTIONS, **arrays})


@given(_FORMULAS.map(lambda f: f"{f} + a * b * c"), st.sampled_from(["float64", "float32"]))
def test_random_formulas_forward(source, dtype):
    rng = np.random.default_rng(0)
    arrays = {n: rng.standard_normal(s).astype(dtype) for n, s in _SHAPES.items()}
    formula = parse(source)
    want = by_python(source, arrays)
    assert result_dtype(formula, (np.dtype(dtype),) * len(formula.operands)) == want.dtype
    given_arrays = [arrays[n] for n in formula.operands]
    for kernel in in_both_forms(compile_forward, "kernel", formula):
        out = np.full((3, 2), np.nan, want.dtype)
        assert kernel(np, *given_arrays, out=out) is out
        np.testing.assert_array_equal(out, want)
        np.testing.assert_array_equal(kernel(np, *given_arrays), want)


@given(_FORMULAS.map(lambda f: f"g * ({f}) + y"))
def test_random_formulas_as_vjps(source):
    rng = np.random.default_rng(0)
    arrays = {n: rng.standard_normal(s) for n, s in {**_SHAPES, "g": (3, 2), "y": (3, 2)}.items()}
    before = {n: a.copy() for n, a in arrays.items()}
    want = by_python(source, arrays)
    operands = [arrays[n] for n in "gyabc"]
    for kernel in in_both_forms(compile_vjp, "kernel", parse(source), ("a", "b", "c")):
        np.testing.assert_array_equal(kernel(np, *operands), want)
        out = np.full((3, 2), np.nan)
        assert kernel(np, *operands, out=out) is out
        np.testing.assert_array_equal(out, want)
    for n, array in before.items():
        np.testing.assert_array_equal(arrays[n], array)


# Python numbers are weak.


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("leaky_relu", (0.1,)),
        ("elu", (1.5,)),
        ("clip", (-0.5, 0.5)),
        ("hardtanh", (-1.0, 1.0)),
        ("power", (2.0,)),
        ("add", (1.0,)),
    ],
)
def test_python_numbers_as_operands_keep_the_dtype(name, numbers, dtype):
    op = OPS[name]
    x = np.linspace(0.25, 2, 4, dtype=dtype).reshape(2, 2)
    y = op.forward(np, x, *numbers)
    assert y.dtype == dtype
    assert op.vjps[0](np, y, y, x, *numbers).dtype == dtype
    arrays = [np.full((2, 1), n, dtype) for n in numbers]
    np.testing.assert_array_equal(op.forward(np, x, *arrays, out=np.empty_like(x)), y)


# Values at kinks, ties and zeros.


@pytest.mark.parametrize(
    ("name", "operands", "gradients"),
    [
        ("relu", (0.0,), (0.0,)),
        ("abs", (0.0,), (0.0,)),
        ("maximum", (1.0, 1.0), (0.5, 0.5)),
        ("minimum", (1.0, 1.0), (0.5, 0.5)),
        ("maximum", (-math.inf, -math.inf), (0.5, 0.5)),
        ("maximum", (2.0, 1.0), (1.0, 0.0)),
        ("power", (0.0, 0.0), (0.0, 0.0)),
        ("power", (0.0, 1.0), (1.0, 0.0)),
        ("power", (0.0, 2.0), (0.0, 0.0)),
        ("power", (0.0, 2.5), (0.0, 0.0)),
        ("power", (-2.0, 3.0), (12.0, 0.0)),
        ("power", (-2.0, 2.0), (-4.0, 0.0)),
        ("clip", (1.0, -1.0, 1.0), (1.0,)),
        ("clip", (1.5, -1.0, 1.0), (0.0,)),
        ("hardtanh", (1.0, -1.0, 1.0), (0.0,)),
        ("elu", (0.0, 0.5), (0.5,)),
        ("leaky_relu", (0.0, 0.5), (0.5,)),
        ("softplus", (-800.0,), (0.0,)),
        ("softplus", (800.0,), (1.0,)),
        ("logsigmoid", (800.0,), (0.0,)),
        ("logsigmoid", (-800.0,), (1.0,)),
    ],
)
def test_gradients_at_kinks(name, operands, gradients):
    arrays = [np.array([v]) for v in operands]
    y = OPS[name].forward(np, *arrays)
    found = [vjp(np, np.ones(1), y, *arrays).item() for vjp in OPS[name].vjps[: len(gradients)]]
    np.testing.assert_allclose(found, gradients, atol=1e-300)


def test_logsigmoid_keeps_small_gradients():
    x = np.array([40.0])
    y = OPS["logsigmoid"].forward(np, x)
    np.testing.assert_allclose(OPS["logsigmoid"].vjps[0](np, np.ones(1), y, x), math.exp(-40), rtol=1e-14)


@pytest.mark.parametrize(("dtype", "relative"), [(np.float64, 1e-15), (np.float32, 4e-7)])
def test_erf(dtype, relative):
    x = np.concatenate([np.linspace(-7, 7, 4001), np.geomspace(1e-30, 1, 200)]).astype(dtype)
    want = np.array([math.erf(v) for v in x.tolist()])
    got = erf_of(np, x)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, want, rtol=relative)
    assert np.all(np.abs(got) <= 1)
    assert np.isnan(erf_of(np, np.array([np.nan], dtype))).all()


# What is refused.


@pytest.mark.parametrize(
    "source", ["x if x else y", "f(x)", "x.y", "[x]", "x < y < z", "tanh(x=y)", "'x'", "x @ y", "not x"]
)
def test_formulas_outside_the_language(source):
    with pytest.raises(ValueError, match="is not an operation that formulas know"):
        parse(source)


def test_derivatives_of_what_is_no_operand():
    with pytest.raises(ValueError, match="z is no operand of 'x \\+ 1'"):
        elementwise("refused", "x + 1", z="g")
    with pytest.raises(ValueError, match="unknown operand w"):
        elementwise("refused", "x + 1", x="g * w")
    assert "refused" not in OPS


def test_names_are_unique():
    with pytest.raises(ValueError, match="'tanh' is registered twice"):
        elementwise("tanh", "tanh(x)")


def test_constants_are_folded_and_equal_steps_computed_once():
    formula = parse("sqrt(2 * 8) * tanh(x) + tanh(x)")
    assert [s.ufunc for s in formula.steps] == ["tanh", "multiply", "add"]
    assert "4.0" in forward_source("f", formula)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gradient_of_silu_where_nothing_is_left_of_one_minus_sigmoid(dtype):
    x = np.array([1e9, 1e20, -1e20, 40.0, 0.0], dtype)
    _, gradient = lf.value_and_grad(lambda v: lf.sum(lf.silu(v)))(x)
    np.testing.assert_allclose(gradient, [1, 1, 0, 1, 0.5], rtol=1e-6)


@pytest.mark.skipif(core.machine is None, reason="needs the compiled core")
def test_a_kernel_that_was_first_called_without_the_core_uses_it_where_it_is_there():
    x = np.linspace(-3.0, 3.0, 101, dtype=np.float32)
    kernel, again = (elementwise(f"sinh_of_{k}", "sinh(x) * 0.5", x="cosh(x)").forward for k in range(2))
    try:
        with mock.patch.object(core, "machine", None):
            assert host_form(kernel) is None
            kernel(np, x)
        assert host_form(kernel) is not None
        np.testing.assert_array_equal(kernel(np, x), again(np, x))
    finally:
        for k in range(2):
            OPS.pop(f"sinh_of_{k}")
