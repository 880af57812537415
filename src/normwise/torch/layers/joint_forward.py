"""The forward of a synchronized batch norm: one batch for all processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normwise.errors import NormwiseError
from normwise.kernels.choose import TOO_SMALL, built
from normwise.kernels.kernel import Call
from normwise.kernels.recording import recording
from normwise.kernels.two_pass import TWO_PASS
from normwise.moments import Moments
from normwise.torch.steps.buffers import readable, transformed
from normwise.torch.steps.call import CPU, choice_for, like_torch
from normwise.torch.steps.gather_peers import peers_of
from normwise.torch.steps.normalize_joined import join, normalize_by_joined
from normwise.torch.steps.normalize_joined_tiny import by_policy, check_more_than_one


def joint_forward(
    layer: Any, input: Tensor, residual: Tensor | None, mask: Tensor | None, sample_weight: Tensor | None
) -> Tensor | None:
    """The output with the joined batch's statistics, or None where there is none to join.

    Args:
        layer: a ``SyncBatchNorm``.
        input: as in its ``forward``.
        residual: as in its ``forward``.
        mask: as in its ``forward``.
        sample_weight: as in its ``forward``.
    """
    peers = peers_of(layer.process_group, layer.called, layer._place)
    if peers is None:
        return None
    if transformed():
        raise NormwiseError(
            f"{layer.called()} joins the batches of several processes, which torch.func cannot transform: put "
            "a BatchNorm in its place (normwise.torch.convert_from_synchronized), or call the model without it."
        )
    if recording():
        raise NormwiseError(
            f"{layer.called()} joins the batches of several processes, which no recording (torch.jit.trace, "
            "torch.onnx.export, make_fx) can hold: record the model in inference mode, or put a BatchNorm in its "
            "place (normwise.torch.convert_from_synchronized)."
        )
    call, kernel = layer._checked(input, residual, mask, sample_weight, ask_torch=False)
    call = _like_torch(call)
    if choice_for(call, by_batch=True) is TOO_SMALL:  # what PyTorch's operator would save is nothing beside a message
        kernel = CPU if built() else TWO_PASS
    batch = join(call, kernel, peers)
    tracks = layer.track_running_stats and call.mean is not None and call.var is not None
    policy = layer.on_tiny_batch if tracks else "error"
    if policy == "error":
        check_more_than_one(batch.count, input, peers.number)
    y = normalize_by_joined(*by_policy(policy, call, batch), kernel=kernel, peers=peers)
    if tracks:
        _enter(layer, batch)
    return y


def _enter(layer: Any, batch: Moments) -> None:
    """One more batch into the running statistics, by what all processes know alike."""
    count = _shared(batch.count)
    kept = layer.running_count
    if kept is not None and isinstance(count, Tensor):
        if not readable(count) or bool((count != count.round()).any()):
            kept = kept.double()
        layer.running_count = kept.expand(count.shape).clone() if count.dim() > kept.dim() else kept
    if not isinstance(count, int) or count > 0:  # an empty batch adds nothing
        layer._enter(Moments(batch.mean, batch.var, count))


def _like_torch(call: Call) -> Call:
    """The call as torch takes its arguments with any number of values, whether or not the layer has statistics."""
    if call.mean is not None and call.var is not None:
        return like_torch(call, by_batch=False)
    like = call.x if call.scale is None else call.scale
    mean = torch.zeros(call.x.shape[1], dtype=like.dtype, device=like.device)
    found = like_torch(call._replace(mean=mean, var=torch.ones_like(mean)), by_batch=False)
    return found._replace(mean=call.mean, var=call.var)


def _shared(count: Tensor) -> int | Tensor:
    """One number for all channels where they share it, a whole one where it is; looked at only where that is free."""
    if not readable(count) or not bool((count == count[0]).all()):
        return count
    number = float(count[0])
    return int(number) if number.is_integer() else count[0]
