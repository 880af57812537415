"""The accuracy to reach, from what a baseline learns: one rule, which fits data of any difficulty.

What a network learns is its accuracy after the last step, less that of guessing. A target is a share of what the
baseline learns in the same seed, on the same images; the baseline is the network that the claim compares with, at the
rate with which it ends best on validation images. For most claims that is the network without normalization, as in
Ioffe & Szegedy's figures, which count the steps to what it reached in the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from normwise.lab.data.splits import CLASSES
from normwise.lab.design.arms import LEARNT, Arm, obstacle
from normwise.lab.design.curves import fastest, got_there, in_steps, steps_to
from normwise.lab.intervals import Numbers

SHARE = 0.95
"""The share of what the baseline learns; nearer to 1, the chance of single images decides when a curve gets there."""
GUESSED = 1 / CLASSES
WITHOUT = "what the network without normalization learns"


def shares(accuracies: Numbers, ends: Numbers) -> Numbers:
    """Accuracies as shares of what the baseline learns: 0 for guessing, 1 for where the baseline ends in that seed.

    In a seed in which the baseline does not train, it counts with its mean over the seeds in which it does, because
    nobody is first at guessing. Where it trains in none there is no target, and ``Target.obstacle`` says so.

    Args:
        accuracies: shape (seeds, ...).
        ends: of the baseline, shape (seeds,); NaN where it diverged.

    Example:
        >>> import numpy as np
        >>> shares(np.array([[0.1, 0.5, 0.9], [0.1, 0.5, 0.9]]), np.array([0.9, 0.5])).tolist()
        [[0.0, 0.5, 1.0], [0.0, 1.0, 2.0]]
    """
    learns = ends > LEARNT
    typical = ends[learns].mean() if learns.any() else LEARNT
    way = np.where(learns, ends, typical) - GUESSED
    return (accuracies - GUESSED) / way.reshape(-1, *[1] * (accuracies.ndim - 1))


class Target:
    """A share of what a baseline learns, and who gets there when.

    Args:
        baseline: the arm that the claim compares with, at the rate with which it ends best on validation images.
        at: after which steps the looks are; empty where accuracies are those after the last step alone.
        share: of what it learns.
        whose: what the baseline learns, in words.
    """

    def __init__(self, baseline: Arm, at: Sequence[int] = (), share: float = SHARE, whose: str = WITHOUT) -> None:
        self.baseline, self.at, self.share = baseline, tuple(at), share
        self.words = f"{share:g} of {whose}"

    def ends(self, what: str = "test") -> Numbers:
        """Accuracy of the baseline after its last step: shape (seeds,)."""
        found = self.baseline.numbers(what)
        return found.reshape(len(found), -1)[:, -1]

    def shares(self, arm: Arm, what: str = "test") -> Numbers:
        """The shares that an arm learns at the rate that is picked for it: shape (seeds, ...)."""
        return shares(arm.numbers(what), self.ends(what))

    def at_every_rate(self, arm: Arm, what: str = "test") -> Numbers:
        """The same at each of its rates: shape (seeds, rates, ...)."""
        return shares(arm.array(what), self.ends(what))

    def fastest(self, arm: Arm) -> int:
        """Picks for an arm the rate that gets to the target first on validation images."""
        return fastest(self.at_every_rate(arm, "validation"), self.share, self.at)

    def steps(self, arm: Arm, what: str = "test") -> Numbers:
        """The steps to the target, or all: shape (seeds,)."""
        return steps_to(self.share, self.shares(arm, what), self.at)

    def steps_at_every_rate(self, arm: Arm, what: str = "test") -> Numbers:
        """The same at each of its rates: shape (seeds, rates)."""
        return steps_to(self.share, self.at_every_rate(arm, what), self.at)

    def reached(self, arm: Arm) -> npt.NDArray[np.bool_]:
        """True where the arm gets there at some look: shape (seeds,)."""
        return np.asarray(np.any(self.shares(arm) >= self.share, axis=-1), dtype=np.bool_)

    @property
    def level(self) -> float:
        """The target as a test accuracy, in the mean over seeds."""
        ones = np.ones(len(self.baseline))
        return float(GUESSED + self.share * np.mean((1 - GUESSED) / shares(ones, self.ends())))

    def obstacle(self, *arms: Arm) -> str:
        """The reason why no verdict can rest on a comparison of arms in steps to the target; or empty.

        It is that the baseline does not train, that its rate or one of theirs was picked at the edge of its grid, or
        that in most of the seeds none of them gets there, or all of them are there at the first look.
        """
        if not self.baseline.trained:
            return "the network that sets the accuracy to reach does not train"
        edge = obstacle(self.baseline, *arms)
        if edge or not self.at or not arms:
            return edge
        reached, steps = np.array([self.reached(arm) for arm in arms]), np.array([self.steps(arm) for arm in arms])
        if reached.any(axis=0).mean() < 0.5:
            return f"none of them gets there in {self.at[-1]} steps"
        at_once = (reached & (steps == self.at[0])).all(axis=0)
        return "all of them are there at the first look" if len(self.at) > 1 and at_once.mean() > 0.5 else ""

    def in_steps(self, arm: Arm) -> str:
        """A cell: the geometric mean of the steps with its interval."""
        return in_steps(self.shares(arm), self.share, self.at)

    def got_there(self, arm: Arm) -> str:
        """A cell: of how many seeds it gets there."""
        return got_there(self.shares(arm), self.share)
