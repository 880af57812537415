"""Builds the compiled kernels; everything else about the package stands in pyproject.toml.

The kernels are PyTorch operators by its stable interface, whose headers come with PyTorch: where it is not installed
when the package is built (as in pip's isolated build environment), or no compiler is there, the package is installed
without them, and `normwise info` says so.
"""

from __future__ import annotations

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CPP = Path("src/normwise/kernels/cpp")
# The instruction sets that are compiled beside the baseline; kernels.cpp picks one when the program runs.
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"]
INSTRUCTION_SETS = {
    "isa_avx2": ["-mavx2", "-mfma", "-mf16c"],
    "isa_avx512": AVX512,
    "isa_avx512_bf16": [*AVX512, "-mavx512bf16"],
}
# Vectors are never passed between files, so which registers would hold them (psabi) is nobody's concern; the other
# warning comes from GCC's own intrinsics.
COMMON = ["-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wno-psabi", "-Wno-maybe-uninitialized"]


def kernels() -> list[Extension]:
    """The extension, or none where PyTorch is not there to build against."""
    try:
        import torch
    except ImportError:
        print("normwise: PyTorch is not there to build against; the compiled kernels are left out")
        return []
    where = Path(torch.__file__).parent
    sources = ["torch_shim", "kernels", "pool", "isa_baseline"]
    if platform.machine() in ("x86_64", "AMD64"):
        sources += INSTRUCTION_SETS
    return [
        Extension(
            "normwise.kernels._torch_kernels",
            [str(CPP / f"{name}.cpp") for name in sources],
            depends=[str(path) for path in sorted(CPP.glob("*.h"))],
            include_dirs=[str(where / "include")],
            library_dirs=[str(where / "lib")],
            libraries=["torch_cpu", "c10"],
            define_macros=[("TORCH_TARGET_VERSION", "0x020b000000000000")],  # 2.11: what is asked of PyTorch
            language="c++",
            optional=True,
        )
    ]


class BuildKernels(build_ext):
    """Compiles each file with the flags of its instruction set, on all cores."""

    def build_extension(self, ext: Extension) -> None:
        """One call of the compiler per file, then one of the linker."""
        compile_all = self.compiler.compile

        def compile_each(sources: list[str], **options: object) -> list[str]:
            def compile_one(source: str) -> list[str]:
                standard = "-std=c++20" if source.endswith("torch_shim.cpp") else "-std=c++17"  # PyTorch's headers
                flags = [standard, *COMMON, *INSTRUCTION_SETS.get(Path(source).stem, [])]
                return compile_all([source], **{**options, "extra_postargs": flags})

            # Of an inline function that several files hold, the linker keeps the first: it must be one that every
            # processor can run.
            sources = sorted(sources, key=lambda source: Path(source).stem in INSTRUCTION_SETS)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return [built for objects in pool.map(compile_one, sources) for built in objects]

        self.compiler.compile = compile_each
        try:
            super().build_extension(ext)
        finally:
            self.compiler.compile = compile_all


if sys.platform == "linux" or sys.platform == "darwin":
    setup(ext_modules=kernels(), cmdclass={"build_ext": BuildKernels})
else:
    setup()
