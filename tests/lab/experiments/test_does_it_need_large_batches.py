"""Sizes of batches in a tiny setting."""

from __future__ import annotations

import torch

from normwise.lab.experiments import does_it_need_large_batches as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion

SETTINGS = experiment.Settings(
    parts=(64, 2), batches=(32, 2), rates=(0.1, 0.3), part_steps=80, batch_steps=80, depth=2, width=16
)


def test_layer_norm_of_a_stack_is_that_of_each_member() -> None:
    layer = experiment.LayerNorms(2, 10)
    x = torch.randn(1, 10, 3, generator=torch.Generator().manual_seed(0))
    y = layer(x)
    for member in range(2):
        units = slice(5 * member, 5 * member + 5)
        alone = torch.nn.functional.layer_norm(x[0, units].T, (5,)).T
        assert torch.allclose(y[0, units], alone, atol=1e-6)


def test_statistics_of_two_images_cost_accuracy(outcomes: Outcomes) -> None:
    parts = outcomes.where(arm="parts")
    assert (parts.where(part=64).array("test") > parts.where(part=2).array("test") + 0.05).all()


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 7
    assert len(conclusion.table.rows) == 2 + 2 * len(experiment.ARMS)
    ((parts, whole),) = (figure.panels for figure in conclusion.figures)
    assert [len(parts.series), len(whole.series)] == [2, 4]
    assert all(len(series.x) == len(series.y) == 2 for series in (*parts.series, *whole.series))
