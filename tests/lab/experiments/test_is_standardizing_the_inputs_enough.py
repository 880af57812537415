"""Standardized inputs and normalized layers in a tiny setting."""

from __future__ import annotations

import pytest
import torch

from normwise.lab.data.changes import standardized
from normwise.lab.data.splits import digits
from normwise.lab.experiments import is_standardizing_the_inputs_enough as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion

SETTINGS = experiment.Settings(rates=(0.1, 0.5), steps=20, growth=1.5, width=16, depth=2)


def test_every_pixel_that_varies_has_mean_0_and_variance_1_on_the_training_images_only() -> None:
    plain, found = digits(0), standardized(digits(0))
    varies = plain.train.images.std(dim=0) > 0
    images = found.train.images
    assert not images[:, ~varies].any()
    torch.testing.assert_close(images[:, varies].mean(dim=0), torch.zeros(int(varies.sum())), atol=1e-5, rtol=0)
    torch.testing.assert_close(images[:, varies].var(dim=0, correction=0), torch.ones(int(varies.sum())))
    assert torch.isfinite(found.test.images).all()
    pixel = int(varies.nonzero()[20])
    mean, std = plain.train.images[:, pixel].mean(), plain.train.images[:, pixel].std(correction=0)
    torch.testing.assert_close(found.test.images[:, pixel], (plain.test.images[:, pixel] - mean) / std)


def test_steps_are_those_of_the_fastest_rate_and_ends_those_of_the_one_that_ends_best() -> None:
    trials, at, found = experiment.trials(SETTINGS, range(5)), SETTINGS.looks(), []
    for trial in trials:
        fast, good = [0.95] * len(at), [0.5] * (len(at) - 1) + [0.99]
        slow = [0.5] * len(at)
        curves = [fast, good] if trial.arm == "layers" else [[*slow[:-1], 0.9], slow]
        found.append({"validation": curves, "test": curves})
    statements = experiment.conclude(SETTINGS, Outcomes(trials, found)).statements
    sooner, higher = statements[1], statements[2]
    assert sooner.effect.value == pytest.approx(at[-1] / at[0])
    assert higher.effect.value == pytest.approx(9.0)


def test_every_arm_learns(outcomes: Outcomes) -> None:
    assert (outcomes.where(activation="relu").array("test")[..., -1].max(axis=1) > 0.3).all()


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 8
    assert len(conclusion.table.rows) == 8
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[4, 4]]
