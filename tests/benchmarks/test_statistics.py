"""The statistics that the benchmarks report of their times."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest

from benchmarks.spread import Spread, calmest, geometric_mean, ratios, spread
from benchmarks.timing import BLOCK, FEWEST, in_turn, seconds_of, seconds_of_thread


def test_a_ratio_is_made_of_two_times_of_the_same_round() -> None:
    # the machine was ten times slower in the second round, for both: the ratio does not see it
    assert ratios([2.0, 30.0, 4.0], [1.0, 10.0, 1.0]) == Spread(3.0, 2.0, 4.0, 3, lower=2.5, upper=3.5)


def test_unpaired_times_are_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        ratios([1.0], [1.0, 2.0])


def test_the_median_of_an_even_number_lies_between() -> None:
    assert spread([4.0, 1.0, 2.0, 3.0]) == Spread(2.5, 1.0, 4.0, 4, lower=1.75, upper=3.25)


def test_a_median_may_be_published_where_the_quartiles_are_within_a_factor_of_1_3() -> None:
    assert spread([1.0, 1.0, 1.3, 1.3]).calm
    assert not spread([1.0, 1.0, 1.31, 1.31]).calm
    assert spread([0.1, 1.0, 1.0, 1.0, 50.0]).calm, "one slow moment of either is not the median's fault"


def test_what_is_too_noisy_is_measured_again_and_the_calmest_is_kept() -> None:
    def widths(*values: float) -> tuple[float, list[float]]:
        left = list(values)
        return calmest(lambda: left.pop(0), lambda width: width), left

    assert widths(1.2, 1.0, 1.0, 1.0) == (1.2, [1.0, 1.0, 1.0])
    assert widths(2.0, 1.1, 1.0, 1.0) == (1.1, [1.0, 1.0])
    assert widths(3.0, 1.5, 2.0, 1.0) == (1.5, [1.0]), "the machine stays busy: whoever asks sees the width"


def test_a_geometric_mean_counts_a_layer_as_often_as_it_stands_there() -> None:
    assert geometric_mean([(2.0, 3), (16.0, 1)]) == pytest.approx((2.0**3 * 16.0) ** 0.25)
    assert geometric_mean([(4.0, 2), (0.25, 2)]) == pytest.approx(1.0)
    assert math.isnan(geometric_mean([]))


def test_everybody_has_a_turn_in_every_round_and_comes_behind_everybody_about_equally_often() -> None:
    order: list[str] = []

    def call(name: str) -> None:
        order.append(name)
        time.sleep(BLOCK)

    names, rounds = "abcd", 120
    times, in_a_row = in_turn({name: partial(call, name) for name in names}, rounds=rounds, seconds=60)
    assert in_a_row == dict.fromkeys(names, 1)
    timed = order[-rounds * len(names) :]
    assert all(sorted(timed[n : n + 4]) == list(names) for n in range(0, len(timed), 4))
    behind = Counter((a, b) for a, b in pairwise(timed) if a != b)
    assert len(behind) == 12
    assert min(behind.values()) > 25, "of 40 on average"
    assert [len(times[name]) for name in names] == [rounds] * 4
    assert min(times["a"]) >= BLOCK


def test_a_slow_row_ends_after_the_fewest_pairs() -> None:
    times, _ = in_turn({"slow": lambda: time.sleep(0.002)}, rounds=100, seconds=0.0)
    assert len(times["slow"]) == FEWEST


def test_what_is_short_is_called_several_times_in_a_row() -> None:
    _, in_a_row = in_turn({"short": lambda: None, "long": lambda: time.sleep(2 * BLOCK)}, rounds=1, seconds=0)
    assert in_a_row["short"] > 50
    assert in_a_row["long"] == 1


def test_another_clock_takes_the_times() -> None:
    asked: list[int] = []

    def half_a_second(call: Callable[[], object], in_a_row: int) -> float:
        asked.append(in_a_row)
        call()
        return 0.5

    times, in_a_row = in_turn({name: lambda: None for name in "ab"}, rounds=3, seconds=60, clock=half_a_second)
    assert (times, in_a_row) == ({"a": [0.5] * 3, "b": [0.5] * 3}, {"a": 1, "b": 1})
    assert asked == [1] * 8


def test_the_clock_of_the_processor_does_not_count_sleep() -> None:
    assert seconds_of_thread(lambda: time.sleep(0.02), 2) < 0.01 < seconds_of(lambda: time.sleep(0.02), 1)
