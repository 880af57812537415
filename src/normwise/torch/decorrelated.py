"""Decorrelated batch normalization: whitening by eigendecomposition, which leaves the directions of the channels."""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.kernels.inverse_root import inverse_root
from normwise.torch.whitening import FusedWhitening


class FusedDecorrelated(FusedWhitening):
    """The matrix of ZCA, for all numbers of axes. Not for direct use."""

    def _root(self, covariance: Tensor) -> Tensor:
        return inverse_root(covariance, self.eps)


class DecorrelatedBatchNorm1d(FusedDecorrelated, torch.nn.BatchNorm1d):
    r"""Batch whitening (ZCA) of (N, C) or (N, C, L): channels that have nothing to do with each other, exactly.

    .. math:: y = f\Big(\gamma \, (\Sigma_g + \epsilon I)^{-1/2} (x - \mu) + \beta + r\Big)

    for each group g of channels, with the covariance :math:`\Sigma_g` of the batch. Of all matrices that whiten, this
    one changes the values least, so that a channel stays itself from batch to batch. Groups of one channel are batch
    norm.

    COST

    Args:
        num_features: C.
        eps: :math:`\epsilon`, added to the eigenvalues of the covariance.
        momentum: weight of the new batch in the running statistics; None for the plain average.
        affine: whether to learn :math:`\gamma` and :math:`\beta`, one per channel.
        track_running_stats: whether to keep statistics for inference; without them every batch whitens itself.
        device: of parameters and buffers.
        dtype: of parameters and buffers.
        bias: whether to learn :math:`\beta`.
        group_size: channels that are whitened together, which divides C; a layer with fewer is one group. A batch has
            to have several times as many values per channel, or the covariance is mostly noise.
        activation: :math:`f`, for example ``"relu"``; None for the identity.
        estimator: how batches become running statistics, as in ``BatchNorm1d``.

    Attributes:
        running_mean: shape (C,).
        running_covariance: (groups, size, size), unbiased, in the place of a running variance. The paper averages the
            matrices of the batches instead, which is biased (``normwise.torch.whitening``).

    ``forward`` takes ``residual``, ``mask`` and ``sample_weight`` as ``BatchNorm1d`` does; the mask and the weights are
    those of positions, which all channels share. A batch that is not finite in some channel of a group leaves that
    group's statistics as they were. The derivatives are right of every order, and do not care whether eigenvalues are
    close: unlike those that go through the eigenvectors, as in the paper, they have no gaps in them.

    Raises:
        ValueError: a ``group_size`` that does not divide C, a mask for single channels, and what ``BatchNorm1d``
            refuses.

    References:
        Huang, Yang, Lang and Deng, Decorrelated batch normalization, 2018.

    Example:
        >>> layer = DecorrelatedBatchNorm1d(2, eps=1e-8)
        >>> y = layer(torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 1.0], [3.0, 4.0]]))
        >>> (y.T @ y / 4).detach().round(decimals=4).abs()
        tensor([[1., 0.],
                [0., 1.]])
    """


class DecorrelatedBatchNorm2d(FusedDecorrelated, torch.nn.BatchNorm2d):
    """Batch whitening (ZCA) of (N, C, H, W); arguments as ``DecorrelatedBatchNorm1d``.

    Example:
        >>> DecorrelatedBatchNorm2d(16, activation="relu")(torch.randn(4, 16, 8, 8)).shape
        torch.Size([4, 16, 8, 8])
    """


class DecorrelatedBatchNorm3d(FusedDecorrelated, torch.nn.BatchNorm3d):
    """Batch whitening (ZCA) of (N, C, D, H, W); arguments as ``DecorrelatedBatchNorm1d``.

    Example:
        >>> DecorrelatedBatchNorm3d(4)(torch.randn(2, 4, 3, 3, 3)).shape
        torch.Size([2, 4, 3, 3, 3])
    """
