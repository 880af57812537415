"""Layers that experiments hold against batch normalization: each changes one thing of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import count

import torch
from torch import Tensor, nn

from normwise.lab.networks.stack import Stack
from normwise.torch import BatchNorm1d, LayerNorm

EPS = 1e-3
"""Added to every norm, not under a root, so that it means the same to all."""
NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "l2": lambda deviations: deviations.square().mean(dim=2, keepdim=True).add(EPS**2).sqrt(),
    "l1": lambda deviations: deviations.abs().mean(dim=2, keepdim=True),
    "linf": lambda deviations: deviations.abs().amax(dim=2, keepdim=True),
}


class NormOfBatch(nn.Module):
    """Deviations from the batch's mean over a norm of them, then scale and shift; (1, channels, images) in and out.

    Args:
        channels: how many.
        norm: a name in ``NORMS``.
        weight_of_new: of a batch in the averages for inference, which are debiased.
    """

    def __init__(self, channels: int, norm: str, weight_of_new: float = 0.1) -> None:
        super().__init__()
        self.norm, self.weight_of_new, self.seen = NORMS[norm], weight_of_new, 0.0
        self.scale = nn.Parameter(torch.ones(1, channels, 1))
        self.shift = nn.Parameter(torch.zeros(1, channels, 1))
        self.mean = torch.zeros(1, channels, 1)
        self.size = torch.zeros(1, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize by the batch in training, by the averages in inference."""
        if self.training:
            mean = x.mean(dim=2, keepdim=True)
            size = self.norm(x - mean)
            self.seen += self.weight_of_new * (1 - self.seen)
            self.mean += (self.weight_of_new / self.seen) * (mean.detach() - self.mean)
            self.size += (self.weight_of_new / self.seen) * (size.detach() - self.size)
        else:
            mean, size = self.mean, self.size
        return (x - mean) / (size + EPS) * self.scale + self.shift


class Noise(nn.Module):
    """Something, and behind it noise whose mean and variance are other ones at every step; it draws from a seed."""

    def __init__(self, inner: nn.Module, channels: int, seed: int, strength: float = 1.0) -> None:
        super().__init__()
        self.inner, self.channels, self.strength = inner, channels, strength
        self.on = False
        """True if the noise is there in inference too."""
        self.source = torch.Generator().manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (1, channels, images) in and out."""
        y: Tensor = self.inner(x)
        if not (self.training or self.on):
            return y
        mu = torch.rand(1, self.channels, 1, generator=self.source) - 0.5
        sigma = 0.25 * torch.rand(1, self.channels, 1, generator=self.source)
        factor = sigma + 0.1 * torch.randn(y.shape, generator=self.source)
        term = mu + 0.2 * torch.rand(y.shape, generator=self.source) - 0.1
        return (1 + self.strength * factor) * y + self.strength * term


@contextmanager
def noise_in_inference(stack: Stack) -> Iterator[None]:
    """A context in which the noise in a stack is there in inference too."""
    layers = [layer for layer in stack.normalize if isinstance(layer, Noise)]
    for layer in layers:
        layer.on = True
    yield
    for layer in layers:
        layer.on = False


class HeldBatchNorm(nn.Module):
    """Batch normalization whose gradient takes the mean, or mean and variance, for constants.

    Args:
        features: units of the layer, or channels of a stack.
        held: "mean" or "both".
        dtype: of the parameters.
    """

    def __init__(self, features: int, held: str, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.held = held
        self.layer = BatchNorm1d(features, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, features), or (1, features, n), in and out; batch normalization's numbers, another gradient."""
        if self.training:
            with torch.no_grad():
                self.layer(x)  # for its running statistics
            over, shape = (0, *range(2, x.dim())), (-1, *(1,) * (x.dim() - 2))
            mean, var = x.mean(dim=over, keepdim=True).detach(), x.var(dim=over, correction=0, keepdim=True)
            var = var.detach() if self.held == "both" else var
            y = (x - mean) / (var + self.layer.eps).sqrt()
            return y * self.layer.weight.view(shape) + self.layer.bias.view(shape)
        out: Tensor = self.layer(x)
        return out


class LayerNorms(nn.Module):
    """Layer norm of every member of a stack: over the units of one network, for each image by itself."""

    def __init__(self, members: int, channels: int) -> None:
        super().__init__()
        self.members = members
        self.normalize = LayerNorm(channels // members, elementwise_affine=False)
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (1, channels, images) in and out."""
        y: Tensor = self.normalize(x.view(self.members, -1, x.shape[2]).transpose(1, 2)).transpose(1, 2)
        return y.reshape(x.shape) * self.weight[:, None] + self.bias[:, None]


class Shift(nn.Module):
    """A bias in the place of a normalization: what a layer without one has, in a network whose others are normalized.

    Args:
        channels: how many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (1, channels, images) in and out."""
        return x + self.bias[:, None]


def only_in(layers: Collection[int]) -> Callable[[int], nn.Module]:
    """Makes batch normalization in some layers of one network, counted from 0, and a bias in the others."""
    place = count()
    return lambda channels: BatchNorm1d(channels) if next(place) in layers else Shift(channels)
