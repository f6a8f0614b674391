"""What a program asked of the device: launches, copies, waits, and the lines of code that asked.

>>> with counting() as seen:
...     seen.launch("add")
>>> seen.launches
1
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = str(Path(__file__).parent)


class Counters:
    """Counts of one stretch of a program.

    ``launches``: kernels of any kind, and copies and fills on the device, which cost the host as much. ``h2d``/``d2h``:
    copies between host and device, with their bytes. ``implicit``: those of ``h2d`` that nobody spelled out, such as
    host arrays given as indices. ``syncs``: how often the host waited. ``lines``: launches and copies by the source
    line, inside of the ``watched`` folder, that caused them.
    """

    def __init__(self, watched: str = "") -> None:
        self.watched = watched
        self.launches = self.h2d = self.d2h = self.syncs = self.implicit = self.use_device = 0
        self.h2d_bytes = self.d2h_bytes = self.elements = 0
        self.kinds: Counter[str] = Counter()
        self.lines: Counter[tuple[str, str]] = Counter()

    def _line(self, what: str, count: int = 1) -> None:
        if not self.watched:
            return
        frame = sys._getframe(2)
        while frame is not None:
            name = frame.f_code.co_filename
            if self.watched in name and HERE not in name:
                place = f"{name[name.index(self.watched) :]}:{frame.f_lineno} {frame.f_code.co_name}"
                self.lines[what, place] += count
                return
            frame = frame.f_back  # type: ignore[assignment]
        self.lines[what, "elsewhere"] += count

    def launch(self, kind: str, count: int = 1, elements: int = 0) -> None:
        """``count`` kernels are put into the queue."""
        self.launches += count
        self.kinds[kind] += count
        self.elements += elements
        self._line("launch", count)

    def upload(self, nbytes: int, implicit: bool = False) -> None:
        """A copy to the device (CuPy: by way of pinned memory, without waiting)."""
        self.h2d += 1
        self.h2d_bytes += nbytes
        self.implicit += implicit
        self._line("h2d")

    def download(self, nbytes: int) -> None:
        """A copy to the host, for which the host waits."""
        self.d2h += 1
        self.d2h_bytes += nbytes
        self.syncs += 1
        self._line("d2h")

    def sync(self) -> None:
        """The host waits for the device."""
        self.syncs += 1
        self._line("sync")

    def __repr__(self) -> str:
        return (
            f"launches {self.launches}, h2d {self.h2d} ({self.h2d_bytes / 1024:.0f} KiB, {self.implicit} implicit), "
            f"d2h {self.d2h}, syncs {self.syncs}, use_device {self.use_device}"
        )

    def table(self, most: int = 25) -> str:
        """The lines that asked for most, one a row."""
        rows = [f"{count:7} {what:7} {place}" for (what, place), count in self.lines.most_common(most)]
        return "\n".join(rows)


_active: list[Counters] = [Counters()]


def count() -> Iterator[Counters]:
    """All counters that are running."""
    return iter(_active)


def launch(kind: str, n: int = 1, elements: int = 0) -> None:
    for c in _active:
        c.launch(kind, n, elements)


def upload(nbytes: int, implicit: bool = False) -> None:
    for c in _active:
        c.upload(nbytes, implicit)


def download(nbytes: int) -> None:
    for c in _active:
        c.download(nbytes)


def sync() -> None:
    for c in _active:
        c.sync()


def use_device() -> None:
    for c in _active:
        c.use_device += 1


@contextmanager
def counting(watched: str = "") -> Iterator[Counters]:
    """Count within the ``with`` block. ``watched``: a folder in the paths of the lines to tell, as ``"lazyflow/"``."""
    mine = Counters(watched)
    _active.append(mine)
    try:
        yield mine
    finally:
        _active.remove(mine)
