"""The calls whose launches are compiled: ResNet-50's list on three GPUs, and every option of every kernel.

The kernels' options are multiplied by few sizes only, because all combinations are thousands: ``docs/speed_on_gpus.md``
says which ones are compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from benchmarks.gpu.binaries import key_of
from benchmarks.gpu.launches import DEFAULT, H200, Asked, Launch, launches_of
from benchmarks.shapes import RESNET50_LAYERS
from normwise.kernels.activation_numbers import ACTIVATIONS
from normwise.kernels.triton_gpu.plan import Device, Settings
from normwise.kernels.triton_gpu.tuning import CANDIDATES

FLOAT32, BFLOAT16, FLOAT16 = torch.float32, torch.bfloat16, torch.float16
FIRST, LAST = False, True
# ResNet-50's list: where, in which batches, and as what. The candidates of `normwise tune` are those of batch 256.
DEVICES = (H200, Device("NVIDIA A100", 108, 40 << 20), Device("NVIDIA B200", 148, 126 << 20))
BATCHES = (256, 64, 32)
TRAINED = ((FLOAT32, FIRST), (BFLOAT16, LAST))
DTYPES = (FLOAT32, BFLOAT16, FLOAT16)
# Images in several blocks of columns, in one, at a width that no vector divides, in many parts or in a tile that holds
# a channel, and at a width that a vector divides, where a tile holds a channel or just not.
IMAGES, HELD, NARROW_HELD = (256, 64, 56, 56), (128, 64, 8, 8), (64, 512, 7, 7)
SIZES = (IMAGES, (256, 256, 14, 14), (512, 64, 7, 7), (256, 512, 7, 7), NARROW_HELD, HELD, (256, 64, 8, 8))
SMALL = {FIRST: (32, 16, 28, 28), LAST: (3, 256, 28, 28)}  # one launch, in which the last program does a second sweep
FEW = (IMAGES, HELD)  # in float16, and with everything
INSTANCES = ((1, 2048, 14, 14), (1, 2048, 56, 56))  # instance norm's samples, as channels of one
EVERYTHING = {"masked": True, "adds": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "normalize": {"activation": None},
    "add": {"activation": None, "adds": True},
    "add, relu": {"adds": True},
    "mask, relu": {"masked": True},
    "mask, add, gelu": {"masked": True, "adds": True, "activation": "gelu"},
    "mask, add, silu": {"masked": True, "adds": True, "activation": "silu"},
    "mask for each channel, relu": {"masked": True, "each": True},
    "mask for each channel, add, relu": {"masked": True, "each": True, "adds": True},
    "mask for each channel, add, silu": {"masked": True, "each": True, "adds": True, "activation": "silu"},
    "mask for each channel, relu, running statistics": {"masked": True, "each": True, "by_batch": False},
    "relu, running statistics": {"by_batch": False},
    "add, relu, running statistics": {"by_batch": False, "adds": True},
    "relu, running statistics, x frozen": {"by_batch": False, "wants_x": False},
    "relu, x frozen": {"wants_x": False},
    "add, relu, residual frozen": {"adds": True, "wants_residual": False},
    "add, relu, no gradient": {"adds": True, "trains": False},
    "add, relu, running statistics, no gradient": {"by_batch": False, "adds": True, "trains": False},
    "mask, relu, running statistics": {"by_batch": False, "masked": True},
    "relu, no scale or shift": {"parameters": None},
    "relu, no shift": {"shifted": False},
    "relu, bfloat16 parameters": {"parameters": BFLOAT16},
    "relu, running statistics, float64 parameters": {"by_batch": False, "parameters": torch.float64},
    "moments": {"moments_only": True},
    "mask, moments": {"moments_only": True, "masked": True},
    "mask for each channel, moments": {"moments_only": True, "masked": True, "each": True},
}
ACTIVATED = [name for name in ACTIVATIONS if name is not None]
# Each kernel in one dtype and layout: with two launches for a piece and three, in a tile, and by the last program.
OF_KERNELS = ((FLOAT32, FIRST, IMAGES), (BFLOAT16, LAST, IMAGES), (FLOAT32, FIRST, HELD), (BFLOAT16, LAST, SMALL[LAST]))
THREE_LAUNCHES = (OF_KERNELS[1],)  # of kernels that compute an activation, there are no others than in two launches
# The rows of the page.
USUAL = (
    ("float32", FIRST, IMAGES, "relu"),
    ("float32", FIRST, IMAGES, "mask, add, relu"),
    ("float32", FIRST, (256, 256, 14, 14), "relu"),
    ("float32", FIRST, (256, 512, 7, 7), "relu"),
    ("float32", FIRST, (256, 2048, 7, 7), "add, relu"),
    ("float32", FIRST, NARROW_HELD, "relu"),
    ("float32", FIRST, HELD, "relu"),
    ("float32", FIRST, HELD, "mask, add, gelu"),
    ("float32", FIRST, (256, 64, 8, 8), "relu"),
    ("float32", FIRST, SMALL[FIRST], "relu"),
    ("float32", LAST, (128, 2048), "relu"),
    ("bfloat16", LAST, IMAGES, "relu"),
    ("bfloat16", LAST, IMAGES, "add, relu"),
    ("bfloat16", LAST, IMAGES, "mask, add, silu"),
    ("bfloat16", LAST, IMAGES, "add, relu, running statistics"),
    ("bfloat16", LAST, SMALL[LAST], "mask, add, relu"),
    ("float16", LAST, IMAGES, "relu"),
)


class Name(NamedTuple):
    """The name of a call."""

    dtype: str
    last: bool
    size: tuple[int, ...]
    feature: str


def named(asked: Asked, feature: str) -> Name:
    """The name of a call with such a feature."""
    return Name(str(asked.dtype).removeprefix("torch."), asked.last, asked.size, feature)


def resnet50(candidates: tuple[Settings, ...]) -> Iterator[tuple[Name, Asked, Device]]:
    """The calls of ResNet-50's list: each layer with a ReLU, and with an addition where the network has one."""
    for settings in candidates:
        for batch in BATCHES if settings == DEFAULT else BATCHES[:1]:
            for device in DEVICES:
                for dtype, last in TRAINED:
                    for layer in RESNET50_LAYERS:
                        for adds in (False, True):
                            if layer.adding if adds else layer.count > layer.adding:
                                feature = f"{'add, ' if adds else ''}relu{_apart(settings)}"
                                asked = Asked((batch, *layer.size[1:]), dtype, last, adds=adds, settings=settings)
                                yield named(asked, feature), asked, device


