"""Group, layer and instance norm of values far from zero, where PyTorch's group norm loses every digit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from normwise.errors import KernelUnavailable
from normwise.kernels import choose
from normwise.kernels.choose import built
from normwise.kernels.choose_group import CANCELS, FUSED, ONE_PASS, choose_group, choose_layer
from normwise.torch.functional import group_norm, instance_norm, layer_norm
from tests.tolerances import SAFETY, unit

FORMATS: dict[str, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels last": torch.channels_last,
}
CALLS: dict[str, tuple[Any, Any]] = {
    "group": (lambda x: group_norm(x, 8), lambda x: F.group_norm(x, 8)),
    "layer": (lambda x: layer_norm(x, x.shape[1:]), lambda x: F.layer_norm(x, x.shape[1:])),
    "instance": (instance_norm, F.instance_norm),
}


def images(far: float, name: str, *shape: int) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(shape or (4, 32, 24, 24), generator=draw) + far
    return x.contiguous(memory_format=FORMATS[name])


def off_by(y: Tensor, x: Tensor, right: Any) -> float:
    """The largest error, in standard deviations."""
    return float((y.double() - right(x.double())).abs().max())


@pytest.mark.parametrize("far", [0.0, 1e2, 1e3, 1e4])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("kind", CALLS)
def test_ours_is_right(kind: str, memory_format: str, far: float) -> None:
    ours, right = CALLS[kind]
    x = images(far, memory_format)
    # PyTorch's exact operators keep the mean as one float32, and so do scale and shift made of it.
    assert off_by(ours(x), x, right) <= SAFETY * unit(torch.float32) * (8 + far)


@pytest.mark.parametrize("far", [0.0, 1e4])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("kind", CALLS)
def test_the_elementary_operations_lose_nothing_to_the_mean(
    kind: str, memory_format: str, far: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "_ASKED", "two_pass")
    ours, right = CALLS[kind]
    x = images(far, memory_format)
    assert off_by(ours(x), x, right) <= SAFETY * unit(torch.float32) * 8


@pytest.mark.parametrize("far", [1e3, 1e4])
def test_torchs_group_norm_with_channels_last_is_wrong_by_whole_standard_deviations(far: float) -> None:
    # Should this fail one day, PyTorch has mended it: choose_group need not keep such inputs away from it.
    x = images(far, "channels last")
    assert off_by(F.group_norm(x, 8), x, lambda x: F.group_norm(x, 8)) > 1


@pytest.mark.parametrize("kind", ["layer", "instance"])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_torchs_other_operators_are_off_by_one_rounding_of_the_mean(kind: str, memory_format: str) -> None:
    right = CALLS[kind][1]
    x = images(1e4, memory_format)
    assert off_by(right(x), x, right) <= SAFETY * unit(torch.float32) * 1e4


@pytest.mark.parametrize("far", [0.0, 1e3])
def test_gradients_and_memory_format_of_group_norm_about_a_rough_mean(far: float) -> None:
    x = images(far, "channels last")
    weight, bias = torch.rand(32, requires_grad=True), torch.rand(32, requires_grad=True)
    inputs = [x.requires_grad_(), weight, bias]
    y = group_norm(x, 8, weight, bias, activation="silu")
    assert y.is_contiguous(memory_format=torch.channels_last)
    dy = images(0.0, "channels last")
    wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
    right = torch.autograd.grad(F.silu(F.group_norm(wide[0], 8, wide[1], wide[2])), wide, dy.double())
    for mine, theirs in zip(torch.autograd.grad(y, inputs, dy), right, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_far_from_zero_with_channels_last(dtype: torch.dtype) -> None:
    x = images(60.0, "channels last").to(dtype)
    assert off_by(group_norm(x, 8), x, CALLS["group"][1]) <= 2 * float(torch.finfo(dtype).eps) * 4


def test_a_channel_that_is_not_finite_stays_within_its_group() -> None:
    x = images(0.0, "channels last")
    x[1, 5, 2, 2] = float("inf")
    y = group_norm(x, 8)
    spoilt = y.isnan().reshape(4, 8, -1).any(-1)
    assert spoilt.sum() == 1
    assert bool(spoilt[1, 1])


def test_the_choice_says_why() -> None:
    x = images(0.0, "channels last")
    assert choose_group(x, masked=False, channels_last=True) is CANCELS
    assert choose_group(x, masked=False, channels_last=False) is ONE_PASS
    large = torch.zeros(4, 64, 32, 32)
    assert choose_group(large, masked=False, channels_last=False) is (FUSED if built() else ONE_PASS)
    assert choose_group(large[:, :, :8, :8].contiguous(), masked=False, channels_last=False) is ONE_PASS
    assert choose_group(large, masked=False, channels_last=False, compiling=True) is ONE_PASS
    assert choose_group(x.to("meta"), masked=False, channels_last=True) is ONE_PASS
    assert choose_layer(x, masked=False).reason == (
        "PyTorch's operator is exact here, and scales and shifts in the pass that normalizes"
    )
    assert choose_layer(x, masked=True).name == "two_pass"


@pytest.mark.parametrize("name", ["cpu", "aten"])
@pytest.mark.parametrize("kind", ["group", "layer"])
def test_a_kernel_that_is_asked_for_by_name_fails_loudly(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_ASKED", name)
    x = images(0.0, "contiguous", 2, 8, 3, 3)
    mask = torch.ones_like(x, dtype=torch.bool)
    with pytest.raises(KernelUnavailable) as error:
        group_norm(x, 2, mask=mask) if kind == "group" else layer_norm(x, (3,), mask=mask)
    assert str(error.value) == (
        f"NORMWISE_KERNEL={name} asks for kernels that know no mask of a sample's own, and one was received: unset "
        "NORMWISE_KERNEL or set it to two_pass."
    )


def test_the_cpu_kernels_refuse_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_ASKED", "cpu")
    with pytest.raises(KernelUnavailable) as error:
        group_norm(torch.zeros(2, 8, 3, device="meta"), 2)
    assert str(error.value) == (
        "NORMWISE_KERNEL=cpu asks for the CPU kernels, and a tensor on another device was received: unset "
        "NORMWISE_KERNEL."
    )
