"""A small residual network with torch.nn's batch norm, and the same with ours in its place."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.kernels import choose
from tests.cases import saved_buffers


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inner != outer:
            self.shortcut = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        found: Tensor = (self.bn2(self.conv2(y)) + self.shortcut(x)).relu()
        return found


class FusedBlock(Block):
    """The same with the activation and the addition done by the layers."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x))
        found: Tensor = self.bn2(self.conv2(y), self.shortcut(x))
        return found


class ResNet(nn.Module):
    """A residual network for images of 16 x 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2), Block(16, 16, 1))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return found


def swapped(model: nn.Module, *, fused: bool = False) -> nn.Module:
    """A copy in which every batch norm is ours; with ``fused``, blocks that leave activation and addition to it."""
    model = copy.deepcopy(model)
    for parent in [*model.modules()]:
        for name, child in [*parent.named_children()]:
            if type(child) is nn.BatchNorm2d:
                block = fused and isinstance(parent, Block)
                ours = nt.BatchNorm2d(child.num_features, activation="relu" if block else None)
                ours.load_state_dict(child.state_dict())
                setattr(parent, name, ours)
        if fused and type(parent) is Block:
            parent.__class__ = FusedBlock
    assert not any(type(module) is nn.BatchNorm2d for module in model.modules())
    assert sum(isinstance(module, nt.BatchNorm2d) for module in model.modules()) == 8
    return model


def network() -> ResNet:
    torch.manual_seed(0)
    return ResNet()


def arranged(model: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    """The model with its weights in that format, as one does for channels last."""
    model.to(memory_format=memory_format)  # type: ignore[call-overload]  # missing in torch's own types
    return model


def batch(step: int, memory_format: torch.memory_format) -> tuple[Tensor, Tensor]:
    """Eight images and their classes."""
    draw = torch.Generator().manual_seed(step)
    x = torch.randn((8, 3, 16, 16), generator=draw)
    return x.contiguous(memory_format=memory_format), torch.randint(10, (8,), generator=draw)


def step_of(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, target: Tensor) -> float:
    """One step; the loss before it."""
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), target)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def test_the_swapped_network_is_the_same_to_the_bit_over_twenty_steps() -> None:
    theirs = network()
    ours = swapped(theirs)
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in (ours, theirs)]
    for step in range(20):
        x, target = batch(step, torch.contiguous_format)
        assert step_of(ours, optimizers[0], x, target) == step_of(theirs, optimizers[1], x, target)
        for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert parameter.grad is not None
            assert other.grad is not None
            assert torch.equal(parameter.grad, other.grad), name
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    x, _ = batch(99, torch.contiguous_format)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("kernel", ["", "two_pass"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("fused", [False, True], ids=["swapped", "fused"])
def test_gradients_of_the_network_agree(
    fused: bool, memory_format: torch.memory_format, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "_ASKED", kernel)
    theirs = network().double()
    ours = swapped(theirs.float(), fused=fused).double()
    theirs = theirs.double()
    if fused:
        for module in ours.modules():  # what stands before an addition in a shortcut is not activated
            if isinstance(module, Block) and isinstance(module.shortcut, nn.Sequential):
                assert module.shortcut[1].activation is None
    x, target = batch(0, memory_format)
    x = x.double()
    for model in (ours, theirs):
        nn.functional.cross_entropy(arranged(model, memory_format)(x), target).backward()
    for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-9, atol=1e-12, msg=name)
    for buffer, other_buffer in zip(saved_buffers(ours), theirs.buffers(), strict=True):
        torch.testing.assert_close(buffer, other_buffer, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_fused_network_trains_alike(memory_format: torch.memory_format) -> None:
    theirs = arranged(network(), memory_format)
    ours = arranged(swapped(theirs, fused=True), memory_format)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.05) for model in (ours, theirs)]
    losses = []
    for step in range(20):
        x, target = batch(step, memory_format)
        losses.append([step_of(*pair, x, target) for pair in zip((ours, theirs), optimizers, strict=True)])
    mine, right = torch.tensor(losses).T
    torch.testing.assert_close(mine, right, rtol=1e-3, atol=1e-3)
    assert mine[-1] != mine[0]
