"""Dense networks of one shape side by side, as one network: the arms of a sweep, trained in about the time of one.

A step of one small network is mostly the price of calling operations. Networks that differ only in their rate, in the
scale of their initial weights or in their dropout can share the calls: their weights lie behind each other, and the
channels of all of them go through one normalization layer, which treats channels apart anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from normwise.lab.data.splits import CLASSES, pixels
from normwise.lab.networks.dense import ACTIVATIONS, he
from normwise.torch import BatchNorm1d, GhostBatchNorm1d

Normalization = Callable[[int], nn.Module]
"""Makes a layer for so many channels; its input has the shape (1, channels, images)."""


class Ghost(nn.Module):
    """Batch normalization in a stack by parts of the batch: each part of ``size`` images by its own statistics."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.layer = GhostBatchNorm1d(channels, virtual_batch_size=1)  # a part is one sample of ``size`` positions

    def forward(self, x: Tensor) -> Tensor:
        """Shape (1, channels, images) in and out."""
        _, channels, images = x.shape
        if not self.training or images == self.size:
            out: Tensor = self.layer(x)
            return out
        parts: Tensor = self.layer(x.view(channels, images // self.size, self.size).transpose(0, 1).contiguous())
        return parts.transpose(0, 1).reshape(1, channels, images)


class Together(nn.Module):
    """Networks of one shape side by side, which ``training.stacks`` trains.

    The values of each member lie behind each other in every parameter. Its logits have the shape (members, classes, n).
    """

    members: int
    weights: nn.ParameterList
    """Those that a penalty is on."""


class Stack(Together):
    """``members`` networks like ``dense.Dense``, which begin with the same weights and see the same images.

    Args:
        members: how many networks.
        depth: how many hidden layers.
        width: units in each.
        activation: a name in ``dense.ACTIVATIONS``, or "linear".
        normalize: makes the normalization of a layer; None: there is none.
        std: standard deviation of the initial weights from the number of inputs of a unit; biases begin at 0.
        seed: of the initial weights and of the dropout.
        scales: by what each member's initial hidden weights are multiplied; empty: by 1.
        dropout: each member's share of units that are left out; empty: none.
        dropout_last_only: leave units out in the last hidden layer only instead of in all.
        after: normalize behind the activation instead of before it; the linear part then has a bias.
        dtype: of parameters and statistics.
    """

    def __init__(
        self,
        members: int,
        *,
        depth: int,
        width: int,
        activation: str = "relu",
        normalize: Normalization | None,
        std: Callable[[int], float] = he,
        seed: int,
        scales: Sequence[float] = (),
        dropout: Sequence[float] = (),
        dropout_last_only: bool = False,
        after: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.members, self.depth, self.after, self.last_only = members, depth, after, dropout_last_only
        self.activate = ACTIVATIONS.get(activation, nn.Identity())
        self.drop = torch.tensor(dropout, dtype=dtype).view(-1, 1, 1) if any(dropout) else None
        self.masks = torch.Generator().manual_seed(seed)
        initial = torch.Generator().manual_seed(seed)
        times = torch.tensor(scales or [1.0] * members, dtype=dtype).view(-1, 1, 1)
        weights = []
        for i, (before, behind) in enumerate(pairwise([pixels()] + [width] * depth + [CLASSES])):
            weight = torch.empty(behind, before, dtype=dtype).normal_(0.0, std(before), generator=initial)
            weights.append(nn.Parameter(weight * (times if i < depth else torch.ones_like(times))))
        self.weights = nn.ParameterList(weights)
        biased = normalize is None or after
        sizes = ([width] * depth if biased else []) + [CLASSES]
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(members, size, 1, dtype=dtype)) for size in sizes)
        self.normalize = nn.ModuleList(
            nn.Identity() if normalize is None else normalize(members * width).to(dtype) for _ in range(depth)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (members, classes, n) from images of shape (n, pixels)."""
        x = images.T.expand(self.members, *images.T.shape)
        for i in range(self.depth):
            x = self.weighted(i, x)
            x = self.normalized(i, self.activate(x)) if self.after else self.activate(self.normalized(i, x))
            if self.training and self.drop is not None and (not self.last_only or i == self.depth - 1):
                kept = torch.rand(x.shape, generator=self.masks, dtype=x.dtype) >= self.drop
                x = x * kept / (1 - self.drop)
        return self._linear(-1, x)

    def normalized(self, layer: int, x: Tensor) -> Tensor:
        """The output of the normalization of a layer for x of shape (members, width, n)."""
        channels = x.shape[0] * x.shape[1]
        out: Tensor = self.normalize[layer](x.reshape(1, channels, -1))
        return out.view(x.shape)

    def weighted(self, layer: int, x: Tensor) -> Tensor:
        """The output of the linear part of a hidden layer, which has a bias where it is not normalized."""
        return torch.bmm(self.weights[layer], x) if len(self.biases) == 1 else self._linear(layer, x)

    def _linear(self, layer: int, x: Tensor) -> Tensor:
        return torch.baddbmm(self.biases[layer], self.weights[layer], x)


def batch_norm(channels: int) -> nn.Module:
    """The layer under examination, for a stack."""
    return BatchNorm1d(channels)


def all_like(stack: Stack, member: int) -> Stack:
    """Give every network of a stack the parameters and the statistics of one of them, and give it back."""
    with torch.no_grad():
        for value in (*stack.parameters(), *stack.buffers()):
            if value.numel() % stack.members == 0 and value.dim():
                each = value.view(stack.members, -1)
                each.copy_(each[member].clone().expand_as(each))
    return stack
