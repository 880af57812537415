"""The published networks: as many parameters as published, and shapes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normwise.lab.networks.published import PUBLISHED, fans, published
from normwise.torch import BatchNorm2d

PARAMETERS = {"ResNet50": 25_557_032, "InceptionV3": 23_834_568, "Xception": 22_855_952}
"""The parameters of torchvision's first two without auxiliary outputs, and the trainable ones of Keras's Xception."""
NORMALIZED = {"ResNet50": 53, "InceptionV3": 94, "Xception": 40}


@pytest.mark.parametrize("name", PUBLISHED)
def test_there_are_as_many_parameters_and_batch_norms_as_published(name: str) -> None:
    with torch.device("meta"):
        model, without = (PUBLISHED[name](norm, 1) for norm in (BatchNorm2d, None))
    assert sum(each.numel() for each in model.parameters()) == PARAMETERS[name]
    assert sum(isinstance(each, BatchNorm2d) for each in model.modules()) == NORMALIZED[name]
    assert not any(isinstance(each, BatchNorm2d) for each in without.modules())
    logits = model(torch.empty(2, 3, 299, 299, device="meta"))
    assert logits.shape == (2, 1000)


def test_maps_are_as_large_as_published() -> None:
    """The sizes of maps before the mean over positions, for images of the published size."""
    for name, size, side in (("ResNet50", 224, 7), ("InceptionV3", 299, 8), ("Xception", 299, 10)):
        with torch.device("meta"):
            model = PUBLISHED[name](None, 1)
        assert isinstance(model, nn.Sequential)
        assert model[:-3](torch.empty(1, 3, size, size, device="meta")).shape == (1, 2048, side, side)


@pytest.mark.parametrize("name", PUBLISHED)
def test_thinner_networks_have_so_many_channels_less(name: str) -> None:
    with torch.device("meta"):
        whole, thin = (PUBLISHED[name](None, each) for each in (1, 8))
    pairs = list(zip(whole.modules(), thin.modules(), strict=True))
    convolutions = [(one, other) for one, other in pairs if isinstance(one, nn.Conv2d) and isinstance(other, nn.Conv2d)]
    assert len(convolutions) > 50
    assert all(one.out_channels == 8 * other.out_channels for one, other in convolutions)


def test_fans_by_hand() -> None:
    assert fans(nn.Conv2d(4, 8, 3)) == (36, 72)
    assert fans(nn.Conv2d(4, 4, 3, groups=4)) == (9, 9)
    assert fans(nn.Linear(4, 8)) == (4, 8)


def test_weights_do_not_depend_on_the_normalization() -> None:
    one, other = (published("ResNet50", norm=norm, scale="glorot", seed=0, thin=8) for norm in (BatchNorm2d, None))
    pairs = zip(_weights(one), _weights(other), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


def _weights(model: nn.Module) -> list[torch.Tensor]:
    return [each.weight for each in model.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
