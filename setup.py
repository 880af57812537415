"""Builds the compiled kernels; everything else about the package stands in pyproject.toml.

The kernels are PyTorch operators by its stable interface, and custom calls of XLA by its foreign-function interface for
JAX; the headers come with PyTorch and jaxlib. Where one of them is not installed when the package is built (as in pip's
isolated build environment), or no compiler is there, the package is installed without the kernels for it, and
`normwise info` says so.
"""

from __future__ import annotations

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
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
# The kernels ask of Python what every version from 3.11 on has: one build serves them all.
LIMITED_API = ("Py_LIMITED_API", "0x030b0000")
TORCH_211 = ("TORCH_TARGET_VERSION", "0x020b000000000000")  # the same of PyTorch, from 2.11 on
# Vectors are never passed between files, so which registers would hold them (psabi) is nobody's concern; the other
# warning comes from GCC's own intrinsics.
COMMON = ["-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wno-psabi", "-Wno-maybe-uninitialized"]


def sources(*own: str) -> list[str]:
    """The shim's own files, and those of the kernels, which all shims have in common."""
    names = [*own, "kernels", "isa_baseline"]
    if platform.machine() in ("x86_64", "AMD64"):
        names += INSTRUCTION_SETS
    return [str(CPP / f"{name}.cpp") for name in names]


def headers() -> list[str]:
    """What a change of makes the extensions be built again."""
    return [str(path) for path in sorted(CPP.glob("*.h"))]


def for_torch() -> list[Extension]:
    """The extension, or none where PyTorch is not there to build against."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        print("normwise: PyTorch is not there to build against; the compiled kernels for it are left out")
        return []
    where = Path(found.origin).parent
    return [
        Extension(
            "normwise.kernels._torch_kernels",
            sources("torch_shim", "pool"),
            depends=headers(),
            include_dirs=[str(where / "include")],
            library_dirs=[str(where / "lib")],
            libraries=["torch_cpu", "c10"],
            define_macros=[LIMITED_API, TORCH_211],
            py_limited_api=True,
            extra_compile_args=["-std=c++20"],  # its headers
            language="c++",
            optional=True,
        )
    ]


def for_jax() -> list[Extension]:
    """The extension, or none where jaxlib is not there to build against."""
    found = find_spec("jaxlib")
    include = Path(found.origin).parent / "include" if found and found.origin else None
    if include is None or not (include / "xla" / "ffi" / "api" / "ffi.h").exists():
        print("normwise: jaxlib is not there to build against; the compiled kernels for JAX are left out")
        return []
    return [
        Extension(
            "normwise.kernels._jax_kernels",
            sources("jax_shim"),
            depends=headers(),
            define_macros=[LIMITED_API],
            py_limited_api=True,
            extra_compile_args=["-std=c++17", "-isystem", str(include)],  # whose warnings are not ours
            language="c++",
            optional=True,
        )
    ]


class BuildKernels(build_ext):
    """Compiles each file with the flags of its instruction set, on all cores, and the kernels once for all shims."""

    def initialize_options(self) -> None:
        """Nothing is built yet."""
        super().initialize_options()
        self.built: dict[str, list[str]] = {}  # objects, by their source

    def build_extension(self, ext: Extension) -> None:
        """One call of the compiler per file, then one of the linker."""
        compile_all = self.compiler.compile

        def compile_each(sources: list[str], **options: object) -> list[str]:
            def compile_one(source: str) -> list[str]:
                if source not in self.built:
                    own = ext.extra_compile_args if source.endswith("_shim.cpp") else ["-std=c++17"]
                    flags = [*own, *COMMON, *INSTRUCTION_SETS.get(Path(source).stem, [])]
                    self.built[source] = compile_all([source], **{**options, "extra_postargs": flags})
                return self.built[source]

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

    def run(self) -> None:
        """Build, and take an older build out of the source: Python would prefer a file of its own version."""
        super().run()
        if self.inplace or self.editable_mode:
            for ext in self.extensions:
                built = CPP.parent / Path(self.get_ext_filename(self.get_ext_fullname(ext.name))).name
                for other in CPP.parent.glob(f"{built.name.partition('.')[0]}.*.so"):
                    if built.exists() and other != built:
                        other.unlink()


if sys.platform == "linux" or sys.platform == "darwin":
    setup(
        ext_modules=[*for_torch(), *for_jax()],
        cmdclass={"build_ext": BuildKernels},
        options={"bdist_wheel": {"py_limited_api": "cp311"}},
    )
else:
    setup()
