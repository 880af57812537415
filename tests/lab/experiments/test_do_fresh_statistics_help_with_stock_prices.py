"""Stock prices in a tiny setting, and on prices that are made up so that the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from normwise.lab.experiments import do_fresh_statistics_help_with_stock_prices as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion
from normwise.lab.training.forecast import walk, windows_of

SETTINGS = experiment.Settings(steps=60, rates=(0.1,), width=8, stocks=2)


def test_on_the_old_scale_the_prediction_stays_behind_a_trend() -> None:
    """A tanh network has no way to follow: its output is bounded in the units of its training."""
    prices = 10 * 1.02 ** np.arange(390.0)
    windows, target = windows_of(prices, SETTINGS.window)
    predicted = walk(
        windows,
        target,
        training=SETTINGS.training,
        priors=experiment.PRIORS,
        memory=SETTINGS.memory,
        rates=SETTINGS.rates,
        steps=SETTINGS.steps,
        width=SETTINGS.width,
        seed=0,
    )
    behind = {arm: abs(values[-1] / target[-1] - 1) for arm, values in predicted.items()}
    assert behind["fixed"] > 0.9
    assert behind["prior_0"] < behind["prior_16"] < behind["fixed"]
    assert behind["window"] < 0.2
    assert behind["last"] == pytest.approx(1 - 1 / 1.02)


def test_the_last_price_has_no_skill_and_no_error_that_grows(outcomes: Outcomes) -> None:
    assert (outcomes.array("last_skill") == 0).all()
    assert (outcomes.array("fixed_error") > outcomes.array("last_error")).all()
    assert (outcomes.array("fixed_skill") < 0).all()


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 5
    assert len(conclusion.table.rows) == len(experiment.ARMS)
    ((panel,),) = (figure.panels for figure in conclusion.figures)
    assert [len(series.x) for series in panel.series] == [experiment.YEARS] * len(experiment.ARMS)
