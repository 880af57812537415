"""The compiled module as a guest in PyTorch's process: instruction sets, one OpenMP runtime, or not there at all."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from normwise.kernels import choose, cpu
from normwise.kernels.kernel import Call

ROOT = Path(__file__).resolve().parent.parent.parent
BUILT = pytest.mark.skipif(cpu.library is None, reason="the compiled kernels are not built")
INSTRUCTION_SETS = ("avx512_bf16", "avx512", "avx2", "baseline")
AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
NEEDS = {"avx512_bf16": {*AVX512, "avx512_bf16"}, "avx512": AVX512, "avx2": {"avx2", "fma", "f16c"}, "baseline": set()}


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@BUILT
def test_one_build_serves_every_python() -> None:
    assert cpu.library.__file__.endswith(".abi3.so")


def said(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout.strip()


def here(name: str) -> bool:
    """True if this processor has the instruction set, by what the system says."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(re.findall(r"\w+", cpuinfo.read_text())) if cpuinfo.exists() else set()
    return NEEDS[name] <= flags


@BUILT
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_an_instruction_set_asked_for_agrees_with_the_reference(name: str) -> None:
    if not here(name):
        pytest.skip(f"this processor does not have {name}")
    command = "from normwise.kernels import cpu; print(cpu.instruction_set())"
    assert said(run("-c", command, NORMWISE_ISA=name)) == name
    tests = ["tests/kernels/test_agreement.py", "tests/kernels/test_compiled_random_problems.py"]
    options = ["-q", "-p", "no:cacheprovider", "-k", "every_activation or number_of_two_bytes"]
    said(run("-m", "pytest", *tests, *options, NORMWISE_ISA=name, OMP_NUM_THREADS="2"))


@BUILT
def test_the_best_one_is_taken() -> None:
    assert said(run("-c", "from normwise.kernels import cpu; print(cpu.instruction_set())", NORMWISE_ISA="")) == next(
        name for name in INSTRUCTION_SETS if here(name)
    )


@BUILT
def test_an_unknown_one_is_refused_and_the_process_lives_on() -> None:
    script = """
import torch
from normwise.kernels import cpu
for attempt in range(2):
    try:
        cpu.forward(torch.zeros(2, 3), None, None, None, None, None, None, 1e-5, None, False)
    except RuntimeError as error:
        print(str(error).splitlines()[0].split(", ")[-1])
"""
    sentence = "normwise: NORMWISE_ISA asks for an instruction set that this processor does not have"
    assert said(run("-c", script, NORMWISE_ISA="sse9")) == f"{sentence}\n{sentence}"


@BUILT
def test_asking_for_the_name_of_an_unknown_one_is_an_error_and_not_a_crash() -> None:
    script = "from normwise.kernels import cpu\ntry: cpu.instruction_set()\nexcept Exception as e: print('refused')"
    assert said(run("-c", script, NORMWISE_ISA="sse9")) == "refused"


RUNTIMES = """
import re, sys, torch
def runtimes():
    names = re.findall(r"/((?:libgomp|libiomp5|libomp)[^/\\s]*)$", open("/proc/self/maps").read(), re.M)
    return sorted(set(names))
torch.randn(1 << 20).exp().sum()
alone = runtimes()
import normwise.torch
layer = normwise.torch.BatchNorm2d(16)
layer(torch.randn(8, 16, 32, 32, requires_grad=True)).sum().backward()
assert runtimes() == alone, (alone, runtimes())
assert len(alone) == 1, alone
print("one")
"""


@BUILT
@pytest.mark.skipif(sys.platform != "linux", reason="the libraries of a process are listed on Linux only")
def test_there_is_one_openmp_runtime_in_the_process() -> None:
    assert said(run("-c", RUNTIMES)) == "one"


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None or sys.platform != "linux":
        pytest.skip(f"{name} reads Linux libraries, and is not here")
    return found


def _library() -> str:
    path: str = cpu.library.__file__
    return path


@BUILT
def test_the_library_asks_for_no_openmp() -> None:
    listing = subprocess.run([_tool("readelf"), "-d", _library()], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"NEEDED.*\[(.*)\]", listing)
    assert any("torch" in name for name in needed)
    assert [name for name in needed if "omp" in name] == []


@BUILT
def test_wide_registers_are_used_in_the_code_for_such_processors_only() -> None:
    """Of an inline function that several files hold, the linker keeps one: it must run on every processor."""
    command = [_tool("objdump"), "-d", "--no-show-raw-insn", _library()]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sections = re.split(r"^[0-9a-f]+ <([^>]+)>:$", listing, flags=re.MULTILINE)[1:]
    # The compiler's own clones (their names have a dot) belong to one file, and are never merged with another's.
    code = {name: body for name, body in zip(sections[::2], sections[1::2], strict=True) if "." not in name}
    assert len(code) > 100
    wide = {name for name, body in code.items() if re.search(r"%zmm|%k[1-7]\b", body)}
    vex = {name for name, body in code.items() if re.search(r"%ymm|\tv[a-z0-9]+ ", body)}
    assert any("avx512" in name for name in wide)
    assert {name for name in wide if "avx512" not in name} == set()
    assert {name for name in vex if "avx512" not in name and "avx2" not in name} == set()


# Not a function: pytest keeps PathFinder.find_spec as a method of its own.
HIDDEN = """
import sys
from importlib.machinery import PathFinder
class Hiding:
    original = staticmethod(PathFinder.find_spec)
    def __call__(self, name, path=None, target=None):
        return None if name.endswith("._torch_kernels") else self.original(name, path, target)
PathFinder.find_spec = Hiding()
"""


def without(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script in a process that does not find the compiled module."""
    return run("-c", HIDDEN + script, *arguments, **environment)


def test_without_it_the_layers_work_and_agree() -> None:
    script = """
import pytest
from normwise.kernels import choose, cpu
from normwise.kernels.kernel import Call
assert not choose.built() and cpu.library is None
sys.path.insert(0, "")
from tests.cases import DTYPES, LAYOUTS, problem
from tests.kernels.test_agreement import IMPLEMENTATIONS, assert_agrees
chosen = {name: IMPLEMENTATIONS[name] for name in ("functional", "layer")}
for layout in LAYOUTS:
    for dtype in DTYPES:
        for training in (False, True):
            p = problem((8, 8, 24, 24), dtype, layout=layout, activation="silu", residual=True, training=training)
            assert assert_agrees(p, chosen) == 2
sys.exit(pytest.main(sys.argv[1:]))
"""
    tests = "tests/torch/layers/test_drop_in.py", "tests/torch/steps/test_memory_format.py"
    text = said(without(script, "-q", "-p", "no:cacheprovider", *tests))
    assert "passed" in text


def test_without_it_info_says_so() -> None:
    text = said(without("from normwise.cli import main; main(['info'])"))
    assert "not built" in text


def test_without_it_asking_for_it_by_name_is_a_clear_error() -> None:
    result = without("import normwise.torch", NORMWISE_KERNEL="cpu")
    assert result.returncode != 0
    assert "normwise.errors.KernelUnavailable: NORMWISE_KERNEL=cpu asks for the compiled kernels" in result.stderr


def test_here_it_is_there_or_the_choice_knows_that_it_is_not() -> None:
    assert choose.built() == (cpu.library is not None)
    assert choose.choose(Call(torch.zeros(8, 16, 32, 32))).name == ("cpu" if choose.built() else "aten")
