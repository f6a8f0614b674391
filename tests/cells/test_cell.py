"""What `lf.cell` is as a decorator: when a body runs, what it may not do, and what its programs depend on."""

import collections
import copy
import dataclasses
import gc
import pickle
import re
import sys
import threading
import weakref
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from lazyflow.cells.visible import see
from lazyflow.device import to_host
from lazyflow.profile import Profile
from lazyflow.settings import BATCHINGS

Pair = namedtuple("Pair", "h c")
X, Y = np.array([0.5, -1.0, 2.0]), np.array([1.0, 0.25, -0.5])


class Counted:
    """A cell that counts how often its body runs."""

    def __init__(self, body):
        self.runs = 0

        def counted(*args, **kwargs):
            self.runs += 1
            return body(*args, **kwargs)

        self.call = lf.cell(counted)


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


# How often a body runs.


def test_the_body_runs_once_for_all_calls_alike():
    cell = Counted(lambda x, h: lf.tanh(x + h))
    h = lf.constant(X)
    for _ in range(5):
        h = cell.call(lf.constant(Y), h)
    assert cell.runs == 1
    cell.call(h, h)
    assert cell.runs == 1


ARGUMENTS = {
    "another shape": (np.ones(4),),
    "another dtype": (np.ones(3, np.float32),),
    "a tuple": ((np.ones(3),),),
    "a keyword": None,
    "another flag": (np.ones(3), False),
    "another string": (np.ones(3), "b"),
}


@pytest.mark.parametrize("args", ARGUMENTS.values(), ids=ARGUMENTS)
def test_other_arguments_are_another_program(args):
    cell = Counted(lambda x, flag=True: (x[0] if isinstance(x, tuple) else x) * 2)
    cell.call(np.ones(3))
    other = (lambda: cell.call(x=np.ones(3))) if args is None else (lambda: cell.call(*args))
    close(other().numpy(), 2.0)
    assert cell.runs == 2
    other()
    cell.call(np.ones(3))
    assert cell.runs == 2


def test_an_operand_with_a_gradient_is_another_program():
    cell, w = Counted(lambda x: x * x), lf.Parameter(X)
    cell.call(lf.constant(X))
    loss = lf.sum(cell.call(w + 0.0))
    loss.backward()
    assert cell.runs == 2
    close(w.grad, 2 * X)


SETTINGS = [{"dtype": "float64"}, {"grad": False}]


@pytest.mark.parametrize("changed", SETTINGS, ids=str)
def test_settings_are_part_of_the_program(changed):
    cell, w = Counted(lambda x: x * lf.constant([1.0, 2.0, 3.0])), lf.Parameter(np.float32(X))
    plain = cell.call(w + 0)
    with lf.using(**changed):
        other = cell.call(w + 0)
        assert other.dtype == np.dtype(changed.get("dtype", "float32"))
        assert other.requires_grad == changed.get("grad", True)
    assert cell.runs == 2
    assert plain.dtype == np.float32
    assert plain.requires_grad


OF_RUNS = [{"batching": "depth"}, {"batching": "none"}, {"threads": 2}, {"dedupe": False}, {"fuse": "off"}]


@pytest.mark.parametrize("changed", [*OF_RUNS, {"profile": Profile()}], ids=str)
def test_settings_of_runs_are_not(changed):
    cell, w = Counted(lambda x: x * lf.constant([1.0, 2.0, 3.0])), lf.Parameter(np.float32(X))
    plain = cell.call(w + 0).numpy()
    with lf.using(**changed):
        np.testing.assert_array_equal(cell.call(w + 0).numpy(), plain)
    assert cell.runs == 1


@pytest.mark.parametrize("times", [1, 2, 5])
def test_but_they_are_for_a_body_that_reads_them(times):
    batching = lf.cell(lambda x: x * (2.0 if lf.settings.current().batching == "depth" else 3.0))
    w = lf.Parameter(np.float32(X))
    for _ in range(times):
        close(batching(w + 0).numpy(), 3 * X)
        with lf.using(batching="depth"):
            close(batching(w + 0).numpy(), 2 * X)


def test_no_way_to_call_a_cell_is_forgotten_for_another(monkeypatch):
    """Four layers in two directions, with and without gradient, under every batching: recorded by code made for it."""
    slow = []
    monkeypatch.setattr(sys.modules["lazyflow.cells.cell"], "see", lambda *args: [slow.append(args), see(*args)][1])
    reader = lf.nn.LSTM(2, 2, 4, bidirectional=True)

    def everywhere():
        for batching in BATCHINGS:
            for grad in (True, False):
                with lf.using(batching=batching, grad=grad):
                    reader([np.ones(2, np.float32)] * 3)

    for _ in range(3):
        everywhere()
    slow.clear()
    everywhere()
    assert not slow


