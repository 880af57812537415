"""Dense residual networks: normalized, or kept in bounds by a scale on every branch."""

from __future__ import annotations

import torch
from torch import nn

from normwise.lab.data.splits import CLASSES, pixels
from normwise.lab.networks.dense import Norm, draw, he


class Block(nn.Module):
    """x + scale * linear(relu(normalize(linear(relu(normalize(x)))))): activation and normalization come first.

    Args:
        width: features of x.
        norm: makes the normalization from the features; None: none.
        scale: where the learned scale of the branch begins, 0 for SkipInit; None: there is none.
    """

    def __init__(self, width: int, norm: Norm | None, scale: float | None) -> None:
        super().__init__()
        self.normalize = nn.ModuleList(norm(width) if norm else nn.Identity() for _ in range(2))
        self.linear = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.scale = None if scale is None else nn.Parameter(torch.tensor(scale))

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """The output of the branch, which is added to x."""
        y = x
        for normalize, linear in zip(self.normalize, self.linear, strict=True):
            y = linear(torch.relu(normalize(y)))
        return y if self.scale is None else self.scale * y

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The output of the block, of the same shape as x, (n, width)."""
        return x + self.branch(x)


class Residual(nn.Module):
    """A linear layer, residual blocks, and a linear readout from the activated (and normalized) sum.

    Args:
        blocks: how many.
        width: features throughout.
        norm: makes the normalization from the features; None: none.
        scale: where the learned scale of every branch begins, 0 for SkipInit; None: there is none.
        seed: of the initial weights, which are of He's scale and the same with and without a normalization.

    References:
        S. De and S. Smith, Batch Normalization Biases Residual Blocks Towards the Identity Function in Deep Networks,
        2020, arXiv:2002.10444 (SkipInit).
    """

    def __init__(self, *, blocks: int, width: int, norm: Norm | None, seed: int, scale: float | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(pixels(), width)
        self.blocks = nn.ModuleList(Block(width, norm, scale) for _ in range(blocks))
        self.normalize = norm(width) if norm else nn.Identity()
        self.readout = nn.Linear(width, CLASSES)
        generator = torch.Generator().manual_seed(seed)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                draw(layer, he(layer.in_features), generator)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of shape (n, classes) from images of shape (n, pixels)."""
        x = self.first(images)
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.readout(torch.relu(self.normalize(x)))
        return logits


def ratios(model: Residual, images: torch.Tensor) -> list[float]:
    """The variance of each block's input over the variance of what its branch adds, in training mode."""
    model.train()
    found = []
    with torch.no_grad():
        x = model.first(images)
        for block in model.blocks:
            assert isinstance(block, Block)  # nn.ModuleList does not know what it holds
            branch = block.branch(x)
            found.append(float(x.var(dim=0).mean() / branch.var(dim=0).mean()))
            x = x + branch
    return found
