"""Orders in a tiny setting, and the largest usable rates of hand-made numbers."""

from __future__ import annotations

import pytest
import torch

from normwise.lab.experiments import which_order_stands_higher_rates as experiment
from normwise.lab.networks.convolutional import Chain, Unit
from normwise.lab.networks.dense import Place
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict
from normwise.torch import BatchNorm2d

SETTINGS = experiment.Settings(rates=(0.1, 0.3, 1.0), steps=3, depth=2, width=8, channels=(2, 3))


def test_behind_the_activation_a_layer_gives_normalized_numbers_of_both_signs() -> None:
    images = torch.rand(30, 64)
    before, after = (
        Chain(widths=(2, 3), norm=BatchNorm2d, seed=0, place=place).units[0](images.view(-1, 1, 8, 8))
        for place in ("before", "after")
    )
    assert before.min() == 0
    assert after.min() < 0
    torch.testing.assert_close(after.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("place", "bias"), [("before", False), ("after", True)])
def test_only_in_front_of_a_normalization_a_bias_is_superfluous(place: Place, bias: bool) -> None:
    assert (Unit(1, 2, 3, "tanh", BatchNorm2d, place).convolution.bias is not None) is bias


def test_the_largest_usable_rate_counts_and_not_the_best_one() -> None:
    trials = experiment.trials(SETTINGS, range(5))
    usable = {"none": [0.95, 0.1, 0.1], "before": [0.95, 0.94, 0.91], "after": [0.95, 0.93, 0.79]}
    made_up = Outcomes(trials, [{"validation": usable[each.order], "test": usable[each.order]} for each in trials])
    statements = experiment.conclude(SETTINGS, made_up).statements
    found = {each.text: each for each in statements if "stands higher rates" in each.text}
    assert len(found) == 4
    for each in found.values():
        assert each.effect.value == pytest.approx(1 / 0.3)
        assert each.verdict is Verdict.REPRODUCED
    (more,) = {each.effect.value for each in statements if "largest usable rate more" in each.text}
    assert more == pytest.approx(1.0)


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 4 + 4 + 6
    assert len(conclusion.table.rows) == 12
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[3, 3, 3, 3]]
