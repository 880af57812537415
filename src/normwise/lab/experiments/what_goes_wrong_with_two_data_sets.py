"""Two data sets in one network: what shared averages cost, and what statistics of their own give back.

Question:
    A network is trained on two data sets at once, with a batch of each in every step. Does it matter whether the two
    batches are normalized together, and whose running statistics are used at inference?

Claim:
    With a batch of each data set normalized by itself and one set of moving averages for both, accuracy is 2 points
    lower than with mixed batches (76.3 against 78.2 %), and its spread over seeds is larger; with averages of their own
    it is 78.7 % (Irpan 2017; medians of five seeds on one of two data sets that the text does not name, read off the
    figures). In a detector whose head is shared by five levels the same mistake costs 5.0 points of AP, and statistics
    of the level in inference only cost 37 (Wu & Johnson 2021, table 5).

What would refute it:
    Shared averages are as accurate as mixed batches; or averages of their own are worse by more than 1 point.

Settings:
    scikit-learn's digits, and the same digits on patches of photographs; a step takes 30 images of each, not the same
    ones. Three hidden layers of 64 ReLU units, 1000 steps of gradient descent. Rates 0.03, 0.1, 0.3, 1 and 3 for each
    arm, the best of which is picked on validation images of both data sets. Accuracy is the mean of the two data sets'.

Verdict:
    Differences of test accuracy, paired over seeds. A loss counts from 2 points on, a larger spread over seeds from
    half a point on; "no worse" counts when the whole interval lies above -1 point.

References:
    - A. Irpan, On the Perils of Batch Norm, 2017, alexirpan.com/2017/04/26/perils-batch-norm.html.
    - Y. Wu and J. Johnson, Rethinking "Batch" in BatchNorm, 2021, arXiv:2105.07576.
    - W.-G. Chang, T. You, S. Seo, S. Kwak and B. Han, Domain-Specific Batch Normalization for Unsupervised Domain
      Adaptation, 2019, arXiv:1906.03950.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from normwise.lab.data.splits import digits, digits_on_photos
from normwise.lab.design import Arms, Grid, Training, by_measure, gap, obstacle, table
from normwise.lab.intervals import difference
from normwise.lab.networks.stack import Stack, batch_norm
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement
from normwise.lab.training.domains import accuracies_on_all, train_on_all
from normwise.lab.verdict import AtLeast, Within, judge
from normwise.torch import PerDomain

SAYS = "Irpan 2017"
TOPIC = "statistics at inference"
DATA = f"{DIGITS}, plain and on photographs"
ARCHITECTURE = "3 hidden layers of 64 ReLU units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
LOSS = AtLeast(2.0)
WORSE = -1.0
NO_WORSE = AtLeast(WORSE, nothing=WORSE)
SPREAD = 0.5
DOMAINS = ("plain", "photos")
ARMS = {
    "none": "no batch norm",
    "mixed": "one batch of both",
    "shared": "a batch of each, shared averages",
    "statistics": "a batch of each, averages of their own",
    "everything": "averages, scale and shift of their own",
}
ESTIMATED = ("mixed", "shared")
"""The arms that are also measured with statistics that are estimated afterwards for each data set alone."""
OWN = "test_own_statistics"


@dataclass(frozen=True)
class Settings(Training):
    """The network and its training."""

    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    steps: int = 1000
    depth: int = 3
    width: int = 64
    each: int = 30


FULL = Settings(steps=2500)


@dataclass(frozen=True)
class Trial:
    """All rates of one arm, side by side."""

    arm: str
    seed: int


GRID = Grid(Trial, arm=ARMS)
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train on both data sets; measure on each, also with the statistics of that data set alone."""
    data = dict(zip(DOMAINS, (digits(trial.seed), digits_on_photos(trial.seed)), strict=True))
    normalize = None if trial.arm == "none" else lambda channels: normalization(trial.arm, channels)
    members = len(settings.rates)
    stack = Stack(members, depth=settings.depth, width=settings.width, normalize=normalize, seed=trial.seed)
    train_on_all(
        stack,
        {name: data[name].train for name in DOMAINS},
        rates=settings.rates,
        steps=settings.steps,
        each=settings.each,
        mixed=trial.arm == "mixed",
        seed=trial.seed,
    )
    return accuracies_on_all(stack, data, estimated=OWN if trial.arm in ESTIMATED else "")


