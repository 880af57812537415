"""The device of these tests: a GPU with ``make test DEVICE=cuda``; else the CPU, to see the tests pass."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

DEVICE = os.environ.get("NORMWISE_TEST_DEVICE", "cpu")
# Of the largest value: convolutions and sums of another device are in another order.
WITHIN = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
Module = TypeVar("Module", bound=nn.Module)


def moved(module: Module) -> Module:
    """A copy on the device."""
    return copy.deepcopy(module).to(DEVICE)


def assert_there(tensors: Iterable[Tensor]) -> None:
    """Every one is on the device."""
    assert {tensor.device.type for tensor in tensors} <= {DEVICE}


def assert_alike(found: Iterable[Tensor], right: Iterable[Tensor], more: float = 1.0) -> None:
    """The device has what the CPU has, to within rounding, and has it on itself."""
    found = [*found]
    assert_there(found)
    for one, other in zip(found, right, strict=True):
        assert one.dtype is other.dtype
        assert one.shape == other.shape
        if not one.dtype.is_floating_point:
            assert torch.equal(one.cpu(), other)
            continue
        size = max(1.0, float(other.detach().double().abs().max())) if other.numel() else 1.0
        within = more * WITHIN[one.dtype] * size
        torch.testing.assert_close(one.detach().cpu(), other.detach(), rtol=0, atol=within)
