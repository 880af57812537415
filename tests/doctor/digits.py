"""Small models that are trained on real images of digits, healthy in every ordinary way, and steps of training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from normwise.doctor import Diagnosis, examine

Batches = list[tuple[Tensor, Tensor]]
LEARNED = 1400


@cache
def images() -> tuple[Tensor, Tensor]:
    """Images of shape (1797, 64) and their labels, in one random order."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return torch.tensor(x, dtype=torch.float32)[order] / 16, torch.tensor(y)[order]


def held_out(size: int = 64, number: int = 1797 - LEARNED) -> Batches:
    """Batches of images that no model was trained on."""
    x, y = images()
    return [(x[index], y[index]) for index in torch.arange(LEARNED, LEARNED + number).split(size)]


class Residual(nn.Module):
    """Two convolutions with norms beside a short cut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, the input added as ResNet does it."""
        y: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (x + y).relu()


def convolutional(dropout: float = 0.0) -> nn.Sequential:
    """Norms at 2, 5 and 9."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(),
        nn.Linear(512, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, 10),
    )  # fmt: skip


def dense(dropout: float = 0.0) -> nn.Sequential:
    """Norms at 1 and 5."""
    return nn.Sequential(
        nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(64, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 10),
    )  # fmt: skip


def residual() -> nn.Sequential:
    """Norms at 2, 4.bn1 and 4.bn2."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        Residual(16), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def one_dimensional() -> nn.Sequential:
    """Norms at 2 and 5, of sequences."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 64)), nn.Conv1d(1, 16, 5, padding=2, bias=False), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Conv1d(16, 32, 5, stride=2, padding=2, bias=False), nn.BatchNorm1d(32), nn.ReLU(),
        nn.AdaptiveAvgPool1d(8), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


MODELS: dict[str, Callable[[], nn.Sequential]] = {
    "convolutional": convolutional,
    "dense": dense,
    "residual": residual,
    "one-dimensional": one_dimensional,
}


def train(
    model: nn.Module,
    *,
    epochs: int = 4,
    size: int = 64,
    adam: bool = False,
    decay: float = 0.0,
    rate: float = 0.03,
    batches: Batches | None = None,
) -> Any:
    """Train in an ordinary way, in shuffled batches unless some are given."""
    x, y = images()
    optimizer: Any = (
        torch.optim.Adam(model.parameters(), 2e-3)
        if adam
        else torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=decay)
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(epochs):
        order = torch.randperm(LEARNED, generator=generator).split(size)
        for images_, labels in batches or [(x[index], y[index]) for index in order if len(index) > 1]:
            optimizer.zero_grad()
            cross_entropy(model(images_), labels).backward()
            optimizer.step()
    return model


@cache
def _trained(name: str) -> Any:
    torch.manual_seed(0)
    return train(MODELS[name]())


def trained(name: str = "convolutional") -> Any:
    """A copy of a model that was trained once."""
    return copy.deepcopy(_trained(name))


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of right answers."""
    right: Tensor = (outputs.argmax(1) == targets).float().mean()
    return right


def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """One ordinary step."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, 0.01)
    cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()


def examined(model: nn.Module, batches: Batches | None = None, **given: Any) -> Diagnosis:
    """The diagnosis with loss and metric."""
    return examine(model, batches or held_out(), **{"loss": cross_entropy, "metric": accuracy, **given})


def serious(diagnosis: Diagnosis) -> list[tuple[str, tuple[str, ...]]]:
    """The findings that are more than a note: checks and layers."""
    return [(found.check, found.layers) for found in diagnosis.findings if found.severity != "note"]
