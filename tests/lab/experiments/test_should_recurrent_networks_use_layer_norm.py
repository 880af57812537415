"""Recurrent networks in a tiny setting."""

from __future__ import annotations

import torch

from normwise.lab.data.splits import digits
from normwise.lab.experiments import should_recurrent_networks_use_layer_norm as experiment
from normwise.lab.networks.recurrent import sequences
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion

SETTINGS = experiment.Settings(batches=(32,), rates=(0.2, 0.3), steps=100, width=16)


def test_sequences_are_blanks_and_then_the_rows() -> None:
    data = digits(0).test
    found = sequences(data, 3)
    assert found.images.shape == (450, 11, 8)
    assert torch.equal(found.images[:, 3:].reshape(450, 64), data.images)
    assert not found.images[:, :3].any()


def test_statistics_per_step_are_of_their_step() -> None:
    model = experiment.network("steps", 16, seed=0)
    model(sequences(digits(0).train).images)
    means = torch.stack([layer.get_buffer("running_mean") for layer in model.normalize])
    assert len(means) == 8
    assert torch.pdist(means).min() > 1e-3
    assert len(experiment.network("one", 16, seed=0).normalize) == 1


def test_every_arm_learns(outcomes: Outcomes) -> None:
    assert (outcomes.array("test") > 0.2).all()


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 5
    assert len(conclusion.table.rows) == len(experiment.ARMS)
    ((panel,),) = (figure.panels for figure in conclusion.figures)
    assert len(panel.series) == len(experiment.ARMS)
