"""Sizes of batches in a tiny setting."""

from __future__ import annotations

from normwise.lab.experiments import does_it_need_large_batches as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion

SETTINGS = experiment.Settings(
    parts=(64, 2), batches=(32, 2), rates=(0.1, 0.3), part_steps=80, batch_steps=80, depth=2, width=16
)


def test_statistics_of_two_images_cost_accuracy(outcomes: Outcomes) -> None:
    parts = outcomes.where(arm="parts")
    assert (parts.where(part=64).array("test") > parts.where(part=2).array("test") + 0.05).all()


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 7
    assert len(conclusion.table.rows) == 2 + 2 * len(experiment.ARMS)
    ((parts, whole),) = (figure.panels for figure in conclusion.figures)
    assert [len(parts.series), len(whole.series)] == [2, 4]
    assert all(len(series.x) == len(series.y) == 2 for series in (*parts.series, *whole.series))
