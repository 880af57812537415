"""The estimate step of a layer, on tensors: one more batch into the running statistics, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.estimators.ema import Ema
from normwise.estimators.estimator import Estimator, RunningStatistics
from normwise.kernels import cpu_statistics
from normwise.kernels.choose import built
from normwise.moments import Moments
from normwise.torch.buffers import changeable, readable
from normwise.torch.finite import count_batch, finite_channels
from normwise.torch.recomputation import recomputing


def update_running(
    estimator: Estimator,
    batch: Moments,
    running_mean: Tensor,
    running_var: Tensor,
    updates: Tensor | None = None,
    count: Tensor | None = None,
    skipped: Tensor | None = None,
) -> None:
    """The estimate step: one more batch enters the buffers, in place; the one way in for every layer.

    A channel of which the batch would make anything but finite numbers keeps its statistics (``finite``), and a forward
    that the backward runs again changes nothing (``recomputation``).

    Args:
        estimator: how.
        batch: the batch's moments.
        running_mean: shape (C,).
        running_var: shape (C,), unbiased.
        updates: int64, how many batches entered, or None where nobody counts.
        count: how many values entered, shape () or (C,), or None where the estimator does not need it.
        skipped: int64, how many batches did not enter in some channel, or None where nobody counts.
    """
    if recomputing():
        return
    if isinstance(estimator, Ema) and count is None:
        left_out = _moved_by_ema(estimator, batch, running_mean, running_var)
        if left_out is not None:
            count_batch(updates, skipped, left_out, running_var.numel())
            return
    with torch.no_grad():
        after, incomplete = estimated(estimator, batch, RunningStatistics(running_mean, running_var, updates, count))
        for buffer, value in zip((running_mean, running_var, updates, count), vars(after).values(), strict=True):
            if buffer is not None:
                changeable(buffer).copy_(value)
        if skipped is not None:
            changeable(skipped).add_(incomplete)


def estimated(estimator: Estimator, batch: Moments, statistics: RunningStatistics) -> tuple[RunningStatistics, Tensor]:
    """The statistics after one more batch, as new tensors, without a gradient.

    Args:
        estimator: how.
        batch: the batch's moments.
        statistics: tensors; the counters may be None where nobody counts.

    Returns:
        the statistics, with counters of float64 where they were given, and whether a channel was left out.
    """
    mean, var = statistics.mean, statistics.var
    # Numbers of batches and values in float64, wherever the device has it: 1 - (1 - w)^k has no digits to lose.
    wide = torch.float32 if mean.device.type == "mps" else torch.float64
    updates, count = (
        torch.zeros((), dtype=wide, device=mean.device) if counter is None else counter.to(wide)
        for counter in (statistics.updates, statistics.count)
    )
    after = estimator.update(RunningStatistics(mean, var, updates, count), batch)
    new_mean, new_var = after.mean.to(mean.dtype), after.var.to(var.dtype)
    entered = finite_channels(new_mean, new_var)
    any_entered = entered.any()
    new_updates, new_count = (
        counter.to(wide) if isinstance(counter, Tensor) else torch.as_tensor(counter, dtype=wide)
        for counter in (after.updates, after.count)
    )
    taken = RunningStatistics(
        torch.where(entered, new_mean, mean),
        torch.where(entered, new_var, var),
        # of channels that differ, some having nothing to say, the one that says most
        torch.where(any_entered, new_updates.amax(), updates),
        torch.where(entered if count.dim() else any_entered, new_count, count),
    )
    return taken, ~entered.all()


def _moved_by_ema(ema: Ema, batch: Moments, running_mean: Tensor, running_var: Tensor) -> int | None:
    """The compiled step, for what the compiled kernels gathered, in plain buffers: how many channels were left out.

    None where it cannot be done so, and nothing was.
    """
    if not readable(batch.mean) or not isinstance(batch.count, int) or batch.count < 2:
        return None
    if batch.mean.dtype is not torch.float64 or not built():
        return None
    population = Moments(0.0, 1.0, batch.count).population_var()
    return cpu_statistics.move_running(running_mean, running_var, batch.mean, batch.var, population, ema.weight_of_new)
