"""Batch normalization as a function from a state to the next one: nothing is changed in place."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from normwise.estimators.ema import Ema
from normwise.estimators.estimator import Estimator, RunningStatistics
from normwise.torch.functional.batch_norm import batch_norm, batch_norm_with_moments
from normwise.torch.layers.tracked import TrackedBatchNorm
from normwise.torch.layers.unsaved_buffers import skipped_of
from normwise.torch.steps.estimate import estimated


class BatchNormState(NamedTuple):
    """The running statistics as a value: a tuple of tensors, which ``torch.func`` and ``torch.utils._pytree`` take.

    Args:
        running_mean: shape (C,).
        running_var: shape (C,), unbiased.
        num_batches_tracked: how many batches entered, shape ().
        running_count: how many values per channel entered, shape () or, where channels differ, (C,).
        num_batches_skipped: how many did not in some channel, because they were not finite, shape ().
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    running_count: Tensor
    num_batches_skipped: Tensor

    @classmethod
    def start(
        cls, num_features: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> BatchNormState:
        """The state before the first batch: mean 0, variance 1, nothing seen.

        Example:
            >>> from normwise.torch import BatchNormState
            >>> BatchNormState.start(2).running_var
            tensor([1., 1.])
        """
        mean = torch.zeros(num_features, device=device, dtype=dtype)
        numbers = [torch.zeros((), device=device, dtype=torch.float64) for _ in range(3)]
        return cls(mean, torch.ones_like(mean), *numbers)

    @classmethod
    def of(cls, layer: TrackedBatchNorm) -> BatchNormState:
        """A copy of a layer's running statistics, which the layer keeps.

        Example:
            >>> from normwise.torch import BatchNorm1d, BatchNormState
            >>> BatchNormState.of(BatchNorm1d(3)).running_mean
            tensor([0., 0., 0.])
        """
        mean, var = layer.running_mean, layer.running_var
        if mean is None or var is None:
            raise ValueError("a layer without running statistics has no state: make it with track_running_stats=True.")
        numbers = [
            torch.zeros((), device=mean.device, dtype=torch.float64) if number is None else number.detach().double()
            for number in (layer.num_batches_tracked, layer.running_count, skipped_of(layer))
        ]
        return cls(mean.detach().clone(), var.detach().clone(), *numbers)


def batch_norm_with_state(
    input: Tensor,
    state: BatchNormState,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    eps: float = 1e-5,
    *,
    estimator: Estimator | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> tuple[Tensor, BatchNormState]:
    r"""Batch normalization without side effects, for ``torch.func``: the output and the next state.

    .. math:: (y, s') = \mathrm{batch\_norm}(x, s)

    In training the output does not depend on the state, and no gradient flows into the next one. Works under ``vmap``
    (over batches, states, parameters or all of them), ``grad``, ``jacrev``, ``jacfwd``, and in compiled graphs.

    Args:
        input: (N, C, *spatial), float16, bfloat16, float32 or float64.
        state: the statistics so far.
        weight: shape (C,), or None for 1.
        bias: shape (C,), or None for 0.
        training: whether to normalize by the batch; else by the state, which is returned as it is.
        eps: added to the variance.
        estimator: how the batch enters; None for an exponential average with weight 0.1, as the layers'.
        activation: as in ``batch_norm``.
        residual: as in ``batch_norm``.
        mask: as in ``batch_norm``.
        sample_weight: as in ``batch_norm``.

    Returns:
        the output, and the state after the batch. A channel of which the batch would make numbers that are not finite
        keeps its old ones.

    Raises:
        ValueError: as in ``batch_norm``.
        TypeError: as in ``batch_norm``.

    Example:
        >>> import torch
        >>> from normwise.torch import BatchNormState, batch_norm_with_state
        >>> state = BatchNormState.start(1)
        >>> y, state = batch_norm_with_state(torch.tensor([[1.0], [3.0]]), state)
        >>> state.running_mean
        tensor([0.2000])
    """
    mean, var = state.running_mean.detach(), state.running_var.detach()
    if not training:
        y = batch_norm(
            input,
            mean,
            var,
            weight,
            bias,
            eps=eps,
            activation=activation,
            residual=residual,
            mask=mask,
            sample_weight=sample_weight,
        )
        return y, state
    y, batch = batch_norm_with_moments(
        input,
        mean,
        var,
        weight,
        bias,
        eps,
        activation=activation,
        residual=residual,
        mask=mask,
        sample_weight=sample_weight,
    )
    with torch.no_grad():
        before = RunningStatistics(mean, var, state.num_batches_tracked, state.running_count)
        # A count for each channel comes from a mask for each channel.
        if isinstance(batch.count, Tensor) and batch.count.dim() > before.count.dim():
            before = RunningStatistics(mean, var, before.updates, before.count.expand(mean.shape))
        after, left_out = estimated(Ema(0.1) if estimator is None else estimator, batch, before)
    skipped = state.num_batches_skipped + left_out
    return y, BatchNormState(after.mean, after.var, after.updates, after.count, skipped)
