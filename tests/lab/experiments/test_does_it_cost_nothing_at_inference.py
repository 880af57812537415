"""Folding, held exactly to what it says; no time is asserted."""

from __future__ import annotations

from normwise.lab.experiments import does_it_cost_nothing_at_inference as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(depth=2, width=16, steps=60, sizes=(1, 20), repeats=3)


def test_the_folded_network_is_the_same_function(outcomes: Outcomes) -> None:
    assert outcomes.array("float64").max() < 1e-13
    assert outcomes.array("float32").max() < 1e-5
    assert outcomes.array("changed_float32").tolist() == [0, 0]


def test_a_batch_of_one_is_the_shift(outcomes: Outcomes) -> None:
    assert outcomes.array("batch_of_one").tolist() == [0, 0]


def test_the_exact_statements_are_exact(conclusion: Conclusion) -> None:
    verdicts = [statement.verdict for statement in conclusion.statements]
    assert [*verdicts[:3], verdicts[4]] == [Verdict.EXACT] * 4


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 5
    assert len(conclusion.table.rows) == 7
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[2]]
