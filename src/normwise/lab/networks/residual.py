"""Dense residual networks side by side: normalized, or kept in bounds by how every branch begins."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normwise.lab.networks.stack import Normalization, Stack

LAYERS = 2
"""The linear layers of a branch."""


class Residual(Stack):
    """``members`` residual networks: a linear layer, blocks, and a linear readout from the activated (normalized) sum.

    A block is x + scale * branch(x), and its branch linear(relu(normalize(linear(relu(normalize(x)))))): activation and
    normalization come first. Layers without a normalization have a bias.

    Args:
        members: how many networks, which begin with the same weights and see the same images.
        blocks: how many.
        width: features throughout.
        normalize: makes the normalization from the channels; None: none.
        seed: of the initial weights, which are of He's scale and the same with and without a normalization.
        scale: where the learned scale of every branch begins, 0 for SkipInit; None: there is none.
        fixup: whether the networks begin by the three rules of Fixup: the last layer of every branch and the readout at
            0; the other layers of the branches at 1 / sqrt(blocks) of their scale, that is blocks^(-1 / (2 m - 2)) for
            branches of m = 2 layers; a learned scale of every branch that begins at 1, and a learned number, at first
            0, that is added in front of every linear layer and activation of the branches and to the readout's input.

    References:
        S. De and S. Smith, Batch Normalization Biases Residual Blocks Towards the Identity Function in Deep Networks,
        2020, arXiv:2002.10444 (SkipInit). H. Zhang, Y. Dauphin and T. Ma, Fixup Initialization: Residual Learning
        Without Normalization, 2019, arXiv:1901.09321.
    """

    def __init__(
        self,
        members: int,
        *,
        blocks: int,
        width: int,
        normalize: Normalization | None,
        seed: int,
        scale: float | None = None,
        fixup: bool = False,
    ) -> None:
        super().__init__(members, depth=LAYERS * blocks + 1, width=width, normalize=normalize, seed=seed)
        self.blocks = blocks
        begin = 1.0 if fixup else scale
        self.scales = None if begin is None else nn.Parameter(torch.full((members, blocks, 1, 1), begin))
        self.shifts = nn.Parameter(torch.zeros(members, 2 * LAYERS * blocks + 2, 1, 1)) if fixup else None
        if fixup:
            with torch.no_grad():
                for block in range(blocks):
                    self.weights[LAYERS * block + 1].mul_(blocks**-0.5)
                    self.weights[LAYERS * block + 2].zero_()
                self.weights[-1].zero_()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (members, classes, n) from images of shape (n, pixels)."""
        x = self.first(images)
        for block in range(self.blocks):
            x = x + self.branch(block, x)
        return self._linear(-1, self._activated(self.depth - 1, x))

    def first(self, images: Tensor) -> Tensor:
        """The input of the first block, shape (members, width, n)."""
        return self.weighted(0, images.T.expand(self.members, *images.T.shape))

    def branch(self, block: int, x: Tensor) -> Tensor:
        """The output of the branch of a block, which is added to x; shape (members, width, n) both."""
        y = x
        for layer in range(LAYERS * block, LAYERS * (block + 1)):
            y = self.weighted(layer + 1, self._activated(layer, y))
        return y if self.scales is None else self.scales[:, block] * y

    def _activated(self, layer: int, x: Tensor) -> Tensor:
        """The input of the linear layer above the first ``layer + 1``."""
        if self.shifts is None:
            return self.activate(self.normalized(layer, x))
        return self.activate(x + self.shifts[:, 2 * layer]) + self.shifts[:, 2 * layer + 1]


def ratios(model: Residual, images: Tensor) -> list[float]:
    """The variance of each block's input over the variance of what its branch adds, in training mode."""
    model.train()
    found = []
    with torch.no_grad():
        x = model.first(images)
        for block in range(model.blocks):
            branch = model.branch(block, x)
            found.append(float(x.var(dim=2).mean() / branch.var(dim=2).mean()))
            x = x + branch
    return found
