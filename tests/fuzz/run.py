"""Running programs: on lazyflow in one of its variants, on the reference, and comparing what was seen."""

from __future__ import annotations

import functools
import gc
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

import lazyflow as lf
from lazyflow.settings import BATCHINGS as BATCHINGS
from tests.forms import planning
from tests.fuzz import prelude
from tests.fuzz.program import Program, source
from tests.fuzz.reference import Names, Session, Unspecified


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute, for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@dataclass(frozen=True)
class Variant:
    """One way to run a program. ``fuse``: as in `lazyflow.using`. ``passes``: whether graph passes are those of the
    compiled ``core`` or by whole ``arrays``, None for what lazyflow chooses. ``core``: whether its machine is there.
    """

    batching: str = "phases"
    fuse: str = "numpy"
    dedupe: bool = True
    passes: str | None = None
    core: bool = True


class Seen:
    """What is seen of a program: values, gradients, errors, in order; of hooks, by name."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.hooked: dict[str, list[Any]] = {}

    def show(self, *values: Any) -> None:
        for value in values:
            self.events.append(("value", value.numpy() if hasattr(value, "numpy") else np.asarray(value)))

    def slopes(self, *values: Any) -> None:
        """Gradients that are values."""
        self.events += [("gradient", value.numpy()) for value in values]

    def grads(self, *nodes: Any) -> None:
        for node in nodes:
            g = node.grad
            g = g.to_dense() if hasattr(g, "to_dense") else g
            self.events.append(("gradient", None if g is None else np.array(g)))

    def watch(self, name: str, factor: float | None = None) -> Callable[[Any], Any]:
        def hook(gradient: Any) -> Any:
            self.hooked.setdefault(name, []).append(np.array(gradient))
            return None if factor is None else gradient * factor

        return hook

    def attempt(self, function: Callable[[], Any]) -> None:
        try:
            found = function()
            self.show(*(found if isinstance(found, tuple | list) else [found]))
        except Unspecified:
            raise
        except Exception as error:
            self.events.append(("error", type(error)))

    def all(self) -> list[tuple[str, Any]]:
        hooked = [(f"hook {name}", g) for name, gs in sorted(self.hooked.items()) for g in gs]
        return self.events + hooked


def _once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Arrays that are drawn once: a program runs several times, and making a generator takes 0.1 ms."""
    kept = functools.lru_cache(maxsize=4096)(function)
    return lambda *given, **how: kept(*given, **how).copy()


_DRAWN = {n: _once(getattr(prelude, n)) for n in ("data", "integers", "special")}


def alike(n: int, make: Callable[[], Any]) -> list[Any]:
    """As `prelude.rows`, on the reference, where values that are the same are one."""
    value = make()
    value.alone = False
    return [value] * n


def environment(names: Any, seen: Seen) -> dict[str, Any]:
    """The names that programs see."""
    rows = alike if isinstance(names, Names) else prelude.rows
    helpers = {**_DRAWN, "rows": rows}
    notes = {n: getattr(seen, n) for n in ("show", "slopes", "grads", "watch", "attempt")}
    return {"lf": names, "np": np, **helpers, **notes}


@functools.lru_cache(maxsize=64)
def _compiled(text: str) -> Any:
    return compile(text, "<program>", "exec")


def execute(program: Program, names: Any) -> list[tuple[str, Any]]:
    """Run a program; an error that it raises is the last thing seen."""
    seen = Seen()
    try:
        exec(_compiled(source(program)), environment(names, seen))
    except Unspecified:
        raise
    except Exception as error:
        return [*seen.all(), ("crash", error)]
    return seen.all()


def reference(program: Program, noise: int | None = None) -> list[tuple[str, Any]]:
    """What is seen on the reference."""
    return _interpreted(program, Session(None if noise is None else np.random.default_rng(noise)))


def _interpreted(program: Program, session: Session) -> list[tuple[str, Any]]:
    with np.errstate(all="ignore"):
        return execute(program, session.lf)


@contextmanager
def configured(variant: Variant) -> Iterator[None]:
    """lazyflow as a variant says, with nothing left of earlier programs, and fresh memory full of NaN."""
    from lazyflow import core
    from lazyflow.plan import arena
    from lazyflow.plan.plans import Plans
    from lazyflow.run import forward

    take = arena.Pool.take

    def poisoned(pool: Any, where: Any, dtype: Any, size: Any) -> Any:
        buffer = take(pool, where, dtype, size)
        buffer.fill(np.nan if dtype.kind == "f" else 1)
        return buffer

    with ExitStack() as stack:
        stack.enter_context(replaced(arena.Pool, "take", poisoned))
        stack.enter_context(replaced(forward, "PLANS", Plans(once=True)))
        if variant.passes is not None:
            stack.enter_context(planning(variant.passes))
        if not variant.core:
            stack.enter_context(replaced(core, "machine", None))
        stack.enter_context(lf.using(batching=variant.batching, fuse=variant.fuse, dedupe=variant.dedupe))
        stack.enter_context(np.errstate(all="ignore"))
        yield


def lazy(program: Program, variant: Variant) -> list[tuple[str, Any]]:
    """What is seen on lazyflow."""
    lf.seed(0)
    with configured(variant):
        return execute(program, lf)


# Comparing.

