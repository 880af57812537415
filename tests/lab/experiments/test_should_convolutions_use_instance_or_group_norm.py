"""Normalizations in a convolutional network, in a tiny setting, and what holds exactly of instance norm."""

from __future__ import annotations

from normwise.lab.experiments import should_convolutions_use_instance_or_group_norm as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(batches=(32,), steps=60, longer=(1,), rates=(0.3,), widths=(8, 8))


def test_instance_norm_is_free_of_contrast_and_batch_norm_is_not(outcomes: Outcomes) -> None:
    assert (outcomes.where(arm="instance").array("free") < 1e-12).all()
    assert (outcomes.where(arm="layer").array("free") < 1e-12).all()
    assert (outcomes.where(arm="batch").array("free") > 0.1).all()


def test_freedom_of_contrast_is_exact(conclusion: Conclusion) -> None:
    (statement,) = (each for each in conclusion.statements if "free of each image's contrast" in each.text)
    assert statement.verdict is Verdict.EXACT


def test_batch_norm_learns(outcomes: Outcomes) -> None:
    assert (outcomes.where(arm="batch").array("test") > 0.3).all()


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 8
    assert len(conclusion.table.rows) == len(experiment.ARMS)
    ((panel,),) = (figure.panels for figure in conclusion.figures)
    assert len(panel.series) == len(experiment.ARMS)
