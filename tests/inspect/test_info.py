"""What lazyflow says of what it runs on."""

import platform

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import core
from lazyflow.inspect.info import AVX2, AVX512, BASELINE, Blas, note_of, vectors


def test_it_says_what_runs():
    found = lf.info()
    assert (found.version, found.python, found.numpy) == (lf.__version__, platform.python_version(), np.__version__)
    assert (found.core is None) == (core.machine is None)
    if found.core is not None:
        assert found.core == core.machine.instruction_set()
    assert all(b.name and b.threads >= 1 for b in found.blas)
    shown = str(found)
    for word in (lf.__version__, np.__version__, *(b.name for b in found.blas), *found.notes):
        assert word in shown


@pytest.mark.parametrize(
    ("names", "widest"),
    [
        (["SSSE3", "SSE41", "POPCNT"], BASELINE),
        (["X86_V2"], BASELINE),
        (["SSE42", "AVX", "F16C", "FMA3", "AVX2"], AVX2),
        (["X86_V3"], AVX2),
        (["AVX2", "AVX512F", "AVX512_SKX"], AVX512),
        (["X86_V3", "X86_V4", "AVX512_ICL"], AVX512),
        (["NEON", "ASIMD"], BASELINE),
    ],
)
def test_what_numpy_calls_the_processor(names, widest):
    assert vectors(names) == widest


@pytest.mark.parametrize(
    ("kernels", "processor", "noted"),
    [
        ("SkylakeX", AVX512, False),
        ("SapphireRapids", AVX512, False),
        ("Haswell", AVX512, True),
        ("Zen", AVX512, True),
        ("Nehalem", AVX2, True),
        ("Haswell", AVX2, False),
        ("Prescott", BASELINE, False),
        ("neoversen1", BASELINE, False),
        ("a processor of next year", AVX512, False),
        ("", AVX512, False),
    ],
)
def test_kernels_that_are_older_than_the_processor_are_noted(kernels, processor, noted):
    note = note_of(Blas("openblas", "0.3", kernels, 1), processor)
    assert (note is not None) == noted
    if note is not None:
        assert kernels in note and "OPENBLAS_CORETYPE" in note


def test_it_says_that_there_is_no_core(monkeypatch):
    monkeypatch.setattr(core, "machine", None)
    found = lf.info()
    assert found.core is None and "not built" in str(found) and any("C compiler" in note for note in found.notes)


def test_it_says_what_a_gpu_needs():
    try:
        lf.using(device="cuda")
    except lf.DeviceError as error:
        expected = str(error)
    else:
        expected = "with CuPy"
    assert expected in lf.info().gpu
