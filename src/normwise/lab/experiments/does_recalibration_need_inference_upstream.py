"""Statistics estimated again: should the layers below normalize by the batch meanwhile, or as at inference?

Question:
    Statistics of a trained network are estimated from data, layer upon layer. Do the layers below normalize each batch
    by itself meanwhile, as in training, which takes one pass over the data; or by their own final statistics, as at
    inference, which takes a pass for every layer? Which of the two gives the better network?

Claim:
    By the batch is enough: so do fvcore's precise batch norm (Wu & Johnson 2021, section 3) and PyTorch's update_bn.
    Against it: what a layer's statistics miss adds up through a stack of normalized layers and costs accuracy (Huang
    et al. 2022, who call it the estimation shift).

What would refute it:
    With layers below by the batch, the network is less accurate, by more than 1 point.

Settings:
    Hidden layers of 64 ReLU units on scikit-learn's digits in grey, 300 steps of plain gradient descent at 0.1: ten
    layers trained with batches of 8, ten with 64, and twenty with 64. Then all training images, pooled, both ways:
    shuffled, in batches of 4, 16 or 128, and sorted by class, in batches of 64. And the moving average of training
    (0.1) for comparison. Distance: the mean over layers of the root mean square over channels of the larger of mean
    and logarithm of the deviation, in standard deviations, from the moments that the layer's input has on all training
    images at once, the layers below at inference.

Verdict:
    Differences of test accuracy, paired over seeds, for every way in which the data may come. "No worse" counts
    when the whole interval lies above -1 point, about three standard errors of a mean over five seeds of 450 images at
    an accuracy of .98.

References:
    - Y. Wu and J. Johnson, Rethinking "Batch" in BatchNorm, 2021, arXiv:2105.07576.
    - L. Huang, Y. Zhou, T. Wang, J. Luo and X. Liu, Delving into the Estimation Shift of Batch Normalization in a
      Network, 2022, arXiv:2203.10778.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.functional import cross_entropy

from normwise.lab.data.splits import Split, digits
from normwise.lab.design import average, figure, line, panel, table
from normwise.lab.intervals import Numbers, difference
from normwise.lab.networks.dense import Dense
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement
from normwise.lab.training.descent import accuracy, train
from normwise.lab.training.variance_shift import from_truth
from normwise.lab.verdict import AtLeast, judge
from normwise.torch.models.recalibration.recalibrate import recalibrate

SAYS = "Wu & Johnson 2021, fvcore, update_bn; against it Huang et al. 2022"
TOPIC = "statistics at inference"
DATA = DIGITS
ARCHITECTURE = "10 and 20 hidden layers of 64 ReLU units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
WORSE = -1.0
"""Points of accuracy."""
WAYS: tuple[Literal["inference", "batch"], ...] = ("inference", "batch")
NAMES = {"inference": "as at inference", "batch": "by the batch", "average": "moving average of training"}
MEASURED = ("accuracy", "loss", "distance")


@dataclass(frozen=True)
class Settings:
    """The network, its training, and the batches that the data come in afterwards."""

    networks: tuple[tuple[int, int], ...] = ((10, 8), (10, 64), (20, 64))
    """Hidden layers, and images per batch in training."""
    recalibrated: tuple[int, ...] = (4, 16, 128)
    sorted: int = 64
    width: int = 64
    steps: int = 300
    rate: float = 0.1


FULL = Settings(networks=((5, 64), (10, 4), (10, 8), (10, 64), (20, 64)), recalibrated=(2, 4, 8, 16, 64, 256, 1077))


@dataclass(frozen=True)
class Trial:
    """One training, and every recalibration of its network."""

    depth: int
    trained: int
    seed: int


def trials(settings: Settings, seeds: Sequence[int]) -> list[Trial]:
    """Every network with every seed."""
    return [Trial(depth, trained, seed) for depth, trained in settings.networks for seed in seeds]


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train once; recalibrate copies of it both ways with every size of batch; measure each."""
    data = digits(trial.seed)
    model = Dense(depth=trial.depth, width=settings.width, batch_norm=True, seed=trial.seed)
    train(model, data.train, rate=settings.rate, steps=settings.steps, batch=trial.trained, seed=trial.seed)
    found: dict[str, list[float]] = {}
    _measure(found, "average", model, data.train, data.test)
    labels, images = data.train.labels, data.train.images
    shuffled = images[torch.randperm(len(labels), generator=torch.Generator().manual_seed(trial.seed))]
    by_class = images[labels.argsort(stable=True)]
    for way in WAYS:
        for images, size in (*((shuffled, size) for size in settings.recalibrated), (by_class, settings.sorted)):
            other = copy.deepcopy(model)
            recalibrate(other, images.split(size), upstream=way)
            _measure(found, way, other, data.train, data.test)
    return found


