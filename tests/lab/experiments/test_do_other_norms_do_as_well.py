"""Other norms of the batch by hand, and in a tiny setting."""

from __future__ import annotations

from normwise.lab.experiments import do_other_norms_do_as_well as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict
from normwise.lab.training.descent import looks

SETTINGS = experiment.Settings(rates=(0.1, 1.0), steps=60, depth=2, width=24)


def test_all_norms_learn_faster_than_none(outcomes: Outcomes) -> None:
    ends = {norm: outcomes.where(norm=norm).array("test")[..., -1].max(axis=1).mean() for norm in experiment.ARMS}
    assert min(ends["l1"], ends["l2"], ends["linf"]) > ends["none"]


def test_verdicts_follow_hand_made_numbers() -> None:
    trials = experiment.trials(SETTINGS, range(3))
    at = looks(SETTINGS.steps)
    when = {"none": 40, "l2": 12, "l1": 14, "linf": 50}
    made_up = []
    for trial in trials:
        curve = [0.96 if step >= when[trial.norm] else 0.1 for step in at]
        made_up.append({"validation": [curve] * 2, "test": [curve] * 2, "drift": [1.0] * 2})
    verdicts = [each.verdict for each in experiment.conclude(SETTINGS, Outcomes(trials, made_up)).statements]
    assert verdicts[:3] == [Verdict.REPRODUCED] * 3
    assert verdicts[3:] == [Verdict.CONTRADICTED, Verdict.CONTRADICTED, Verdict.REPRODUCED]


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 6
    assert len(conclusion.table.rows) == 4
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[4]]
