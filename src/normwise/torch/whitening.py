r"""What both whitening layers share: groups of channels, their covariance, and its running estimate.

Inference needs the mean and a matrix for each group. The papers average the matrices of the batches,
:math:`\overline{W_B}`. Here the covariance is averaged and the matrix is made of it, because a covariance is a moment:
batches of any size and every estimator combine to that of all the data, and it can be unbiased. A matrix cannot: the
inverse root bends, so the average of the roots of noisy covariances is too large, the more so the fewer values a batch
has for each channel of a group.

An estimator knows numbers of single channels, and a covariance is no such thing. But the variance of a sum of two
channels is, and :math:`2 \Sigma_{ij} = Var(x_i + x_j) - \Sigma_{ii} - \Sigma_{jj}`. So the sums of all pairs enter, as
channels, and every estimator does to the covariance what it does to a variance.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from normwise.estimators import Estimator
from normwise.kernels import aten
from normwise.kernels.covariance import Gathered, gather, matrix_dtype, multiplied
from normwise.kernels.torch_activations import activate
from normwise.kernels.two_pass import blank
from normwise.moments import Moments
from normwise.torch.batchnorm import torch_bias
from normwise.torch.buffers import changeable, is_wide
from normwise.torch.checks import as_torch_takes_them, check_activation, check_residual, parameters_for
from normwise.torch.fused_batchnorm import FusedBatchNorm
from normwise.torch.mask_checks import check_masked_count, check_weights
from normwise.torch.recomputation import recomputing
from normwise.torch.running_statistics import update_running


class FusedWhitening(FusedBatchNorm):
    """The normalize step by a matrix for each group of channels. Not for direct use."""

    running_covariance: Tensor | None

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
        group_size: int = 64,
        activation: str | None = None,
        estimator: Estimator | str | None = None,
    ) -> None:
        self.group_size = size_of_groups(num_features, group_size)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **torch_bias(bias))
        self._settle(activation, estimator)
        mean = self.running_mean
        covariance = None if mean is None else _identity(num_features, self.group_size, mean)
        # The variances are its diagonal.
        self.register_buffer("running_var", None)
        self.register_buffer("running_covariance", covariance)

    def _root(self, covariance: Tensor) -> Tensor:
        """The matrix of each group, (groups, size, size)."""
        raise NotImplementedError

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """``activation(whiten(input) + residual)``; see ``normwise.torch.functional.batch_norm`` for the shapes."""
        self._check_input_dim(input)
        check_activation(self.activation)
        check_residual(residual, input)
        weights = check_weights(mask, sample_weight, input)
        if weights is not None and weights.shape[1] > 1:
            raise ValueError(
                "whitening needs a mask and weights that all channels of a position share, received "
                f"{tuple(weights.shape)}: take for example mask.all(1, keepdim=True)."
            )
        mean, covariance = self.running_mean, self.running_covariance
        by_batch = self.training or mean is None or covariance is None
        weight, bias = parameters_for(input, mean, self.weight, self.bias)
        var = None if covariance is None else covariance.diagonal(dim1=1, dim2=2).reshape(-1)
        _, _, weight, bias = as_torch_takes_them(input, mean, var, weight, bias, by_batch, 0.0, self.eps)
        # Products of matrices in half precision, as autocast would have them, have too few digits for a covariance.
        with torch.autocast(input.device.type, enabled=False):
            if input.numel() == 0:
                centred, root = input.to(torch.promote_types(input.dtype, torch.float32)), None
            elif by_batch:
                if weights is not None:
                    check_masked_count(weights, input)
                found = gather(input, self.group_size, weights)
                centred, root = found.centred, self._root(found.covariance)
                if self.training and self.track_running_stats:
                    self._enter_group(found, weights)
            else:
                assert mean is not None
                assert covariance is not None
                wide = torch.promote_types(input.dtype, torch.float32)
                centred = input.to(wide) - mean.to(wide).view(1, -1, *[1] * (input.dim() - 2))
                root = self._root(covariance.to(matrix_dtype(covariance)))
            y = _scaled(centred, root, weight, bias).to(input.dtype)
        if weights is not None and residual is not None:
            residual = residual.masked_fill(blank(weights), 0)  # a NaN in the padding has no slope to meet
        y = activate(y, self.activation, residual)
        if weights is not None:
            y = y.masked_fill(blank(weights), 0)
        return y.contiguous(memory_format=aten.memory_format(input))

    @torch.no_grad()
    def _enter_group(self, batch: Gathered, weights: Tensor | None) -> None:
        """One more batch into the running mean and covariance; ``weights`` is what it was gathered with."""
        mean, covariance = self.running_mean, self.running_covariance
        if self._paused or recomputing() or mean is None or covariance is None:
            return
        groups, size = covariance.shape[:2]
        dtype = batch.covariance.dtype
        # What would spoil a pair of channels keeps its whole group as it was, or nothing would hold the pairs together.
        fits = batch.covariance.abs() <= torch.finfo(covariance.dtype).max / 4
        new = torch.where(fits.all(-1).all(-1)[:, None, None], batch.covariance, torch.nan)
        kept_mean, kept_var = sums_of_pairs(mean.to(dtype).view(groups, size), covariance.to(dtype))
        new_mean, new_var = sums_of_pairs(batch.mean.to(dtype).view(groups, size), new)
        count = self.running_count
        if count is not None and weights is not None and weights.is_floating_point():
            self.running_count = count = count.to(dtype)  # these are no whole numbers
        update_running(
            self._estimator(),
            Moments(new_mean.flatten(), new_var.flatten(), batch.number),
            kept_mean,
            kept_var,
            self.num_batches_tracked,
            count,
            self.num_batches_skipped,
        )
        after, variances = kept_mean.view(groups, size, size), kept_var.view(groups, size, size)
        changeable(mean).copy_(after.diagonal(dim1=1, dim2=2).reshape(-1))
        changeable(covariance).copy_(covariance_of_pairs(variances))

    def reset_running_stats(self) -> None:
        """Back to mean 0, covariance the identity, nothing seen."""
        covariance = self._buffers.get("running_covariance")
        if covariance is None:  # while torch's own ``__init__`` makes the layer
            super().reset_running_stats()
            return
        assert self.running_mean is not None
        self.running_mean.zero_()
        covariance.copy_(_identity(self.num_features, self.group_size, covariance))
        for counter in (self.num_batches_tracked, self.running_count, self.num_batches_skipped):
            if counter is not None:
                counter.zero_()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """As of all layers; the covariance stays in float32 as the mean does."""
        original = self._buffers.get("running_covariance")
        super()._apply(fn, recurse)
        self._widen(original)
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._widen(None)

    def _widen(self, original: Tensor | None) -> None:
        """The covariance in float32: the original where that is wide, else the narrow one's values."""
        now = self._buffers.get("running_covariance")
        if now is None or is_wide(now) or is_lazy(now):
            return
        known = original is not None and is_wide(original) and original.is_meta == now.is_meta
        source = original if known and original is not None else now
        self._buffers["running_covariance"] = source.detach().to(device=now.device, dtype=torch.float32)

    def extra_repr(self) -> str:
        """The line of a batch norm, and the groups."""
        return f"{super().extra_repr()}, group_size={self.group_size}"


