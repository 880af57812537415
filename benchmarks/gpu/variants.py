"""The calls whose launches are compiled: every kernel, dtype, layout, width of access, and way of cutting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu.binaries import key_of
from benchmarks.gpu.launches import Asked, Launch, launches_of
from normwise.kernels.activation_numbers import ACTIVATIONS
from normwise.kernels.triton_gpu.plan import Settings

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Images in several blocks of columns, in one, at a width that no vector divides, and a channel that one tile holds.
SIZES = ((256, 64, 56, 56), (256, 256, 14, 14), (512, 64, 7, 7), (128, 64, 8, 8))
SMALL = {False: (32, 16, 28, 28), True: (4, 256, 28, 28)}  # one launch, in which the last program does a second sweep
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
# What `normwise tune` may choose instead of the default, where it is another tile: the others cut into such tiles too.
TILES = {
    "4096 in a tile": Settings(elements=4096, warps=16),
    "1024 in a tile": Settings(elements=1024, warps=4, programs=8),
}
IN_EVERY_SIZE = ("relu", "mask, add, relu")  # all others in the first size, and not in float16
FIRST, LAST = False, True
# What is compiled without being asked for every variant: each kernel, dtype, layout, width of access and feature once.
USUAL = (
    ("float32", FIRST, SIZES[0], "relu"),
    ("float32", FIRST, SIZES[0], "mask, add, relu"),
    ("float32", FIRST, SIZES[1], "relu"),
    ("float32", FIRST, SIZES[2], "relu"),
    ("float32", FIRST, SIZES[3], "relu"),
    ("float32", FIRST, SMALL[FIRST], "relu"),
    ("float32", LAST, (128, 2048), "relu"),
    ("bfloat16", LAST, SIZES[0], "relu"),
    ("bfloat16", LAST, SIZES[0], "add, relu"),
    ("bfloat16", LAST, SIZES[0], "add, silu"),
    ("bfloat16", LAST, SIZES[0], "mask, relu"),
    ("bfloat16", LAST, SIZES[0], "add, relu, running statistics"),
    ("bfloat16", LAST, SMALL[LAST], "mask, add, relu"),
    ("float16", LAST, SIZES[0], "relu"),
)


def name_of(dtype: torch.dtype) -> str:
    """The name of a dtype, as in a table."""
    return str(dtype).removeprefix("torch.")


def calls() -> Iterator[tuple[tuple[str, bool, tuple[int, ...], str], Asked]]:
    """Every call with what it is called: dtype, whether the channels come last, size, feature."""
    for dtype in DTYPES:
        for last in (False, True):
            for size in (*SIZES, SMALL[last]):
                for feature, how in FEATURES.items():
                    few = size is not SIZES[0] or dtype is torch.float16
                    if few and feature not in IN_EVERY_SIZE:
                        continue
                    yield (name_of(dtype), last, size, feature), Asked(size, dtype, last, **how)  # type: ignore[arg-type]  # of the table above
    for activation in ACTIVATIONS:
        if activation is not None:
            yield ("float32", False, SIZES[1], activation), Asked(SIZES[1], torch.float32, False, activation)
    for tiles, settings in TILES.items():
        for dtype in DTYPES:
            for last in (False, True):
                for adds in (False, True):
                    feature = f"{'add, ' if adds else ''}relu, {tiles}"
                    asked = Asked(SIZES[0], dtype, last, adds=adds, settings=settings)
                    yield (name_of(dtype), last, SIZES[0], feature), asked
    yield ("float32", True, (128, 2048), "relu"), Asked((128, 2048), torch.float32, True)
    yield ("bfloat16", False, (4, 32, 8, 28, 28), "relu"), Asked((4, 32, 8, 28, 28), torch.bfloat16, False)


def variants(*, every: bool = False) -> list[tuple[tuple[str, bool, tuple[int, ...], str], Launch]]:
    """Every launch that is compiled to code of its own, with the first call that asks for it.

    Args:
        every: of all calls, or else of the usual ones.
    """
    found: dict[Any, tuple[tuple[str, bool, tuple[int, ...], str], Launch]] = {}
    for name, asked in sorted(calls(), key=lambda call: call[0] not in USUAL):  # these give a variant its name
        if every or name in USUAL:
            for launch in [one for part in launches_of(asked) for one in part]:
                found.setdefault(key_of(launch), (name, launch))
    return [*found.values()]
