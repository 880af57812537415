"""Running statistics stay finite: what an overflow or a NaN made of a batch does not enter, channel by channel.

One such batch would be enough for ever, because every average of it and anything else is NaN. Loss scaling skips the
optimizer step of such a batch, but the forward has passed the layer by then. Where Python may look at numbers at no
cost, a look at the sum of the variances decides whether there is anything to repair; on other devices and in compiled
graphs the choice is made by ``where``, without a wait for the device and without a branch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normwise.torch.steps.buffers import changeable, store, store_if_known


def all_finite(mean: Tensor, var: Tensor) -> bool:
    """True if all are finite, told by one cheap number that no NaN and no infinity leaves finite.

    False too where only that number overflows; what is done then is right for finite ones.
    """
    return math.isfinite(mean.dot(var).item())


def finite_channels(mean: Tensor, var: Tensor) -> Tensor:
    """True where both are finite, shape (C,)."""
    return mean.isfinite() & var.isfinite()


Statistics = tuple[Tensor, ...]  # mean and var


@torch.no_grad()
def take_finite(
    new: Statistics, old: Statistics, buffers: Statistics, updates: Tensor | None, skipped: Tensor | None
) -> None:
    """Write, in place, the new statistics of the channels where they are finite, else the old ones; count the batch.

    Args:
        new: after the batch.
        old: before it.
        buffers: where they are kept.
        updates: how many batches entered in any channel, or None.
        skipped: how many were left out in any channel, or None.
    """
    entered = finite_channels(*new)
    for buffer, after, before in zip(buffers, new, old, strict=True):
        store(buffer, torch.where(entered, after, before))
    if updates is not None:
        changeable(updates).add_(entered.any())
    if skipped is not None:
        store_if_known(skipped, skipped + ~entered.all())
