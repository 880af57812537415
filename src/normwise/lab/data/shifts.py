"""Shifts of images of any size that need no drawing from outside: the same images are always changed alike."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from normwise.lab.data.splits import shape


def _blurred(images: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(images.view(-1, *shape()), 3, 1, 1, count_include_pad=False).flatten(1)


def _noisy(std: float) -> Callable[[Tensor], Tensor]:
    def add(images: Tensor) -> Tensor:
        return images + std * torch.randn(images.shape, generator=torch.Generator().manual_seed(len(images)))

    return add


SHIFTS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda images: images,
    "contrast 0.3": lambda images: 0.5 + 0.3 * (images - 0.5),
    "brightness + 0.3": lambda images: images + 0.3,
    "noise 0.3": _noisy(0.3),
    "noise 0.5": _noisy(0.5),
    "blur": _blurred,
    "gain 2, offset 0.5": lambda images: 2 * images + 0.5,
    "inverted": lambda images: 1 - images,
}
