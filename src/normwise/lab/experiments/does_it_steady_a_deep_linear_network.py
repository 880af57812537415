"""In a deep linear network, does batch normalization make gradients steadier, or does it train better without that?

Question:
    When the layers below take their step, how much does a layer's gradient turn in a deep linear network with and
    without batch normalization, and which of the two trains better?

Claim:
    In a linear network of 25 layers a layer's gradient before and after the update of the layers below points in almost
    the same direction without batch normalization; with it the two are nearly uncorrelated. Nevertheless the network
    with batch normalization trains better, because its loss varies less along the gradient: it is not internal
    covariate shift that batch normalization reduces (Santurkar et al. 2018, sections 2.2 and 3.1).

What would refute it:
    With batch normalization gradients turn as little as without, or the loss ends no lower.

Settings:
    25 layers of 10 units without any activation, weights of variance 1/10, learn y = A x for a random normal matrix A
    of 10 x 10 from 200 normal x; the loss is the squared distance over that of predicting 0. 1000 steps of full-batch
    gradient descent in float64 at seven rates from .001 to 1, each about three times the one before, of which .01 is
    the small one of the statements (paper: 10,000 steps at 1e-6, on another scale of the loss). Batch normalization
    stands behind every layer but the last. At 13 steps, each about 1.5 times as late as the one before, for each layer
    but the first: the gradient of its weights before and after everything below it has taken its step; and the range of
    the loss over 1/100 to 30 times the step, the paper's for this network.

Verdict:
    Losses at the end, each at the rate that ends lowest in the geometric mean over seeds, are compared as a ratio from
    2 on, paired over seeds. Everything else is compared at common rates: .01, since the paper's is small, and the one
    that is best without batch normalization. Neither is the paper's, and what is seen depends on the rate, so that
    nothing there is contradicted. Means over layers and time of the cosine count as "almost the same" from .9 on and as
    "nearly uncorrelated" between -.3 and .3, and "turns more" from a difference of .1 on; "moves further" from a ratio
    of 1 on; medians over time of the range of the loss, over the loss, from twice as small on.

References:
    - S. Santurkar, D. Tsipras, A. Ilyas and A. Madry, How Does Batch Normalization Help Optimization?, 2018,
      arXiv:1805.11604.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from normwise.lab.design import WITH_AND_WITHOUT, Arm, Arms, Grid, Looks, figure, line, obstacle, panel, table
from normwise.lab.design.arms import pick
from normwise.lab.intervals import Numbers, cell, difference, mean, ratio
from normwise.lab.networks.linear import Linear, descend
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Estimate, Figure, Regime, Scale, Statement
from normwise.lab.training.looking import median_over_time, over_time
from normwise.lab.verdict import AtLeast, Reaches, Within, judge

SAYS = "Santurkar et al. 2018, section 2.2"
TOPIC = "why it works"
DATA = "200 normal points and a random linear map"
ARCHITECTURE = "25 linear layers of 10 units"
REGIME = Regime.OWN
LOWER = 2.0
SAME = 0.9
UNCORRELATED = 0.3
TURNS = 0.1
SMOOTHER = 2.0
NETWORK = "deep linear network of 25 layers"


@dataclass(frozen=True)
class Settings(Looks):
    """Rates, ``small`` being the one of them that stands for the paper's, and the network."""

    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
    small: float = 0.01
    steps: int = 1000
    depth: int = 25
    width: int = 10
    points: int = 200
    growth: float = 1.5


FULL = Settings(steps=10_000)
NEIGHBOURING = {"looks": Settings(growth=2.25), "width": Settings(width=15)}
"""Not other rates: what is compared is what happens at a rate."""


@dataclass(frozen=True)
class Trial:
    """All rates of one arm, side by side."""

    batch_norm: bool
    seed: int


GRID = Grid(Trial, batch_norm=WITH_AND_WITHOUT)
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate; lists of shape (rates, looks)."""
    generator = torch.Generator().manual_seed(trial.seed + 10_000)  # not the initial weights' numbers
    matrix = torch.randn(settings.width, settings.width, generator=generator, dtype=torch.float64)
    x = torch.randn(settings.width, settings.points, generator=generator, dtype=torch.float64)
    members, depth, width = len(settings.rates), settings.depth, settings.width
    model = Linear(members, depth=depth, width=width, batch_norm=trial.batch_norm, seed=trial.seed)
    return descend(model, x, matrix @ x, settings.rates, settings.steps, settings.looks())


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the losses, and how gradients turn and losses vary at a common rate."""
    arms = GRID.arms(settings, outcomes, choose=best)
    rows = [(i, rate, arm) for i, rate in enumerate(settings.rates) for arm in arms]
    return Conclusion(
        statements=tuple(_statements(settings, arms)),
        table=table(
            f"Loss after {settings.steps} steps, over that of predicting 0; of a layer's gradient before and after the "
            "layers below take their step: the cosine, and the distance over its size; range of the loss along the "
            "gradient over the loss",
            rows,
            ("rate", lambda row: f"{row[1]:g}"),
            ("network", lambda row: row[2]["batch_norm"]),
            ("loss", lambda row: _geometric(row[2].array("loss")[:, row[0], -1])),
            ("cosine", lambda row: _cell(mean(_mean(settings, row[2], row[0], "cosine"), "cosine"), 2)),
            ("distance", lambda row: _geometric(_median(settings, row[2], row[0], "distance"))),
            ("range", lambda row: _geometric(_median(settings, row[2], row[0], "range"))),
            seeds=arms.seeds,
            more=", geometric of all but the cosine",
        ),
        figures=tuple(_figure(settings, arms, *each) for each in FIGURES),
        caveats=(
            "Rates are chosen by the very loss that is reported: there is one data set, all of it in every step, and "
            "the question is how well it is fitted.",
            "With batch normalization the network is linear in its input only for given statistics; the loss is that "
            "of training mode, with the statistics of all points, which are also the population's.",
            "The two are compared at common rates; since batch normalization makes the loss independent of the size "
            "of the weights below it, the same rate is not the same step in direction.",
            "Without batch normalization the training begins on a plateau, on which hardly anything moves: there "
            "gradients keep their direction and the loss varies little because steps are small, not because they are "
            "good.",
            "The cosine is a change of gradients, not of the distributions of inputs that Ioffe & Szegedy meant.",
        ),
    )


