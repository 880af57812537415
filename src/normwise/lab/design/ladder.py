"""The ladder of figures 2 and 3 of Ioffe & Szegedy 2015: its rungs, and what is concluded from their curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from normwise.lab.data.splits import CLASSES
from normwise.lab.design.arms import trains
from normwise.lab.design.curves import got_there, how_many, in_steps, steps_to
from normwise.lab.design.figures import figure, line, panel
from normwise.lab.design.tables import Column, average, table
from normwise.lab.intervals import Numbers, difference, mean, ratio
from normwise.lab.results import Figure, Statement, Table
from normwise.lab.verdict import AtLeast, StaysBelow, judge

FASTER = 1.5
HIGHER = 0.2
LOST = 50.0
LESS = 0.01
"""The distance of the target below the highest accuracy of the baseline on validation images."""


class Rung(NamedTuple):
    """The changes against the baseline; the decay of the rate is 6 times as fast where the rate is higher."""

    batch_norm: bool
    times: float
    activation: str = "relu"

    @property
    def speed(self) -> float:
        """The speed of the decay of the rate."""
        return 6.0 if self.times > 1 else 1.0

    def weight_decay(self, of_the_baseline: float) -> float:
        """Its L2 weight."""
        return of_the_baseline / (5 if self.times > 1 else 1)


RUNGS = {
    "baseline": Rung(False, 1.0),
    "baseline at x5": Rung(False, 5.0),
    "BN-Baseline": Rung(True, 1.0),
    "BN-x5": Rung(True, 5.0),
    "BN-x30": Rung(True, 30.0),
    "sigmoid": Rung(False, 5.0, "sigmoid"),
    "BN-x5-Sigmoid": Rung(True, 5.0, "sigmoid"),
}
LADDER = ("baseline", "BN-Baseline", "BN-x5", "BN-x30")
ENDS = {"BN-Baseline": "72.2 to 72.7 %", "BN-x5": "72.7 to 73.0 %", "BN-x30": "73.0 to 74.8 %"}


def rungs_of(*, batch_norm: bool, activation: str) -> dict[str, Rung]:
    """The rungs with or without batch normalization and of one activation."""
    return {
        name: rung for name, rung in RUNGS.items() if (rung.batch_norm, rung.activation) == (batch_norm, activation)
    }


@dataclass(frozen=True)
class Climb:
    """The measurements of every rung at one rate of the baseline.

    Args:
        curves: test accuracies of each rung, shape (seeds, looks).
        ends: where each ends, shape (seeds,).
        target: the accuracy to reach.
        at: after which steps the looks are.
        rate: of the baseline.
        published: for the first rungs, in how many steps.
        obstacle: why no verdict can rest on the rate of the baseline; or empty.
    """

    curves: Mapping[str, Numbers]
    ends: Mapping[str, Numbers]
    target: float
    at: Sequence[int]
    rate: float
    published: Mapping[str, str]
    obstacle: str = ""

    def statements(self) -> Iterator[Statement]:
        """Compare the rungs in steps and in where they end."""
        common = self.obstacle or ("" if trains(self.ends["baseline"].mean()) else "the baseline does not train")
        for each in self._statements():
            yield replace(each, effect=replace(each.effect, obstacle=common or each.effect.obstacle))

    def _nobody(self, *rungs: str) -> str:
        """The obstacle of a comparison in steps: in most of the seeds none of the rungs gets there; or empty."""
        reached = np.array([self.curves[rung].max(axis=1) >= self.target for rung in rungs]).any(axis=0)
        return f"none of them gets there in {self.at[-1]} steps" if reached.mean() < 0.5 else ""

    def _statements(self) -> Iterator[Statement]:
        faster = AtLeast(FASTER, nothing=1.0)
        steps = {rung: steps_to(self.target, values, self.at) for rung, values in self.curves.items()}
        ends = {rung: 100 * values for rung, values in self.ends.items()}
        for below, above in pairwise(LADDER[:3]):
            text = f"{above} reaches the target in fewer steps than {below}."
            fewer, nobody = ratio(steps[below], steps[above], "times fewer steps"), self._nobody(below, above)
            yield judge(text, fewer, faster, self.published[above], obstacle=nobody)
        text = "BN-x5 reaches the target in fewer steps than the baseline."
        published, nobody = "14.8 times, 31.0 to 2.1 million steps", self._nobody("baseline", "BN-x5")
        fewer = ratio(steps["baseline"], steps["BN-x5"], "times fewer steps")
        yield judge(text, fewer, faster, published, obstacle=nobody)
        text = "BN-x30 reaches the target later than BN-x5."
        published, nobody = "1.3 times, 2.7 against 2.1 million steps", self._nobody("BN-x30", "BN-x5")
        later = ratio(steps["BN-x30"], steps["BN-x5"], "times more steps")
        yield judge(text, later, AtLeast(1.1, nothing=1.0), published, obstacle=nobody)
        for below, above in pairwise(LADDER):
            text = f"{above} ends higher than {below}."
            yield judge(text, difference(ends[above], ends[below], "points"), AtLeast(HIGHER), ENDS[above])
        text = "At 5 times its rate the baseline does not train."
        yield judge(text, mean(ends["baseline at x5"], "%"), StaysBelow(LOST), "reached machine infinity")
        text = "With sigmoids the network does not train without batch normalization."
        yield judge(text, mean(ends["sigmoid"], "%"), StaysBelow(LOST), "never better than .1 %")
        text = "With sigmoids the network trains with batch normalization (BN-x5-Sigmoid)."
        yield judge(text, mean(ends["BN-x5-Sigmoid"], "%"), AtLeast(90.0, nothing=LOST), "69.8 %")

    def table(self, *more: Column, tried: int) -> Table:
        """A row for each rung; ``more`` columns take its name. The baseline had so many rates to choose from."""
        return table(
            f"Steps to a test accuracy of {self.target:.3f} out of {self.at[-1]}, and test accuracies in %",
            self.curves,
            ("rung", lambda rung: rung),
            ("initial rate", lambda rung: f"{RUNGS[rung].times * self.rate:g}"),
            ("steps", lambda rung: in_steps(self.curves[rung], self.target, self.at)),
            ("got there", lambda rung: got_there(self.curves[rung], self.target)),
            ("highest", lambda rung: average(100 * self.curves[rung].max(axis=1), 1)),
            ("end", lambda rung: average(100 * self.ends[rung], 1)),
            *more,
            seeds=len(self.curves["baseline"]),
            more=f", of the steps the geometric one; the baseline has the best of {tried} rates",
        )

    def figure(self) -> Figure:
        """A panel for each activation."""
        marks = ((self.target, f"{self.target:.3f}"), (1 / CLASSES, "guessing"))
        panels = []
        for title, activation in (("ReLU", "relu"), ("sigmoid", "sigmoid")):
            lines = (
                line(name, self.at, self.curves[name]) for name, rung in RUNGS.items() if rung.activation == activation
            )
            panels.append(panel(title, lines, marks))
        title, caption = "Test accuracy against steps, rung by rung", "The analogue of figures 2 and 3."
        return figure("ladder", title, panels, x_label="steps", caption=caption, x_scale="log")


def target_of(validation: Numbers) -> float:
    """The accuracy to reach, from what the baseline has on validation images: shape (seeds, looks)."""
    return float(validation.max(axis=1).mean()) - LESS


def diverged(finite: Mapping[str, Numbers]) -> Column:
    """A column of the table: at how many seeds the last loss of a rung was not finite."""
    return "diverged", lambda rung: how_many(np.asarray(finite[rung] == 0))