EPSILON = {"float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}
ULPS = 24.0  # that two values may always be apart
NOISES = (4, 12)  # noisy sessions, if they are further apart; and more of them before it is a failure
FACTOR = 12.0  # how much further than the noisy sessions


class Unstable(Exception):
    """A program whose decisions hang on the last digits."""


@dataclass(frozen=True)
class Difference:
    """Where a program does something else than the reference: the event, what came and what was expected."""

    kind: str
    position: int
    got: Any
    want: Any

    def __str__(self) -> str:
        return f"{self.kind} number {self.position}: got {describe(self.got)}, expected {describe(self.want)}"


def describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)} {np.array2string(value, threshold=40, precision=9)}"
    return f"{type(value).__name__}: {value}" if isinstance(value, Exception) else str(value)


class Expected:
    """What the reference says of a program, and how far from it an answer may be."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.events = reference(program)
        self.noisy: list[list[tuple[str, Any]]] = []
        # A call is one node: a parameter that only a result rests on which nobody reads may have a gradient of zeros.
        self.cells = "@lf.cell" in source(program)
        trained = ".step()" in source(program)
        gradients = (k for k, (kind, _) in enumerate(self.events) if kind != "value" or trained)
        self.first_gradient = next(gradients, len(self.events))

    def is_moderate(self) -> bool:
        """Whether the program runs to its end, and no number that is seen overflows."""
        arrays = [v for _, v in self.events if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
        return self.runs() and all(np.isfinite(a).all() for a in arrays)

    def runs(self) -> bool:
        """Whether the program runs to its end and something is seen of it."""
        return bool(self.events) and self.events[-1][0] != "crash"

    def compare(self, got: Sequence[tuple[str, Any]]) -> Difference | None:
        """The first difference, or None. Raises `Unstable` where it may be one of rounding."""
        for position, pair in enumerate(itertools.zip_longest(got, self.events, fillvalue=("nothing", None))):
            (kind, value), (wanted, want) = pair
            if kind != wanted or not self._agree(kind, position, value, want):
                self._check_stable(NOISES[1])
                return Difference(kind if kind == wanted else f"{kind} instead of {wanted}", position, value, want)
        return None

    def _agree(self, kind: str, position: int, got: Any, want: Any) -> bool:
        if kind == "error":
            return True  # of the same class in all variants: see `check`
        if kind == "crash":
            return isinstance(want, type(got)) or isinstance(got, type(want))
        if got is None or want is None:
            return got is want or (want is None and self.cells and not got.any())
        if got.shape != want.shape or got.dtype != want.dtype:
            return False
        if got.dtype.kind != "f":
            return bool(np.array_equal(got, want))
        return any(self._close(position, got, want, noises) for noises in (0, *NOISES))

    def _close(self, position: int, got: Any, want: Any, noises: int) -> bool:
        tiny, epsilon = np.finfo(want.dtype).smallest_normal, EPSILON[want.dtype.name]
        with np.errstate(all="ignore"):
            a, b = got.astype(float), want.astype(float)
            allowed = ULPS * (epsilon * np.abs(b) + float(tiny) * (1 if noises else 1e-3))
            if noises:
                self._check_stable(noises)
                others = [run[position][1].astype(float) for run in self.noisy]
                away = np.max([np.abs(o - b) for o in others], axis=0)
                if not np.isfinite(away[np.isfinite(b)]).all():
                    raise Unstable
                allowed = allowed + FACTOR * np.where(np.isfinite(b), away, 0.0)
            # Whether a NaN among cotangents is selected away or not, nobody says.
            free = np.isnan(b) & (position >= self.first_gradient)
            same = free | (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= allowed)
        return bool((same | (np.isnan(a) & self._tainted(position, same))).all())

    def _tainted(self, position: int, same: Any) -> Any:
        """Where a NaN may be: a NaN among cotangents is selected away or not, nobody says."""
        if self.is_moderate() or same.all():
            return np.zeros(same.shape, bool)
        return np.isnan(_interpreted(self.program, Session(tainted=True))[position][1])

    def _check_stable(self, noises: int) -> None:
        """That noisy sessions see the same, but for the values themselves."""
        while len(self.noisy) < noises:
            run = reference(self.program, len(self.noisy))
            if [_form(e) for e in run] != [_form(e) for e in self.events]:
                raise Unstable
            self.noisy.append(run)


def _form(event: tuple[str, Any]) -> Any:
    """What of an event does not depend on the last digits."""
    kind, value = event
    if not isinstance(value, np.ndarray):
        return kind, value if value is None else type(value)
    if value.dtype.kind == "f":
        return kind, value.shape, np.isnan(value).tobytes(), np.sign(np.where(np.isinf(value), value, 0)).tobytes()
    return kind, value.shape, value.tobytes()


@dataclass(frozen=True)
class Failure:
    """A program, the variant in which it does something else, and what."""

    program: Program
    variant: Variant
    difference: Difference

    @property
    def kind(self) -> str:
        got = self.difference.got
        return self.difference.kind + (type(got).__name__ if isinstance(got, Exception) else "")


def check(expected: Expected, variants: Sequence[Variant]) -> Failure | None:
    """The first failure of a program in these variants. Raises `Unstable`, or `Unspecified`, where none can be told."""
    program = expected.program
    errors: dict[int, Any] = {}
    for variant in variants:
        got = lazy(program, variant)
        difference = expected.compare(got)
        if difference is None:
            for position, (kind, value) in enumerate(got):
                if kind == "error" and errors.setdefault(position, value) is not value:
                    difference = Difference("error", position, value, errors[position])
        if difference is not None:
            return Failure(program, variant, difference)
    return None


def collect_garbage() -> None:
    """Parameters and their types refer to each other."""
    gc.collect()
