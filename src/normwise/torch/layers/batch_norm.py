"""Drop-in ``torch.nn.BatchNorm1d/2d/3d`` with fused activation and residual, a mask, and a choice of estimator."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from normwise.errors import NormwiseError
from normwise.estimators import Estimator
from normwise.torch.layers.tracked import TrackedBatchNorm

# PyTorch before 2.13 may lack it; the layers then refuse it as PyTorch's own do.
TORCH_HAS_BIAS = "bias" in inspect.signature(torch.nn.BatchNorm1d).parameters


class _BatchNormNd(TrackedBatchNorm):
    def __init__(
        self,
        num_features: int,
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
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **torch_bias(bias))
        self._settle(activation, estimator, on_tiny_batch)


def torch_bias(bias: bool) -> dict[str, bool]:
    """The keyword as the installed torch takes it."""
    if TORCH_HAS_BIAS:
        return {"bias": bias}
    if not bias:
        raise NormwiseError(f"bias=False needs a newer PyTorch than {torch.__version__}: leave it out or upgrade.")
    return {}


class BatchNorm1d(_BatchNormNd, torch.nn.BatchNorm1d):
    r"""Batch normalization of (N, C) or (N, C, L), a drop-in for ``torch.nn.BatchNorm1d``.

    .. math:: y = f\Big(\gamma \frac{x - \mu}{\sqrt{v + \epsilon}} + \beta + r\Big)

    Args:
        num_features: C.
        eps: :math:`\epsilon`, added to the variance.
        momentum: weight of the new batch in the running statistics; None for the plain average.
        affine: whether to learn :math:`\gamma` and :math:`\beta`.
        track_running_stats: whether to keep statistics for inference; without them, batch statistics are used in
            eval mode too.
        device: of parameters and buffers.
        dtype: of parameters and buffers.
        bias: whether to learn :math:`\beta`.
        activation: :math:`f`, for example ``"relu"``, ``"silu"``, ``"gelu"`` or, with its slope, ``"leaky_relu:0.2"``;
            None for the identity. The error about an unknown name lists all.
        estimator: how batches become running statistics: a name from ``normwise.estimators.names()``, an
            ``Estimator``, or None for torch's moving average. Only ``pooled`` adds an entry to the ``state_dict``.
        on_tiny_batch: what to do in training with a batch of too few values per channel: ``"error"`` refuses one value
            per channel, ``"running"`` normalizes it by the running statistics, ``"renorm"`` renormalizes a batch of
            fewer than 32, as ``BatchRenorm1d`` does.

    The layer is called with ``layer(input, residual, mask=..., sample_weight=...)``; all but the input may be left out.
    ``residual`` is :math:`r`, added before the activation. ``mask`` and ``sample_weight`` say which values count, and
    how much, as in ``normwise.torch.functional.batch_norm``.

    The running variance is unbiased, as torch's is: the batch's times n/(n - 1); the batch itself is divided by the
    biased one. Both running statistics stay in float32 when the layer is converted to half precision, and what a
    batch would make of a channel that is not finite does not enter them; ``num_batches_skipped`` counts the batches
    that were left out in some channel. Under ``torch.utils.checkpoint`` a batch enters once.

    Raises:
        ValueError: an unknown activation or estimator, and whatever torch refuses, in torch's words.

    References:
        Ioffe and Szegedy, Batch normalization, 2015.

    Example:
        >>> import torch
        >>> from normwise.torch import BatchNorm1d
        >>> layer = BatchNorm1d(3, activation="relu", estimator="debiased_ema")
        >>> layer.extra_repr().partition("track_running_stats=True, ")[2]
        'activation=relu, estimator=DebiasedEma(weight_of_new=0.1)'
        >>> x, skip = torch.randn(8, 3), torch.randn(8, 3)
        >>> layer(x, skip).shape
        torch.Size([8, 3])
    """


class BatchNorm2d(_BatchNormNd, torch.nn.BatchNorm2d):
    """Batch normalization of (N, C, H, W), a drop-in for ``torch.nn.BatchNorm2d``; arguments as ``BatchNorm1d``.

    Example:
        >>> import torch
        >>> from normwise.torch import BatchNorm2d
        >>> layer = BatchNorm2d(16, activation="relu")
        >>> plain = torch.nn.BatchNorm2d(16)
        >>> layer.load_state_dict(plain.state_dict())
        <All keys matched successfully>
    """


class BatchNorm3d(_BatchNormNd, torch.nn.BatchNorm3d):
    """Batch normalization of (N, C, D, H, W), a drop-in for ``torch.nn.BatchNorm3d``; arguments as ``BatchNorm1d``.

    Example:
        >>> import torch
        >>> from normwise.torch import BatchNorm3d
        >>> BatchNorm3d(4)(torch.randn(2, 4, 3, 3, 3)).shape
        torch.Size([2, 4, 3, 3, 3])
    """
