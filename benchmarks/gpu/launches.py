"""The launches that the kernels' launcher would make for a tensor, found by running it on tensors without memory."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from normwise.kernels.activation_numbers import has_one_bit, number_of
from normwise.kernels.triton_gpu import launch
from normwise.kernels.triton_gpu.constants import Line, Tile
from normwise.kernels.triton_gpu.plan import Device, Settings

KERNELS = (
    "gather",
    "finish",
    "normalize",
    "normalize_by_last",
    "normalize_held",
    "sum_gradients",
    "finish_sums",
    "normalize_gradients",
    "gradients_by_last",
    "gradients_held",
)
DEFAULT = Settings()
H200 = Device("NVIDIA H200", 132, 60 << 20)
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


class Launch(NamedTuple):
    """One launch: the kernel, its grid, and every argument by its name; options such as the number of warps apart."""

    name: str
    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, Any]

    @property
    def tile(self) -> Tile | None:
        """The layout of its tile; None for a launch that only puts partial results together."""
        return self.arguments.get("TILE")

    @property
    def line(self) -> Line:
        """The function that it computes of a normalized value."""
        found: Line = self.arguments.get("LINE", Line(0, False, False, False, False))
        return found

    @property
    def elements(self) -> int:
        """The elements of its tile: values of the tensor, or channels whose partial results it puts together."""
        return self.tile.elements if self.tile else 0

    @property
    def threads(self) -> int:
        """The number of threads of a program."""
        return 32 * int(self.options.get("num_warps", 4))


class Asked(NamedTuple):
    """A call of a layer."""

    size: tuple[int, ...]
    dtype: torch.dtype
    last: bool  # whether the channels come last in memory
    activation: str | None = "relu"
    adds: bool = False
    masked: bool = False
    each: bool = False  # whether the mask is not the same for all channels
    by_batch: bool = True
    settings: Settings = DEFAULT  # what is tuned; the defaults, whatever this machine's user has tuned
    parameters: torch.dtype | None = torch.float32  # of scale and shift; None where there are none
    shifted: bool = True  # whether there is a shift beside the scale
    trains: bool = True  # whether there is a backward, for which bits are kept
    wants_x: bool = True
    wants_residual: bool = True
    moments_only: bool = False


class _Recorder:
    """A stand-in for a kernel."""

    def __init__(self, name: str, kernel: Any, into: list[Launch]) -> None:
        self.name, self.kernel, self.into = name, kernel, into
        self.names = [*inspect.signature(kernel.fn).parameters]

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def run(*given: Any, **named: Any) -> None:
            options = {name: named.pop(name) for name in [*named] if name not in self.names}
            arguments = {**dict(zip(self.names, given, strict=False)), **named}
            self.into.append(Launch(self.name, self.kernel, grid, arguments, options))

        return run


@contextmanager
def recorded(device: Device = H200, settings: Settings = DEFAULT) -> Iterator[list[Launch]]:
    """A block in which launches are recorded, and none runs."""
    found: list[Launch] = []
    recorders: dict[str, Any] = {name: _Recorder(name, getattr(launch, name), found) for name in KERNELS}
    with patch.multiple(launch, device_of=lambda _: device, settings_for=lambda *_: settings, **recorders):
        yield found


def tensor(size: tuple[int, ...], dtype: torch.dtype, *, last: bool) -> Tensor:
    """A tensor without memory, in a layout."""
    x = torch.empty(size, dtype=dtype, device="meta")
    return x.contiguous(memory_format=FORMATS[len(size)]) if last and len(size) > 2 else x


def launches_of(asked: Asked, device: Device = H200) -> tuple[list[Launch], list[Launch]]:
    """The launches of a forward, or of moments alone, and those of its backward, none where there is none."""
    x = tensor(asked.size, asked.dtype, last=asked.last)
    channels = asked.size[1]
    scale = None if asked.parameters is None else torch.empty(channels, device="meta", dtype=asked.parameters)
    shift = scale if asked.shifted else None
    residual = torch.empty_like(x) if asked.adds else None
    shape = (asked.size[0], channels if asked.each else 1, *asked.size[2:])
    mask = torch.empty(shape, dtype=torch.bool, device="meta") if asked.masked else None
    mean = var = None if asked.by_batch else torch.empty(channels, device="meta")
    number = number_of(asked.activation)
    bits = asked.trains and asked.adds and has_one_bit(asked.activation)
    with recorded(device, asked.settings) as forward:
        if asked.moments_only:
            launch.moments(x, mask)
            return forward, []
        _, used_mean, used_var, kept = launch.forward(x, residual, mask, scale, shift, mean, var, 1e-5, number, bits)
    if not asked.trains:
        return forward, []
    with recorded(device, asked.settings) as backward:
        left = None if bits or asked.activation is None else residual
        launch.backward(
            torch.empty_like(x), x, left, mask, scale, shift, used_mean, used_var, kept, 1e-5, number,
            asked.by_batch, asked.wants_x, asked.adds and asked.wants_residual,
        )  # fmt: skip
    return forward, backward
