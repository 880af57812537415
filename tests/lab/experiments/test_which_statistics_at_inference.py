"""Statistics at inference in a tiny setting, and the averages against the layer's own."""

from __future__ import annotations

import pytest

from normwise.lab.experiments import which_statistics_at_inference as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion

SETTINGS = experiment.Settings(rates=(0.1, 0.5), looks=(5, 60), depth=2, width=16)


def test_slow_averages_lag_behind(outcomes: Outcomes) -> None:
    exact = outcomes.array("exact")
    assert (exact[:, 1] > outcomes.array("average_0.001")[:, 1] + 0.1).all()
    assert exact[:, 1] == pytest.approx(outcomes.array("test")[:, 1], abs=0.05)


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 6 * len(SETTINGS.rates)
    assert len(conclusion.table.rows) == len(SETTINGS.rates) * len(experiment.WAYS)
    ((*panels,),) = (figure.panels for figure in conclusion.figures)
    assert [len(panel.series) for panel in panels] == [len(experiment.SHOWN)] * 2
