"""Deep residual networks: is batch norm needed, or does another beginning of every branch do?

Question:
    Do residual networks of 20 and 40 blocks train without normalization, with batch norm, and in its place with a scale
    that begins at 0 on every branch, or with Fixup's initial weights? And is what batch norm does at the beginning to
    make the branch small against the skip connection?

Claim:
    At initialization batch norm makes the branch smaller than the skip connection, the more the deeper the block;
    SkipInit, one scalar that begins at 0 on each branch, does the same and trains 1000 layers without batch norm (De &
    Smith 2020). So does Fixup, which begins with branches of 0 and smaller weights in front of them (Zhang et al.
    2019): 93.0 % against 92.6 with batch norm, ResNet-110 on CIFAR-10 (Galloway et al. 2019).

What would refute it:
    With SkipInit or Fixup the network is less accurate than with batch norm, by more than 1 point, or without any it is
    no worse; or the skip connection's variance does not grow with depth against the branch's.

Settings:
    scikit-learn's digits, blocks of two layers of 64 ReLU units, activation and normalization first, He's initial
    weights. Fixup: the last layer of each branch and the readout begin at 0, the first layer of each branch at He's
    scale over the root of the number of blocks; each branch has a scale that begins at 1, and numbers that begin at 0
    are added in front of its activations and linear layers. 400 steps of gradient descent with batches of 60, the rate
    falling exponentially to a tenth; the best of twelve rates between 0.00003 and 10, each about three times the one
    before, for each network on validation images. The ratio of variances is that of the initial network, all training
    images in one batch: of what enters a block to what its branch adds, divided by the number of the block.

Verdict:
    Differences of test accuracy, paired over seeds: "no worse" counts when the whole interval lies above -1 point,
    "worse" from 5 points on. A network that still rises by more than a point in the last third of its training gives no
    verdict. The ratio is l times a constant for the l-th block, if what is claimed holds; it counts when ratio / l of
    the last block is between half and twice that of the fifth, and without batch norm when it is half or less.

References:
    - S. De and S. Smith, Batch Normalization Biases Residual Blocks Towards the Identity Function in Deep Networks,
      2020, arXiv:2002.10444.
    - H. Zhang, Y. Dauphin and T. Ma, Fixup Initialization: Residual Learning Without Normalization, 2019,
      arXiv:1901.09321.
    - A. Galloway, A. Golubeva, T. Tanay, M. Moussa and G. Taylor, Batch Normalization is a Cause of Adversarial
      Vulnerability, 2019, arXiv:1905.02161.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from normwise.lab.data.splits import digits
from normwise.lab.design import (
    Arm,
    Arms,
    Grid,
    SideBySide,
    average,
    by_rate,
    figure,
    gap,
    line,
    obstacle,
    panel,
    plateau,
    table,
)
from normwise.lab.intervals import ratio
from normwise.lab.networks.residual import Residual, ratios
from normwise.lab.networks.stack import batch_norm
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Figure, Regime, Statement
from normwise.lab.verdict import AtLeast, Rule, StaysBelow, Within, judge

SAYS = "De & Smith 2020"
TOPIC = "batch size and alternatives"
DATA = DIGITS
ARCHITECTURE = "residual networks of 20 and 40 blocks of dense layers, 64 ReLU units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
WORSE = -1.0
FAILS = 5.0
FIFTH = 4
ARMS = {"none": "nothing", "batch": "batch norm", "skipinit": "SkipInit", "fixup": "Fixup"}


@dataclass(frozen=True)
class Settings(SideBySide):
    """The networks and their training."""

    blocks: tuple[int, ...] = (20, 40)
    rates: tuple[float, ...] = (0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    steps: int = 400


QUICK = Settings(blocks=(20,), steps=200)
FULL = Settings(blocks=(10, 20, 40), steps=1500)


@dataclass(frozen=True)
class Trial:
    """All rates of one network, side by side."""

    arm: str
    blocks: int
    seed: int


GRID = Grid(Trial, blocks="blocks", arm=ARMS, largest_first="blocks")
trials = GRID.trials


def network(trial: Trial, settings: Settings, members: int) -> Residual:
    """The networks as they are at the beginning."""
    return Residual(
        members,
        blocks=trial.blocks,
        width=settings.width,
        normalize=batch_norm if trial.arm == "batch" else None,
        scale=0.0 if trial.arm == "skipinit" else None,
        fixup=trial.arm == "fixup",
        seed=trial.seed,
    )


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate; and the variances at the beginning."""
    data = digits(trial.seed)
    stack = network(trial, settings, len(settings.rates))
    found: dict[str, Any] = settings.train_to_a_plateau(stack, data, trial.seed)
    if trial.arm in ("none", "batch"):  # the branches of the others are 0
        found["ratios"] = ratios(network(trial, settings, 1), data.train.images)
    return found


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the arms at each one's best rate, and look at the variances."""
    arms = GRID.arms(settings, outcomes)

    def branches(arm: Arm) -> str:
        return average(arm.array("ratios")[:, -1], 1) if arm.values["arm"] in ("none", "batch") else ""

    title = f"Test accuracy of residual networks after {settings.steps} steps"
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
        figures=(by_rate(title, arms.by("blocks"), "{blocks} blocks"), _variances(settings, arms)),
        caveats=(
            f"{max(settings.blocks)} blocks of dense layers and {settings.steps} steps; the published networks are "
            "convolutional, up to 1000 layers deep, and trained to the end.",
            "Rates are a factor of 3 apart for every arm; the best may lie between two.",
            "The readout has batch norm in front where the blocks have it, and nothing where they have none.",
            "Fixup's numbers that are added and its scales learn at the rate of the weights; its authors' code gives "
            "them a tenth of it on CIFAR-10.",
        ),
    )


