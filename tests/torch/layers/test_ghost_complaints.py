"""The problems of virtual batches with PyTorch's own layer in a loop, and the same cases with ours."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from tests.cases import running

SIZE = 32


def by_a_loop(layer: nn.Module, x: Tensor, size: int = SIZE) -> Tensor:
    """The loop as TabNet has it: ``torch.chunk`` into virtual batches, and the layer on each."""
    return torch.cat([layer(part) for part in x.chunk(math.ceil(len(x) / size))])


def stream(samples: int, seed: int = 0) -> Tensor:
    return torch.randn((samples, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_torch_in_a_loop_dies_of_a_last_sample_and_ours_does_not() -> None:
    x = stream(2 * SIZE + 1)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        # 65 samples in chunks of at most 32 are 22, 22 and 21 to torch.chunk; in chunks of 32 there is one left over
        torch.cat([nn.BatchNorm1d(4, dtype=torch.float64)(part) for part in x.split(SIZE)])
    layer = nt.GhostBatchNorm1d(4, dtype=torch.float64, virtual_batch_size=SIZE)
    right = torch.cat([nn.BatchNorm1d(4, dtype=torch.float64)(part) for part in (x[:SIZE], x[SIZE:])])
    torch.testing.assert_close(layer(x), right)


def test_ours_is_the_loop_on_a_multiple() -> None:
    x = stream(4 * SIZE)
    layer, plain = nt.GhostBatchNorm1d(4, dtype=torch.float64, virtual_batch_size=SIZE), nn.BatchNorm1d(4).double()
    torch.testing.assert_close(layer(x), by_a_loop(plain, x))


def test_torch_in_a_loop_moves_its_statistics_once_per_virtual_batch_and_ours_once() -> None:
    x = stream(8 * SIZE)
    plain = nn.BatchNorm1d(4, dtype=torch.float64)
    by_a_loop(plain, x)
    assert int(plain.num_batches_tracked or 0) == 8
    # so that a momentum of 0.1 is one of 0.57 for a batch
    far = nn.BatchNorm1d(4, dtype=torch.float64)
    by_a_loop(far, x + 1000)
    torch.testing.assert_close(
        running(far)[0], torch.full((4,), 1000 * (1 - 0.9**8), dtype=torch.float64), rtol=1e-3, atol=0
    )
    layer, whole = nt.GhostBatchNorm1d(4, dtype=torch.float64, virtual_batch_size=SIZE), nt.BatchNorm1d(4).double()
    layer(x)
    whole(x)
    assert int(layer.num_batches_tracked or 0) == 1
    torch.testing.assert_close(running(layer), running(whole))


def test_torch_in_a_loop_loses_the_variance_between_virtual_batches_and_ours_does_not() -> None:
    # Virtual batches that differ, as those of sorted data do: 1 within each, 1 between them.
    x = stream(64 * SIZE).reshape(64, SIZE, 4)
    between = torch.randn(64, 1, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = (x + between).flatten(0, 1)
    plain, layer = nn.BatchNorm1d(4).double(), nt.GhostBatchNorm1d(4, virtual_batch_size=SIZE, momentum=1.0).double()
    by_a_loop(plain, x)
    layer(x)
    true = x.var(0)
    assert float((running(plain)[1] / true).max()) < 0.7
    torch.testing.assert_close(running(layer)[1], true)


def what_a_network_can_tell(x: Tensor, y: Tensor) -> Tensor:
    """Each sample's mean and deviation of its virtual batch, worked out from what goes in and what comes out alone."""
    slope = (x[..., 1] - x[..., 0]) / (y[..., 1] - y[..., 0])
    return torch.cat((x[..., 0] - slope * y[..., 0], slope), 1)


def leak(queries: nn.Module, keys: nn.Module, chunks: int | None = None) -> float:
    """The share of queries for which the key with the nearest statistics is in the virtual batch of the other view.

    Two views of each of 256 samples, as contrastive learning takes them; chance is 1 in 8.
    """
    found = []
    for seed in range(8):
        draw = torch.Generator().manual_seed(seed)
        first = torch.randn((256, 8, 2), generator=draw, dtype=torch.float64)
        second = first + 0.3 * torch.randn((256, 8, 2), generator=draw, dtype=torch.float64)
        told = []
        for layer, view in ((queries, first), (keys, second)):
            y = layer(view) if chunks is None else by_a_loop(layer, view, 256 // chunks)
            told.append(what_a_network_can_tell(view, y.detach()))
        nearest = torch.cdist(told[0], told[1]).argmin(1)
        # two samples of the same virtual batch have the same statistics, up to rounding
        apart = (told[1][nearest] - told[1]).abs().amax(1)
        found.append(float((apart < 1e-6).double().mean()))
    return sum(found) / len(found)


def test_torch_in_a_loop_tells_which_virtual_batch_the_other_view_is_in_and_shuffled_ones_do_not() -> None:
    plain = nn.BatchNorm1d(8, affine=False).double()
    assert leak(plain, plain, chunks=8) > 0.95
    torch.manual_seed(0)
    shuffled = nt.GhostBatchNorm1d(8, affine=False, num_splits=8, order="shuffled").double()
    found = leak(plain_by_chunks(), shuffled)
    # 8 times 256 draws at a chance of 1/8: a standard deviation of about 0.007, more as 32 of them go together
    assert abs(found - 1 / 8) < 0.05
    consecutive = nt.GhostBatchNorm1d(8, affine=False, num_splits=8).double()
    assert leak(plain_by_chunks(), consecutive) > 0.95  # it is the shuffling that does it


def plain_by_chunks() -> nn.Module:
    return nt.GhostBatchNorm1d(8, affine=False, num_splits=8).double()


def test_shuffled_virtual_batches_are_drawn_from_torchs_generator_and_leave_the_order() -> None:
    x = stream(4 * SIZE)
    layer = nt.GhostBatchNorm1d(4, dtype=torch.float64, virtual_batch_size=SIZE, order="shuffled")
    torch.manual_seed(0)
    first, second = layer(x), layer(x)
    torch.manual_seed(0)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)
    # what comes out belongs to what went in
    correlation = torch.corrcoef(torch.stack((x.flatten(), first.detach().flatten())))[0, 1]
    assert float(correlation) > 0.95
    layer.eval()
    state = torch.get_rng_state()
    layer(x)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn in inference


def test_samples_of_another_virtual_batch_have_no_part_in_an_output_as_they_have_in_torchs() -> None:
    x = stream(2 * SIZE)
    other = torch.cat((x[:SIZE], x[SIZE:] * 5 + 3))
    plain = nn.BatchNorm1d(4, dtype=torch.float64)
    assert not torch.allclose(plain(x)[:SIZE], plain(other)[:SIZE])
    layer = nt.GhostBatchNorm1d(4, dtype=torch.float64, virtual_batch_size=SIZE)
    assert torch.equal(layer(x)[:SIZE], layer(other)[:SIZE])
