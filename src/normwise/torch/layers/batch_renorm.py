"""Batch renormalization: training by the batch, corrected towards what inference will do."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from normwise.errors import NormwiseError
from normwise.estimators import Estimator
from normwise.moments import Moments
from normwise.torch.layers.batch_norm import torch_bias
from normwise.torch.layers.left_away import added_late, is_larger
from normwise.torch.layers.renorm_schedule import RenormSchedule
from normwise.torch.layers.tracked import TrackedBatchNorm
from normwise.torch.layers.unsaved_buffers import make_real
from normwise.torch.steps.buffers import is_wide, store_if_known
from normwise.torch.steps.call import like_torch
from normwise.torch.steps.estimate_recomputation import recomputing
from normwise.torch.steps.normalize_tiny import POLICIES, corrected


class ClippingRate(NamedTuple):
    """The share of channels, 0 to 1, of which the bounds cut off some of the correction in the last batch."""

    r: float
    d: float


class BatchRenorm(TrackedBatchNorm):
    """The normalize step of batch renormalization, for all numbers of axes. Not for direct use."""

    r: Tensor
    d: Tensor
    clipped: Tensor
    why_not_joined = "it corrects each batch by the running statistics, which is another remedy for small ones"
    _unsaved: ClassVar[dict[str, float]] = {**TrackedBatchNorm._unsaved, "r": 1, "d": 0, "clipped": 0}

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.01,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        schedule: RenormSchedule | None = None,
        activation: str | None = None,
        estimator: Estimator | str | None = None,
        on_tiny_batch: str = "error",
    ) -> None:
        if not track_running_stats:
            raise ValueError(
                "batch renormalization corrects towards running statistics, received track_running_stats=False: "
                "keep the statistics, or use BatchNorm."
            )
        if schedule is not None and not isinstance(schedule, RenormSchedule):
            raise TypeError(
                f"schedule must be a RenormSchedule, received {type(schedule).__name__}: "
                "pass for example RenormSchedule(r_max=2.0)."
            )
        super().__init__(num_features, eps, momentum, affine, True, device, dtype, **torch_bias(bias))
        self.schedule = RenormSchedule() if schedule is None else schedule
        self._settle(activation, estimator, on_tiny_batch)
        # Of the last batch; not a part of checkpoints, which are torch's.
        assert self.running_mean is not None
        self.register_buffer("r", torch.ones_like(self.running_mean), persistent=False)
        self.register_buffer("d", torch.zeros_like(self.running_mean), persistent=False)
        self.register_buffer("clipped", torch.zeros(2, device=device), persistent=False)

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """``activation(normalize(input) + residual)``, in training by the batch and its correction."""
        self._check_input_dim(input)
        if residual is not None and is_larger(self, input, residual):
            return added_late(self, input, residual, mask=mask, sample_weight=sample_weight)
        if not self.training or input.numel() == 0:
            return super().forward(input, residual, mask=mask, sample_weight=sample_weight)
        call, kernel = self._checked(input, residual, mask, sample_weight, ask_torch=False)
        if call.mean is None or call.var is None:
            raise NormwiseError(
                f"{type(self).__name__}({self.extra_repr()}) corrects towards running statistics, and they were taken "
                "away, as torch.func.replace_all_batch_norm_modules_ does it: put a BatchNorm in its place, or leave "
                "the layer its statistics and freeze it by eval()."
            )
        policy = POLICIES[self.on_tiny_batch]
        if policy is not None:
            tiny = policy(call, self._met)
            if tiny is not None:
                if tiny.moments is not None:
                    self._enter(tiny.moments, call.weights)
                return tiny.y
        call = like_torch(call, by_batch=True)
        assert call.mean is not None
        assert call.var is not None
        batch = None if recomputing() else kernel.moments(call)
        r, d = self._corrections(batch, call.mean, call.var)
        # r and d are constants for the gradient, so that this is batch norm with another scale and shift, whose
        # backward is one pass. To correct the normalized values would be a pass more there, and them to be kept.
        y, _ = kernel.forward_batch(corrected(call, r, d))
        if batch is not None:
            self._enter(batch, call.weights)
        return y

    @torch.no_grad()
    def _corrections(self, batch: Moments | None, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """The r and d for a batch by the statistics before it, in the statistics' dtype, shape (C,)."""
        make_real(self)
        if batch is None:
            # A forward that is run again. The statistics have moved since; what the backward wants is the one that was.
            return self.r.clone(), self.d.clone()
        seen = self.num_batches_tracked
        assert seen is not None
        bounds = self.schedule.bounds(seen)
        spread = torch.sqrt(var.to(batch.var.dtype) + self.eps)
        r = torch.sqrt(batch.var + self.eps) / spread
        d = (batch.mean - mean) / spread
        r_max, d_max = (bound.to(r.dtype) for bound in bounds)
        within_r, within_d = r.clamp(1 / r_max, r_max), d.clamp(-d_max, d_max)
        shares = torch.stack([(free != held).float().mean() for free, held in ((r, within_r), (d, within_d))])
        if not self._paused:
            for buffer, value in ((self.r, within_r), (self.d, within_d), (self.clipped, shares)):
                store_if_known(buffer, value)
        return within_r.to(mean.dtype), within_d.to(mean.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Convert as all layers do; what a forward that is run again takes keeps the statistics' precision too."""
        super()._apply(fn, recurse)
        for name in ("r", "d", "clipped"):
            buffer = self._buffers[name]
            if buffer is not None and not is_wide(buffer):
                self._buffers[name] = buffer.float()
        return self

    def clipping_rate(self) -> ClippingRate:
        """The share of channels whose correction met its bounds in the last training batch.

        During the warm-up every correction meets them. ``layer.clipped`` holds the same two numbers as a tensor, which
        does not wait for the device.

        Example:
            >>> import torch
            >>> from normwise.torch import BatchRenorm1d, RenormSchedule
            >>> layer = BatchRenorm1d(2, schedule=RenormSchedule(warm_up=0, r_full=0, d_full=0))
            >>> _ = layer(torch.tensor([[0.0, 9.0], [1.0, 10.0]]))
            >>> layer.clipping_rate()
            ClippingRate(r=0.0, d=0.5)
        """
        r, d = self.clipped.tolist()
        return ClippingRate(r, d)

    def extra_repr(self) -> str:
        """The line of a batch norm, and a schedule that is not the paper's."""
        schedule = "" if self.schedule == RenormSchedule() else f", schedule={self.schedule}"
        return f"{super().extra_repr()}{schedule}"


class BatchRenorm1d(BatchRenorm, torch.nn.BatchNorm1d):
    r"""Batch renormalization of (N, C) or (N, C, L): training sees what inference will do, also with small batches.

    .. math:: y = f\Big(\gamma \Big(\frac{x - \mu_B}{\sigma_B} r + d\Big) + \beta + \text{residual}\Big), \quad
        r = \Big[\frac{\sigma_B}{\sigma}\Big]_{1/r_{max}}^{r_{max}}, \quad
        d = \Big[\frac{\mu_B - \mu}{\sigma}\Big]_{-d_{max}}^{d_{max}}

    with :math:`\sigma_B^2 = v_B + \epsilon` of the batch, and the running :math:`\mu` and
    :math:`\sigma^2 = v + \epsilon` as they were before it, which it enters afterwards. r and d are constants for the
    gradient. Inside the bounds the output is that of inference, whatever the rest of the batch. In inference it is
    plain batch normalization.

    The paper moves :math:`\sigma`; here the unbiased variance is moved, as in torch's layer, whose ``state_dict`` this
    is.

    Args:
        num_features: C.
        eps: :math:`\epsilon`, added to the variance.
        momentum: weight of the new batch in the running statistics, 0.01 in the paper; None for the plain average.
        affine: whether to learn :math:`\gamma` and :math:`\beta`.
        track_running_stats: True; there is nothing to correct towards without statistics.
        device: of parameters and buffers.
        dtype: of parameters and buffers.
        bias: whether to learn :math:`\beta`.
        schedule: the bounds, by ``num_batches_tracked``; the paper's by default.
        activation: :math:`f`, for example ``"relu"``; None for the identity.
        estimator: how batches become running statistics, as in ``BatchNorm1d``.
        on_tiny_batch: what to do with a batch of too few values per channel, as in ``BatchNorm1d``.

    Attributes:
        r: of the last training batch, shape (C,), in the dtype of the statistics.
        d: of the last training batch, in standard deviations, shape (C,).
        clipped: the shares of channels of which r and d met their bounds in it, float32, shape (2,).

    ``forward`` takes ``residual``, ``mask`` and ``sample_weight`` as ``BatchNorm1d`` does. Under
    ``torch.utils.checkpoint`` a forward that is run again takes the r and d of the last training batch: call
    ``backward`` before the layer sees another.

    Raises:
        ValueError: ``track_running_stats=False``, and what ``BatchNorm1d`` refuses.

    References:
        Ioffe, Batch renormalization: towards reducing minibatch dependence in batch-normalized models, 2017.

    Example:
        >>> import torch
        >>> from normwise.torch import BatchRenorm1d, RenormSchedule
        >>> at_once = RenormSchedule(warm_up=0, r_full=0, d_full=0)
        >>> layer = BatchRenorm1d(1, schedule=at_once)
        >>> layer(torch.tensor([[0.5], [1.5]])).detach().flatten()  # inference would divide by 1, too
        tensor([0.5000, 1.5000])
    """


class BatchRenorm2d(BatchRenorm, torch.nn.BatchNorm2d):
    """Batch renormalization of (N, C, H, W); arguments as ``BatchRenorm1d``.

    Example:
        >>> import torch
        >>> from normwise.torch import BatchRenorm2d
        >>> BatchRenorm2d(16, activation="relu")(torch.randn(4, 16, 8, 8)).shape
        torch.Size([4, 16, 8, 8])
    """


class BatchRenorm3d(BatchRenorm, torch.nn.BatchNorm3d):
    """Batch renormalization of (N, C, D, H, W); arguments as ``BatchRenorm1d``.

    Example:
        >>> import torch
        >>> from normwise.torch import BatchRenorm3d, RenormSchedule
        >>> BatchRenorm3d(4, schedule=RenormSchedule(r_max=2.0))(torch.randn(2, 4, 2, 2, 2)).shape
        torch.Size([2, 4, 2, 2, 2])
    """
