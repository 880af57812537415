"""Every layer that ``normwise.torch`` exports, found by listing, and inputs for it: small ones and large ones."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

import normwise.torch as nt

CHANNELS = 6
SPATIAL = {"small": {1: (5,), 2: (5, 5), 3: (3, 4, 5)}, "large": {1: (2000,), 2: (45, 44), 3: (12, 13, 13)}}
SAMPLES = 12  # the large ones have more elements than ``choose.SMALL``
NAMES = [
    name for name in nt.__all__ if isinstance(getattr(nt, name), type) and issubclass(getattr(nt, name), nn.Module)
]


def axes(name: str) -> int:
    """The number of spatial axes that the layer takes."""
    found = re.search(r"(\d)d$", name)
    return int(found[1]) if found else 2


def batch(name: str, size: str = "small", samples: int = SAMPLES) -> Tensor:
    """A batch of mean 5 and deviation 2."""
    return 2 * torch.randn(samples, CHANNELS, *SPATIAL[size][axes(name)]) + 5


def made(name: str, size: str = "small", **options: Any) -> nn.Module:
    """The layer by its name, in training mode, with parameters and statistics that are not those of the start."""
    kind: Any = getattr(nt, name)
    if name.startswith("Lazy"):
        layer = kind(**options)
        layer(batch(name))
    elif name == "PerDomain":
        layer = kind(nt.BatchNorm2d(CHANNELS, **options), ["day", "night"], default="day")
    elif name == "LayerNorm":
        layer = kind(SPATIAL[size][2][-1], **options)
    elif name == "GroupNorm":
        layer = kind(2, CHANNELS, **options)
    elif name.startswith("Ghost"):
        layer = kind(CHANNELS, num_splits=3, **options)
    elif name.startswith("InstanceNorm"):
        layer = kind(CHANNELS, affine=True, track_running_stats=True, **options)
    else:
        layer = kind(CHANNELS, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(0.5, 1.5)
    layer(batch(name, size))
    module: nn.Module = layer
    return module


def numbers(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all buffers."""
    return {name: buffer.detach().clone() for name, buffer in module.named_buffers()}


def put(module: nn.Module, values: dict[str, Tensor]) -> None:
    """Back into the buffers."""
    for name, buffer in module.named_buffers():
        buffer.copy_(values[name])
