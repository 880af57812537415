"""Does batch normalization make a network easier to fool, by noise and by adversarial changes?

Question:
    Two networks of about the same accuracy, one with batch norm and one without. How much accuracy does each keep when
    the test images get normal noise, and when every pixel is moved by a little in the direction that raises the loss?

Claim:
    Batch norm is a cause of adversarial vulnerability: ResNet-110 on CIFAR-10 with batch norm and with Fixup has 92.58
    and 93.0 % clean, 59.0 and 76.3 % with noise, 8.5 and 38.1 % after projected gradient descent in the maximum norm
    (Galloway et al. 2019, five seeds). On corrupted ImageNet, ResNet-50's mean error is 76.7 with batch norm, 72.4 with
    group norm and 72.0 with Fixup (Schneider et al. 2020).

What would refute it:
    With batch norm no less accuracy is left.

Settings:
    scikit-learn's digits, three hidden layers of 64 ReLU units, He's initial weights, 600 steps of gradient descent
    with batches of 60; the best of the rates 0.03, 0.1, 0.3, 1 and 3 for each arm on validation images as they are.
    Noise of .1, .2 and .3 standard deviation; the fast gradient sign method with steps of .05, .1 and .2, pixels being
    between 0 and 1.

Verdict:
    Differences of test accuracy, paired over seeds; a loss counts from 2 points on, "as accurate" when the whole
    interval is within 2 points.

References:
    - A. Galloway, A. Golubeva, T. Tanay, M. Moussa and G. Taylor, Batch Normalization is a Cause of Adversarial
      Vulnerability, 2019, arXiv:1905.02161.
    - S. Schneider, E. Rusak, L. Eck, O. Bringmann, W. Brendel and M. Bethge, Improving robustness against common
      corruptions by covariate shift adaptation, 2020, arXiv:2006.16971.
    - I. Goodfellow, J. Shlens and C. Szegedy, Explaining and Harnessing Adversarial Examples, 2014, arXiv:1412.6572.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from normwise.lab.data.splits import digits
from normwise.lab.design import (
    GUESSING,
    WITH_AND_WITHOUT,
    Arms,
    DenseTraining,
    Grid,
    Measures,
    average,
    obstacle,
    table,
)
from normwise.lab.design.figures import figure, line, panel
from normwise.lab.intervals import difference
from normwise.lab.networks.dense import Dense
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Estimate, Regime, Statement
from normwise.lab.training.attacks import moved, noisy
from normwise.lab.training.descent import accuracy
from normwise.lab.verdict import AtLeast, Within, judge

SAYS = "Galloway et al. 2019"
TOPIC = "optimization"
DATA = DIGITS
ARCHITECTURE = "3 hidden layers of 64 ReLU units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
LOSS = 2.0
KINDS = {"noise": "normal noise", "sign": "steps against the gradient's sign"}


@dataclass(frozen=True)
class Settings(DenseTraining):
    """The network, its training, and how far images are changed."""

    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    noise: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3)
    sign: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2)
    depth: int = 3


FULL = Settings(rates=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0), steps=3000)


@dataclass(frozen=True)
class Trial:
    """All rates with or without batch norm."""

    batch_norm: bool
    seed: int


GRID = Grid(Trial, batch_norm=WITH_AND_WITHOUT)
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate; measure on changed test images."""
    data = digits(trial.seed)
    measures: Measures = {
        "validation": lambda model: accuracy(model, data.validation),
        "noise": lambda model: [accuracy(model, noisy(data.test, size, trial.seed)) for size in settings.noise],
        "sign": lambda model: [accuracy(model, moved(model, data.test, size)) for size in settings.sign],
    }
    depth, width = settings.depth, settings.width
    make = partial(Dense, depth=depth, width=width, batch_norm=trial.batch_norm, seed=trial.seed)
    return settings.at_every_rate(make, data.train, trial.seed, measures, batch=settings.batch)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the arms at each one's best rate, for every change."""
    arms = GRID.arms(settings, outcomes)
    changes = [(kind, i, size) for kind in KINDS for i, size in enumerate(getattr(settings, kind))]
    panels = []
    for kind, words in KINDS.items():
        lines = (line(arm["batch_norm"], getattr(settings, kind), arm.points(kind) / 100) for arm in arms)
        panels.append(panel(words, lines, GUESSING))
    title = "Test accuracy that is left, by how far images are changed"
    label = "size of the change, pixels being between 0 and 1"
    by_change = figure("accuracy_by_change", title, panels, x_label=label)
    return Conclusion(
        statements=tuple(_statements(settings, arms)),
        table=table(
            f"Test accuracy in %, at the rates {' and '.join(arm.rate for arm in arms)}",
            changes,
            ("change", lambda row: KINDS[row[0]]),
            ("size", lambda row: f"{row[2]:g}"),
            *((arm["batch_norm"], lambda row, arm=arm: average(arm.points(row[0])[:, row[1]], 1)) for arm in arms),
            seeds=arms.seeds,
            tried=len(settings.rates),
        ),
        figures=(by_change,),
        caveats=(
            "The arms differ in their rates too: each has the one that is best for it on images as they are.",
            "One step against the gradient's sign is the weakest of attacks; where gradients vanish it says little.",
        ),
    )


def _statements(settings: Settings, arms: Arms) -> Iterator[Statement]:
    def lead(batch_norm: bool, kind: str, place: int) -> Estimate:
        ours, theirs = (arms[each].points(kind)[:, place] for each in (batch_norm, not batch_norm))
        return replace(difference(ours, theirs, "points"), obstacle=obstacle(*arms))

    text = "On images as they are, both are as accurate."
    yield judge(text, lead(True, "noise", 0), Within(-LOSS, LOSS), "92.58 and 93.0 %")
    published = {"noise": "59.0 against 76.3 %", "sign": "8.5 against 38.1 %, projected gradient descent"}
    for kind, words in (("noise", "Normal noise of"), ("sign", "Every pixel moved by")):
        for place, size in enumerate(getattr(settings, kind)):
            if size:
                text = f"{words} {size:g}: with batch norm less accuracy is left than without."
                yield judge(text, lead(False, kind, place), AtLeast(LOSS), published[kind])
