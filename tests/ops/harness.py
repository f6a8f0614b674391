"""The checks that every operation passes, whatever module it comes from. A `Case` is one row of a table.

A table is a tuple of cases; ``tests/ops/test_ops.py`` collects the tables and runs `CHECKS` over all of their rows:

    Case("exp", (Spec((3, 2)),), np.exp)
    Case("sum", (Spec((3, 2)),), lambda x: x.sum(0), attrs={"axis": 0})
    Case("add", (Spec((3, 2)), Spec((2,), "float32")), lambda a, b: a + b, dtype="float64")

Each check takes the array module, so that the same rows run on a GPU.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lazyflow.device import Array
from lazyflow.ops.base import OPS, Aval, Op, Result, Shape, looked_at, shapes_wanted, unbroadcast
from lazyflow.ops.sparse import RowSparse

BATCHES = (1, 3)
TOLERANCE = {"float16": 4e-3, "float32": 2e-6, "float64": 1e-12}


@dataclass(frozen=True)
class Spec:
    """One operand of one example. Floats are uniform in ``low .. high``, integers in ``range(low, high)``.

    ``choices``: draw from these values instead, to get ties, zeros, infinities. ``distinct``: no value comes twice.
    """

    shape: Shape
    dtype: str = "float64"
    low: float = -2.0
    high: float = 2.0
    choices: tuple[float, ...] = ()
    distinct: bool = False

    def draw(self, rng: np.random.Generator, batch: int) -> Array:
        shape, kind = (batch, *self.shape), np.dtype(self.dtype).kind
        if self.choices:
            values = rng.choice(np.array(self.choices, self.dtype), shape)
        elif self.distinct:
            values = rng.permutation(np.linspace(self.low, self.high, int(np.prod(shape)))).reshape(shape)
        elif kind == "f":
            values = rng.uniform(self.low, self.high, shape)
        elif kind == "b":
            values = rng.random(shape) < 0.5
        else:
            values = rng.integers(int(self.low), int(self.high), shape)
        return values.astype(self.dtype)

    @property
    def aval(self) -> Aval:
        return Aval(self.shape, np.dtype(self.dtype))


@dataclass(frozen=True)
class Case:
    """One row: an operation, the operands of one example, its attributes, and what NumPy or SciPy say it is.

    ``reference(*operands)`` sees ONE example and is written independently of the kernel. ``dtype``: what the result's
    dtype must be (default: that of the reference's answer). ``tolerance``: relative and absolute, instead of the one
    for the result's dtype. ``gradient=False``: no numeric derivative, because the drawn values sit on a kink or a tie.
    """

    op: str
    operands: tuple[Spec, ...]
    reference: Callable[..., Any]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    tolerance: float | None = None
    gradient: bool = True

    @property
    def id(self) -> str:
        operands = ",".join(f"{s.dtype}{list(s.shape)}".replace(" ", "") for s in self.operands)
        return f"{self.op}({operands}{''.join(f',{k}={v}' for k, v in self.attrs.items())})"

    @property
    def record(self) -> Op:
        return OPS[self.op]


@dataclass(frozen=True)
class ErrorCase:
    """One row: operands that an operation refuses, the exception, and a fragment (a pattern) of its message."""

    op: str
    operands: tuple[Spec, ...]
    error: type[Exception]
    message: str
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.op}({','.join(f'{s.dtype}{list(s.shape)}' for s in self.operands)},{dict(self.attrs)})"


@dataclass(frozen=True)
class Launch:
    """A case ready to run: its arrays, each with a batch axis unless ``shared`` says otherwise."""

    op: Op
    result: Result
    arrays: tuple[Array, ...]
    shared: tuple[bool, ...]
    batch: int
    xp: Any

    def forward(self, out: Array = None) -> Array:
        """The kernel's answer with all ``batch`` rows."""
        return broadcast_rows(self.op.forward(self.xp, *self.arrays, out=out, **self.result.static), self)

    def with_arrays(self, arrays: Sequence[Array]) -> Launch:
        return Launch(self.op, self.result, tuple(arrays), self.shared, self.batch, self.xp)

    def answer(self, operand: int, g: Array, y: Array) -> Array:
        """What the vjp answers, not yet summed down to the operand's shape."""
        vjp = self.op.vjps[operand]
        assert vjp is not None
        answer = vjp(self.xp, g, y, *self.arrays, **self.result.static)
        return answer.to_dense() if isinstance(answer, RowSparse) else answer

    def gradient(self, operand: int, g: Array, y: Array) -> Array:
        return unbroadcast(self.xp, self.answer(operand, g, y), self.arrays[operand].shape)

    def differentiable(self) -> list[int]:
        """The operands that have a gradient here: floating ones of a floating result."""
        if self.result.dtype.kind != "f":
            return []
        return [
            i
            for i, (a, vjp) in enumerate(zip(self.arrays, self.op.vjps, strict=False))
            if vjp is not None and a.dtype.kind == "f"
        ]


def broadcast_rows(y: Array, launch: Launch) -> Array:
    """An answer from shared operands alone has no batch axis: repeat it, as the engine does."""
    assert y.dtype == launch.result.dtype
    return launch.xp.broadcast_to(y, (launch.batch, *launch.result.shape))


def rng_of(case: Case) -> np.random.Generator:
    """A fixed stream for every row, which does not depend on the other rows."""
    return np.random.default_rng(zlib.crc32(case.id.encode()))


def infer(case: Case | ErrorCase) -> Result:
    return OPS[case.op].infer(*(s.aval for s in case.operands), **case.attrs)


def draw(case: Case, batch: int) -> list[Array]:
    """Host arrays, one per operand, each ``(batch, *shape)`` and none padded."""
    rng = rng_of(case)
    return [spec.draw(rng, batch) for spec in case.operands]


def pad(array: Array, ndim: int) -> Array:
    """Ones behind the batch axis until the example has ``ndim`` axes."""
    return array.reshape(array.shape[:1] + (1,) * (ndim + 1 - array.ndim) + array.shape[1:])


def launch_of(case: Case, arrays: Sequence[Array], xp: Any = np, shared: Sequence[bool] = ()) -> Launch:
    """Arrays as the engine would hand them over: stacked, padded, or without the batch axis where ``shared``."""
    op, result, batch = case.record, infer(case), len(arrays[0])
    if op.stacked:
        arrays = [np.stack(arrays, 1)]
    if op.ragged:
        counts = np.full(batch, len(case.operands))
        arrays = [arrays[0].reshape(-1, *arrays[0].shape[2:]), counts]
    shared = tuple(shared) or (False,) * len(arrays)
    ready = [
        a[0] if s else pad(a, len(result.shape)) if op.elementwise else a for a, s in zip(arrays, shared, strict=True)
    ]
    known = len(ready) - 1 if op.ragged else None  # the numbers of operands are payload, which stays on the host
    arrays = tuple(a if i == known else xp.asarray(a) for i, a in enumerate(ready))
    return Launch(op, result, arrays, shared, batch, xp)


def repeated(arrays: Sequence[Array], shared: Sequence[bool]) -> list[Array]:
    """Row 0 in every row of the shared operands: what sharing must be equal to."""
    return [np.repeat(a[:1], len(a), 0) if s else a for a, s in zip(arrays, shared, strict=True)]


def sharings(case: Case) -> Iterator[tuple[bool, ...]]:
    """Every way to share some of the operands; an operation on a list has one stacked operand, never shared."""
    if not case.record.stacked:
        yield from itertools.islice(itertools.product((False, True), repeat=len(case.operands)), 1, None)


def host(array: Array) -> Array:
    return array.get() if hasattr(array, "get") else np.asarray(array)


def close(got: Array, want: Array, case: Case, scale: float = 1.0) -> None:
    """Equal up to the tolerance of the result's dtype, infinities and NaNs included."""
    got, want = host(got), host(want)
    tolerance = case.tolerance or TOLERANCE.get(str(got.dtype), 0.0)
    np.testing.assert_allclose(
        got.astype(np.float64), want.astype(np.float64), rtol=tolerance * scale, atol=tolerance * scale, err_msg=case.id
    )


def check_reference(case: Case, xp: Any = np) -> None:
    """Shape rule and forward against the independent reference, example by example."""
    arrays, result = draw(case, 3), infer(case)
    values = launch_of(case, arrays, xp).forward()
    for row in range(3):
        want = np.asarray(case.reference(*(a[row] for a in arrays)))
        assert result.shape == want.shape, (result.shape, want.shape)
        assert result.dtype == np.dtype(case.dtype or want.dtype), (result.dtype, want.dtype)
        close(values[row], want, case)


def check_batch(case: Case, xp: Any = np) -> None:
    """Row i of the batched kernel is the kernel on row i, with ``out`` and without; the operands stay as they are."""
    for batch in BATCHES:
        arrays = draw(case, batch)
        launch = launch_of(case, arrays, xp)
        before = [host(a).copy() for a in launch.arrays]
        y = launch.forward()
        assert y.shape == (batch, *launch.result.shape)
        out = xp.empty(y.shape, y.dtype)
        out.fill(1)
        close(launch.forward(out), y, case)
        for row in range(batch):
            close(launch_of(case, [a[row : row + 1] for a in arrays], xp).forward()[0], y[row], case)
        unchanged(launch.arrays, before)


def check_shared(case: Case, xp: Any = np) -> None:
    """Operands without a batch axis act as the same row repeated."""
    for shared in sharings(case):
        arrays = repeated(draw(case, 3), shared)
        want = launch_of(case, arrays, xp).forward()
        launch = launch_of(case, arrays, xp, shared)
        close(launch.forward(), want, case)
        close(launch.forward(xp.empty(want.shape, want.dtype)), want, case)


def check_gradient(case: Case, xp: Any = np) -> None:
    """Every vjp against central differences along a random direction, in float64, batched and with shared operands."""
    if not case.gradient:
        return
    for batch, shared in [(b, ()) for b in BATCHES] + [(3, s) for s in sharings(case)]:
        launch = launch_of(case, draw(case, batch), xp, shared)
        if all(a.dtype == np.float64 for a in launch.arrays if a.dtype.kind == "f"):
            for operand in launch.differentiable():
                check_projection(case, launch, operand)


def check_projection(case: Case, launch: Launch, operand: int, step: float = 1e-6) -> None:
    rng, xp = rng_of(case), launch.xp
    y = launch.forward()
    g = xp.asarray(rng.standard_normal(y.shape))
    direction = xp.asarray(rng.standard_normal(launch.arrays[operand].shape))

    def along(distance: float) -> Array:
        moved = [a + distance * direction if i == operand else a for i, a in enumerate(launch.arrays)]
        return launch.with_arrays(moved).forward()

    numeric = float(((along(step) - along(-step)) * g).sum()) / (2 * step)
    exact = float((launch.gradient(operand, g, y) * direction).sum())
    size = float(abs(g).sum()) + abs(numeric)
    np.testing.assert_allclose(exact, numeric, rtol=1e-5, atol=1e-7 * size, err_msg=f"{case.id}, operand {operand}")


def check_vjp_contract(case: Case, xp: Any = np) -> None:
    """A vjp leaves its inputs unchanged, keeps the dtype, and shared operands get the sum over the repeated ones."""
    for shared in [(), *sharings(case)]:
        launch = launch_of(case, draw(case, 3), xp, shared)
        y = xp.array(launch.forward())
        g = xp.asarray(rng_of(case).standard_normal(y.shape).astype(y.dtype)) if y.dtype.kind == "f" else y
        before = [host(a).copy() for a in (g, y, *launch.arrays)]
        for operand in launch.differentiable():
            gradient = launch.gradient(operand, g, y)
            assert gradient.dtype in (y.dtype, launch.arrays[operand].dtype), (case.id, operand, gradient.dtype)
            if shared:
                close_to_repeated(case, launch, operand, g, y, gradient)
        unchanged((g, y, *launch.arrays), before)


def close_to_repeated(case: Case, launch: Launch, operand: int, g: Array, y: Array, gradient: Array) -> None:
    arrays = repeated(draw(case, launch.batch), launch.shared)
    want = launch_of(case, arrays, launch.xp).gradient(operand, g, y)
    close(gradient, want.sum(0).reshape(gradient.shape) if launch.shared[operand] else want, case, scale=30.0)


def unchanged(arrays: Sequence[Array], before: Sequence[Array]) -> None:
    for array, old in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(host(array), old)


def check_looks(case: Case, xp: Any = np) -> None:
    """What a vjp does not look at may hold anything: nothing but NaN where its shape matters, else the cotangent."""
    for shared in [(), *sharings(case)]:
        launch = launch_of(case, draw(case, 3), xp, shared)
        y = xp.array(launch.forward())
        g = xp.asarray(rng_of(case).standard_normal(y.shape).astype(y.dtype)) if y.dtype.kind == "f" else y
        for operand in launch.differentiable():
            vjp = launch.op.vjps[operand]
            assert vjp is not None
            looks, shapes = looked_at(vjp, len(launch.arrays)), shapes_wanted(vjp)
            given = [
                a if i in looks else xp.full_like(a, np.nan) if i in shapes else g
                for i, a in enumerate((y, *launch.arrays))
            ]
            answer = launch.with_arrays(given[1:]).answer(operand, g, given[0])
            got, want = (
                unbroadcast(xp, a, launch.arrays[operand].shape) for a in (answer, launch.answer(operand, g, y))
            )
            close(got, want, case)


CHECKS: tuple[Callable[..., None], ...] = (
    check_reference,
    check_batch,
    check_shared,
    check_gradient,
    check_vjp_contract,
    check_looks,
)
