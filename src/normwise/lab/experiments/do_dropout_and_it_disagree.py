"""Does dropout make the running variance of batch normalization wrong, and is that what costs accuracy?

Question:
    How far from the running variance is the variance that a layer really meets in inference, when units were left out
    in training; and does accuracy come back when the statistics are estimated again without dropout?

Claim:
    Dropout in front of batch normalization shifts the variance: in training it is larger by 1 / (1 - p) of what
    inference meets, layer by layer more, so that there is "disharmony" between the two: DenseNet on CIFAR-100 reached
    77.42 % without dropout and 68.55 % with dropout of .5 in each bottleneck. Dropout behind the last normalization
    does not do this (Li et al. 2019).

What would refute it:
    The ratio of the variances does not grow with dropout, or accuracy does not rise when the statistics are estimated
    again.

Settings:
    Four hidden layers of 100 ReLU units with batch normalization in front of each activation and dropout of 0, .1, .3
    or .5 behind each, or behind the last only; scikit-learn's digits, batches of 60, 800 steps of gradient descent at
    rates 0.02, 0.06, 0.2, 0.6, 2 and 6, the best of which is picked on validation images. The shift of a layer is
    max(v/r, r/v) for the variance v of its input over the training images in inference and its running variance r, the
    median over the units. Again means the variances and means over all training images in inference mode, from the
    first layer to the last.

Verdict:
    "Grows" is reproduced when the shift of the last layer with dropout of .5 is at least 1.2 times that without it, and
    the last layer's at least 1.1 times the second's. "Gets accuracy back" is reproduced at half a point or more, and
    "harmless behind the last" when the interval of the difference to no dropout is above -1 point.

References:
    - X. Li, S. Chen, X. Hu and J. Yang, Understanding the Disharmony between Dropout and Batch Normalization by
      Variance Shift, 2019, arXiv:1801.05134.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from normwise.lab.data.splits import digits
from normwise.lab.design import (
    Arms,
    DenseTraining,
    Grid,
    across,
    average,
    by_pair,
    figure,
    gap,
    line,
    obstacle,
    panel,
    table,
)
from normwise.lab.intervals import difference, ratio
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Panel, Regime, Statement
from normwise.lab.training.stacks import accuracies, both
from normwise.lab.training.variance_shift import estimate_again, shifts
from normwise.lab.verdict import AtLeast, judge

SAYS = "Li et al. 2019"
TOPIC = "regularization"
DATA = DIGITS
ARCHITECTURE = "4 hidden layers of 100 ReLU units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
GROWS = 1.2
DEEPER = 1.1
GAIN = 0.5
SAME = 1.0
PLACES = {False: "behind every layer", True: "behind the last only"}


@dataclass(frozen=True)
class Settings(DenseTraining):
    """Dropouts and rates."""

    dropouts: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5)
    rates: tuple[float, ...] = (0.02, 0.06, 0.2, 0.6, 2.0, 6.0)
    steps: int = 800
    depth: int = 4
    width: int = 100


FULL = Settings(rates=(0.006, 0.02, 0.06, 0.2, 0.6, 2.0, 6.0), steps=3000)


@dataclass(frozen=True)
class Trial:
    """All dropouts and rates, side by side."""

    last_only: bool
    seed: int


GRID = Grid(Trial, last_only=PLACES, inside={"dropout": "dropouts"})
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train, compare variances layer by layer, and test before and after new statistics; lists (dropouts, rates)."""
    data = digits(trial.seed)
    dropouts, rates = zip(*product(settings.dropouts, settings.rates), strict=True)
    stack = settings.stack(trial.seed, True, members=len(rates), dropout=dropouts, dropout_last_only=trial.last_only)
    settings.train(stack, data.train, trial.seed, rates=rates)
    found: dict[str, Any] = both(stack, data) | {"shift": shifts(stack, data.train)}
    estimate_again(stack, data.train)
    found["again"] = accuracies(stack, data.test)
    return by_pair(found, settings.dropouts, settings.rates)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Judge the shift of the variance and what new statistics give."""
    arms = GRID.arms(settings, outcomes)
    layers = range(settings.depth)
    shown: dict[str, list[Panel]] = {"layer": [], "dropout": []}
    for place in arms.by("last_only"):
        title = f"dropout {place.words['last_only']}"
        lines = (line(f"dropout {arm['dropout']}", (i + 1 for i in layers), arm.numbers("shift")) for arm in place)
        shown["layer"].append(panel(title, lines))
        ways = {"running statistics": "test", "fresh statistics": "again"}
        shown["dropout"].append(panel(title, (across(words, place, "dropout", way) for words, way in ways.items())))
    title = "How far the running variance is from the real one in inference"
    label, caption = "shift of the variance, max(v/r, r/v)", "1 means that they agree."
    by_layer = figure("shift_by_layer", title, shown["layer"], x_label="layer", y_label=label, caption=caption)
    title = "Test accuracy by dropout, with running statistics and with new ones"
    by_dropout = figure("accuracy_by_dropout", title, shown["dropout"], x_label="dropout")
    return Conclusion(
        statements=tuple(_statements(settings, arms)),
        table=table(
            "Test accuracy in % with the running statistics and with statistics estimated again without dropout, and "
            "the shift of the variance in each layer",
            arms,
            ("dropout", lambda arm: arm["last_only"]),
            ("share", lambda arm: arm["dropout"]),
            ("rate", lambda arm: arm.rate),
            ("running", lambda arm: arm.percent(1)),
            ("again", lambda arm: arm.percent(1, "again")),
            *((f"shift, layer {i + 1}", lambda arm, i=i: average(arm.numbers("shift")[:, i], 2)) for i in layers),
        ),
        figures=(by_layer, by_dropout),
        caveats=(
            "The shift is the median over the units of a layer, since units that hardly ever fire have quotients "
            "without meaning; the paper averages.",
            "A running variance also lags behind the weights and has the noise of batches, so that the shift is a "
            "little above 1 without any dropout; that is what the others are compared with.",
            "In the first layer nothing is left out in front of the normalization, so that only the noise shows there.",
        ),
    )


def _statements(settings: Settings, arms: Arms) -> Iterator[Statement]:
    least, most = settings.dropouts[0], settings.dropouts[-1]
    words, none, every = f"dropout of {most:g}", arms[False, least], arms[False, most]
    shift = every.numbers("shift")
    text = f"With {words} behind every layer, the variance of the last layer is shifted more than without dropout."
    more, edge = (
        ratio(shift[:, -1], none.numbers("shift")[:, -1], "times the shift without dropout"),
        obstacle(every, none),
    )
    yield judge(text, more, AtLeast(GROWS, nothing=1.0), regime=Regime.OWN, obstacle=edge)
    text = f"With {words} behind every layer, the shift grows with depth, from the second layer to the last."
    deeper, own = ratio(shift[:, -1], shift[:, 1], "times the shift of the second layer"), obstacle(every)
    yield judge(text, deeper, AtLeast(DEEPER, nothing=1.0), regime=Regime.OWN, obstacle=own)
    text = f"{words.capitalize()} behind every layer costs accuracy."
    published = "8.9 points, 77.42 % to 68.55 %, DenseNet on CIFAR-100"
    yield judge(text, gap(none, every), AtLeast(GAIN), published)
    text = f"With {words} behind every layer, statistics estimated again without dropout get accuracy back."
    yield judge(text, difference(every.points("again"), every.points(), "points"), AtLeast(GAIN), obstacle=own)
    text = f"{words.capitalize()} behind the last layer only does no harm."
    yield judge(text, gap(arms[True, most], arms[True, least]), AtLeast(-SAME, nothing=-SAME))
