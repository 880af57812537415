"""Local response normalization in a tiny setting, where it stands, and what its verdicts follow from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normwise.lab.data.splits import digits
from normwise.lab.experiments import is_local_response_normalization_unnecessary as experiment
from normwise.lab.networks.convolutional import Chain, changed_behind
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(rates=(0.3, 1.0), steps=15, widths=(4, 6, 4))


def test_the_layer_is_the_docstrings_formula() -> None:
    layer, x = nn.LocalResponseNorm(experiment.NEIGHBOURS, alpha=1.0), torch.rand(2, 9, 3, 3)
    squares = nn.functional.pad(x.square(), (0, 0, 0, 0, 2, 2))
    neighbours = sum(squares[:, i : i + 9] for i in range(5))
    torch.testing.assert_close(layer(x), x / (1 + neighbours / 5) ** 0.75)


def test_the_published_constant_changes_next_to_nothing_and_1_does_and_none_nothing(outcomes: Outcomes) -> None:
    for arm in (True, False):
        changed = {alpha: outcomes.where(batch_norm=arm, alpha=alpha).array("changed") for alpha in experiment.ALPHAS}
        assert (changed[0.0] == 0).all()
        assert changed[1e-4].min() > 0
        assert changed[1e-4].max() < 0.01
        assert changed[1.0].min() > 0.02


def test_what_is_changed_is_measured_behind_every_layer() -> None:
    class Third(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 / 3

    model = Chain(widths=(4, 4, 4), norm=None, seed=0, behind=Third)
    assert changed_behind(model, digits(0).test.images) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("batch_norm", "alpha"), [(True, 1.0), (False, 0.0)])
def test_the_network_learns(batch_norm: bool, alpha: float) -> None:
    settings = experiment.Settings(steps=200, widths=(8, 8, 8))
    assert experiment.run(experiment.Trial(batch_norm, alpha, 0.3, 0), settings)["test"] > 0.5


def verdicts(with_it: float, without: float) -> list[Verdict]:
    """The verdicts when local response normalization is worth so many points in the two networks."""
    trials = experiment.trials(SETTINGS, range(3))
    made_up = []
    for trial in trials:
        gain = (with_it if trial.batch_norm else without) if trial.alpha else 0.0
        right = trial.rate == 1.0  # the other rate is better on test images, and must not be picked
        made_up.append({"validation": float(right), "test": 0.9 + gain / 100 if right else 1.0, "changed": 0.0})
    return [each.verdict for each in experiment.conclude(SETTINGS, Outcomes(trials, made_up)).statements]


def test_the_verdicts_follow_the_gains() -> None:
    right, wrong, small = Verdict.REPRODUCED, Verdict.CONTRADICTED, Verdict.SMALLER
    assert verdicts(0.0, 2.0) == [right, right, right, right, wrong]
    assert verdicts(2.0, 0.0) == [wrong, wrong, small, small, right]


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 5
    assert len(conclusion.table.rows) == 6
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[3, 3]]
