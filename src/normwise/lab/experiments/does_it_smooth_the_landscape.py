"""The roughness of the loss along the gradient, and the change of a gradient when the layers below take a step.

Question:
    With batch normalization, does the loss vary less along a step, does the gradient stay closer to what it was, and
    does a layer's gradient change less when the layers below it are updated?

Claim:
    Batch normalization makes the landscape smoother: along the gradient the loss varies less and the gradient is more
    predictive, by about two orders of magnitude early in the training of a VGG on CIFAR-10; while internal covariate
    shift, measured as the change of a layer's gradient by the update of the layers below, is no smaller, in a deep
    linear network much larger (Santurkar et al. 2018, sections 2.2, 3.1 and 3.2). At initialization the opposite:
    gradients explode with depth (Yang et al. 2019).

What would refute it:
    Without batch normalization the loss varies less than twice as much along the gradient.

Settings:
    Five hidden layers of 64 ReLU units, He's initial weights, scikit-learn's digits, batches of 60, 400 steps of
    gradient descent at the common rates 0.03, 0.1 and 0.3. At 13 of these steps, from the 1st to the 400th and closer
    together at the beginning, on a batch of 60 in training mode: the range of the loss over steps of 1/2 to 4 times the
    rate along the gradient; the largest distance of the gradient there from the one at the start; and, for each layer
    but the first, the cosine between its gradient before and after the layers below have taken their step.

Verdict:
    Ranges and distances are compared as ratios (without over with), geometric means over time, paired over seeds;
    smoother is reproduced from 2 on. "No smaller shift" is reproduced when the mean cosine is smaller with batch
    normalization with an interval below 0.

References:
    - S. Santurkar, D. Tsipras, A. Ilyas and A. Madry, How Does Batch Normalization Help Optimization?, 2018,
      arXiv:1805.11604.
    - G. Yang, J. Pennington, V. Rao, J. Sohl-Dickstein and S. S. Schoenholz, A Mean Field Theory of Batch
      Normalization, 2019, arXiv:1902.08129.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from normwise.lab.data.splits import batches, digits
from normwise.lab.design import WITH_AND_WITHOUT, Arm, Arms, Grid, Stacks, average, geometric, table
from normwise.lab.design.figures import figure, line, panel
from normwise.lab.intervals import Numbers, difference, ratio
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Figure, Regime, Statement
from normwise.lab.training.landscape import Roughness
from normwise.lab.training.looking import over_time
from normwise.lab.training.stacks import both
from normwise.lab.verdict import AtLeast, AtMost, judge

SAYS = "Santurkar et al. 2018"
TOPIC = "why it works"
DATA = DIGITS
ARCHITECTURE = "5 hidden layers of 64 ReLU units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
SMOOTHER = 2.0


@dataclass(frozen=True)
class Settings(Stacks):
    """Rates, and after which steps to look."""

    rates: tuple[float, ...] = (0.03, 0.1, 0.3)
    at: tuple[int, ...] = (1, 2, 4, 7, 12, 20, 35, 60, 100, 150, 200, 300, 400)
    depth: int = 5


FULL = Settings(rates=(0.01, 0.03, 0.1, 0.3, 1.0), at=(1, 2, 4, 7, 12, 20, 35, 60, 100, 200, 400, 700, 1200, 2000))
NEIGHBOURING = {
    "looks": Settings(at=(10, 50, 90, 130, 170, 210, 250, 290, 330, 370, 400)),
    "width": Settings(width=96),
}
"""Not other rates: what is compared is what happens at a rate."""


@dataclass(frozen=True)
class Trial:
    """All rates of one arm, side by side."""

    batch_norm: bool
    seed: int


GRID = Grid(Trial, batch_norm=WITH_AND_WITHOUT)
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate, and probe the landscape on the way; lists of shape (rates, looks)."""
    data = digits(trial.seed)
    stack = settings.stack(trial.seed, trial.batch_norm)
    others = batches(data.train, settings.batch, trial.seed + 10_000)
    look = Roughness(stack, others, settings.rates)
    settings.train(stack, data.train, trial.seed, steps=max(settings.at), look=look, look_at=settings.at)
    return {name: np.transpose(values).tolist() for name, values in look.seen.items()} | both(stack, data)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the roughness with and without batch normalization at every common rate."""
    arms = GRID.arms(settings, outcomes)
    rows = [(i, rate, arm) for i, rate in enumerate(settings.rates) for arm in arms]
    return Conclusion(
        statements=tuple(_statements(settings, arms)),
        table=table(
            "Range of the loss and largest change of the gradient along the gradient, geometric means over time; "
            "mean cosine of gradients before and after a step of the layers below; test accuracy in % at the end",
            rows,
            ("rate", lambda row: f"{row[1]:g}"),
            ("network", lambda row: row[2]["batch_norm"]),
            ("range", lambda row: geometric(_over_time(settings, row[2], row[0], "range"), 3)),
            ("change", lambda row: geometric(_over_time(settings, row[2], row[0], "distance"), 3)),
            ("cosine", lambda row: average(over_time(row[2].array("cosine")[:, row[0]], settings.at), 2)),
            ("test", lambda row: average(100 * row[2].array("test")[:, row[0]], 1)),
            seeds=arms.seeds,
        ),
        figures=tuple(_figure(settings, arms, *each) for each in FIGURES),
        caveats=(
            "The two are compared at a common rate, as in the paper; with batch normalization larger rates train, and "
            "there its landscape is rougher again.",
            "A smaller range along the gradient is also what a network has that has already learnt more; the figure "
            "shows the course, from the first step on.",
            "Distances between gradients of networks whose weights have different scales are not the same thing: "
            "batch normalization makes the gradient fall with the size of the weights.",
        ),
    )


def _over_time(settings: Settings, arm: Arm, rate: int, name: str) -> Numbers:
    """Geometric mean over time, one per seed."""
    return np.asarray(np.exp(over_time(np.log(arm.array(name)[:, rate]), settings.at)))


def _statements(settings: Settings, arms: Arms) -> Iterator[Statement]:
    with_it, without = arms
    for i, rate in enumerate(settings.rates):
        at = f"At the rate {rate:g}"
        text = f"{at}, the loss varies less along the gradient with batch normalization."
        over, under = (_over_time(settings, arm, i, "range") for arm in (without, with_it))
        smaller = ratio(over, under, "times smaller range")
        yield judge(text, smaller, AtLeast(SMOOTHER, nothing=1.0), "much less, VGG on CIFAR-10, figure 4")
        text = f"{at}, the gradient changes less along itself with batch normalization."
        over, under = (_over_time(settings, arm, i, "distance") for arm in (without, with_it))
        distance = ratio(over, under, "times smaller change")
        published = "about two orders of magnitude less early on, VGG on CIFAR-10, figure 4"
        yield judge(text, distance, AtLeast(SMOOTHER, nothing=1.0), published)
        turns = "a step of the layers below turns a layer's gradient more with batch normalization"
        text = f"{at}, {turns} (cosine with minus cosine without)."
        one, two = (over_time(arm.array("cosine")[:, i], settings.at) for arm in (with_it, without))
        turned = difference(one, two, "cosine")
        yield judge(text, turned, AtMost(0.0), "no less, VGG; much more, deep linear network")


FIGURES = (
    ("range", "Range of the loss along the gradient", "range of the loss"),
    ("distance", "Largest change of the gradient along itself", "change of the gradient"),
    ("cosine", "A layer's gradient before and after a step of the layers below", "cosine"),
)


def _figure(settings: Settings, arms: Arms, name: str, title: str, y_label: str) -> Figure:
    panels = (
        panel(f"rate {rate:g}", (line(arm["batch_norm"], settings.at, arm.array(name)[:, i]) for arm in arms))
        for i, rate in enumerate(settings.rates)
    )
    caption = "On a batch that is not the next one, in training mode."
    show = partial(figure, x_label="steps", y_label=y_label, caption=caption, x_scale="log")
    return show(f"{name}_by_step", title, panels, y_scale="linear" if name == "cosine" else "log")
