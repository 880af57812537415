"""Two arms over initial weights and rates, each of which is tuned in both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from normwise.lab.design.arms import TIE, Arm, pick
from normwise.lab.design.curves import A_LOOK, ends_best
from normwise.lab.design.targets import Target
from normwise.lab.outcomes import Outcomes


class Sweeps:
    """Runs of two arms over initial weights and rates, and which of them to pick on validation images.

    The target is of what the arm without batch normalization learns, with the weights and the rate that end highest.
    Initial weights are picked as rates are: at the edge of their grid they are no result. But the smallest ones are no
    edge in front of batch normalization: their scale a cancels in the output and divides the gradient, so that the
    training of a layer depends on rate / a^2 alone, and larger values of that were tried at a higher rate.

    Args:
        runs: of each arm; trials have a ``deviation`` and a ``rate``.
        deviations: of the initial weights.
        rates: that were tried with each.
        at: after which steps the looks are.
    """

    def __init__(
        self,
        runs: Mapping[bool, Outcomes],
        deviations: Sequence[float],
        rates: Sequence[float],
        at: Sequence[int],
    ) -> None:
        self.runs, self.deviations, self.rates, self.at = runs, deviations, rates, at
        self.target = Target(self.highest(False), at)

    def of(self, arm: bool, deviation: float) -> Arm:
        """The trials with a deviation, at the rate that reaches the target first."""
        return self.arms(arm, (deviation,), self.target.fastest)[0]

    def fastest(self, arm: bool, deviations: Sequence[float] = ()) -> Arm:
        """The one that reaches the target first on validation images, in the geometric mean; then that ends best."""
        every = self.arms(arm, deviations or self.deviations, self.target.fastest)
        steps = [np.log(self.target.steps(each, "validation")).mean() for each in every]
        # the end decides where steps are equal, as when no rate gets there
        scores = [-each + 1e-6 * _end(one) for each, one in zip(steps, every, strict=True)]
        return _picked(every, scores, A_LOOK, cancels=arm)

    def highest(self, arm: bool) -> Arm:
        """The one that ends highest on validation images."""
        every = self.arms(arm, self.deviations, ends_best)
        return _picked(every, [_end(each) for each in every], TIE, cancels=arm)

    def arms(self, arm: bool, deviations: Sequence[float], choose: Callable[[Arm], int]) -> list[Arm]:
        """One for each deviation, which picks its rate."""
        words = f"{'with' if arm else 'without'} batch norm"
        return [
            Arm({"deviation": each}, {"network": words, "deviation": f"std {each:g}"}, runs, self.rates, choose=choose)
            for each in deviations
            for runs in [[self.runs[arm].where(deviation=each, rate=rate) for rate in self.rates]]
        ]


def _picked(every: Sequence[Arm], scores: Sequence[float], tie: float, *, cancels: bool) -> Arm:
    """The arm of the highest score, by the rule for rates; one at the edge of the deviations bears no verdict.

    Where the scale of the weights cancels, the smallest deviation is no edge.
    """
    place = pick(np.array(scores), tie, np.array([_end(each) for each in every]))
    found = every[place]
    edges = {len(every) - 1} if cancels else {0, len(every) - 1}
    if len(every) > 1 and place in edges and found.trained:
        words = ", ".join(found.words.values())
        found.hindered = f"the best deviation of the initial weights lies at the edge of its grid ({words})"
    return found


def _end(arm: Arm) -> float:
    return float(arm.numbers("validation")[:, -1].mean())
