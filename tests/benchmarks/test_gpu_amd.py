"""The Triton kernels compiled for an AMD GPU that is not here, down to its machine code: nothing is CUDA's alone."""

from __future__ import annotations

import os
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed; the extra `dev` has it on Linux")
if "TRITON_INTERPRET" in os.environ:
    pytest.skip("the kernels are interpreted in this process, and not compiled", allow_module_level=True)

import torch
import triton
from triton.backends.compiler import GPUTarget

from benchmarks.gpu.binaries import source_of
from benchmarks.gpu.launches import Asked, launches_of

MI300 = GPUTarget("hip", "gfx942", 64)
SWEPT = Asked((256, 64, 56, 56), torch.bfloat16, True, adds=True)
HELD = Asked((128, 64, 8, 8), torch.float32, False, activation="gelu")
BY_LAST = Asked((32, 16, 28, 28), torch.float32, False)


def launches() -> dict[str, Any]:
    """One launch of each kernel that a forward or backward of these takes."""
    found = [launch for asked in (SWEPT, HELD, BY_LAST) for part in launches_of(asked) for launch in part]
    return {launch.name: launch for launch in found}


LAUNCHES = launches()


def test_the_paths_through_the_kernels_are_among_them() -> None:
    wanted = {"gather", "normalize", "sum_gradients", "normalize_gradients"}
    wanted |= {f"{what}_{how}" for what in ("normalize", "gradients") for how in ("held", "by_last")}
    assert wanted <= {*LAUNCHES}


@pytest.mark.parametrize("name", LAUNCHES)
def test_it_compiles_for_an_mi300(name: str) -> None:
    launch = LAUNCHES[name]
    found: Any = triton.compile(source_of(launch), target=MI300, options=dict(launch.options))
    assert found.asm["hsaco"][:4] == b"\x7fELF"
    assert "gfx942" in found.asm["amdgcn"]
    assert ".vgpr_spill_count: 0" in found.asm["amdgcn"]
