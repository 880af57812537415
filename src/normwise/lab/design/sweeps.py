"""Two arms over initial weights and rates, each of which is tuned in both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from normwise.lab.design.arms import Arm
from normwise.lab.design.curves import ends_best
from normwise.lab.design.targets import Target
from normwise.lab.outcomes import Outcomes


class Sweeps:
    """Runs of two arms over initial weights and rates, and which of them to pick on validation images.

    The target is of what the arm without batch normalization learns, with the weights and the rate that end highest.

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
        return min(every, key=lambda each: (np.log(self.target.steps(each, "validation")).mean(), -_end(each)))

    def highest(self, arm: bool) -> Arm:
        """The one that ends highest on validation images."""
        return max(self.arms(arm, self.deviations, ends_best), key=_end)

    def arms(self, arm: bool, deviations: Sequence[float], choose: Callable[[Arm], int]) -> list[Arm]:
        """One for each deviation, which picks its rate."""
        words = f"{'with' if arm else 'without'} batch norm"
        return [
            Arm({"deviation": each}, {"network": words, "deviation": f"std {each:g}"}, runs, self.rates, choose=choose)
            for each in deviations
            for runs in [[self.runs[arm].where(deviation=each, rate=rate) for rate in self.rates]]
        ]


def _end(arm: Arm) -> float:
    return float(arm.numbers("validation")[:, -1].mean())