def normalization(arm: str, channels: int) -> nn.Module:
    """The layer of an arm, for a stack."""
    layer = batch_norm(channels)
    return layer if arm in ("mixed", "shared") else PerDomain(layer, DOMAINS, own_affine=arm == "everything")


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the arms at each one's best rate."""
    arms = GRID.arms(settings, outcomes)
    estimated = "both, statistics of each estimated afterwards"
    title = "Two data sets in one network: test accuracy at every rate"
    sets = {"test": "mean of both", "plain": "digits", "photos": "digits on photographs"}
    by_rate = by_measure("accuracy_by_rate", title, arms, settings.rates, sets, x_label="learning rate", x_scale="log")
    return Conclusion(
        statements=tuple(_statements(arms)),
        table=table(
            f"Test accuracy in % after {settings.steps} steps",
            arms,
            ("arm", lambda arm: arm["arm"]),
            ("rate", lambda arm: arm.rate),
            ("both", lambda arm: arm.percent(1)),
            ("digits", lambda arm: arm.percent(1, "plain")),
            ("digits on photographs", lambda arm: arm.percent(1, "photos")),
            (estimated, lambda arm: arm.percent(1, OWN) if arm.values["arm"] in ESTIMATED else ""),
        ),
        figures=(by_rate,),
        caveats=(
            "The two data sets are the same images, with and without a background: nearer to each other than two "
            "data sets of different origin, and of one set of classes.",
            "Averages of their own need to know at inference which data set an image is from; mixed batches do not.",
        ),
    )


def _statements(arms: Arms) -> Iterator[Statement]:
    mixed, shared, own, everything = (arms[arm] for arm in ("mixed", "shared", "statistics", "everything"))
    away, away_mixed = (np.asarray(np.abs(arm.points() - np.median(arm.points()))) for arm in (shared, mixed))
    edge, detector = obstacle(mixed, shared), "Wu & Johnson 2021, table 5"
    text = "A batch of each data set with shared averages is less accurate than one batch of both."
    yield judge(text, gap(mixed, shared), LOSS, "78.2 against 76.3 %, median of five seeds")
    text = "Its accuracy differs more from seed to seed: the distance from the median is larger."
    published = "about 77.8 to 78.7 % against 74.6 to 77.8 %, worst and best of five seeds"
    yield judge(text, difference(away, away_mixed, "points"), AtLeast(SPREAD), published, obstacle=edge)
    text = "With averages of their own, a batch of each is no worse than one batch of both."
    yield judge(text, gap(own, mixed), NO_WORSE, "78.7 against 78.2 %, median of five seeds")
    text = "It makes no difference whether scale and shift are of their own too."
    yield judge(text, gap(everything, own), Within(WORSE, -WORSE), "39.2 against 39.1 AP", detector)
    text = (
        "The loss is in the averages and not in the weights: the network trained with shared averages gets back "
        "what it lacks once each data set's statistics are estimated afterwards."
    )
    back = difference(shared.points(OWN), mixed.points(), "points")
    yield judge(text, back, NO_WORSE, "39.1 against 39.1 AP; 34.1 with shared averages", detector, obstacle=edge)
    text = "Trained on batches of both, a network is worse with the statistics of one data set at a time."
    worse = difference(mixed.points(), mixed.points(OWN), "points")
    yield judge(text, worse, LOSS, "39.1 against 2.1 AP", detector, obstacle=obstacle(mixed))
