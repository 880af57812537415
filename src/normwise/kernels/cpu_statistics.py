"""The compiled kernels' part in running statistics: what would take a dozen operations on (C,) takes a microsecond."""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.kernels.cpu import library


def move_running(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, population: float, weight_of_new: float
) -> int | None:
    """One step of ``estimators.ema`` in place, in a microsecond instead of a dozen operations.

    A channel that would not be finite after it stays as it is.

    Args:
        running_mean: shape (C,), moved towards ``mean``.
        running_var: shape (C,), moved towards ``population * var``.
        mean: shape (C,), from ``forward``.
        var: shape (C,), from ``forward``.
        population: n/(n-1), as ``Moments`` has it.
        weight_of_new: how far.

    Returns:
        how many channels stayed as they were, or None where the tensors are not plain ones and nothing was done.
    """
    running = _addresses(running_mean, running_var)
    if running is None or mean.dtype is not torch.float64 or not (mean.is_contiguous() and var.is_contiguous()):
        return None
    left_out: int = library.move_running(
        *running, mean.data_ptr(), var.data_ptr(), float(population), float(weight_of_new)
    )
    return left_out


def remember(running_mean: Tensor, running_var: Tensor) -> tuple[int, int, int, bool] | None:
    """Keep a copy of running statistics on this thread, for ``restore_if_not_finite``.

    Returns:
        what that is to be called with, or None where they are not plain or nothing is built, and nothing was done.
    """
    running = None if library is None else _addresses(running_mean, running_var)
    if running is not None:
        library.remember(*running)
    return running


def restore_if_not_finite(running: tuple[int, int, int, bool]) -> int:
    """Put the copy in the place of the channels that are no longer finite; returns how many they are."""
    restored: int = library.restore_if_not_finite(*running)
    return restored


def _addresses(running_mean: Tensor, running_var: Tensor) -> tuple[int, int, int, bool] | None:
    dtype = running_mean.dtype
    if (dtype is not torch.float32 and dtype is not torch.float64) or running_var.dtype is not dtype:
        return None
    if not (running_mean.is_cpu and running_var.is_cpu):
        return None
    if not (running_mean.is_contiguous() and running_var.is_contiguous()) or running_mean.shape != running_var.shape:
        return None
    return running_mean.data_ptr(), running_var.data_ptr(), running_mean.numel(), dtype is torch.float64
