"""Drift in a tiny setting, and what holds of it exactly."""

from __future__ import annotations

import pytest
import torch

from normwise.lab.data.changes import CHANGES
from normwise.lab.data.splits import digits
from normwise.lab.experiments import do_fresh_statistics_repair_drift as experiment
from normwise.lab.networks.dense import Dense, he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion
from normwise.torch.models.recalibration.adapt import adapt

SETTINGS = experiment.Settings(rates=(0.3,), steps=100, depth=2, width=32, images=(32, 450), drift=10)


@pytest.mark.parametrize("name", ["contrast x .3", "brightness + .3", "gain 2, brightness + .5"])
def test_a_change_of_gain_and_brightness_is_undone_to_rounding(name: str) -> None:
    """Without a prior the first layer takes out any common gain and brightness; eps is what remains."""
    images = digits(0).test.images.double()
    changed = CHANGES[name](images, torch.Generator())
    logits = []
    for batch in (images, changed):
        model = Dense(depth=2, width=16, activation="relu", batch_norm=True, std=he, seed=0, dtype=torch.float64)
        for layer in model.normalize:
            layer.eps = 1e-30  # type: ignore[assignment]  # a plain attribute, which nn.Module does not know
        adapt(model.eval(), [batch], prior=0)
        logits.append(model(batch))
    assert torch.allclose(logits[0], logits[1], atol=1e-9)


def test_shifts_are_repaired_and_inversion_is_not(outcomes: Outcomes) -> None:
    for name in ("contrast x .3", "gain 2, brightness + .5"):
        assert (outcomes.array(f"{name} prior 0")[:, -1] < 0.5 * outcomes.array(name)).all()
    assert (outcomes.array("inverted prior 0")[:, -1] > 0.7).all()


def test_one_class_is_no_measure_of_all(outcomes: Outcomes) -> None:
    everything = outcomes.array("brightness + .3 prior 16")[:, -1]
    assert (outcomes.array("brightness + .3 one class") > everything).all()


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == len(CHANGES) - 1 + 3  # nobody claims that inverted images are repaired
    assert len(conclusion.table.rows) == len(CHANGES)
    assert [len(figure.panels) for figure in conclusion.figures] == [7, 1]
    for figure in conclusion.figures:
        for panel in figure.panels:
            assert all(len(series.x) == len(series.y) == len(series.low) > 0 for series in panel.series)
