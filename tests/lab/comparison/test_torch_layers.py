"""Other layers in the places of a model's batch norms."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from normwise.errors import NormwiseError
from normwise.lab.comparison.arms import NORMALIZERS
from normwise.lab.comparison.torch_layers import LAYERS, check, replace
from normwise.torch import BatchNorm2d, GhostBatchNorm1d
from tests.lab.comparison.conftest import Make


def test_there_is_a_layer_for_every_name() -> None:
    assert tuple(LAYERS) == NORMALIZERS


@pytest.mark.parametrize("name", NORMALIZERS)
def test_every_normalizer_takes_the_place_and_the_rest_begins_alike(name: str, images: Make) -> None:
    torch.manual_seed(0)
    plain = images()
    torch.manual_seed(0)
    other = images()
    replace(other, name, 8)
    assert torch.equal(plain.get_parameter("1.weight"), other.get_parameter("1.weight"))
    layer = other.get_submodule("2")
    assert type(layer) is not nn.BatchNorm2d
    assert other(torch.rand(8, 64)).shape == (8, 10)
    x = torch.randn(8, 16, 6, 6) + 3
    over = {"batch": (0, 2, 3), "layer": (1, 2, 3), "instance": (2, 3)}.get(name)
    if over:
        assert float(layer(x).mean(dim=over).abs().max().detach()) < 1e-4
    if name == "none":
        assert torch.equal(layer(x), x)


def test_the_settings_and_the_start_of_the_batch_norm_are_taken_over() -> None:
    norm = nn.BatchNorm1d(4, eps=0.25, momentum=0.5)
    nn.init.constant_(norm.weight, 0.0)  # the usual start of a residual branch
    model = nn.Sequential(norm, nn.BatchNorm1d(4, affine=False))
    replace(model, "ghost", 12)
    first, second = model
    assert isinstance(first, GhostBatchNorm1d)
    assert (first.eps, first.momentum, first.sizes.virtual_batch_size) == (0.25, 0.5, 6)
    assert float(first.weight.detach().abs().max()) == 0
    assert second.weight is None


def test_one_layer_in_two_places_stays_one() -> None:
    norm = nn.BatchNorm1d(4)
    model = nn.Sequential(norm, nn.Linear(4, 4), norm, nn.Sequential(norm))
    replace(model, "group", 8)
    assert model[0] is model[2] is model.get_submodule("3.0")
    assert type(model[0]) is not nn.BatchNorm1d


REFUSED = [
    (
        nn.Linear(2, 2),
        "MODEL has no batch norm whose place another normalization could take: build it with torch.nn's BatchNorm1d, "
        "2d or 3d where one is to be.",
    ),
    (
        nn.Sequential(BatchNorm2d(3, activation="relu")),
        "MODEL's batch norm 0 has an activation of its own, 'relu': build it with the activation as a layer behind it, "
        "and fuse the two after the comparison.",
    ),
    (
        nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)),
        "MODEL's batch norm 0 keeps no running statistics, so that its output depends on the other samples at "
        "inference: build it with track_running_stats=True.",
    ),
]


@pytest.mark.parametrize(("model", "sentence"), REFUSED)
def test_a_batch_norm_that_cannot_make_room_is_refused(model: nn.Module, sentence: str) -> None:
    with pytest.raises(NormwiseError, match=f"^{re.escape(sentence)}$"):
        check(model)
