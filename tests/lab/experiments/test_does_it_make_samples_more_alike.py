"""The similarity of samples in a tiny setting, and cosines by hand."""

from __future__ import annotations

import pytest
import torch

from normwise.lab.data.splits import digits
from normwise.lab.experiments import does_it_make_samples_more_alike as experiment
from normwise.lab.networks.stack import Stack, batch_norm
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict
from normwise.lab.settling import settled
from normwise.lab.training.alike import alike, mean_cosine

SETTINGS = experiment.Settings(depths=(2, 6), rates=(0.1, 0.5), steps=10, width=16)


def test_the_cosine_is_the_mean_over_all_pairs() -> None:
    x = torch.randn(2, 5, 7, dtype=torch.float64)
    found = mean_cosine(x)
    for each, mean in zip(x, found, strict=True):
        pairs = [torch.cosine_similarity(each[:, i], each[:, j], dim=0) for i in range(7) for j in range(i)]
        torch.testing.assert_close(mean, torch.stack(pairs).mean())


def test_equal_samples_are_alike_and_opposite_ones_are_not() -> None:
    assert float(mean_cosine(torch.ones(3, 4))) == pytest.approx(1.0)
    assert float(mean_cosine(torch.tensor([[1.0, -1.0], [2.0, -2.0]]))) == pytest.approx(-1.0)


def test_looking_changes_nothing() -> None:
    stack = Stack(2, depth=2, width=4, normalize=batch_norm, seed=0).eval()
    before = {name: value.clone() for name, value in stack.state_dict().items()}
    found = alike(stack, digits(0).test.images[:20], by_batch=True)
    assert torch.tensor(found).shape == (2, 2)
    assert not stack.training
    for name, value in stack.state_dict().items():
        assert torch.equal(value, before[name])


def test_with_batch_norm_samples_of_deeper_networks_stay_apart(outcomes: Outcomes) -> None:
    with_it, without = (outcomes.where(depth=6, batch_norm=each).array("before")[:, -1] for each in (True, False))
    assert (with_it < without).all()


def test_more_alike_has_no_verdict_because_its_source_names_no_measure() -> None:
    trials = experiment.trials(SETTINGS, range(10))
    made_up = []
    for trial in trials:
        cosine = [0.3 if trial.batch_norm else 0.9] * trial.depth
        accuracies = {name: [0.9, 0.9] for name in ("validation", "test", "train")}
        made_up.append(accuracies | {"before": cosine, "after": [cosine, cosine]})
    found = settled(experiment.conclude(SETTINGS, Outcomes(trials, made_up)), experiment.REGIME).statements
    more, less = ([each for each in found if f"{word} alike" in each.text] for word in ("more", "less"))
    assert [each.verdict for each in more] == [Verdict.OPEN] * 4
    assert {each.why for each in more if "before" in each.text} == {experiment.UNSAID}
    assert [(each.verdict, each.says) for each in less] == [(Verdict.REPRODUCED, experiment.DANESHMAND)] * 2


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 10
    assert len(conclusion.table.rows) == 4
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[4, 4]]
