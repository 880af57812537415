"""The whole network: a training step of ResNet-50, before and after one call of ``normwise.fuse``.

He et al., Deep residual learning for image recognition, 2015; the stride of a block stands in its 3x3 convolution, as
in everybody's code since.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import normwise
from benchmarks.timing import Spread, in_turn, ratios, spread

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class Step:
    """A training step in one setting; ``skipped`` says why there are no numbers, ``done`` what was fused."""

    setting: str
    before: Spread | None = None
    after: Spread | None = None
    ratio: Spread | None = None
    skipped: str = ""
    done: str = ""


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


def fused(model: nn.Module) -> tuple[nn.Module, str]:
    """A copy of the model after one call of the front door, and the first line of what that says it did."""
    twin = copy.deepcopy(model)
    return twin, str(normwise.fuse(twin)).partition("\n")[0]


def step(model: nn.Module, images: Tensor, labels: Tensor, *, autocast: bool) -> Callable[[], None]:
    """A whole training step: forward, backward, plain SGD with momentum."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return run


def settings(layouts: Sequence[str], dtypes: Sequence[str], batch: int, side: int) -> list[tuple[str, str, str]]:
    """(layout, dtype, the words for it)."""
    words = {"float32": "float32", "bfloat16": "bfloat16 autocast"}
    return [
        (layout, dtype, f"batch {batch}, {side}x{side}, channels {layout}, {words[dtype]}")
        for layout in layouts
        for dtype in dtypes
        if dtype in words
    ]


def measure(layout: str, dtype: str, setting: str, *, batch: int, side: int, rounds: int, seconds: float) -> Step:
    """Times the two networks in turn, from the same weights and on the same images."""
    torch.manual_seed(0)
    memory_format = torch.channels_last if layout == "last" else torch.contiguous_format
    model = cast(nn.Module, cast(Any, resnet()).to(memory_format=memory_format))  # torch leaves this form untyped
    images = torch.randn(batch, 3, side, side).to(memory_format=memory_format)
    labels = torch.randint(0, 1000, (batch,))
    twin, done = fused(model)
    models = {BEFORE: model, AFTER: twin}
    wrong = _disagreement(models, images)
    if wrong:
        return Step(setting, skipped=f"REFUSED: {wrong}")
    calls = {name: step(each, images, labels, autocast=dtype == "bfloat16") for name, each in models.items()}
    times, _ = in_turn(calls, rounds=rounds, seconds=seconds)
    return Step(setting, spread(times[BEFORE]), spread(times[AFTER]), ratios(times[BEFORE], times[AFTER]), done=done)


@torch.no_grad()
def _disagreement(models: dict[str, nn.Module], images: Tensor) -> str:
    """Whether the two give the same in training, on a few images, to what 53 layers make of float32's rounding."""
    few = images[:4, :, :64, :64]
    before, after = (copy.deepcopy(model).train()(few) for model in models.values())
    apart = float((before - after).abs().max() / before.abs().max())
    return "" if apart < 1e-2 else f"the outputs before and after are {apart:.2g} apart"
