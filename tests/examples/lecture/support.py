"""Running the lecture's programs: their names, and what they print."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import lazyflow as lf

FOLDER = Path(lf.__file__).parents[1] / "examples" / "lecture"


def program(name):
    """The names that a program defines, not run as a main program."""
    return SimpleNamespace(**runpy.run_path(str(FOLDER / f"{name}.py")))


def copied(ours, theirs):
    """PyTorch's module with our weights, in their dtype."""
    import torch

    state = {name: torch.tensor(array) for name, array in ours.state_dict().items()}
    theirs.to(next(iter(state.values())).dtype).load_state_dict(state)
    return theirs