def _measure(found: dict[str, list[float]], way: str, model: Dense, train: Split, test: Split) -> None:
    with torch.no_grad():
        loss = float(cross_entropy(model.eval()(test.images), test.labels))
    measured = (accuracy(model, test), loss if math.isfinite(loss) else math.nan, from_truth(model, train.images))
    for what, value in zip(MEASURED, measured, strict=True):
        found.setdefault(f"{way}_{what}", []).append(value)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Judge accuracies at every pair of sizes; show them, the losses and the distances."""
    arms = {network: outcomes.where(depth=network[0], trained=network[1]) for network in settings.networks}
    arranged = [f"shuffled, {size} a batch" for size in settings.recalibrated]
    arranged += [f"by class, {settings.sorted} a batch"]
    ways = [("average", 0, ""), *((way, place, words) for place, words in enumerate(arranged) for way in WAYS)]

    def points(network: tuple[int, int], way: str, place: int) -> Numbers:
        return 100 * arms[network].array(f"{way}_accuracy")[:, place]

    panels, sizes = [], settings.recalibrated
    for (depth, trained), arm in arms.items():
        lines = (line(NAMES[way], sizes, arm.array(f"{way}_accuracy")[:, : len(sizes)]) for way in WAYS)
        panels.append(panel(f"{depth} layers, batches of {trained}", lines))
    title = "Test accuracy after recalibration, by the size of the batches that the data come in"
    by_size = figure(
        "accuracy_by_size", title, panels, x_label="images per batch", caption="Shuffled data.", x_scale="log"
    )

    def no_worse(network: tuple[int, int], place: int, words: str) -> Statement:
        text = f"{network[0]} layers trained with {network[1]} a batch, data {words}: by the batch is no worse."
        ours, theirs = (points(network, way, place) for way in ("batch", "inference"))
        return judge(text, difference(ours, theirs, "points"), AtLeast(WORSE, nothing=WORSE))

    return Conclusion(
        statements=tuple(
            no_worse(network, place, words) for network in settings.networks for place, words in enumerate(arranged)
        ),
        table=table(
            "Test accuracy in %, test loss in nats, distance in standard deviations",
            [(network, *way) for network in settings.networks for way in ways],
            ("layers, batch", lambda row: f"{row[0][0]}, {row[0][1]}"),
            ("data", lambda row: row[3]),
            ("layers below", lambda row: NAMES[row[1]]),
            ("accuracy", lambda row: average(points(*row[:3]), 1)),
            ("loss", lambda row: average(arms[row[0]].array(f"{row[1]}_loss")[:, row[2]], 3)),
            ("distance", lambda row: average(arms[row[0]].array(f"{row[1]}_distance")[:, row[2]], 3)),
            seeds=len(arms[settings.networks[0]]),
        ),
        figures=(by_size,),
        caveats=(
            "Where batches are small in training and afterwards, the loss is lower by the batch: the statistics then "
            "hold the tails that small batches make, and the network is less sure of everything. That is a correction "
            "of its confidence, which one number after training gives too; it does not make the network more accurate.",
            "Distance is taken on the data that the statistics come from, so that for layers below as at inference it "
            "is 0 by construction, up to rounding.",
            "Dense layers: a convolution has as many values in a small batch as these have in a large one.",
        ),
    )
