"""The best strength of dropout with batch normalization and without it, and whether both together underfit.

Question:
    When each has the strength of dropout that suits it, how much less does a network with batch normalization want, and
    what becomes of one that has both in full strength?

Claim:
    Dropout "can be either removed or reduced in strength" in a batch-normalized network: it was removed from Inception,
    where it was 40 %, and the networks of the ensemble have 5 % or 10 % (Ioffe & Szegedy 2015, sections 3.4 and 4.2).
    To it: on CaffeNet the best dropout falls from .3 (.497) to .2 (.527), not to 0 (Mishkin et al., 2016). Teaching
    material adds that batch normalization and strong dropout together underfit.

What would refute it:
    The best strength is the same or higher with batch normalization, or less of it costs accuracy; or with both in full
    strength the training accuracy is no lower than with batch normalization alone, and the test accuracy no lower than
    with less.

Settings:
    Two hidden layers of 100 ReLU units on scikit-learn's digits. "Few": 100 training images, batches of 20. "Noisy":
    600 training images of which 30 % have a random label, batches of 60. Dropout of 0, .05, .1, .2, .3, .5 and .7 in
    both layers, behind the activation; 600 steps at rates 0.003, 0.01, 0.03, 0.1, 0.3, 1 and 3, of which each strength
    has its own, the best on validation images.

Verdict:
    Each seed's best strength is the mean of those that are at most a point below the highest accuracy on its validation
    images. "Weaker" is reproduced when the strengths differ by at least 0.1 with an interval above 0; that dropout can
    be removed, or reduced to .1, when the whole interval of the difference to the strength that is best in the mean is
    above -0.5 points. "Underfits" is reproduced when, with batch normalization and each at its best rate, the training
    accuracy at a dropout of .5 is at least a point below that without dropout, and when the test accuracy is at least
    half a point below that of the best strength; where .5 is the best strength, there is no verdict on this.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - D. Mishkin, N. Sergievskiy and J. Matas, Systematic evaluation of CNN advances on the ImageNet, 2016,
      arXiv:1606.02228, and the repository caffenet-benchmark.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from normwise.lab.data.splits import digits, first, some_wrong
from normwise.lab.design import (
    WITH_AND_WITHOUT,
    Arm,
    Arms,
    Grid,
    SideBySide,
    across,
    average,
    by_pair,
    figure,
    gap,
    obstacle,
    panel,
    table,
)
from normwise.lab.intervals import Numbers, difference
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Estimate, Figure, Regime, Statement
from normwise.lab.training.stacks import accuracies, both
from normwise.lab.verdict import AtLeast, AtMost, judge

SAYS = "Ioffe & Szegedy 2015, section 3.4"
TOPIC = "regularization"
DATA = DIGITS
ARCHITECTURE = "2 hidden layers of 100 ReLU units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
LESS, WEAK, STRONG = 0.1, 0.1, 0.5
FIT, GAIN = 1.0, 0.5
ITSELF = "the best dropout is this one"
"""The obstacle of a strength that would be compared with itself."""
AS_GOOD = 0.01
"""A validation accuracy that is lower by no more is as good: three images of 270."""
TASKS = {"few": "100 images", "noisy": "600 images, 30 % of the labels random"}
IMAGES = {"few": 100, "noisy": 600}
BATCH = {"few": 20, "noisy": 60}
WRONG = {"few": 0.0, "noisy": 0.3}


@dataclass(frozen=True)
class Settings(SideBySide):
    """Strengths and rates."""

    dropouts: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    width: int = 100


QUICK = Settings(dropouts=(0.0, 0.1, 0.3, 0.5), rates=(0.01, 0.03, 0.1, 0.3, 1.0), steps=300)
FULL = Settings(steps=3000)


@dataclass(frozen=True)
class Trial:
    """All strengths and rates of one network, side by side."""

    task: str
    batch_norm: bool
    seed: int


GRID = Grid(Trial, task=TASKS, batch_norm=WITH_AND_WITHOUT, inside={"dropout": "dropouts"})
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train with every strength and rate; lists of shape (strengths, rates)."""
    data = digits(trial.seed)
    chosen = some_wrong(first(data.train, IMAGES[trial.task]), WRONG[trial.task], trial.seed)
    each, rates = zip(*product(settings.dropouts, settings.rates), strict=True)
    stack = settings.stack(trial.seed, trial.batch_norm, members=len(rates), depth=2, dropout=each)
    settings.train(stack, chosen, trial.seed, rates=rates, batch=BATCH[trial.task])
    return by_pair(both(stack, data) | {"train": accuracies(stack, chosen)}, settings.dropouts, settings.rates)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the best strengths, and what strong dropout does to the fit."""
    arms = GRID.arms(settings, outcomes)
    return Conclusion(
        statements=tuple(text for task in TASKS for text in _statements(task, arms.where(task=task))),
        table=table(
            f"Accuracy in % after {settings.steps} steps, and the best strength of dropout",
            arms,
            ("trained on", lambda arm: arm["task"]),
            ("network", lambda arm: arm["batch_norm"]),
            ("dropout", lambda arm: arm["dropout"]),
            ("best rate", lambda arm: arm.rate),
            ("test", lambda arm: arm.percent(1)),
            ("training", lambda arm: arm.percent(1, "train")),
            ("best strength of all", lambda arm: _strength(arms, arm)),
        ),
        figures=(_figure(settings, arms),),
        caveats=(
            "Which strength is best is told by a few hundred validation images for each seed; where accuracies hardly "
            "depend on it, all strengths are as good, and the best one is their mean.",
            "With random labels a low rate is itself a remedy, since the network is then stopped early; training "
            "accuracies are of the labels that were trained on, wrong ones included: a lower one can be better.",
        ),
    )


def best_strengths(arms: Arms) -> Numbers:
    """The strength that is best for each seed on its validation images, as the mean of equally good ones."""
    scores = np.stack([arm.numbers("validation") for arm in arms], axis=1)
    good = scores >= scores.max(axis=1, keepdims=True) - AS_GOOD - 1e-9
    strengths = np.array([arm.values["dropout"] for arm in arms])
    return np.asarray((good * strengths).sum(axis=1) / good.sum(axis=1))


def _strength(arms: Arms, arm: Arm) -> str:
    own = arms.where(task=arm.values["task"], batch_norm=arm.values["batch_norm"])
    return average(best_strengths(own), 2) if arm is next(iter(own)) else ""


def _best(arms: Arms) -> Arm:
    """The arm with the strength that is best in the mean over seeds."""
    return max(arms, key=lambda arm: float(arm.numbers("validation").mean()))


def _statements(task: str, arms: Arms) -> Iterator[Statement]:
    where, normalized, plain = TASKS[task], arms.where(batch_norm=True), arms.where(batch_norm=False)
    edge = obstacle(*arms)
    less: Estimate = difference(best_strengths(plain), best_strengths(normalized), "of the units less")
    text = f"{where}: the best dropout is weaker with batch normalization."
    published = "5 or 10 % and none against 40 %, Inception; .2 against .3, CaffeNet (Mishkin et al. 2016)"
    yield judge(text, less, AtLeast(LESS), published, obstacle=edge)
    no_worse = AtLeast(-GAIN, nothing=-GAIN)
    for strength, published in ((0.0, "removed, Inception"), (WEAK, "5 % or 10 %, ensemble of Inception")):
        text = f"{where}: with batch normalization a dropout of {strength:g} is as good as the best one."
        yield judge(text, gap(normalized[strength], _best(normalized)), no_worse, published, obstacle=edge)
    text = f"{where}: at the best dropout of each, batch normalization ends higher."
    published, says = "3.0 points, .527 at .2 against .497 at .3, CaffeNet", "Mishkin et al. 2016"
    lead = gap(_best(normalized), _best(plain))
    yield judge(text, lead, AtLeast(GAIN), published, says, obstacle=edge)
    says, own = "teaching material", Regime.OWN
    both_ = f"batch normalization and dropout of {STRONG:g} together"
    strong, best = normalized[STRONG], _best(normalized)
    text = f"{where}: {both_} have a lower training accuracy than batch normalization alone, each at its best rate."
    yield judge(text, gap(strong, normalized[0.0], "train"), AtMost(-FIT), says=says, regime=own)
    text = f"{where}: {both_} are less accurate on test images than with the best dropout."
    why = edge or (ITSELF if best is strong else "")
    yield judge(text, gap(strong, best), AtMost(-GAIN), says=says, regime=own, obstacle=why)


def _figure(settings: Settings, arms: Arms) -> Figure:
    panels = []
    for task, words in TASKS.items():
        pair = [(name, arms.where(task=task, batch_norm=each)) for each, name in WITH_AND_WITHOUT.items()]
        panels.append(panel(words, (across(name, own, "dropout") for name, own in pair)))
    title = f"Test accuracy after {settings.steps} steps, by the share of units that are left out"
    caption = "Each at the rate that is best for it on validation images."
    return figure("accuracy_by_dropout", title, panels, x_label="dropout", caption=caption)
