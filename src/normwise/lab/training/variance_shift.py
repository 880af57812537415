"""The distance of the running variances of a stack from what its layers get in inference, and its correction."""

from __future__ import annotations

import math

import torch

from normwise.lab.data.splits import Split
from normwise.lab.networks.dense import Dense
from normwise.lab.networks.stack import Stack
from normwise.recalibration.standard_error import distance
from normwise.torch import BatchNorm1d


def shifts(stack: Stack, data: Split) -> list[list[float]]:
    """max(v/r, r/v) of real over running variance in inference, mean over units: shape (members, layers)."""
    seen: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda module, args, _: seen.append(args[0][0].var(dim=1) / module.running_var))
        for layer in stack.normalize
    ]
    stack.eval()
    with torch.no_grad():
        stack(data.images)
    for hook in hooks:
        hook.remove()
    quotients = [quotient.view(stack.members, -1) for quotient in seen]
    # a unit that is dead or nearly so has no variance to compare
    shift = [torch.maximum(quotient, 1 / quotient).nanmedian(dim=1).values for quotient in quotients]
    found: list[list[float]] = torch.stack(shift, dim=1).tolist()
    return found


def estimate_again(stack: Stack, data: Split) -> None:
    """Give every layer the statistics of the training images in inference mode; each layer sees the corrected ones."""
    stack.eval()
    for layer in stack.normalize:

        def mend(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            assert isinstance(module, BatchNorm1d)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(args[0][0].mean(dim=1))
            module.running_var.copy_(args[0][0].var(dim=1))

        hook = layer.register_forward_pre_hook(mend)
        with torch.no_grad():
            stack(data.images)
        hook.remove()


def from_truth(model: Dense, images: torch.Tensor) -> float:
    """The distance of the statistics from the moments of what the layers get at inference; NaN if it is not finite."""
    model.eval()
    x, far = images, []
    with torch.no_grad():
        for linear, norm in zip(model.linear, model.normalize, strict=True):
            x = linear(x)
            truth = x.double().mean(0), x.double().var(0)
            assert isinstance(norm, BatchNorm1d)  # which the ModuleList does not know
            assert norm.running_mean is not None
            assert norm.running_var is not None
            kept = norm.running_mean.double(), norm.running_var.double()
            far.append(distance(*kept, *truth, norm.eps).square().mean().sqrt())
            x = model.activate(norm(x))
    found = float(torch.stack(far).mean())
    return found if math.isfinite(found) else math.nan
