"""``normalize_tiny`` for a batch that is spread over processes: what counts is how many values all of them have."""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.kernels.kernel import Call
from normwise.moments import Moments
from normwise.torch.steps.buffers import readable
from normwise.torch.steps.normalize_joined import Joined
from normwise.torch.steps.normalize_tiny import FEW, corrected, corrections


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
def _constants(policy: str, call: Call, moments: Moments) -> tuple[Joined, Tensor | None, Tensor | None]:
    """The moments to normalize with, and r and d where there are any."""
    mean, var, count = moments.mean, moments.var, moments.count
    share = torch.where(count > 0, 1 / count.clamp(min=torch.finfo(count.dtype).tiny), 0)
    if policy == "error":
        return Joined(mean, var, share), None, None
    assert call.mean is not None
    assert call.var is not None
    if policy == "running":
        single = count == 1
        running = torch.where(single, call.mean, mean), torch.where(single, call.var, var)
        return Joined(*running, torch.where(single, 0, share)), None, None
    r, d = corrections(moments, call.mean, call.var, call.eps)
    few = (count > 0) & (count < FEW)
    return Joined(mean, var, share), torch.where(few, r, 1), torch.where(few, d, 0)


def by_policy(policy: str, call: Call, moments: Moments) -> tuple[Call, Joined]:
    """The call with the scale and shift that a policy makes, and the moments to normalize with, channel by channel.

    Args:
        policy: a name of ``normalize_tiny.POLICIES``.
        call: of this process.
        moments: of the batches of all processes together.
    """
    joined, r, d = _constants(policy, call, moments)
    return (call if r is None or d is None else corrected(call, r, d)), joined
