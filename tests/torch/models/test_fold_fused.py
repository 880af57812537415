"""``fold`` after ``fuse``, which gave the layers arguments that their modules did not have."""

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
from normwise.torch.models.fusion.fuse import fuse
from tests.torch.models.test_swap import prepared


class Branch(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))


class OwnBranch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y


class Residual(nn.Module):
    def __init__(self, branch: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.branch = branch()

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.branch(x) + x)


@pytest.mark.parametrize("branch", [Branch, OwnBranch])
def test_a_batch_norm_that_got_an_addition_from_outside_is_folded(branch: Callable[[], nn.Module]) -> None:
    model, plain = fused_and_not_in(branch)
    assert len(fold(model).folded) == 1
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(model(x), plain(x))
    assert not any(isinstance(part, nn.BatchNorm2d) for part in model.modules())


def fused_and_not_in(branch: Callable[[], nn.Module]) -> tuple[Any, Any]:
    ours = prepared(partial(Residual, branch)).eval()
    theirs = copy.deepcopy(ours)
    assert [*fuse(ours).fused.values()] == ["add, silu"]
    return ours, theirs
