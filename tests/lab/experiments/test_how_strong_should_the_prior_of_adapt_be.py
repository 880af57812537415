"""The experiment of the prior in a tiny setting, and its bookkeeping on hand-made numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from normwise.lab.data.shifts import SHIFTS
from normwise.lab.data.splits import digits
from normwise.lab.experiments import how_strong_should_the_prior_of_adapt_be as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict
from normwise.lab.training.descent import accuracy, train
from normwise.recalibration.prior import PRIOR

SETTINGS = experiment.Settings(samples=(2, 64), priors=(0, 4, 1e9), width=16, steps=20)


def test_a_prior_without_end_is_the_network_as_it_is(outcomes: Outcomes) -> None:
    for _, found in outcomes:
        for shift in SHIFTS:
            assert found[f"{shift}, chosen by"] != found[shift]
            assert [row[2] for row in found[shift]] == pytest.approx([found[f"{shift}, as it is"]] * 2, abs=0.01)


def test_the_network_is_the_same_for_every_adaptation() -> None:
    model = experiment.network("dense", SETTINGS, 0)
    data = digits(0)
    train(model, data.train, rate=0.1, steps=20, batch=64, seed=0)
    before = accuracy(model, data.test)
    assert experiment._adapted(model, 5 + data.validation.images[:8], 0, data.test) != [before]
    assert accuracy(model, data.test) == before


@pytest.mark.parametrize("name", SHIFTS)
def test_shifts_are_the_same_every_time_and_leave_the_images(name: str) -> None:
    images = digits(0).test.images[:5]
    before = images.clone()
    first, second = (SHIFTS[name](images) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == images.shape
    assert torch.equal(images, before)
    assert torch.equal(first, images) == (name == "none")


def made_up(**accuracies: float) -> Conclusion:
    """The conclusion for priors 0, 4 and 16, the same with every shift and network and number of samples."""
    settings = experiment.Settings(samples=(2, 32), priors=(0, 4, 16))
    trials = experiment.trials(settings, range(5))
    found: list[dict[str, Any]] = []
    for trial in trials:
        row = [value + 0.0001 * trial.seed * (name == "own") for name, value in accuracies.items()]
        each: dict[str, Any] = {shift: [row, row] for shift in SHIFTS}
        each |= {f"{shift}, chosen by": [row, row] for shift in SHIFTS}
        found.append(each | {f"{shift}, as it is": 0.5 for shift in SHIFTS})
    return experiment.conclude(settings, Outcomes(trials, found))


def test_the_verdicts_follow_the_numbers() -> None:
    good, small, bad = Verdict.REPRODUCED, Verdict.SMALLER, Verdict.CONTRADICTED
    assert [each.verdict for each in made_up(none=0.5, own=0.8, other=0.7).statements] == [good] * 3
    assert [each.verdict for each in made_up(none=0.9, own=0.8, other=0.81).statements] == [bad] * 3
    alike = made_up(none=0.8002, own=0.8, other=0.8).statements
    assert [each.verdict for each in alike] == [small, good, good]
    assert [each.text for each in alike] == [
        "2 samples: the default prior is better than none.",
        "2 samples: the default prior is not worse than the one that is best on other images.",
        "32 samples: the default prior is not worse than the one that is best on other images.",
    ]
    assert made_up(none=0.5, own=0.8, other=0.7).statements[0].effect.value == pytest.approx(30.02)


def test_the_table_and_the_figure_have_everything() -> None:
    found = made_up(none=0.5, own=0.8, other=0.7)
    assert len(found.table.rows) == 2 * 2 * (len(SHIFTS) + 1)
    assert found.table.caption.endswith("over 5 seeds")
    (figure,) = found.figures
    assert [panel.title for panel in figure.panels] == ["dense", "convolutional"]
    assert figure.panels[0].series[1].y == pytest.approx((80.02, 80.02))


def test_the_default_is_held_against_priors_near_it() -> None:
    """A grid whose only sensible value is the default proves that it is the best of that grid."""
    priors = experiment.Settings().priors
    place = priors.index(PRIOR)
    assert priors[place - 1] >= PRIOR / 2
    assert priors[place + 1] <= 2 * PRIOR
