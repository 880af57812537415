"""The valley: what is known exactly of it."""

from __future__ import annotations

import numpy as np
import pytest

from normwise.lab.training.valley import END, Valley


def test_steps_are_those_that_gradient_descent_takes() -> None:
    valley = Valley(np.array([[2.0, 0.5], [0.5, 0.7]]), np.array([1.0, -3.0]))
    for rate in (0.05, 0.3, 0.8):
        steps = valley.steps(rate)
        above = [valley.above(w) for w in valley.path(rate, steps)]
        assert above[steps] <= END * above[0] < above[steps - 1]


def test_a_round_valley_takes_one_step() -> None:
    valley = Valley(3 * np.eye(2), np.array([1.0, 2.0]))
    assert valley.condition == pytest.approx(1)
    assert valley.best()[1] == 1
    assert valley.degrees() == pytest.approx(0, abs=1e-5)
