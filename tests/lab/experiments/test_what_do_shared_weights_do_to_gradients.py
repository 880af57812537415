"""Gradients through chains in a tiny setting."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from normwise.lab.experiments import what_do_shared_weights_do_to_gradients as experiment
from normwise.lab.networks.recurrent import gradients_over_steps, of_radius
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(steps=40, width=16, radii=(0.5, 2.0))


def test_a_matrix_has_the_radius_that_was_asked_for() -> None:
    matrix = of_radius(1.7, 12, torch.Generator().manual_seed(0))
    assert float(torch.linalg.eigvals(matrix).abs().max()) == pytest.approx(1.7)


@pytest.mark.parametrize("radius", [0.5, 1.0, 3.0])
def test_one_unit_multiplies_by_its_weight(radius: float) -> None:
    images = torch.rand(5, 64, dtype=torch.float64)
    norms = gradients_over_steps(
        images, steps=9, width=1, radius=radius, shared=True, activate=nn.Identity(), norm=None, seed=0
    )
    assert norms[0] - norms[-1] == pytest.approx(9 * math.log10(radius), abs=1e-9)


def test_of_linear_chains_the_radius_decides_and_nothing_else(outcomes: Outcomes) -> None:
    linear = outcomes.where(activation="linear", scale=0.0, shared=True)
    small, large = (linear.where(radius=radius).array("log10_norm") for radius in SETTINGS.radii)
    change = (large[:, 0] - large[:, -1]) - (small[:, 0] - small[:, -1])
    assert change == pytest.approx(40 * math.log10(4), abs=1e-6)


def test_with_batch_norm_the_size_of_the_weights_does_not_matter(conclusion: Conclusion) -> None:
    linear, tanh = (each for each in conclusion.statements if "times larger weights" in each.text)
    assert linear.verdict is Verdict.REPRODUCED
    assert tanh.effect.value == pytest.approx(1.0, abs=0.1)  # a chain of tanh units magnifies what eps leaves


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 2 + 4 + 2
    assert len(conclusion.table.rows) == 12
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[4, 4]]
