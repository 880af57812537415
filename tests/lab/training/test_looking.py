"""Means over time do not depend on where the looks are."""

from __future__ import annotations

import numpy as np
import pytest

from normwise.lab.training.descent import looks
from normwise.lab.training.looking import median_over_time, over_time, shares, spread_over_time

EVEN, LOGARITHMIC = list(range(1, 1001)), looks(1000, growth=1.05, first=1)


@pytest.mark.parametrize("at", [EVEN, LOGARITHMIC, [500], [1, 1000]])
def test_the_shares_are_all_of_the_time(at: list[int]) -> None:
    assert shares(at).sum() == pytest.approx(1.0)


def course(at: list[int]) -> np.ndarray:
    """Falls fast in the beginning and then slowly: a plain mean over logarithmic looks is twice as large."""
    return np.exp(-np.array(at) / 100)


def test_even_and_logarithmic_looks_give_the_same_mean_spread_and_median() -> None:
    for function in (over_time, spread_over_time, median_over_time):
        even, logarithmic = (float(function(course(at), at)) for at in (EVEN, LOGARITHMIC))
        assert logarithmic == pytest.approx(even, rel=0.05, abs=0.002)
    assert course(LOGARITHMIC).mean() > 2 * course(EVEN).mean()


def test_the_axis_of_the_looks_can_be_any() -> None:
    values = np.stack([course(EVEN), 2 * course(EVEN)], axis=1)
    assert over_time(values, EVEN, axis=0).tolist() == pytest.approx([0.0995, 0.199], abs=1e-3)
    assert spread_over_time(values, EVEN, axis=0).shape == (2,)
    assert median_over_time(values.T, EVEN).shape == (2,)
