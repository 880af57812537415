"""A fused model whose layers another operation replaces: all that the written forwards ask of a layer works on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normwise.torch.models.conversion.fold import fold
from normwise.torch.models.conversion.freeze import freeze
from normwise.torch.models.conversion.swap import swap
from normwise.torch.models.fusion.fuse import fuse
from tests.torch.models.test_swap import prepared


class Added(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.silu(self.norm(self.conv(x)) + y)


class AddedAround(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.silu(self.body(x) + y)


OPERATIONS: dict[str, Callable[[Any], object]] = {
    **{to: partial(swap, to=to) for to in ("torch", "group", "layer", "instance", "renorm", "sync")},
    "ghost": partial(swap, to="ghost", num_splits=1),
    "domains": partial(swap, to="domains", domains=["day", "night"], domain="day"),
    "freeze": freeze,
    "fold": fold,
}


@pytest.mark.parametrize("kind", [Added, AddedAround])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_is_added_may_be_larger_or_smaller_than_the_output(kind: type[nn.Module], operation: str) -> None:
    ours: Any = prepared(kind).eval()
    theirs = copy.deepcopy(ours)
    assert [*fuse(ours).fused.values()] == ["add, silu"]
    for model in (ours, theirs):
        OPERATIONS[operation](model)
    ours = copy.deepcopy(ours)
    x = torch.randn(5, 4, 3, 3, dtype=torch.float64)
    for training in (False,) if operation == "fold" else (False, True):
        for shape in ((2, 5, 4, 3, 3), (4, 1, 1), (5, 4, 1, 1), (), (5, 4, 3, 3), (5, 4, 3, 3)):
            y = torch.randn(shape, dtype=torch.float64)
            torch.testing.assert_close(ours.train(training)(x, y), theirs.train(training)(x, y))
    buffers = dict(theirs.named_buffers())
    torch.testing.assert_close({name: each for name, each in ours.named_buffers() if name in buffers}, buffers)


@pytest.mark.parametrize("to", ["group", "renorm", "sync", "ghost"])
def test_only_a_fused_layer_takes_a_larger_residual(to: str) -> None:
    model = prepared(Added)
    OPERATIONS[to](model)
    x = torch.randn(5, 4, 3, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="residual must have the shape of the input"):
        model.norm(x, x[None].expand(2, -1, -1, -1, -1))
