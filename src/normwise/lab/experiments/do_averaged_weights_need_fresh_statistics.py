"""The average of the weights of many steps: does it need statistics of its own?

Question:
    A network whose weights are the mean of those that training passed through has never seen a batch. Which statistics
    does its batch normalization take: those that the last network had, the mean of those that all of them had, or fresh
    ones; and is it then more accurate than the last network?

Claim:
    Averaged weights reach a higher test accuracy than the last ones: VGG16 on CIFAR-10 93.64 % against 93.25,
    PreResNet-164 on CIFAR-100 80.35 against 78.49. Networks with batch normalization take one more pass over the
    training data for it, in which the statistics of the averaged weights are computed (Izmailov et al. 2018).

What would refute it:
    With the statistics of training the average is as accurate as with fresh ones; or it is less accurate than the last
    network.

Settings:
    Five hidden layers of 64 ReLU units on scikit-learn's digits, batches of 60, 600 steps of gradient descent at a
    constant rate of 0.03, 0.1, 0.3, 1, 3 or 10. From the 300th step on, every tenth step's weights go into the mean.
    Fresh statistics are exact ones, of all training images in one batch.

Verdict:
    Kinds of statistics are compared at the rate that is best for the average with fresh ones on validation images,
    which favours fresh ones, the average and the last network each at its own best rate, as differences of test
    accuracy, paired over seeds. A loss by old statistics counts from 1 point on, a gain by averaging from .3 points on.

References:
    - P. Izmailov, D. Podoprikhin, T. Garipov, D. Vetrov and A. G. Wilson, Averaging Weights Leads to Wider Optima and
      Better Generalization, 2018, arXiv:1803.05407.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from normwise.lab.data.splits import digits
from normwise.lab.design import Arm, Arms, DenseTraining, Grid, average, by_pair, by_rate, gap, obstacle, table
from normwise.lab.intervals import Numbers, difference
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement
from normwise.lab.training.averaging import Average
from normwise.lab.training.stacks import accuracies
from normwise.lab.verdict import AtLeast, judge
from normwise.torch.models.recalibration.recalibrate import recalibrate

SAYS = "Izmailov et al. 2018"
TOPIC = "statistics at inference"
DATA = DIGITS
ARCHITECTURE = "5 hidden layers of 64 ReLU units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
LOSS = 1.0
GAIN = 0.3
LAST, OLD, MEAN, FRESH = (
    "last network",
    "average, the last network's statistics",
    "average, mean statistics",
    "average, fresh statistics",
)


@dataclass(frozen=True)
class Settings(DenseTraining):
    """Rates and the network."""

    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    every: int = 10
    """Steps from one network of the average to the next."""
    ends: tuple[str, ...] = (LAST, OLD, MEAN, FRESH)


FULL = Settings(rates=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0), steps=3000)


@dataclass(frozen=True)
class Trial:
    """All rates, side by side."""

    seed: int


GRID = Grid(Trial, inside={"end": "ends"})
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate; measure the last networks, and their averages by every kind of statistics."""
    data = digits(trial.seed)
    stack = settings.stack(trial.seed, normalize=True)
    mean = Average(stack)
    looks = range(settings.steps // 2, settings.steps + 1, settings.every)
    settings.train(stack, data.train, trial.seed, look=mean, look_at=looks)
    ends = {LAST: stack, **{end: mean.networks(statistics=end == MEAN) for end in (OLD, MEAN, FRESH)}}
    recalibrate(ends[FRESH], [data.train.images])
    found = {
        name: [accuracy for end in settings.ends for accuracy in accuracies(ends[end], part)]
        for name, part in (("validation", data.validation), ("test", data.test))
    }
    return by_pair(found, settings.ends, settings.rates)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the kinds of statistics at a common rate, and the average with the last network."""
    arms = GRID.arms(settings, outcomes)
    common = arms[FRESH]
    title = f"Test accuracy after {settings.steps} steps, of averaged weights and of the last"
    return Conclusion(
        statements=tuple(_statements(arms)),
        table=table(
            f"Test accuracy in % after {settings.steps} steps: at the rate that is best for each, and at "
            f"{settings.rates[common.best]:g}, the best for the average with fresh statistics",
            arms,
            ("network", lambda arm: arm["end"]),
            ("rate", lambda arm: arm.rate),
            ("accuracy", lambda arm: arm.percent(1)),
            ("at the common rate", lambda arm: average(_at(arm, common), 1)),
        ),
        figures=(by_rate(title, [arms], f"{settings.depth} hidden layers"),),
        caveats=(
            "The rate is constant to the end, as averaging wants it; a rate that falls does much of what an average "
            "does.",
            "The authors begin from a network that was trained with a falling rate, and train for hundreds of epochs.",
        ),
    )


def _at(arm: Arm, common: Arm) -> Numbers:
    """Test accuracies in % at the rate that is picked for another arm."""
    return 100 * arm.array("test")[:, common.best]


def _statements(arms: Arms) -> Iterator[Statement]:
    fresh, edge = arms[FRESH], obstacle(arms[FRESH])
    for end, words in ((OLD, "the statistics of the last network"), (MEAN, "the mean of the statistics of training")):
        text = f"Averaged weights are less accurate with {words} than with fresh ones."
        loss = difference(_at(fresh, fresh), _at(arms[end], fresh), "points")
        yield judge(text, loss, AtLeast(LOSS), obstacle=edge)
    text = "Averaged weights with fresh statistics are more accurate than the last network."
    yield judge(text, gap(fresh, arms[LAST]), AtLeast(GAIN), "93.64 against 93.25 %, VGG16 on CIFAR-10")
