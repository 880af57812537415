"""Comparisons of equally good arms: the best of many must not look better than it is on the rows that chose nothing."""

from __future__ import annotations

import numpy as np
import pytest

from normwise.lab.comparison import Comparison, comparing, crossed
from normwise.lab.comparison.arms import Trial
from normwise.lab.comparison.trainer import WARM_UP, Outcome, ways
from tests.lab.comparison.test_comparing import ROWS, SECONDS_PER_STEP, MadeUp


class Chance(MadeUp):
    """Every training of every arm is as good as any other, but for chance; some rows are harder than others."""

    def __init__(self, number: int) -> None:
        super().__init__(lambda *_: 80.0)
        self._number = number

    def train(self, trial: Trial) -> Outcome:
        """Draw what belongs to this trial alone."""
        if trial == WARM_UP:
            return Outcome()
        self.now += 0.05 + trial.steps * SECONDS_PER_STEP
        arm = trial.arm
        of_this = [trial.seed, trial.steps, round(1000 * arm.rate), *arm.normalizer.encode(), len(arm.where)]
        generator = np.random.default_rng([self._number, *of_this])
        hardness = np.random.default_rng([self._number, 5]).normal(0, 1, 100)
        quality = generator.normal(0, 0.3)
        outcome = Outcome(per_step=SECONDS_PER_STEP)
        for way in ways(arm, final=trial.final):
            outcome.validation[way] = 80 + generator.normal(0, 3)
            if trial.final:
                right = hardness + quality + generator.normal(0, 0.7, 100) < 1
                outcome.test[way] = (100.0 * right).tolist()
        return outcome


def compared(number: int, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    trainer = Chance(number)
    monkeypatch.setattr(comparing, "trainer_for", lambda *_: trainer)
    names = ["none", "batch", "group", "layer"]
    return comparing.compare(
        lambda: None, ROWS, budget=30, normalizers=names, rates=[0.01, 0.1], clock=lambda: trainer.now
    )


def test_a_difference_that_is_not_there_is_rarely_visible_and_not_on_the_winners_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crossed, "RESAMPLES", 500)
    found = [compared(number, monkeypatch) for number in range(30)]
    effects = [each.effect.value for each in found]
    assert sum(each.visible for each in found) <= 4  # of 30; 5 % would be 1.5
    assert abs(np.mean(effects)) < 3 * np.std(effects) / np.sqrt(len(effects))
