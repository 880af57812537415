"""Small networks to save memory in, and a step with and without, compared to the last bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import normwise
from normwise.torch.models.memory import recipes
from normwise.torch.models.memory.save_memory import SaveMemoryReport, save_memory
from tests.torch.networks_to_fuse import BasicBlock, Bottleneck, Dense, InvertedResidual, ResNet


class Concatenating(nn.Module):
    """Both kinds of concatenation: of what batch norms gave, and before them."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU())
        self.dense = nn.Sequential(Dense(8, 0.0), Dense(12, 0.5))
        self.last = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.dense(torch.cat((self.left(x), self.right(x)), 1)))


def chain(kind: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (3, 6, 6):
        layers += [nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), kind()]
    return nn.Sequential(*layers, nn.Conv2d(6, 1, 1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "a chain": chain,
    "residual": lambda: ResNet(BasicBlock, (3, 2)),
    "bottlenecks": lambda: ResNet(Bottleneck, (2, 1)),
    "inverted residuals": lambda: nn.Sequential(nn.Conv2d(3, 6, 1), InvertedResidual(6, 6), InvertedResidual(6, 6)),
    "concatenations": Concatenating,
    "with dropout": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(6, 6, 1),
        nn.BatchNorm2d(6),
        nn.SiLU(),
        nn.Conv2d(6, 1, 1),
    ),
}


def images(side: int = 12, samples: int = 4) -> Tensor:
    return torch.randn(samples, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 + 1


def fused(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.5)
            nn.init.normal_(module.bias)
    normwise.fuse(model)
    return model


def loss_of(y: Tensor) -> Tensor:
    return (y * torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).to(y.dtype)).sum()


def trained(model: nn.Module, x: Tensor, run: Callable[[nn.Module, Tensor], Tensor] | None = None) -> dict[str, Tensor]:
    """Everything that a training step leaves behind, by name."""
    torch.manual_seed(3)
    x = x.clone().requires_grad_()
    model.zero_grad()
    y = model(x) if run is None else run(model, x)
    loss_of(y).backward()
    found = {"y": y.detach(), "x": x.grad, "random": torch.rand(1), **dict(model.named_buffers())}
    found |= {f"gradient of {name}": tensor.grad for name, tensor in model.named_parameters()}
    return {name: tensor.clone() for name, tensor in found.items() if tensor is not None}


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    wrong = [name for name in expected if not recipes.same_bits(found[name], expected[name])]
    assert not wrong


def compared(model: nn.Module, x: Tensor, run: Callable[[nn.Module, Tensor], Tensor] | None = None) -> SaveMemoryReport:
    """A step of the model as it is and one of a copy that saves memory are the same; the report of the copy."""
    twin = copy.deepcopy(model)
    report = save_memory(twin, x)
    assert_same_bits(trained(twin, x, run), trained(model, x, run))
    return report
