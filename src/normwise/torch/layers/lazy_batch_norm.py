"""The layers that take the number of channels from their first input, drop-ins for ``torch.nn.LazyBatchNorm*d``."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase
from torch.nn.modules.lazy import LazyModuleMixin

from normwise.estimators import Estimator
from normwise.torch.layers.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, torch_bias
from normwise.torch.layers.lazy import LazyNorm
from normwise.torch.layers.tracked import TrackedBatchNorm


class _LazyBatchNormNd(LazyNorm, TrackedBatchNorm, _LazyNormBase, LazyModuleMixin, _BatchNorm):
    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: str | None = None,
        estimator: Estimator | str | None = None,
        on_tiny_batch: str = "error",
    ) -> None:
        _LazyNormBase.__init__(self, eps, momentum, affine, track_running_stats, device, dtype, **torch_bias(bias))
        self._settle(activation, estimator, on_tiny_batch)


class LazyBatchNorm1d(_LazyBatchNormNd, torch.nn.LazyBatchNorm1d):
    """A ``BatchNorm1d`` whose number of channels is that of its first input, or of a checkpoint that is loaded before.

    Arguments as ``BatchNorm1d``, without ``num_features``.

    Example:
        >>> import torch
        >>> from normwise.torch import LazyBatchNorm1d
        >>> layer = LazyBatchNorm1d(activation="relu")
        >>> _ = layer(torch.randn(4, 7))
        >>> layer.num_features
        7
    """

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(_LazyBatchNormNd, torch.nn.LazyBatchNorm2d):
    """A ``BatchNorm2d`` whose number of channels is that of its first input.

    Arguments as ``BatchNorm1d``, without ``num_features``.

    Example:
        >>> from normwise.torch import LazyBatchNorm2d
        >>> type(LazyBatchNorm2d()).__name__
        'LazyBatchNorm2d'
    """

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(_LazyBatchNormNd, torch.nn.LazyBatchNorm3d):
    """A ``BatchNorm3d`` whose number of channels is that of its first input.

    Arguments as ``BatchNorm1d``, without ``num_features``.

    Example:
        >>> from normwise.torch import LazyBatchNorm3d
        >>> type(LazyBatchNorm3d()).__name__
        'LazyBatchNorm3d'
    """

    cls_to_become = BatchNorm3d
