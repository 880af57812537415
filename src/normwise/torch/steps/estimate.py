"""The estimate step of a layer, on tensors: one more batch into the running statistics, in place."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from normwise.estimators.ema import Ema
from normwise.estimators.estimator import Estimator, RunningStatistics
from normwise.kernels import cpu
from normwise.kernels.internals import innermost_transform, listening_modes, running_backward
from normwise.kernels.recording import recording
from normwise.moments import Moments, bessel
from normwise.torch.steps.buffers import store, store_if_known
from normwise.torch.steps.estimate_finite import finite_channels

_ONE = torch.ones((), dtype=torch.int64)  # a tensor is added in half the time of a number

correction = lru_cache(maxsize=64)(bessel)  # of a few sizes of batches, again and again


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

    A channel whose statistics the batch would make NaN or infinite keeps its old ones (``estimate_finite``),
    and a forward that the backward runs again changes nothing (``estimate_recomputation``).

    Args:
        estimator: how.
        batch: the batch's moments.
        running_mean: shape (C,).
        running_var: shape (C,), unbiased.
        updates: int64, how many batches entered, or None where nobody counts.
        count: how many values entered, shape () or (C,), or None where the estimator does not need it.
        skipped: int64, how many batches did not enter in some channel, or None where nobody counts.
    """
    compiling = torch.compiler.is_compiling()
    if not compiling and running_backward() != -1:  # ``recomputing``, without a call
        return
    values = batch.count
    if not compiling and isinstance(estimator, Ema) and count is None and isinstance(values, int) and values > 1:
        weight = float(estimator.weight_of_new)
        left_out = move_running(running_mean, running_var, batch.mean, batch.var, correction(values), weight)
        if left_out is not None:
            count_batch(updates, skipped, left_out, running_var.numel())
            return
    with torch.no_grad():
        after, incomplete = estimated(estimator, batch, RunningStatistics(running_mean, running_var, updates, count))
        values_after = after.mean, after.var, after.updates, after.count  # vars() is unknown to PyTorch 2.11's compiler
        for buffer, value in zip((running_mean, running_var, updates, count), values_after, strict=True):
            if buffer is not None:
                store(buffer, value)
        if skipped is not None:
            store_if_known(skipped, skipped + incomplete)


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
        # of channels that differ, of which some got no values, the one that got most
        torch.where(any_entered, new_updates.amax(), updates),
        torch.where(entered if count.dim() else any_entered, new_count, count),
    )
    return taken, ~entered.all()


def move_running(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, correction: float, weight_of_new: float
) -> int | None:
    """One step of ``estimators.ema`` in place, compiled: a microsecond instead of a dozen operations.

    A channel that would not be finite after it stays as it is.

    Args:
        running_mean: shape (C,), moved towards ``mean``.
        running_var: shape (C,), moved towards ``correction * var``.
        mean: shape (C,), what the compiled kernels found.
        var: shape (C,), the same.
        correction: Bessel's, or 1.
        weight_of_new: how far.

    Returns:
        how many channels stayed as they were, or None where the tensors are not plain ones and nothing was done.
    """
    if cpu.library is None or mean.dtype is not torch.float64 or type(mean) is not Tensor or not mean.is_cpu:
        return None
    running = addresses(running_mean, running_var)
    if running is None or not (mean.is_contiguous() and var.is_contiguous()):
        return None
    left_out: int = cpu.library.move_running(*running, mean.data_ptr(), var.data_ptr(), correction, weight_of_new)
    return left_out


def addresses(running_mean: Tensor, running_var: Tensor) -> tuple[int, int, int, bool] | None:
    """The addresses of running statistics, their number, and whether they are float64; None unless they are plain.

    Args:
        running_mean: shape (C,).
        running_var: shape (C,).
    """
    dtype = running_mean.dtype
    if (
        type(running_mean) is type(running_var) is Tensor
        and (dtype is torch.float32 or dtype is torch.float64)
        and running_var.dtype is dtype
        and running_mean.is_cpu
        and running_var.is_cpu
        and running_mean.is_contiguous()
        and running_var.is_contiguous()
        and running_mean.shape == running_var.shape
        and not recording()  # before what the compiler cannot see through
        and listening_modes() == 0
        and innermost_transform() is None
    ):
        return running_mean.data_ptr(), running_var.data_ptr(), running_mean.numel(), dtype is torch.float64
    return None


def address_of_counter(updates: Tensor | None) -> int:
    """The address of the counter of batches, beside statistics that ``addresses`` found; 0 for none."""
    plain = updates is not None and type(updates) is Tensor and updates.dtype is torch.int64 and updates.is_cpu
    return updates.data_ptr() if plain and updates is not None else 0


def count_batch(updates: Tensor | None, skipped: Tensor | None, left_out: int, channels: int) -> None:
    """Count a batch that entered the statistics of all but so many channels.

    Args:
        updates: how many batches entered in any channel, or None.
        skipped: how many were left out in any channel, or None.
        left_out: channels that the batch did not enter.
        channels: all there are.
    """
    if updates is not None and (left_out < channels or channels == 0):
        updates.add_(_ONE if updates.is_cpu else 1)
    if skipped is not None and left_out:
        skipped.add_(1)
