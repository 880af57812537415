"""Batch normalization over parts of a batch, which are called virtual batches or ghost batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normwise.errors import UnknownName
from normwise.estimators import Estimator
from normwise.kernels import aten
from normwise.kernels.choose import SMALL
from normwise.kernels.kernel import Call
from normwise.kernels.recording import recording, traced
from normwise.moments import Moments
from normwise.torch.layers.batch_norm import torch_bias
from normwise.torch.layers.left_away import added_late, is_larger
from normwise.torch.layers.tracked import TrackedBatchNorm
from normwise.torch.steps.call import kernel_for, like_torch
from normwise.torch.steps.checks import refuse_nested
from normwise.torch.steps.checks_mask import check_masked_count
from normwise.torch.steps.gather_order import ORDERS, Sizes, order_of, permuted
from normwise.torch.steps.gather_virtual import PerSample, repeated, together, woven
from normwise.torch.steps.normalize_tiny import POLICIES, Normalized


class GhostBatchNorm(TrackedBatchNorm):
    """The gather step over virtual batches, for all numbers of axes. Not for direct use."""

    why_not_joined = "it takes parts of a batch for themselves, which joining batches would undo"

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
        virtual_batch_size: int | None = None,
        num_splits: int | None = None,
        smallest: int | None = None,
        order: str = "consecutive",
        activation: str | None = None,
        estimator: Estimator | str | None = None,
        on_tiny_batch: str = "error",
    ) -> None:
        self.sizes = Sizes(virtual_batch_size, num_splits, smallest)
        if order not in ORDERS:
            raise UnknownName("order", order, ORDERS)
        self.order = order
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **torch_bias(bias))
        self._settle(activation, estimator, on_tiny_batch)

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """``activation(normalize(input) + residual)``, in training by virtual batches."""
        self._check_input_dim(input)
        if residual is not None and is_larger(self, input, residual):
            return added_late(self, input, residual, mask=mask, sample_weight=sample_weight)
        if input.is_nested:
            refuse_nested(self)
        if not self.training:
            return super().forward(input, residual, mask=mask, sample_weight=sample_weight)
        samples = len(input)
        groups, size, rest = (1, samples, 0) if input.numel() == 0 else self.sizes.of(samples)
        if groups == 1 and rest == 0:
            return super().forward(input, residual, mask=mask, sample_weight=sample_weight)
        # In a recording, ``split`` refuses batches of other sizes, which would be dealt to other places.
        x = input.split([samples])[0] if traced() else input
        call, _ = self._checked(x, residual, mask, sample_weight, ask_torch=False)
        call = like_torch(call._replace(weights=None), by_batch=True)._replace(weights=call.weights)
        self._refuse_single_values(input, size, rest)
        if call.weights is not None:
            call = call._replace(weights=call.weights.expand(samples, *call.weights.shape[1:]))
        y, moments = self._by_groups(call, groups, size, rest)
        if moments is not None and self.track_running_stats:
            self._enter(moments, call.weights)
        return y

    def _by_groups(self, call: Call, groups: int, size: int, rest: int) -> tuple[Tensor, Moments | None]:
        """The output, and the moments of all values in all groups, or None where nothing is to enter."""
        x = call.x
        samples = PerSample(x, call.residual, call.weights)
        sizes = [groups * size, rest] if rest else [groups * size]
        # Groups of that size are done one by one before they are gathered from memory for one call.
        large = groups > 1 and size * x[0].numel() >= SMALL and not recording()
        if large and self.order == "consecutive":
            places, sizes = None, [*[size] * groups, *sizes[1:]]
        else:
            places = order_of(self.order, groups, size, groups * size + rest, x.device)
        parts = (samples if places is None else samples.moved(places)).split(sizes)
        dealt = large and self.order != "consecutive" and aten.memory_format(x) is not torch.contiguous_format
        if dealt:  # as channels of one batch, every value would have to be moved by itself
            parts = [*parts[0].dealt(groups), *parts[1:]]
        many = 1 if large and (dealt or self.order == "consecutive") else groups
        done = [self._call(part, call, 1 if rest and part is parts[-1] else many) for part in parts]
        outputs = [part for part, _ in done]
        if dealt:
            outputs = [woven(outputs[:groups]), *outputs[groups:]]
        y = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        if places is not None:
            y = permuted(y, places.back, places.order)
        found = [moments for _, moments in done if moments is not None]
        return y.contiguous(memory_format=aten.memory_format(x)), together(found) if found else None

    def _call(self, samples: PerSample, call: Call, groups: int) -> tuple[Tensor, Moments | None]:
        """Normalize as many groups as there are in one call of a kernel; returns the output and the moments, if any."""
        shares_mask = call.weights is None or call.weights.shape[1] == 1
        x, residual, weights = samples.as_channels(groups)
        call = repeated(call, groups)._replace(x=x, residual=residual, weights=weights)
        policy = POLICIES[self.on_tiny_batch] if self.track_running_stats else None
        tiny = None
        if policy is not None and call.mean is not None and call.var is not None:
            tiny = policy(call, self._met)
        if tiny is None:
            if weights is not None:
                check_masked_count(weights, x)
            tiny = Normalized(*kernel_for(call, by_batch=True).forward_batch(call))
        y, moments = tiny
        y = y.reshape(samples.input.shape)
        if moments is None:
            return y, None
        channels = samples.input.shape[1]
        count = moments.count
        if isinstance(count, Tensor) and count.dim():
            count = count.view(groups, channels)
            count = count[:, :1] if shares_mask else count
        found = Moments(moments.mean.view(groups, channels), moments.var.view(groups, channels), count).merged()
        if shares_mask and isinstance(found.count, Tensor):
            return y, Moments(found.mean, found.var, found.count.view(()))
        return y, found

    def _refuse_single_values(self, input: Tensor, size: int, rest: int) -> None:
        """Refuse virtual batches of one value, where possible in PyTorch's words, unless ``on_tiny_batch`` applies."""
        smallest = min(size, rest or size)
        if smallest * input[0, 0].numel() == 1 and (self.on_tiny_batch == "error" or not self.track_running_stats):
            raise ValueError(
                f"Expected more than 1 value per channel when training, got virtual batches of {smallest} in input "
                f"size {input.size()}: make them larger, or choose on_tiny_batch='running'."
            )

    def extra_repr(self) -> str:
        """The line of a batch norm, and how the batch is divided."""
        order = "" if self.order == "consecutive" else f", order={self.order}"
        return f"{super().extra_repr()}, {self.sizes}{order}"


