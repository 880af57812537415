"""The seeds that it takes to decide: the width that is predicted for more seeds is the width that more seeds have."""

from __future__ import annotations

import numpy as np
import pytest

from normwise.lab.comparison.crossed import crossed_mean
from normwise.lab.comparison.needed import MOST_SEEDS, Widths, needed
from normwise.lab.results import Estimate


def drawn(spread: tuple[float, float, float], seeds: int, rows: int, number: int, mean: float = 0.0) -> np.ndarray:
    """Differences with so much spread of seeds, of rows and of the rest; the rows are the same for any seeds."""
    generator = np.random.default_rng([number, 1])
    per_row = generator.normal(0, spread[1], (1, rows))
    generator = np.random.default_rng([number, 2])
    per_seed, rest = generator.normal(0, spread[0], (seeds, 1)), generator.normal(0, spread[2], (seeds, rows))
    return np.asarray(mean + per_seed + per_row + rest)


def half(estimate: Estimate) -> float:
    return (estimate.high - estimate.low) / 2


@pytest.mark.parametrize("spread", [(3.0, 0.0, 5.0), (1.0, 10.0, 5.0), (0.0, 0.0, 40.0), (2.0, 15.0, 30.0)])
@pytest.mark.parametrize("more", [10, 40])
def test_the_width_of_more_seeds_is_foretold(spread: tuple[float, float, float], more: int) -> None:
    foretold, found = [], []
    for number in range(12):
        all_of_them = drawn(spread, more, 200, number)
        few = all_of_them[:5]
        foretold.append(Widths(few, crossed_mean(few, "")).at(more))
        found.append(half(crossed_mean(all_of_them, "")))
    assert np.median(foretold) == pytest.approx(np.median(found), rel=0.3)


def test_students_quantile_makes_it_fall_faster_than_the_root_of_the_seeds() -> None:
    differences = drawn((3.0, 0.0, 0.0), 5, 50, 0)
    effect = crossed_mean(differences, "")
    widths = Widths(differences, effect)
    assert widths.at(5) == pytest.approx(half(effect))
    # t(0.975) is 2.776 with 4 degrees of freedom, and 2.093 with 19
    assert widths.at(20) / widths.at(5) == pytest.approx(np.sqrt(5 / 20) * 2.0930 / 2.7764, rel=1e-3)


def test_what_rows_leave_open_stays_whatever_the_seeds() -> None:
    differences = drawn((0.0, 20.0, 1.0), 5, 100, 0)
    widths = Widths(differences, crossed_mean(differences, ""))
    assert widths.at(MOST_SEEDS) > 0.6 * widths.at(5)
    found = needed(differences, Estimate(1.0, -3.0, 5.0, 5, "points"), 1.0, budget=60, spent=10, pair=1)
    assert found.seeds is None
    four = Widths(differences, Estimate(1.0, -3.0, 5.0, 5, "points"))  # half the width is 4, 1 is enough
    assert found.rows == pytest.approx(four.at(MOST_SEEDS) ** 2)
    assert four.at(MOST_SEEDS) < 4


@pytest.mark.parametrize(("value", "enough"), [(0.0, 1.0), (0.2, 0.8), (0.5, 0.5), (3.0, 3.0)])
def test_the_seeds_are_the_fewest_with_which_it_is_clear_of_0_or_within_the_margin(value: float, enough: float) -> None:
    differences = drawn((4.0, 0.0, 0.0), 5, 50, 1)
    effect = Estimate(value, value - 5.0, value + 5.0, 5, "points")
    found = needed(differences, effect, 1.0, budget=1000, spent=100, pair=7)
    widths = Widths(differences, effect)
    assert found.seeds is not None
    assert widths.at(found.seeds) < enough <= widths.at(found.seeds - 1)
    assert found.seconds == 100 + 7 * found.seeds
    assert found.times == max(found.seconds / 1000, 1)


def test_more_than_a_hundred_times_the_budget_or_the_rows_is_no_number() -> None:
    differences = drawn((4.0, 0.0, 0.0), 5, 50, 1)
    effect = Estimate(0.0, -5.0, 5.0, 5, "points")
    within = needed(differences, effect, 1.0, budget=10, spent=0, pair=1)
    assert within.times is not None
    assert within.seeds == 65
    assert needed(differences, effect, 1.0, budget=0.5, spent=0, pair=1).seeds is None
    rows = drawn((0.0, 20.0, 1.0), 5, 100, 0)
    assert needed(rows, Estimate(0.0, -5.0, 5.0, 5, ""), 0.1, budget=1, spent=0, pair=1).rows is None


def test_two_seeds_and_one_row_are_enough_to_ask() -> None:
    differences = np.array([[1.0], [-2.0]])
    effect = crossed_mean(differences, "points")
    assert needed(differences, effect, 1.0, budget=10, spent=0, pair=1).seeds is not None
