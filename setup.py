"""The compiled core (lazyflow/core); all else about the package stands in setup.cfg.

The extensions are optional: where there is no compiler, the package installs and runs without them.
"""

from collections.abc import Sequence
from glob import glob

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

# No -ffast-math: NaN, infinities and the order of additions are part of what is promised. A product and a sum are not
# contracted to one rounding, so that fused and unfused give the same bits; nobody asks for errno or for traps.
FLAGS = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-Wall", "-Wextra"]


# Of what looks up and appends, -O2 compiles twice as long, and saves 0.01 us a node.
PLAIN = ["-O1", "-g0", "-fno-strict-aliasing"]


def extension(name: str, *sources: str, flags: Sequence[str] = FLAGS) -> Extension:
    """An extension module of the core, from files in its folder."""
    return Extension(
        f"lazyflow.core.{name}",
        [f"lazyflow/core/{source}" for source in sources],
        depends=glob("lazyflow/core/c/*.h"),
        include_dirs=[numpy.get_include(), "lazyflow/core/c"],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        extra_compile_args=list(flags),
        extra_link_args=["-pthread"],
    )


def module(name: str) -> Extension:
    """A module of the package that is compiled as it stands, with the types of its .pxd; without, it runs in Python."""
    path = name.replace(".", "/")
    return Extension(name, [f"{path}.py"], depends=glob("lazyflow/**/*.pxd", recursive=True), extra_compile_args=PLAIN)


# The longest first, so that no core waits for one at the end.
EXTENSIONS = [
    module("lazyflow.record.expr"),
    extension("machine", "machine.pyx", "c/machine.c", "c/images.c", "c/products.c", "c/threads.c"),
    extension("passes", "passes.pyx"),
    module("lazyflow.record.tape"),
    extension("columns", "columns.pyx", flags=PLAIN),
    module("lazyflow.run.launch"),
    module("lazyflow.record.templates"),
    module("lazyflow.run.execute"),
    module("lazyflow.run.roots"),
    module("lazyflow.run.forward"),
    module("lazyflow.run.way"),
    module("lazyflow.plan.arena"),
    module("lazyflow.cells.ways"),
    module("lazyflow.plan.recorded"),
    module("lazyflow.graph.reading"),
    module("lazyflow.run.settle"),
    module("lazyflow.nn.called"),
    extension("guards", "guards.pyx"),
]
# Annotations are for people and for mypy; what Cython is to know stands in the .pxd files.
# Two at a time, as below: most of an install is this.
EXTENSIONS = cythonize(EXTENSIONS, nthreads=2, compiler_directives={"language_level": 3, "annotation_typing": False})
for one in EXTENSIONS:
    one.optional = True  # which Cython does not take over from what it is given

setup(ext_modules=EXTENSIONS, options={"build_ext": {"parallel": 2}})
