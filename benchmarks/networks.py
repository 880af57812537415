"""Whole networks, as they are written without normwise, and what they are trained on.

He et al., Deep residual learning for image recognition, 2015; the stride of a block stands in its 3x3 convolution, as
in everybody's code since. Sandler et al., MobileNetV2, 2018. Dai et al., Very deep convolutional neural networks for
raw waveforms, 2016: M5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


class Bottleneck(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += self.shortcut(x)
        result: Tensor = self.relu(y)
        return result


def resnet(blocks: Sequence[int] = (3, 4, 6, 3), *, classes: int = 1000) -> nn.Sequential:
    """ResNet-50 by default."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 64
    for stage, number in enumerate(blocks):
        for n in range(number):
            layers.append(Bottleneck(channels, 64 << stage, 2 if n == 0 and stage > 0 else 1))
            channels = 256 << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class InvertedResidual(nn.Module):
    def __init__(self, channels: int, out: int, stride: int, expand: int) -> None:
        super().__init__()
        width = channels * expand
        wider = (
            [] if expand == 1 else [nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6(True)]
        )
        self.conv = nn.Sequential(
            *wider,
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(True),
            nn.Conv2d(width, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.adds = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.adds else y


def mobilenet(*, classes: int = 1000) -> nn.Sequential:
    """MobileNetV2, without its dropout, for which torch.compile draws other numbers."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(True)]
    channels = 32
    for expand, out, number, stride in (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    ):
        for n in range(number):
            layers.append(InvertedResidual(channels, out, stride if n == 0 else 1, expand))
            channels = out
    layers += [nn.Conv2d(channels, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6(True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, classes))


def audio(*, classes: int = 1000) -> nn.Sequential:
    """M5: convolutions over raw sound, four of them."""
    layers: list[nn.Module] = []
    channels = 1
    for out, kernel, stride in ((128, 80, 4), (128, 3, 1), (256, 3, 1), (512, 3, 1)):
        layers += [nn.Conv1d(channels, out, kernel, stride), nn.BatchNorm1d(out), nn.ReLU(True), nn.MaxPool1d(4)]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, classes))


def dense(*, classes: int = 1000) -> nn.Sequential:
    """Four hidden layers of 1024."""
    layers: list[nn.Module] = []
    features = 784
    for _ in range(4):
        layers += [nn.Linear(features, 1024, bias=False), nn.BatchNorm1d(1024), nn.ReLU(True)]
        features = 1024
    return nn.Sequential(*layers, nn.Linear(features, classes))


def without_norms(model: nn.Module) -> nn.Module:
    """The model with its batch norms and activations taken out, and half the weights, so that nothing overflows.

    Nothing that makes norms and activations faster can make a step faster than this.
    """
    for name, child in list(model.named_children()):
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.ReLU | nn.ReLU6):
            setattr(model, name, nn.Identity())
        else:
            without_norms(child)
    for parameter in model.parameters(recurse=False):
        parameter.data.mul_(0.5)
    return model


@dataclass(frozen=True)
class Network:
    """A network and the shape of one sample; only images can have their channels last."""

    name: str
    build: Callable[[], nn.Sequential]
    sample: tuple[int, ...]
    batch: int


IMAGE = (3, 224, 224)
NETWORKS = (
    Network("ResNet-50", resnet, IMAGE, 16),
    Network("MobileNetV2", mobilenet, IMAGE, 16),
    Network("M5, on sound", audio, (1, 8000), 32),
    Network("dense", dense, (784,), 256),
)
# For a look: the same on little.
QUICK = (
    Network("ResNet-50", resnet, (3, 64, 64), 2),
    Network("MobileNetV2", mobilenet, (3, 64, 64), 2),
    Network("M5, on sound", audio, (1, 4000), 4),
    Network("dense", dense, (784,), 64),
)
