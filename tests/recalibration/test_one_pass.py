"""One pass through the data: how many batches and samples, and when enough is known."""

from __future__ import annotations

import math

import pytest

from normwise.errors import NormwiseError, UnknownName
from normwise.estimators.cumulative import Cumulative
from normwise.estimators.ema import Ema
from normwise.recalibration.one_pass import CHECK_EVERY, GOOD_ENOUGH, StopForward, check_upstream, feed, limit_of


class Gatherer:
    """Knows its standard error from a list, one for each batch."""

    def __init__(self, *errors: float) -> None:
        self._errors, self.batches, self.watched = errors, 0, False

    def begin(self, *, watched: bool = False) -> None:
        self.batches, self.watched = 0, watched

    def end_of_batch(self) -> None:
        self.batches += 1

    def error(self) -> float:
        return self._errors[min(self.batches, len(self._errors)) - 1]


def test_batches_and_samples_are_counted_also_where_the_forward_ends_early() -> None:
    site = Gatherer(math.nan)

    def forward(batch: int) -> None:
        if batch == 2:
            raise StopForward

    done = feed([1, 2, 3], [site], forward, lambda batch: 10 * batch, 0.0)
    assert (done.batches, done.samples, done.stopped_early, site.batches) == (3, 60, False, 3)
    assert math.isnan(done.standard_error)
    assert not site.watched


def test_another_error_of_the_forward_comes_through() -> None:
    def forward(batch: int) -> None:
        raise RuntimeError(f"batch {batch} is broken")

    with pytest.raises(RuntimeError, match=r"^batch 1 is broken$"):
        feed([1], [Gatherer(math.nan)], forward, int, 0.0)


@pytest.mark.parametrize(
    ("available", "used", "early"), [(7, 7, False), (8, 8, False), (9, 8, True), (16, 8, True)], ids=str
)
def test_it_stops_at_the_first_check_that_finds_enough_known(available: int, used: int, early: bool) -> None:
    """All data were used where none is left, and it is not early then."""
    sites = [Gatherer(0.05), Gatherer(math.nan)]  # the second was not reached: it does not count
    done = feed(range(available), sites, lambda _: None, lambda _: 1, 0.1)
    assert (done.batches, done.stopped_early, done.standard_error) == (used, early, 0.05)
    assert sites[0].watched


def test_the_least_known_layer_decides() -> None:
    slow = Gatherer(*[0.5] * 15, 0.05)
    done = feed(range(100), [Gatherer(0.01), slow], lambda _: None, lambda _: 1, 0.1)
    assert (done.batches, done.standard_error) == (2 * CHECK_EVERY, 0.05)


def test_a_tolerance_is_0_01_where_that_is_safe() -> None:
    assert limit_of(None, "pooled", shuffled=True) == limit_of(None, Cumulative(), shuffled=True) == GOOD_ENOUGH == 0.01
    assert limit_of(None, "pooled", shuffled=False) == 0
    assert limit_of(None, "ema", shuffled=True) == limit_of(None, Ema(0.1), shuffled=True) == 0
    assert limit_of(0.2, "cumulative", shuffled=False) == 0.2
    assert limit_of(0, "ema", shuffled=True) == 0


@pytest.mark.parametrize("tolerance", [-0.1, math.nan, math.inf])
def test_what_is_no_standard_error_is_refused(tolerance: float) -> None:
    with pytest.raises(
        NormwiseError,
        match=rf"^tolerance must be a standard error in standard deviations, received {tolerance}: "
        r"pass for example 0\.01, or 0 to use all data\.$",
    ):
        limit_of(tolerance, "pooled", shuffled=True)


def test_an_estimator_that_forgets_is_refused_with_a_tolerance() -> None:
    with pytest.raises(
        NormwiseError,
        match=r"^tolerance needs an estimator that knows more with every batch, received 'ema': "
        r"use 'pooled' or 'cumulative', or leave it out\.$",
    ):
        limit_of(0.1, "ema", shuffled=True)


def test_a_misspelt_upstream_is_told_the_right_ones() -> None:
    check_upstream("batch")
    check_upstream("inference")
    with pytest.raises(
        UnknownName, match=r"^unknown upstream 'inferense': did you mean 'inference'\? Known: batch, inference\.$"
    ):
        check_upstream("inferense")
