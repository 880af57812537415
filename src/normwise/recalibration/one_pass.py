"""One pass through the data, every layer that gathers taking part, to the data's end or until enough is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from normwise.errors import NormwiseError, UnknownName
from normwise.estimators import Estimator
from normwise.estimators.cumulative import Cumulative
from normwise.estimators.pooled import Pooled
from normwise.recalibration.asked import as_number

CHECK_EVERY = 8
"""Batches between two checks of the standard error, each of which waits for the device."""
GOOD_ENOUGH = 0.01
"""Standard error, in standard deviations, at which a shuffled loader is left: at most 10 000 independent samples."""
UPSTREAM = ("inference", "batch")
"""The two ways in which the layers below one that gathers may normalize."""


class StopForward(BaseException):
    """The batch has passed the last layer that gathers; no ``except Exception`` on its way out is meant."""


class Gatherer(Protocol):
    """A layer that gathers, as a pass sees it."""

    def begin(self, *, watched: bool = False) -> None:
        """Forget what was gathered; keep the standard error from now on, or not."""

    def end_of_batch(self) -> None:
        """All calls of this batch were there."""

    def error(self) -> float:
        """The standard error in standard deviations; NaN where it was not kept."""


@dataclass
class Pass:
    """The record of one pass through the data, of one process or of all."""

    batches: int = 0
    samples: int = 0
    stopped_early: bool = False
    standard_error: float = float("nan")


def feed(
    items: Iterable[Any],
    sites: Sequence[Gatherer],
    forward: Callable[[Any], object],
    samples_in: Callable[[Any], int],
    limit: float,
) -> Pass:
    """The batches through the model, to their end or until enough is known.

    Args:
        items: the batches.
        sites: the layers that gather.
        forward: takes one batch through the model, or a part of it: it may end with ``StopForward``.
        samples_in: how many samples a batch has.
        limit: the standard error that is small enough; 0 for all data.
    """
    done = Pass()
    enough = False
    for site in sites:
        site.begin(watched=limit > 0)
    for batch in items:
        if enough:  # and here is one more batch, so that it is early
            done.stopped_early = True
            break
        with suppress(StopForward):
            forward(batch)
        done.batches += 1
        done.samples += samples_in(batch)
        for site in sites:
            site.end_of_batch()
        if limit > 0 and done.batches % CHECK_EVERY == 0:
            enough = _standard_error(sites) <= limit
    done.standard_error = _standard_error(sites)
    return done


def _standard_error(sites: Sequence[Gatherer]) -> float:
    """The standard error of the least known layer; NaN where none is watched."""
    return max((error for site in sites if not math.isnan(error := site.error())), default=math.nan)


def limit_of(tolerance: float | None, estimator: Estimator | str, *, shuffled: bool) -> float:
    """The standard error that is small enough; 0 for none.

    Args:
        tolerance: what the caller said; None for ``GOOD_ENOUGH`` where that is safe.
        estimator: an estimator or its name.
        shuffled: whether it is known that every batch is drawn from all data.

    Raises:
        NormwiseError: a tolerance that is no standard error, or an estimator that never knows more.

    Example:
        >>> limit_of(None, "pooled", shuffled=True), limit_of(None, "pooled", shuffled=False)
        (0.01, 0.0)
    """
    averages = estimator in ("pooled", "cumulative") or isinstance(estimator, Pooled | Cumulative)
    if tolerance is None:
        return GOOD_ENOUGH if averages and shuffled else 0.0
    if not 0 <= as_number(tolerance) < float("inf"):
        raise NormwiseError(
            f"tolerance must be a standard error in standard deviations, received {tolerance!r}: "
            "pass for example 0.01, or 0 to use all data."
        )
    if tolerance and not averages:
        raise NormwiseError(
            f"tolerance needs an estimator that knows more with every batch, received {estimator!r}: "
            "use 'pooled' or 'cumulative', or leave it out."
        )
    return tolerance


def check_upstream(upstream: str) -> None:
    """Refuse what is none of ``UPSTREAM``.

    Raises:
        UnknownName: there is no such way; the message names the nearest one.
    """
    if upstream not in UPSTREAM:
        raise UnknownName("upstream", upstream, UPSTREAM)
