"""Decorrelated batch normalization: whitening by eigendecomposition, which leaves the directions of the channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normwise.errors import NormwiseError
from normwise.kernels.inverse_root import inverse_root
from normwise.torch.layers.whitening import Whitening


class DecorrelatedBatchNorm(Whitening):
    """The matrix of ZCA, for all numbers of axes. Not for direct use."""

    def _root(self, covariance: Tensor) -> Tensor:
        return inverse_root(covariance, self.eps)

    def _slow_forward(self, *input: Any, **kwargs: Any) -> Any:
        if torch.onnx.is_in_onnx_export():
            raise NormwiseError(
                f"ONNX has no operator for the eigenvalues of {type(self).__name__}({self.extra_repr()}): train with "
                "an IterativeNorm in its place, or record the model by torch.export.export."
            )
        return super()._slow_forward(*input, **kwargs)


class DecorrelatedBatchNorm1d(DecorrelatedBatchNorm, torch.nn.BatchNorm1d):
    r"""Batch whitening (ZCA) of (N, C) or (N, C, L): channels that are exactly uncorrelated.

    .. math:: y = f\Big(\gamma \, (\Sigma_g + \epsilon I)^{-1/2} (x - \mu) + \beta + r\Big)

    for each group g of channels, with the covariance :math:`\Sigma_g` of the batch. Of all matrices that whiten, this
    one changes the values least, so that a channel stays itself from batch to batch. Groups of one channel are batch
    norm.

    To divide each channel alone, as batch norm does, is the simplification of this that its paper made for the price.
    The price in time follows, as a multiple of ``torch.nn``'s batch norm, then of this package's, on the same input:
    medians and quartiles of 41 pairs; float32, contiguous, the time that one thread is on an AMD EPYC, which other work
    shared, PyTorch 2.13, memory kept between calls for all of them (``benchmarks/family.py``). Training has two
    products of matrices with all values forward and four backward, which grow with the size of a group, and the algebra
    of the matrices themselves. Inference has one, with scale and shift in it. On the CPU its matrix is kept as long as
    the running statistics and parameters have the same values, whoever changes them; on other devices, where to compare
    values is to wait for the device, and in compiled graphs it is made at every call.

    | input | group | layer | training / torch's | / ours | inference / torch's | / ours |
    |---|---|---|---|---|---|---|
    | (32, 64, 56, 56) | 16 | ZCA | 3.2 (3.2 to 3.3) | 9.0 (8.8 to 9.2) | 2.9 (2.8 to 3.1) | 3.6 (3.4 to 3.7) |
    | | | iterative | 3.2 (3.2 to 3.3) | 9.0 (8.7 to 9.3) | 2.9 (2.7 to 3.0) | 3.6 (3.4 to 3.7) |
    | | 64 | ZCA | 5.4 (5.3 to 5.4) | 15.1 (14.8 to 15.4) | 6.3 (5.9 to 6.7) | 7.8 (7.5 to 8.3) |
    | | | iterative | 5.4 (5.4 to 5.4) | 15.2 (14.8 to 15.4) | 6.3 (5.9 to 6.6) | 7.7 (7.4 to 8.2) |
    | (32, 256, 14, 14) | 16 | ZCA | 3.7 (3.5 to 3.8) | 7.1 (6.7 to 7.3) | 4.7 (3.5 to 5.3) | 5.0 (3.9 to 5.8) |
    | | | iterative | 3.7 (3.4 to 3.8) | 7.1 (6.5 to 7.5) | 3.9 (3.4 to 4.9) | 4.1 (3.7 to 5.3) |
    | | 64 | ZCA | 6.0 (5.8 to 6.2) | 12.7 (11.5 to 13.5) | 9.9 (8.9 to 10.5) | 10.9 (9.9 to 11.9) |
    | | | iterative | 6.3 (6.2 to 6.4) | 13.4 (11.7 to 14.1) | 9.4 (9.0 to 10.3) | 10.6 (9.8 to 11.7) |
    | (256, 512) | 16 | ZCA | 17.1 (16.0 to 18.6) | 17.2 (15.4 to 18.4) | 3.7 (3.5 to 3.8) | 3.7 (3.5 to 3.9) |
    | | | iterative | 18.1 (16.7 to 19.2) | 17.7 (16.5 to 18.7) | 3.7 (3.5 to 3.9) | 3.7 (3.5 to 3.9) |
    | | 64 | ZCA | 32.6 (30.3 to 34.2) | 35.0 (30.7 to 37.4) | 6.7 (6.2 to 7.1) | 6.6 (6.2 to 7.1) |
    | | | iterative | 44.3 (41.0 to 46.3) | 46.0 (41.4 to 49.9) | 6.3 (6.0 to 6.6) | 6.3 (5.9 to 6.6) |

    Args:
        num_features: C.
        eps: :math:`\epsilon`, added to the eigenvalues of the covariance.
        momentum: weight of the new batch in the running statistics; None for the plain average.
        affine: whether to learn :math:`\gamma` and :math:`\beta`, one per channel.
        track_running_stats: whether to keep statistics for inference; without them, batch statistics are used
            in eval mode too.
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
            matrices of the batches instead, which is biased (``normwise.torch.layers.whitening``).

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
        >>> import torch
        >>> from normwise.torch import DecorrelatedBatchNorm1d
        >>> layer = DecorrelatedBatchNorm1d(2, eps=1e-8)
        >>> y = layer(torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 1.0], [3.0, 4.0]]))
        >>> (y.T @ y / 4).detach().round(decimals=4).abs()
        tensor([[1., 0.],
                [0., 1.]])
    """


class DecorrelatedBatchNorm2d(DecorrelatedBatchNorm, torch.nn.BatchNorm2d):
    """Batch whitening (ZCA) of (N, C, H, W); arguments as ``DecorrelatedBatchNorm1d``.

    Example:
        >>> import torch
        >>> from normwise.torch import DecorrelatedBatchNorm2d
        >>> DecorrelatedBatchNorm2d(16, activation="relu")(torch.randn(4, 16, 8, 8)).shape
        torch.Size([4, 16, 8, 8])
    """


class DecorrelatedBatchNorm3d(DecorrelatedBatchNorm, torch.nn.BatchNorm3d):
    """Batch whitening (ZCA) of (N, C, D, H, W); arguments as ``DecorrelatedBatchNorm1d``.

    Example:
        >>> import torch
        >>> from normwise.torch import DecorrelatedBatchNorm3d
        >>> DecorrelatedBatchNorm3d(4)(torch.randn(2, 4, 3, 3, 3)).shape
        torch.Size([2, 4, 3, 3, 3])
    """
