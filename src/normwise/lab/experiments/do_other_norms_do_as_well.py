"""Is there anything special about the variance, or does dividing by another norm of the batch do as well?

Question:
    When the batch's deviations from their mean are divided by their mean absolute value or by the largest one, which do
    not give a distribution of variance 1, does the network train as fast?

Claim:
    Normalizing by the l1, l2 or l-infinity norm of the batch instead of the variance trains a VGG on CIFAR-10 as well
    as batch normalization or better, and a deep linear network best with l1, although the distributions then shift
    more (Santurkar et al. 2018, section 3.3 and appendix). Stability of moments is then not what matters.

What would refute it:
    Another norm needs twice as many steps, or ends half a point lower.

Settings:
    Five hidden layers of 64 ReLU units on scikit-learn's digits, batches of 60, 600 steps of gradient descent; rates
    0.03, 0.1, 0.3, 1, 3 and 10 for each arm. In training z = (x - mean) / norm, with the standard deviation (l2), the
    mean absolute deviation (l1) or the largest one (l-infinity) of the batch; then scale and shift. In inference the
    debiased moving averages of mean and norm. Drift: standard deviation over time of the mean that an activation of the
    last hidden layer receives in inference, over its mean standard deviation.

Verdict:
    Steps to .95 of what the network without normalization learns (its test accuracy at the end, less guessing, in the
    same seed, at the rate that ends best on validation images) are compared with those of l2 as ratios, paired over
    seeds, each arm at the rate that is first on validation images; not getting there counts as all steps. "As fast" is
    reproduced when the interval lies between a half and 2, and "faster than none" from 1.2 on. "Ends as high" is
    reproduced when the interval of the difference is above -0.5 points.

References:
    - S. Santurkar, D. Tsipras, A. Ilyas and A. Madry, How Does Batch Normalization Help Optimization?, 2018,
      arXiv:1805.11604.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from normwise.lab.data.splits import digits
from normwise.lab.design import Arms, DenseTraining, Grid, Looks, average, obstacle, table
from normwise.lab.design.curves import accuracy_by_step, ends_best
from normwise.lab.design.targets import Target
from normwise.lab.intervals import difference, ratio
from normwise.lab.networks.variants import NormOfBatch
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement
from normwise.lab.training.watching import Watch
from normwise.lab.verdict import AtLeast, Within, judge

SAYS = "Santurkar et al. 2018"
TOPIC = "why it works"
DATA = DIGITS
ARCHITECTURE = "5 hidden layers of 64 ReLU units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
FASTER = 1.2
AS_FAST = (0.5, 2.0)
AS_HIGH = 0.5
ARMS = {"none": "without", "l2": "standard deviation (l2)", "l1": "mean deviation (l1)", "linf": "largest (l-infinity)"}


@dataclass(frozen=True)
class Settings(Looks, DenseTraining):
    """Rates and the network."""

    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


FULL = Settings(rates=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0), steps=3000)


@dataclass(frozen=True)
class Trial:
    """All rates of one norm, side by side."""

    norm: str
    seed: int


GRID = Grid(Trial, norm=ARMS)
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate, and look at accuracies and at what the last hidden activation receives."""
    data = digits(trial.seed)
    stack = settings.stack(
        trial.seed, None if trial.norm == "none" else lambda channels: NormOfBatch(channels, trial.norm)
    )
    watch = Watch(stack, data)
    settings.train(stack, data.train, trial.seed, look=watch, look_at=settings.looks())
    return watch.found()


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the norms with l2 in steps and in where they end."""
    at = settings.looks()
    target = Target(GRID.arms(settings, outcomes, choose=ends_best)["none"], at)
    arms = GRID.arms(settings, outcomes, choose=target.fastest)
    return Conclusion(
        statements=tuple(_statements(arms, target)),
        table=table(
            f"Steps to {target.words} out of {settings.steps}, test accuracy in % at the end, drift in standard "
            "deviations",
            arms,
            ("divided by", lambda arm: arm["norm"]),
            ("rate", lambda arm: arm.rate),
            ("steps", target.in_steps),
            ("got there", target.got_there),
            ("end", lambda arm: average(arm.points()[:, -1], 1)),
            ("drift", lambda arm: average(arm.numbers("drift"), 2)),
            more=", of the steps the geometric one",
        ),
        figures=(accuracy_by_step(arms, at, network="5×64, ReLU", target=target.level),),
        caveats=(
            "For a normal distribution these norms differ by a factor that scale and shift can take over, so that as "
            "fast is what one would expect; they differ where a unit has outliers.",
            "Dividing by the largest deviation makes the outputs about 2.5 times smaller, which is another initial "
            "scale of the scale parameter and a smaller effective rate.",
            "The mark is the mean over seeds; each seed has one of its own to reach.",
            "Looks are 10 % apart, so single numbers of steps are known to 10 %.",
        ),
    )


def _statements(arms: Arms, target: Target) -> Iterator[Statement]:
    steps = {norm: target.steps(arms[norm]) for norm in ARMS}
    for norm in ("l1", "linf"):
        words, edge = ARMS[norm], target.obstacle(arms[norm], arms["l2"])
        text = f"Divided by the {words}, the network is about as fast as by the standard deviation."
        yield judge(
            text,
            ratio(steps[norm], steps["l2"], "times the steps"),
            Within(*AS_FAST),
            "as fast, VGG on CIFAR-10",
            obstacle=edge,
        )
        text = f"Divided by the {words}, the network is faster than without normalization."
        faster, other = (
            ratio(steps["none"], steps[norm], "times fewer steps"),
            target.obstacle(arms["none"], arms[norm]),
        )
        yield judge(text, faster, AtLeast(FASTER, nothing=1.0), obstacle=other)
        text = f"Divided by the {words}, the network ends as high as by the standard deviation."
        end = difference(arms[norm].points()[:, -1], arms["l2"].points()[:, -1], "points")
        edge = target.obstacle() or obstacle(arms[norm], arms["l2"])
        yield judge(text, end, AtLeast(-AS_HIGH, nothing=-AS_HIGH), "as high, VGG on CIFAR-10", obstacle=edge)
