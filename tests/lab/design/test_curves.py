"""Steps to a target, and the rate that gets there first."""

from __future__ import annotations

from types import SimpleNamespace as Trial

import numpy as np
import pytest

from normwise.lab.design import Arm, Arms
from normwise.lab.design.curves import accuracy_by_step, fastest, largest_usable, steps_to
from normwise.lab.outcomes import Outcomes

AT = (10, 20, 30)


def test_steps_are_counted_to_the_first_crossing_and_to_the_end_where_there_is_none() -> None:
    curves = np.array([[0.1, 0.96, 0.9], [0.1, 0.2, 0.3], [0.95, 0.96, 0.97]])
    assert steps_to(0.95, curves, AT).tolist() == [20, 30, 10]
    assert steps_to(0.95, np.stack([curves, curves[::-1]]), AT).tolist() == [[20, 30, 10], [10, 30, 20]]


def test_the_fastest_rate_is_first_at_the_target_in_the_mean_over_seeds_and_then_the_most_accurate() -> None:
    slow, quick, never = [0.1, 0.2, 0.96], [0.1, 0.96, 0.96], [0.1, 0.2, 0.3]
    better = [0.1, 0.96, 0.99]
    assert _fastest([slow, quick, never], [slow, quick, never]) == 1
    assert _fastest([quick, better], [quick, better]) == 1
    assert _fastest([quick, quick, never], [quick, quick, never]) == 1  # as fast, and not at the edge
    chance = [0.1, 0.1, 0.1]
    assert _fastest([chance, chance, chance], [chance, chance, [0.1, 0.1, 0.2]]) == 1  # no choice at chance
    assert _fastest([never, quick], [quick, slow]) == 1


def test_where_no_rate_is_usable_the_largest_is_below_the_smallest() -> None:
    accuracies = np.array([[0.9, 0.95, 0.1], [0.1, 0.1, 0.1], [np.nan, np.nan, np.nan]])
    assert largest_usable(accuracies, (0.1, 0.2, 0.4), 0.9).tolist() == pytest.approx([0.2, 0.05, 0.05])


def test_what_diverged_never_reaches_the_target() -> None:
    assert steps_to(0.95, np.array([[0.1, np.nan, np.nan]]), AT).tolist() == [30]


def _fastest(*of_each_seed: list[list[float]]) -> int:
    return fastest(np.array(of_each_seed), 0.95, AT)


def test_the_figure_has_a_line_for_each_arm_and_the_mark() -> None:
    outcomes = Outcomes([Trial(seed=0), Trial(seed=1)], [{"test": [[0.1, 0.9]]}, {"test": [[0.3, 0.8]]}])
    arms = Arms(["arm"], {("1",): Arm({"arm": "1"}, {"arm": "one"}, outcomes, (0.1,), choose=lambda _: 0)})
    figure = accuracy_by_step(arms, (10, 20), network="tiny", target=0.95)
    (line,) = figure.panels[0].series
    assert (line.label, line.x, figure.panels[0].marks) == ("one", (10.0, 20.0), ((0.95, "0.95"),))
    assert line.y == pytest.approx((0.2, 0.85))
