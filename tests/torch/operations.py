"""Every operation on a whole model, and a small model to try each of them on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.torch.models.fusion.fuse import fuse
from normwise.torch.models.memory.save_memory import save_memory
from normwise.torch.models.paused import paused_statistics
from normwise.torch.models.recalibration.adapt import adapt
from normwise.torch.models.recalibration.adapting import adapting
from normwise.torch.models.recalibration.recalibrate import recalibrate

X = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 + 1
PARTS = [*X.split(4)]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))


class Holder(nn.Module):
    """A model with another one inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.inner(x))
        return y


def block(context: Any, model: Any) -> Any:
    with context as inside:
        if isinstance(model, nn.Module):
            model(X)
        return inside.report() if hasattr(inside, "report") else None


def in_inference(model: Any) -> Any:
    return model.eval() if isinstance(model, nn.Module) else model


OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "recalibrate": lambda model: recalibrate(model, [X]),
    "adapt": lambda model: adapt(model, [X]),
    "adapting": lambda model: block(adapting(in_inference(model)), model),
    "paused_statistics": lambda model: block(paused_statistics(model), model),
    "fuse": fuse,
    "param_groups": lambda model: [(each["name"], len(each["params"])) for each in nt.param_groups(model, 0.1)],
    "save_memory": save_memory,
    "pool_statistics": nt.pool_statistics,
    "convert_to_synchronized": lambda model: nt.convert_to_synchronized(model)[1:],
    "convert_from_synchronized": lambda model: nt.convert_from_synchronized(model)[1:],
    "convert_to_domains": lambda model: nt.convert_to_domains(model, ["day", "night"], default="day")[1:],
    "convert_from_domains": lambda model: nt.convert_from_domains(model, "day")[1:],
    "statistics_from": lambda model: block(nt.statistics_from(model, "day"), model),
    "accumulate_gradients": lambda model: nt.accumulate_gradients(model, PARTS, lambda f, x: f(x).square().mean()),
    "forward_together": lambda model: nt.forward_together(model, PARTS),
    "SyncBatchNorm.convert_sync_batchnorm": nt.SyncBatchNorm.convert_sync_batchnorm,
}
