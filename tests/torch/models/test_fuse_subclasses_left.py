"""``fuse`` on batch norms of somebody's own class that do something else: they are left, and the reason says what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normwise.torch.models.fusion.fuse import fuse
from tests.torch.models.test_fuse_subclasses import BatchNormAct


class Scaled(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.relu(super().forward(input * 2.0))


class OtherEps(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        y = F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, 1e-3)
        return F.relu(y)


class Both(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        y = super().forward(input)
        return F.relu(y) + y


class InTrainingOnly(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        y = super().forward(input)
        return F.relu(y) if self.training else y


class Counting(nn.BatchNorm2d):
    calls = 0

    def forward(self, input: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(input)


class Asking(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if torch.is_grad_enabled() else input


class Deciding(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if input.sum() > 0 else input


class Masked(nn.BatchNorm2d):
    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(input if mask is None else input * mask)


class Named(nn.BatchNorm2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.activation = nn.ReLU()

    def forward(self, input: Tensor) -> Any:
        return self.activation(super().forward(input))


class InTwoActs(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return torch.tanh(F.relu(super().forward(input)))


class Doubled(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Flipped(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return 1 - super().forward(input)


class Shifted(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.relu(super().forward(input) + 0.5)


class Cloned(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).clone()


class InFront(nn.BatchNorm2d):
    """A child called before the batch norm, or behind it with something else."""

    def __init__(self, channels: int, *, again: bool = False) -> None:
        super().__init__(channels)
        self.act, self.again = nn.ReLU(), again

    def forward(self, input: Tensor) -> Any:
        if not self.again:
            return super().forward(self.act(input))
        super().forward(input)
        return self.act(input)


class NormTwice(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(super().forward(input))


def hooked() -> nn.BatchNorm2d:
    norm = BatchNormAct(3)
    norm.act.register_forward_hook(lambda *_: None)
    return norm


def cumulative() -> nn.BatchNorm2d:
    norm = BatchNormAct(3)
    norm.momentum = None
    return norm


LEFT: list[tuple[Callable[[], nn.BatchNorm2d], str]] = [
    (
        lambda: OtherEps(3),
        "it is a OtherEps, and its forward is not that of a BatchNorm2d with an activation behind it",
    ),
    (lambda: Both(3), "it is a Both, and its forward uses the output of the batch norm in more than one place"),
    (
        lambda: InTrainingOnly(3),
        "it is a InTrainingOnly, and its forward does not do the same in training as in inference, or for every shape",
    ),
    (lambda: Counting(3), "it is a Counting, and its forward changes attributes of the layer"),
    (lambda: Asking(3), "it is a Asking, and its forward calls `is_grad_enabled`, which a trace answers once"),
    (lambda: Masked(3), "it is a Masked, and its forward takes more than its input"),
    (lambda: Named(3), "it is a Named, and its forward may read activation, a name that normwise's layers use too"),
    (
        lambda: InTwoActs(3),
        "it is a InTwoActs, and its forward calls tanh behind the batch norm, which normwise's layers do not do",
    ),
    (
        lambda: BatchNormAct(3, drop=nn.Dropout(0.1)),
        "it is a BatchNormAct, and its forward calls Dropout behind the batch norm, which normwise's layers do not do",
    ),
    (
        lambda: BatchNormAct(3, nn.PReLU()),
        "it is a BatchNormAct, and its forward calls PReLU behind the batch norm, which normwise's layers do not do",
    ),
    (
        lambda: Doubled(3),
        "it is a Doubled, and its forward calls mul behind the batch norm, which normwise's layers do not do",
    ),
    (
        lambda: Flipped(3),
        "it is a Flipped, and its forward calls sub behind the batch norm, which normwise's layers do not do",
    ),
    (
        lambda: Shifted(3),
        "it is a Shifted, and its forward calls add behind the batch norm, which normwise's layers do not do",
    ),
    (
        lambda: Cloned(3),
        "it is a Cloned, and its forward calls clone behind the batch norm, which normwise's layers do not do",
    ),
    (
        lambda: Scaled(3),
        "it is a Scaled, and its forward calls mul in front of the batch norm, which normwise's layers do not do",
    ),
    (
        lambda: InFront(3),
        "it is a InFront, and its forward calls ReLU in front of the batch norm, which normwise's layers do not do",
    ),
    (
        lambda: InFront(3, again=True),
        "it is a InFront, and its forward calls ReLU on something else than the output of the batch norm",
    ),
    (lambda: NormTwice(3), "it is a NormTwice, and its forward calls the batch norm more than once"),
    (hooked, "it is a BatchNormAct, and its forward calls act, which has hooks"),
]


@pytest.mark.parametrize(("make", "why"), LEFT, ids=[f"{n} {why[8:20]}" for n, (_, why) in enumerate(LEFT)])
def test_a_forward_that_does_something_else_is_left(make: Callable[[], nn.BatchNorm2d], why: str) -> None:
    model = nn.Sequential(make(), nn.ReLU())
    kind, attributes = type(model[0]), dict(vars(model[0]))
    report = fuse(model)
    assert (report.fused, report.swapped, report.left) == ({}, {}, {"0": why})
    assert type(model[0]) is kind
    assert vars(model[0]) == attributes


@pytest.mark.parametrize("make", [lambda: Deciding(3), cumulative], ids=["deciding", "cumulative"])
def test_a_forward_that_cannot_be_traced_is_left(make: Callable[[], nn.BatchNorm2d]) -> None:
    norm = make()
    (why,) = fuse(nn.Sequential(norm)).left.values()
    assert why.startswith(f"it is a {type(norm).__name__}, and its forward cannot be traced (")