def _statements(settings: Settings, arms: Arms) -> Iterator[Statement]:
    galloway = "93.0 against 92.6 %, ResNet-110 on CIFAR-10 (Galloway et al. 2019)"
    for blocks in settings.blocks:
        batch = arms[blocks, "batch"]
        text = f"{blocks} blocks: SkipInit is no worse than batch norm."
        yield _compare(text, arms[blocks, "skipinit"], batch, AtLeast(WORSE, nothing=WORSE))
        text = f"{blocks} blocks: Fixup is no worse than batch norm."
        rule, says = AtLeast(WORSE, nothing=WORSE), "Zhang et al. 2019"
        yield _compare(text, arms[blocks, "fixup"], batch, rule, galloway, says)
        text = f"{blocks} blocks: with neither, the network is worse than with batch norm."
        yield _compare(text, batch, arms[blocks, "none"], AtLeast(FAILS))
    deepest = settings.blocks[-1]
    growth = {}
    for arm in ("batch", "none"):
        values = arms[deepest, arm].array("ratios")
        growth[arm] = ratio(values[:, -1] / deepest, values[:, FIFTH] / (FIFTH + 1), "times that of the fifth block")
    text = "With batch norm, the skip connection's variance by the branch's grows like the number of the block."
    yield judge(text, growth["batch"], Within(0.5, 2.0), regime=Regime.OWN)
    text = "Without, it does not grow: ratio / l falls to less than half from the fifth block to the last."
    yield judge(text, growth["none"], StaysBelow(0.5), regime=Regime.OWN)


def _compare(text: str, ours: Arm, theirs: Arm, rule: Rule, published: str = "", says: str = "") -> Statement:
    why = obstacle(ours, theirs) or plateau.still_learns(ours, theirs)
    return judge(text, gap(ours, theirs), rule, published, says, obstacle=why)


def _variances(settings: Settings, arms: Arms) -> Figure:
    deepest = settings.blocks[-1]
    blocks = range(1, deepest + 1)
    lines = (line(ARMS[arm], blocks, arms[deepest, arm].array("ratios")) for arm in ("none", "batch"))
    title, label = "The skip connection's variance by the branch's, before training", "variance of skip / branch"
    caption = "With SkipInit and Fixup the branch is 0."
    return figure("variance_by_block", title, [panel("", lines)], x_label="block", y_label=label, caption=caption)
