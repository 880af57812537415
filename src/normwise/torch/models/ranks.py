"""The statistics that several processes gathered, each from its share of the data, combined on all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import distributed

from normwise.errors import NormwiseError
from normwise.estimators import Estimator, RunningStatistics
from normwise.estimators.cumulative import Cumulative
from normwise.estimators.pooled import Pooled
from normwise.moments import Moments


class Ranks:
    """The processes that work on one model together.

    Args:
        asked: True for all that ``torch.distributed`` knows, if it is in use; a process group; False for this one.
        called: the operation, for the errors.

    Raises:
        NormwiseError: it is none of these.

    Example:
        >>> Ranks(True, called="recalibrate").several
        False
    """

    def __init__(self, asked: Any, *, called: str) -> None:
        self._called = called
        there = distributed.is_available()
        if not (asked is None or isinstance(asked, bool) or (there and _is_group(asked))):
            raise NormwiseError(
                f"{called} needs to know which processes work together, received {asked!r}: pass True for all, False "
                "for this one alone, or a process group of torch.distributed."
            )
        ready = there and distributed.is_initialized()
        self._group = None if asked is True else asked
        self.own = 0
        self.several = ready and asked is not False and distributed.get_world_size(self._group) > 1
        if self.several:
            self.own = distributed.get_rank(self._group)

    def check(self, estimator: Estimator) -> None:
        """Refuse, on every rank alike and before anything is done, an estimator that needs one order of the batches.

        Raises:
            NormwiseError: the estimator is none of those that average all batches.
        """
        if self.several and type(estimator) not in _JOINED:
            raise NormwiseError(
                f"{self._called} over several processes needs an estimator to which the order of batches is nothing, "
                f"received {estimator!r}: use 'pooled' or 'cumulative', or pass distributed=False."
            )

    def exchange(self, work: Callable[[], Any]) -> list[Any]:
        """The results of ``work`` on every rank, in the order of the ranks; an error on one is an error on all.

        It is a collective call: every rank has to come here, and one that failed says so here and then raises.

        Raises:
            NormwiseError: another rank failed, and the message says which one and how; or it is gone, or too late.
        """
        if not self.several:
            return [work()]
        failed: Exception | None = None
        mine: Any = None
        try:
            mine = work()
        except Exception as error:
            failed = error
        words = None if failed is None else f"{type(failed).__name__}: {failed}"
        found: list[Any] = [None] * distributed.get_world_size(self._group)
        try:
            distributed.all_gather_object(found, (words, mine), group=self._group)
        except RuntimeError as error:
            lost = str(error).strip().split("\n", maxsplit=1)[0].rstrip(".")
            raise NormwiseError(
                f"{self._called} lost another of its {len(found)} processes ({lost}): the model is as it was; see what "
                "ended that one, and start all of them again."
            ) from (failed or error)
        if failed is not None:
            raise failed
        for rank, (trouble, _) in enumerate(found):
            if trouble is not None:
                raise NormwiseError(
                    f"{self._called} was given up because rank {rank} failed with {trouble}: "
                    "the model is as it was; mend that and call it again on every rank."
                )
        return [theirs for _, theirs in found]


def joined(estimator: Estimator, parts: Sequence[RunningStatistics]) -> RunningStatistics:
    """The statistics of all batches from those of each share, exact for any sizes, an empty share included.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> parts = [RunningStatistics(0 * one, 2 * one, one, 2 * one), RunningStatistics(4 * one, one, one, one)]
        >>> both = joined(Cumulative(), parts)
        >>> both.mean.item(), both.var.item(), both.count.item()
        (2.0, 1.5, 3.0)
    """
    return parts[0] if len(parts) == 1 else reduce(_JOINED[type(estimator)], parts)


def _joined_values(one: RunningStatistics, other: RunningStatistics) -> RunningStatistics:
    """Chan's formula; a share without two values has a placeholder for its variance, which count 1 or 0 makes 0."""
    sides = (Moments.from_unbiased_var(each.mean, each.var, each.count) for each in (one, other))
    both = next(sides).merge(next(sides))
    var = torch.where(both.count > 1, both.unbiased_var(), 1.0)
    return RunningStatistics(both.mean, var, one.updates + other.updates, both.count)


def _joined_batches(one: RunningStatistics, other: RunningStatistics) -> RunningStatistics:
    """Every batch weighs the same, whoever had it."""
    updates = one.updates + other.updates
    weight = other.updates / updates.clamp(min=1)
    mean = torch.lerp(one.mean, other.mean, weight)
    var = torch.lerp(one.var, other.var, weight)
    return RunningStatistics(mean, var, updates, one.count + other.count)


_JOINED: dict[type[Estimator], Callable[[RunningStatistics, RunningStatistics], RunningStatistics]] = {
    Pooled: _joined_values,
    Cumulative: _joined_batches,
}


def _is_group(asked: Any) -> bool:
    """True for a process group, and for what ``new_group`` gives to a process that is in none."""
    return isinstance(asked, distributed.ProcessGroup) or asked is distributed.GroupMember.NON_GROUP_MEMBER
