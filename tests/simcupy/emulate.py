"""CUDA C on the CPU: a kernel's source is compiled as C++ behind a header that stands in for CUDA, and run by loops.

>>> add = compiled('''extern "C" __global__ void add(const float* a, float* b, int n) {
...     int i = blockIdx.x * blockDim.x + threadIdx.x;
...     if (i < n) b[i] += a[i];
... }''').kernel("add")
>>> a, b = np.ones(5, np.float32), np.arange(5, dtype=np.float32)
>>> add((2,), (4,), [a.ctypes.data, b.ctypes.data, np.int32(5)])
>>> b.tolist()
[1.0, 2.0, 3.0, 4.0, 5.0]

It needs ``g++``. Barriers of a block and of a grid work (``cooperative_groups::this_grid().sync()``, or a counter
that threads look at between sleeps, by ``__nanosleep``), shuffles within a warp, shared memory and atomics, and with
``#include <cuda_fp16.h>`` half precision; textures and other cooperative groups do not. Nothing is contracted into
fused multiply-adds, so the last bits differ from a GPU's.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

HEADER, HALF, RUNNER = (
    Path(__file__).with_name(name) for name in ("cuda_on_cpu.h", "cuda_fp16_on_cpu.h", "run_on_cpu.cpp")
)
FLAGS = ("-std=c++17", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-Wno-attributes")
_RUNNING = threading.Lock()  # kernels run one after the other, as in a stream
_KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?void\s+'
    r"(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)"
)
_DYNAMIC = re.compile(r"extern\s+__shared__\s+([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;")
_BARRIERS = re.compile(r"__syncthreads|__syncwarp|__shfl|__nanosleep|\bsync\s*\(")
_GROUPS = re.compile(r"^[ \t]*#\s*include\s*<cooperative_groups\.h>", re.MULTILINE)
_HALF = re.compile(r"^[ \t]*#\s*include\s*[<\"]cuda_fp16\.h[>\"]", re.MULTILINE)
RESIDENT = 132, 2048  # multiprocessors, and threads that each holds at once: what a cooperative launch must fit into


class CompileError(ValueError):
    """The compiler's messages about a kernel."""


