"""The layout of the output is torch's, whatever the layout and the values of the input; and autocast is as torch's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.torch.functional import batch_norm
from tests.cases import saved_buffers

INPUTS: dict[str, Callable[[], Tensor]] = {
    "contiguous": lambda: torch.randn(4, 3, 20, 30),
    "channels last": lambda: torch.randn(4, 3, 20, 30).contiguous(memory_format=torch.channels_last),
    "channels last, few values": lambda: torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "channels last 3d": lambda: torch.randn(4, 3, 4, 9, 11).contiguous(memory_format=torch.channels_last_3d),
    "channels last, one channel": lambda: torch.randn(4, 1, 20, 30).contiguous(memory_format=torch.channels_last),
    "channels last, one pixel": lambda: torch.randn(1200, 3, 1, 1).contiguous(memory_format=torch.channels_last),
    "sequences with the features last": lambda: torch.randn(4, 400, 3).permute(0, 2, 1),
    "features": lambda: torch.randn(1200, 3),
    "features transposed": lambda: torch.randn(3, 1200).t(),
    "permuted": lambda: torch.randn(30, 3, 4, 20).permute(2, 1, 3, 0),
    "sliced": lambda: torch.randn(4, 6, 40, 30)[:, ::2, ::2],
    "sliced, channels last": lambda: torch.randn(4, 6, 40, 30).contiguous(memory_format=torch.channels_last)[:, ::2],
    "cropped, channels last": lambda: torch.randn(4, 3, 40, 30).contiguous(memory_format=torch.channels_last)[
        :, :, 5:-5
    ],
    "expanded": lambda: torch.randn(4, 3, 20, 1).expand(4, 3, 20, 30),
}


def assert_same_layout(found: Tensor, right: Tensor) -> None:
    """Assert the same layout, as far as one can tell: axes of one entry have no stride of their own."""
    strides = [
        [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]
        for tensor in (found, right)
    ]
    assert strides[0] == strides[1]


@pytest.mark.parametrize("far", [0.0, 1e5], ids=["", "far from zero"])
@pytest.mark.parametrize("how", ["training", "inference", "training, masked", "inference, masked"])
@pytest.mark.parametrize("layout", INPUTS)
def test_the_output_has_the_layout_that_torch_gives_it(layout: str, how: str, far: float) -> None:
    made = INPUTS[layout]()
    x = torch.empty_strided(made.shape, made.stride()).copy_(made + far) if layout != "expanded" else made + far
    training, masked = how.startswith("training"), how.endswith("masked")
    channels = x.shape[1]
    mean, var = torch.zeros(channels), torch.ones(channels)
    right = nn.functional.batch_norm(x, mean.clone(), var.clone(), training=training)
    mask = torch.ones((x.shape[0], *x.shape[2:]), dtype=torch.bool) if masked else None
    for activation in (None, "relu", "silu"):  # none, one in place, one that is not
        y = batch_norm(x, mean, var, training=training, activation=activation, mask=mask)
        assert_same_layout(y, right)


def test_a_residual_does_not_change_the_layout() -> None:
    x = INPUTS["channels last"]()
    for far in (0.0, 1e5):
        y = batch_norm(x + far, None, None, training=True, residual=torch.randn(4, 3, 20, 30), activation="relu")
        assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("wide", [torch.float32, torch.float64], ids=str)
def test_a_residual_does_not_change_the_dtype(low: torch.dtype, wide: torch.dtype) -> None:
    x = torch.randn(4, 3, 5).to(low)
    y = batch_norm(x, None, None, training=True, residual=torch.randn(4, 3, 5, dtype=wide))
    assert y.dtype == low


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast_as_torchs(dtype: torch.dtype, training: bool) -> None:
    results = []
    for module in (nt, nn):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), module.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)).train(training)
        x = torch.randn(2, 3, 8, 8, requires_grad=True)
        with torch.autocast("cpu", dtype):
            y = model(x)
        assert y.dtype == dtype
        y.float().pow(2).sum().backward()
        results.append([y, x.grad, *(parameter.grad for parameter in model.parameters()), *saved_buffers(model)])
    for found, right in zip(*results, strict=True):
        assert found is not None
        assert right is not None
        assert found.dtype == right.dtype
        assert torch.equal(found, right)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_new_features_under_autocast(dtype: torch.dtype, activation: str | None, masked: bool) -> None:
    layer = nt.BatchNorm2d(4, activation=activation, momentum=None)
    mask = torch.ones(2, 6, 6, dtype=torch.bool) if masked else None
    with torch.autocast("cpu", dtype):
        x = nn.Conv2d(3, 4, 3)(torch.randn(2, 3, 8, 8))
        assert x.dtype == dtype
        y = layer(x, x, mask=mask)
    assert y.dtype == dtype
    y.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
    mean = layer.running_mean
    assert mean is not None
    torch.testing.assert_close(mean, x.detach().float().mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
