"""Intervals on numbers whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from normwise.lab import intervals
from normwise.lab.intervals import band, cell, difference, mean, ratio


def test_the_interval_is_students() -> None:
    found = mean(np.array([1.0, 2.0, 3.0, 4.0, 10.0]), "points")
    assert found.value == pytest.approx(4.0)
    assert (found.low, found.high) == pytest.approx((-0.390, 8.390), abs=1e-3)  # 4 +- 2.776 * 3.536 / sqrt(5)
    assert (found.n, found.unit) == (5, "points")


def test_the_same_numbers_give_the_same_interval() -> None:
    values = np.array([0.3, 0.1, 0.2])
    assert mean(values, "points") == mean(values, "points")


@pytest.mark.parametrize("values", [[1.0], [1.0, math.nan], [math.nan, math.nan]])
def test_without_two_seeds_there_is_no_estimate(values: list[float]) -> None:
    found = mean(np.array(values), "points")
    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.n == np.isfinite(values).sum()


def test_a_seed_that_diverged_does_not_erase_the_others() -> None:
    assert mean(np.array([1.0, 1.0, math.nan]), "points").n == 2
    assert mean(np.array([1.0, 3.0, math.inf]), "points") == mean(np.array([1.0, 3.0, 3.0]), "points")
    assert mean(np.array([1.0, 3.0, -math.inf]), "points") == mean(np.array([1.0, 3.0, 1.0]), "points")
    every = mean(np.array([math.inf, math.inf]), "points")
    assert (every.low, every.value, every.high) == (math.inf, math.inf, math.inf)


def test_what_diverged_is_infinitely_large_in_a_ratio() -> None:
    seeds = np.array([2.0, 4.0, math.nan])
    assert ratio(seeds, np.ones(3)) == ratio(np.array([2.0, 4.0, 4.0]), np.ones(3))
    assert ratio(np.ones(3), seeds) == ratio(np.ones(3), np.array([2.0, 4.0, 4.0]))
    assert ratio(np.full(3, math.nan), np.ones(3)).low == math.inf
    assert ratio(np.ones(3), np.full(3, math.nan)).high == 0.0
    both = ratio(np.full(3, math.nan), np.full(3, math.nan))
    assert (both.low, both.high) == (1.0, 1.0)


def test_differences_are_paired() -> None:
    seeds = np.array([0.0, 100.0, 50.0])
    found = difference(seeds + 2, seeds, "points")
    assert (found.low, found.value, found.high) == (2.0, 2.0, 2.0)


def test_ratios_are_paired_and_geometric() -> None:
    found = ratio(np.array([2.0, 800.0, 4.0]), np.array([1.0, 100.0, 1.0]))
    assert found.value == pytest.approx(4.0)
    assert found.low * found.high == pytest.approx(16.0)  # symmetric in the logarithm
    assert found.log


@pytest.mark.parametrize("n", [3, 5, 10, 20])
def test_the_interval_covers_the_truth_as_often_as_it_says(n: int) -> None:
    random = np.random.default_rng(n)

    def covered(draws: intervals.Numbers, truth: float) -> float:
        found = [mean(draw, "") for draw in draws]
        return float(np.mean([each.low <= truth <= each.high for each in found]))

    assert covered(random.normal(size=(3000, n)), 0.0) == pytest.approx(0.95, abs=0.015)
    assert covered(random.exponential(size=(3000, n)), 1.0) == pytest.approx({3: 0.88, 5: 0.885}.get(n, 0.91), abs=0.02)


@pytest.mark.parametrize("n", [5, 10, 20])
def test_seeds_that_share_images_are_covered_too(n: int) -> None:
    """Each seed adds its own noise to that of a test set, which a third of the others has in common."""
    random = np.random.default_rng(n)
    share, found = 1 / 3, {0.0: 0, 1 / 3: 0}
    for _ in range(1500):
        together, alone = random.normal(), random.normal(size=n)
        values = np.sqrt(0.25) * together + np.sqrt(0.75) * alone  # correlated by test / all = 1 / 4
        for correction in found:
            with intervals.resampled(correction):
                each = mean(values, "")
            found[correction] += each.low <= 0.0 <= each.high
    assert found[0.0] / 1500 < 0.88
    assert found[share] / 1500 == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("edge", [-1.0, 0.3, 5.0])
def test_the_probability_is_below_a_twentieth_where_the_interval_leaves_the_value_out(edge: float) -> None:
    random = np.random.default_rng(4)
    for _ in range(50):
        found = mean(random.normal(size=6), "points")
        assert (intervals.probability(found, edge) < 0.05) == (not found.low <= edge <= found.high)


def test_the_probability_of_a_ratio_is_that_of_its_logarithm() -> None:
    logs = np.array([0.1, 0.4, 0.2, 0.3])
    assert intervals.probability(ratio(np.exp(logs), np.ones(4)), 1.0) == pytest.approx(
        intervals.probability(mean(logs, ""), 0.0)
    )


@pytest.mark.parametrize(
    ("values", "edge", "found"), [([2.0, 2.0], 1.0, 0.0), ([2.0, 2.0], 2.0, 1.0), ([math.nan], 0.0, 1.0)]
)
def test_without_spread_the_probability_is_all_or_nothing(values: list[float], edge: float, found: float) -> None:
    assert intervals.probability(mean(np.array(values), ""), edge) == found


def test_the_band_spans_all_seeds() -> None:
    middle, low, high = band(np.array([[1.0, 2.0], [3.0, 6.0]]))
    assert (middle.tolist(), low.tolist(), high.tolist()) == ([2.0, 4.0], [1.0, 2.0], [3.0, 6.0])


def test_a_cell_is_short() -> None:
    assert cell(mean(np.array([1.0, 1.0]), "%"), 1) == "1.0 [1.0, 1.0]"
