"""Batch norms of a user's own class: fused or swapped for normwise's they come back, and fold takes them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normwise.torch.models.conversion.fold import fold
from normwise.torch.models.conversion.swap import swap
from normwise.torch.models.fusion.fuse import fuse


class Activated(nn.BatchNorm2d):
    """A norm like timm's BatchNormAct2d: dropout's place and an activation, both modules."""

    def __init__(self, channels: int, activation: nn.Module) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), activation

    def forward(self, x: Tensor) -> Any:
        return self.act(self.drop(super().forward(x)))


class Bare(nn.BatchNorm2d):
    """Nothing of its own but its name."""


class Doubled(nn.BatchNorm2d):
    """A layer that does what no layer of normwise does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Functional(nn.BatchNorm2d):
    """The activation is a function."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x), 0.2)


class Net(nn.Module):
    """One of each, and one whose activation stands behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3), Activated(4, nn.SiLU())
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3), Bare(4)
        self.conv3, self.bn3 = nn.Conv2d(4, 4, 1), Functional(4)
        self.conv4, self.bn4 = nn.Conv2d(4, 4, 1), Activated(4, nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        x = self.bn3(self.conv3(x))
        return F.hardswish(self.bn4(self.conv4(x)))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    made = Net().double()
    for norm in (made.bn1, made.bn2, made.bn3, made.bn4):
        for each, low in ((norm.weight, 0.5), (norm.bias, -0.5), (norm.running_mean, -0.5), (norm.running_var, 0.5)):
            assert each is not None
            nn.init.uniform_(each, low, low + 1)
    return made


X = (4, 3, 9, 9)


def _images() -> Tensor:
    return torch.randn(X, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _classes(model: nn.Module) -> list[type[nn.Module]]:
    return [type(module) for module in model.modules()]


def _same(model: nn.Module, other: nn.Module) -> None:
    assert [*model.state_dict()] == [*other.state_dict()]
    results = []
    for each in (copy.deepcopy(model), copy.deepcopy(other)):
        x = _images().requires_grad_()
        with torch.no_grad():
            inference = each.eval()(x)
        each.train()(x).square().mean().backward()
        gradients = [parameter.grad for parameter in each.parameters()]
        results.append([inference, x.grad, *gradients, *each.state_dict().values()])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_what_fuse_made_of_them_comes_back(net: nn.Module) -> None:
    plain = copy.deepcopy(net)
    assert fuse(net).fused == {"bn1": "silu", "bn2": "relu", "bn3": "leaky_relu:0.2", "bn4": "hardswish"}
    report = swap(net, to="torch")
    assert dict(report.skipped) == {}
    assert {name: str(each) for name, each in report.swapped.items()} == {
        "bn1": "Activated -> Activated: its class's own forward again",
        "bn2": "Bare -> Bare: relu is done by the model's own forward again; its class's own forward again",
        "bn3": "Functional -> Functional: its class's own forward again",
        "bn4": "Activated -> Activated: hardswish is done by the model's own forward again; its class's own forward "
        "again",
    }
    assert _classes(net) == _classes(plain)
    assert [vars(module).keys() for module in net.modules()] == [vars(module).keys() for module in plain.modules()]
    assert b"normwise" not in pickle.dumps(net)
    _same(net, plain)


def test_some_of_them_come_back(net: nn.Module) -> None:
    plain = copy.deepcopy(net)
    fuse(net)
    report = swap(net, to="torch", layers=["bn1", "bn3"])
    assert [*report.swapped] == ["bn1", "bn3"]
    _same(net, plain)


def test_they_become_normwises_without_fusing_anything(net: nn.Module) -> None:
    plain = copy.deepcopy(net)
    report = swap(net, to="normwise")
    assert {name: each.words for name, each in report.swapped.items()} == {
        "bn1": "its silu in it", "bn2": "", "bn3": "its leaky_relu:0.2 in it", "bn4": ""
    }  # fmt: skip
    assert type(net) is Net
    _same(net, plain)
    assert _classes(net) != _classes(plain)
    assert dict(swap(net, to="normwise").skipped) == dict.fromkeys(report.swapped, "it is normwise's own already")
    swap(net)
    assert _classes(net) == _classes(plain)
    _same(net, plain)


@pytest.mark.parametrize("before", [None, fuse, lambda model: swap(model, to="normwise")])
def test_fold_takes_them(net: nn.Module, before: Any) -> None:
    plain = copy.deepcopy(net).eval()
    if before is not None:
        before(net)
    report = fold(net.eval(), [_images()])
    assert {name: (each.into, each.stays) for name, each in report.folded.items()} == {
        "bn1": ("conv1", "silu"),
        "bn2": ("conv2", "relu" * (before is fuse)),
        "bn3": ("conv3", "leaky_relu:0.2"),
        "bn4": ("conv4", "hardswish" * (before is fuse)),
    }
    assert report.output_error < 1e-12
    torch.testing.assert_close(net(_images()), plain(_images()), rtol=1e-9, atol=1e-12)


def _listen(norm: Any) -> None:
    norm.act.register_forward_hook(lambda *_: None)


def _replace(norm: Any) -> None:
    norm.act = nn.Tanh()


@pytest.mark.parametrize("change", [_listen, _replace])
def test_fold_leaves_those_that_were_changed_since(net: nn.Module, change: Any) -> None:
    fuse(net)
    change(net.bn1)
    plain = copy.deepcopy(net).eval()
    report = fold(net.eval(), [_images()])
    assert dict(report.skipped) == {"bn1": "a module or a setting inside of it was changed since it was fused"}
    torch.testing.assert_close(net(_images()), plain(_images()), rtol=1e-9, atol=1e-12)


def test_what_does_more_is_left_by_all() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Doubled(3)).eval()
    assert dict(fold(model).skipped) == {"1": "it is a Doubled, which may do something else than a batch norm does"}
    assert dict(swap(model, to="normwise").skipped) == {
        "1": "it is a Doubled, and its forward calls mul behind the batch norm, which normwise's layers do not do"
    }
    assert type(model[1]) is Doubled
