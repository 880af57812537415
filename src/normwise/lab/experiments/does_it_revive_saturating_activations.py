"""Do deep networks of sigmoids learn, with and without batch normalization?

Question:
    To what depth can networks of sigmoid, tanh and ReLU units be trained in a given number of steps, and what does
    batch normalization change?

Claim:
    Batch normalization makes it possible to train with saturating nonlinearities: Inception with sigmoids reached
    69.8 % of top-1 accuracy with it, and stayed at chance, .1 %, without (Ioffe & Szegedy 2015, section 4.2.2). On
    CaffeNet with batch normalization sigmoid reached .475, tanh .448 and ReLU .499 (Mishkin et al., 2016).

What would refute it:
    A sigmoid network of at least five layers learns without batch normalization, or does not reach .95 with it.

Settings:
    Hidden layers of 64 units, Glorot's initial weights, scikit-learn's digits, batches of 60, 600 steps of gradient
    descent; rates 0.03, 0.1, 0.5 and 2 for each arm, the best of which is picked on validation images.

Verdict:
    "At chance" is reproduced when the whole interval of the test accuracy is below .2, "learns" when it is at least .95
    and the interval above .2. "As accurate as ReLU" is reproduced when the interval of the difference is within 2
    points.

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

from normwise.lab.data import digits
from normwise.lab.models import glorot
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Figure, Panel, Series, Statement, Table
from normwise.lab.stack import Stack, batch_norm
from normwise.lab.stack_training import at_best, best, both, train_stack
from normwise.lab.statistics import band, cell, difference, mean
from normwise.lab.verdict import AtLeast, Within, judge

SAYS = "Ioffe & Szegedy 2015, section 4.2.2"
TOPIC = "optimization"
TAKES_DATA = True
LEARNT = 95.0
CHANCE = 20.0
SAME = 2.0
DEEP = 5
ARMS = {True: "with batch norm", False: "without"}


@dataclass(frozen=True)
class Settings:
    """Depths, activations and rates."""

    depths: tuple[int, ...] = (3, 5, 10)
    activations: tuple[str, ...] = ("sigmoid", "tanh", "relu")
    rates: tuple[float, ...] = (0.03, 0.1, 0.5, 2.0)
    steps: int = 600
    width: int = 64
    batch: int = 60


FULL = Settings(depths=(3, 5, 10, 20), rates=(0.03, 0.1, 0.3, 0.5, 1.0, 2.0, 5.0), steps=3000)


@dataclass(frozen=True)
class Trial:
    """All rates of one network, side by side."""

    depth: int
    activation: str
    batch_norm: bool
    seed: int


def trials(settings: Settings, seeds: Sequence[int]) -> list[Trial]:
    """Every depth and activation with and without batch normalization, with every seed; the deepest first."""
    return [
        Trial(depth, activation, batch_norm, seed)
        for depth in sorted(settings.depths, reverse=True)
        for activation in settings.activations
        for batch_norm in ARMS
        for seed in seeds
    ]


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate."""
    data = digits(trial.seed)
    stack = Stack(
        len(settings.rates),
        depth=trial.depth,
        width=settings.width,
        activation=trial.activation,
        normalize=batch_norm if trial.batch_norm else None,
        std=glorot,
        seed=trial.seed,
    )
    train_stack(stack, data.train, rates=settings.rates, steps=settings.steps, batch=settings.batch, seed=trial.seed)
    return both(stack, data)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare accuracies at each arm's best rate."""
    return Conclusion(
        statements=tuple(_statements(settings, outcomes)),
        table=_table(settings, outcomes),
        figures=(_figure(settings, outcomes),),
        caveats=(
            f"Everything gets {settings.steps} steps; a network at chance might leave it with more of them, or from "
            "other initial weights: for sigmoids Glorot's are four times too small to keep the size of signals.",
            "Only a few rates are tried; the best may lie beyond the largest.",
        ),
    )


def _arm(outcomes: Outcomes, activation: str, depth: int, batch_norm: bool) -> Outcomes:
    return outcomes.where(activation=activation, depth=depth, batch_norm=batch_norm)


def _statements(settings: Settings, outcomes: Outcomes) -> list[Statement]:
    found = []
    for depth in settings.depths:
        if depth < DEEP or "sigmoid" not in settings.activations:
            continue
        without, with_it = (100 * at_best(_arm(outcomes, "sigmoid", depth, arm)) for arm in (False, True))
        text = f"A network of {depth} sigmoid layers stays near chance without batch normalization."
        found.append(judge(text, mean(without, "%"), Within(0.0, CHANCE), "at chance, .1 %, Inception on ImageNet"))
        text = f"A network of {depth} sigmoid layers reaches 0.95 with batch normalization."
        rule = AtLeast(LEARNT, nothing=CHANCE)
        found.append(judge(text, mean(with_it, "%"), rule, "69.8 %, Inception on ImageNet"))
        if "relu" in settings.activations:
            relu = 100 * at_best(_arm(outcomes, "relu", depth, True))
            text = f"With batch normalization, {depth} sigmoid layers are as accurate as as many ReLU layers."
            published = "69.8 % against 73.0 %, Inception; .475 against .499, CaffeNet (Mishkin et al. 2016)"
            gap = difference(with_it, relu, "points")
            found.append(judge(text, gap, Within(-SAME, SAME), published, "it is what the claim is often taken for"))
    return found


def _table(settings: Settings, outcomes: Outcomes) -> Table:
    rows = []
    for activation in settings.activations:
        for depth in settings.depths:
            cells = []
            for normalized in ARMS:
                arm = _arm(outcomes, activation, depth, normalized)
                cells += [cell(mean(100 * at_best(arm), "%"), 1), f"{settings.rates[best(arm)]:g}"]
            rows.append((activation, str(depth), *cells))
    n = len(_arm(outcomes, settings.activations[0], settings.depths[0], True))
    caption = (
        f"Test accuracy in % after {settings.steps} steps, at the rate that is best on validation images. Mean [95 % "
        f"interval] over {n} seeds"
    )
    columns = tuple(text for words in ARMS.values() for text in (words, "rate"))
    return Table(caption, ("activation", "hidden layers", *columns), tuple(rows))


def _figure(settings: Settings, outcomes: Outcomes) -> Figure:
    panels = []
    for activation in settings.activations:
        lines = []
        for normalized, words in ARMS.items():
            values = [at_best(_arm(outcomes, activation, depth, normalized)) for depth in settings.depths]
            spread = (tuple(line) for line in band(np.stack(values, axis=1)))
            lines.append(Series(words, tuple(float(depth) for depth in settings.depths), *spread))
        panels.append(Panel(activation, tuple(lines), ((0.1, "guessing"),)))
    return Figure(
        name="accuracy_by_depth",
        title=f"Test accuracy after {settings.steps} steps, by depth",
        caption="Each at the rate that is best for it on validation images. Line: mean over seeds; band: smallest to "
        "largest.",
        x_label="hidden layers",
        y_label="test accuracy",
        panels=tuple(panels),
    )
