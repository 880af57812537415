"""Does batch normalization make a network easier to fool, by noise and by adversarial changes?

Question:
    Two networks of about the same accuracy, one with batch norm and one without. How much accuracy does each keep when
    the test images get normal noise, and when every pixel is moved by a little in the direction that raises the loss?

Claim:
    Batch norm is a cause of adversarial vulnerability: ResNet-110 on CIFAR-10 with batch norm and with Fixup has 92.58
    and 93.0 % clean, 59.0 and 76.3 % with noise, 8.5 and 38.1 % after projected gradient descent in the maximum norm
    (Galloway et al. 2019, five seeds). On corrupted ImageNet, ResNet-50's mean error is 76.7 with batch norm, 72.4 with
    group norm and 72.0 with Fixup (Schneider et al. 2020).

What would refute it:
    With batch norm no less accuracy is left.

Settings:
    scikit-learn's digits, three hidden layers of 64 ReLU units, He's initial weights, 600 steps of gradient descent
    with batches of 60; the best of the rates 0.1, 0.3 and 1 for each arm on validation images as they are. Noise of
    .1, .2 and .3 standard deviation; the fast gradient sign method with steps of .05, .1 and .2, pixels being
    between 0 and 1.

Verdict:
    Differences of test accuracy, paired over seeds; a loss counts from 2 points on, "as accurate" when the whole
    interval is within 2 points.

References:
    - A. Galloway, A. Golubeva, T. Tanay, M. Moussa and G. Taylor, Batch Normalization is a Cause of Adversarial
      Vulnerability, 2019, arXiv:1905.02161.
    - S. Schneider, E. Rusak, L. Eck, O. Bringmann, W. Brendel and M. Bethge, Improving robustness against common
      corruptions by covariate shift adaptation, 2020, arXiv:2006.16971.
    - I. Goodfellow, J. Shlens and C. Szegedy, Explaining and Harnessing Adversarial Examples, 2014, arXiv:1412.6572.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from normwise.lab.data import Split, digits
from normwise.lab.models import Dense, he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Figure, Panel, Series, Statement, Table
from normwise.lab.stack_training import best
from normwise.lab.statistics import Numbers, band, cell, difference, mean
from normwise.lab.training import accuracy, train
from normwise.lab.verdict import AtLeast, Within, judge

SAYS = "Galloway et al. 2019"
TOPIC = "optimization"
TAKES_DATA = True
LOSS = 2.0
ARMS = {True: "with batch norm", False: "without"}
KINDS = {"noise": "normal noise", "sign": "steps against the gradient's sign"}


@dataclass(frozen=True)
class Settings:
    """The network, its training, and how far images are changed."""

    rates: tuple[float, ...] = (0.1, 0.3, 1.0)
    noise: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3)
    sign: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2)
    steps: int = 600
    depth: int = 3
    width: int = 64
    batch: int = 60


FULL = Settings(rates=(0.03, 0.1, 0.3, 1.0, 3.0), steps=3000)


@dataclass(frozen=True)
class Trial:
    """All rates with or without batch norm."""

    batch_norm: bool
    seed: int


def trials(settings: Settings, seeds: Sequence[int]) -> list[Trial]:  # noqa: ARG001  # every experiment has the same
    """Both arms with every seed."""
    return [Trial(batch_norm, seed) for batch_norm in ARMS for seed in seeds]


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate; measure on changed test images."""
    data = digits(trial.seed)
    found: dict[str, Any] = {"validation": [], "noise": [], "sign": []}
    for rate in settings.rates:
        model = Dense(
            depth=settings.depth,
            width=settings.width,
            activation="relu",
            batch_norm=trial.batch_norm,
            std=he,
            seed=trial.seed,
        )
        train(model, data.train, rate=rate, steps=settings.steps, batch=settings.batch, seed=trial.seed)
        found["validation"].append(accuracy(model, data.validation))
        found["noise"].append([accuracy(model, noisy(data.test, size, trial.seed)) for size in settings.noise])
        found["sign"].append([accuracy(model, moved(model, data.test, size)) for size in settings.sign])
    return found


