"""Methods beside the forward that take what is between two layers: neither ``fuse`` nor ``fold`` changes what they get.

They call the items of a sequence one by one, or a layer without its neighbour.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normwise.torch.models.conversion.fold import fold
from normwise.torch.models.fusion.fuse import fuse
from tests.torch.models.test_swap import prepared


class Network(nn.Module):
    features: Any

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3), nn.ReLU()),
        )
        self.ends = [2, 6]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.features(x)
        return y


class Every(Network):
    def parts(self, x: Tensor) -> list[Tensor]:
        found = []
        for layer in self.features:
            x = layer(x)
            found.append(x)
        return found


class Wanted(Network):
    def parts(self, x: Tensor, wanted: tuple[int, ...] = (1, 5)) -> list[Tensor]:
        found = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in wanted:
                found.append(x)
        return found


class OfOneKind(Network):
    def parts(self, x: Tensor) -> Iterator[Tensor]:
        for layer in self.features.children():
            x = layer(x)
            if isinstance(layer, nn.BatchNorm2d):
                yield x


class EarlyEnd(Network):
    def parts(self, x: Tensor, last: str = "1") -> Tensor:
        for name, layer in self.features.named_children():
            x = layer(x)
            if name == last:
                break
        return x


class ByIndex(Network):
    def parts(self, x: Tensor, last: int = 2) -> Tensor:
        for i in range(last):
            x = self.features[i](x)
        return x


class FirstOfAList(Network):
    def parts(self, x: Tensor, last: int = 2) -> Tensor:
        for layer in list(self.features)[:last]:
            x = layer(x)
        return x


class NamedList(Network):
    def parts(self, x: Tensor, last: int = 2) -> Tensor:
        layers = list(self.features.children())
        for layer in layers[:last]:
            x = layer(x)
        return x


class AnotherSequence(Network):
    def parts(self, x: Tensor, last: int = 2) -> Tensor:
        y: Tensor = nn.Sequential(*list(self.features)[:last])(x)
        return y


class WrongEnds(Network):
    def __init__(self) -> None:
        super().__init__()
        self.ends = [0, 1]

    def parts(self, x: Tensor) -> list[Tensor]:
        found = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.ends:
                found.append(x)
        return found


class Ends(WrongEnds):
    """The loop of timm's VGG, out of which nothing in front of an activation gets."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = [2, 6]


class EndsOfAPart(Network):
    def parts(self, x: Tensor, last: int | None = 0) -> list[Tensor]:
        found = []
        layers = self.features if last is None else self.features[: self.ends[last] + 1]
        number = 0
        for i, layer in enumerate(layers):
            x = layer(x)
            if i == self.ends[number]:
                found.append(x)
                number = min(number + 1, 1)
        return [x, *found]


class Whole(Network):
    def parts(self, x: Tensor) -> Tensor:
        for layer in self.features:
            x = layer(x)
        return x


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.norm(self.conv(x)))
        return y


class NormAlone(Block):
    def parts(self, x: Tensor) -> Any:
        return self.norm(x)


class ConvAlone(Block):
    def parts(self, x: Tensor) -> Any:
        return self.conv(x)


class TwoResults(Block):
    def parts(self, x: Tensor) -> Any:
        y = self.conv(x)
        return [y, self.norm(y)]


class ByWeight(Block):
    def parts(self, x: Tensor) -> Any:
        return F.conv2d(x, self.conv.weight)


class Statistics(Block):
    def parts(self, x: Tensor) -> Any:
        return x - self.norm.running_mean[:, None, None]  # type: ignore[index]  # it has one


class Inside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm = nn.Sequential(nn.Identity(), nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.body(x))
        return y

    def parts(self, x: Tensor) -> Any:
        return self.body[1](x)


class SequenceItself(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU())

    def parts(self, x: Tensor) -> Any:
        return [x := layer(x) for layer in self]


class Together(Block):
    """Nothing between convolution and batch norm gets out."""

    def parts(self, x: Tensor) -> Any:
        x = self.conv(x)
        return self.norm(x)

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.norm.requires_grad_(not mode)
        return self


class CalledByForward(Block):
    """A method that the forward calls is a part of it, also where it ends between the two."""

    def stem(self, x: Tensor) -> Any:
        return self.conv(x)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.stem(x)))

    def parts(self, x: Tensor) -> Any:
        return self.norm(self.conv(x))


class AsksForSettings(Block):
    """Settings of a layer, from which no output is computed."""

    @property
    def in_channels(self) -> int:
        return self.conv.in_channels

    def parts(self, x: Tensor) -> Any:
        return x * self.conv.out_channels


class Listed(Block):
    """A sequence of all layers does what the forward does."""

    def as_sequential(self) -> Any:
        layers: list[nn.Module] = [self.conv, self.norm]
        layers.extend([self.act])
        layers.append(nn.Flatten())
        return nn.Sequential(*layers)

    def parts(self, x: Tensor) -> Any:
        return self.as_sequential()(x)


class ListedApart(Listed):
    """A list of which one item is called by itself."""

    def as_sequential(self) -> Any:
        layers = [self.conv, self.norm, self.act]
        return layers[0]


class FoldsItself(Block):
    """A method that needs statistics fails where there are none any more, and returns nothing wrong."""

    def fused(self) -> Any:
        layers: Any = self._modules
        conv, norm, _ = layers.values()
        scale = norm.weight / (norm.running_var + norm.eps) ** 0.5
        return conv.weight * scale[:, None, None, None]

    def parts(self, x: Tensor) -> Any:
        return x


LEFT: list[type[nn.Module]] = [
    *(Every, Wanted, OfOneKind, EarlyEnd, ByIndex, FirstOfAList, NamedList, AnotherSequence, WrongEnds),
    *(NormAlone, ConvAlone, TwoResults, ByWeight, Statistics, Inside, SequenceItself, ListedApart),
]
REACHED: list[type[nn.Module]] = [
    *(Ends, EndsOfAPart, Whole, Together, CalledByForward, AsksForSettings, Listed, FoldsItself),
]


def outputs(model: Any, x: Tensor) -> list[Tensor]:
    found = model.parts(x)
    return [found, model(x)] if isinstance(found, Tensor) else [*found, model(x)]


@pytest.mark.parametrize("operation", [fuse, fold])
@pytest.mark.parametrize("kind", [*LEFT, *REACHED])
def test_a_method_gets_what_it_got(kind: type[nn.Module], operation: Callable[[nn.Module], Any]) -> None:
    ours = prepared(kind).eval()
    theirs = copy.deepcopy(ours)
    report = operation(ours)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(outputs(ours, x), outputs(theirs, x))
    done = report.fused if operation is fuse else report.folded
    norms = [name for name, module in theirs.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if kind in REACHED:
        assert [*done] == norms
    elif operation is fold:
        assert norms[0] not in done
