"""``estimator=`` in the layers: every estimator against itself on the reference's float64 moments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.estimators import Estimator, RunningStatistics, estimator_class, names
from normwise.kernels import choose, reference
from tests.cases import running

SETTINGS: dict[str, dict[str, Any]] = {"window": {"start": 1, "stop": 4}}  # of those that need more than a weight
FOLLOWERS = [name for name in names() if "weight_of_new" in estimator_class(name).__annotations__]

BATCHES: dict[str, Callable[[int], Tensor]] = {
    "ragged": lambda step: torch.randn(3 + 5 * step, 3) * (1 + step) + 10 * step,
    "many values, channels last": lambda step: torch.randn(1500 + step, 3) * (1 + step) + 10 * step,
    "many values far from zero, channels last": lambda step: torch.randn(1500 + step, 3) + 1e3 * (step + 1),
    "images": lambda step: torch.randn(2 + step, 3, 4, 5) + step,
}


def estimator(name: str, weight: float = 0.1) -> Estimator:
    """The estimator, with settings where it needs some."""
    made: Any = estimator_class(name)
    return made(weight) if name in FOLLOWERS else made(**SETTINGS.get(name, {}))  # type: ignore[no-any-return]  # discovered


def by_name(name: str) -> str | Estimator:
    """The argument that a user passes: the name where it is enough."""
    return estimator(name) if name in SETTINGS else name


def test_the_estimators_are_found() -> None:
    assert len(names()) >= 5
    assert {"ema", "debiased_ema"} <= {*FOLLOWERS}


@pytest.mark.parametrize("kernel", ["", "two_pass"])
@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("name", names())
def test_the_running_statistics_are_the_estimators(
    name: str, kind: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "_ASKED", kernel)
    torch.manual_seed(0)
    made = nt.BatchNorm2d if kind == "images" else nt.BatchNorm1d
    layer = made(3, estimator=by_name(name))
    law, statistics = estimator(name), RunningStatistics.start(3)
    for step in range(6):
        x = BATCHES[kind](step)
        layer(x)
        statistics = law.update(statistics, reference.moments(x.double().numpy()))
        mean, var = running(layer)
        np.testing.assert_allclose(mean.numpy(), statistics.mean, rtol=2e-5, atol=1e-5)
        # merging means of 1e3 that were stored as float32
        np.testing.assert_allclose(var.numpy(), statistics.var, rtol=1e-3 if "far" in kind else 2e-5)
    state = layer.state_dict()
    assert int(state["num_batches_tracked"]) == statistics.updates
    assert ("running_count" in state) == law.needs_count
    if law.needs_count:
        assert int(state["running_count"]) == statistics.count


@pytest.mark.parametrize("name", names())
def test_the_output_does_not_depend_on_the_estimator(name: str) -> None:
    x = torch.randn(8, 3)
    layer, plain = nt.BatchNorm1d(3, estimator=by_name(name)), nn.BatchNorm1d(3)
    torch.testing.assert_close(layer(x), plain(x))
    mean, var = running(layer)
    fixed = reference.forward_fixed(x.numpy(), mean.numpy(), var.numpy(), None, None, 1e-5)
    np.testing.assert_allclose(layer.eval()(x).detach().numpy(), fixed, rtol=1e-5, atol=1e-5)
    assert torch.equal(running(layer)[0], mean)


@pytest.mark.parametrize("name", FOLLOWERS)
def test_a_later_change_of_momentum_is_followed(name: str) -> None:
    layer = nt.BatchNorm1d(3, momentum=0.1, estimator=name)
    statistics = RunningStatistics.start(3)
    for step, weight in enumerate((0.1, 0.5, 0.02, 1.0)):
        layer.momentum = weight
        x = torch.randn(6, 3) + step
        layer(x)
        statistics = estimator(name, weight).update(statistics, reference.moments(x.double().numpy()))
    mean, var = running(layer)
    np.testing.assert_allclose(mean.numpy(), statistics.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(var.numpy(), statistics.var, rtol=1e-5)
    assert "weight_of_new=1.0" in layer.extra_repr()


@pytest.mark.parametrize("name", FOLLOWERS)
def test_an_estimator_given_as_an_object_keeps_its_own_weight(name: str) -> None:
    layer = nt.BatchNorm1d(3, momentum=0.9, estimator=estimator(name, 0.25))
    layer(torch.randn(4, 3))
    x = torch.randn(4, 3)
    mean, var = (buffer.double().numpy().copy() for buffer in running(layer))
    before = RunningStatistics(mean, var, 1, 4)
    layer(x)
    after = estimator(name, 0.25).update(before, reference.moments(x.double().numpy()))
    np.testing.assert_allclose(running(layer)[0].numpy(), after.mean, rtol=1e-5, atol=1e-6)


def test_ema_by_name_is_what_torch_does() -> None:
    ours, theirs = nt.BatchNorm1d(3, estimator="ema"), nn.BatchNorm1d(3)
    for step in range(4):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        ours(x)
        theirs(x)
    torch.testing.assert_close(running(ours), running(theirs))


@pytest.mark.parametrize("name", names())
def test_statistics_that_are_not_tracked_stay_away(name: str) -> None:
    layer = nt.BatchNorm1d(3, track_running_stats=False, estimator=by_name(name))
    x = torch.randn(4, 3)
    torch.testing.assert_close(layer(x), layer.eval()(x), rtol=0, atol=0)
    assert {*layer.state_dict()} == {"weight", "bias"}


@pytest.mark.parametrize("name", names())
def test_torchs_update_bn_works_on_a_layer_with_an_estimator(name: str) -> None:
    # It sets momentum to None for its pass over the data, which to torch means the plain average.
    layer = nt.BatchNorm1d(3, estimator=by_name(name))
    layer(torch.randn(50, 3) + 100)
    batches = [torch.randn(8, 3, generator=torch.Generator().manual_seed(step)) for step in range(3)]
    torch.optim.swa_utils.update_bn(batches, layer)
    assert layer.momentum == 0.1
    assert int(layer.state_dict()["num_batches_tracked"]) == 3
    mean, _ = running(layer)
    if name in FOLLOWERS:
        torch.testing.assert_close(mean, torch.stack(batches).mean((0, 1)))
    assert float(mean.abs().max()) < 3


def test_large_counts_lose_nothing() -> None:
    layer = nt.BatchNorm1d(1, estimator="pooled", dtype=torch.float64)
    for value in (0.0, 1.0):
        layer(torch.full((2, 1, 10**6), value, dtype=torch.float64))
    mean, var = running(layer)
    assert mean.item() == pytest.approx(0.5, rel=1e-12)
    assert var.item() == pytest.approx(0.25 * 4e6 / (4e6 - 1), rel=1e-9)
    assert int(layer.state_dict()["running_count"]) == 4 * 10**6
