"""How accurate is a network whose initial weights are 100 times too small or 30 times too large?

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
    Five hidden layers of 64 ReLU units on scikit-learn's digits, batches of 60, 600 steps of gradient descent at rates
    0.01, 0.1, 0.5 and 3, the best of which is picked on validation images for each scale and arm. The weights of the
    hidden layers begin at He's scale times 0.01 to 30; the readout is left as it is.

Verdict:
    The range is that of the test accuracies over all scales, for each seed. It is reproduced with batch normalization
    when its whole interval is below 5 points, without when it is at least 50. The invariance is exact when the logits
    of training mode differ by no more than 1e-9 with weights 10 times as large, eps = 1e-30, in float64.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - D. Mishkin, N. Sergievskiy and J. Matas, Systematic evaluation of CNN advances on the ImageNet, 2016,
      arXiv:1606.02228, and the repository caffenet-benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from normwise.lab.data import digits
from normwise.lab.models import he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Figure, Panel, Series, Statement, Table
from normwise.lab.stack import Stack, batch_norm
from normwise.lab.stack_training import both, train_stack
from normwise.lab.statistics import Numbers, band, cell, largest, mean
from normwise.lab.verdict import AtLeast, Exact, Within, judge
from normwise.torch import BatchNorm1d

SAYS = "Ioffe & Szegedy 2015, section 3.3"
TOPIC = "optimization"
TAKES_DATA = True
NARROW = 5.0
WIDE = 50.0
ROUNDING = 1e-9
VANISHING = 1e-30
"""An eps that no variance here notices; PyTorch refuses 0 in training."""
ARMS = {True: "with batch norm", False: "without"}


@dataclass(frozen=True)
class Settings:
    """Scales and rates."""

    scales: tuple[float, ...] = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    rates: tuple[float, ...] = (0.01, 0.1, 0.5, 3.0)
    steps: int = 600
    depth: int = 5
    width: int = 64
    batch: int = 60


FULL = Settings(rates=(0.01, 0.03, 0.1, 0.3, 0.5, 1.0, 3.0, 10.0), steps=2000)


@dataclass(frozen=True)
class Trial:
    """All scales and rates of an arm, trained side by side."""

    batch_norm: bool
    seed: int


def trials(settings: Settings, seeds: Sequence[int]) -> list[Trial]:  # noqa: ARG001  # every experiment has the same
    """Both arms with every seed."""
    return [Trial(batch_norm, seed) for batch_norm in ARMS for seed in seeds]


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train a network for every pair of scale and rate; lists of shape (scales, rates)."""
    data = digits(trial.seed)
    pairs = [(scale, rate) for scale in settings.scales for rate in settings.rates]
    stack = Stack(
        len(pairs),
        depth=settings.depth,
        width=settings.width,
        activation="relu",
        normalize=batch_norm if trial.batch_norm else None,
        std=he,
        seed=trial.seed,
        scales=[scale for scale, _ in pairs],
    )
    rates = [rate for _, rate in pairs]
    train_stack(stack, data.train, rates=rates, steps=settings.steps, batch=settings.batch, seed=trial.seed)
    shape = (len(settings.scales), len(settings.rates))
    found = {name: np.reshape(values, shape).tolist() for name, values in both(stack, data).items()}
    return found | {"change": _change_by_scale(trial, settings, data.train.images[: settings.batch])}


def _change_by_scale(trial: Trial, settings: Settings, images: torch.Tensor) -> float:
    """The largest difference between the initial logits when the hidden weights are 10 times as large."""
    stack = Stack(
        2,
        depth=settings.depth,
        width=settings.width,
        activation="relu",
        normalize=(lambda channels: BatchNorm1d(channels, eps=VANISHING)) if trial.batch_norm else None,
        std=he,
        seed=trial.seed,
        scales=(1.0, 10.0),
        dtype=torch.float64,
    )
    with torch.no_grad():
        one, ten = stack(images.double())
    return float((one - ten).abs().max())


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the ranges of accuracy over the scales."""
    tests = {arm: _at_best_rates(outcomes.where(batch_norm=arm)) for arm in ARMS}
    return Conclusion(
        statements=tuple(_statements(settings, outcomes, tests)),
        table=_table(settings, outcomes, tests),
        figures=(_figure(settings, tests),),
        caveats=(
            "The best of a few rates is taken for each scale, which favours both arms; at one rate for all scales the "
            "network without batch normalization does worse still.",
            "With batch normalization a large scale is not free: it divides the effective learning rate by its square "
            "until the weights have turned, and a small one multiplies it, which a fixed number of steps shows.",
            "The range over scales is never negative and grows with chance, so that small ranges are slightly too "
            "large.",
        ),
    )


def _at_best_rates(arm: Outcomes) -> Numbers:
    """Test accuracy of every scale at the rate that is best for it on validation images: shape (seeds, scales)."""
    choice = arm.array("validation").mean(axis=0).argmax(axis=1)
    test = arm.array("test")
    return np.stack([test[:, i, rate] for i, rate in enumerate(choice)], axis=1)


def _statements(settings: Settings, outcomes: Outcomes, tests: dict[bool, Numbers]) -> list[Statement]:
    ranges = {arm: mean(100 * np.ptp(test, axis=1), "points") for arm, test in tests.items()}
    span = f"from {min(settings.scales):g} to {max(settings.scales):g} times He's"
    change = outcomes.where(batch_norm=True).array("change")
    return [
        judge(
            f"With batch normalization, the accuracy is within {NARROW:g} points for initial weights {span}.",
            ranges[True],
            Within(-1.0, NARROW),
            "at most 1.2 points between two ways to begin, CaffeNet and GoogLeNet, Mishkin et al. 2016",
        ),
        judge(
            f"Without batch normalization, it varies by at least {WIDE:g} points for initial weights {span}.",
            ranges[False],
            AtLeast(WIDE),
        ),
        judge(
            "With batch normalization and eps near 0, weights 10 times as large do not change the output.",
            largest(change, "logits"),
            Exact(ROUNDING),
        ),
    ]


def _table(settings: Settings, outcomes: Outcomes, tests: dict[bool, Numbers]) -> Table:
    choice = {arm: outcomes.where(batch_norm=arm).array("validation").mean(axis=0).argmax(axis=1) for arm in ARMS}
    rows = []
    for i, scale in enumerate(settings.scales):
        cells = [(cell(mean(100 * tests[arm][:, i], "%"), 1), f"{settings.rates[choice[arm][i]]:g}") for arm in ARMS]
        rows.append((f"{scale:g}", *(text for pair in cells for text in pair)))
    caption = (
        f"Test accuracy in % after {settings.steps} steps, and the rate that was best on validation images. Mean [95 % "
        f"interval] over {len(tests[True])} seeds"
    )
    columns = tuple(text for words in ARMS.values() for text in (words, "rate"))
    return Table(caption, ("initial weights times", *columns), tuple(rows))


def _figure(settings: Settings, tests: dict[bool, Numbers]) -> Figure:
    lines = (Series(ARMS[arm], settings.scales, *(tuple(line) for line in band(tests[arm]))) for arm in ARMS)
    return Figure(
        name="accuracy_by_scale",
        title=f"Test accuracy after {settings.steps} steps, by the scale of the initial weights",
        caption="Each at the rate that is best for it on validation images. Line: mean over seeds; band: smallest to "
        "largest.",
        x_label="initial weights, times He's scale",
        y_label="test accuracy",
        panels=(Panel(f"{settings.depth}×{settings.width}, ReLU", tuple(lines), ((0.1, "guessing"),)),),
        x_scale="log",
    )
