"""The identity, held exactly to what it says."""

from __future__ import annotations

from normwise.lab.experiments import can_it_represent_the_identity as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(depth=2, width=16, steps=20, sizes=(30, 60))


def test_with_eps_it_is_exact_and_without_it_is_not(outcomes: Outcomes) -> None:
    assert (outcomes.array("same_batch") < 1e-13).all()
    assert (outcomes.array("without_eps") > 1e-7).all()


def test_the_network_keeps_its_logits(outcomes: Outcomes) -> None:
    assert (outcomes.array("logits") < 1e-11).all()


def test_the_next_batch_is_nearer_the_larger_it_is(outcomes: Outcomes) -> None:
    small, large = outcomes.array("next_batch").T
    assert (small > large).all()
    assert (large > 0.02).all()


def test_verdicts_and_what_is_shown(conclusion: Conclusion) -> None:
    verdicts = [statement.verdict for statement in conclusion.statements]
    assert verdicts == [Verdict.EXACT, Verdict.EXACT]
    assert len(conclusion.table.rows) == 5
    ((panel,),) = (figure.panels for figure in conclusion.figures)
    assert [len(series.x) for series in panel.series] == [2, 2]
