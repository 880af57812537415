"""The recipe for an activation, followed: softsign, z / (1 + |z|).

The compiled kernels are not built here, which takes minutes: the header that a step changes is compiled alone, and its
values and slopes are held to the reference. The copy goes without compiled kernels, as an installation without a
compiler does. The GPU kernels are interpreted.
"""

from __future__ import annotations

import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.docs.following import Copy
from tests.kernels.test_compiled_pool_alone import COMPILER

PROGRAM = r"""#define NORMWISE_ISA baseline
#include <cmath>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include "activations.h"
using namespace normwise::baseline;

int main() {
  for (double z = -30; z < 30; z += 0.37) {
    const auto kind = activation_of(NUMBER);
    const double wide[] = {activate<double>(kind, 1.0, all(z))[0], slope<double>(kind, 1.0, all(z))[0]};
    const float x = float(z), narrow[] = {activate<float>(kind, 1.0f, all(x))[0], slope<float>(kind, 1.0f, all(x))[0]};
    std::printf("%.17g %.17g %.17g %.17g %.17g\n", z, wide[0], wide[1], double(narrow[0]), double(narrow[1]));
  }
}
"""
HELD = """
import sys
import numpy as np
from normwise.kernels.reference_activations import activation_named

z, y, dy, narrow_y, narrow_dy = np.loadtxt(sys.argv[1]).T
law = activation_named("softsign")
for found, right, limit in ((y, law.value, 1e-15), (dy, law.slope, 1e-15)):
    assert len(z) > 100 and abs(found - right(z)).max() < limit
for found, right in ((narrow_y, law.value), (narrow_dy, law.slope)):
    assert abs(found - right(z)).max() < 1e-5
"""
AGREES = """
import torch
from torch import nn
import normwise
from normwise.torch import BatchNorm1d
from tests.cases import SHAPES, problem
from tests.kernels.test_agreement import IMPLEMENTATIONS, assert_agrees

built = {name: each for name, each in IMPLEMENTATIONS.items() if name != "cpu"}
for dtype in (torch.float64, torch.float32, torch.bfloat16):
    for training in (True, False):
        p = problem(SHAPES["images"], dtype, activation="softsign", residual=training, training=training)
        assert assert_agrees(p, built) == 4
x = torch.randn(8, 3)
assert torch.equal(BatchNorm1d(3, activation="softsign")(x), nn.functional.softsign(BatchNorm1d(3)(x)))
model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Softsign())
assert normwise.fuse(model).fused == {"1": "softsign"}
"""
KERNELS = "src/normwise/kernels"


def followed(folder: Path) -> Copy:
    """A copy in which every step is taken."""
    copy = Copy(folder, "Add an activation", compiled=False)
    entry = """    "softsign": Activation(
        lambda z: z / (1.0 + np.abs(z)),
        lambda z: (1.0 / (1.0 + np.abs(z))) ** 2,
    ),
"""
    before = '    "tanh": Activation(np.tanh'
    copy.change(f"{KERNELS}/reference_activations.py", before, entry + before)
    before = '    "tanh": torch.tanh_,\n'
    copy.change(f"{KERNELS}/torch_activations.py", before, f'    "softsign": F.softsign,\n{before}')
    before = '    "gelu_tanh": 12,\n'
    copy.change(f"{KERNELS}/activation_numbers.py", before, f'{before}    "softsign": 13,\n')

    header = f"{KERNELS}/cpp/activations.h"
    copy.change(header, "kHardsigmoid, kGeluTanh\n", "kHardsigmoid, kGeluTanh, kSoftsign\n")
    case = "    case Activation::kSoftsign:\n      return "
    size = "(F(1) + (z < 0 ? -z : z))"
    copy.change(header, "  }\n  return z;\n", f"{case}z / {size};\n  }}\n  return z;\n")
    copy.change(header, "  }\n  return one;\n", f"{case}F(1) / ({size} * {size});\n  }}\n  return one;\n")

    gpu = f"{KERNELS}/triton_gpu/activations.py"
    for last, found in (
        ("found = z * tanh_share(z)", "found = z / (1.0 + tl.abs(z))"),
        (
            "found = share + near * share * (1.0 - share) * 1.5957691216057308 * (1.0 + 0.134145 * near * near)",
            "found = 1.0 / ((1.0 + tl.abs(z)) * (1.0 + tl.abs(z)))",
        ),
    ):
        text = (folder / gpu).read_text("utf-8")
        start = text[: text.index(last)].rindex("    else:\n")
        branch = text[start : text.index(last) + len(last)]
        was = '    else:\n        tl.static_assert(ACTIVATION == 12, "there is no such activation")\n'
        then = branch.replace(was, "    elif ACTIVATION == 12:\n")
        now = f"{then}\n{was.replace('12', '13')}        {found}"
        copy.change(gpu, branch, now)

    calls = "src/normwise/torch/models/fusion/activation_calls.py"
    copy.change(calls, '    nn.Tanh: "tanh",\n', '    nn.Softsign: "softsign",\n    nn.Tanh: "tanh",\n')
    copy.change(calls, '    F.tanh: "tanh",\n', '    F.softsign: "softsign",\n    F.tanh: "tanh",\n')
    return copy


def test_an_activation(tmp_path: Path) -> None:
    copy = followed(tmp_path)
    exam = ("tests/kernels/test_reference.py", "tests/kernels/test_reference_group.py")
    layers = ("tests/torch/functional/test_by_sample.py", "tests/torch/layers/test_errors.py")
    copy.check_tests(*exam, *layers, only="softsign or activation_that_does_not_exist", at_least=20)
    copy.python("-c", AGREES)


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
def test_the_header_of_an_activation(tmp_path: Path) -> None:
    copy = followed(tmp_path)
    program, built = tmp_path / "program.cpp", tmp_path / "program"
    program.write_text(PROGRAM, "utf-8")
    includes = f"-I{tmp_path / KERNELS / 'cpp'}"
    command = [str(COMPILER), "-std=c++17", "-O1", "-DNUMBER=13", includes, str(program), "-o", str(built)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = subprocess.run([str(built)], capture_output=True, text=True, check=True).stdout
    (tmp_path / "found.txt").write_text(found, "utf-8")
    copy.python("-c", HELD, str(tmp_path / "found.txt"))


@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton, which is for Linux")
def test_the_gpu_kernels_of_an_activation(tmp_path: Path) -> None:
    copy = followed(tmp_path)
    copy.check_tests("tests/kernels/triton_gpu/test_triton_grid.py", only="softsign", at_least=1, TRITON_INTERPRET="1")