FIGURES: tuple[tuple[str, str, str, str, Scale], ...] = (
    ("loss", "loss_by_step", "Loss against steps", "loss over that of predicting 0", "log"),
    ("cosine", "cosine_by_step", "How far a layer's gradient keeps its direction", "cosine", "linear"),
)


def best(arm: Arm) -> int:
    """The rate whose loss ends lowest in the geometric mean over seeds; one at which a seed diverges does not."""
    with np.errstate(invalid="ignore"):
        logs = np.log(arm.array("loss")[:, :, -1]).mean(axis=0)
    scores = -np.where(np.isfinite(logs), logs, np.inf)
    return pick(scores, float(np.log(1.01)), np.exp(scores))


def _mean(settings: Settings, arm: Arm, rate: int, name: str) -> Numbers:
    """Mean over time, one per seed."""
    return over_time(arm.array(name)[:, rate], settings.looks())


def _median(settings: Settings, arm: Arm, rate: int, name: str) -> Numbers:
    """Median over time, one per seed; single looks can be as large as can be."""
    return median_over_time(arm.array(name)[:, rate], settings.looks())


def _statements(settings: Settings, arms: Arms) -> Iterator[Statement]:
    text = "The loss ends lower with batch normalization, each at its best rate (without over with)."
    ends = {each: arms[each].numbers("loss")[:, -1] for each in WITH_AND_WITHOUT}
    published = f"much lower, {NETWORK}, figure 3"
    lower, edge = ratio(ends[False], ends[True], "times lower loss"), obstacle(*arms)
    yield judge(text, lower, AtLeast(LOWER, nothing=1.0), published, obstacle=edge)
    yield from _at_a_common_rate(
        settings, f"At the rate {settings.small:g}", arms, settings.rates.index(settings.small), ""
    )
    at = "At the rate that is best without batch normalization"
    yield from _at_a_common_rate(settings, at, arms, arms[False].best, arms[False].obstacle)


def _at_a_common_rate(settings: Settings, at: str, arms: Arms, rate: int, edge: str) -> Iterator[Statement]:
    # The paper has a rate of its own, on another scale of the loss, and what is seen depends on the rate.
    judged = partial(judge, regime=Regime.ANOTHER, obstacle=edge)
    cosine = {each: _mean(settings, arms[each], rate, "cosine") for each in WITH_AND_WITHOUT}
    text = f"{at}, a layer's gradient hardly turns without batch normalization when the layers below take their step."
    yield judged(text, mean(cosine[False], "cosine"), Reaches(SAME), f"cosine about 1, {NETWORK}")
    text = f"{at}, a layer's gradient before and after that is nearly uncorrelated with batch normalization."
    rule = Within(-UNCORRELATED, UNCORRELATED)
    yield judged(text, mean(cosine[True], "cosine"), rule, f"nearly uncorrelated, {NETWORK}")
    text = f"{at}, a layer's gradient turns more with batch normalization (cosine without minus cosine with)."
    turned = difference(cosine[False], cosine[True], "cosine")
    yield judged(text, turned, AtLeast(TURNS), f"about 1 without, near 0 with, {NETWORK}")
    text = f"{at}, a layer's gradient moves further with batch normalization, for its size (with over without)."
    further = ratio(
        _median(settings, arms[True], rate, "distance"),
        _median(settings, arms[False], rate, "distance"),
        "times further",
    )
    yield judged(text, further, AtLeast(1.0, nothing=1.0))
    text = f"{at}, the loss varies less along the gradient with batch normalization (without over with)."
    smoother = ratio(
        _median(settings, arms[False], rate, "range"),
        _median(settings, arms[True], rate, "range"),
        "times smaller range",
    )
    says = "Santurkar et al. 2018, section 3.1"
    yield judged(text, smoother, AtLeast(SMOOTHER, nothing=1.0), says=says)


def _geometric(values: Numbers) -> str:
    return _cell(ratio(values, np.ones(len(values))), 3)


def _cell(estimate: Estimate, decimals: int) -> str:
    return cell(estimate, decimals) if np.isfinite(estimate.value) else "diverges"


def _figure(settings: Settings, arms: Arms, what: str, name: str, title: str, label: str, scale: Scale) -> Figure:
    common, at = arms[False].best, settings.looks()
    lines = (line(arm["batch_norm"], at, arm.array(what)[:, common]) for arm in arms)
    caption = f"At the rate {settings.rates[common]:g}, the best without batch normalization."
    panels = [panel(f"{settings.depth} linear layers of {settings.width}", lines)]
    show = partial(figure, x_label="steps", y_label=label, caption=caption, x_scale="log", y_scale=scale)
    return show(name, title, panels)
