"""The paper's experiment in a tiny setting, and its bookkeeping on hand-made numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from normwise.lab.experiments import does_it_train_faster as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import EDITION, Conclusion, Verdict, from_json
from normwise.lab.training.descent import looks

SETTINGS = experiment.Settings(deviations=(0.1,), rates=(0.5, 2.0), steps=60, width=20)


def test_with_batch_norm_it_learns_more_in_the_same_few_steps(outcomes: Outcomes) -> None:
    for pixels in SETTINGS.inputs:
        ends = {
            batch_norm: outcomes.where(pixels=pixels, batch_norm=batch_norm, rate=2.0).array("test")[:, -1]
            for batch_norm in (False, True)
        }
        assert (ends[True] > ends[False] + 0.2).all()


def test_everything_shown_is_finite_and_has_its_place(conclusion: Conclusion) -> None:
    assert [figure.name for figure in conclusion.figures] == [
        "accuracy_by_step",
        "percentiles_by_step",
        "steps_by_rate",
    ]
    for figure in conclusion.figures:
        assert [len(panel.series) for panel in figure.panels] in ([2, 2], [3, 3])
        for panel in figure.panels:
            for series in panel.series:
                assert len(series.x) == len(series.y) > 0
                assert all(y is not None and math.isfinite(y) for y in series.y)
    assert len(conclusion.table.rows) == 4
    assert len(conclusion.statements) == 8


def made_up(test_with: float, test_without: float) -> Conclusion:
    """Both arms reach the target at hand-made looks, one look later for every second seed."""
    settings = experiment.Settings(inputs=("grey",), deviations=(0.1,), rates=(0.5, 1.0, 2.0), steps=1000)
    at = looks(settings.steps)
    trials = experiment.trials(settings, range(5))
    outcomes = []
    for trial in trials:
        end = test_with if trial.batch_norm else test_without
        when = (20 if trial.batch_norm else 200) * (1 + 0.3 * (trial.seed % 2))
        curve = [end if step >= when else 0.1 for step in at]
        # the second rate is better on test images only: it must not be picked
        validation = curve if trial.rate == 1.0 else [0.1] * len(at)
        test = curve if trial.rate == 1.0 else [1.0] * len(at)
        typical = [[0.0, 0.5, 1.0]] * len(at)
        drift = 0.1 if trial.batch_norm else 1.0
        outcomes.append({"validation": validation, "test": test, "drift": drift, "typical": typical})
    return experiment.conclude(settings, Outcomes(trials, outcomes))


def test_rates_are_picked_on_validation_images_and_verdicts_follow_the_numbers() -> None:
    small, best, drift, end = made_up(0.98, 0.96).statements
    assert small.effect.value == best.effect.value == pytest.approx(10, rel=0.1)
    assert drift.effect.value == pytest.approx(10)
    assert end.effect.value == pytest.approx(2)
    assert {each.verdict for each in (small, best, drift, end)} == {Verdict.REPRODUCED}
    assert made_up(0.96, 0.98).statements[3].verdict is Verdict.CONTRADICTED


def test_a_run_that_diverged_keeps_its_place_in_every_list() -> None:
    trial = experiment.Trial("grey", False, 0.1, 1e9, 0)
    found = experiment.run(trial, SETTINGS)
    assert len(found["test"]) == len(looks(SETTINGS.steps))
    assert found["test"][-1] == pytest.approx(0.1, abs=0.02)
    assert math.isnan(found["drift"]) or found["drift"] >= 0


def test_the_kept_result_says_what_the_experiment_says() -> None:
    """Unless it is of the first edition, whose statements the page marks as to be measured again."""
    path = Path(__file__).parents[3] / "benchmarks/results/claims/does_it_train_faster.json"
    kept = from_json(path.read_text(encoding="utf-8"))
    if kept.edition < EDITION:
        assert {each.regime for each in kept.conclusion.statements} == {None}
        return
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in kept.settings.items()}
    settings = experiment.Settings(**given)
    trials = experiment.trials(settings, range(2))
    at = looks(settings.steps)
    curve = [0.99] * len(at)
    made: dict[str, Any] = {"validation": curve, "test": curve, "drift": 1.0, "typical": [[0.0, 0.5, 1.0]] * len(at)}
    said = experiment.conclude(settings, Outcomes(trials, [made] * len(trials)))
    assert [each.text for each in kept.conclusion.statements] == [each.text for each in said.statements]
    assert [each.caption for each in kept.conclusion.figures] == [each.caption for each in said.figures]
    assert kept.conclusion.caveats == said.caveats
