"""Is a network more accurate with batch normalization, when each has the rate that suits it?

Question:
    At the best rate of each, how much higher does a network with batch normalization end?

Claim:
    Batch normalization ends higher: 72.7 % against 72.2 % when nothing else is changed in Inception, 74.8 % with higher
    rates (Ioffe & Szegedy 2015, figure 3). VGG-16 on ImageNet has an error of 28.0 % with it and 29.2 % without (Wu &
    He 2018). Against it: networks without any normalization reach 86.5 % on ImageNet (Brock et al. 2021).

What would refute it:
    At the best rate of each, the network with batch normalization ends lower. A gain below half a point does not show
    it.

Settings:
    3, 5 and 10 hidden layers of 64 ReLU units, He's initial weights, scikit-learn's digits, batches of 60, 1000 steps
    of gradient descent whose rate falls to 0 along half a cosine, from 0.01, 0.03, 0.1, 0.3, 1, 3 or 10; the best is
    picked on validation images for each depth and arm.

Verdict:
    Differences of the test accuracy are paired over seeds; a gain is reproduced from half a point on, with an interval
    above 0.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - Y. Wu and K. He, Group Normalization, 2018, arXiv:1803.08494.
    - A. Brock, S. De, S. L. Smith and K. Simonyan, High-Performance Large-Scale Image Recognition Without
      Normalization, 2021, arXiv:2102.06171.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from normwise.lab.data.splits import digits, one_image, sizes
from normwise.lab.design import WITH_AND_WITHOUT, Arms, Grid, SideBySide, by_rate, gap, table
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement
from normwise.lab.training.descent import half_a_cosine
from normwise.lab.training.stacks import accuracies, both
from normwise.lab.verdict import AtLeast, judge

SAYS = "Ioffe & Szegedy 2015, figure 3"
TOPIC = "optimization"
DATA = DIGITS
ARCHITECTURE = "3, 5 and 10 hidden layers of 64 ReLU units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
SEEDS = 20
GAIN = 0.5
PUBLISHED = "0.5 points, 72.7 % against 72.2 %, Inception on ImageNet; 1.2 points, VGG-16 (Wu & He 2018)"


@dataclass(frozen=True)
class Settings(SideBySide):
    """Depths and rates."""

    depths: tuple[int, ...] = (3, 5, 10)
    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    steps: int = 1000


FULL = Settings(rates=(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12), steps=5000)


@dataclass(frozen=True)
class Trial:
    """All rates of one network, side by side."""

    depth: int
    batch_norm: bool
    seed: int


GRID = Grid(Trial, depth="depths", batch_norm=WITH_AND_WITHOUT)
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate."""
    data = digits(trial.seed)
    stack = settings.stack(trial.seed, trial.batch_norm, depth=trial.depth)
    settings.train(stack, data.train, trial.seed, schedule=half_a_cosine(settings.steps))
    return both(stack, data) | {"train": accuracies(stack, data.train)}


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare test accuracies at each arm's best rate."""
    arms = GRID.arms(settings, outcomes)
    title = f"Test accuracy after {settings.steps} steps, at every initial rate"
    show = partial(by_rate, x_label="initial learning rate", caption="The rate falls to 0 along half a cosine.")
    by_initial_rate = show(title, arms.by("depth"), "{depth} hidden layers")
    error = 100 * (0.98 * 0.02 / sizes()[2]) ** 0.5
    return Conclusion(
        statements=tuple(_statements(settings, arms)),
        table=table(
            f"Accuracy in % after {settings.steps} steps",
            arms,
            ("hidden layers", lambda arm: arm["depth"]),
            ("network", lambda arm: arm["batch_norm"]),
            ("best rate", lambda arm: arm.rate),
            ("test", lambda arm: arm.percent(2)),
            ("training", lambda arm: arm.percent(2, "train")),
        ),
        figures=(by_initial_rate,),
        caveats=(
            f"{one_image()} and the standard error of an accuracy near .98 is {error:.2f} points for one "
            "split; only the pairing and the number of seeds make half a point visible.",
            "Both networks reach the training accuracy that the table shows, so that what is compared is "
            "generalization where that is near 100, and optimization where it is not.",
        ),
    )


def _statements(settings: Settings, arms: Arms) -> Iterator[Statement]:
    for depth in settings.depths:
        text = f"With {depth} hidden layers, the network with batch normalization ends higher."
        yield judge(text, gap(arms[depth, True], arms[depth, False]), AtLeast(GAIN), PUBLISHED)
