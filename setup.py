"""The optional part of the build: kernels in C. Everything else is in pyproject.toml.

Without a compiler, or where it fails, the package installs without them.
"""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path("src/coordcbam/kernels/csrc")
FLAGS = {
    "msvc": ["/O2"],
    "unix": ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"],
}


class BuildKernels(build_ext):
    """Adds the flags of the compiler at hand."""

    def build_extension(self, ext: Extension) -> None:
        """Build one extension with them."""
        kind = "msvc" if self.compiler.compiler_type == "msvc" else "unix"
        ext.extra_compile_args = FLAGS[kind]
        super().build_extension(ext)


setup(
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
    ext_modules=[
        Extension(
            "coordcbam.kernels._cpu",
            sources=sorted(path.as_posix() for path in HERE.glob("*.c")),
            depends=sorted(path.as_posix() for path in HERE.glob("*.h")),
            define_macros=[("Py_LIMITED_API", "0x030A0000")],
            py_limited_api=True,
            optional=True,
        )
    ],
)
