"""Small convolutional networks for images as small as 8 x 8: of Inception blocks, and a plain chain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

from normwise.lab.data.changes import with_contrasts
from normwise.lab.data.splits import CLASSES, Split, shape
from normwise.lab.networks.dense import ACTIVATIONS, Norm, Place, draw, he

LAYOUT = torch.channels_last
"""Layout of the images: on a CPU, a step on 28 x 28 pixels takes less time in it, and one on 8 x 8 about the same."""


class Unit(nn.Module):
    """activate(normalize(convolution(x))), of the same height and width; no bias in front of a normalization.

    Args:
        before: channels of x.
        after: channels of the result.
        kernel: height and width of the filters, odd.
        activation: a name in ``ACTIVATIONS``.
        norm: makes the normalization from the channels; None: none.
        place: the normalization comes before or after the activation.
    """

    def __init__(
        self, before: int, after: int, kernel: int, activation: str, norm: Norm | None, place: Place = "before"
    ) -> None:
        super().__init__()
        self.place = place
        bias = norm is None or place == "after"
        self.convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=bias)
        self.normalize = norm(after) if norm else nn.Identity()
        self.activate = ACTIVATIONS[activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map shape (n, before, h, w) to (n, after, h, w)."""
        z = self.convolution(x)
        out: torch.Tensor = (
            self.activate(self.normalize(z)) if self.place == "before" else self.normalize(self.activate(z))
        )
        return out


class Inception(nn.Module):
    """Four branches side by side: 1x1, 3x3, two 3x3 in the place of a 5x5, and pooling; 1x1 reduces before each.

    Args:
        before: channels of x.
        width: channels of each branch, so that the result has four times as many.
        activation: a name in ``ACTIVATIONS``.
        norm: makes the normalization from the channels; None: none.

    References:
        C. Szegedy et al., Going Deeper with Convolutions, 2015; two 3x3 as in Ioffe & Szegedy 2015, appendix.
    """

    def __init__(self, before: int, width: int, activation: str, norm: Norm | None) -> None:
        super().__init__()

        def unit(inputs: int, kernel: int) -> Unit:
            return Unit(inputs, width, kernel, activation, norm)

        self.branches = nn.ModuleList(
            (
                unit(before, 1),
                nn.Sequential(unit(before, 1), unit(width, 3)),
                nn.Sequential(unit(before, 1), unit(width, 3), unit(width, 3)),
                nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), unit(before, 1)),
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map shape (n, before, h, w) to (n, 4 width, h, w)."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class Convolutional(nn.Module):
    """A 3x3 convolution, an Inception block, pooling by 2, an Inception block, the mean over positions, a readout.

    Args:
        width: channels of the first convolution and of every branch of the blocks.
        activation: a name in ``ACTIVATIONS``.
        norm: makes the normalization from the channels; None: none.
        seed: of the initial weights, which are of He's scale and the same with and without a normalization.
        blocks: how many Inception blocks; the pooling comes after the first.
    """

    def __init__(self, *, width: int, activation: str, norm: Norm | None, seed: int, blocks: int = 2) -> None:
        super().__init__()
        self.first = Unit(shape()[0], width, 3, activation, norm)
        self.blocks = nn.ModuleList(
            Inception(width if place == 0 else 4 * width, width, activation, norm) for place in range(blocks)
        )
        self.readout = nn.Linear(4 * width if blocks else width, CLASSES)
        _begin(self, he, seed)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of shape (n, classes) from images of shape (n, pixels)."""
        x = self.first(_laid_out(images))
        for place, block in enumerate(self.blocks):
            x = block(x)
            if place == 0:
                x = nn.functional.max_pool2d(x, 2)
        logits: torch.Tensor = self.readout(x.mean(dim=(2, 3)))
        return logits


class Chain(nn.Module):
    """3x3 convolutions one behind the other, pooling by 2 behind the first, the mean over positions, a readout.

    Args:
        widths: channels of each convolution.
        norm: makes the normalization of each convolution from the channels; None: none.
        behind: what stands behind each layer (behind the first, behind the pooling) except the last; None: nothing.
        activation: a name in ``ACTIVATIONS``.
        place: the normalization comes before or after the activation.
        std: standard deviation of the initial weights from the number of inputs of a unit.
        seed: of the initial weights, which are the same with and without a normalization.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        norm: Norm | None,
        seed: int,
        behind: Callable[[], nn.Module] | None = None,
        activation: str = "relu",
        place: Place = "before",
        std: Callable[[int], float] = he,
    ) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            Unit(before, after, 3, activation, norm, place) for before, after in pairwise((shape()[0], *widths))
        )
        self.behind = nn.ModuleList(behind() if behind else nn.Identity() for _ in range(len(widths) - 1))
        self.readout = nn.Linear(widths[-1], CLASSES)
        _begin(self, std, seed)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of shape (n, classes) from images of shape (n, pixels)."""
        x = _laid_out(images)
        for place, unit in enumerate(self.units):
            x = unit(x)
            x = nn.functional.max_pool2d(x, 2) if place == 0 else x
            x = self.behind[place](x) if place < len(self.behind) else x
        logits: torch.Tensor = self.readout(x.mean(dim=(2, 3)))
        return logits


def _begin(network: nn.Module, std: Callable[[int], float], seed: int) -> None:
    """Draw the weights, and lay them out as the images are."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            draw(layer, std(layer.weight[0].numel()), generator)
    network.to(memory_format=LAYOUT)  # type: ignore[call-overload]  # PyTorch's types leave the keyword out


def _laid_out(images: torch.Tensor) -> torch.Tensor:
    """Images of shape (n, pixels) as what a convolution reads, of shape (n, channels, height, width)."""
    return images.view(len(images), *shape()).contiguous(memory_format=LAYOUT)


def changed_behind(model: Chain, images: torch.Tensor) -> float:
    """The distance between what comes out of the layers behind the activations and what goes in, over the latter."""
    shares: list[float] = []

    def compare(_: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        shares.append(float((out - given[0]).norm() / given[0].norm()))

    hooks = [layer.register_forward_hook(compare) for layer in model.behind]
    model.eval()
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return sum(shares) / len(shares)


def dependence_on_contrast(norm: Norm, data: Split, seed: int) -> float:
    """The largest change of a layer's output with the contrast of each image, over the largest output.

    The images are what comes out of a convolution without a bias, which is where the layer stands.

    Args:
        norm: makes the layer.
        data: whose first 100 images are taken.
        seed: of the convolution and of the contrasts.
    """
    data = Split(data.images[:100].double(), data.labels[:100], data.rows)  # before the factors, whose product rounds
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn(8, shape()[0], 3, 3, generator=generator, dtype=torch.float64)
    layer = norm(8).double()
    layer.eps = 1e-30  # type: ignore[assignment]  # a plain number, which nn.Module does not know

    def output(images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = layer(nn.functional.conv2d(images.view(-1, *shape()), kernel, padding=1))
        return out

    with torch.no_grad():
        plain, other = output(data.images), output(with_contrasts(data, seed).images)
    return float((plain - other).abs().max() / plain.abs().max())
