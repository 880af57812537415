"""The differences between the processes that train one model together: in running statistics, and in weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from normwise.facts import Processes
from normwise.recalibration.standard_error import distance
from normwise.torch.models.feeding import unwrapped
from normwise.torch.models.ranks import Ranks

VALUES = 256
"""Values of each parameter that are sent, at most: processes whose weights differ differ in most of them."""


def processes(model: nn.Module, asked: Any) -> Processes | str | None:
    """The differences between the processes, by an exchange; a collective call, which every one of them has to make.

    Each process sends all of its running statistics, and some values of each weight.

    Args:
        model: with all that is wrapped around it.
        asked: None for no exchange; True for all processes that ``torch.distributed`` knows; a process group of it.

    Returns:
        how far they are apart; or why that is not known, where there could be several; None where nobody asks and
        there is one process.

    Example:
        >>> processes(nn.BatchNorm1d(2), None) is None
        True
        >>> processes(nn.BatchNorm1d(2), True)
        'torch.distributed is not in use, or knows one process only'
    """
    wanted = asked is not None and asked is not False
    ranks = Ranks(asked if wanted else True, called="examine")
    if not ranks.several:
        return "torch.distributed is not in use, or knows one process only" if wanted else None
    if not wanted:
        return "processes are compared when every one of them calls examine with distributed=True"
    inner = unwrapped(model)
    parts = ranks.exchange(lambda: (_statistics(inner), _weights(inner)))
    statistics, weights = [part[0] for part in parts], [part[1] for part in parts]
    shapes = [{name: (mean.shape, var.shape) for name, (mean, var) in part.items()} for part in statistics]
    if any(each != shapes[0] for each in shapes):
        return "the processes have models with other layers"
    eps = {name: getattr(layer, "eps", 0.0) for name, layer in inner.named_modules()}
    apart = {name: _furthest([part[name] for part in statistics], eps[name]) for name in statistics[0]}
    return Processes(len(parts), apart, _relative(weights))


def _statistics(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance of each layer that keeps them, in float64 on the host."""
    return {
        name: (layer.running_mean.double().cpu(), layer.running_var.double().cpu())
        for name, layer in model.named_modules()
        if isinstance(layer, _NormBase) and layer.running_mean is not None and layer.running_var is not None
    }


def _weights(model: nn.Module) -> dict[str, Tensor] | None:
    """Some values of each parameter; None where each process holds a part of them."""
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        return None
    named = dict(model.named_parameters())
    if any(hasattr(parameter, "to_local") for parameter in named.values()):  # a DTensor
        return None
    return {name: _some(parameter.detach().flatten()) for name, parameter in named.items()}


def _some(values: Tensor) -> Tensor:
    return values[:: max(1, -(-len(values) // VALUES))].double().cpu()


def _furthest(parts: list[tuple[Tensor, Tensor]], eps: float) -> float:
    """The largest distance of two processes' statistics in any channel; infinite where one's are not finite alone."""
    first, *others = parts
    same = all(torch.equal(one, other) for part in others for one, other in zip(first, part, strict=True))
    if same:
        return 0.0
    pairs = [(one, other) for number, one in enumerate(parts) for other in parts[number + 1 :]]
    return max(float(distance(*one, *other, eps).nan_to_num(nan=torch.inf).max()) for one, other in pairs)


def _relative(parts: list[dict[str, Tensor] | None]) -> float | None:
    """The largest difference of two processes' weights as a share of their size; None where it is not known."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or any(part.keys() != known[0].keys() for part in known):
        return None
    rows = [torch.cat([torch.zeros(0, dtype=torch.float64), *part.values()]) for part in known]
    if any(len(row) != len(rows[0]) for row in rows):
        return None
    size = float(rows[0].norm()) or 1.0
    return max(float((row - rows[0]).norm()) for row in rows) / size
