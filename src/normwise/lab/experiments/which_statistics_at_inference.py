"""Statistics at inference: exact ones of the final network, a moving average, or those of the middle of training?

Question:
    A network has been trained for some steps. From what should its layers take mean and variance at inference: moving
    averages of the batches so far, the mean over all of training, over its last quarter or over its middle half, or
    data that run through the final network once more? When does it matter?

Claim:
    Algorithm 2 takes training batches through the final network; moving averages are there to "track the accuracy of a
    model as it trains" (Ioffe & Szegedy 2015, section 3.1). Averages lag behind early in training and at high rates,
    and statistics of one fixed model on 1000 to 10 000 samples are right (Wu & Johnson 2021, section 3). Against both,
    teaching material recommends the middle of training, without its beginning and its end; a published source for that
    was not found.

What would refute it:
    A moving average is as accurate as the exact statistics after few steps; or statistics of the middle of training are
    as accurate as those of the final network.

Settings:
    scikit-learn's digits, three hidden layers of 64 ReLU units, gradient descent with batches of 60 at the rates 0.1,
    0.5 and 2, looked at after 5, 20, 50, 100, 300 and 1000 steps. Moving averages begin at mean 0 and variance 1, as
    the frameworks' do; means over parts of training are those of means and of variances times m / (m - 1). Exact: all
    1077 training images through the network as it is; also 60 of them; and the batch of all test images by itself.

Verdict:
    Differences of test accuracy, paired over seeds; up to 100 steps their mean over time. "Worse" counts from 5 points
    on early, and from 1 point on at the end; "no worse" when the whole interval lies above -1 point.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - Y. Wu and J. Johnson, Rethinking "Batch" in BatchNorm, 2021, arXiv:2105.07576.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from normwise.lab.data.splits import digits
from normwise.lab.design import Grid, Stacks, average, figure, line, panel, table
from normwise.lab.intervals import Numbers, difference
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Estimate, Regime, Statement
from normwise.lab.training.every_statistics import EveryStatistics
from normwise.lab.training.looking import over_time
from normwise.lab.verdict import AtLeast, judge

SAYS = "Wu & Johnson 2021, section 3"
TOPIC = "statistics at inference"
DATA = DIGITS
ARCHITECTURE = "3 hidden layers of 64 ReLU units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
EARLY = 100
LAGS = 5.0
LATE = 1.0
WORSE = -1.0
FEW = 60
WEIGHTS = (0.1, 0.01, 0.001)
WAYS = {
    **{f"average_{weight:g}": f"moving average, {weight:g} for a new batch" for weight in WEIGHTS},
    "all": "mean over all of training",
    "middle": "mean over its middle half",
    "last": "mean over its last quarter",
    "few": f"the final network, {FEW} images",
    "exact": "the final network, all images",
    "test": "the test images' own",
}
SHOWN = ("average_0.1", "average_0.01", "all", "middle", "last", "exact")


@dataclass(frozen=True)
class Settings(Stacks):
    """The network, its training, and when it is looked at."""

    rates: tuple[float, ...] = (0.1, 0.5, 2.0)
    looks: tuple[int, ...] = (5, 20, 50, 100, 300, 1000)
    depth: int = 3


FULL = Settings(looks=(5, 10, 20, 50, 100, 200, 300, 1000, 3000))
NEIGHBOURING = {"looks": Settings(looks=(10, 30, 60, 100, 500, 1000)), "width": Settings(width=96)}
"""Not other rates: what is compared is what happens at a rate."""


@dataclass(frozen=True)
class Trial:
    """All rates, side by side."""

    seed: int


trials = Grid(Trial).trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train, and at every look measure the accuracy by each way's statistics."""
    data = digits(trial.seed)
    stack = settings.stack(trial.seed, True)
    statistics = EveryStatistics(stack, data, weights=WEIGHTS, few=FEW)
    steps = max(settings.looks)
    settings.train(stack, data.train, trial.seed, steps=steps, look=statistics, look_at=settings.looks)
    return statistics.found  # by way: looks, then rates


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare every way with the exact statistics, early and at the end."""
    rows = [(rate, place, way) for place, rate in enumerate(settings.rates) for way in WAYS]
    panels = (
        panel(f"rate {rate:g}", (line(WAYS[way], settings.looks, outcomes.array(way)[:, :, i]) for way in SHOWN))
        for i, rate in enumerate(settings.rates)
    )
    title = "Test accuracy while training, by the statistics that are used at inference"
    caption = "All lines are of the same network."
    by_step = figure("accuracy_over_steps", title, panels, x_label="steps", caption=caption, x_scale="log")
    return Conclusion(
        statements=tuple(
            text for i, rate in enumerate(settings.rates) for text in _statements(settings, outcomes, i, rate)
        ),
        table=table(
            "Test accuracy in % by the number of steps",
            rows,
            ("rate", lambda row: f"{row[0]:g}"),
            ("statistics", lambda row: WAYS[row[2]]),
            *(
                (f"{look}", lambda row, i=i: average(_points(outcomes, row[2], i, row[1]), 1))
                for i, look in enumerate(settings.looks)
            ),
            seeds=len(outcomes),
        ),
        figures=(by_step,),
        caveats=(
            "Rates stay constant. Where they fall to 0, as in most trainings, the network stands still at the end, and "
            "every average that forgets comes to the same.",
            "The test images' own statistics need all of them at once, with all classes as often as in training.",
        ),
    )


def _points(outcomes: Outcomes, way: str, look: int, rate: int) -> Numbers:
    return 100 * outcomes.array(way)[:, look, rate]


def _statements(settings: Settings, outcomes: Outcomes, i: int, rate: float) -> Iterator[Statement]:
    def early(way: str) -> Numbers:
        looks = [place for place, look in enumerate(settings.looks) if look <= EARLY]
        at = [settings.looks[place] for place in looks]
        return over_time(100 * outcomes.array(way)[:, looks, i], at)

    def end(ours: str, theirs: str) -> Estimate:
        return difference(_points(outcomes, ours, -1, i), _points(outcomes, theirs, -1, i), "points")

    for weight in (0.1, 0.01):
        text = f"Rate {rate:g}, up to {EARLY} steps: a moving average with {weight:g} is worse than exact statistics."
        yield judge(text, difference(early("exact"), early(f"average_{weight:g}"), "points"), AtLeast(LAGS))
    at, no_worse = f"Rate {rate:g}, after {settings.looks[-1]} steps", AtLeast(WORSE, nothing=WORSE)
    text = f"{at}: a moving average with 0.1 is no worse than exact statistics."
    yield judge(text, end("average_0.1", "exact"), no_worse, "equal at the end of training, figure 3")
    text = f"{at}: statistics of the middle of training are no worse than exact ones."
    yield judge(text, end("middle", "exact"), no_worse, says="teaching material", regime=Regime.OWN)
    text = f"{at}: statistics of the middle of training are better than those of its last quarter."
    yield judge(text, end("middle", "last"), AtLeast(LATE), says="teaching material", regime=Regime.OWN)
    text = f"{at}: {FEW} images through the final network are no worse than all."
    yield judge(text, end("few", "exact"), no_worse, "1000 to 10 000 images are enough, ImageNet")
