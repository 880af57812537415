"""Layers of random ReLU units."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def ranks(images: Tensor, widths: Sequence[int], seed: int) -> list[int]:
    """Rank of the covariance of so many random ReLU units on a batch.

    Args:
        images: shape (n, pixels), float64.
        widths: how many units.
        seed: of their weights.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for width in widths:
        outputs = torch.relu(images @ torch.randn(images.shape[1], width, generator=generator, dtype=torch.float64))
        found.append(int(torch.linalg.matrix_rank(torch.cov(outputs.T), hermitian=True)))
    return found
