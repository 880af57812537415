"""A fault that merely follows from a finding is not named beside it, and one that has a cause of its own still is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from normwise.doctor.check import names, run
from normwise.doctor.distances import stale
from normwise.doctor.examples import layer, model, seen
from normwise.facts import ModelFacts, Outcome, Steps
from tests.doctor.digits import examined, held_out, serious, step, trained

DECAYED = np.full(8, 0.01)
SHRINKING = {"own": seen(var=0.6), "served": seen(var=0.6)}


def found(facts: ModelFacts) -> list[str]:
    return [each.check for each in run(names(), facts)[0] if each.severity != "note"]


def decaying(built: Any, per_step: float) -> Any:
    """A model whose scales a decay moves in each step, far faster than an average of the last ten follows."""
    norms = [each for each in built.train().modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for x, _ in held_out(32) * 5:
            for norm in norms:
                norm.weight.mul_(1 - per_step)
            built(x)
    return built.eval()


@pytest.mark.parametrize("make", ["dense", "residual"])
def test_statistics_that_lag_behind_scales_that_a_decay_shrinks_are_not_called_stale(make: str) -> None:
    built = decaying(trained(make), 0.05)
    assert [check for check, _ in serious(examined(built, held_out(32)))] == ["decayed_scales"]


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ({"scale": DECAYED}, {"var": 1.05, **SHRINKING}, ["decayed_scales"]),
        ({}, {"var": 1.05, **SHRINKING}, ["stale_running_statistics"]),
        ({"scale": DECAYED}, {"var": 0.3, **SHRINKING}, ["decayed_scales", "stale_running_statistics"]),
        ({"scale": DECAYED}, {"var": 1.05, "mean": 1.0, **SHRINKING}, ["decayed_scales", "stale_running_statistics"]),
        ({"scale": DECAYED, "mean": 1.0}, {}, ["decayed_scales", "stale_running_statistics"]),
        ({"scale": DECAYED}, {}, ["decayed_scales"]),
        ({"scale": 0.2}, {"var": 1.05, "scale": DECAYED, **SHRINKING}, ["decayed_scales"]),
    ],
)
def test_only_a_variance_that_is_too_large_behind_a_decayed_layer_follows_from_the_decay(
    first: dict[str, Any], second: dict[str, Any], says: list[str]
) -> None:
    facts = model(layer("one", **first), layer("two", **second), apart=1.0)
    assert stale(facts) or says == ["decayed_scales"]
    assert sorted(found(facts)) == says


@pytest.mark.parametrize("make", ["convolutional", "residual"])
def test_frozen_layers_that_move_on_data_of_another_kind_are_not_called_stale_besides(make: str) -> None:
    built = trained(make).train()
    for module in built[:5]:
        module.requires_grad_(False)
    negative = [(0.7 - 0.5 * x, y) for x, y in held_out()]
    assert [check for check, _ in serious(examined(built, negative, train_step=step))] == ["moving_frozen_layer"]


def test_statistics_that_are_off_elsewhere_than_in_frozen_layers_that_move_are_found() -> None:
    steps = Steps(3, {"one": 1.0}, frozenset({"one"}), frozenset(), {"one": 512.0})
    one, two = layer("one", learns=False, trains=True), layer("two", mean=1.0)
    facts = model(one, two, apart=1.0, steps=steps, shares={"two": 1.0})
    assert sorted(found(facts)) == ["moving_frozen_layer", "stale_running_statistics"]
    assert found(replace(facts, layers=(replace(one, mean=np.ones(8)), replace(two, mean=np.zeros(8))))) == [
        "moving_frozen_layer"
    ]


def by_label(batches: int) -> list[Any]:
    return [np.full(32, float(number % 8)) for number in range(batches)]


def outcomes(loss: float, metric: float, loss_then: float, metric_then: float) -> dict[str, Any]:
    outputs = np.linspace(-1, 1, 64)[:, None]
    return {
        "stored": Outcome(outputs * 1.2, loss, metric),
        "recalibrated": Outcome(outputs, loss_then, metric_then),
        "by_batch": Outcome(outputs, 2 * loss, metric),
    }


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ((0.55, 0.84, 0.28, 0.93), ["sorted_batches"]),
        ((0.40, 0.90, 0.25, 0.95), ["sorted_batches"]),
        ((0.026, 1.0, 0.015, 1.0), []),
        ((0.30, 0.90, 0.29, 0.95), []),
        ((0.40, 0.930, 0.25, 0.935), []),
    ],
)
def test_sorted_batches_have_done_harm_where_loss_and_metric_both_gain(
    numbers: tuple[float, float, float, float], says: list[str]
) -> None:
    facts = model(layer("one"), layer("two"), labels=by_label(8), **outcomes(*numbers))
    assert found(facts) == says


@pytest.mark.parametrize("labels", [by_label(8), None])
def test_no_batch_is_judged_by_the_others_where_the_labels_say_that_they_are_sorted(labels: Any) -> None:
    outputs = np.linspace(-1, 1, 64)[:, None]
    stored = Outcome(outputs * 1.01, 0.026, 1.0, (0.025, 0.027) * 4)
    crossed = Outcome(outputs, 0.021, 1.0, (0.020, 0.022) * 4)
    facts = model(layer("one"), labels=labels, stored=stored, recalibrated=crossed, crossed=crossed)
    assert found(facts) == ([] if labels else ["stale_running_statistics"])
