"""Changes of the images of a sensor: contrast, brightness, noise, blur, and streams in which they wander."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from normwise.lab.data.splits import Digits, Split, shape

Change = Callable[[Tensor, torch.Generator], Tensor]
"""Makes changed images, of shape (n, pixels) as they are; noise is drawn from the generator."""


def _noise(size: float) -> Change:
    return lambda images, generator: images + size * torch.randn(images.shape, generator=generator)


def _blur(images: Tensor, _: torch.Generator) -> Tensor:
    square = pad(images.view(-1, *shape()), (1, 1, 1, 1), mode="replicate")
    return avg_pool2d(square, 3, stride=1).view(images.shape)


CHANGES: dict[str, Change] = {
    "contrast x .3": lambda images, _: 0.5 + 0.3 * (images - 0.5),
    "brightness + .3": lambda images, _: images + 0.3,
    "noise .3": _noise(0.3),
    "noise .5": _noise(0.5),
    "blur": _blur,
    "gain 2, brightness + .5": lambda images, _: 2 * images + 0.5,
    "inverted": lambda images, _: 1 - images,
}


def standardized(data: Digits) -> Digits:
    """The same images, each pixel with mean 0 and variance 1 over the training images; constant ones become 0."""
    mean, std = data.train.images.mean(dim=0), data.train.images.std(dim=0, correction=0)
    factor = torch.where(std > 0, 1 / std, 0.0)
    parts = (data.train, data.validation, data.test)
    return Digits(*(Split((part.images - mean) * factor, part.labels, part.rows) for part in parts))


def wandering(data: Split, steps: int, size: int, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """A stream of batches whose gain and brightness wander: images and labels of each.

    Args:
        data: what the batches are drawn from, with repetition.
        steps: how many batches.
        size: images in each.
        generator: of the way and of the drawing.
    """
    way = (torch.randn(steps, 2, generator=generator) * torch.tensor([0.1, 0.05])).cumsum(dim=0)
    rows = torch.randint(len(data.labels), (steps, size), generator=generator)
    return [
        (data.images[row] * float(gain.exp()) + float(light), data.labels[row])
        for row, (gain, light) in zip(rows, way, strict=True)
    ]


CONTRAST, BRIGHTNESS, NOISE = 0.25, 0.2, 0.1
"""The strength of mild distortions: largest changes of the first two, standard deviation of the third."""


def distort(images: Tensor, times: float, generator: torch.Generator) -> Tensor:
    """Each image with another contrast and brightness and with noise.

    Args:
        images: shape (n, pixels), between 0 and 1.
        times: multiples of the mild distortions; 0: the images themselves.
        generator: of everything that is drawn.

    Returns:
        Of the same shape, within 0 and 1.
    """
    if not times:
        return images
    shifts = torch.rand(2, len(images), 1, generator=generator) * 2 - 1
    means = images.mean(dim=1, keepdim=True)
    contrasted = means + (images - means) * (1 + times * CONTRAST * shifts[0])
    noise = torch.randn(images.shape, generator=generator)
    return (contrasted + times * (BRIGHTNESS * shifts[1] + NOISE * noise)).clamp(0, 1)


def with_contrasts(data: Split, seed: int) -> Split:
    """Every image times a factor of its own between .3 and 3."""
    generator = torch.Generator().manual_seed(seed)
    factors = 0.3 * 10 ** torch.rand(len(data.images), 1, generator=generator).to(data.images.dtype)
    return Split(data.images * factors, data.labels, data.rows)
