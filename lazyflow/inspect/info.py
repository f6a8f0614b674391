"""What lazyflow runs on, for a person to read and for a bug report: versions, the compiled core, the BLAS of products,
a GPU, and notes about what makes it slower than it has to be."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lazyflow import core
from lazyflow import device as devices
from lazyflow.errors import DeviceError
from lazyflow.threads import AVX2, AVX512, BASELINE, OPENBLAS_KERNELS
from lazyflow.version import __version__

__all__ = ["Blas", "Info", "info"]


@dataclass(frozen=True)
class Blas:
    """A BLAS library of this process: its name and version, the processor that its kernels were written for (empty
    where it does not say), and how many threads it would use outside of lazyflow."""

    name: str
    version: str
    kernels: str
    threads: int


@dataclass(frozen=True)
class Info:
    """What `info` returns; ``print`` shows it line by line.

    ``core``: the instruction set that the compiled core runs, None where it was not built. ``processor``: the widest
    vector instructions that NumPy found. ``gpu``: the devices, or what is missing. ``notes``: what is slow for a reason
    that can be changed.
    """

    version: str
    python: str
    numpy: str
    core: str | None
    processor: str
    blas: tuple[Blas, ...]
    gpu: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        rows = [
            ("lazyflow", self.version),
            ("Python", self.python),
            ("NumPy", self.numpy),
            ("compiled core", "not built" if self.core is None else f"built, runs {self.core}"),
            ("processor", self.processor),
            *((f"BLAS: {b.name}", f"{b.version}, kernels: {b.kernels or 'not said'}") for b in self.blas),
            ("GPU", self.gpu),
            *(("note", note) for note in self.notes),
        ]
        return "\n".join(f"{name:<16}  {value}" for name, value in rows)


X86 = ("x86_64", "AMD64", "i686")
PROCESSORS = ("no AVX2", "AVX2", "AVX-512")


def vectors(found: Sequence[str]) -> int:
    """The widest of what NumPy calls the instructions that a processor has.

    >>> vectors(["SSE42", "AVX2", "FMA3"]), vectors(["X86_V3", "X86_V4"])
    (1, 2)
    """
    if any(name.startswith(("AVX512", "X86_V4")) for name in found):
        return AVX512
    return AVX2 if any(name in ("AVX2", "X86_V3") for name in found) else BASELINE


def note_of(blas: Blas, processor: int) -> str | None:
    """What to say of a BLAS whose kernels are older than the processor.

    >>> note_of(Blas("openblas", "0.3.31", "SkylakeX", 2), AVX512) is None
    True
    """
    if OPENBLAS_KERNELS.get(blas.kernels, processor) >= processor:
        return None
    return (
        f"{blas.name} runs kernels for {blas.kernels} on a processor that has {PROCESSORS[processor]}: what NumPy "
        "multiplies may take twice as long as it has to; unset OPENBLAS_CORETYPE if it is set, or install a newer NumPy"
    )


NO_CORE = (
    "the compiled core was not built, and everything runs in Python and NumPy: install a C compiler, and lazyflow again"
)


def _gpu() -> str:
    try:
        return f"{devices.count()} with CuPy"
    except DeviceError as error:
        return f"none: {error}"


def info() -> Info:
    """What lazyflow runs on, and what makes it slower than it has to be.

    >>> import lazyflow as lf
    >>> found = lf.info()
    >>> found.version == lf.__version__
    True
    """
    from threadpoolctl import threadpool_info

    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    processor = vectors([*simd.get("baseline", []), *simd.get("found", [])])
    libraries = tuple(
        Blas(lib["internal_api"], lib["version"] or "", lib.get("architecture") or "", lib["num_threads"])
        for lib in threadpool_info()
        if lib["user_api"] == "blas"
    )
    notes = [NO_CORE] if core.machine is None else []
    notes += [note for blas in libraries if (note := note_of(blas, processor)) is not None]
    return Info(
        version=__version__,
        python=platform.python_version(),
        numpy=np.__version__,
        core=None if core.machine is None else core.machine.instruction_set(),
        processor=f"{platform.machine()}, {PROCESSORS[processor]}" if platform.machine() in X86 else platform.machine(),
        blas=libraries,
        gpu=_gpu(),
        notes=tuple(notes),
    )
