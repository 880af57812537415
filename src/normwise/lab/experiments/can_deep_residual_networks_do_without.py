"""Deep residual networks: is batch norm needed, or does a learned scale on every branch do?

Question:
    Do residual networks of 10 and 20 blocks train without normalization, with batch norm, and with a scale that begins
    at 0 on every branch in its place? And is what batch norm does at the beginning to make the branch small against the
    skip connection?

Claim:
    At initialization batch norm makes the branch smaller than the skip connection, the more the deeper the block;
    SkipInit, one scalar that begins at 0 on each branch, does the same and trains 1000 layers without batch norm (De &
    Smith 2020). Fixup: 93.0 % without against 92.6 with batch norm, ResNet-110 on CIFAR-10 (Galloway et al. 2019).

What would refute it:
    With SkipInit the network is less accurate than with batch norm, by more than 1 point, or without either it is no
    worse; or the skip connection's variance does not grow with depth against the branch's.

Settings:
    scikit-learn's digits, blocks of two layers of 64 ReLU units, activation and normalization first, He's initial
    weights; 250 steps of gradient descent with batches of 60; the best of twelve rates between 0.00003 and 10, each
    about three times the one before, for each arm on validation images. The ratio of variances is that of the initial
    network, all training images in one batch: of what enters a block to what its branch adds, divided by the number of
    the block.

Verdict:
    Differences of test accuracy, paired over seeds: "no worse" counts when the whole interval lies above -1 point,
    "worse" from 5 points on. The ratio is l times a constant for the l-th block, if what is claimed holds; it counts
    when ratio / l of the last block is within a factor of 2 of that of the fifth.

References:
    - S. De and S. Smith, Batch Normalization Biases Residual Blocks Towards the Identity Function in Deep Networks,
      2020, arXiv:2002.10444.
    - A. Galloway, A. Golubeva, T. Tanay, M. Moussa and G. Taylor, Batch Normalization is a Cause of Adversarial
      Vulnerability, 2019, arXiv:1905.02161.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from normwise.lab.data.splits import digits
from normwise.lab.design import Arm, Arms, Grid, Training, average, by_rate, figure, gap, line, on_both, panel, table
from normwise.lab.intervals import ratio
from normwise.lab.networks.residual import Residual, ratios
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Figure, Regime, Statement
from normwise.lab.verdict import AtLeast, StaysBelow, Within, judge
from normwise.torch import BatchNorm1d

SAYS = "De & Smith 2020"
TOPIC = "batch size and alternatives"
DATA = DIGITS
ARCHITECTURE = "residual networks of 10 and 20 blocks of dense layers, 64 ReLU units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
WORSE = -1.0
FAILS = 5.0
FIFTH = 4
ARMS = {"none": "nothing", "batch": "batch norm", "skipinit": "SkipInit"}


@dataclass(frozen=True)
class Settings(Training):
    """The networks and their training."""

    blocks: tuple[int, ...] = (10, 20)
    rates: tuple[float, ...] = (0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    steps: int = 250
    width: int = 64
    batch: int = 60


FULL = Settings(blocks=(10, 20, 40), steps=1500)


@dataclass(frozen=True)
class Trial:
    """All rates of one network."""

    arm: str
    blocks: int
    seed: int


GRID = Grid(Trial, blocks="blocks", arm=ARMS, largest_first="blocks")
trials = GRID.trials


def network(trial: Trial, settings: Settings) -> Residual:
    """The network as it is at the beginning."""
    return Residual(
        blocks=trial.blocks,
        width=settings.width,
        norm=BatchNorm1d if trial.arm == "batch" else None,
        scale=0.0 if trial.arm == "skipinit" else None,
        seed=trial.seed,
    )


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate; and the variances at the beginning."""
    data = digits(trial.seed)
    make = partial(network, trial, settings)
    found = settings.at_every_rate(make, data.train, trial.seed, on_both(data), batch=settings.batch)
    if trial.arm != "skipinit":  # whose branches are 0
        found["ratios"] = ratios(network(trial, settings), data.train.images)
    return found


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the arms at each one's best rate, and look at the variances."""
    arms = GRID.arms(settings, outcomes)

    def branches(arm: Arm) -> str:
        return "" if arm.values["arm"] == "skipinit" else average(arm.array("ratios")[:, -1], 1)

    title = f"Test accuracy of residual networks after {settings.steps} steps"
    accuracies = by_rate(title, arms.by("blocks"), "{blocks} blocks")
    return Conclusion(
        statements=tuple(_statements(settings, arms)),
        table=table(
            f"Test accuracy in % after {settings.steps} steps, and the variance of what enters the last block by that "
            "of what its branch adds, at the beginning",
            arms,
            ("blocks", lambda arm: arm["blocks"]),
            ("on the branches", lambda arm: arm["arm"]),
            ("rate", lambda arm: arm.rate),
            ("accuracy", lambda arm: arm.percent(1)),
            ("skip / branch", branches),
        ),
        figures=(accuracies, _variances(settings, arms)),
        caveats=(
            f"{max(settings.blocks)} blocks of dense layers and {settings.steps} steps; the published networks are "
            "convolutional, up to 1000 layers deep, and trained to the end.",
            "Rates are a factor of 3 apart for every arm; the best may lie between two.",
            "The readout has batch norm in front where the blocks have it, and nothing where they have none.",
        ),
    )


def _statements(settings: Settings, arms: Arms) -> Iterator[Statement]:
    for blocks in settings.blocks:
        text = f"{blocks} blocks: SkipInit is no worse than batch norm."
        published = "93.0 against 92.6 %, Fixup, ResNet-110 on CIFAR-10 (Galloway et al. 2019)"
        loss = gap(arms[blocks, "skipinit"], arms[blocks, "batch"])
        yield judge(text, loss, AtLeast(WORSE, nothing=WORSE), published)
        text = f"{blocks} blocks: with neither, the network is worse than with batch norm."
        yield judge(text, gap(arms[blocks, "batch"], arms[blocks, "none"]), AtLeast(FAILS))
    deepest = settings.blocks[-1]
    growth = {}
    for arm in ("batch", "none"):
        values = arms[deepest, arm].array("ratios")
        growth[arm] = ratio(values[:, -1] / deepest, values[:, FIFTH] / (FIFTH + 1), "times that of the fifth block")
    text = "With batch norm, the skip connection's variance by the branch's grows like the number of the block."
    yield judge(text, growth["batch"], Within(0.5, 2.0), regime=Regime.OWN)
    text = "Without, it does not grow: ratio / l falls to less than half from the fifth block to the last."
    yield judge(text, growth["none"], StaysBelow(0.5), regime=Regime.OWN)


def _variances(settings: Settings, arms: Arms) -> Figure:
    deepest = settings.blocks[-1]
    blocks = range(1, deepest + 1)
    lines = (line(ARMS[arm], blocks, arms[deepest, arm].array("ratios")) for arm in ("none", "batch"))
    title, label = "The skip connection's variance by the branch's, before training", "variance of skip / branch"
    caption = "With SkipInit the branch is 0."
    return figure("variance_by_block", title, [panel("", lines)], x_label="block", y_label=label, caption=caption)
