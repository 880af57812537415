"""The interval over seeds and rows: whether it covers what it says."""

from __future__ import annotations

import numpy as np
import pytest

from normwise.lab.comparison.crossed import crossed_mean
from normwise.lab.intervals import mean


def drawn(generator: np.random.Generator, seeds: int, rows: int) -> np.ndarray:
    """Differences whose true mean is 0: an effect of each seed, one of each row, and the rest."""
    per_seed, per_row = generator.normal(0, 1, (seeds, 1)), generator.normal(0, 10, (1, rows))
    return np.asarray(per_seed + per_row + generator.normal(0, 5, (seeds, rows)))


def test_it_covers_the_truth_where_rows_matter_and_an_interval_over_seeds_alone_does_not() -> None:
    generator = np.random.default_rng(0)
    crossed, alone = 0, 0
    for _ in range(200):
        differences = drawn(generator, 5, 60)
        both, seeds = crossed_mean(differences, ""), mean(differences.mean(axis=1), "")
        crossed += both.low <= 0 <= both.high
        alone += seeds.low <= 0 <= seeds.high
    assert crossed >= 184  # of 200; 95 % would be 190
    assert alone <= 160


def test_it_is_paired_and_the_same_numbers_give_the_same_interval() -> None:
    generator = np.random.default_rng(1)
    ours = drawn(generator, 5, 40)
    found = crossed_mean((ours + 3) - ours, "points")
    assert (found.n, found.unit) == (5, "points")
    assert found.value == pytest.approx(3)
    assert found.low == pytest.approx(3)
    assert crossed_mean(ours, "points") == crossed_mean(ours, "points")


def test_many_rows_are_drawn_in_blocks_with_the_same_interval() -> None:
    differences = drawn(np.random.default_rng(2), 5, 3000)
    whole = crossed_mean(differences[:, :1000], "")
    found = crossed_mean(np.repeat(differences[:, :1000], 3, axis=1), "")
    assert found.value == pytest.approx(whole.value)
    assert found.low == pytest.approx(whole.low)
    assert found.high == pytest.approx(whole.high)


def test_a_difference_that_is_not_finite_or_a_single_seed_is_no_estimate() -> None:
    assert np.isnan(crossed_mean(np.full((3, 4), np.nan), "points").value)
    assert np.isnan(crossed_mean(np.ones((1, 4)), "points").low)