def _scaled(centred: Tensor, root: Tensor | None, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Whitened, scaled and shifted; without a root for the empty batch, where there is nothing to be whitened."""
    along = (1, -1, *[1] * (centred.dim() - 2))
    if root is None:
        y = centred if weight is None else centred * weight.view(along)
    else:
        # A row of the matrix is a channel of the output, so the scale is that of the row.
        y = multiplied(root if weight is None else root * weight.to(root.dtype).view(*root.shape[:2], 1), centred)
    return y.clone() if y is centred else y if bias is None else y + bias.view(along)


def size_of_groups(channels: int, group_size: int) -> int:
    """The size, at most that of the layer; refuse one that does not divide it.

    Example:
        >>> size_of_groups(48, 64), size_of_groups(128, 64)
        (48, 64)
    """
    if not isinstance(group_size, int) or isinstance(group_size, bool):
        raise TypeError(
            f"group_size must be a whole number, received {type(group_size).__name__}: pass for example 64."
        )
    if group_size < 1:
        raise ValueError(f"group_size must be 1 or more, received {group_size}: pass for example 64.")
    size = min(group_size, channels)
    if size and channels % size:
        nearest = max(divisor for divisor in range(1, size + 1) if channels % divisor == 0)
        raise ValueError(
            f"group_size must divide the number of channels, {channels}, received {group_size}: "
            f"pass for example {nearest}, the largest below it that does."
        )
    return size


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


def covariance_of_pairs(variances: Tensor) -> Tensor:
    """Back from the variances of ``sums_of_pairs``, (groups, size, size).

    Example:
        >>> covariance_of_pairs(torch.tensor([[[4.0, 15.0], [15.0, 9.0]]]))
        tensor([[[4., 1.],
                 [1., 9.]]])
    """
    identity = torch.eye(variances.shape[-1], dtype=torch.bool, device=variances.device)
    var = variances.diagonal(dim1=1, dim2=2)
    return torch.where(identity, variances, (variances - var.unsqueeze(-1) - var.unsqueeze(-2)) / 2)


def _identity(channels: int, size: int, like: Tensor) -> Tensor:
    """The covariance before the first batch."""
    return torch.eye(size, dtype=like.dtype, device=like.device).repeat(channels // max(size, 1), 1, 1)
