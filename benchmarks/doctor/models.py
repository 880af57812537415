"""The small models that development looks at, of several kinds; those of the judging run stand in ``judged.py``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.doctor import judged, judged_before


def dense() -> nn.Module:
    """Linear layers."""
    return nn.Sequential(
        nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(),
        nn.Linear(64, 48, bias=False), nn.BatchNorm1d(48), nn.ReLU(),
        nn.Linear(48, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


def convolutional() -> nn.Module:
    """Two convolutions and a linear layer."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.Flatten(),
        nn.Linear(384, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


class Residual(nn.Module):
    """Two convolutions with norms beside a short cut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = (x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()
        return found


def residual() -> nn.Module:
    """Two residual blocks."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        Residual(12), nn.MaxPool2d(2), Residual(12), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip


def one_dimensional() -> nn.Module:
    """Convolutions along the image read as one line."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 64)), nn.Conv1d(1, 12, 9, padding=4, bias=False), nn.BatchNorm1d(12), nn.ReLU(),
        nn.Conv1d(12, 24, 9, stride=2, padding=4, bias=False), nn.BatchNorm1d(24), nn.ReLU(),
        nn.AdaptiveAvgPool1d(8), nn.Flatten(), nn.Linear(192, 10),
    )  # fmt: skip


class Inverted(nn.Module):
    """Wide, channel by channel, narrow again, beside a short cut."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.widen = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU())
        self.each = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), nn.BatchNorm2d(width), nn.SiLU()
        )
        self.narrow = nn.Sequential(nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.narrow(self.each(self.widen(x)))
        return found


class Separable(nn.Module):
    """A network as small ones for telephones are built; no Sequential at the top, another activation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.SiLU())
        self.first, self.second = Inverted(12, 32), Inverted(12, 32)
        self.out = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.avg_pool2d(self.first(self.stem(x.reshape(-1, 1, 8, 8))), 2)
        found: Tensor = self.out(nn.functional.adaptive_avg_pool2d(self.second(x), 2).flatten(1))
        return found


KINDS: dict[str, Callable[[], nn.Module]] = {
    "dense": dense,
    "convolutional": convolutional,
    "residual": residual,
    "one-dimensional": one_dimensional,
    "separable": Separable,
}
FAMILIES = {
    "separable": "residual",
    "wide": "dense",
    "stacked": "convolutional",
    "shortcuts": "residual",
    "rows": "one-dimensional",
    "tapered": "dense",
    "pooled": "convolutional",
    "bottlenecks": "residual",
    "columns": "one-dimensional",
}
"""The kind -> the one whose faults can be done to it, where that is another."""


def build(kind: str, seed: int) -> nn.Module:
    """A new model of a kind."""
    torch.manual_seed(1000 + seed)
    return {**KINDS, **judged_before.KINDS, **judged.KINDS}[kind]()


def statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """The running mean and variance of a layer that has them."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms by their paths, in the order of their calls."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


WithWeights = nn.Linear | nn.Conv1d | nn.Conv2d


def in_front(model: nn.Module, name: str) -> WithWeights:
    """The layer with weights whose output a norm gets."""
    before: WithWeights | None = None
    for path, module in model.named_modules():
        if path == name and before is not None:
            return before
        if isinstance(module, WithWeights):
            before = module
    raise LookupError(f"nothing with weights stands in front of {name!r}.")
