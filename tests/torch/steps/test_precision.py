"""Half precision: the running statistics stay in float32, whatever the layer is converted to."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from tests.cases import gradients, running

NARROW = [torch.bfloat16, torch.float16]
CONVERSIONS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "bfloat16()": lambda layer: layer.bfloat16(),
    "half()": lambda layer: layer.half(),
    "to(bfloat16)": lambda layer: layer.to(torch.bfloat16),
    "to(a tensor of it)": lambda layer: layer.to(torch.zeros((), dtype=torch.float16)),
    "within a model": lambda layer: nn.Sequential(layer).bfloat16()[0],
    "made so": lambda layer: type(layer)(3, dtype=torch.bfloat16, estimator=layer.estimator),
}


def batch(dtype: torch.dtype, seed: int = 0, *shape: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape or (4, 3, 5, 5), generator=draw).to(dtype)


def stream(layer: nn.Module, steps: int) -> float:
    """The running mean after batches of mean 3."""
    for step in range(steps):
        layer(batch(torch.bfloat16, step, 8, 1, 8) + 3)
    return float(running(layer)[0])


def test_torchs_running_mean_stands_still_in_bfloat16() -> None:
    # A step of 0.01 * (3 - 2) is less than half the distance to the next number.
    assert stream(nn.BatchNorm1d(1, momentum=0.01).bfloat16(), 1000) < 2.3


def test_ours_arrives() -> None:
    assert stream(nt.BatchNorm1d(1, momentum=0.01).bfloat16(), 1000) == pytest.approx(3, abs=0.02)


@pytest.mark.parametrize("estimator", [None, "pooled"])
@pytest.mark.parametrize("how", CONVERSIONS)
def test_statistics_are_not_converted_to_half_precision(how: str, estimator: str | None) -> None:
    layer = nt.BatchNorm2d(3, estimator=estimator)
    layer(batch(torch.float32))
    right = [value.clone() for value in running(layer)]
    layer = CONVERSIONS[how](layer)  # type: ignore[assignment]
    assert layer.weight.dtype in NARROW
    for buffer, value in zip(running(layer), right, strict=True):
        assert buffer.dtype == torch.float32
        if how != "made so":
            assert torch.equal(buffer, value)  # not through half precision and back
    for name, buffer in layer.named_buffers():
        assert buffer.dtype == (torch.float32 if name in ("running_mean", "running_var") else torch.int64)


def test_float64_is_a_conversion_to_more_and_back() -> None:
    layer = nt.BatchNorm2d(3).double()
    assert {buffer.dtype for buffer in running(layer)} == {torch.float64}
    assert {buffer.dtype for buffer in running(layer.float())} == {torch.float32}
    assert {buffer.dtype for buffer in running(layer.double().half())} == {torch.float32}
    assert {buffer.dtype for buffer in running(nt.BatchNorm2d(3, dtype=torch.float64))} == {torch.float64}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (64, 3, 32, 32)], ids=["small", "large"])
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_half_precision_parameters_work_with_float32_statistics(
    dtype: torch.dtype, shape: tuple[int, ...], training: bool
) -> None:
    layer = nt.BatchNorm2d(3)
    nn.init.uniform_(layer.weight)
    nn.init.uniform_(layer.bias)
    layer.to(dtype).train(training)
    plain = nn.BatchNorm2d(3).train(training)
    with torch.no_grad():
        plain.weight.copy_(layer.weight)
        plain.bias.copy_(layer.bias)
    x, y = (batch(dtype, 0, *shape).requires_grad_() for _ in range(2))
    found, right = layer(x), plain(y)
    torch.testing.assert_close(found, right)
    dy = batch(dtype, 1, *shape)
    found.backward(dy)
    right.backward(dy)
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == dtype
    torch.testing.assert_close(x.grad, y.grad)
    for mine, theirs in zip(gradients(layer.weight, layer.bias), gradients(plain.weight, plain.bias), strict=True):
        torch.testing.assert_close(mine.float(), theirs, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(running(layer), running(plain))


@pytest.mark.parametrize("settings", [{"estimator": "pooled"}, {"momentum": None}, {"activation": "silu"}], ids=str)
def test_every_path_takes_half_precision(settings: dict[str, Any]) -> None:
    layer, wide = nt.BatchNorm2d(3, **settings).bfloat16(), nt.BatchNorm2d(3, **settings)
    x, mask = batch(torch.bfloat16), batch(torch.float32, 2, 4, 5, 5) > 0
    for arguments in ({}, {"mask": mask}, {"residual": batch(torch.bfloat16, 1)}):
        torch.testing.assert_close(layer(x, **arguments), wide(x, **arguments))
        torch.testing.assert_close(layer.eval()(x, **arguments), wide.eval()(x, **arguments))
        layer.train()
        wide.train()
    torch.testing.assert_close(running(layer), running(wide))


def test_checkpoints_of_torchs_layers_in_half_precision_load_both_ways() -> None:
    theirs = nn.BatchNorm2d(3).bfloat16()
    theirs(batch(torch.bfloat16))
    for ours in (nt.BatchNorm2d(3), nt.BatchNorm2d(3).bfloat16()):
        ours.load_state_dict(theirs.state_dict())
        for mine, right in zip(running(ours), running(theirs), strict=True):
            assert mine.dtype == torch.float32
            assert torch.equal(mine, right.float())
        theirs.load_state_dict(ours.state_dict())
    assigned = nt.BatchNorm2d(3)
    assigned.load_state_dict(theirs.state_dict(), assign=True)
    assert {buffer.dtype for buffer in running(assigned)} == {torch.float32}


def test_lazy_layers_keep_their_statistics_in_float32() -> None:
    for layer, dtype in (
        (nt.LazyBatchNorm2d(dtype=torch.bfloat16), torch.bfloat16),
        (nt.LazyBatchNorm2d().half(), torch.float16),
    ):
        layer(batch(dtype))
        assert layer.weight.dtype == dtype
        assert {buffer.dtype for buffer in running(layer)} == {torch.float32}


def test_without_statistics_there_is_nothing_to_keep() -> None:
    layer = nt.BatchNorm2d(3, track_running_stats=False).bfloat16()
    assert layer(batch(torch.bfloat16)).dtype == torch.bfloat16


def test_meta_devices_and_copies() -> None:
    layer = nt.BatchNorm2d(3, device="meta").bfloat16()
    assert {buffer.dtype for buffer in running(layer)} == {torch.float32}
    layer = layer.to_empty(device="cpu")
    layer.reset_parameters()
    twin = copy.deepcopy(layer)
    torch.testing.assert_close(twin(batch(torch.bfloat16)), layer(batch(torch.bfloat16)))
    assert {buffer.dtype for buffer in running(twin)} == {torch.float32}


def test_autocast_with_a_converted_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nt.BatchNorm2d(3)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(batch(torch.float32)).dtype == torch.bfloat16
