"""The experiment of recalibration in a tiny setting, and its bookkeeping on hand-made numbers."""

from __future__ import annotations

import pytest
import torch

from normwise.lab.data.splits import digits
from normwise.lab.experiments import does_recalibration_need_inference_upstream as experiment
from normwise.lab.networks.dense import Dense, he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict
from normwise.lab.training.variance_shift import from_truth
from normwise.torch import BatchNorm1d
from normwise.torch.models.recalibration.recalibrate import recalibrate

SETTINGS = experiment.Settings(networks=((3, 8), (2, 32)), recalibrated=(4, 100), width=16, steps=20)


def test_at_inference_nothing_depends_on_how_the_data_come(outcomes: Outcomes) -> None:
    for _, found in outcomes:
        assert max(found["inference_distance"]) < 1e-4
        assert found["inference_loss"] == pytest.approx([found["inference_loss"][0]] * 3, rel=1e-4)


def test_by_the_batch_is_further_away_the_smaller_the_batches_are_and_for_sorted_data(outcomes: Outcomes) -> None:
    for _, found in outcomes:
        small, large, by_class = found["batch_distance"]
        assert small > 2 * large > 0
        assert by_class > 2 * large


def test_the_distance_of_known_statistics_is_known() -> None:
    data = digits(0).train
    model = Dense(depth=2, width=8, activation="relu", batch_norm=True, std=he, seed=0)
    recalibrate(model, [data.images])
    assert from_truth(model, data.images) < 1e-5
    norm = model.normalize[1]
    assert isinstance(norm, BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean += 3 * torch.sqrt(norm.running_var + norm.eps)
    assert from_truth(model, data.images) == pytest.approx(1.5, abs=1e-4)  # the mean of 0 and 3


def made_up(by_batch: float) -> Conclusion:
    settings = experiment.Settings(networks=((10, 8),), recalibrated=(4,))
    trials = experiment.trials(settings, range(5))
    values = {"inference": 0.95, "batch": by_batch}
    found = []
    for trial in trials:
        each = {f"average_{what}": [0.9] for what in experiment.MEASURED}
        for way, value in values.items():
            each |= {
                f"{way}_{what}": [value + 0.0001 * trial.seed * (way == "batch")] * 2 for what in experiment.MEASURED
            }
        found.append(each)
    return experiment.conclude(settings, Outcomes(trials, found))


def test_the_verdicts_follow_the_numbers() -> None:
    for value, verdict in (
        (0.97, Verdict.REPRODUCED),
        (0.949, Verdict.REPRODUCED),
        (0.9, Verdict.CONTRADICTED),
    ):
        assert [each.verdict for each in made_up(value).statements] == [verdict] * 2
    first = made_up(0.9).statements[0]
    assert first.text == "10 layers trained with 8 a batch, data shuffled, 4 a batch: by the batch is no worse."
    assert first.effect.value == pytest.approx(-4.98)


def test_the_table_and_the_figure_have_everything(outcomes: Outcomes) -> None:
    found = experiment.conclude(SETTINGS, outcomes)
    assert len(found.table.rows) == 2 * (1 + 2 * 3)
    assert found.table.caption.endswith("over 2 seeds")
    (figure,) = found.figures
    assert [panel.title for panel in figure.panels] == ["3 layers, batches of 8", "2 layers, batches of 32"]
    assert [series.x for series in figure.panels[0].series] == [(4, 100)] * 2
