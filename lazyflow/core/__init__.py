"""The compiled core: what is slow in Python, compiled when the package is installed.

``guards``, ``machine`` and ``passes`` are None where there was no compiler: then everything runs in Python and NumPy,
with the same results up to the last bits of functions.
"""

from __future__ import annotations

from typing import Any

guards: Any
machine: Any
passes: Any
try:
    from lazyflow.core import guards, machine, passes
except ImportError:
    guards = machine = passes = None

__all__ = ["guards", "machine", "passes"]
