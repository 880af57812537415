"""Drop-in ``torch.nn.BatchNorm1d/2d/3d`` with fused activation and residual, a mask, and a choice of estimator."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.errors import NormwiseError
from normwise.estimators import Estimator, named
from normwise.estimators.cumulative import Cumulative
from normwise.estimators.ema import Ema
from normwise.torch.checks import check_activation
from normwise.torch.functional import batch_norm, batch_norm_with_moments
from normwise.torch.steps import update_running

# PyTorch before 2.13 may lack it; the layers then refuse it as PyTorch's own do.
TORCH_HAS_BIAS = "bias" in inspect.signature(torch.nn.BatchNorm1d).parameters


class FusedBatchNorm(_BatchNorm):
    """What all layers here share: the forward, and the estimator's state. Not for direct use."""

    activation: str | None
    estimator: Estimator | None

    def _settle(self, activation: str | None, estimator: Estimator | str | None) -> None:
        """Take the keywords that torch does not have; called once, after torch's own ``__init__``."""
        check_activation(activation)
        if not isinstance(estimator, Estimator | str | None):
            raise TypeError(
                f"estimator must be a name or a normwise.estimators.Estimator, received {type(estimator).__name__}: "
                "pass for example 'pooled'."
            )
        self.activation = activation
        self.estimator = named(estimator, weight_of_new=self.momentum) if isinstance(estimator, str) else estimator
        # One given by name takes its weight from ``momentum``, which schedules may change.
        self._follows_momentum = isinstance(estimator, str) and hasattr(self.estimator, "weight_of_new")
        counted = self.estimator is not None and self.estimator.needs_count and self.track_running_stats
        device = None if self.num_batches_tracked is None else self.num_batches_tracked.device
        self.register_buffer("running_count", torch.zeros((), dtype=torch.int64, device=device) if counted else None)
        self.running_count: Tensor | None

    def forward(self, input: Tensor, residual: Tensor | None = None, *, mask: Tensor | None = None) -> Tensor:
        """``activation(normalize(input) + residual)``; see ``normwise.torch.functional.batch_norm`` for the shapes."""
        self._check_input_dim(input)
        mean, var, updates = self.running_mean, self.running_var, self.num_batches_tracked
        tracks = self.training and self.track_running_stats
        by_batch = self.training or (mean is None and var is None)
        keep = not self.training or (tracks and input.numel() > 0)  # an empty batch has nothing to say
        simple = mask is None and self.estimator is None and self.momentum is not None
        if not tracks or not keep or simple or updates is None or mean is None or var is None:
            y = batch_norm(
                input,
                mean if keep else None,
                var if keep else None,
                self.weight,
                self.bias,
                by_batch,
                0.0 if self.momentum is None else self.momentum,
                self.eps,
                activation=self.activation,
                residual=residual,
                mask=mask,
            )
            if tracks and keep and updates is not None:
                updates.add_(1)
            return y
        y, batch = batch_norm_with_moments(
            input,
            mean,
            var,
            self.weight,
            self.bias,
            self.eps,
            activation=self.activation,
            residual=residual,
            mask=mask,
        )
        update_running(self._estimator(), batch, mean, var, updates, self.running_count)
        return y

    def _estimator(self) -> Estimator:
        """The estimator as of now."""
        if self.estimator is None:
            return Cumulative() if self.momentum is None else Ema(self.momentum)
        if self._follows_momentum and self.momentum is None:  # what torch's update_bn asks for, for a time
            return Cumulative()
        if self._follows_momentum:
            return type(self.estimator)(self.momentum)  # type: ignore[call-arg]  # it has a weight_of_new
        return self.estimator

    def reset_running_stats(self) -> None:
        """Back to mean 0, variance 1, nothing seen."""
        super().reset_running_stats()
        if getattr(self, "running_count", None) is not None:
            self.running_count.zero_()  # type: ignore[union-attr]  # the line above saw that it is there

    def extra_repr(self) -> str:
        """Torch's line, and what is set beyond it."""
        activation = "" if self.activation is None else f", activation={self.activation}"
        estimator = "" if self.estimator is None else f", estimator={self._estimator()!r}"
        return f"{super().extra_repr()}{activation}{estimator}"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        # A checkpoint of torch's layer does not say how many values stand behind its statistics: start counting anew.
        if self.running_count is not None:
            mean = state_dict.get(f"{prefix}running_mean", self.running_count)
            state_dict.setdefault(f"{prefix}running_count", torch.zeros((), dtype=torch.int64, device=mean.device))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


class _BatchNormNd(FusedBatchNorm):
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
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **torch_bias(bias))
        self._settle(activation, estimator)


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
        track_running_stats: whether to keep statistics for inference; without them every batch normalizes itself.
        device: of parameters and buffers.
        dtype: of parameters and buffers.
        bias: whether to learn :math:`\beta`.
        activation: :math:`f`, for example ``"relu"``; None for the identity.
        estimator: how batches become running statistics: a name from ``normwise.estimators.names()``, an
            ``Estimator``, or None for torch's moving average. Only ``pooled`` adds an entry to the ``state_dict``.

    Raises:
        ValueError: an unknown activation or estimator, and whatever torch refuses, in torch's words.

    References:
        Ioffe and Szegedy, Batch normalization, 2015.

    Example:
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
        >>> layer = BatchNorm2d(16, activation="relu")
        >>> plain = torch.nn.BatchNorm2d(16)
        >>> layer.load_state_dict(plain.state_dict())
        <All keys matched successfully>
    """


class BatchNorm3d(_BatchNormNd, torch.nn.BatchNorm3d):
    """Batch normalization of (N, C, D, H, W), a drop-in for ``torch.nn.BatchNorm3d``; arguments as ``BatchNorm1d``.

    Example:
        >>> BatchNorm3d(4)(torch.randn(2, 4, 3, 3, 3)).shape
        torch.Size([2, 4, 3, 3, 3])
    """
