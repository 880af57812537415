"""Run the kernels under AddressSanitizer and UndefinedBehaviorSanitizer: what ``make sanitize`` does.

They are built a second time, under ``build/sanitize``; the package's own module is neither touched nor loaded. First
``cpp/guarded_buffers.cpp`` drives them without Python, then pytest does through PyTorch, with the sanitized module in
the other's place. Arguments go to pytest in place of the tests that are run by default.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build/sanitize"
NAME = "normwise.kernels._torch_kernels"
SANITIZE = "-fsanitize=address,undefined"
CPP = Path("src/normwise/kernels/cpp")
TESTS = ["tests/kernels", "tests/torch/steps/test_operators.py", "tests/torch/layers/test_residual_network.py"]
ENVIRONMENT = {
    # Python and PyTorch keep what they allocate until the end, and are not what is looked at.
    "ASAN_OPTIONS": "detect_leaks=0:detect_odr_violation=0:abort_on_error=0",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "NORMWISE_POOL_MB": "0",  # red zones lie around the allocator's memory, not around the pool's
}


def build(root: Path = ROOT, target: Path = BUILD) -> tuple[Path, Path]:
    """Build the module and the driver from the sources under ``root``; where they are."""
    compiler = os.environ.get("CXX", "g++")
    flags = f"{SANITIZE} -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
    environment = {**os.environ, "CFLAGS": flags, "CXXFLAGS": flags, "LDFLAGS": SANITIZE}
    folders = ["--build-lib", str(target / "lib"), "--build-temp", str(target / "temp")]
    command = [sys.executable, "setup.py", "-q", "build_ext", *folders]
    subprocess.run(command, cwd=root, env=environment, check=True)
    (module,) = (target / "lib").rglob("_torch_kernels*.so")
    objects = [path for path in (target / "temp").rglob("*.o") if path.stem not in ("torch_shim", "jax_shim", "pool")]
    driver = target / "guarded_buffers"
    source = ROOT / "tests/kernels/cpp/guarded_buffers.cpp"
    command = [compiler, "-std=c++17", "-O1", "-g", *flags.split(), "-Wall", "-Wno-psabi", f"-I{root / CPP}"]
    subprocess.run([*command, source, *objects, "-o", driver, "-lpthread"], check=True)
    return module, driver


def load(module: Path) -> None:
    """Put the sanitized module where the package looks for its own."""
    import torch  # noqa: F401  its libraries, which the module is linked against

    spec = spec_from_file_location(NAME, module)
    assert spec is not None
    assert spec.loader is not None
    sanitized = module_from_spec(spec)
    spec.loader.exec_module(sanitized)
    sys.modules[NAME] = sanitized


def runtimes() -> str:
    """The sanitizers' libraries, which have to be in the process before Python is."""
    compiler = os.environ.get("CXX", "g++")
    names = ("libasan.so", "libubsan.so", "libstdc++.so")
    found = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in names
    ]
    return " ".join(found)


def main(arguments: list[str]) -> int:
    """Build, then run both; how many of them failed."""
    module, driver = build()
    failed = int(subprocess.run([driver], env={**os.environ, **ENVIRONMENT}, check=False).returncode != 0)
    command = [sys.executable, __file__, "--loaded", str(module), *(arguments or TESTS)]
    environment = {**os.environ, **ENVIRONMENT, "LD_PRELOAD": runtimes(), "NORMWISE_SANITIZED": "1"}
    failed += subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    if sys.argv[1:2] == ["--loaded"]:
        sys.path[0] = str(ROOT)  # in place of this folder
        load(Path(sys.argv[2]))
        pytest = importlib.import_module("pytest")
        sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *sys.argv[3:]]))
    sys.exit(main(sys.argv[1:]))
