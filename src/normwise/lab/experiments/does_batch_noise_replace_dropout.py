"""Does the noise of batch statistics regularize, and does it make dropout superfluous?

Question:
    On data that a network can learn by heart, does normalizing by smaller parts of the batch give a better test
    accuracy, and is batch normalization then as good as dropout?

Claim:
    "A training example is seen in conjunction with other examples in the mini-batch [...] we have found this effect to
    be advantageous to the generalization of the network. Whereas dropout is typically used to reduce over-fitting, in
    a batch-normalized network we found that it can be either removed or reduced in strength" (Ioffe & Szegedy 2015,
    section 3.4). To it: the error of ResNet-50 on ImageNet is smallest when 64 images are normalized together, 23.2 %
    against 23.7 % for 1024 (read off figure 6, Wu & Johnson 2021); with batch normalization CaffeNet is best at a
    dropout of .2, .527, against .513 without and .499 at .5 (Mishkin et al., caffenet-benchmark, 2016).

What would refute it:
    Normalizing the whole batch at once is as accurate as normalizing parts of it, or batch normalization without
    dropout is more than half a point less accurate than a plain network with dropout of .5.

Settings:
    Two hidden layers of 100 ReLU units on scikit-learn's digits. "Few": 100 training images, the whole set in each
    step, so that there is no other noise. "Noisy": 600 training images of which 30 % have a random label, 120 per step,
    which is where overfitting costs most. Normalized together are 120 or 100 images and ever smaller parts of them
    (ghost batches), at equal batches of the gradient. 600 steps at rates 0.01, 0.05 and 0.3; rate, part and
    strength of dropout (.1, .3, .5) are picked on validation images for each arm.

Verdict:
    Test accuracies are compared, paired over seeds. "Regularizes" is reproduced when the best part size, picked on
    validation images, is at least half a point above the whole batch with an interval above 0, and the training
    accuracy is lower; and the same without any choice, for the smallest part at the highest rate. "Replaces dropout"
    is reproduced when the whole interval of batch normalization without dropout, at the part size that suits it, minus
    the plain network with dropout of .5 is above -0.5 points.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - Y. Wu and J. Johnson, Rethinking "Batch" in BatchNorm, 2021, arXiv:2105.07576.
    - E. Hoffer, I. Hubara and D. Soudry, Train longer, generalize better, 2017, arXiv:1705.08741.
    - D. Mishkin, N. Sergievskiy and J. Matas, Systematic evaluation of CNN advances on the ImageNet, 2016,
      arXiv:1606.02228, and the repository caffenet-benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from normwise.lab.data import CLASSES, Split, digits
from normwise.lab.models import he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Figure, Panel, Series, Statement, Table
from normwise.lab.stack import Ghost, Stack
from normwise.lab.stack_training import accuracies, both, train_stack
from normwise.lab.statistics import Numbers, band, cell, difference, mean
from normwise.lab.verdict import AtLeast, AtMost, Within, judge

SAYS = "Ioffe & Szegedy 2015, section 3.4"
TOPIC = "regularization"
TAKES_DATA = True
GAIN = 0.5
PLAIN = 0
"""Stands for: nothing is normalized, where the size of a part is due."""
TASKS = {"few": "100 images", "noisy": "600 images, 30 % of the labels random"}
IMAGES = {"few": 100, "noisy": 600}
BATCH = {"few": 100, "noisy": 120}
WRONG = {"few": 0.0, "noisy": 0.3}


@dataclass(frozen=True)
class Settings:
    """Parts, dropout and rates."""

    tasks: tuple[str, ...] = ("few", "noisy")
    parts: tuple[int, ...] = (1, 4, 10, 20)
    dropouts: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5)
    rates: tuple[float, ...] = (0.01, 0.05, 0.3)
    steps: int = 600
    width: int = 100


FULL = Settings(parts=(1, 2, 4, 10, 20), rates=(0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8), steps=3000)


@dataclass(frozen=True)
class Trial:
    """All rates and dropouts of one way to normalize, side by side; ``part`` images are normalized together."""

    task: str
    part: int
    seed: int


def trials(settings: Settings, seeds: Sequence[int]) -> list[Trial]:
    """Without normalization and with every part size, on every task, with every seed."""
    return [
        Trial(task, part, seed)
        for task in settings.tasks
        for part in (PLAIN, *(BATCH[task] // parts for parts in settings.parts))
        for seed in seeds
    ]


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train with every dropout and rate; lists of shape (dropouts, rates).

    Dropout goes with the plain network and with the whole batch, not with its parts.
    """
    data = digits(trial.seed)
    part = data.train.images[: IMAGES[trial.task]], data.train.labels[: IMAGES[trial.task]]
    chosen = Split(part[0], _some_wrong(part[1], WRONG[trial.task], trial.seed), data.train.rows[: len(part[1])])
    dropouts = settings.dropouts if trial.part in (PLAIN, BATCH[trial.task]) else (0.0,)
    pairs = [(dropout, rate) for dropout in dropouts for rate in settings.rates]
    stack = Stack(
        len(pairs),
        depth=2,
        width=settings.width,
        activation="relu",
        normalize=(lambda channels: Ghost(channels, trial.part)) if trial.part else None,
        std=he,
        seed=trial.seed,
        dropout=[dropout for dropout, _ in pairs],
    )
    rates = [rate for _, rate in pairs]
    train_stack(stack, chosen, rates=rates, steps=settings.steps, batch=BATCH[trial.task], seed=trial.seed)
    found = both(stack, data) | {"train": accuracies(stack, chosen)}
    return {name: np.reshape(values, (len(dropouts), -1)).tolist() for name, values in found.items()}