class Library:
    """The kernels of one source."""

    def __init__(self, path: Path, kernels: dict[str, list[str]]) -> None:
        self.library, self.kernels = ctypes.CDLL(str(path)), kernels

    def kernel(self, name: str) -> Callable[..., None]:
        """``run(grid, block, args, shared=0, cooperative=False)``; ``args``: addresses for pointers, NumPy numbers for
        others."""
        if name not in self.kernels:
            raise KeyError(f"no kernel {name!r}; there are {', '.join(self.kernels)}")
        types = self.kernels[name]
        launch = getattr(self.library, f"sim_launch_{name}")
        launch.restype = ctypes.c_bool
        sizes = (ctypes.c_int * len(types)).in_dll(self.library, f"sim_sizes_{name}")

        def run(
            grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared: int = 0, cooperative: bool = False
        ) -> None:
            if len(args) != len(types):
                raise TypeError(f"kernel {name} takes {len(types)} arguments, got {len(args)}")
            held = [_argument(name, i, a, t, sizes[i]) for i, (a, t) in enumerate(zip(args, types, strict=True))]
            pointers = (ctypes.c_void_p * len(held))(*(h.ctypes.data for h in held))
            threads = int(np.prod(list(block)))
            if not 0 < threads <= 1024:
                raise ValueError(f"a block of {threads} threads; CUDA allows 1 to 1024")
            if cooperative and int(np.prod(list(grid))) > RESIDENT[0] * (RESIDENT[1] // threads):
                raise ValueError(f"kernel {name}: more blocks than run at once, which a cooperative launch cannot have")
            dims = [(ctypes.c_uint * 3)(*(*d, 1, 1, 1)[:3]) for d in (tuple(grid), tuple(block))]
            with _RUNNING:
                done = launch(*dims, ctypes.c_uint(shared), ctypes.c_bool(cooperative), pointers)
            if not done:
                raise RuntimeError(
                    f"kernel {name}: some threads wait at a barrier that others never reach, or at one of a grid "
                    "without enable_cooperative_groups=True"
                )

        return run


def _argument(name: str, i: int, value: Any, kind: str, size: int) -> np.ndarray[Any, Any]:
    if kind.endswith("*"):
        if not isinstance(value, int | np.integer):
            raise TypeError(f"kernel {name}, argument {i} ({kind}): an array or an address, got {type(value).__name__}")
        return np.array(value, np.uint64)
    found = np.array(value)  # as CuPy: Python's int has 8 bytes, and so has float
    floating = kind.split()[-1] in ("float", "double", "half", "__half")
    if found.ndim or found.itemsize != size or (found.dtype.kind == "f") != floating:
        raise TypeError(
            f"kernel {name}, argument {i} is a {kind} of {size} bytes; got {found.dtype}, shape {found.shape}"
        )
    return found


def parameters(source: str) -> dict[str, list[str]]:
    """The kernels of a source, with the types of their parameters."""
    found = {}
    for match in _KERNEL.finditer(source):
        parts = [" ".join(p.replace("__restrict__", " ").split()) for p in match[2].split(",") if p.strip()]
        types = [re.sub(r"\s*\b\w+$", "", p).replace("const ", "").replace(" *", "*").strip() for p in parts]
        found[match[1]] = types
    return found


def translated(source: str) -> str:
    """The C++ text: header, source, and a launcher for every kernel."""
    kernels = parameters(source)
    if not kernels:
        raise CompileError('no kernel found: extern "C" __global__ void name(...)')
    fibers = _with_barriers(source)
    text = _HALF.sub(f'#include "{HALF}"', _GROUPS.sub("", source))
    text = _DYNAMIC.sub(r"\1* \2 = reinterpret_cast<\1*>(sim_dynamic_shared);", text)
    lines = [f'#include "{HEADER}"', "#line 1", text]
    for name, types in kernels.items():
        values = ", ".join(f"*reinterpret_cast<std::remove_const_t<{t}>*>(args[{i}])" for i, t in enumerate(types))
        sizes = ", ".join(f"int(sizeof({t}))" for t in types) or "0"
        lines += [
            f'extern "C" {{ int sim_sizes_{name}[] = {{{sizes}}}; }}',
            f'extern "C" bool sim_launch_{name}',
            "(const unsigned* grid, const unsigned* block, unsigned shared, bool cooperative, void** args)",
            f"{{ return sim_run(grid, block, shared, cooperative, args, {{[](void** args) {{ {name}({values}); }},",
            f"    {'true' if name in fibers else 'false'}, __start_sim_shared, __stop_sim_shared}}); }}",
        ]
    return "\n".join(lines) + "\n"


def _with_barriers(source: str) -> set[str]:
    """The kernels that wait for each other's threads: those with a barrier, or all where functions may have one."""
    heads = list(_KERNEL.finditer(source))
    ends = [head.start() for head in heads[1:]] + [len(source)]
    texts = {head[1]: source[head.start() : end] for head, end in zip(heads, ends, strict=True)}
    functions = source[: heads[0].start()] + "".join(text for text in texts.values() if "__device__" in text)
    return {name for name, text in texts.items() if _BARRIERS.search(text) or _BARRIERS.search(functions)}


@cache
def compiled(source: str) -> Library:
    """The library of a source; compiled once, and kept in a folder of temporary files. Raises `CompileError`."""
    text, headers = translated(source), prepared()
    path = headers.parent / f"{_stamp(text)}.so"
    if not path.exists():
        code = headers.parent / f"{path.stem}.{_mine()}.cpp"
        code.write_text(text.replace(str(HEADER), str(headers)))
        _compile([str(code)], path)
        code.unlink()
        _write(path.with_suffix(".cu"), source)  # for NVIDIA's compiler: tests/nvrtc.py
    return Library(path, parameters(source))


@cache
def prepared() -> Path:
    """A copy of the header that is compiled already, in the folder of what is kept, where also is what runs kernels:
    they take longer than most kernels."""
    folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    header, runner = folder() / HEADER.name, folder() / RUNNER.with_suffix(".so").name
    if not runner.exists():
        _write(header, HEADER.read_text())
        _compile(["-x", "c++-header", str(header)], header.with_suffix(".h.gch"))
        _compile(["-U_FORTIFY_SOURCE", str(RUNNER)], runner)  # which takes a jump to another stack for a mistake
    ctypes.CDLL(str(runner), ctypes.RTLD_GLOBAL)  # kernels find it there
    return header


@contextmanager
def backwards() -> Iterator[None]:
    """In the block, blocks and the threads of a block run in the other order, which no kernel may rely on."""
    runner = ctypes.CDLL(str(prepared().with_name(RUNNER.with_suffix(".so").name)))
    runner.sim_set_backwards(ctypes.c_bool(True))
    try:
        yield
    finally:
        runner.sim_set_backwards(ctypes.c_bool(False))


def folder() -> Path:
    """Where what was compiled is kept, with its source."""
    stamp = _stamp("".join(path.read_text() for path in (HEADER, HALF, RUNNER)) + " ".join(FLAGS))[:12]
    return Path(tempfile.gettempdir()) / f"simcupy-{os.getuid()}" / stamp


def _mine() -> str:
    """The end of a file that no other process or thread writes."""
    return f"{os.getpid()}-{threading.get_ident()}"


def _stamp(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _write(path: Path, text: str) -> None:
    """Who writes the same does not see half of it."""
    fresh = path.with_suffix(f".{_mine()}.new")
    fresh.write_text(text)
    os.replace(fresh, path)


def _compile(given: Sequence[str], path: Path) -> None:
    made = path.with_suffix(f".{_mine()}.new")
    done = subprocess.run(["g++", *FLAGS, *given, "-o", str(made)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(done.stderr)
    os.replace(made, path)
