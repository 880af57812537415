"""Does it matter, with batch normalization, that the same images do not always meet in a batch?

Question:
    When the batches are always the same groups of images, or each of few classes, what does that cost a network with
    batch normalization, and what one without?

Claim:
    "Shuffle training examples more thoroughly": within-shard shuffling "prevents the same examples from always
    appearing in a mini-batch together. This led to about 1 % improvement in the validation accuracy, which is
    consistent with the view of Batch Normalization as a regularizer" (Ioffe & Szegedy 2015, section 4.2.1).

What would refute it:
    The gain from shuffling is below .3 points with batch normalization, or as large without it.

Settings:
    Three hidden layers of 64 ReLU units, 400 training images of scikit-learn's digits, batches of 20, 800 steps of
    gradient descent at rates 0.03, 0.1 and 0.3, the best of which is picked on validation images for each arm.
    "Shuffled": every pass has other batches. "Fixed": the batches are drawn once, and their order anew in every pass.
    "Sorted": the same, the batches cut from the images sorted by class, one to three classes in each.

Verdict:
    Shuffled minus fixed in test accuracy, paired over seeds, is reproduced with batch normalization from .3 points on
    with an interval above 0; "not without it" when the interval of the same without batch normalization is within .3
    points. Sorted batches cost from one point on.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - S. Ioffe, Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized Models, 2017,
      arXiv:1702.03275.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from normwise.lab.data import Split, digits
from normwise.lab.models import he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Figure, Panel, Series, Statement, Table
from normwise.lab.stack import Stack, batch_norm
from normwise.lab.stack_training import at_best, best, both, losses
from normwise.lab.statistics import Numbers, band, cell, difference, mean
from normwise.lab.verdict import AtLeast, Within, judge

SAYS = "Ioffe & Szegedy 2015, section 4.2.1"
TOPIC = "regularization"
TAKES_DATA = True
SEEDS = 20
GAIN = 0.3
COST = 1.0
ARMS = {True: "with batch norm", False: "without"}
ORDERS = {
    "shuffled": "other batches in every pass",
    "fixed": "always the same batches",
    "sorted": "few classes in each",
}


@dataclass(frozen=True)
class Settings:
    """Orders and rates."""

    rates: tuple[float, ...] = (0.03, 0.1, 0.3)
    images: int = 400
    steps: int = 800
    depth: int = 3
    width: int = 64
    batch: int = 20


FULL = Settings(rates=(0.01, 0.03, 0.1, 0.2, 0.3, 1.0), steps=4000)


@dataclass(frozen=True)
class Trial:
    """All rates of one arm and order, side by side."""

    batch_norm: bool
    order: str
    seed: int


def trials(settings: Settings, seeds: Sequence[int]) -> list[Trial]:  # noqa: ARG001  # every experiment has the same
    """Both arms with every order and seed."""
    return [Trial(arm, order, seed) for arm in ARMS for order in ORDERS for seed in seeds]


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate on batches that are made as the order says."""
    data = digits(trial.seed)
    few = Split(*(part[: settings.images] for part in (data.train.images, data.train.labels, data.train.rows)))
    stack = Stack(
        len(settings.rates),
        depth=settings.depth,
        width=settings.width,
        activation="relu",
        normalize=batch_norm if trial.batch_norm else None,
        std=he,
        seed=trial.seed,
    )
    rates = torch.tensor(settings.rates).view(-1, 1)
    parameters = list(stack.parameters())
    stack.train()
    for rows in rows_of_batches(trial.order, few.labels, settings.batch, settings.steps, trial.seed):
        loss = losses(stack(few.images[rows]), few.labels[rows])
        gradients = torch.autograd.grad(loss.sum(), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                flat = parameter.view(stack.members, -1)
                flat.addcmul_(gradient.reshape(stack.members, -1), rates, value=-1)
    return both(stack, data)


def rows_of_batches(order: str, labels: torch.Tensor, size: int, steps: int, seed: int) -> list[torch.Tensor]:
    """Which images are in the batch of each step."""
    generator = torch.Generator().manual_seed(seed)
    count = len(labels) // size
    drawn = torch.randperm(len(labels), generator=generator)
    if order == "sorted":
        drawn = drawn[labels[drawn].argsort(stable=True)]
    found: list[torch.Tensor] = []
    while len(found) < steps:
        if order == "shuffled":
            drawn = torch.randperm(len(labels), generator=generator)
        fixed = drawn[: count * size].split(size)
        found += [fixed[i] for i in torch.randperm(count, generator=generator).tolist()]
    return found[:steps]


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the orders with and without batch normalization."""
    return Conclusion(
        statements=tuple(_statements(outcomes)),
        table=_table(settings, outcomes),
        figures=(_figure(settings, outcomes),),
        caveats=(
            "The paper compared shards that were read in the same order with shards that were shuffled within, on "
            "ImageNet; here the batches are fixed altogether, which is more.",
            "In inference the running statistics are an average over all batches; with sorted batches they lack the "
            "variance between the batches, which is the larger part of what sorted batches cost with batch "
            "normalization.",
        ),
    )


def _test(outcomes: Outcomes, arm: bool, order: str) -> Numbers:
    return 100 * at_best(outcomes.where(batch_norm=arm, order=order))


def _statements(outcomes: Outcomes) -> list[Statement]:
    gains = {
        (arm, order): difference(_test(outcomes, arm, "shuffled"), _test(outcomes, arm, order), "points")
        for arm in ARMS
        for order in ("fixed", "sorted")
    }
    return [
        judge(
            "With batch normalization, other batches in every pass are better than always the same ones.",
            gains[True, "fixed"],
            AtLeast(GAIN),
            "about 1 %, Inception on ImageNet",
        ),
        judge(
            "Without batch normalization, it makes no difference whether the batches are always the same.",
            gains[False, "fixed"],
            Within(-GAIN, GAIN),
            says="what the claim implies",
        ),
        judge(
            "With batch normalization, batches of few classes cost accuracy.",
            gains[True, "sorted"],
            AtLeast(COST),
            "11.5 points, 78.5 % to 67.0 %, Inception-v3 on ImageNet",
            says="Ioffe 2017 (Batch Renormalization)",
        ),
        judge(
            "Without batch normalization, batches of few classes cost accuracy.",
            gains[False, "sorted"],
            AtLeast(COST),
            says="for comparison",
        ),
    ]


def _table(settings: Settings, outcomes: Outcomes) -> Table:
    rows = []
    for arm, words in ARMS.items():
        for order, text in ORDERS.items():
            runs = outcomes.where(batch_norm=arm, order=order)
            rate = f"{settings.rates[best(runs)]:g}"
            rows.append((words, text, rate, cell(mean(_test(outcomes, arm, order), "%"), 2)))
    n = len(outcomes.where(batch_norm=True, order="fixed"))
    caption = f"Test accuracy in % after {settings.steps} steps. Mean [95 % interval] over {n} seeds"
    return Table(caption, ("network", "batches", "best rate", "test"), tuple(rows))


def _figure(settings: Settings, outcomes: Outcomes) -> Figure:
    panels = []
    for arm, words in ARMS.items():
        lines = []
        for order, text in ORDERS.items():
            values = outcomes.where(batch_norm=arm, order=order).array("test")
            lines.append(Series(text, settings.rates, *(tuple(line) for line in band(values))))
        panels.append(Panel(words, tuple(lines)))
    return Figure(
        name="accuracy_by_rate",
        title=f"Test accuracy after {settings.steps} steps, by how the batches are made",
        caption="Line: mean over seeds; band: smallest to largest.",
        x_label="learning rate",
        y_label="test accuracy",
        panels=tuple(panels),
        x_scale="log",
    )
