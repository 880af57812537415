"""``assert_healthy``: it passes, or fails with the diagnosis."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from normwise.doctor import examine
from normwise.errors import UnknownName, UnsuitableModel
from normwise.testing import assert_healthy


def batches(mean: float = 5.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [mean + 2 * torch.randn(64, 4, generator=generator) for _ in range(8)]


def model(mean: float, var: float) -> nn.Module:
    norm = nn.BatchNorm1d(4)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.fill_(mean)
    norm.running_var.fill_(var)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.fill_(100)
    torch.manual_seed(0)  # of weights that hide no shift
    return nn.Sequential(norm, nn.Linear(4, 2))


def test_a_healthy_model_passes_and_its_diagnosis_comes_back() -> None:
    diagnosis = assert_healthy(model(5.0, 4.0), batches(), at_most=6)
    assert diagnosis.healthy
    assert diagnosis.facts.batches == 6


@pytest.mark.parametrize(
    ("mean", "var", "check"),
    [
        (0.0, 1.0, "never_updated_statistics"),
        (8.0, 4.0, "stale_running_statistics"),
        (5.0, float("nan"), "non_finite_statistics"),
    ],
)
def test_a_sick_model_fails_with_the_diagnosis_unless_that_is_allowed(mean: float, var: float, check: str) -> None:
    sick = model(mean, var)
    with pytest.raises(AssertionError) as caught:
        assert_healthy(sick, batches(), only=[check])
    assert str(caught.value) == str(examine(sick, batches(), only=[check]))
    assert check in str(caught.value)
    assert assert_healthy(sick, batches(), only=[check, "half_frozen_layer"], allow=[check]).findings == ()


def test_what_is_wrong_with_the_call_is_no_failed_assertion() -> None:
    with pytest.raises(UnknownName, match=r"^unknown check 'stale'"):
        assert_healthy(model(5.0, 4.0), batches(), allow=["stale"])
    with pytest.raises(UnsuitableModel, match=r"^examine needs a PyTorch or Keras model"):
        assert_healthy("model", batches())