def noisy(data: Split, size: float, seed: int) -> Split:
    """With normal noise of a standard deviation, the same for both arms."""
    noise = torch.randn(data.images.shape, generator=torch.Generator().manual_seed(seed))
    return Split(data.images + size * noise, data.labels, data.rows)


def moved(model: Dense, data: Split, size: float) -> Split:
    """Every pixel moved by ``size`` in the direction that raises the loss, in inference mode; still between 0 and 1."""
    model.eval()
    images = data.images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cross_entropy(model(images), data.labels, reduction="sum"), images)
    return Split((data.images + size * slope.sign()).clamp(0, 1), data.labels, data.rows)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the arms at each one's best rate, for every change."""
    return Conclusion(
        statements=tuple(_statements(settings, outcomes)),
        table=_table(settings, outcomes),
        figures=(_figure(settings, outcomes),),
        caveats=(
            "The arms differ in their rates too: each has the one that is best for it on images as they are.",
            "One step against the gradient's sign is the weakest of attacks; where gradients vanish it says little.",
        ),
    )


def _points(outcomes: Outcomes, batch_norm: bool, kind: str, place: int) -> Numbers:
    arm = outcomes.where(batch_norm=batch_norm)
    return 100 * arm.array(kind)[:, best(arm), place]


def _statements(settings: Settings, outcomes: Outcomes) -> list[Statement]:
    clean, clean_without = (_points(outcomes, arm, "noise", 0) for arm in ARMS)
    text = "On images as they are, both are as accurate."
    found = [judge(text, difference(clean, clean_without, "points"), Within(-LOSS, LOSS), "92.58 and 93.0 %")]
    published = {"noise": "59.0 against 76.3 %", "sign": "8.5 against 38.1 %, projected gradient descent"}
    for kind, words in (("noise", "Normal noise of"), ("sign", "Every pixel moved by")):
        for place, size in enumerate(getattr(settings, kind)):
            if size:
                with_it, without = (_points(outcomes, arm, kind, place) for arm in ARMS)
                text = f"{words} {size:g}: with batch norm less accuracy is left than without."
                gap = difference(without, with_it, "points")
                found.append(judge(text, gap, AtLeast(LOSS), published[kind]))
    return found


def _table(settings: Settings, outcomes: Outcomes) -> Table:
    rows = []
    for kind, words in KINDS.items():
        for place, size in enumerate(getattr(settings, kind)):
            cells = (cell(mean(_points(outcomes, arm, kind, place), "%"), 1) for arm in ARMS)
            rows.append((words, f"{size:g}", *cells))
    rates = (f"{settings.rates[best(outcomes.where(batch_norm=arm))]:g}" for arm in ARMS)
    n = len(outcomes.where(batch_norm=True))
    caption = f"Test accuracy in %, at the rates {' and '.join(rates)}. Mean [95 % interval] over {n} seeds"
    return Table(caption, ("change", "size", *ARMS.values()), tuple(rows))


def _figure(settings: Settings, outcomes: Outcomes) -> Figure:
    panels = []
    for kind, words in KINDS.items():
        sizes = getattr(settings, kind)
        lines = []
        for arm, label in ARMS.items():
            values = np.stack([_points(outcomes, arm, kind, i) / 100 for i in range(len(sizes))], axis=1)
            lines.append(Series(label, sizes, *(tuple(line) for line in band(values))))
        panels.append(Panel(words, tuple(lines), ((0.1, "guessing"),)))
    return Figure(
        name="accuracy_by_change",
        title="Test accuracy that is left, by how far images are changed",
        caption="Line: mean over seeds; band: smallest to largest.",
        x_label="size of the change, pixels being between 0 and 1",
        y_label="test accuracy",
        panels=tuple(panels),
    )