def _apart(settings: Settings) -> str:
    """The values in which settings differ from the default, for a name."""
    usual = DEFAULT._asdict()
    return "".join(f", {name} {value}" for name, value in settings._asdict().items() if value != usual[name])


def options() -> Iterator[tuple[Name, Asked, Device]]:
    """The calls for every option of a kernel."""
    for dtype in DTYPES:
        for last in (FIRST, LAST):
            for size in (*(FEW if dtype is FLOAT16 else SIZES), SMALL[last]):
                yield _call(size, dtype, last, "relu", {})
            for size in (*FEW, SMALL[last]):
                yield _call(size, dtype, last, "mask, add, relu", EVERYTHING)
    for dtype in DTYPES:
        yield _call(NARROW_HELD, dtype, FIRST, "mask, add, relu", EVERYTHING)
        yield _call((512, 64, 7, 7), dtype, FIRST, "mask, add, relu", EVERYTHING)
        for size in (NARROW_HELD, *INSTANCES):
            yield _call(size, dtype, FIRST, "mask for each channel, add, relu", {**EVERYTHING, "each": True})
    for dtype, last, size in OF_KERNELS:
        for feature, how in OPTIONS.items():
            yield _call(size, dtype, last, feature, how)
        for name in ACTIVATED if (dtype, last, size) not in THREE_LAUNCHES else ():
            yield _call(size, dtype, last, f"add, {name}", {"adds": True, "activation": name})
    yield _call((128, 2048), FLOAT32, LAST, "relu", {})
    whole = DEFAULT._replace(alone=4 << 20)  # the most partial results that the last program may put together
    yield _call((60, 1, 128, 128), FLOAT32, FIRST, f"relu{_apart(whole)}", {"settings": whole})
    yield _call((4, 32, 8, 28, 28), BFLOAT16, FIRST, "relu", {})


def _call(
    size: tuple[int, ...], dtype: torch.dtype, last: bool, feature: str, how: dict[str, Any]
) -> tuple[Name, Asked, Device]:
    asked = Asked(size, dtype, last, **how)
    return named(asked, feature), asked, H200


def variants() -> list[tuple[Name, Launch]]:
    """Every launch that is compiled to code of its own, with the first call that asks for it."""
    found: dict[Any, tuple[Name, Launch]] = {}
    calls = [*resnet50((DEFAULT,)), *options(), *resnet50(CANDIDATES[1:])]
    for name, asked, device in sorted(calls, key=lambda call: call[0] not in USUAL):  # these give a variant its name
        for launch in [one for part in launches_of(asked, device) for one in part]:
            found.setdefault(key_of(launch), (name, launch))
    return [*found.values()]
