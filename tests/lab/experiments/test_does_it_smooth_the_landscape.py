"""Probes of the landscape, against a network by hand."""

from __future__ import annotations

from normwise.lab.experiments import does_it_smooth_the_landscape as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion

SETTINGS = experiment.Settings(rates=(0.1, 0.3), at=(1, 5, 20), depth=2, width=16)


def test_larger_rates_reach_further(outcomes: Outcomes) -> None:
    for arm in (True, False):
        small, large = outcomes.where(batch_norm=arm).array("distance")[:, :, 0].mean(axis=0)
        assert large > small > 0


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 6
    assert len(conclusion.table.rows) == 4
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[2, 2], [2, 2], [2, 2]]
