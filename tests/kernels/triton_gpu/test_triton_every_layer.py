"""Every layer with the Triton kernels asked for has what it has in float64 by plain PyTorch operations."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.kernels import choose
from normwise.torch.steps.triton_operators import TritonGpu
from tests.cases import LAYOUTS
from tests.kernels.triton_gpu.device import DEVICE
from tests.torch.every_layer import CASES, C

SHAPES = {"1d": (3, C, 7), "2d": (3, C, 3, 5), "3d": (2, C, 2, 3, 5)}
DTYPES = {"float32": 1e-5, "bfloat16": 2e-2}


def trained(layer: nn.Module, kernel: str, inputs: list[Any], mask: Tensor | None = None) -> list[Tensor]:
    """The outputs of two steps in training and one in inference, their gradients, and what is saved then."""
    found = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(choose, "_ASKED", kernel)
        for training in (True, True, False):
            layer.train(training)
            leaves = [each.detach().requires_grad_() for each in inputs]
            y = layer(*leaves) if mask is None else layer(*leaves, mask=mask)
            weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64, device=y.device).view(y.shape)
            found += [y, *torch.autograd.grad((y * weights).sum(), [*leaves, *layer.parameters()])]
            inputs = [each * 1.5 + 0.5 for each in inputs]
    return [each.detach() for each in (*found, *layer.state_dict().values())]


def assert_as_in_float64(
    layer: nn.Module, inputs: list[Tensor], within: float = 1e-5, mask: Tensor | None = None
) -> None:
    """Outputs, gradients and statistics, of two equal layers."""
    twin = copy.deepcopy(layer).double()
    found = trained(layer, "triton", inputs, mask)
    right = trained(twin, "two_pass", [each.double() for each in inputs], mask)
    for one, other in zip(found, right, strict=True):
        scale = max(1.0, float(other.double().abs().max()))
        torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=within * scale)


def settled(layer: nn.Module) -> nn.Module:
    """The layer with parameters that are not all 1 or 0."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=draw) + 0.5)
    return layer


@pytest.mark.parametrize("name", CASES)
def test_every_layer(name: str) -> None:
    case = CASES[name]
    layer = case.make()
    layer(case.input(1))  # lazy ones have parameters from here on
    assert_as_in_float64(settled(layer).to(DEVICE), [case.input().to(DEVICE)])


@pytest.mark.parametrize("masked", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("adds", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "strided"])
@pytest.mark.parametrize("end", SHAPES)
def test_instance_norm(
    end: str, layout: str, dtype: str, adds: bool, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is batch norm of one sample; a mask differs from channel to channel then."""
    calls: list[tuple[int, ...]] = []
    forward = TritonGpu.forward_batch

    def spy(kernel: TritonGpu, call: Any) -> Any:
        calls.append(tuple(call.x.shape[:2]))
        return forward(kernel, call)

    monkeypatch.setattr(TritonGpu, "forward_batch", spy)
    kind = getattr(nt, f"InstanceNorm{end}")
    shape, draw = SHAPES[end], torch.Generator().manual_seed(0)
    layer = settled(kind(C, affine=True, track_running_stats=True, activation="silu", device=DEVICE))
    inputs = [torch.randn(shape, generator=draw).to(getattr(torch, dtype)) for _ in range(1 + adds)]
    mask = torch.rand(shape[0], *shape[2:], generator=draw) < 0.7
    mask[:, 0] = True
    assert_as_in_float64(
        layer,
        [LAYOUTS[layout](each).to(DEVICE) for each in inputs],
        DTYPES[dtype],
        mask.to(DEVICE) if masked else None,
    )
    assert calls == [(1, shape[0] * C)] * 2


def test_the_list_has_the_layers_that_rest_on_batch_norm() -> None:
    """``every_layer`` finds them by listing."""
    kinds = ("BatchNorm", "SyncBatchNorm", "InstanceNorm", "BatchRenorm", "GhostBatchNorm", "GroupNorm", "LayerNorm")
    assert all(any(name.startswith(kind) for name in CASES) for kind in kinds)
    assert {*product(("BatchNorm", "InstanceNorm"), SHAPES)} <= {(name[:-2], name[-2:]) for name in CASES}
