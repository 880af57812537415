"""Settings that were measured."""

from __future__ import annotations
from torch import Tensor
from normwise.kernels.triton_gpu.plan import Device, Settings

CHOSEN = {}


def settings_for(x: Tensor, device: Device) -> Settings:
    return CHOSEN.get("all", Settings())
