"""Whitening by running statistics as what it is then: a linear map of each group of channels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from normwise.kernels.covariance import mapped

FAR = 16.0
"""Standard deviations of the output from which on the mean is subtracted first: before, it costs four bits at most."""


class LinearMap(NamedTuple):
    """``y = matrix (x - centre) + offset``, with scale and shift of the layer in it."""

    matrix: Tensor  # (groups, size, size)
    centre: Tensor | None  # (C,), or None where the offset has it
    offset: Tensor  # (C,)

    def __call__(self, x: Tensor) -> Tensor:
        """The map of x, shape (N, C, *spatial), in the dtype of the matrix."""
        if self.centre is not None:
            x = x - self.centre.view(1, -1, *[1] * (x.dim() - 2))
        return mapped(self.matrix, x, self.offset)


def linear_map(root: Tensor, mean: Tensor, scale: Tensor | None, shift: Tensor | None, dtype: torch.dtype) -> LinearMap:
    """The map of a layer in inference.

    Args:
        root: the whitening matrices, (groups, size, size), in float64.
        mean: shape (C,).
        scale: shape (C,), or None for 1.
        shift: shape (C,), or None for 0.
        dtype: of the values that it will map.

    Example:
        >>> double = 2 * torch.eye(2, dtype=torch.float64).unsqueeze(0)
        >>> linear_map(double, torch.tensor([1.0, 2.0]), None, None, torch.float32)(torch.tensor([[3.0, 3.0]]))
        tensor([[4., 2.]])
    """
    groups, size = root.shape[:2]
    wide = mean.to(root.dtype).view(groups, size, 1)
    far = float((root.abs() @ wide.abs()).max()) > FAR  # of the terms, and not of their sum, where they may cancel
    matrix = root if scale is None else root * scale.to(root.dtype).view(groups, size, 1)
    offset = torch.zeros_like(mean, dtype=root.dtype) if shift is None else shift.to(root.dtype)
    if far:
        return LinearMap(matrix.to(dtype), mean.to(dtype), offset.to(dtype))
    return LinearMap(matrix.to(dtype), None, (offset - (matrix @ wide).flatten()).to(dtype))
