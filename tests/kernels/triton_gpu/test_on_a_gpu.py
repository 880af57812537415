"""Only on a GPU: sizes for which the interpreter is too slow, Inductor beside the kernels, two NCCL processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise
from normwise.errors import NormwiseError
from normwise.kernels import choose
from normwise.kernels.kernel import Call
from normwise.kernels.two_pass import TWO_PASS
from normwise.torch.steps.triton_operators import TritonGpu
from tests.kernels.triton_gpu.device import DEVICE
from tests.kernels.triton_gpu.two_processes import CASES, assert_as_one, one_of

pytestmark = pytest.mark.skipif(DEVICE != "cuda", reason="there is no GPU here (make test DEVICE=cuda)")
KERNEL = TritonGpu()
SHAPES = [(8, 64, 56, 56), (64, 64, 7, 7), (256, 512), (2, 16, 4, 20, 20)]


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, device="cuda").to(dtype)


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sizes_that_the_interpreter_is_too_slow_for(shape: tuple[int, ...], dtype: torch.dtype, last: bool) -> None:
    x, residual, dy = (drawn(*shape, dtype=dtype) for _ in range(3))
    if last and len(shape) > 2:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    scale, shift = drawn(shape[1]), drawn(shape[1])
    found = []
    for kernel, wide in ((KERNEL, False), (TWO_PASS, True)):
        leaves = [tensor.double() if wide else tensor.clone() for tensor in (x, scale, shift, residual)]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        y, _ = kernel.forward_batch(Call(leaves[0], None, None, None, leaves[1], leaves[2], 1e-5, "silu", leaves[3]))
        found.append((y, *torch.autograd.grad(y, leaves, dy.to(y.dtype))))
    within = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}[dtype]
    for one, other in zip(*found, strict=True):
        assert float((one - other).norm() / other.norm()) < within


def test_nothing_is_timed_in_a_captured_graph() -> None:
    from normwise.kernels.triton_gpu import tuning
    from normwise.kernels.triton_gpu.launch import device_of

    x = drawn(8, 64, 28, 28)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), pytest.raises(NormwiseError, match="while a CUDA graph is captured"):
        tuning.tune(x, device_of(x.device), lambda: None, lambda _: 0.0)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_fused_network_under_torch_compile(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_ASKED", "triton")
    model: Any = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3)).cuda()
    normwise.fuse(model)
    x = drawn(4, 3, 16, 16)
    right = model(x)
    compiled: Any = torch.compile(model, mode=mode)
    for _ in range(2):  # a graph is captured after these
        compiled(x)
    torch.testing.assert_close(compiled(x), right, rtol=1e-3, atol=1e-3)


def _rank(rank: int, folder: str) -> None:
    torch.cuda.set_device(rank)
    torch.distributed.init_process_group("nccl", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(one_of(rank, "cuda"), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU, and this needs two")
def test_two_processes_have_what_one_has(tmp_path: Path) -> None:
    """Outputs, gradients and running statistics over NCCL; ``test_triton_processes.py`` runs the same over gloo."""
    processes: Any = torch.multiprocessing
    processes.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, case in CASES.items():
        assert_as_one([part[name] for part in parts], case)
    assert all(part["calls"] == parts[0]["calls"] and all(part["calls"].values()) for part in parts)