def test_arguments_of_every_kind():
    w = lf.Parameter(X)

    @lf.cell
    def cell(pair, lists, table, parameter, array, *, flag=None, factor=1.0):
        h, c = pair
        total = h + c + lists[0] * lists[1][0] + table["key"] + parameter + array
        return total * factor if flag is None else total

    def called(function):
        x = lf.constant(X)
        return function(Pair(x, x * 2), [x, (x,)], {"key": x * 3}, w, Y, factor=0.5)

    close(called(cell).numpy(), called(cell.__wrapped__).numpy())
    lf.sum(called(cell)).backward()
    close(w.grad, 0.5)
    cell(Pair(lf.constant(X), X), [X, [X]], {"key": X}, lf.constant(X), X, flag=1)


# What a body must not do.


def refuse(body, error, *words, args=None):
    with pytest.raises(error) as caught:
        lf.cell(body)(*(args if args is not None else (lf.constant(X),)))
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


ASKING = {
    "item": lambda x: x * lf.sum(x).item(),
    "float": lambda x: x * float(lf.sum(x)),
    "bool": lambda x: x if lf.sum(x) > 0 else -x,
    "numpy": lambda x: x * x.numpy(),
    "forward": lambda x: x * lf.forward([x])[0],
    "forward itself": lambda x: (x * 2).forward(),
    "backward": lambda x: lf.sum(x * 2).backward(),
    "an array": lambda x: np.asarray(x) + x,
}


@pytest.mark.parametrize("name", ASKING)
def test_no_value_can_be_asked_for(name):
    told = refuse(ASKING[name], lf.CellError, "lf.where", "lf.cell")
    assert re.search(r"test_cell\.py:\d+", told)
    close((lf.constant(X) * 2).numpy(), 2 * X)  # nothing is left behind


@pytest.mark.parametrize("watch", [lambda x: x.retain_grad(), lambda x: x.register_hook(np.negative)])
def test_nothing_is_watched_inside(watch):
    w = lf.Parameter(X)

    def body(x):
        y = x * w
        watch(y)
        return y * 2

    refuse(body, lf.CellError, "test_cell.py", "outside" if "retain" in watch.__code__.co_names[0] else "result")


def test_settings_cannot_change_inside():
    def body(x):
        with lf.no_grad():
            return x * 2

    refuse(body, lf.CellError, "test_cell.py")
    close(lf.cell(lambda x: x * 3)(X).numpy(), 3 * X)


def test_an_expression_of_outside_must_be_an_argument():
    outside = lf.constant(X) * 2
    told = refuse(lambda x: x + outside, lf.CellError, "test_cell.py")
    assert "argument" in told


def test_arguments_must_be_hashable():
    with pytest.raises(TypeError, match="hashable"):
        lf.cell(lambda x, options: x * 2)(lf.constant(X), {1, 2})


@pytest.mark.parametrize("what", [nn.Linear(2, 2), 3, None, int, len])
def test_only_functions_are_decorated(what):
    with pytest.raises(TypeError, match="function"):
        lf.cell(what)


def of_a_generator(x):
    yield x


async def of_a_coroutine(x):
    return x


@pytest.mark.parametrize("function", [of_a_generator, of_a_coroutine])
def test_a_function_that_yields_is_refused(function):
    with pytest.raises(TypeError, match=function.__name__):
        lf.cell(function)


OBJECTS = {
    "an object": lambda x: SimpleNamespace(h=x * 2),
    "another dict": lambda x: OrderedDict(h=x * 2),
    "a set": lambda x: {x * 2},
}


@pytest.mark.parametrize("body", OBJECTS.values(), ids=OBJECTS)
def test_objects_that_hold_expressions_cannot_be_returned(body):
    refuse(body, TypeError, "tuples", type(body(lf.constant(X))).__name__)


def test_an_error_in_the_body_is_the_bodys():
    cell = lf.cell(lambda x, y: x @ y)
    for _ in range(2):
        with pytest.raises(lf.ShapeError):
            cell(lf.constant(X), lf.constant(np.ones(4)))
    close(cell(lf.constant(X), lf.constant(Y)).numpy(), X @ Y)


# Modules.


class Scaled(nn.Module):
    def __init__(self, factor=2.0):
        super().__init__()
        self.weight = lf.Parameter(X)
        self.factor, self.seen = factor, SimpleNamespace(runs=0)
        self.inner = nn.Dropout(0.5)

    @lf.cell
    def forward(self, x):
        self.seen.runs += 1
        return self.inner(self.weight * x * self.factor)


def in_evaluation():
    module = Scaled()
    module.eval()
    return module


def test_a_method_is_traced_once():
    module = in_evaluation()
    close([module(x).numpy() for x in (X, Y)], [2 * X * X, 2 * X * Y])
    close(module(lf.constant(Y)).numpy(), 2 * X * Y)
    assert module.seen.runs == 1


def test_an_attribute_is_part_of_the_program():
    module = in_evaluation()
    for factor in (2.0, 3.0, 2.0, -1.0):
        module.factor = factor
        close(module(lf.constant(Y)).numpy(), factor * X * Y)
    assert module.seen.runs == 3


def test_modes_are_part_of_the_program():
    module = Scaled()
    for training in (True, False, True, False):
        module.train(training)
        zeros = sum(np.count_nonzero(module(lf.constant(np.ones(3))).numpy() == 0) for _ in range(20))
        assert (zeros > 0) == training
    assert module.seen.runs == 2


