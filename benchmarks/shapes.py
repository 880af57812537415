"""Every shape that is measured, with the network it comes from and how often it stands there."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

RESNET50 = "ResNet-50, batch 32"


@dataclass(frozen=True)
class Shape:
    """The shape of one batch-norm layer's input.

    Args:
        name: short, unique.
        size: (N, C, *spatial).
        network: where it comes from.
        count: how many layers of the network have it.
        adding: how many of these are followed by an addition before the activation.
    """

    name: str
    size: tuple[int, ...]
    network: str
    count: int = 1
    adding: int = 1

    @property
    def elements(self) -> int:
        return prod(self.size)

    @property
    def layouts(self) -> tuple[str, ...]:
        """(N, C) has one layout in memory, and in it the channels are last."""
        return ("last",) if len(self.size) == 2 else ("first", "last")


def _images(channels: int, side: int, count: int, adding: int = 0) -> Shape:
    return Shape(f"{channels}@{side}", (32, channels, side, side), RESNET50, count, adding)


# In the order of the network. 224x224 images; He et al. 2015, table 1.
RESNET50_LAYERS = (
    _images(64, 112, 1),
    _images(64, 56, 6),
    _images(256, 56, 4, adding=3),
    _images(128, 56, 1),
    _images(128, 28, 7),
    _images(512, 28, 5, adding=4),
    _images(256, 28, 1),
    _images(256, 14, 11),
    _images(1024, 14, 7, adding=6),
    _images(512, 14, 1),
    _images(512, 7, 5),
    _images(2048, 7, 4, adding=3),
)

VOLUMES = tuple(
    Shape("x".join(map(str, size)), size, "residual network on volumes, batch 1")
    for size in ((1, 64, 16, 56, 56), (1, 128, 8, 28, 28), (1, 256, 4, 14, 14), (1, 512, 2, 7, 7))
)

FEATURES = (
    Shape("128x2048", (128, 2048), "head of a wide classifier, batch 128"),
    Shape("3136x256", (3136, 256), "projection of 56x56 places, batch 1"),
    Shape("64x128", (64, 128), "hidden layer of a small network, batch 64"),
)

TINY = (Shape("4x8x10x10", (4, 8, 10, 10), "a test's network: nothing but the overhead of the call"),)

ALL = (*RESNET50_LAYERS, *VOLUMES, *FEATURES, *TINY)

# A few that say most: out of cache, in cache, followed by an addition, and nothing but overhead.
QUICK = tuple(shape for shape in ALL if shape.name in {"64@56", "256@14", "512@28", "64x128", "4x8x10x10"})
