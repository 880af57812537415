"""``tiny_batches`` for a batch that is spread over processes: what counts is how many values all of them have."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from normwise.moments import Moments
from normwise.torch.buffers import readable
from normwise.torch.sync_normalize import Joined
from normwise.torch.tiny_batches import FEW, corrections


class Batch(NamedTuple):
    """The joined moments, and what the layer has."""

    moments: Moments
    mean: Tensor | None
    var: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    eps: float


class Normal(NamedTuple):
    """By what the parts are normalized, scaled and shifted."""

    by: Joined
    scale: Tensor | None
    shift: Tensor | None


def check_more_than_one(count: Tensor, input: Tensor, processes: int) -> None:
    """Refuse, in all processes alike, one value in some channel of all of them together, in torch's words.

    The number has to be read on the host; where that is not free, the one value becomes beta, and moves no statistics.

    Raises:
        ValueError: there is one.
    """
    if readable(count) and bool((count == 1).any()):
        raise ValueError(
            f"Expected more than 1 value per channel when training, got 1 value in all {processes} processes together, "
            f"with input size {input.size()} in this one: make the batch larger, or choose on_tiny_batch='running'."
        )


@torch.no_grad()
def _constants(policy: str, batch: Batch) -> tuple[Joined, Tensor | None, Tensor | None]:
    """The moments to normalize by, and r and d where there are any."""
    moments, count = batch.moments, batch.moments.count
    mean, var = moments.mean, moments.var
    share = torch.where(count > 0, 1 / count.clamp(min=torch.finfo(count.dtype).tiny), 0)
    if policy == "error":
        return Joined(mean, var, share), None, None
    assert batch.mean is not None
    assert batch.var is not None
    if policy == "running":
        single = count == 1
        by_running = torch.where(single, batch.mean, mean), torch.where(single, batch.var, var)
        return Joined(*by_running, torch.where(single, 0, share)), None, None
    r, d = corrections(moments, batch.mean, batch.var, batch.eps)
    few = (count > 0) & (count < FEW)
    return Joined(mean, var, share), torch.where(few, r, 1), torch.where(few, d, 0)


def by_policy(policy: str, batch: Batch) -> Normal:
    """What the batch is normalized by, channel by channel.

    Args:
        policy: a name of ``tiny_batches.POLICIES``.
        batch: the joined one.
    """
    joined, r, d = _constants(policy, batch)
    if r is None or d is None:
        return Normal(joined, batch.weight, batch.bias)
    scale, shift = (r, d) if batch.weight is None else (r * batch.weight, d * batch.weight)
    return Normal(joined, scale, shift if batch.bias is None else shift + batch.bias)
