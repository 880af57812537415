"""``adapt`` on batches of any structure: masks, dictionaries, a function of one's own, so many batches, some layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.torch.models.recalibration.adapt import adapt

X = torch.randn((12, 3, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2
MASK = torch.rand((12, 5), generator=torch.Generator().manual_seed(1)) < 0.6
PRIOR = 6


class Masked(nn.Module):
    """A layer that is called with a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nt.BatchNorm1d(3).double()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y: Tensor = self.norm(x, mask=mask)
        return y


def counted(samples: float) -> tuple[Tensor, Tensor]:
    """Mean and total variance of source (0, 1) and the values that count, which are so many samples' worth."""
    values = X.transpose(1, 2)[MASK]
    share = samples / (PRIOR + samples)
    mean = share * values.mean(0)
    return mean, (1 - share) + share * values.var(0) + share * (1 - share) * values.mean(0).square()


BATCHES: dict[str, list[Any]] = {
    "tuples": [(X[:8], MASK[:8]), (X[8:], MASK[8:])],
    "dictionaries": [{"x": X[:8], "mask": MASK[:8]}, {"x": X[8:], "mask": MASK[8:], "label": "none"}],
}


@pytest.mark.parametrize("kind", BATCHES)
def test_behind_a_mask_only_what_counts_enters_and_counts_as_much_of_a_sample(kind: str) -> None:
    model = Masked()
    adapt(model, BATCHES[kind], prior=PRIOR)
    torch.testing.assert_close((model.norm.running_mean, model.norm.running_var), counted(float(MASK.sum()) / 5))


def test_a_function_of_ones_own_says_how_a_batch_enters() -> None:
    model, other = Masked(), Masked()
    packed = [torch.cat((X, MASK[:, None].double()), 1)]
    adapt(model, packed, prior=PRIOR, forward_fn=lambda f, batch: f(batch[:, :3], mask=batch[:, 3] > 0))
    adapt(other, [(X, MASK)], prior=PRIOR)
    torch.testing.assert_close(model.state_dict(), other.state_dict())


def test_so_many_batches_and_only_the_layers_that_are_named() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3)).double()
    report = adapt(model, X.split(4), prior=PRIOR, at_most=2, layers=["1"])
    assert (report.samples, report.batches, [*report.adapted]) == (8, 2, ["1"])
    assert torch.equal(model.state_dict()["0.running_mean"], torch.zeros(3, dtype=torch.float64))
    right = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3)).double()
    adapt(right, [X[:8]], prior=PRIOR, layers=["1"])
    torch.testing.assert_close(model.state_dict(), right.state_dict())
