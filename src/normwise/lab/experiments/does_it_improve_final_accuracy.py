"""Is a network more accurate with batch normalization, when each has the rate that suits it?

Question:
    At the best rate of each, how much higher does a network with batch normalization end?

Claim:
    Batch normalization ends higher: 72.7 % against 72.2 % when nothing else is changed in Inception, 74.8 % with higher
    rates (Ioffe & Szegedy 2015, figure 3). VGG-16 on ImageNet has an error of 28.0 % with it and 29.2 % without (Wu &
    He 2018). Against it: networks without any normalization reach 86.5 % on ImageNet (Brock et al. 2021).

What would refute it:
    The paired gain at the best rate of each is below half a point, or its interval contains 0.

Settings:
    3, 5 and 10 hidden layers of 64 ReLU units, He's initial weights, scikit-learn's digits, batches of 60, 1000 steps
    of gradient descent whose rate falls to 0 along half a cosine, from 0.03, 0.1, 0.2, 0.4, 1 or 3; the best is picked
    on validation images for each depth and arm.

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

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from normwise.lab.data import digits
from normwise.lab.models import he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Figure, Panel, Series, Statement, Table
from normwise.lab.stack import Stack, batch_norm
from normwise.lab.stack_training import accuracies, at_best, best, both, train_stack
from normwise.lab.statistics import band, cell, difference, mean
from normwise.lab.verdict import AtLeast, judge

SAYS = "Ioffe & Szegedy 2015, figure 3"
TOPIC = "optimization"
TAKES_DATA = True
SEEDS = 20
GAIN = 0.5
ARMS = {True: "with batch norm", False: "without"}


@dataclass(frozen=True)
class Settings:
    """Depths and rates."""

    depths: tuple[int, ...] = (3, 5, 10)
    rates: tuple[float, ...] = (0.03, 0.1, 0.2, 0.4, 1.0, 3.0)
    steps: int = 1000
    width: int = 64
    batch: int = 60


FULL = Settings(rates=(0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0), steps=5000)


@dataclass(frozen=True)
class Trial:
    """All rates of one network, side by side."""

    depth: int
    batch_norm: bool
    seed: int


def trials(settings: Settings, seeds: Sequence[int]) -> list[Trial]:
    """Every depth with and without batch normalization, with every seed."""
    return [Trial(depth, batch_norm, seed) for depth in settings.depths for batch_norm in ARMS for seed in seeds]


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate."""
    data = digits(trial.seed)
    stack = Stack(
        len(settings.rates),
        depth=trial.depth,
        width=settings.width,
        activation="relu",
        normalize=batch_norm if trial.batch_norm else None,
        std=he,
        seed=trial.seed,
    )
    train_stack(
        stack,
        data.train,
        rates=settings.rates,
        steps=settings.steps,
        batch=settings.batch,
        seed=trial.seed,
        schedule=lambda step: (1 + math.cos(math.pi * step / settings.steps)) / 2,
    )
    return both(stack, data) | {"train": accuracies(stack, data.train)}


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare test accuracies at each arm's best rate."""
    return Conclusion(
        statements=tuple(_statements(settings, outcomes)),
        table=_table(settings, outcomes),
        figures=(_figure(settings, outcomes),),
        caveats=(
            "One of the digits' 450 test images is 0.22 points and the standard error of an accuracy near .98 is .66 "
            "points for one split; only the pairing and the number of seeds make half a point visible.",
            "Both networks reach the training accuracy that the table shows, so that what is compared is "
            "generalization where that is near 100, and optimization where it is not.",
        ),
    )


def _statements(settings: Settings, outcomes: Outcomes) -> list[Statement]:
    found = []
    for depth in settings.depths:
        with_it, without = (100 * at_best(outcomes.where(depth=depth, batch_norm=arm)) for arm in ARMS)
        text = f"With {depth} hidden layers, the network with batch normalization ends higher."
        published = "0.5 points, 72.7 % against 72.2 %, Inception on ImageNet; 1.2 points, VGG-16 (Wu & He 2018)"
        found.append(judge(text, difference(with_it, without, "points"), AtLeast(GAIN), published))
    return found


def _table(settings: Settings, outcomes: Outcomes) -> Table:
    rows = []
    for depth in settings.depths:
        for normalized, words in ARMS.items():
            arm = outcomes.where(depth=depth, batch_norm=normalized)
            test, trained = (cell(mean(100 * at_best(arm, name), "%"), 2) for name in ("test", "train"))
            rows.append((str(depth), words, f"{settings.rates[best(arm)]:g}", test, trained))
    n = len(outcomes.where(depth=settings.depths[0], batch_norm=True))
    caption = f"Accuracy in % after {settings.steps} steps. Mean [95 % interval] over {n} seeds"
    return Table(caption, ("hidden layers", "network", "best rate", "test", "training"), tuple(rows))


def _figure(settings: Settings, outcomes: Outcomes) -> Figure:
    panels = []
    for depth in settings.depths:
        lines = []
        for normalized, words in ARMS.items():
            values = outcomes.where(depth=depth, batch_norm=normalized).array("test")
            lines.append(Series(words, settings.rates, *(tuple(line) for line in band(values))))
        panels.append(Panel(f"{depth} hidden layers", tuple(lines)))
    return Figure(
        name="accuracy_by_rate",
        title=f"Test accuracy after {settings.steps} steps, at every initial rate",
        caption="The rate falls to 0 along half a cosine. Line: mean over seeds; band: smallest to largest.",
        x_label="initial learning rate",
        y_label="test accuracy",
        panels=tuple(panels),
        x_scale="log",
    )
