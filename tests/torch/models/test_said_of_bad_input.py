"""Reports and errors for a user whose data, activation or forward is not as it should be."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normwise
from normwise.errors import NormwiseError
from normwise.torch import BatchNorm2d, GroupNorm, InstanceNorm2d


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["recalibrate", "adapt"])
def test_a_batch_that_did_not_enter_is_counted_in_the_first_line(name: str, value: float, memory: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2))
    batches = [torch.randn(4, 1, 8, 8) for _ in range(3)]
    first = str(getattr(normwise, name)(model, batches, memory=memory)).splitlines()[0]
    assert "NaN" not in first
    batches[1][2, 0, 4, 4] = value
    first = str(getattr(normwise, name)(model, batches, memory=memory)).splitlines()[0]
    assert "12 samples in 3 batches, 1 of which held NaN or infinity and did not enter wherever it did" in first


MADE: dict[str, Any] = {
    "batch": lambda activation: BatchNorm2d(4, activation=activation),
    "group": lambda activation: GroupNorm(2, 4, activation=activation),
    "instance": lambda activation: InstanceNorm2d(4, activation=activation),
}


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize(
    ("activation", "name"),
    [(nn.ReLU(), "relu"), (nn.ReLU, "relu"), (F.relu, "relu"), (nn.LeakyReLU(0.2), "leaky_relu"), (3, "relu")],
)
def test_an_activation_that_is_no_name_is_answered_with_the_name(made: str, activation: Any, name: str) -> None:
    with pytest.raises(NormwiseError, match=rf"^activation must be a name, received .*: pass for example '{name}'\.$"):
        MADE[made](activation)


class This(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(this, x: Tensor) -> Tensor:  # the point
        return F.relu(this.norm(this.conv(x)))


@pytest.mark.parametrize("name", ["fuse", "fold"])
def test_a_forward_with_another_name_for_self_is_told_to_use_self(name: str) -> None:
    with pytest.warns(normwise.errors.NothingChanged) if name == "fold" else nullcontext():
        report = getattr(normwise, name)(This().eval())
    assert "calls the module 'this', and not self, in This.forward (let it say self in all places)" in str(report)


class Either(nn.Module):
    """A forward that ``fuse`` writes for two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        if shortcut is None:
            shortcut = x
        return F.relu(self.norm(self.conv(x)) + shortcut)


def test_fold_says_what_to_do_where_it_cannot_follow_what_fuse_wrote() -> None:
    model = nn.Sequential(Either()).eval()
    assert len(normwise.fuse(model).fused) == 1
    with pytest.warns(normwise.errors.NothingChanged, match=r"fuse wrote it: fold before fuse, or normwise\.swap"):
        normwise.fold(model)
    normwise.swap(model)
    assert len(normwise.fold(model).folded) == 1
