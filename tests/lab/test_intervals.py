"""Intervals on numbers whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from normwise.lab import intervals
from normwise.lab.intervals import band, cell, difference, mean, ratio


def test_the_mean_lies_in_its_interval_and_the_interval_in_the_data() -> None:
    found = mean(np.array([1.0, 2.0, 3.0, 4.0, 10.0]), "points")
    assert found.value == pytest.approx(4.0)
    assert 1.0 <= found.low < 4.0 < found.high <= 10.0
    assert (found.n, found.unit) == (5, "points")


def test_the_same_numbers_give_the_same_interval() -> None:
    values = np.array([0.3, 0.1, 0.2])
    assert mean(values, "points") == mean(values, "points")


@pytest.mark.parametrize("values", [[1.0], [1.0, math.nan], [1.0, math.inf]])
def test_without_finite_numbers_there_is_no_estimate(values: list[float]) -> None:
    found = mean(np.array(values), "points")
    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.n == len(values)


def test_differences_are_paired() -> None:
    seeds = np.array([0.0, 100.0, 50.0])
    found = difference(seeds + 2, seeds, "points")
    assert (found.low, found.value, found.high) == (2.0, 2.0, 2.0)


def test_ratios_are_paired_and_geometric() -> None:
    found = ratio(np.array([2.0, 800.0]), np.array([1.0, 100.0]))
    assert found.value == pytest.approx(4.0)
    assert 2.0 <= found.low < found.high <= 8.0 + 1e-12
    assert math.isnan(ratio(np.array([1.0, 0.0]), np.array([1.0, 1.0])).value)


@pytest.mark.parametrize("n", [5, 10])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 2000)
    random = np.random.default_rng(3)
    found = [mean(random.normal(size=n), "points") for _ in range(600)]
    covered = np.mean([each.low <= 0.0 <= each.high for each in found])
    assert 0.90 <= covered <= 0.98  # .93 and .95, three standard errors of 600 draws being .03


def test_the_band_spans_all_seeds() -> None:
    middle, low, high = band(np.array([[1.0, 2.0], [3.0, 6.0]]))
    assert (middle.tolist(), low.tolist(), high.tolist()) == ([2.0, 4.0], [1.0, 2.0], [3.0, 6.0])


def test_a_cell_is_short() -> None:
    assert cell(mean(np.array([1.0, 1.0]), "%"), 1) == "1.0 [1.0, 1.0]"
