"""A model, and not a measurement: the bytes that reach memory, from the launches and a rule for the cache.

The rule: a tensor that a piece's first sweep has read is found in the second-level cache by the second sweep, up to the
share of the cache that a piece may take; what is written goes to memory once. A tile that holds a channel reads once.
Partial sums, a channel's own numbers and the mask are left out: less than a hundredth of a tensor.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from benchmarks.gpu.launches import DEFAULT, H200, Asked, Launch, launches_of
from benchmarks.shapes import RESNET50_LAYERS
from normwise.kernels.triton_gpu.plan import Device, Settings

BATCH = 256
# Reads and writes of one tensor, forward and backward: the floor, PyTorch's operators one after the other, and the
# scheme that Inductor fuses, which reads x (and dy) twice. Without and with an addition.
FLOOR = {False: (2.0, 3.0), True: (3.0, 4.0)}
EAGER = {False: (5.0, 8.0), True: (8.0, 8.0)}
INDUCTOR = {False: (3.0, 5.0), True: (4.0, 6.0)}


class Traffic(NamedTuple):
    """The traffic of one layer, forward and backward: tensors moved, and launches."""

    forward: float
    backward: float
    forward_launches: int
    backward_launches: int

    @property
    def launches(self) -> int:
        """The launches of both, forward and backward."""
        return self.forward_launches + self.backward_launches


def traffic(asked: Asked, device: Device = H200) -> Traffic:
    """The model's answer for one layer, in units of its tensor."""
    forward, backward = launches_of(asked, device)
    room = device.cache * asked.settings.share
    return Traffic(_moved(forward, room), _moved(backward, room), len(forward), len(backward))


def _moved(launches: list[Launch], room: float) -> float:
    """The reads and writes of the launches, less what the second sweep finds in the cache, in units of the tensor."""
    x = launches[0].arguments["x"]
    whole = x.numel() * x.element_size()
    found = 0.0
    for launch in launches:
        share = _share(launch)
        reads, writes, bits = moved(launch)
        found += (reads + writes + bits) * share
        found -= min(_again(launch, launches) * share, room / whole)
    return found


def _share(launch: Launch) -> float:
    """The share of the tensor that a launch works on; 0 for one that only puts partial results together."""
    if launch.tile is None:
        return 0.0
    of_group = launch.tile.across if launch.tile.last else 1
    channels: int = launch.arguments["channels"]
    return min(launch.grid[0] * of_group, channels) / channels


READS = {"gather": 1, "normalize": 1, "normalize_held": 1, "normalize_by_last": 2, "gradients_by_last": 4}
WRITES = {"normalize": 1, "normalize_held": 1, "normalize_by_last": 1, "normalize_gradients": 1, "gradients_by_last": 1}


def moved(launch: Launch) -> tuple[float, float, float]:
    """Tensors that a launch reads and writes, and the bits beside them."""
    if launch.tile is None:
        return 0.0, 0.0, 0.0
    given, sweeps = launch.arguments, 2 if launch.name == "gradients_by_last" else 1
    reads = READS.get(launch.name, 2) + sweeps * launch.line.residual
    writes = WRITES.get(launch.name, 0) + bool(given.get("WANTS_X")) + bool(given.get("WANTS_RESIDUAL"))
    return reads, writes, sweeps * launch.line.bits / (8 * given["x"].element_size())


def _again(launch: Launch, launches: list[Launch]) -> int:
    """The number of tensors that a launch reads and that a sweep before it has read."""
    swept = any(one.name in ("gather", "sum_gradients") for one in launches)
    again = {"normalize": 1, "normalize_gradients": 2} if swept else {"normalize_by_last": 1, "gradients_by_last": 2}
    with_residual = launch.name in ("normalize_gradients", "gradients_by_last") and launch.line.residual
    return again.get(launch.name, 0) + with_residual


class Row(NamedTuple):
    """One kind of layer: how often it stands in ResNet-50, and the model's answer for it."""

    name: str
    layers: int
    adds: bool
    megabytes: float  # of its tensor
    ours: Traffic


def rows(dtype: torch.dtype, *, last: bool, settings: Settings = DEFAULT) -> list[Row]:
    """ResNet-50's batch norms, each followed by a ReLU, some after an addition."""
    found = []
    for shape in RESNET50_LAYERS:
        for adds, count in ((False, shape.count - _adding(shape)), (True, _adding(shape))):
            if count:
                asked = Asked((BATCH, *shape.size[1:]), dtype, last, adds=adds, settings=settings)
                megabytes = shape.elements // shape.size[0] * BATCH * dtype.itemsize / 1e6
                found.append(Row(shape.name, count, adds, megabytes, traffic(asked)))
    return found


def _adding(shape: object) -> int:
    """The number of layers of the shape that have an addition behind them; a shape's default says 1 where it is 0."""
    adding: int = getattr(shape, "adding", 0)
    return adding
