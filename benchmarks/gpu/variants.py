"""The calls whose launches are compiled: every kernel, dtype, layout, width of access, and way of cutting."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.gpu.binaries import key_of
from benchmarks.gpu.launches import Asked, Launch, launches_of
from normwise.kernels.activation_numbers import ACTIVATIONS

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Images in several blocks of columns, in one, at a width that no vector divides, and a channel that one tile holds.
SIZES = ((256, 64, 56, 56), (256, 256, 14, 14), (512, 64, 7, 7), (128, 64, 8, 8))
FEATURES: dict[str, dict[str, object]] = {
    "normalize": {"activation": None},
    "relu": {},
    "add, relu": {"adds": True},
    "add, silu": {"activation": "silu", "adds": True},
    "mask, relu": {"masked": True},
    "mask, add, relu": {"masked": True, "adds": True},
    "relu, running statistics": {"by_batch": False},
    "add, relu, running statistics": {"adds": True, "by_batch": False},
}
IN_EVERY_SIZE = ("relu", "mask, add, relu")  # all others in the first size
# What the page shows: the layers of ResNet-50 that weigh most, in the layout and dtype that people train in.
SHOWN = {
    ("float32", False, (256, 64, 56, 56), "relu"),
    ("float32", False, (256, 64, 56, 56), "add, relu"),
    ("float32", False, (256, 256, 14, 14), "relu"),
    ("float32", False, (512, 64, 7, 7), "relu"),
    ("float32", False, (128, 64, 8, 8), "relu"),
    ("bfloat16", True, (256, 64, 56, 56), "relu"),
    ("bfloat16", True, (256, 64, 56, 56), "add, relu"),
    ("bfloat16", True, (256, 64, 56, 56), "mask, relu"),
    ("bfloat16", True, (256, 64, 56, 56), "add, relu, running statistics"),
}


def name_of(dtype: torch.dtype) -> str:
    """As in a table."""
    return str(dtype).removeprefix("torch.")


def calls() -> Iterator[tuple[tuple[str, bool, tuple[int, ...], str], Asked]]:
    """Every call with what it is called: dtype, whether the channels come last, size, feature."""
    for dtype in DTYPES:
        for last in (False, True):
            for size in SIZES:
                for feature, how in FEATURES.items():
                    if size is not SIZES[0] and feature not in IN_EVERY_SIZE:
                        continue
                    yield (name_of(dtype), last, size, feature), Asked(size, dtype, last, **how)  # type: ignore[arg-type]  # of the table above
    for activation in ACTIVATIONS:
        if activation is not None:
            yield ("float32", False, SIZES[1], activation), Asked(SIZES[1], torch.float32, False, activation)
    yield ("float32", True, (128, 2048), "relu"), Asked((128, 2048), torch.float32, True)
    yield ("bfloat16", False, (4, 32, 8, 28, 28), "relu"), Asked((4, 32, 8, 28, 28), torch.bfloat16, False)


def variants() -> list[tuple[tuple[str, bool, tuple[int, ...], str], Launch]]:
    """Every launch that is compiled to code of its own, with the first call that asks for it."""
    found = {}
    for name, asked in calls():
        for launch in [one for part in launches_of(asked) for one in part]:
            found.setdefault(key_of(launch), (name, launch))
    return [*found.values()]
