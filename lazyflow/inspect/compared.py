"""What `lazyflow.compare` returns: a table on the screen, in Markdown, as JSON, as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lazyflow.profile import PARTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Comparison", "Measured"]

HEADER = ("batch", "batching", "examples/s", "±", "ratio", "nodes", "launches", "bound", *PARTS, "difference")
NOT_REPEATED = "?"


def median(values: Iterable[float]) -> float:
    """The middle one, or the mean of the two in the middle.

    >>> median([4.0, 1.0, 2.0])
    2.0
    """
    from statistics import median as found  # which takes longer to import than all of this

    return found(values)


@dataclass(frozen=True)
class Measured:
    """One size of minibatch under one way of batching.

    ``rounds``: examples a second, of each round. ``ratios``: how many times those of ``batching="none"`` on the same
    examples, of each round; None where that was not measured. ``nodes``, ``launches`` and ``lower_bound`` are those of
    one minibatch, as `explain` counts them. ``ms``: milliseconds an example by part, medians over the rounds.
    ``losses_differ`` and ``gradients_differ``: the largest difference from one example at a time and one operation at a
    time, over the largest element; None where it cannot be told, or where there are no gradients.
    """

    batch: int
    batching: str
    rounds: tuple[float, ...]
    ratios: tuple[float, ...] | None
    nodes: int
    launches: int
    lower_bound: int
    ms: Mapping[str, float]
    losses_differ: float | None
    gradients_differ: float | None

    @property
    def examples_per_s(self) -> float:
        """The median over the rounds."""
        return median(self.rounds)

    @property
    def spread(self) -> float:
        """Half of the width of the middle half of the rounds, over the median."""
        low, high = _middle_half(self.rounds)
        return (high - low) / 2 / self.examples_per_s

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios."""
        return None if self.ratios is None else median(self.ratios)

    @property
    def within_noise(self) -> bool:
        """Whether even the middle half of the rounds says both faster and slower than ``batching="none"``."""
        if self.ratios is None or self.batching == "none":
            return False
        low, high = _middle_half(self.ratios)
        return low <= 1 <= high

    @property
    def differs(self) -> float | None:
        """The larger of the differences of losses and gradients."""
        known = [d for d in (self.losses_differ, self.gradients_differ) if d is not None]
        return None if self.losses_differ is None else max(known)

    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        found = "-" if self.ratio is None else _figure(self.ratio)
        return (
            f"{self.batch:,}",
            self.batching,
            _figure(self.examples_per_s),
            f"{self.spread:.0%}",
            f"{found}*" if self.within_noise else found,  # a note says more
            *(f"{count:,}" for count in (self.nodes, self.launches, self.lower_bound)),
            *(_figure(self.ms[part]) if part in self.ms else "-" for part in PARTS),
            NOT_REPEATED if self.differs is None else _difference_text(self.differs),
        )


@dataclass(frozen=True)
class Comparison:
    """What `compare` returns; ``print`` shows it as a table.

    ``rows``: a `Measured` for each size and way of batching. ``train``: whether training steps were measured, or
    inference; ``updated``: whether with the updates of an optimizer. ``examples``: how many were given. ``machine``:
    what the figures depend on besides the program. ``notes``: what is to be known about them.
    """

    rows: tuple[Measured, ...]
    train: bool
    updated: bool
    examples: int
    machine: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What was measured, in a line."""
        what = "training" if self.train else "inference"
        update = "" if self.updated or not self.train else ", without updates"
        rounds = max((len(row.rounds) for row in self.rows), default=0)
        return (
            f"{what}{update}, {self.examples:,} examples, medians of {rounds} rounds; "
            "milliseconds an example from record to update"
        )

    def __str__(self) -> str:
        return "\n".join([self.title, *_aligned([HEADER, *(row.cells() for row in self.rows)]), *self._noted()])

    def _noted(self) -> list[str]:
        return [f"- {note}" for note in self.notes]

    def to_markdown(self) -> str:
        """The same as a table in Markdown."""
        rule = ["---:" if name != "batching" else "---" for name in HEADER]
        lines = ["| " + " | ".join(cells) + " |" for cells in (HEADER, rule, *(row.cells() for row in self.rows))]
        notes = ["", *self._noted()] if self.notes else []
        return "\n".join([self.title, "", *lines, *notes, ""])

    _repr_markdown_ = to_markdown  # what notebooks ask for

    def to_json(self) -> str:
        """All of it as JSON, which `from_json` takes back."""
        import json

        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Comparison:
        """What `to_json` was called on. Raises ``ValueError`` for what is none."""
        import json

        try:
            found = json.loads(text)
            rows = tuple(Measured(**{name: _frozen(value) for name, value in row.items()}) for row in found["rows"])
            return cls(**{**found, "rows": rows, "notes": tuple(found["notes"])})
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"expected the JSON of a comparison, as to_json() writes it: {error}") from None

    def plot(self) -> Figure:
        """A Matplotlib ``Figure``: examples a second over the size of minibatches, with bars from the slowest round to
        the fastest, and where the milliseconds of an example go. ``figure.savefig("speed.png")`` writes it.

        Raises ``ImportError`` without Matplotlib, and says how to install it.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError(
                "plot() needs Matplotlib: python -m pip install 'lazyflow[plot]', or matplotlib alone"
            ) from None
        figure = Figure(figsize=(10, 4), layout="constrained")
        speed, parts = figure.subplots(1, 2)
        _plot_speed(speed, self.rows)
        _plot_parts(parts, self.rows)
        figure.suptitle(self.title, fontsize="medium")
        return figure


def _plot_speed(axes: Axes, rows: Sequence[Measured]) -> None:
    for batching in dict.fromkeys(row.batching for row in rows):
        mine = [row for row in rows if row.batching == batching]
        y = [row.examples_per_s for row in mine]
        low = [row.examples_per_s - min(row.rounds) for row in mine]
        high = [max(row.rounds) - row.examples_per_s for row in mine]
        axes.errorbar([row.batch for row in mine], y, yerr=[low, high], marker="o", capsize=3, label=batching)
    sizes = sorted({row.batch for row in rows})
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("examples a minibatch")
    axes.set_ylabel("examples a second")
    axes.legend(title="batching")


def _plot_parts(axes: Axes, rows: Sequence[Measured]) -> None:
    names = [f"{row.batch}, {row.batching}" for row in rows]
    left = [0.0] * len(rows)
    for part in PARTS:
        widths = [row.ms.get(part, 0.0) for row in rows]
        if any(widths):
            axes.barh(names, widths, left=left, label=part)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds an example")
    axes.legend()


def _middle_half(values: Sequence[float]) -> tuple[float, float]:
    """What a quarter of the values is below, and a quarter above: one round that was disturbed moves neither.

    >>> _middle_half([1.0, 2.0, 3.0, 4.0, 500.0])
    (2.0, 4.0)
    """
    from statistics import quantiles

    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns to the right, but for the names of the ways of batching."""
    table = list(rows)
    widths = [max(len(row[i]) for row in table) for i in range(len(HEADER))]
    left = HEADER.index("batching")
    return [
        "  ".join(c.ljust(w) if i == left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in table
    ]


def _figure(value: float) -> str:
    """Three digits.

    >>> [_figure(x) for x in (12345.6, 999.6, 12.34, 1.0, 0.01234, 0.0)]
    ['12,346', '1,000', '12.3', '1.00', '0.012', '0.000']
    """
    if round(value, 1) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if round(value, 2) >= 10 else f"{value:.2f}" if round(value, 3) >= 1 else f"{value:.3f}"


def _difference_text(value: float) -> str:
    return f"{value:.0e}" if value else "0"
