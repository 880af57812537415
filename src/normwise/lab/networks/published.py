"""ResNet50, InceptionV3 and Xception by their published lists of layers, with batch norm or without.

They have as many parameters as those of torchvision and of Keras's applications have, without auxiliary outputs. Where
there is no batch norm, convolutions have a bias.

References:
    K. He, X. Zhang, S. Ren and J. Sun, Deep Residual Learning for Image Recognition, 2015, arXiv:1512.03385.
    C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens and Z. Wojna, Rethinking the Inception Architecture for Computer
    Vision, 2015, arXiv:1512.00567.
    F. Chollet, Xception: Deep Learning with Depthwise Separable Convolutions, 2017, arXiv:1610.02357.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normwise.lab.networks.dense import Norm, draw

CLASSES = 1000
IMAGE = 3
"""Channels of an image."""
Make = Callable[..., nn.Module]
"""Makes a convolution with what stands behind it: from channels before, channels after, kernel, stride, padding."""


def unit(
    before: int,
    after: int,
    kernel: int | tuple[int, int] = 1,
    stride: int = 1,
    padding: Any = "same",
    *,
    norm: Norm | None,
    thin: int = 1,
    relu: bool = True,
    separable: bool = False,
) -> nn.Module:
    """activate(normalize(convolution(x))).

    Args:
        before: channels of x.
        after: channels of the result.
        kernel: height and width of the filters.
        stride: of the positions.
        padding: "same", for odd kernels, or a number.
        norm: makes the normalization from the channels; None: none.
        thin: by what all channels are divided, except the three of an image.
        relu: whether there is an activation.
        separable: filter each channel by itself, then mix them.
    """
    before, after = before // thin if before > IMAGE else before, after // thin
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    around = (sides[0] // 2, sides[1] // 2) if padding == "same" else padding
    shaped = partial(nn.Conv2d, kernel_size=sides, stride=stride, padding=around)
    layers: list[nn.Module] = []
    if separable:
        layers += [shaped(before, before, groups=before, bias=False)]
        shaped = partial(nn.Conv2d, kernel_size=1)
    layers += [shaped(before, after, bias=norm is None)]
    layers += [norm(after)] if norm else []
    layers += [nn.ReLU()] if relu else []
    return nn.Sequential(*layers)


class Sum(nn.Module):
    """behind(branch(x) + shortcut(x))."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module, behind: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut, self.behind = branch, shortcut, behind

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, channels, height, width) in and out."""
        out: Tensor = self.behind(self.branch(x) + self.shortcut(x))
        return out


class Branches(nn.Module):
    """The channels of several branches, one behind the other."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, channels, height, width) in and out."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def resnet50(norm: Norm | None, thin: int = 1) -> nn.Module:
    """The residual network of 50 layers; strides are in the first convolution of a block."""
    make = partial(unit, norm=norm, thin=thin)
    layers: list[nn.Module] = [make(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    before = 64
    for width, blocks, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            stride, after = first if block == 0 else 1, 4 * width
            branch = nn.Sequential(
                make(before, width, 1, stride), make(width, width, 3), make(width, after, relu=False)
            )
            shortcut = make(before, after, 1, stride, relu=False) if block == 0 else nn.Identity()
            layers.append(Sum(branch, shortcut, nn.ReLU()))
            before = after
    return nn.Sequential(*layers, *_readout(before // thin))


def xception(norm: Norm | None, thin: int = 1) -> nn.Module:
    """The network of separable convolutions, with sums around every two or three of them."""
    make, separable = (
        partial(unit, norm=norm, thin=thin),
        partial(unit, norm=norm, thin=thin, separable=True, relu=False),
    )

    def pooled(before: int, middle: int, after: int, *, relu: bool) -> nn.Module:
        branch = [*([nn.ReLU()] if relu else []), separable(before, middle, 3), nn.ReLU()]
        branch += [separable(middle, after, 3), nn.MaxPool2d(3, 2, 1)]
        return Sum(nn.Sequential(*branch), make(before, after, 1, 2, relu=False), nn.Identity())

    def middle() -> nn.Module:
        branch = [layer for _ in range(3) for layer in (nn.ReLU(), separable(728, 728, 3))]
        return Sum(nn.Sequential(*branch), nn.Identity(), nn.Identity())

    return nn.Sequential(
        make(3, 32, 3, 2, 0),
        make(32, 64, 3, 1, 0),
        pooled(64, 128, 128, relu=False),
        pooled(128, 256, 256, relu=True),
        pooled(256, 728, 728, relu=True),
        *(middle() for _ in range(8)),
        pooled(728, 728, 1024, relu=True),
        separable(1024, 1536, 3),
        nn.ReLU(),
        separable(1536, 2048, 3),
        nn.ReLU(),
        *_readout(2048 // thin),
    )


def inception_v3(norm: Norm | None, thin: int = 1) -> nn.Module:
    """The third Inception network; its blocks carry the letters of torchvision's."""
    make = partial(unit, norm=norm, thin=thin)
    return nn.Sequential(
        make(3, 32, 3, 2, 0),
        make(32, 32, 3, 1, 0),
        make(32, 64, 3),
        nn.MaxPool2d(3, 2),
        make(64, 80),
        make(80, 192, 3, 1, 0),
        nn.MaxPool2d(3, 2),
        _block_a(make, 192, 32),
        _block_a(make, 256, 64),
        _block_a(make, 288, 64),
        _block_b(make, 288),
        *(_block_c(make, width) for width in (128, 160, 160, 192)),
        _block_d(make),
        _block_e(make, 1280),
        _block_e(make, 2048),
        *_readout(2048 // thin),
    )


def _pooled(make: Make, before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), make(before, after))


def _block_a(make: Make, before: int, pool: int) -> nn.Module:
    five = nn.Sequential(make(before, 48), make(48, 64, 5))
    twice = nn.Sequential(make(before, 64), make(64, 96, 3), make(96, 96, 3))
    return Branches(make(before, 64), five, twice, _pooled(make, before, pool))


def _block_b(make: Make, before: int) -> nn.Module:
    twice = nn.Sequential(make(before, 64), make(64, 96, 3), make(96, 96, 3, 2, 0))
    return Branches(make(before, 384, 3, 2, 0), twice, nn.MaxPool2d(3, 2))


def _block_c(make: Make, width: int) -> nn.Module:
    flat, tall = (1, 7), (7, 1)
    seven = nn.Sequential(make(768, width), make(width, width, flat), make(width, 192, tall))
    sizes = ((width, width, tall), (width, width, flat), (width, width, tall), (width, 192, flat))
    twice = nn.Sequential(make(768, width), *(make(*size) for size in sizes))
    return Branches(make(768, 192), seven, twice, _pooled(make, 768, 192))


def _block_d(make: Make) -> nn.Module:
    three = nn.Sequential(make(768, 192), make(192, 320, 3, 2, 0))
    seven = nn.Sequential(make(768, 192), make(192, 192, (1, 7)), make(192, 192, (7, 1)), make(192, 192, 3, 2, 0))
    return Branches(three, seven, nn.MaxPool2d(3, 2))


def _block_e(make: Make, before: int) -> nn.Module:
    def split() -> nn.Module:
        return Branches(make(384, 384, (1, 3)), make(384, 384, (3, 1)))

    three = nn.Sequential(make(before, 384), split())
    twice = nn.Sequential(make(before, 448), make(448, 384, 3), split())
    return Branches(make(before, 320), three, twice, _pooled(make, before, 192))


def _readout(before: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, CLASSES)


PUBLISHED: dict[str, Callable[[Norm | None, int], nn.Module]] = {
    "ResNet50": resnet50,
    "InceptionV3": inception_v3,
    "Xception": xception,
}


def fans(layer: nn.Conv2d | nn.Linear) -> tuple[int, int]:
    """The number of inputs of an output, and the number of outputs of an input."""
    inside = layer.weight[0].numel()
    if isinstance(layer, nn.Linear):
        return inside, layer.out_features
    return inside, layer.out_channels // layer.groups * layer.weight[0, 0].numel()


SCALES: dict[str, Callable[[int, int], float]] = {
    "he": lambda inputs, _: math.sqrt(2 / inputs),
    "glorot": lambda inputs, outputs: math.sqrt(2 / (inputs + outputs)),
}
"""The standard deviation of initial weights from ``fans``."""


def published(name: str, *, norm: Norm | None, scale: str, seed: int, thin: int = 1) -> nn.Module:
    """One of the networks with initial weights that are the same with and without a normalization.

    Args:
        name: in ``PUBLISHED``.
        norm: makes the normalization from the channels; None: none.
        scale: of the weights, a name in ``SCALES``; biases begin at 0.
        seed: of the weights.
        thin: by what all channels are divided.
    """
    model, generator = PUBLISHED[name](norm, thin), torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            draw(layer, SCALES[scale](*fans(layer)), generator)
    return model
