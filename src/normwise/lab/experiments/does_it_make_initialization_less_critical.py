"""The accuracy of a network whose initial weights are 100 times too small or 30 times too large.

Question:
    How much does the scale of the initial weights matter, with and without batch normalization?

Claim:
    Batch normalization lets one "be less careful about initialization", because scaling the weights of a normalized
    layer changes neither its output nor the gradient that it passes down (Ioffe & Szegedy 2015, abstract and section
    3.3). On ImageNet the choice between orthonormal and LSUV weights mattered by at most .012 of accuracy with batch
    normalization (Mishkin et al., caffenet-benchmark, 2016).

What would refute it:
    With batch normalization the accuracy varies by more than 5 points over scales of the initial weights from 0.01 to
    30, or without it by less than 50.

Settings:
    Five hidden layers of 64 ReLU units on scikit-learn's digits, batches of 60, 600 steps of gradient descent at twelve
    rates from 0.00003 to 10, each about three times the one before, the best of which is picked on validation images
    for each scale and arm. The weights of the hidden layers begin at He's scale times 0.01, 0.1, 0.3, 1, 3, 10 or 30;
    the readout is left as it is.

Verdict:
    The range is that of the test accuracies over all scales, for each seed. It is reproduced with batch normalization
    when its whole interval is below 5 points, without when it is at least 50. No verdict is given where the best rate
    for the scale of the lowest or of the highest accuracy lies at the edge of the grid; at scales between them it may,
    as without batch normalization at 10 times He's scale, which wants rates below all. The invariance is exact when the
    logits of training mode differ by no more than 1e-9 with weights 10 times as large, eps = 1e-30, in float64.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - D. Mishkin, N. Sergievskiy and J. Matas, Systematic evaluation of CNN advances on the ImageNet, 2016,
      arXiv:1606.02228, and the repository caffenet-benchmark.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch

from normwise.lab.data.splits import digits
from normwise.lab.design import WITH_AND_WITHOUT, Arms, DenseTraining, Grid, by_pair, obstacle, table
from normwise.lab.design.figures import GUESSING, across, figure, panel
from normwise.lab.intervals import largest, mean
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Estimate, Regime, Statement
from normwise.lab.training.stacks import both
from normwise.lab.verdict import Exact, Reaches, StaysBelow, judge
from normwise.torch import BatchNorm1d

SAYS = "Ioffe & Szegedy 2015, section 3.3"
TOPIC = "optimization"
DATA = DIGITS
ARCHITECTURE = "5 hidden layers of 64 ReLU units"
REGIME = Regime.OWN
TESTS = True
TAKES_DATA = True
NARROW = 5.0
WIDE = 50.0
ROUNDING = 1e-9
VANISHING = 1e-30
"""An eps that no variance here notices; PyTorch refuses 0 in training."""


@dataclass(frozen=True)
class Settings(DenseTraining):
    """Scales and rates."""

    scales: tuple[float, ...] = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    rates: tuple[float, ...] = (0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


FULL = Settings(rates=(*Settings.rates, 30.0), steps=2000)


@dataclass(frozen=True)
class Trial:
    """All scales and rates of an arm, trained side by side."""

    batch_norm: bool
    seed: int


GRID = Grid(Trial, batch_norm=WITH_AND_WITHOUT, inside={"scale": "scales"})
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train a network for every pair of scale and rate; lists of shape (scales, rates)."""
    data = digits(trial.seed)
    scales, rates = zip(*product(settings.scales, settings.rates), strict=True)
    stack = settings.stack(trial.seed, trial.batch_norm, members=len(rates), scales=scales)
    settings.train(stack, data.train, trial.seed, rates=rates)
    found = by_pair(both(stack, data), settings.scales, settings.rates)
    return found | {"change": _change_by_scale(trial, settings, data.train.images[: settings.batch])}


def _change_by_scale(trial: Trial, settings: Settings, images: torch.Tensor) -> float:
    """The largest difference between the initial logits when the hidden weights are 10 times as large."""
    layer = (lambda channels: BatchNorm1d(channels, eps=VANISHING)) if trial.batch_norm else None
    stack = settings.stack(trial.seed, layer, members=2, scales=(1.0, 10.0), dtype=torch.float64)
    with torch.no_grad():
        one, ten = stack(images.double())
    return float((one - ten).abs().max())


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the ranges of accuracy over the scales."""
    arms = GRID.arms(settings, outcomes)
    lines = (across(each.words["batch_norm"], each, "scale") for each in arms.by("batch_norm"))
    title = f"Test accuracy after {settings.steps} steps, by the scale of the initial weights"
    panels = [panel(f"{settings.depth}×{settings.width}, ReLU", lines, GUESSING)]
    caption, label = "Each at the rate that is best for it on validation images.", "initial weights, times He's scale"
    by_scale = figure("accuracy_by_scale", title, panels, x_label=label, caption=caption, x_scale="log")
    return Conclusion(
        statements=tuple(_statements(settings, arms, outcomes)),
        table=table(
            f"Test accuracy in % after {settings.steps} steps, and the rate that was best on validation images",
            arms.by("scale"),
            ("initial weights times", lambda row: row.words["scale"]),
            (WITH_AND_WITHOUT[True], lambda row: row[True].percent(1)),
            ("rate", lambda row: row[True].rate),
            (WITH_AND_WITHOUT[False], lambda row: row[False].percent(1)),
            ("rate", lambda row: row[False].rate),
        ),
        figures=(by_scale,),
        caveats=(
            "The best of a few rates is taken for each scale, which favours both arms; at one rate for all scales the "
            "network without batch normalization does worse still.",
            "With batch normalization a large scale is not free: it divides the effective learning rate by its square "
            "until the weights have turned, and a small one multiplies it, which a fixed number of steps shows.",
            "The range over scales is never negative and grows with chance, so that small ranges are slightly too "
            "large.",
        ),
    )


def _statements(settings: Settings, arms: Arms, outcomes: Outcomes) -> Iterator[Statement]:
    def varies(batch_norm: bool) -> Estimate:
        every = sorted(arms.where(batch_norm=batch_norm), key=lambda arm: float(arm.numbers("validation").mean()))
        test = np.stack([arm.numbers() for arm in every], axis=1)
        # more rates for a scale between the two could only bring it nearer to the highest
        return replace(mean(100 * np.ptp(test, axis=1), "points"), obstacle=obstacle(every[0], every[-1]))

    span = f"from {min(settings.scales):g} to {max(settings.scales):g} times He's"
    text = f"With batch normalization, the accuracy is within {NARROW:g} points for initial weights {span}."
    published = "at most 1.2 points between two ways to begin, CaffeNet and GoogLeNet, Mishkin et al. 2016"
    yield judge(text, varies(True), StaysBelow(NARROW), published)
    text = f"Without batch normalization, it varies by at least {WIDE:g} points for initial weights {span}."
    yield judge(text, varies(False), Reaches(WIDE))
    text = "With batch normalization and eps near 0, weights 10 times as large do not change the output."
    yield judge(text, largest(outcomes.where(batch_norm=True).array("change"), "logits"), Exact(ROUNDING))