class GhostBatchNorm1d(GhostBatchNorm, torch.nn.BatchNorm1d):
    r"""Batch normalization of (N, C) or (N, C, L) over virtual batches: each part of a batch by its own moments.

    .. math:: y_i = f\Big(\gamma \frac{x_i - \mu_{g(i)}}{\sqrt{v_{g(i)} + \epsilon}} + \beta + r_i\Big)

    with :math:`g(i)` the virtual batch that sample i is in. A large batch then has the noise of a small one, which is
    what makes small batches generalize; and the samples of one virtual batch cannot be told by the statistics of
    another. In inference it is plain batch normalization, for any number of samples.

    The running statistics move once per batch, towards the mean and the total variance of all its values: that within
    the virtual batches and that between them.

    Args:
        num_features: C.
        eps: :math:`\epsilon`, added to the variance.
        momentum: weight of the new batch in the running statistics; None for the plain average.
        affine: whether to learn :math:`\gamma` and :math:`\beta`.
        track_running_stats: whether to keep statistics for inference; without them inference is by the whole batch.
        device: of parameters and buffers.
        dtype: of parameters and buffers.
        bias: whether to learn :math:`\beta`.
        virtual_batch_size: samples in a virtual batch (TabNet's and Keras's name). This or ``num_splits`` is given.
        num_splits: into how many to split the batch (timm's name), whatever its size: ceil(N / num_splits) samples
            each.
        smallest: of how many samples the last virtual batch has to be, where N is not a multiple; if fewer are left,
            they join the one before. More than half of the others by default.
        order: which samples make up a virtual batch. ``"consecutive"``: neighbours, as in TabNet, Keras and timm.
            ``"interleaved"``: they are dealt out like cards, which costs the least, as nothing has to be copied where
            the channels come first in memory. ``"shuffled"``: drawn again in every forward, from torch's generator, so
            that two views of the same sample do not meet the same companions (MoCo's shuffled batch normalization, on
            one device); the output is in the order of the input.
        activation: :math:`f`, for example ``"relu"``; None for the identity.
        estimator: how batches become running statistics, as in ``BatchNorm1d``.
        on_tiny_batch: what to do with a virtual batch of too few values per channel, as in ``BatchNorm1d``.

    ``forward`` takes ``residual``, ``mask`` and ``sample_weight`` as ``BatchNorm1d`` does, and the ``state_dict`` is
    that of torch's layer.

    Raises:
        ValueError: neither or both of ``virtual_batch_size`` and ``num_splits``, one of them below 1, an unknown order,
            and what ``BatchNorm1d`` refuses.

    References:
        Hoffer, Hubara and Soudry, Train longer, generalize better: closing the generalization gap in large batch
        training of neural networks, 2017. He, Fan, Wu, Xie and Girshick, Momentum contrast for unsupervised visual
        representation learning, 2020, section 3.3 (shuffling).

    Example:
        >>> import torch
        >>> from normwise.torch import GhostBatchNorm1d
        >>> layer = GhostBatchNorm1d(1, virtual_batch_size=2)
        >>> layer(torch.tensor([[1.0], [3.0], [10.0], [20.0]])).detach().round().flatten()
        tensor([-1.,  1., -1.,  1.])
        >>> layer.running_mean
        tensor([0.8500])
    """


class GhostBatchNorm2d(GhostBatchNorm, torch.nn.BatchNorm2d):
    """Batch normalization of (N, C, H, W) over virtual batches; arguments as ``GhostBatchNorm1d``.

    Example:
        >>> import torch
        >>> from normwise.torch import GhostBatchNorm2d
        >>> GhostBatchNorm2d(16, num_splits=4, activation="relu")(torch.randn(10, 16, 8, 8)).shape
        torch.Size([10, 16, 8, 8])
    """


class GhostBatchNorm3d(GhostBatchNorm, torch.nn.BatchNorm3d):
    """Batch normalization of (N, C, D, H, W) over virtual batches; arguments as ``GhostBatchNorm1d``.

    Example:
        >>> import torch
        >>> from normwise.torch import GhostBatchNorm3d
        >>> GhostBatchNorm3d(4, virtual_batch_size=8, order="shuffled")(torch.randn(20, 4, 2, 2, 2)).shape
        torch.Size([20, 4, 2, 2, 2])
    """
