"""Small networks as people write them, for the tests of ``fuse``; at the top of a module, so that they pickle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """The block as torchvision writes it: one relu for both places, the addition in place."""

    expansion = 1

    def __init__(self, inner: int, width: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Any:
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        out = self.relu(out)
        return out  # noqa: RET504  # as torchvision writes it


class Bottleneck(nn.Module):
    """The block as torchvision writes it."""

    expansion = 4

    def __init__(self, inner: int, width: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)  # type: ignore[no-any-return]  # modules are called untyped


class ResNet(nn.Module):
    """ResNet-18 or -50 with fewer channels."""

    def __init__(self, block: type[BasicBlock | Bottleneck], depths: tuple[int, ...]) -> None:
        super().__init__()
        self.inner = 4
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = self._layer(block, 4, depths[0], 1)
        self.layer2 = self._layer(block, 8, depths[1], 2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * block.expansion, 5)

    def _layer(self, block: type[BasicBlock | Bottleneck], width: int, depth: int, stride: int) -> nn.Sequential:
        downsample: nn.Module | None = None
        if stride != 1 or self.inner != width * block.expansion:
            downsample = nn.Sequential(
                nn.Conv2d(self.inner, width * block.expansion, 1, stride, bias=False),
                nn.BatchNorm2d(width * block.expansion),
            )
        blocks: list[nn.Module] = [block(self.inner, width, stride, downsample)]
        self.inner = width * block.expansion
        return nn.Sequential(*blocks, *(block(self.inner, width) for _ in range(1, depth)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        x = torch.flatten(self.avgpool(x), 1)
        return self.fc(x)  # type: ignore[no-any-return]  # modules are called untyped


class InvertedResidual(nn.Module):
    """MobileNetV2's: nothing behind the last batch norm but, sometimes, an addition."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.use_res_connect = inner == outer
        self.conv = nn.Sequential(
            nn.Sequential(nn.Conv2d(inner, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6(inplace=True)),
            nn.Sequential(nn.Conv2d(12, 12, 3, 1, 1, groups=12), nn.BatchNorm2d(12), nn.ReLU6(inplace=True)),
            nn.Conv2d(12, outer, 1, bias=False),
            nn.BatchNorm2d(outer),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.use_res_connect else y


class Dense(nn.Module):
    """DenseNet's layer: the activation a function, before the convolution; dropout that knows its mode."""

    def __init__(self, channels: int, rate: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, 4, 3, 1, 1)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(F.relu(self.norm(x), inplace=True))
        y = F.dropout(y, self.rate, training=self.training)
        return torch.cat((x, y), 1)


class Branching(nn.Module):
    """Data decides, so torch.fx cannot follow; a part of it can be, and a sequence goes by its order."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.SiLU())
        self.block = BasicBlock(4, 4)
        self.walked = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), BasicBlock(4, 4))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if x.sum() > 0:
            x = self.block(x)
        for module in self.walked:
            x = module(x)
        return F.relu(self.norm(x))


class Functional(nn.Module):
    """One function, method or module between batch norm and the way out, with or without an addition."""

    def __init__(self, activate: Any, add: Any = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.act = activate
        self.add = add or alone

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.act(self.add(self.norm(self.conv(x)), x))
        return found


class GELU(nn.Module):
    """An activation in a class of its own, as libraries write it to take an argument that they do not need."""

    def __init__(self, inplace: bool = False) -> None:  # noqa: ARG002  # as libraries write it
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return F.gelu(input)


class Sigmoid(nn.Module):
    """The same with a setting that it reads."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid_() if self.inplace else x.sigmoid()


class Swish(nn.Module):
    """An activation in two operations, which is not recognized."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.sigmoid()


def alone(y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG001  # where an addition may stand
    return y


def resnet18() -> ResNet:
    return ResNet(BasicBlock, (2, 2))


def resnet50() -> ResNet:
    return ResNet(Bottleneck, (2, 2))


def vgg() -> nn.Module:
    features = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, 1, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.GELU(), nn.Identity()),
    )
    head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 16, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 2))
    return nn.Sequential(features, head)


def mobilenet() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), InvertedResidual(4, 4), InvertedResidual(4, 6))


def densenet() -> nn.Module:
    return nn.Sequential(Dense(3, 0.0), Dense(7, 0.25), nn.BatchNorm2d(11), nn.Conv2d(11, 2, 1))
