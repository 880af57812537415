"""Stale statistics and averaged weights: what goes wrong with PyTorch's own layers and ``update_bn``, then with ours.

The first half of each test shows PyTorch's own behaviour; should a new version of it mend that, the test says so.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, update_bn

from normwise.torch.models.recalibration.recalibrate import recalibrate


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_stale_statistics_ruin_inference_and_recalibrate_mends_it() -> None:
    """76 % in training mode and 10 % in inference: here by a momentum that is meant for Keras."""
    torch.manual_seed(0)
    x, label = normal(1, 512, 8) * 3 + 4, normal(2, 512, 8)[:, 0] > 0
    x[:, 0] += 6 * label
    model: Any = nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16, momentum=0.001), nn.ReLU(), nn.Linear(16, 16),
        nn.BatchNorm1d(16, momentum=0.001), nn.ReLU(), nn.Linear(16, 2),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(60):
        loss = cross_entropy(model(x), label.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        in_training = cross_entropy(model(x), label.long()).item()
        stale = cross_entropy(model.eval()(x), label.long()).item()
        assert stale > 2 * in_training
        recalibrate(model, x.split(64))
        assert cross_entropy(model(x), label.long()).item() == pytest.approx(in_training, rel=0.02)


def test_dropout_is_on_in_update_bn_and_off_in_recalibrate() -> None:
    model: Any = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4))
    x = normal(0, 4096, 4).relu()
    theirs: Any = copy.deepcopy(model)
    torch.manual_seed(0)
    update_bn(x.split(512), theirs)
    truth = x.var(0)
    assert float((theirs[1].running_var / truth).min()) > 2.0
    recalibrate(model, x.split(512))
    torch.testing.assert_close(model[1].running_var, truth)


def test_a_last_batch_of_two_weighs_like_64_in_update_bn_and_like_two_in_recalibrate() -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(1))
    x = torch.cat((normal(0, 64, 1), normal(1, 2, 1) + 2))
    theirs: Any = copy.deepcopy(model)
    update_bn(x.split(64), theirs)
    truth = float(x.mean())
    assert abs(float(theirs[0].running_mean) - truth) > 0.5
    recalibrate(model, x.split(64))
    assert float(model[0].running_mean) == pytest.approx(truth, abs=1e-6)


def test_sorted_data_lose_the_variance_between_batches_in_update_bn_and_not_in_recalibrate() -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.BatchNorm1d(3))
    x = torch.cat([normal(k, 100, 3) + 6 * normal(100 + k, 1, 3) for k in range(10)])
    theirs: Any = copy.deepcopy(model)
    update_bn(x.split(100), theirs)
    assert float((theirs[0].running_var / x.var(0)).max()) < 0.1
    recalibrate(model, x.split(100))
    torch.testing.assert_close(model[0].running_var, x.var(0))
    # the layer above too: what it meets at inference, and not what each class alone makes of itself
    with torch.no_grad():
        met = model[:4].eval()(x)
    torch.testing.assert_close(model[4].running_var, met.var(0))
    by_batch: Any = copy.deepcopy(model).eval()
    recalibrate(by_batch, x.split(100), upstream="batch")
    assert not torch.allclose(by_batch[4].running_var, met.var(0), rtol=0.3)


def test_frozen_layers_are_reset_and_moved_by_update_bn_and_left_by_recalibrate() -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2, momentum=0.0))
    model[0].requires_grad_(False)
    model[2].eval()
    for norm in (model[0], model[2], model[3]):
        norm.running_mean.fill_(5.0)
    theirs: Any = copy.deepcopy(model)
    update_bn([normal(0, 32, 2)], theirs)
    assert [bool((theirs[k].running_mean == 5).all()) for k in (0, 2, 3)] == [False] * 3
    report = recalibrate(model, [normal(0, 32, 2)])
    assert [bool((model[k].running_mean == 5).all()) for k in (0, 2, 3)] == [True] * 3
    assert dict(report.skipped) == {
        "0": "it is frozen: its weight and bias do not learn while others do",
        "2": "it is frozen: in inference mode while the model is in training mode",
        "3": "it is frozen: its momentum is 0",
    }
    assert [module.training for module in model] == [True, True, False, True]
    assert str(report).startswith("0 of 3 batch norms recalibrated with 32 samples in 1 batch\n")


def test_a_model_that_learns_nowhere_is_not_frozen() -> None:
    """Averaged models and loaded ones often have no gradients; that says nothing about their statistics."""
    model: Any = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)).requires_grad_(False).eval()
    assert [*recalibrate(model, [normal(0, 32, 2) + 3]).recalibrated] == ["0"]


def test_batches_that_are_dictionaries_fail_in_update_bn_and_enter_in_recalibrate() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, pixels: Tensor) -> Tensor:
            y: Tensor = self.norm(pixels)
            return y

    model: Any = Named()
    x = normal(0, 8, 2)
    batch = {"pixels": x, "label": torch.zeros(8)}
    with pytest.raises((TypeError, AttributeError)):
        update_bn([batch], copy.deepcopy(model))
    recalibrate(model, [batch])
    torch.testing.assert_close(model.norm.running_mean, x.mean(0))


def test_averaged_weights_have_the_statistics_of_other_weights_and_recalibrate_gives_them_their_own() -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    averaged: Any = AveragedModel(model.eval())
    model.train()
    x = normal(0, 256, 4)
    for _ in range(4):
        with torch.no_grad():
            model[0].bias.add_(3.0)
        model(x)
        averaged.update_parameters(model)
    met = averaged.module[0](x).detach()
    assert float((averaged.module[1].running_mean - met.mean(0)).abs().min()) > 2  # it never saw data
    steps = averaged.n_averaged.clone()
    report = recalibrate(averaged, x.split(100))
    assert [*report.recalibrated] == ["module.1"]
    torch.testing.assert_close(averaged.module[1].running_mean, met.mean(0))
    torch.testing.assert_close(averaged.module[1].running_var, met.var(0))
    assert torch.equal(averaged.n_averaged, steps)
    assert model[1].running_mean is not averaged.module[1].running_mean
    assert (averaged.training, averaged.module[1].training) == (True, False)
