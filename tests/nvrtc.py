"""NVIDIA's own compiler on the kernels of the suite, without a GPU: NVRTC, from its wheel (nvidia-cuda-nvrtc).

``python -m tests.nvrtc`` takes every source that the simulator was given for one architecture, and those of this
package that are always the same for all of `ARCHITECTURES`. It prints what the compiler says of those that it refuses.
"""

import argparse
import ctypes
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import numpy as np

from lazyflow.cells.program import elementwise_formulas
from lazyflow.cuda import along, attention, draws, norms, places, reductions, rows, segments
from lazyflow.cuda.module import with_helpers
from lazyflow.cuda.text import OPTIONS, REALS, STORED
from lazyflow.fuse import cuda, phases
from lazyflow.fuse.scalar import ARG_BLOCK, ARG_NUMBER, ARG_ROWS, ARG_VECTOR, Builder, with_storage
from lazyflow.ops import OPS
from lazyflow.ops.formula import parse, pullback

from .simcupy import emulate

ARCHITECTURES = ("compute_75", "compute_80", "compute_86", "compute_89", "compute_90", "compute_100")


# In what tests of the simulator give it, and this package does not print: the wheel has no headers.
OTHERS = ("#include", "cooperative_groups")


def library():
    """NVRTC. Raises ``SystemExit`` where its wheel is not installed."""
    try:
        found = [f for f in files("nvidia-cuda-nvrtc") or () if f.name.startswith("libnvrtc.so")]
    except PackageNotFoundError:
        raise SystemExit("pip install nvidia-cuda-nvrtc: NVIDIA's compiler, which needs no GPU") from None
    return ctypes.CDLL(str(found[0].locate()))


def complaint(nvrtc, source, architecture):
    """What the compiler says of a source that it does not take; nothing of one that it does."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    options = [f"--gpu-architecture={architecture}", *OPTIONS]
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), given)
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return f"{log.value.decode()}error {failed}" if failed else ""


def kernel_of(name, dtype):
    """All formulas of an operation over arguments of every kind, and a sum of each row."""
    b = Builder(8, np.dtype(dtype))
    for key, text in OPS[name].formula.items():
        formula = parse(text) if key == "y" else pullback(text)
        kinds = (ARG_BLOCK, ARG_ROWS, ARG_VECTOR, ARG_NUMBER)
        given = {
            n: b.load(kinds[k % 4], (key, n), 0, 1 if kinds[k % 4] == ARG_NUMBER else 8)
            for k, n in enumerate(formula.operands)
        }
        value = b.formula(formula, given)
        b.store(ARG_BLOCK, ("out", key), 0, 8, value, adds=False)
        b.store(ARG_ROWS, ("rows", key), 0, 8, value, adds=True)
        b.store(ARG_ROWS, ("sum", key), 0, 1, value, adds=True)
    return b.kernel()


def phases_of(dtype):
    """A gated cell as one kernel for all of its levels, forward and backward."""
    b = Builder(8, np.dtype(dtype))
    gates = [b.load(ARG_BLOCK, ("slab", k // 2), k % 2 * 8, 8) for k in range(3)]
    state = b.load(ARG_ROWS, ("state",), 0, 8)
    value = b.call("add", b.call("tanh", b.call("multiply", *gates[:2])), b.call("multiply", gates[2], state))
    b.store(ARG_BLOCK, ("output",), 0, 8, value, adds=False)
    forward = b.kernel()
    b.store(ARG_ROWS, ("state cotangent",), 0, 8, value, adds=True)
    factors = (phases.Factor(0, 2, True), phases.Factor(1, 1, False))
    return phases.phase_source(forward, factors, "phase"), phases.phase_back_source(b.kernel(), (2, 1), "phase")


def fixed():
    """The sources that are always the same: operations on rows, and the formulas of all operations; and one of cells
    with many levels."""
    names = [name for name, op in OPS.items() if op.formula and elementwise_formulas(op)]
    formulas = [
        "\n".join(cuda.source(kernel_of(name, dtype), f"k{k}") for k, name in enumerate(names)) for dtype in REALS
    ]
    kept = [("out", "y"), ("y", "x"), ("x", "g")]
    stored = "\n".join(cuda.source(with_storage(kernel_of("tanh", "float32"), s, kept), f"{s}_kept") for s in STORED)
    levels = [text for dtype in REALS for text in phases_of(dtype)]
    texts = (
        rows.ROW_SOURCE,
        rows.STORED_SOURCE,
        norms.NORM_SOURCE,
        along.ALONG_SOURCE,
        attention.ATTENTION_SOURCE,
        draws.DRAW_SOURCE,
        places.PLACE_SOURCE,
        segments.SEGMENT_SOURCE,
        reductions.STRETCH_SOURCE,
        stored,
        *formulas,
        *levels,
    )
    return [with_helpers(text) for text in texts]


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.nvrtc", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=emulate.folder(), help="where the simulator keeps what it is given"
    )
    folder = parser.parse_args().folder
    nvrtc, seen = library(), sorted(folder.glob("*.cu"))
    work = [(str(path), path.read_text(), "compute_90") for path in seen]
    work = [one for one in work if not any(word in one[1] for word in OTHERS)]
    work += [(f"fixed source {k}", text, a) for k, text in enumerate(fixed()) for a in ARCHITECTURES]
    refused = [
        (name, architecture, found)
        for name, text, architecture in work
        if (found := complaint(nvrtc, text, architecture))
    ]
    for name, architecture, found in refused:
        print(f"{name} for {architecture}:\n{found}")
    print(f"{len(work)} compilations, of {len(seen)} sources of the suite and of fixed ones; {len(refused)} refused")
    sys.exit(bool(refused))


if __name__ == "__main__":
    main()
