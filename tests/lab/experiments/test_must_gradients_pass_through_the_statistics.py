"""Held statistics in a tiny setting, and their gradient in closed form."""

from __future__ import annotations

import torch

from normwise.lab.experiments import must_gradients_pass_through_the_statistics as experiment
from normwise.lab.networks.variants import HeldBatchNorm
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(steps=60, depth=2, width=16, rates=(0.1, 0.3, 1.0))


def test_under_the_whole_gradient_the_bias_stays_and_held_it_moves(outcomes: Outcomes) -> None:
    assert outcomes.where(held="whole").array("biases").max() < 1e-14
    for held in ("mean", "both"):
        assert outcomes.where(held=held).array("biases")[:, -1].min() > 1e-3


def test_the_bias_is_judged_as_exact(conclusion: Conclusion) -> None:
    assert conclusion.statements[0].verdict is Verdict.EXACT


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 6
    assert len(conclusion.table.rows) == 3
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[3, 3]]


def test_in_a_stack_the_gradient_of_every_channel_is_that_of_a_layer_of_its_own() -> None:
    torch.manual_seed(0)
    x = torch.randn(20, 3, dtype=torch.float64)
    for held in ("mean", "both"):
        plain, stacked = (HeldBatchNorm(3, held, torch.float64) for _ in range(2))
        one, other = x.clone().requires_grad_(), x.T[None].clone().requires_grad_()
        y, z = plain(one), stacked(other)
        torch.testing.assert_close(z[0].T, y)
        y.square().mul(x).sum().backward()
        z.square().mul(x.T).sum().backward()
        assert other.grad is not None
        torch.testing.assert_close(other.grad[0].T, one.grad)
        torch.testing.assert_close(stacked.layer.running_var, plain.layer.running_var)
