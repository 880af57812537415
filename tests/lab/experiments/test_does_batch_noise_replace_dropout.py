"""Parts of the batch and dropout in a tiny setting."""

from __future__ import annotations

import pytest
import torch

from normwise.lab.data.splits import Split, some_wrong
from normwise.lab.experiments import does_batch_noise_replace_dropout as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(
    parts=(1, 10), dropouts=(0.0, 0.5), rates=(0.2, 0.8), equal=(0.2, 0.8), steps=60, width=30
)


def test_a_share_of_the_labels_is_drawn_again_and_the_rest_is_kept() -> None:
    labels = torch.zeros(1000, dtype=torch.int64)
    split = Split(torch.zeros(1000, 1), labels, torch.arange(1000))
    changed = some_wrong(split, 0.3, 0).labels
    assert 0.25 < float((changed != 0).double().mean()) < 0.3
    assert torch.equal(labels, torch.zeros(1000, dtype=torch.int64))
    assert torch.equal(some_wrong(split, 0.0, 0).labels, labels)


def test_smaller_parts_fit_the_training_images_less(outcomes: Outcomes) -> None:
    noisy = outcomes.where(task="noisy")
    whole, parts = (noisy.where(part=size).array("train")[:, 0].max(axis=1) for size in (120, 12))
    assert (whole > parts).all()


def test_dropout_goes_with_the_plain_network_and_the_whole_batch(outcomes: Outcomes) -> None:
    for trial, found in outcomes:
        whole = trial.part in (experiment.PLAIN, experiment.BATCH[trial.task])
        assert len(found["test"]) == (2 if whole else 1)


def test_rates_are_picked_on_validation_images_and_the_noise_is_looked_at_at_equal_ones() -> None:
    trials = experiment.trials(SETTINGS, (0, 1))
    made_up = []
    for trial in trials:
        shape = (2, 2) if trial.part in (experiment.PLAIN, experiment.BATCH[trial.task]) else (1, 2)
        validation = [[0.5, 0.6], [0.7, 0.5]][: shape[0]]
        made_up.append({"validation": validation, "test": [[0.9, 0.8], [0.85, 0.9]][: shape[0]], "train": validation})
    found = experiment.conclude(SETTINGS, Outcomes(trials, made_up)).statements
    by_name = {each.text.partition(": ")[2]: each for each in found if each.text.startswith("100 images")}
    it = "batch normalization of 10 images together, without dropout,"
    as_good = by_name[f"{it} is as good as dropout of 0.5 without it, or better."]
    assert as_good.effect.value == pytest.approx(-5)  # the second rate against the first
    assert as_good.verdict is Verdict.CONTRADICTED
    for rate in SETTINGS.rates:
        at = f"at the rate {rate:g} for both, parts of 10 images"
        assert by_name[f"{at} have the lower training accuracy."].effect.value == 0.0
        assert by_name[f"{at} are more accurate than all 100 at once."].effect.value == 0.0


def test_what_is_held_against_dropout_has_the_noise_that_is_claimed_to_replace_it() -> None:
    """Of all images that there are, statistics have no noise; so they are no test of what the noise does."""
    trials = experiment.trials(SETTINGS, (0, 1))
    made_up = []
    for trial in trials:
        rows = 2 if trial.part in (experiment.PLAIN, experiment.BATCH[trial.task]) else 1
        test = {experiment.PLAIN: 0.8, experiment.BATCH[trial.task]: 0.7}.get(trial.part, 0.9)
        made_up.append({name: [[test] * 2] * rows for name in ("validation", "test", "train")})
    found = {
        each.text: each.effect.value for each in experiment.conclude(SETTINGS, Outcomes(trials, made_up)).statements
    }
    for task, size, lead in (("few", 10, 10), ("noisy", 120, -10)):
        assert experiment.IMAGES[task] > size
        it = f"{experiment.TASKS[task]}: batch normalization of {size} images together, without dropout,"
        assert found[f"{it} is more accurate than nothing."] == pytest.approx(lead)
        assert found[f"{it} is as good as dropout of 0.5 without it, or better."] == pytest.approx(lead)


def test_arms_are_looked_at_only_at_equal_rates_that_there_are() -> None:
    settings = experiment.Settings()
    assert set(settings.equal) <= set(settings.rates[1:-1])


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 2 * (1 + 2 * len(SETTINGS.rates) + 2)
    assert len(conclusion.table.rows) == 10
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[2, 2], [2, 2]]
