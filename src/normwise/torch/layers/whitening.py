r"""The common part of both whitening layers: groups of channels, their covariance, and its running estimate.

Inference needs the mean and a matrix for each group. The papers average the matrices of the batches,
:math:`\overline{W_B}`. Here the covariance is averaged and the matrix is made of it, because a covariance is a moment:
batches of any size and every estimator combine to that of all the data, and it can be unbiased. A matrix cannot: the
inverse root bends, so the average of the roots of noisy covariances is too large, the more so the fewer values a batch
has for each channel of a group.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from normwise.estimators import Estimator
from normwise.kernels import aten
from normwise.kernels.covariance import Gathered, gather, matrix_dtype, multiplied, without_autocast
from normwise.kernels.kernel import Call
from normwise.kernels.torch_activations import activate
from normwise.kernels.two_pass import blank
from normwise.moments import Moments
from normwise.torch.layers.batch_norm import torch_bias
from normwise.torch.layers.left_away import activation_now
from normwise.torch.layers.tracked import TrackedBatchNorm
from normwise.torch.layers.unsaved_buffers import reset_unsaved, skipped_of
from normwise.torch.steps.buffers import is_wide, store
from normwise.torch.steps.call import like_torch
from normwise.torch.steps.checks import cast_parameters, check_activation, check_dense, check_residual, refuse_nested
from normwise.torch.steps.checks_mask import check_masked_count, check_weights
from normwise.torch.steps.checks_whitening import check_shared, size_of_groups
from normwise.torch.steps.estimate import update_running
from normwise.torch.steps.estimate_pairs import covariance_of_pairs, mean_of_pairs, sums_of_pairs
from normwise.torch.steps.estimate_recomputation import recomputing
from normwise.torch.steps.normalize_kept import Kept, comparable, learning
from normwise.torch.steps.normalize_linear import LinearMap, linear_map


class Whitening(TrackedBatchNorm):
    """The normalize step by a matrix for each group of channels. Not for direct use."""

    why_not_joined = "it whitens by a covariance, and only means and variances are joined"
    unlike_torch = "whitens groups of channels"
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
        del self._buffers["running_var"]  # it is the diagonal of the covariance
        self.register_buffer("running_covariance", covariance)
        self._kept_root = Kept[Tensor]()
        self._kept_map = Kept[LinearMap]()

    def __getattr__(self, name: str) -> Any:
        # None in its place would be taken over by tools that replace the layer, and the error come later, if at all.
        if name == "running_var" and name not in self.__dict__.get("_buffers", ()):
            raise AttributeError(
                f"{type(self).__name__} has no running_var, because it whitens groups of channels by its "
                "running_covariance: what was called is for layers that divide each channel by its own deviation, as "
                "SyncBatchNorm.convert_sync_batchnorm and fuse_conv_bn_eval are; leave this layer out of it."
            )
        return super().__getattr__(name)

    def _settings(self) -> tuple[Any, ...]:
        """The settings that the matrices depend on, besides the covariance."""
        return (self.eps,)

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
        if input.is_nested:
            refuse_nested(self)
        check_dense(input)
        check_activation(self.activation)
        check_residual(residual, input)
        weights = check_weights(mask, sample_weight, input)
        check_shared(weights)
        mean, covariance = self.running_mean, self.running_covariance
        weight, bias = cast_parameters(input, mean, self.weight, self.bias)
        covariance = None if mean is None else covariance  # torch.func takes the mean away, and means both
        by_batch = self.training or mean is None or covariance is None
        var = None if covariance is None else covariance.diagonal(dim1=1, dim2=2).reshape(-1)
        # For its checks alone: torch has no gradient of statistics, and these layers have.
        fixed_mean, fixed_var = (None if each is None else each.detach() for each in (mean, var))
        call = like_torch(Call(input, None, fixed_mean, fixed_var, weight, bias, self.eps), by_batch=by_batch)
        weight, bias = call.scale, call.shift
        with without_autocast(input):
            if input.numel() == 0:
                y = _scaled(input.to(torch.promote_types(input.dtype, torch.float32)), None, weight, bias)
            elif by_batch:
                if weights is not None:
                    check_masked_count(weights, input)
                found = gather(input, self.group_size, weights)
                root = self._root(found.covariance)
                if self.training and self.track_running_stats:
                    self._enter_group(found, weights)
                y = _scaled(found.centred, root, weight, bias)
            else:
                assert mean is not None
                assert covariance is not None
                x = input if weights is None else input.masked_fill(blank(weights), 0)
                y = self._by_running(x, mean, covariance, weight, bias)
        y = y.to(input.dtype)
        if weights is not None and residual is not None:
            residual = residual.masked_fill(blank(weights), 0)  # a NaN in the padding has no slope to meet
        y = activate(y, activation_now(self), residual)
        if weights is not None:
            y = y.masked_fill(blank(weights), 0)
        return y.contiguous(memory_format=aten.memory_format(input))

    def _by_running(
        self, input: Tensor, mean: Tensor, covariance: Tensor, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        """Whiten by the running statistics; the matrices are those of the last call as long as nothing has changed.

        On other devices than the CPU, where to compare values is to wait for the device, they are made again, as where
        a gradient of the statistics is wanted, under ``torch.func`` and in compiled graphs.
        """
        x = input.to(torch.promote_types(input.dtype, torch.float32))

        def root() -> Tensor:
            return self._root(covariance.to(matrix_dtype(covariance)))

        if comparable(input, mean, covariance, weight, bias) and not learning(mean, covariance):
            kept, settings = self._kept_root, (type(self), *self._settings())
            if not learning(weight, bias):
                tensors = covariance, mean, weight, bias

                def whole() -> LinearMap:
                    return linear_map(kept.of([covariance], settings, root), mean, weight, bias, x.dtype)

                return self._kept_map.of(tensors, (*settings, x.dtype), whole)(x)
            found = kept.of([covariance], settings, root)
        else:
            found = root()
        centred = x - mean.to(x.dtype).view(1, -1, *[1] * (x.dim() - 2))
        return _scaled(centred, found, weight, bias)

    @torch.no_grad()
    def _enter_group(self, batch: Gathered, weights: Tensor | None) -> None:
        """One more batch into the running mean and covariance; ``weights`` is what it was gathered with."""
        mean, covariance = self.running_mean, self.running_covariance
        if self._paused or recomputing() or mean is None or covariance is None:
            return
        groups, size = covariance.shape[:2]
        found = batch.covariance.detach()  # what records the call records no grad mode
        dtype = found.dtype
        # What would spoil a pair of channels keeps its whole group as it was, or nothing would hold the pairs together.
        fits = found.abs() <= torch.finfo(covariance.dtype).max / 4
        new = torch.where(fits.all(-1).all(-1)[:, None, None], found, torch.nan)
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
            skipped_of(self),
        )
        store(mean, mean_of_pairs(kept_mean, groups, size))
        store(covariance, covariance_of_pairs(kept_var, groups, size))

    def reset_running_stats(self) -> None:
        """Back to mean 0, covariance the identity, nothing seen."""
        covariance = self._buffers.get("running_covariance")
        if covariance is None:  # while torch's own ``__init__`` makes the layer
            super().reset_running_stats()
            return
        assert self.running_mean is not None
        self.running_mean.zero_()
        covariance.copy_(_identity(self.num_features, self.group_size, covariance))
        for counter in (self.num_batches_tracked, self.running_count):
            if counter is not None:
                counter.zero_()
        reset_unsaved(self)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Convert as all layers do; the covariance stays in float32 as the mean does."""
        original = self._buffers.get("running_covariance")
        super()._apply(fn, recurse)
        self._widen(original)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        own, var = (state_dict.get(f"{prefix}{name}") for name in ("running_covariance", "running_var"))
        plain = self._buffers["running_covariance"] is not None and own is None
        # Of another shape, the keys that are missing and surplus say what is wrong.
        if plain and var is not None and var.shape == (self.num_features,):
            state_dict[f"{prefix}running_covariance"] = torch.diag_embed(var.view(-1, self.group_size))
            del state_dict[f"{prefix}running_var"]
            warnings.warn(
                f"{type(self).__name__} was given a batch norm's statistics, a running_var and no running_covariance: "
                "it takes the channels as uncorrelated, and so divides each by its own deviation in inference, until "
                "it was trained or normwise.recalibrate has seen data.",
                stacklevel=2,
            )
        super()._load_from_state_dict(state_dict, prefix, *args)
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


def _identity(channels: int, size: int, like: Tensor) -> Tensor:
    """The covariance before the first batch."""
    return torch.eye(size, dtype=like.dtype, device=like.device).repeat(channels // max(size, 1), 1, 1)
