"""Features that only a GPU has: streams, captured graphs, Inductor's code beside the kernels, two NCCL processes."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise
import normwise.torch as nt
from normwise.errors import NormwiseError
from normwise.kernels import choose
from normwise.kernels.kernel import Call
from normwise.kernels.two_pass import TWO_PASS
from normwise.torch.steps.triton_operators import TritonGpu
from tests.kernels.triton_gpu.device import DEVICE

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


def test_on_a_stream_of_its_own() -> None:
    x = drawn(32, 64, 56, 56)
    right, _ = KERNEL.forward_batch(Call(x))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        y, _ = KERNEL.forward_batch(Call(x))
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(y, right)


def test_in_a_captured_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_ASKED", "triton")
    layer = nt.BatchNorm2d(64, activation="relu", device="cuda")
    x = drawn(8, 64, 28, 28)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            layer(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layer(x)
    x.copy_(drawn(8, 64, 28, 28) + 5)
    graph.replay()
    right, _ = KERNEL.forward_batch(Call(x, scale=layer.weight, shift=layer.bias, activation="relu"))
    torch.testing.assert_close(y, right)


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


def _rank(rank: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    choose._ASKED = "triton"
    torch.cuda.set_device(rank)
    torch.distributed.init_process_group("nccl", rank=rank, world_size=2)
    torch.manual_seed(0)
    whole = torch.randn(8, 4, 6, 6, device="cuda")
    layer = nt.SyncBatchNorm(4, activation="relu", device="cuda")
    parallel = nn.parallel.DistributedDataParallel(layer, device_ids=[rank])
    y = parallel(whole[rank * 4 : rank * 4 + 4])
    right, _ = TWO_PASS.forward_batch(Call(whole, activation="relu"))
    torch.testing.assert_close(y, right[rank * 4 : rank * 4 + 4], rtol=1e-5, atol=1e-5)
    y.sum().backward()
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU, and this needs two")
def test_two_processes_share_their_moments() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes: Any = torch.multiprocessing
    processes.spawn(_rank, args=(port,), nprocs=2)
    assert torch.cuda.is_available()
