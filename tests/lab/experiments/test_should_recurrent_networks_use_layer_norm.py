"""Recurrent networks in a tiny setting."""

from __future__ import annotations

import torch

from normwise.lab.data.splits import digits
from normwise.lab.experiments import should_recurrent_networks_use_layer_norm as experiment
from normwise.lab.networks.recurrent import sequences
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion

SETTINGS = experiment.Settings(batches=(32,), rates=(0.2, 0.3), steps=100, pixel_steps=3, length=16, width=16, longer=1)


def test_sequences_are_blanks_and_then_the_rows() -> None:
    data = digits(0).test
    found = sequences(data, 3)
    assert found.images.shape == (450, 11, 8)
    assert torch.equal(found.images[:, 3:].reshape(450, 64), data.images)
    assert not found.images[:, :3].any()


def test_pixels_come_line_by_line_and_blank_ones_are_no_zeros() -> None:
    data, settings = digits(0).test, experiment.Settings()
    trial = experiment.Trial("pixels", 32, "none", 0)
    found = experiment.read(trial, settings, data, 2)
    assert found.images.shape == (450, 16 + 64, 1)
    assert torch.equal((found.images[:, 16:, 0] + 1) / 2, data.images)
    assert (found.images[:, :16] == -1).all()


def test_statistics_per_step_are_of_their_step() -> None:
    one, steps = (experiment.network(experiment.Trial("rows", 32, arm, 0), SETTINGS, 2) for arm in ("one", "steps"))
    steps(sequences(digits(0).train).images)
    means = torch.stack([layer.get_buffer("running_mean") for layer in steps.normalize])
    assert means.shape == (8, 2 * 16)
    assert torch.pdist(means).min() > 1e-3
    assert len(one.normalize) == 1


def test_every_arm_learns_from_rows(outcomes: Outcomes) -> None:
    assert (outcomes.where(reading="rows").array("test") > 0.2).all()


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 2 * 5
    assert len(conclusion.table.rows) == 2 * len(experiment.ARMS)
    (figure,) = conclusion.figures
    assert [len(panel.series) for panel in figure.panels] == [len(experiment.ARMS)] * 2
