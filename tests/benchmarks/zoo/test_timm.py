"""timm: one architecture of each family, and its own batch norm with an activation, which a third of them have."""

import copy

import torch
from torch import nn

from benchmarks.zoo.architectures import Architecture, imported_timm
from normwise.torch.models.fusion.fuse import fuse
from tests.benchmarks.zoo.families import of_each_family, unlike_the_page


@of_each_family("timm")
def test_the_operations_do_what_the_page_of_the_zoo_says(architecture: Architecture) -> None:
    assert unlike_the_page(architecture) == {}


def test_timms_own_batch_norm_with_an_activation() -> None:
    norm_act = imported_timm().layers.norm_act
    theirs = nn.Sequential(nn.Conv2d(3, 3, 1), norm_act.BatchNormAct2d(3, act_layer=nn.SiLU))
    ours = copy.deepcopy(theirs)
    assert fuse(ours).fused == {"1": "silu"}
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    converted = norm_act.convert_sync_batchnorm(ours)  # it takes .act and .drop
    assert isinstance(converted[1].act, nn.SiLU)
