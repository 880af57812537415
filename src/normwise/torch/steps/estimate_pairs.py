r"""A covariance as variances, which is what estimators know: those of the sums of every two channels of a group.

An estimator knows numbers of single channels, and a covariance is no such thing. But the variance of a sum of two
channels is, and :math:`2 \Sigma_{ij} = Var(x_i + x_j) - \Sigma_{ii} - \Sigma_{jj}`. So the sums of all pairs enter, as
channels, and every estimator does to the covariance what it does to a variance.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sums_of_pairs(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the sum of every two channels, and of each channel in the place of itself and itself.

    Args:
        mean: (groups, size).
        covariance: (groups, size, size).

    Example:
        >>> sums_of_pairs(torch.tensor([[1.0, 2.0]]), torch.tensor([[[4.0, 1.0], [1.0, 9.0]]]))
        (tensor([1., 3., 3., 2.]), tensor([ 4., 15., 15.,  9.]))
    """
    other = 1 - torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
    var = covariance.diagonal(dim1=1, dim2=2)
    means = mean.unsqueeze(-1) + mean.unsqueeze(-2) * other
    variances = var.unsqueeze(-1) + (var.unsqueeze(-2) + 2 * covariance) * other
    return means.flatten(), variances.flatten()


def mean_of_pairs(means: Tensor, groups: int, size: int) -> Tensor:
    """Back from the means of ``sums_of_pairs``, shape (C,).

    Example:
        >>> mean_of_pairs(torch.tensor([1.0, 3.0, 3.0, 2.0]), groups=1, size=2)
        tensor([1., 2.])
    """
    return means.view(groups, size, size).diagonal(dim1=1, dim2=2).reshape(-1)


def covariance_of_pairs(variances: Tensor, groups: int, size: int) -> Tensor:
    """Back from the variances of ``sums_of_pairs``, (groups, size, size).

    Example:
        >>> covariance_of_pairs(torch.tensor([4.0, 15.0, 15.0, 9.0]), groups=1, size=2)
        tensor([[[4., 1.],
                 [1., 9.]]])
    """
    variances = variances.view(groups, size, size)
    identity = torch.eye(size, dtype=torch.bool, device=variances.device)
    var = variances.diagonal(dim1=1, dim2=2)
    return torch.where(identity, variances, (variances - var.unsqueeze(-1) - var.unsqueeze(-2)) / 2)
