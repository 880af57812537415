"""Outcomes of real trainings of PyTorch models: what can be learned is told from what cannot."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from torch import nn

from normwise.lab.comparison import Comparison, compare
from normwise.lab.comparison.found import Decision
from normwise.lab.comparison.rows import Rows


def compared(make: Callable[[], nn.Module], rows: Rows) -> Comparison:
    """Batch norm against none; a trial takes a second by this clock, however busy the machine is."""
    ticks = itertools.count()
    return compare(
        make,
        rows,
        budget=20,
        normalizers=["none", "batch"],
        where=False,
        rates=[0.05],
        clock=lambda: float(next(ticks)),
    )


def regressor() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))


def test_digits_are_learned_and_drawn_labels_are_not(net: Callable[[], nn.Module], rows: Rows) -> None:
    learned = compared(net, rows)
    assert learned.own.learned
    assert learned.decision in (Decision.DIFFERENT, Decision.EQUIVALENT, Decision.UNDECIDED)
    assert 8 < learned.constant < 16  # of ten classes that are about as common
    labels = np.random.default_rng(0).integers(0, 10, len(rows.targets))
    drawn = compared(net, Rows(rows.inputs, labels))
    assert drawn.decision is Decision.AT_CHANCE
    assert drawn.recommendation.startswith("No recommendation, as both models are at chance: none at rate 0.05, ")


@pytest.mark.parametrize("columns", [(), (1,)])
def test_values_of_the_pixels_are_learned_and_drawn_values_are_not(columns: tuple[int, ...], rows: Rows) -> None:
    brightness = rows.inputs.mean(axis=1).reshape(-1, *columns)
    values = (10 * brightness).astype(np.float32)
    learned = compared(regressor, Rows(rows.inputs, values))
    assert learned.own.learned
    assert learned.margin == pytest.approx(-learned.constant / 100)
    assert "mean square error" in learned.evidence[-1]
    drawn = np.random.default_rng(0).normal(size=values.shape).astype(np.float32)
    found = compared(regressor, Rows(rows.inputs, drawn))
    assert found.decision is Decision.AT_CHANCE
    assert found.constant == pytest.approx(-1, abs=0.35)
