"""Batch norms before and behind activations: told, moved, or left with the reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normwise.lab.comparison.arms import AS_BUILT
from normwise.lab.comparison.torch_where import choices, moves, places


class Block(nn.Module):
    """A block as in a ResNet: one ReLU for two places, and an addition before the second."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Convolution and batch norm, twice."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + x)  # type: ignore[no-any-return]  # a module returns anything


class Functional(nn.Module):
    """The activation is a function, in front of one batch norm and behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn1 = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.second, self.bn2 = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        """One batch norm before an activation, then one after it."""
        x = F.relu(self.bn1(self.first(x)))
        return self.bn2(torch.tanh(self.second(F.dropout(x, training=self.training))))  # type: ignore[no-any-return]  # as above


class ByData(nn.Module):
    """A module whose forward depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        """One of two ways."""
        return self.bn(x) if x.sum() > 0 else x


def moved(model: nn.Module, where: str) -> nn.Module:
    for move in moves(model, where):
        move()
    return model


def test_in_a_sequence_the_two_modules_change_places() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Identity(), nn.ReLU(), nn.Linear(4, 2))
    linear, norm, _, relu, last = model
    assert places(model)["1"].where == "before"
    assert choices(places(model)) == (AS_BUILT, "after")
    x = torch.randn(8, 4)
    expected = last(norm(relu(linear(x))))
    assert not torch.equal(model(x), expected)
    assert torch.equal(moved(model, "after")(x), expected)
    assert places(model)["3"].where == "after"
    assert choices(places(model)) == (AS_BUILT, "before")


def test_in_a_forward_that_can_be_followed_the_two_calls_do() -> None:
    block = Block()
    found = places(block)
    assert found["bn1"].where == "before"
    assert (found["bn2"].where, found["bn2"].why) == (None, "no activation stands right beside it")
    x = torch.randn(2, 4, 5, 5)
    middle = block.bn1(F.relu(block.conv1(x)))
    expected = F.relu(block.bn2(block.conv2(middle)) + x)
    assert torch.equal(moved(block, "after")(x), expected)
    middle = block.eval().bn1(F.relu(block.conv1(x)))
    assert torch.equal(block(x), F.relu(block.bn2(block.conv2(middle)) + x))


def test_functions_are_moved_in_training_and_in_inference() -> None:
    model = Functional()
    assert choices(places(model)) == (AS_BUILT, "after", "before")
    x = torch.randn(16, 4)
    moved(moved(model, "after").eval(), AS_BUILT)
    assert torch.equal(model(x), model.bn2(torch.tanh(model.second(model.bn1(F.relu(model.first(x)))))))
    other = moved(Functional(), "before").eval()
    assert isinstance(other, Functional)
    assert torch.equal(other(x), torch.tanh(other.bn2(other.second(F.relu(other.bn1(other.first(x)))))))
    torch.manual_seed(0)
    first, second = other.train()(x), other(x)
    assert not torch.equal(first, second)  # dropout is on in training


def test_a_moved_block_inside_a_model_works_as_often_as_it_is_there() -> None:
    model = nn.Sequential(Block(), Block())
    x = torch.randn(2, 4, 5, 5)
    y = moved(model, "after")(x)
    y.sum().backward()
    first = model[0]
    assert isinstance(first, Block)
    assert first.bn1.weight.grad is not None
    assert torch.equal(y, model[1](model[0](x)))
    assert [name for name, place in places(nn.Sequential(Block(), Block())).items() if place.where] == [
        "0.bn1",
        "1.bn1",
    ]


SHARED = nn.BatchNorm1d(4)


@pytest.mark.parametrize(
    ("model", "name", "why"),
    [
        (nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4), nn.Tanh()), "1", "an activation stands on each side of it"),
        (
            nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)),
            "1",
            "no activation stands right beside it",
        ),
        (nn.Sequential(nn.BatchNorm1d(4), nn.Softmax(1)), "0", "no activation stands right beside it"),
        (nn.Sequential(SHARED, nn.ReLU(), SHARED), "0", "it is called more than once"),
        (ByData(), "bn", "the model (ByData) cannot be followed: its forward depends on the data"),
        (nn.ModuleList([nn.BatchNorm1d(4)]), "0", "no forward that can be followed calls it"),
    ],
)
def test_what_cannot_be_told_stays_and_says_why(model: Any, name: str, why: str) -> None:
    assert (places(model)[name].where, places(model)[name].why) == (None, why)
    assert choices(places(model)) == (AS_BUILT,)
    assert moves(model, "after") == []
