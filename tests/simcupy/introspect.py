"""Writes ``api.json``: what the installed CuPy offers. Needs CuPy, but neither a driver nor a GPU.

python -m tests.simcupy.introspect
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

PATH = Path(__file__).with_name("api.json")


def parameters(function: Any) -> list[str] | None:
    """Names of parameters, ``*`` and ``**`` included, ``=`` behind those with a default."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return _from_text(getattr(function, "__doc__", None) or "")
    marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [marks.get(p.kind, "") + p.name + ("" if p.default is p.empty else "=") for p in found]


def _from_text(text: str) -> list[str] | None:
    """From the first line that Cython writes into the documentation: ``_ndarray_base.sum(self, axis=None, ...)``."""
    head = re.match(r"(?:\w+\.)?\w+\((.*?)\)(?: ->.*)?$", text.strip().splitlines()[0] if text.strip() else "")
    if head is None:
        return None
    parts = [part.strip() for part in head[1].split(",") if part.strip() not in ("", "*", "/")]
    return [part.split("=")[0].split()[-1] + ("=" if "=" in part else "") for part in parts]


def described(module: Any) -> dict[str, Any]:
    """What a module offers, by name."""
    found: dict[str, Any] = {}
    for name in dir(module):
        if name.startswith("_"):
            continue
        value = getattr(module, name)
        if type(value).__name__ == "ufunc":
            found[name] = {"ufunc": value.name, "nin": value.nin, "nout": value.nout, "types": value.types}
        elif inspect.ismodule(value):
            found[name] = {"module": value.__name__}
        elif callable(value):
            found[name] = {"parameters": parameters(value)}
        else:
            found[name] = {"value": type(value).__name__}
    return found


def described_functions(folder: Path, pattern: str) -> dict[str, Any]:
    """The functions of an extension that does not load without its library, read from the texts in its file."""
    (path,) = folder.glob(pattern)
    texts = re.findall(rb"(\w+)\((intptr_t handle[^()]*)\)", path.read_bytes())
    return {name.decode(): {"parameters": _from_text(f"f({found.decode()})")} for name, found in texts}


def text_of(api: dict[str, Any]) -> str:
    """JSON with one name a line."""
    parts = []
    for key, value in sorted(api.items()):
        names = isinstance(value, dict)
        lines = [f"{json.dumps(n)}: {json.dumps(v, sort_keys=True)}" for n, v in sorted(value.items())] if names else []
        parts.append(f"{json.dumps(key)}: " + ("{\n" + ",\n".join(lines) + "\n}" if names else json.dumps(value)))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    """Write the file."""
    import cupy
    import cupy_backends.cuda.libs as libraries
    import cupyx
    import cupyx.scipy.special

    libraries.cublas = sys.modules["cupy_backends.cuda.libs.cublas"] = ModuleType("cublas")  # which needs the library
    import cupy.cublas

    methods = {n: {"parameters": parameters(getattr(cupy.ndarray, n))} for n in dir(cupy.ndarray) if n[0] != "_"}
    special = [n for n in dir(cupy.ndarray) if n.startswith("__")]
    api = {
        "version": cupy.__version__,
        "cupy": described(cupy),
        "cupy.linalg": described(cupy.linalg),
        "cupy.lib.stride_tricks": described(cupy.lib.stride_tricks),
        "cupy.cuda": described(cupy.cuda),
        "cupy.cublas": {n: e for n, e in described(cupy.cublas).items() if "parameters" in e},
        "cupy.cuda.cublas": described_functions(Path(libraries.__file__).parent, "cublas*.so"),
        "cupyx": described(cupyx),
        "cupyx.scipy.special": described(cupyx.scipy.special),
        "ndarray": methods,
        "ndarray special": special,
    }
    PATH.write_text(text_of(api))
    print(PATH, cupy.__version__, len(api["cupy"]), "names")


if __name__ == "__main__":
    main()