def test_an_inner_modules_attribute_counts():
    module = Scaled()
    for p, kept in ((0.0, 1.0), (1 - 1e-9, 0.0), (0.0, 1.0)):
        module.inner.p = p
        close(module(lf.constant(Y)).numpy(), kept * 2 * X * Y)


def test_a_parameter_that_was_replaced_is_read():
    module = in_evaluation()
    module(lf.constant(Y)).numpy()
    module.weight = lf.Parameter(Y)
    loss = lf.sum(module(lf.constant(Y)))
    loss.backward()
    close(loss.item(), 2 * (Y * Y).sum())
    close(module.weight.grad, 2 * Y)


def test_a_parameter_that_is_frozen():
    module = in_evaluation()
    for wanted in (True, False, True):
        module.weight.requires_grad = wanted
        found = module(lf.constant(Y))
        assert found.requires_grad == wanted
        close(found.numpy(), 2 * X * Y)


def test_new_values_of_a_parameter_are_read():
    module = in_evaluation()
    kept = module(lf.constant(Y))
    close(kept.numpy(), 2 * X * Y)
    module.weight.assign(Y)
    close(kept.forward().numpy(), 2 * Y * Y)
    close(module(lf.constant(Y)).numpy(), 2 * Y * Y)
    module.weight.data[...] = 1.0
    close(module(lf.constant(Y)).numpy(), 2 * Y)


def test_modules_of_one_class_have_programs_of_their_own():
    one, two = in_evaluation(), in_evaluation()
    two.weight.assign(Y)
    two.factor = 5.0
    for _ in range(2):
        close(one(lf.constant(Y)).numpy(), 2 * X * Y)
        close(two(lf.constant(Y)).numpy(), 5 * Y * Y)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies_read_their_own_parameters(again):
    module = in_evaluation()
    close(module(lf.constant(Y)).numpy(), 2 * X * Y)
    other = again(module)
    other.weight.assign(np.ones(3))
    close(other(lf.constant(Y)).numpy(), 2 * Y)
    close(module(lf.constant(Y)).numpy(), 2 * X * Y)


def test_programs_go_with_their_module():
    module = in_evaluation()
    for _ in range(3):
        module(lf.constant(Y)).numpy()
    gone = weakref.ref(module), weakref.ref(module.weight)
    del module
    gc.collect()
    assert [g() for g in gone] == [None, None]


