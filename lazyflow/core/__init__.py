"""The compiled core: what is slow in Python, compiled when the package is installed.

``machine`` and ``passes`` are None where there was no compiler: then everything runs in Python and NumPy, with the same
results up to the last bits of functions.
"""

from __future__ import annotations

from typing import Any

machine: Any
passes: Any
try:
    from lazyflow.core import machine, passes
except ImportError:
    machine = passes = None

__all__ = ["machine", "passes"]
