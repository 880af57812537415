"""The statistics of data in one forward pass, by plain hooks and ``torch.var``: what recalibrate is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def norms_of(model: nn.Module) -> dict[str, Any]:
    """The batch norms by their names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


def settle(model: nn.Module, batches: Sequence[Tensor]) -> dict[str, int]:
    """Give every batch norm the mean and the unbiased variance of its input, before it normalizes that.

    All batches go through the model as one, in inference, where no sample knows of another one.

    Args:
        model: changed in place, and in inference mode afterwards.
        batches: its inputs.

    Returns:
        how often each batch norm was called. What was called twice has the statistics of its first call.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(1, affine=False))
        >>> settle(model, [torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0]])])
        {'0': 1}
        >>> model[0].running_mean, model[0].running_var
        (tensor([2.]), tensor([1.]))
    """
    calls: dict[str, int] = {}
    handles = []
    for name, norm in norms_of(model).items():

        def listen(norm: Any, args: Any, name: str = name) -> None:
            calls[name] = calls.get(name, 0) + 1
            if calls[name] > 1 or norm.running_mean is None:
                return
            values = args[0].detach().double().transpose(0, 1).flatten(1)
            norm.running_mean.copy_(values.mean(1))
            norm.running_var.copy_(values.var(1, correction=1))

        handles.append(norm.register_forward_pre_hook(listen))
    try:
        model.eval()
        with torch.no_grad():
            torch.manual_seed(3)
            model(torch.cat([*batches]))
    finally:
        for handle in handles:
            handle.remove()
    return calls