class Deep(nn.Module):
    """Attributes of every kind, and modules in containers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Scaled(1.0), nn.Sequential(nn.Dropout(0.5))])
        self.table = nn.ModuleDict({"scale": Scaled(1.0)})
        self.factors, self.options, self.array = [2.0], {"k": (1.0,)}, np.ones(3)
        self.eval()

    @lf.cell
    def forward(self, x):
        x = self.layers[1](self.layers[0](x))
        return self.table["scale"](x) * self.factors[0] * self.options["k"][0] * self.array


def replace_weight(m):
    m.layers[0].weight = lf.Parameter(Y)


CHANGES = {
    "a parameter in a list of modules": replace_weight,
    "an attribute of one of them": lambda m: setattr(m.layers[0], "factor", 9.0),
    "a module of a list": lambda m: m.layers.__setitem__(0, in_evaluation()),
    "a module more": lambda m: m.layers.insert(0, in_evaluation()),
    "a module of a dict": lambda m: m.table.__setitem__("scale", in_evaluation()),
    "a list": lambda m: m.factors.__setitem__(0, 5.0),
    "a dict": lambda m: m.options.update(k=(4.0,)),
    "an array": lambda m: m.array.__setitem__(1, 7.0),
    "values of a parameter": lambda m: m.table["scale"].weight.assign(np.ones(3)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_no_change_goes_unnoticed(change):
    module = Deep()
    for _ in range(3):
        x = lf.constant(Y)
        before = module(x).numpy()
    close(before, 2 * X * X * Y)
    change(module)
    found = module(x)
    close(found.numpy(), Deep.forward.__wrapped__(module, lf.constant(Y)).numpy())
    assert not np.allclose(found.numpy(), before)
    close(module(x).numpy(), found.numpy())


class Plain:
    """No module: an object with parameters."""

    def __init__(self):
        self.w, self.k = lf.Parameter(X), 2.0

    @lf.cell
    def step(self, x):
        return x * self.w * self.k


@pytest.mark.parametrize(
    "call", [Plain.step, lf.cell(lambda model, x: x * model.w * model.k)], ids=["method", "argument"]
)
def test_objects_that_are_no_modules(call):
    model = Plain()
    for k, w in ((2.0, X), (3.0, X), (3.0, Y), (2.0, X)):
        model.k, model.w = k, lf.Parameter(w)
        loss = lf.sum(call(model, lf.constant(Y)))
        close(loss.item(), k * (w * Y).sum())
        loss.backward()
        close(model.w.grad, k * Y)


def test_an_object_that_cannot_be_hashed():
    @dataclasses.dataclass
    class Model:
        k: float

        @lf.cell
        def step(self, x):
            return x * self.k

    one, two = Model(2.0), Model(2.0)
    two.k = 3.0
    for _ in range(2):
        close(one.step(lf.constant(X)).numpy(), 2 * X)
        close(two.step(lf.constant(X)).numpy(), 3 * X)


def test_an_object_with_slots():
    class Model:
        __slots__ = ("k",)

        @lf.cell
        def step(self, x):
            return x * self.k

    with pytest.raises(TypeError, match="__slots__"):
        Model().step(lf.constant(X))


# Surroundings of a function.


def test_a_parameter_of_the_closure():
    w = lf.Parameter(X)
    cell = lf.cell(lambda x: x * w)
    close(cell(lf.constant(Y)).numpy(), X * Y)
    w = lf.Parameter(Y)
    close(cell(lf.constant(Y)).numpy(), Y * Y)


def test_a_number_of_the_closure():
    factor = 2
    cell = lf.cell(lambda x: x * factor)
    for k in (2, 3, 2):
        factor = k
        close(cell(lf.constant(Y)).numpy(), k * Y)


def test_a_list_of_the_closure():
    factors = [2.0]
    cell = lf.cell(lambda x: x * factors[0])
    for k in (2.0, 3.0, 3.0, 2.0):
        factors[0] = k
        close(cell(lf.constant(Y)).numpy(), k * Y)


def test_parameters_in_a_dict_of_the_closure():
    table = {"w": lf.Parameter(X)}
    cell = lf.cell(lambda x: x * table["w"])
    for w in (X, Y):
        table["w"] = lf.Parameter(w)
        for _ in range(2):
            close(cell(lf.constant(Y)).numpy(), w * Y)


FACTOR = 2.0


@lf.cell
def of_a_global(x):
    return x * FACTOR


def test_a_global(monkeypatch):
    close(of_a_global(lf.constant(Y)).numpy(), 2 * Y)
    monkeypatch.setitem(globals(), "FACTOR", 7.0)
    close(of_a_global(lf.constant(Y)).numpy(), 7 * Y)
    close(of_a_global(lf.constant(Y)).numpy(), 7 * Y)


def test_a_module_of_the_closure():
    linear = nn.Linear(3, 3)
    dropout = nn.Dropout(0.9)
    cell = lf.cell(lambda x: dropout(linear(x)))
    x = lf.constant(np.float32(Y))
    assert cell(x).shape == (3,)
    dropout.eval()
    close(cell(x).numpy(), linear(x).numpy())
    linear.weight = lf.Parameter(np.zeros((3, 3), np.float32))
    close(cell(x).numpy(), linear.bias.numpy())


# Where calls are recorded.


def test_operands_of_other_tapes():
    cell = lf.cell(lambda x, y: x * y + y)
    early = lf.constant(X) * 2
    early.forward()
    for _ in range(2):
        late = lf.constant(Y)
        close(cell(early, late).numpy(), 2 * X * Y + Y)
        close(cell(late, early).numpy(), 2 * X * Y + 2 * X)
        close(cell(early, early).numpy(), 4 * X * X + 2 * X)


def test_several_threads():
    cell, found = lf.cell(lambda x, h: lf.tanh(x * 0.3 + h)), []

    def work():
        h = lf.constant(X)
        for _ in range(50):
            h = cell(lf.constant(Y), h)
        found.append(h.numpy())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len({f.tobytes() for f in found}) == 1
    assert len(found) == 4


def test_across_no_grad():
    w = lf.Parameter(X)
    cell = lf.cell(lambda x: x * w)
    with lf.no_grad():
        fixed = cell(lf.constant(Y))
        assert not fixed.requires_grad
    loss = lf.sum(cell(fixed))
    loss.backward()
    close(w.grad, X * Y)


def test_a_nan_is_named_inside_of_a_cell():
    @lf.cell
    def cell(x):
        y = lf.log(x)
        return y * 2

    with lf.using(check_finite=True), np.errstate(all="ignore"), pytest.raises(lf.NonFiniteError) as caught:
        cell(lf.constant(-X)).forward()
    line = cell.__wrapped__.__code__.co_firstlineno + 2
    assert f"test_cell.py:{line}" in str(caught.value)


def test_cells_in_cells_are_laid_out():
    runs = []
    inner = lf.cell(lambda x, n: runs.append(1) or lf.tanh(x) * n)
    outer = lf.cell(lambda x, n: inner(x, n) + inner(x * 2, 1.5))
    for n in (2.0, 3.0):
        e = outer(lf.constant(X), n)
        close(e.numpy(), np.tanh(X) * n + np.tanh(2 * X) * 1.5)
    assert len(runs) == 2
    assert [g.nodes for g in lf.explain(e).groups if g.operation.startswith("cell")] == [1]


def test_one_call_is_one_node():
    cell = lf.cell(lambda x: (lf.tanh(x) * 2, lf.exp(x)))
    x = lf.constant(X)
    before = len(x.tape)
    cell(x)
    assert len(x.tape) == before + 2


def test_a_result_that_is_an_operand_or_given_twice():
    cell = lf.cell(lambda x: (x, x * 2, x, [x * 1]))
    a, b, c, [d] = cell(lf.constant(X))
    close([a.numpy(), b.numpy(), c.numpy(), d.numpy()], [X, 2 * X, X, X])
    w = lf.Parameter(X)
    a, b, c, [d] = cell(w + 0)
    lf.sum(a * b * c * d).backward()
    close(w.grad, 4 * 2 * X**3)


def test_a_result_that_rests_on_no_operand():
    w = lf.Parameter(X)
    cell = lf.cell(lambda x: (x * 2, w * 3, lf.constant(Y)))
    double, triple, fixed = cell(lf.constant(X))
    close([double.numpy(), triple.numpy(), fixed.numpy()], [2 * X, 3 * X, Y])
    lf.sum(double * triple).backward()
    close(w.grad, 6 * X)


def test_a_parameter_as_a_result():
    w = lf.Parameter(X)
    found, other = lf.cell(lambda x: (w, x * w))(lf.constant(Y))
    lf.sum(found * other).backward()
    close(w.grad, 2 * X * Y)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
@pytest.mark.parametrize("fuse", ["off", "numpy"])
def test_arrays_of_no_size(shape, fuse):
    w = lf.Parameter(np.ones(shape))
    cell = lf.cell(lambda x: (lf.tanh(x * w) + x, lf.sum(x * w)))
    with lf.using(fuse=fuse):
        found = [cell(lf.constant(np.ones(shape))) for _ in range(3)]
        loss = lf.sum([lf.sum(a) + b for a, b in found])
        assert loss.item() == 0
        loss.backward()
    assert w.grad.shape == shape


def test_a_product_of_no_size():
    w = lf.Parameter(np.ones((3, 0)))
    cell = lf.cell(lambda x: lf.tanh(w @ x) + 1)
    loss = lf.sum([lf.sum(cell(lf.constant(np.ones(0)))) for _ in range(3)])
    assert loss.item() == 9
    loss.backward()
    assert w.grad.shape == (3, 0)


MIXED = {
    "half": ("float16", "float16"),
    "half beside single": ("float16", "float32"),
    "single beside double": ("float32", "float64"),
    "integers beside single": ("int64", "float32"),
    "truth values beside double": ("bool", "float64"),
}


@pytest.mark.parametrize("fuse", ["off", "numpy"])
@pytest.mark.parametrize("name", MIXED)
def test_mixed_dtypes(name, fuse):
    first, second = MIXED[name]
    w = lf.Parameter(X.astype(second))
    m = lf.Parameter(np.arange(9.0).reshape(3, 3).astype(second) / 10)

    def body(x, y):
        return m @ (x * w + y), (x + x) * 2, lf.where(x > 0, y, w)

    def outcome(function):
        x, y = lf.constant((X * 2).astype(first)), lf.constant(Y.astype(second))
        results = [r for _ in range(2) for r in function(x, y)]
        lf.sum([lf.sum(r).astype("float64") for r in results]).backward()
        found = [r.numpy() for r in results] + [to_host(w.grad), to_host(m.grad)]
        w.grad = m.grad = None
        return found

    with lf.using(fuse=fuse):
        expected, got = outcome(body), outcome(lf.cell(body))
    tolerance = 4e-3 if "half" in name else 1e-6
    for e, g in zip(expected, got, strict=True):
        assert e.dtype == g.dtype
        np.testing.assert_allclose(g, e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("fuse", ["off", "numpy"])
def test_what_is_not_finite_passes_through(fuse):
    x = np.array([np.nan, np.inf, -np.inf, -0.0])
    body = lambda x: (lf.tanh(x) * 2, lf.maximum(x, 0.5), lf.exp(x), x * x, lf.where(x > 0, x, -1.0))  # noqa: E731
    with lf.using(fuse=fuse), np.errstate(all="ignore"):
        for found, expected in zip(lf.cell(body)(lf.constant(x)), body(lf.constant(x)), strict=True):
            np.testing.assert_array_equal(found.numpy(), expected.numpy())


# Draws.


def test_every_call_draws_anew_and_the_same_again_from_a_seed():
    cell = lf.cell(lambda x: lf.dropout(x, 0.5) + lf.normal((3,)))
    draws = []
    for _ in range(2):
        lf.seed(3)
        draws.append(np.stack([cell(lf.constant(np.ones(3))).numpy() for _ in range(4)]))
    np.testing.assert_array_equal(*draws)
    assert len(np.unique(draws[0])) == 12


def test_from_a_seed_the_draws_are_those_of_the_plain_function():
    def body(x):
        return lf.dropout(x, 0.5) * lf.uniform((20,), 1.0, 2.0)

    found = []
    for function in (body, lf.cell(body)):
        lf.seed(11)
        found.append([function(lf.constant(np.ones(20))).numpy() for _ in range(3)])
    np.testing.assert_array_equal(*found)


def test_a_draw_that_no_result_reads():
    def body(x):
        lf.normal((3,))
        return lf.dropout(x, 0.5)

    found = []
    for function in (body, lf.cell(body)):
        lf.seed(11)
        found.append([function(lf.constant(np.ones(3))).numpy() for _ in range(3)])
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("calls", [1, 3])
def test_on_every_tape_the_draws_are_those_of_the_plain_function(calls):
    stream, twin = lf.Stream(7), lf.Stream(7)
    cell = lf.cell(lambda x, n: lf.dropout(x, 0.5, stream=stream) * n + lf.normal((3,), stream=stream))
    for n in (1.0, 2.0, 3.0):
        found = [cell(lf.constant(X), n).numpy() for _ in range(calls)]
        for y in found:
            close(y, (lf.dropout(lf.constant(X), 0.5, stream=twin) * n + lf.normal((3,), stream=twin)).numpy())
    assert stream.draw() == twin.draw()


def test_a_cell_that_is_called_in_many_ways():
    cell = Counted(lambda x: lf.tanh(x) * 2)
    values = [np.linspace(-1, 1, n) for n in range(2, 22)]
    for _ in range(3):
        found = [cell.call(lf.constant(v)) for v in values]
        for y, value in zip(found, values, strict=True):
            close(y.numpy(), np.tanh(value) * 2)
        with lf.no_grad():
            close(cell.call(lf.constant(values[-1])).numpy(), np.tanh(values[-1]) * 2)
    assert cell.runs == len(values) + 1


def test_a_number_of_a_cell_is_still_any_number_in_a_cell_with_code_of_its_own():
    table = lf.Parameter(np.eye(3))
    inner = lf.cell(lambda x, i: x * lf.embedding(table, i))
    for i in range(3):
        inner(lf.constant(X), i)
    outer = Counted(lambda x, i: lf.tanh(inner(x, i)))
    for i in range(3):
        close(outer.call(lf.constant(X), i).numpy(), np.tanh(X * np.eye(3)[i]))
    assert outer.runs == 1


# Gradients that reach only some calls.


@pytest.mark.parametrize("fuse", ["off", "numpy"])
def test_a_gradient_that_reaches_some_of_the_calls(fuse):
    rng = np.random.default_rng(0)
    W, U, b = (lf.Parameter(rng.normal(size=s)) for s in ((6, 3), (3, 3), 3))

    def step(x, h):
        a, c = lf.split(W @ x, 2)
        h = lf.tanh(a + U @ h + b) * lf.sigmoid(c)
        return h, lf.sum(h * c)

    def outcome(function):
        h, losses = lf.constant(np.zeros(3)), []
        x = [lf.constant(v) for v in np.random.default_rng(1).normal(size=(6, 3))]
        chains = []
        for start in (0.0, 1.0, 2.0):
            h = lf.constant(np.full(3, start))
            for v in x:
                h, loss = function(v, h)
                losses.append(loss)
            chains.append(h)
        lf.forward([*losses, *chains])
        found = []
        for target in (losses[3], lf.sum(chains[1]), losses[0] + losses[8], lf.sum(losses)):
            target.backward()
            found += [np.array(to_host(p.grad)) for p in (W, U, b)]
            for p in (W, U, b):
                p.zero_grad()
        return found

    with lf.using(fuse=fuse):
        for g, e in zip(outcome(lf.cell(step)), outcome(step), strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-9, atol=1e-12)


def test_any_kind_of_parameters_in_any_number():
    @lf.cell
    def scaled(x, y=None, *, k=2):
        return lf.tanh(x) * k if y is None else lf.tanh(x + y) * k

    @lf.cell
    def total(*xs):
        return lf.sum([lf.tanh(x) for x in xs])

    @lf.cell
    def squared(x, /, n=1):
        return x * x * n

    x = lf.constant(np.arange(3.0))
    t = np.tanh(np.arange(3.0))
    for _ in range(2):  # the second time by the code that the first has made
        np.testing.assert_allclose(scaled(x).numpy(), 2 * t)
        np.testing.assert_allclose(scaled(x, x, k=3).numpy(), 3 * np.tanh(2 * np.arange(3.0)))
        np.testing.assert_allclose(scaled(x, x).numpy(), 2 * np.tanh(2 * np.arange(3.0)))
        for n in (1, 2, 3):
            np.testing.assert_allclose(total(*[x] * n).numpy(), n * t)
        np.testing.assert_allclose(squared(x).numpy(), np.arange(3.0) ** 2)
        np.testing.assert_allclose(squared(x, 4).numpy(), 4 * np.arange(3.0) ** 2)


ACTIVATION, SCALE = lf.tanh, lf.Parameter(np.full(3, 2.0))


@pytest.mark.host
def test_what_a_body_names_may_change(monkeypatch):
    """Functions among the globals, what is named in a function or a comprehension inside, attributes of the class."""

    @lf.cell
    def activated(x):
        return ACTIVATION(x)

    @lf.cell
    def scaled(x):
        def inner(v):
            return v * SCALE

        return lf.sum([inner(v) for v in [x, x]])

    class Scaled(lf.nn.Module):
        factor, offset = 2.0, None

        @lf.cell
        def forward(self, x):
            return x * self.factor if self.offset is None else x * self.factor + self.offset

    x, module = lf.constant(np.full(3, 0.5)), Scaled()
    for _ in range(2):
        found = activated(x).numpy()[0], scaled(x).numpy()[0], module(x).numpy()[0]
        np.testing.assert_allclose(found, (np.tanh(0.5), 2.0, 1.0))
    monkeypatch.setattr(sys.modules[__name__], "ACTIVATION", lf.exp)
    monkeypatch.setattr(sys.modules[__name__], "SCALE", lf.Parameter(np.full(3, 3.0)))
    monkeypatch.setattr(Scaled, "factor", 5.0)
    monkeypatch.setattr(Scaled, "offset", 1.0)
    for _ in range(2):
        found = activated(x).numpy()[0], scaled(x).numpy()[0], module(x).numpy()[0]
        np.testing.assert_allclose(found, (np.exp(0.5), 3.0, 3.5))


@pytest.mark.parametrize("argument", [{1, 2}, frozenset({1}), collections.defaultdict(list)], ids=str)
def test_arguments_that_are_no_expressions(argument):
    @lf.cell
    def body(x, options):
        return x * 2

    x = lf.constant(np.ones(2))
    try:
        hash(argument)
    except TypeError:
        with pytest.raises(TypeError, match=r"cell .*body: every argument that is no expression must be hashable"):
            body(x, argument)
    else:
        assert body(x, argument).numpy().tolist() == [2, 2]


def test_hooks_and_gradients_of_results():
    """The first of several results takes a hook before it is used; a gradient that is kept stays where a hook comes."""
    p = lf.Parameter(np.ones(2))
    both = lf.cell(lambda x: (lf.tanh(x), x * 3))
    a, b = both(p * 2)
    a.retain_grad()
    seen = []
    a.register_hook(lambda g: seen.append(np.array(to_host(g))))
    b.register_hook(lambda g: 2 * g)
    lf.sum(a + b).backward()
    np.testing.assert_array_equal(seen, [np.ones(2)])
    np.testing.assert_array_equal(a.grad, np.ones(2))
    np.testing.assert_allclose(p.grad, 2 * (1 - np.tanh(2.0) ** 2) + 12)


def test_kept_gradients_of_equal_calls():
    E = lf.Parameter(np.ones((3, 2)))
    both = lf.cell(lambda x: (lf.tanh(x), lf.sigmoid(x)))
    pairs = [both(lf.embedding(E, 1)) for _ in range(2)]
    pairs[0][1].retain_grad()
    lf.sum([lf.sum(a * b) for a, b in pairs]).backward()
    np.testing.assert_allclose(pairs[0][1].grad, np.tanh(1.0))


@pytest.mark.parametrize(
    ("function", "arguments"),
    [(lf.affine, [(3, 2), (3,), (2,)]), (lf.tanh, [(2,)]), (lf.softmax, [(4,)]), (lf.matmul, [(2, 3), (3,)])],
)
def test_a_function_of_the_package_is_a_cell_as_it_is(function, arguments):
    rng = np.random.default_rng(5)
    given = [lf.constant(rng.normal(size=shape)) for shape in arguments]
    cell = lf.cell(function)
    for _ in range(2):
        np.testing.assert_array_equal(cell(*given).numpy(), function(*given).numpy())


def of_lengths(lengths):
    rng = np.random.default_rng(5)
    return [lf.Parameter(rng.standard_normal((n, 3))) for n in lengths]


@pytest.mark.parametrize("method", [False, True])
def test_matrices_of_many_lengths_share_launches(method):
    W, v = lf.Parameter(np.arange(12.0).reshape(3, 4) / 10), lf.Parameter(np.arange(4.0))

    def body(x, y):
        return lf.softmax(lf.tanh(x) @ W, axis=1) * v + y

    class Layer(nn.Module):
        def forward(self, x, y):
            return body(x, y)

    Layer.forward = lf.cell(Layer.forward)
    call = Layer() if method else lf.cell(body)
    lengths = [*range(1, 13), 3, 1, 0]

    def grads(f):
        xs, y = of_lengths(lengths), lf.Parameter(np.ones(4))
        found = [f(x * 1.0, y * 1.0) for x in xs]
        launches = lf.explain(found).launches
        lf.sum([lf.sum(z * z) for z in found]).backward()
        values = [z.numpy() for z in found]
        slopes = [to_host(p.grad) for p in (*xs, y, W, v)]
        W.grad = v.grad = None
        return launches, values, slopes

    few = lf.explain([call(x * 1.0, lf.constant(np.ones(4))) for x in of_lengths(range(2, 10))]).launches
    assert few >= 8, "up to eight lengths have calls of their own"
    for learnt in (False, True):
        found, expected = grads(call), grads(body)
        assert not learnt or found[0] <= expected[0]
        for a, b in zip(found[1] + found[2], expected[1] + expected[2], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_calls_of_vectors_and_of_few_lengths_stay_calls():
    cell = Counted(lambda x: lf.tanh(x) * 2)
    for _ in range(3):
        for shape in [(n,) for n in range(1, 20)] + [(n, 2) for n in range(1, 9)]:
            x = lf.constant(np.ones(shape))
            rows = len(x.tape)
            cell.call(x)
            assert len(x.tape) == rows + 1
    assert cell.runs == 27
    cell.call(lf.constant(np.ones((9, 2))))
    x = lf.constant(np.ones((4, 2)))
    rows = len(x.tape)
    cell.call(x)
    assert len(x.tape) == rows + 2, "the ninth length: operation by operation, the earlier ones, too"


def given_lengths(lengths, width=3):
    return {n: lf.constant(np.arange(n * width, dtype=float).reshape(n, width) / 7) for n in lengths}


def test_of_many_lengths_the_body_runs_once_for_each():
    """And its calls append what it has recorded."""
    cell = Counted(lambda x: (lf.sum(lf.tanh(x), axis=0) / x.shape[0], lf.stack([x[i] * i for i in range(len(x))])))
    lengths = range(1, 61)
    for _ in range(2):
        for x in given_lengths(lengths).values():
            cell.call(x)
    runs = cell.runs
    assert runs <= 60 + 8
    for n, x in given_lengths(reversed(lengths)).items():
        mean, turned = cell.call(x)
        close(mean.numpy(), np.tanh(x.numpy()).sum(0) / n)
        close(turned.numpy(), x.numpy() * np.arange(n)[:, None])
    assert cell.runs == runs


def test_of_many_lengths_numbers_are_payload_where_they_may_be():
    E = lf.Parameter(np.arange(8.0).reshape(4, 2))
    cell = Counted(lambda x, word, factor, times: sum([x * factor for _ in range(times)]) + lf.embedding(E, word))

    def called(n, word, factor, times):
        return cell.call(given[n], word, factor, times).numpy()

    given = given_lengths(range(1, 13), 2)
    for n in given:
        for times in (1, 2):
            called(n, 0, 1.0, times), called(n, 0, 1.0, times)
    runs = cell.runs
    for n, x in given.items():
        for word, factor, times in ((3, 0.5, 1), (1, -2, 2), (2, np.float32(0.25), 1)):
            expected = x.numpy() * float(factor) * times + np.arange(8.0).reshape(4, 2)[word]
            close(called(n, word, factor, times), expected)
    assert cell.runs <= runs + 24 + 8, "once for each class of a number, and for the first eight lengths"
    with pytest.raises(IndexError):
        called(5, 4, 1.0, 1)
    close(called(5, 0, 2.0**31, 1), given[5].numpy() * 2.0**31 + [0, 1])


def test_of_many_lengths_every_call_draws_anew_as_without_the_cell():
    def body(x, given):
        noise = lf.normal(x.shape)
        return {"noise": noise, "both": [lf.dropout(x * 2, 0.5) + noise + given, x + np.ones(2)]}

    def all_of(call):
        lf.seed(7)
        found = [call(x, np.full(2, n)) for _ in range(3) for n, x in given_lengths(range(1, 12), 2).items()]
        return [value.numpy() for result in found for value in (result["noise"], *result["both"])]

    for a, b in zip(all_of(lf.cell(body)), all_of(body), strict=True):
        close(a, b)


def test_beyond_the_most_lengths_the_body_runs_at_every_call(monkeypatch):
    monkeypatch.setattr("lazyflow.cells.cell.MOST_KEPT", 12)
    cell = Counted(lambda x: lf.tanh(x))
    given = given_lengths(range(1, 16))
    for _ in range(3):
        for x in given.values():
            close(cell.call(x).numpy(), np.tanh(x.numpy()))
    assert cell.runs <= 12 + 8 + 3 * 3


def test_of_many_lengths_what_the_body_sees_counts():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.W, self.factor = lf.Parameter(np.eye(3)), 1.0

        def forward(self, x):
            return lf.matmul(x, self.W) * self.factor

    Layer.forward = lf.cell(Layer.forward)
    layer = Layer()
    for factor in (1.0, 3.0):
        for _ in range(3):
            for x in given_lengths(range(1, 13)).values():
                close(layer(x).numpy(), x.numpy() * factor)
        layer.W, layer.factor = lf.Parameter(np.eye(3) * 2), 1.5
    with lf.no_grad():
        assert not any(layer(x).requires_grad for x in given_lengths(range(1, 13)).values())
    assert all(layer(x).requires_grad for x in given_lengths(range(1, 13)).values())


def test_arrays_of_many_lengths_stay_as_they_were():
    @lf.cell
    def doubled(x, more):
        x *= 2
        more.append(x)
        return lf.sum(x) + lf.sum(more[0]), x * 1, x

    def call(x):
        with pytest.raises(lf.CellError, match="changes a list"):
            doubled(x, [x])

    data = [np.ones((n, 2)) for n in range(1, 13)]
    for _ in range(2):
        for x in data:
            call(x)
    twice = lf.cell(lambda x: x * 2)
    for _ in range(2):
        for x in data:
            y = twice(x)
            assert type(y) is lf.Expr
            np.testing.assert_array_equal(y.numpy(), np.full(x.shape, 2.0))
            np.testing.assert_array_equal(x, np.ones(x.shape))
