"""Leaks through the batch: the identities exactly, the rest in a tiny setting."""

from __future__ import annotations

from itertools import islice

from normwise.lab.data.splits import digits
from normwise.lab.experiments import does_the_batch_leak as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict
from normwise.lab.training.few_classes import of_classes

SETTINGS = experiment.Settings(classes=(1, 10), rates=(0.05, 0.1), steps=100, depth=2, width=32)


def test_batches_hold_so_many_classes() -> None:
    for classes in (1, 2, 5):
        for images, labels in islice(of_classes(digits(0).train, classes, 30, seed=0), 10):
            assert len(images) == 30
            assert labels.unique().numel() == classes


def test_inference_is_free_of_company_and_training_is_not(outcomes: Outcomes) -> None:
    plain = outcomes.where(arm="batch", classes=10)
    assert (plain.array("inference") < 1e-13).all()
    assert (plain.array("training") > 0.05).all()
    assert (plain.array("one") < 1e-12).all()


def test_batches_of_one_class_teach_nothing_that_serves_inference(outcomes: Outcomes) -> None:
    one = outcomes.where(arm="batch", classes=1).array("test")
    assert (one < outcomes.where(arm="batch", classes=10).array("test") - 0.3).all()


def test_the_identities_are_exact(conclusion: Conclusion) -> None:
    assert [statement.verdict for statement in conclusion.statements[:2]] == [Verdict.EXACT] * 2


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 6
    assert len(conclusion.table.rows) == 4
    ((*panels,),) = (figure.panels for figure in conclusion.figures)
    assert [len(panel.series) for panel in panels] == [2, 2]
