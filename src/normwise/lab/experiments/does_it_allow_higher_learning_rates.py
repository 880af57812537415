"""The learning rates that train a small ReLU network, with and without batch normalization.

Question:
    How much higher may the learning rate be with batch normalization, and what does batch normalization give at a rate
    at which both train?

Claim:
    Batch normalization allows much higher learning rates, because scaling the weights changes neither the output of a
    normalized layer nor the gradient that it passes down: 5 and 30 times the rate of Inception, which without it
    diverged at 5 times (Ioffe & Szegedy 2015, sections 3.3 and 4.2). To it: at an equal small rate there is no gain;
    the gain is the higher rate (Bjorck et al. 2018, a residual network of 110 layers on CIFAR-10).

What would refute it:
    The largest rate that still trains is less than five times larger with batch normalization.

Settings:
    Five hidden layers of 64 ReLU units, initial weights of He's scale, scikit-learn's digits in grey, batches of 60,
    1000 steps of plain gradient descent at a constant rate, twelve of them from 0.005 to 10.24, each twice the one
    before; at the two small ones training goes on to 4000 steps. A rate is usable when the network learns .95 of what
    the one without batch normalization learns, at the rate that is best for that on validation images, in the same
    seed: of its test accuracy after 1000 steps less guessing.

Verdict:
    The largest usable rates are compared as a ratio, paired over seeds; 5 reproduces the claim. "No difference at a
    small rate" counts when the whole interval of the difference after 4000 steps lies within 1 point of 0, which is
    about three standard errors of a mean over five seeds of 450 test images at an accuracy of .98; a network that still
    rises by more than a point in the last third of them gives no verdict. The best rates are picked on validation
    images.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - J. Bjorck, C. Gomes, B. Selman and K. Q. Weinberger, Understanding Batch Normalization, 2018, arXiv:1806.02375.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from normwise.lab.data.splits import digits, one_image
from normwise.lab.design import (
    WITH_AND_WITHOUT,
    Arm,
    Arms,
    DenseTraining,
    Grid,
    average,
    gap,
    geometric,
    plateau,
    table,
)
from normwise.lab.design.curves import largest_usable
from normwise.lab.design.figures import by_rate
from normwise.lab.design.targets import Target
from normwise.lab.intervals import Numbers, difference, ratio
from normwise.lab.networks.dense import Dense
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement, Table
from normwise.lab.training.descent import accuracies, train
from normwise.lab.verdict import AtLeast, Reaches, Within, judge

SAYS = "Ioffe & Szegedy 2015, sections 3.3 and 4.2"
TOPIC = "optimization"
DATA = DIGITS
ARCHITECTURE = "5 hidden layers of 64 ReLU units"
REGIME = Regime.OWN
TESTS = True
TAKES_DATA = True
HIGHER = 5.0
SMALL = 0.01
"""Rates up to this one are small."""
BJORCK = "Bjorck et al. 2018"
SAME = 1.0
"""Points of accuracy."""


@dataclass(frozen=True)
class Settings(DenseTraining):
    """The rates and the network."""

    rates: tuple[float, ...] = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24)
    steps: int = 1000
    longer: int = 4
    """Times the steps, at small rates, where fewer would leave both networks on their way."""


FULL = Settings(steps=3000)


@dataclass(frozen=True)
class Trial:
    """One training."""

    batch_norm: bool
    rate: float
    seed: int


GRID = Grid(Trial, batch_norm=WITH_AND_WITHOUT, rate="rates")
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train; the accuracies after the usual steps and, at small rates, on the way to a plateau and there."""
    data = digits(trial.seed)
    norm, steps = trial.batch_norm, settings.steps * (settings.longer if trial.rate <= SMALL else 1)
    model = Dense(depth=settings.depth, width=settings.width, batch_norm=norm, seed=trial.seed)
    seen: dict[int, dict[str, float]] = {}
    finite = train(
        model,
        data.train,
        rate=trial.rate,
        steps=steps,
        batch=settings.batch,
        seed=trial.seed,
        look=lambda step: seen.update({step: accuracies(model, data)}),
        look_at=(settings.steps, plateau.two_thirds(steps), steps),
    )
    end = accuracies(model, data)  # where the looks are missing too, because it diverged before
    usual, late = (seen.get(step, end) for step in (settings.steps, plateau.two_thirds(steps)))
    return {"finite": finite, **usual, "late": late["validation"], "end": end["validation"], "plateau": end["test"]}


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the largest usable rates, and the accuracies at equal and at best rates."""
    arms = GRID.arms(settings, outcomes)
    title = f"Test accuracy after {settings.steps} steps, at every learning rate"
    target = Target(arms[False])
    marks = ((target.level, f"usable: {target.level:.2f}"),)
    caption = "A network that guesses, or whose loss became infinite, has .10."
    every_rate = by_rate(title, [arms], f"{settings.depth}×{settings.width}, ReLU", caption=caption, marks=marks)
    return Conclusion(
        statements=tuple(_statements(settings, arms, target)),
        table=_table(settings, arms, target),
        figures=(every_rate,),
        caveats=(
            "Only the rates of the table are tried, so a ratio is known no better than their spacing, and an interval "
            "without width says that all seeds agree on the same rates, not that the ratio is exact; where the highest "
            "rate of all is usable, the true ratio is larger.",
            f"The mark is the mean over seeds; each seed has a mark of its own, {target.words}.",
            f"Every rate gets {settings.steps} steps, and {settings.longer} times as many where small rates are "
            "compared with each other. Bjorck et al. trained until the loss no longer fell.",
            f"{one_image()}. Seeds share images, for which the intervals allow.",
        ),
    )


def _largest(arm: Arm, target: Target) -> Numbers:
    return largest_usable(target.at_every_rate(arm), arm.rates, target.share)


def _statements(settings: Settings, arms: Arms, target: Target) -> Iterator[Statement]:
    largest = {each: _largest(arms[each], target) for each in WITH_AND_WITHOUT}
    text = f"The largest rate that still trains is at least {HIGHER:g} times higher with batch normalization."
    yield judge(
        text,
        ratio(largest[True], largest[False], "times higher rate"),
        Reaches(HIGHER),
        "5 to 30 times, Inception on ImageNet",
        obstacle=target.obstacle(),
    )
    for i, rate in enumerate(settings.rates):
        if rate <= SMALL:
            text = (
                f"At the small rate {rate:g}, batch normalization makes no difference to the test accuracy in the end."
            )
            one, two = (100 * arms[each].array("plateau")[:, i] for each in WITH_AND_WITHOUT)
            published = "81.3 % with, 81.8 % without, at 0.0001 (read off the figure, CIFAR-10)"
            ends = (
                plateau.unfinished(arm.array("late")[:, i], arm.array("end")[:, i], arm.words.values()) for arm in arms
            )
            same, why = difference(one, two, "points"), next(filter(None, ends), "")
            yield judge(text, same, Within(-SAME, SAME), published, BJORCK, regime=Regime.ANOTHER, obstacle=why)
    text = "At the best rate of each, the network with batch normalization is more accurate."
    published = "93.2 % at 0.1 with, 81.8 % at 0.0001 without (read off the figure, CIFAR-10)"
    yield judge(text, gap(arms[True], arms[False]), AtLeast(SAME), published, BJORCK, regime=Regime.ANOTHER)


def _table(settings: Settings, arms: Arms, target: Target) -> Table:
    rows = [
        (f"{rate:g}", *(average(100 * arm.array("test")[:, i], 1) for arm in arms))
        for i, rate in enumerate(settings.rates)
    ]
    rows += [
        (
            f"{rate:g}, {settings.steps * settings.longer} steps",
            *(average(100 * arm.array("plateau")[:, i], 1) for arm in arms),
        )
        for i, rate in enumerate(settings.rates)
        if rate <= SMALL
    ]
    limits = (geometric(_largest(arm, target), 3) for arm in arms)
    rows += [("largest usable rate", *limits), ("best rate on validation", *(arm.rate for arm in arms))]
    return table(
        f"Test accuracy in % after {settings.steps} steps at each rate",
        rows,
        ("rate", lambda row: row[0]),
        (WITH_AND_WITHOUT[True], lambda row: row[1]),
        (WITH_AND_WITHOUT[False], lambda row: row[2]),
        seeds=arms.seeds,
        more=" (of the largest usable rate: geometric)",
        tried=len(settings.rates),
    )
