"""Statistics at inference in a tiny setting, and the averages against the layer's own."""

from __future__ import annotations

import pytest
import torch

from normwise.lab.experiments import which_statistics_at_inference as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion
from normwise.torch import BatchNorm1d

SETTINGS = experiment.Settings(rates=(0.1, 0.5), looks=(5, 60), depth=2, width=16)


def test_the_moving_average_is_the_layer_s_own() -> None:
    layer = BatchNorm1d(3, momentum=0.1, dtype=torch.float64)
    log = experiment.Log(layer)
    for seed in range(7):
        layer(torch.randn(1, 3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    layer.eval()(torch.zeros(1, 3, 20, dtype=torch.float64))  # in inference nothing is logged
    own = torch.stack((layer.get_buffer("running_mean"), layer.get_buffer("running_var")))
    assert len(log.moments) == 7
    assert torch.allclose(log.average(0.1), own)


def test_parts_of_training_are_the_steps_that_they_say() -> None:
    log = experiment.Log(BatchNorm1d(1))
    log.moments = [torch.full((2, 1), float(step)) for step in range(8)]
    assert log.part(0, 1).unique().item() == 3.5
    assert log.part(0.25, 0.75).unique().item() == 3.5
    assert log.part(0.75, 1).unique().item() == 6.5
    log.moments = log.moments[:1]
    assert log.part(0.75, 1).unique().item() == 0


def test_slow_averages_lag_behind(outcomes: Outcomes) -> None:
    exact = outcomes.array("exact")
    assert (exact[:, 1] > outcomes.array("average_0.001")[:, 1] + 0.1).all()
    assert exact[:, 1] == pytest.approx(outcomes.array("test")[:, 1], abs=0.05)


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 6 * len(SETTINGS.rates)
    assert len(conclusion.table.rows) == len(SETTINGS.rates) * len(experiment.WAYS)
    ((*panels,),) = (figure.panels for figure in conclusion.figures)
    assert [len(panel.series) for panel in panels] == [len(experiment.SHOWN)] * 2
