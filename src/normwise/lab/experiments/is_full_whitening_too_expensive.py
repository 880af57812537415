"""The cost of whitening against dividing each unit alone, and whether it trains faster per step.

Question:
    Batch normalization is a simplification of whitening. How much time does the simplification save, what does a batch
    smaller than the layer do to a covariance, and is a whitened network worth the price?

Claim:
    "Since the full whitening of each layer's inputs is costly and not everywhere differentiable, we make two necessary
    simplifications": each unit alone, and mini-batch estimates (Ioffe & Szegedy 2015, section 3). To it: whitening is
    trained today, by eigendecomposition in groups of 16 channels (Huang et al. 2018) and by Newton's iteration (Huang
    et al. 2019), with fewer steps.

What would refute it:
    From 64 units on whitening takes less than 10 times as long as batch normalization, or a covariance of a batch no
    larger than the layer has full rank.

Settings:
    Forward and backward of a layer of 16, 64, 256 units on a batch of 256, one thread, the median of 30 calls;
    whitening of all units at once, by eigendecomposition (ZCA) and by 5 Newton steps. Rank: of the covariance of random
    ReLU units' outputs for 60 digits, 16, 32, 60, 64 and 128 units, in float64. Training: three hidden layers of 64
    ReLU units on scikit-learn's digits, batches of 120, 300 steps of gradient descent, rates 0.05, 0.2, 0.8, 3.2 and
    12.8 for each arm; the running statistics of all arms are debiased averages.

Verdict:
    The ratio of times is reproduced from 10 on. The rank is exact when it is below the number of units wherever the
    batch is no larger. "In fewer steps" is reproduced from a ratio of 1.2 on, to .95 of what the network with batch
    norm learns (its test accuracy at the end, less guessing, in the same seed, at the rate that ends best on validation
    images), each at the rate that gets there first on validation images; a network that does not get there counts with
    all its steps.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - L. Huang, D. Yang, B. Lang and J. Deng, Decorrelated Batch Normalization, 2018, arXiv:1804.08450.
    - L. Huang, Y. Zhou, F. Zhu, L. Liu and L. Shao, Iterative Normalization: Beyond Standardization towards Efficient
      Whitening, 2019, arXiv:1904.03441.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from normwise.lab.data.splits import digits
from normwise.lab.design import (
    Arms,
    DenseTraining,
    Grid,
    Looks,
    average,
    figure,
    geometric,
    line,
    panel,
    table,
)
from normwise.lab.design.curves import accuracy_by_step, ends_best
from normwise.lab.design.targets import Target
from normwise.lab.intervals import largest, ratio
from normwise.lab.networks.random_units import ranks
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Figure, Regime, Statement
from normwise.lab.training.timing import of_layer
from normwise.lab.training.watching import Curves
from normwise.lab.verdict import AtLeast, Exact, judge
from normwise.torch import BatchNorm1d, DecorrelatedBatchNorm1d, IterativeNorm1d

SAYS = "Ioffe & Szegedy 2015, section 3"
TOPIC = "what the layer is"
DATA = DIGITS
ARCHITECTURE = "3 hidden layers of 64 ReLU units, and single layers"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
TIMES = True
COSTLY = 10.0
WIDE = 64
FASTER = 1.2
WHOSE = "what the network with batch norm learns"
Make = Callable[[int, int], nn.Module]
EARLY = "debiased_ema"
"""The estimator of all arms: a few steps after the start the usual average is still half its initial value."""
ARMS: dict[str, Make] = {
    "batch_norm": lambda channels, group: BatchNorm1d(channels, estimator=EARLY),  # noqa: ARG005  # it has no groups
    "zca": lambda channels, group: DecorrelatedBatchNorm1d(channels, group_size=group, estimator=EARLY),
    "newton": lambda channels, group: IterativeNorm1d(channels, group_size=group, estimator=EARLY),
}
"""A layer of so many channels, whitened in groups of so many."""
WORDS = {"batch_norm": "batch norm", "zca": "whitened by eigenvectors", "newton": "whitened by Newton steps"}
TRAINED = {"batch_norm": 1, "zca": 16, "newton": 64}
"""In what groups of units the networks are whitened; in the largest that divide a layer whose width they do not."""


@dataclass(frozen=True)
class Settings(Looks, DenseTraining):
    """Sizes of layers, and the training."""

    widths: tuple[int, ...] = (16, 64, 256)
    batch_of_timing: int = 256
    repeats: int = 30
    ranks: tuple[int, ...] = (16, 32, 60, 64, 128)
    batch_of_rank: int = 60
    rates: tuple[float, ...] = (0.05, 0.2, 0.8, 3.2, 12.8)
    steps: int = 300
    depth: int = 3
    batch: int = 120


FULL = Settings(widths=(16, 64, 256, 1024), rates=(0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2), steps=1500)


@dataclass(frozen=True)
class Trial:
    """One arm: its price, and its training at all rates side by side."""

    arm: str
    seed: int


GRID = Grid(Trial, arm=WORDS)
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Time the layer, train networks of it, and count the rank of covariances."""
    data = digits(trial.seed)
    group = math.gcd(TRAINED[trial.arm], settings.width)  # no group may reach into the network beside
    stack = settings.stack(trial.seed, lambda channels: ARMS[trial.arm](channels, group))
    curves = Curves(stack, data)
    settings.train(stack, data.train, trial.seed, look=curves, look_at=settings.looks())
    layers = ((width, ARMS[trial.arm](width, width)) for width in settings.widths)
    batch, repeats, seed = settings.batch_of_timing, settings.repeats, trial.seed
    seconds = [of_layer(layer, width, batch=batch, repeats=repeats, seed=seed) for width, layer in layers]
    images = data.train.images[: settings.batch_of_rank].double()
    return curves.found() | {"seconds": seconds, "rank": ranks(images, settings.ranks, seed)}


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Judge price, rank and steps."""
    at = settings.looks()
    target = Target(GRID.arms(settings, outcomes, choose=ends_best)["batch_norm"], at, whose=WHOSE)
    arms = GRID.arms(settings, outcomes, choose=target.fastest)
    base = arms["batch_norm"].array("seconds")
    times = [
        (f"time, {width} units", lambda arm, i=i: geometric((arm.array("seconds") / base)[:, i], 1))
        for i, width in enumerate(settings.widths)
    ]
    return Conclusion(
        statements=tuple(_statements(settings, arms, target)),
        table=table(
            f"Time of forward and backward over that of batch norm, batch of {settings.batch_of_timing}, all units in "
            f"one group; steps to {target.words} out of {settings.steps} and accuracy in % at the end",
            arms,
            ("layer", lambda arm: arm["arm"]),
            *times,
            ("rate", lambda arm: arm.rate),
            ("steps", target.in_steps),
            ("got there", target.got_there),
            ("end", lambda arm: average(arm.points()[:, -1], 1)),
            more=", of times and steps the geometric one",
        ),
        figures=(_price(settings, arms), accuracy_by_step(arms, at, network="64-3×64-10, ReLU", target=target.level)),
        caveats=(
            "Times are of this machine, of these layers and of one thread; the arms are timed in turns that other work "
            "on the machine can disturb. In a network the linear layers' time comes on top, for all alike.",
            "Batch normalization here is this package's, which is fused; against a slower one the ratio is smaller.",
            "The mark in the figure is the mean over seeds; each seed has one of its own to reach.",
            "The networks are whitened in groups of 16 units by eigenvectors and of 64 by Newton steps, in batches of "
            "120, so that every group is smaller than the batch.",
        ),
    )


def _statements(settings: Settings, arms: Arms, target: Target) -> Iterator[Statement]:
    for i, width in enumerate(settings.widths):
        if width >= WIDE:
            text = f"Whitening {width} units by eigenvectors takes longer than batch norm."
            price = ratio(
                arms["zca"].array("seconds")[:, i], arms["batch_norm"].array("seconds")[:, i], "times the time"
            )
            yield judge(text, price, AtLeast(COSTLY, nothing=1.0), "costly, without a number", regime=Regime.OWN)
    most = settings.batch_of_rank - 1
    ranks = arms["zca"].array("rank")[:, [i for i, width in enumerate(settings.ranks) if width > most]]
    batch = f"A batch of {settings.batch_of_rank} gives a covariance of rank {most} at most"
    text = f"{batch}, so that as many units or more cannot be whitened without eps."
    yield judge(text, largest(np.maximum(ranks - most, 0).max(axis=1), "above it"), Exact(0.0), regime=Regime.OWN)
    steps = {arm: target.steps(arms[arm]) for arm in ARMS}
    for arm, says in (("zca", "Huang et al. 2018"), ("newton", "Huang et al. 2019")):
        text = f"To {target.words}, the network {WORDS[arm]} takes fewer steps."
        fewer, edge = (
            ratio(steps["batch_norm"], steps[arm], "times fewer steps"),
            target.obstacle(arms["batch_norm"], arms[arm]),
        )
        yield judge(text, fewer, AtLeast(FASTER, nothing=1.0), says=says, obstacle=edge)


def _price(settings: Settings, arms: Arms) -> Figure:
    lines = (line(arm["arm"], settings.widths, 1e6 * arm.array("seconds")) for arm in arms)
    caption = f"Batches of {settings.batch_of_timing}, all units whitened together, one thread."
    show = partial(figure, x_label="units", y_label="microseconds", x_scale="log", y_scale="log")
    return show("time_by_width", "Time of a layer, forward and backward", [panel("one layer", lines)], caption=caption)
