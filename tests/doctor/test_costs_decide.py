"""A loss or metric decides whether statistics that are off cost anything; what it takes away is listed with numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from normwise.doctor.check import load, run
from normwise.doctor.distances import costs
from normwise.facts import ModelFacts
from tests.doctor.digits import Batches, examined, held_out, images, residual, trained

WARM_UP = ["unfinished_warm_up", "stale_running_statistics"]


def after_few_steps() -> Any:
    """A model after 8 steps of Adam, whose accuracy at inference is chance, and whose loss is hardly larger for it."""
    torch.manual_seed(0)
    model = residual()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    x, y = images()
    for index in torch.arange(8 * 64).split(64):
        optimizer.zero_grad()
        cross_entropy(model(x[index]), y[index]).backward()
        optimizer.step()
    return model.eval()


def measured(check: str = "stale_running_statistics", **numbers: tuple[float, float]) -> ModelFacts:
    """The facts of a check's own sick model, with a loss and a metric now and with the statistics of the data."""
    facts = load(check).sick()
    assert facts.stored is not None
    assert facts.recalibrated is not None
    now, then = (dict[str, Any]((of, pair[place]) for of, pair in numbers.items()) for place in (0, 1))
    return replace(facts, stored=replace(facts.stored, **now), recalibrated=replace(facts.recalibrated, **then))


@pytest.mark.parametrize("given", [{}, {"loss": None}, {"loss": None, "metric": None}], ids=["both", "metric", "none"])
def test_a_model_whose_accuracy_is_chance_at_inference_is_not_healthy(given: dict[str, Any]) -> None:
    diagnosis = examined(after_few_steps(), **given)
    now, then = diagnosis.facts.stored, diagnosis.facts.recalibrated
    assert now is not None
    assert then is not None
    if now.metric is not None and then.metric is not None:
        assert then.metric > 2 * now.metric
    assert [each.check for each in diagnosis.findings if each.severity == "error"] == ["unfinished_warm_up"]


def test_what_a_loss_takes_away_is_listed_with_its_numbers() -> None:
    diagnosis = examined(after_few_steps(), metric=None)
    now, then = diagnosis.facts.stored, diagnosis.facts.recalibrated
    assert now is not None
    assert then is not None
    assert not [each for each in diagnosis.findings if each.check in WARM_UP]
    for check in WARM_UP:
        (said,) = [each for each in diagnosis.skipped if each.check == check and each.part.startswith("as a fault of")]
        assert said.reason.endswith(f"the loss only from {now.loss:.3g} to {then.loss:.3g}, which is less than 2 times")
        assert f"{said.what}: {said.reason}" in str(diagnosis)


@pytest.mark.parametrize("batches", [held_out(), held_out(16)], ids=["64", "16"])
def test_of_a_healthy_model_nothing_is_taken_away(batches: Batches) -> None:
    assert not [each for each in examined(trained().eval(), batches).skipped if each.part.startswith("as a fault of")]


@pytest.mark.parametrize(
    ("loss", "metric", "cost"),
    [
        ((2.3, 2.0), (0.2, 0.5), True),  # a metric is enough from 50 %
        ((2.3, 2.0), (0.5, 0.2), True),  # in any direction
        ((2.3, 2.0), (0.106, 0.174), False),
        ((2.3, 2.2), (0.2, 0.5), False),  # where the loss agrees
        ((2.0, 2.3), (0.2, 0.5), False),
        ((2.3, 2.0), (0.5, 0.6), False),
        ((2.3, 1.5), (0.5, 0.6), True),
        ((2.3, 1.0), (0.5, 0.52), False),
        ((3.3, 1.0), (0.5, 0.5), True),
        ((float("nan"), 1.0), (0.5, 0.5), True),
        ((2.3, 2.0), (float("nan"), 0.5), False),
    ],
)
def test_the_rule(loss: tuple[float, float], metric: tuple[float, float], cost: bool) -> None:
    assert costs(measured(loss=loss, metric=metric)) is cost


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"loss": (2.29, 1.76)}, "the loss only from 2.29 to 1.76, which is less than 2 times"),
        ({"loss": (1.5, 1.75)}, "the loss grows from 1.5 to 1.75"),
        ({"metric": (0.9, 0.92)}, "the metric only from 0.9 to 0.92, which is less than 12%"),
        (
            {"metric": (0.9, 0.92), "loss": (2.29, 1.76)},
            "the metric only from 0.9 to 0.92, which is less than 12%, and the loss only from 2.29 to 1.76, which is "
            "less than 3 times",
        ),
        (
            {"metric": (0.5, 0.6), "loss": (2.29, 1.9)},
            "the loss only from 2.29 to 1.9, which is less than 1.3 times, though the metric changes from 0.5 to 0.6",
        ),
        (
            {"metric": (0.1, 0.4), "loss": (2.3, 2.2)},
            "the loss only from 2.3 to 2.2, which is less than 1.1 times, though the metric changes from 0.1 to 0.4",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("check", WARM_UP)
def test_the_words(check: str, numbers: dict[str, tuple[float, float]], words: str) -> None:
    found, skipped = run([check], measured(check, **numbers))
    assert found == []
    said = next(each for each in skipped if each.part == "as a fault of layer 'bn'")
    assert said.reason.startswith("the output changes by ")
    assert said.reason.endswith(f" of its spread with the statistics of these data, but {words}")
