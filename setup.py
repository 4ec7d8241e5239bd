"""The CPU kernels: an optional extension. Everything else about the package is in pyproject.toml."""

from __future__ import annotations

import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC = "src/pliant/kernels/csrc"
FLAGS = [
    "-std=c++17",
    "-O2",
    "-g0",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
]
INSTRUCTION_SETS = {"baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    INSTRUCTION_SETS["avx2"] = ["-mavx2", "-mfma"]
    INSTRUCTION_SETS["avx512"] = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"]


class BuildKernels(build_ext):
    """Compiles the kernels once per instruction set; the module chooses one when it is imported."""

    def build_extension(self, ext: Extension) -> None:
        compiler = self.compiler

        def compile_for(isa: str) -> list[str]:
            return compiler.compile(
                [f"{CSRC}/elementwise.cpp"],
                output_dir=str(Path(self.build_temp, isa)),
                macros=[("PLIANT_ISA", isa)],
                include_dirs=[CSRC],
                extra_postargs=[*FLAGS, *INSTRUCTION_SETS[isa]],
            )

        with ThreadPoolExecutor() as threads:
            ext.extra_objects = [o for objects in threads.map(compile_for, INSTRUCTION_SETS) for o in objects]
        super().build_extension(ext)


# On Windows torch is built with another compiler and runs another thread pool: the readable versions serve there.
extension = Extension(
    "pliant.kernels._cpu",
    [f"{CSRC}/module.cpp"],
    depends=[f"{CSRC}/kernels.h", f"{CSRC}/exchange.h", f"{CSRC}/elementwise.cpp"],
    define_macros=[("Py_LIMITED_API", "0x030B0000")],
    extra_compile_args=FLAGS,
    extra_link_args=["-pthread"],
    language="c++",
    py_limited_api=True,
    optional=True,
)
setup(
    ext_modules=[] if sys.platform == "win32" else [extension],
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
