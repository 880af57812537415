"""Averaged weights in a tiny setting."""

from __future__ import annotations

import torch

from normwise.lab.experiments import do_averaged_weights_need_fresh_statistics as experiment
from normwise.lab.networks.stack import Stack, batch_norm
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion
from normwise.lab.training.averaging import Average

SETTINGS = experiment.Settings(rates=(0.3, 1.0), steps=60, every=5, depth=2, width=24)


def test_an_average_is_of_parameters_and_where_asked_of_statistics() -> None:
    stack = Stack(2, depth=1, width=4, normalize=batch_norm, seed=0)
    mean, weight, running = Average(stack), stack.weights[0], stack.normalize[0].get_buffer("running_mean")
    begin = weight.detach().clone()
    for value in (1.0, 3.0):
        with torch.no_grad():
            weight.copy_(value * begin)
            running.fill_(value)
        mean(0)
    old, averaged = (mean.networks(statistics=each) for each in (False, True))
    for found, expected in ((old, 3.0), (averaged, 2.0)):
        torch.testing.assert_close(found.weights[0].detach(), 2 * begin)
        assert (found.normalize[0].get_buffer("running_mean") == expected).all()
    torch.testing.assert_close(stack.weights[0].detach(), 3 * begin)


def test_the_average_with_fresh_statistics_learns(outcomes: Outcomes) -> None:
    test = dict(zip(SETTINGS.ends, outcomes.array("test").mean(axis=(0, 2)), strict=True))
    assert test[experiment.FRESH] > 0.5
    assert test[experiment.FRESH] > test[experiment.OLD] - 0.02


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 3
    assert len(conclusion.table.rows) == 4
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[4]]
