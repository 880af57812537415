"""The effects of padding on PyTorch's batch norm, which ours does not have with a mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt

VALID = 600


def padded(share: float) -> tuple[Tensor, Tensor]:
    """One sequence of three channels of mean 0, with this share of the frames as padding; and its mask."""
    frames = round(VALID / (1 - share))
    x = torch.randn((1, 3, VALID), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x - x.mean(2, keepdim=True)
    return nn.functional.pad(x, (0, frames - VALID)), torch.arange(frames)[None] < VALID


@pytest.mark.parametrize(("share", "gain"), [(0.3, 1.20), (0.5, 1.41), (0.8, 2.24)])
def test_torchs_valid_outputs_grow_with_the_padding_and_ours_do_not(share: float, gain: float) -> None:
    x, mask = padded(share)
    alone = nn.BatchNorm1d(3).double()(x[..., :VALID])
    among_padding = nn.BatchNorm1d(3).double()(x)[..., :VALID]
    assert float((among_padding / alone).median().detach()) == pytest.approx(gain, abs=0.01)
    ours = nt.BatchNorm1d(3).double()(x, mask=mask)[..., :VALID]
    torch.testing.assert_close(ours, alone, rtol=1e-12, atol=1e-12)


def test_batches_of_padding_alone_pull_torchs_statistics_to_zero_and_leave_ours() -> None:
    plain, ours = nn.BatchNorm1d(1), nt.BatchNorm1d(1)
    nothing = torch.zeros(2, 1, 5)
    for layer in (plain, ours):
        assert layer.running_mean is not None
        layer.running_mean.fill_(5.2)
    for _ in range(10):
        plain(nothing)
        ours(nothing, mask=torch.zeros(2, 5, dtype=torch.bool))
    assert plain.running_mean is not None
    assert ours.running_mean is not None
    assert plain.running_mean.item() == pytest.approx(1.8, abs=0.05)
    assert ours.running_mean.item() == pytest.approx(5.2)
    assert int(ours.num_batches_tracked or 0) == 0


def test_twice_the_padding_moves_torchs_valid_outputs_and_not_ours() -> None:
    outputs = []
    for share in (0.5, 0.75):  # the frames of the second are twice as many
        x, mask = padded(share)
        outputs.append(
            (nn.BatchNorm1d(3).double()(x)[..., :VALID], nt.BatchNorm1d(3).double()(x, mask=mask)[..., :VALID])
        )
    (torchs, ours), (torchs_again, ours_again) = outputs
    assert float((torchs_again - torchs).detach().abs().max()) > 0.1
    torch.testing.assert_close(ours_again, ours, rtol=1e-12, atol=1e-12)