def _some_wrong(labels: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """The labels, a share of which is drawn anew from all classes."""
    random = np.random.default_rng(seed)
    changed = labels.numpy().copy()
    rows = random.permutation(len(changed))[: round(share * len(changed))]
    changed[rows] = random.integers(0, CLASSES, size=len(rows))
    return torch.from_numpy(changed)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare part sizes, and batch normalization with dropout."""
    return Conclusion(
        statements=tuple(text for task in settings.tasks for text in _statements(settings, outcomes, task)),
        table=_table(settings, outcomes),
        figures=(_by_part(settings, outcomes), _by_dropout(settings, outcomes)),
        caveats=(
            "Normalization is by the mean and variance of parts at equal batches of the gradient, so that only the "
            "noise of the statistics differs; in practice a smaller batch brings both.",
            "Running statistics are an average over the last steps; for tiny parts they are estimates of another "
            "variance than the one that was trained with, which the test accuracy pays for.",
            "With random labels a low rate is itself a remedy, since the network is then stopped early; every arm has "
            "the same rates to choose from, and what it learnt by heart is the training accuracy of the table.",
            "Validation images choose rate, dropout and part size; they are more than the images of the smaller task "
            "that are trained on, as in most studies of small data.",
        ),
    )


def _best(arm: Outcomes, name: str, dropout: int | None = None) -> Numbers:
    """What the rate (and the dropout, unless it is given) that is best on validation images measured."""
    validation, values = arm.array("validation"), arm.array(name)
    if dropout is not None:
        validation, values = validation[:, dropout : dropout + 1], values[:, dropout : dropout + 1]
    at = np.unravel_index(validation.mean(axis=0).argmax(), validation.shape[1:])
    found: Numbers = 100 * values[:, at[0], at[1]]
    return found


def _best_part(settings: Settings, outcomes: Outcomes, task: str, *, whole: bool) -> int:
    """The size of a part that is best on validation images; ``whole``: it may be the whole batch."""
    sizes = [BATCH[task] // parts for parts in settings.parts if whole or parts > 1]
    return max(sizes, key=lambda size: float(_best(outcomes.where(task=task, part=size), "validation", 0).mean()))


def _common(outcomes: Outcomes, task: str, part: int, name: str) -> Numbers:
    """What the highest rate measured without dropout, whatever the validation images say."""
    found: Numbers = 100 * outcomes.where(task=task, part=part).array(name)[:, 0, -1]
    return found


def _statements(settings: Settings, outcomes: Outcomes, task: str) -> list[Statement]:
    whole = outcomes.where(task=task, part=BATCH[task])
    size = _best_part(settings, outcomes, task, whole=False)
    ghost, plain = outcomes.where(task=task, part=size), outcomes.where(task=task, part=PLAIN)
    chosen = outcomes.where(task=task, part=_best_part(settings, outcomes, task, whole=True))
    where, least = f"{TASKS[task]}: ", BATCH[task] // max(settings.parts)
    found = [
        judge(
            f"{where}normalizing parts of {size} images is more accurate than normalizing all {BATCH[task]} at once.",
            difference(_best(ghost, "test", 0), _best(whole, "test", 0), "points"),
            AtLeast(GAIN),
            "0.5 points, 64 against 1024 images, ResNet-50 on ImageNet (read off figure 6, Wu & Johnson 2021)",
        ),
        judge(
            f"{where}the same for parts of {least} images at the common rate {settings.rates[-1]:g}, which learns all "
            "by heart.",
            mean(_common(outcomes, task, least, "test") - _common(outcomes, task, BATCH[task], "test"), "points"),
            AtLeast(GAIN),
        ),
        judge(
            f"{where}with parts of {size} images the training accuracy is lower than with all at once.",
            difference(_best(ghost, "train", 0), _best(whole, "train", 0), "points"),
            AtMost(0.0),
            says="Wu & Johnson 2021, figure 6",
        ),
        judge(
            f"{where}batch normalization without dropout is more accurate than nothing.",
            difference(_best(chosen, "test", 0), _best(plain, "test", 0), "points"),
            AtLeast(GAIN),
        ),
    ]
    if 0.5 in settings.dropouts:
        half = settings.dropouts.index(0.5)
        text = f"{where}batch normalization without dropout is as good as dropout of 0.5 without it, or better."
        gap = difference(_best(chosen, "test", 0), _best(plain, "test", half), "points")
        found.append(judge(text, gap, Within(-GAIN, 100.0)))
    text = f"{where}with all {BATCH[task]} images normalized at once, dropout still helps."
    gap = difference(_best(whole, "test"), _best(whole, "test", 0), "points")
    published = "1.4 points, .527 at .2 against .513, CaffeNet"
    found.append(judge(text, gap, AtLeast(GAIN), published, "Mishkin et al. 2016"))
    return found


def _table(settings: Settings, outcomes: Outcomes) -> Table:
    rows = []
    for task in settings.tasks:
        for part, words in ((PLAIN, "none"), (BATCH[task], f"batch norm, all {BATCH[task]}")):
            arm = outcomes.where(task=task, part=part)
            rows += [(TASKS[task], words, f"{d:g}", *_cells(arm, i)) for i, d in enumerate(settings.dropouts)]
        for parts in settings.parts[1:]:
            arm = outcomes.where(task=task, part=BATCH[task] // parts)
            rows.append((TASKS[task], f"batch norm, parts of {BATCH[task] // parts}", "0", *_cells(arm, 0)))
    n = len(outcomes.where(task=settings.tasks[0], part=PLAIN))
    caption = (
        f"Accuracy in % after {settings.steps} steps, at the rate that is best on validation images. Mean [95 % "
        f"interval] over {n} seeds"
    )
    return Table(caption, ("trained on", "normalization", "dropout", "test", "training"), tuple(rows))


def _cells(arm: Outcomes, dropout: int) -> tuple[str, str]:
    return cell(mean(_best(arm, "test", dropout), "%"), 1), cell(mean(_best(arm, "train", dropout), "%"), 1)


def _by_part(settings: Settings, outcomes: Outcomes) -> Figure:
    panels = []
    for task in settings.tasks:
        sizes = sorted(BATCH[task] // parts for parts in settings.parts)
        lines = []
        for name in ("test", "train"):
            values = [_best(outcomes.where(task=task, part=size), name, 0) / 100 for size in sizes]
            spread = (tuple(line) for line in band(np.stack(values, axis=1)))
            words = "test" if name == "test" else "training"
            lines.append(Series(words, tuple(float(size) for size in sizes), *spread))
        plain = float(_best(outcomes.where(task=task, part=PLAIN), "test", 0).mean()) / 100
        panels.append(Panel(TASKS[task], tuple(lines), ((plain, "test, not normalized"),)))
    return Figure(
        name="accuracy_by_part",
        title="Accuracy by how many images are normalized together",
        caption="The batch of the gradient is the same everywhere. Line: mean over seeds; band: smallest to largest.",
        x_label="images normalized together",
        y_label="accuracy",
        panels=tuple(panels),
        x_scale="log",
    )


def _by_dropout(settings: Settings, outcomes: Outcomes) -> Figure:
    panels = []
    for task in settings.tasks:
        lines = []
        for part, words in ((PLAIN, "without"), (BATCH[task], "with batch norm")):
            arm = outcomes.where(task=task, part=part)
            values = np.stack([_best(arm, "test", i) / 100 for i in range(len(settings.dropouts))], axis=1)
            lines.append(Series(words, settings.dropouts, *(tuple(line) for line in band(values))))
        panels.append(Panel(TASKS[task], tuple(lines)))
    return Figure(
        name="accuracy_by_dropout",
        title="Test accuracy by the share of units that are left out",
        caption="Each at the rate that is best for it on validation images. Line: mean over seeds; band: smallest to "
        "largest.",
        x_label="dropout",
        y_label="test accuracy",
        panels=tuple(panels),
    )
