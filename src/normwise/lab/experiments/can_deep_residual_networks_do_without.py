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
    weights; 250 steps of gradient descent with batches of 60; the best of six rates between 0.0003 and 3 for each arm
    on validation images. The ratio of variances is that of the initial network, all training images in one batch: of
    what enters a block to what its branch adds, divided by the number of the block.

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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from normwise.lab.data import digits
from normwise.lab.outcomes import Outcomes
from normwise.lab.residual import Block, Residual
from normwise.lab.results import Conclusion, Figure, Panel, Series, Statement, Table
from normwise.lab.stack_training import at_best, best
from normwise.lab.statistics import Numbers, band, cell, difference, mean, ratio
from normwise.lab.training import accuracy, train
from normwise.lab.verdict import AtLeast, Within, judge
from normwise.torch import BatchNorm1d

SAYS = "De & Smith 2020"
TOPIC = "batch size and alternatives"
TAKES_DATA = True
WORSE = -1.0
FAILS = 5.0
FIFTH = 4
ARMS = {"none": "nothing", "batch": "batch norm", "skipinit": "SkipInit"}


@dataclass(frozen=True)
class Settings:
    """The networks and their training."""

    blocks: tuple[int, ...] = (10, 20)
    rates: tuple[float, ...] = (0.0003, 0.003, 0.03, 0.3, 1.0, 3.0)
    steps: int = 250
    width: int = 64
    batch: int = 60


FULL = Settings(blocks=(10, 20, 40), rates=(0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0), steps=1500)


@dataclass(frozen=True)
class Trial:
    """All rates of one network."""

    arm: str
    blocks: int
    seed: int


def trials(settings: Settings, seeds: Sequence[int]) -> list[Trial]:
    """The deepest first."""
    return [Trial(arm, blocks, s) for blocks in sorted(settings.blocks, reverse=True) for arm in ARMS for s in seeds]


def network(trial: Trial, settings: Settings) -> Residual:
    """As it is at the beginning."""
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
    found: dict[str, Any] = {"validation": [], "test": []}
    if trial.arm != "skipinit":  # whose branches are 0
        found["ratios"] = ratios(network(trial, settings), data.train.images)
    for rate in settings.rates:
        model = network(trial, settings)
        train(model, data.train, rate=rate, steps=settings.steps, batch=settings.batch, seed=trial.seed)
        found["validation"].append(accuracy(model, data.validation))
        found["test"].append(accuracy(model, data.test))
    return found


def ratios(model: Residual, images: torch.Tensor) -> list[float]:
    """For each block the variance of what enters it, by that of what its branch adds, in training mode."""
    model.train()
    found = []
    with torch.no_grad():
        x = model.first(images)
        for block in model.blocks:
            assert isinstance(block, Block)  # nn.ModuleList does not know what it holds
            branch = block.branch(x)
            found.append(float(x.var(dim=0).mean() / branch.var(dim=0).mean()))
            x = x + branch
    return found


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the arms at each one's best rate, and look at the variances."""
    return Conclusion(
        statements=tuple(_statements(settings, outcomes)),
        table=_table(settings, outcomes),
        figures=_figures(settings, outcomes),
        caveats=(
            f"{max(settings.blocks)} blocks of dense layers and {settings.steps} steps; the published networks are "
            "convolutional, up to 1000 layers deep, and trained to the end.",
            "Rates are a factor of 3 to 10 apart; the best may lie between two.",
            "The readout has batch norm in front where the blocks have it, and nothing where they have none.",
        ),
    )


def _points(outcomes: Outcomes, arm: str, blocks: int) -> Numbers:
    return 100 * at_best(outcomes.where(arm=arm, blocks=blocks))


def _statements(settings: Settings, outcomes: Outcomes) -> list[Statement]:
    found = []
    for blocks in settings.blocks:
        none, batch, skip = (_points(outcomes, arm, blocks) for arm in ARMS)
        text = f"{blocks} blocks: SkipInit is no worse than batch norm."
        gap = difference(skip, batch, "points")
        published = "93.0 against 92.6 %, Fixup, ResNet-110 on CIFAR-10 (Galloway et al. 2019)"
        found.append(judge(text, gap, AtLeast(WORSE, nothing=WORSE), published))
        text = f"{blocks} blocks: with neither, the network is worse than with batch norm."
        found.append(judge(text, difference(batch, none, "points"), AtLeast(FAILS)))
    deepest = settings.blocks[-1]
    for arm, text in (
        (
            "batch",
            "With batch norm, the skip connection's variance by the branch's grows like the number of the block.",
        ),
        ("none", "Without, it does not grow: ratio / l falls to less than half from the fifth block to the last."),
    ):
        values = outcomes.where(arm=arm, blocks=deepest).array("ratios")
        growth = ratio(values[:, -1] / deepest, values[:, FIFTH] / (FIFTH + 1))
        rule = Within(0.5, 2.0) if arm == "batch" else Within(0.0, 0.5)
        found.append(judge(text, growth, rule))
    return found


def _table(settings: Settings, outcomes: Outcomes) -> Table:
    rows = []
    for blocks in settings.blocks:
        for arm, words in ARMS.items():
            part = outcomes.where(arm=arm, blocks=blocks)
            last = cell(mean(part.array("ratios")[:, -1], ""), 1) if arm != "skipinit" else ""
            points = cell(mean(_points(outcomes, arm, blocks), "%"), 1)
            rows.append((str(blocks), words, f"{settings.rates[best(part)]:g}", points, last))
    n = len(outcomes.where(arm="none", blocks=settings.blocks[0]))
    caption = (
        f"Test accuracy in % after {settings.steps} steps, and the variance of what enters the last block by that of "
        f"what its branch adds, at the beginning. Mean [95 % interval] over {n} seeds"
    )
    return Table(caption, ("blocks", "on the branches", "rate", "accuracy", "skip / branch"), tuple(rows))


def _figures(settings: Settings, outcomes: Outcomes) -> tuple[Figure, ...]:
    panels = []
    for blocks in settings.blocks:
        lines = []
        for arm, words in ARMS.items():
            spread = (tuple(line) for line in band(outcomes.where(arm=arm, blocks=blocks).array("test")))
            lines.append(Series(words, settings.rates, *spread))
        panels.append(Panel(f"{blocks} blocks", tuple(lines)))
    deepest = settings.blocks[-1]
    variances = []
    for arm in ("none", "batch"):
        spread = (tuple(line) for line in band(outcomes.where(arm=arm, blocks=deepest).array("ratios")))
        variances.append(Series(ARMS[arm], tuple(float(block) for block in range(1, deepest + 1)), *spread))
    return (
        Figure(
            name="accuracy_by_rate",
            title=f"Test accuracy of residual networks after {settings.steps} steps",
            caption="Line: mean over seeds; band: smallest to largest.",
            x_label="learning rate",
            y_label="test accuracy",
            panels=tuple(panels),
            x_scale="log",
        ),
        Figure(
            name="variance_by_block",
            title="The skip connection's variance by the branch's, before training",
            caption="With SkipInit the branch is 0. Line: mean over seeds; band: smallest to largest.",
            x_label="block",
            y_label="variance of skip / branch",
            panels=(Panel("", tuple(variances)),),
        ),
    )
