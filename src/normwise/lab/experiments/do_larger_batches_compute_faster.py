"""Larger batches compute faster: the time of a training step for each image, by the size of the batch.

Question:
    How does the time that an image takes in a step of training fall with the size of the batch, with batch
    normalization and without, in a dense and in a convolutional network?

Claim:
    The larger the batch, the less time an epoch takes, because the images of a batch are computed side by side; on a
    GPU a step with 1000 images takes hardly longer than one with a single image (teaching material). Batch
    normalization is taught as a reason for large batches besides.

What would refute it:
    An image takes as long in a batch of 512 as in one of 8; or a step on 512 images takes more than twice as long as
    one on 8.

Settings:
    A step is forward, backward and update of all parameters. Three hidden layers of 256 ReLU units; and three 3 x 3
    convolutions of 16, 32 and 32 channels with pooling by 2; each with batch norm before the activations, and without.
    Batches of 8, 32, 128 and 512 of scikit-learn's digits, one thread. The sizes take turns, step by step, so that what
    else the machine does falls on all of them; the shortest of 15 steps of each.

Verdict:
    Ratios of times within a seed, geometric means over seeds. "Less time for each image" counts from 1.5 times less on;
    what names a size, by its whole interval. The claim is about images that a GPU computes side by side; here one
    thread of a CPU computes them, so that every statement is tried in another regime than the claim's.

References:
    - P. Goyal et al., Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour, 2017, arXiv:1706.02677.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from torch import nn

from normwise.lab.data.splits import digits
from normwise.lab.design import WITH_AND_WITHOUT, Arm, Arms, Grid, figure, geometric, line, panel, table
from normwise.lab.intervals import Numbers, ratio
from normwise.lab.networks.convolutional import Chain
from normwise.lab.networks.dense import Dense
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement
from normwise.lab.training.timing import in_turns, step_of
from normwise.lab.verdict import AtLeast, StaysBelow, judge
from normwise.torch import BatchNorm2d

SAYS = "teaching material"
TOPIC = "batch size and alternatives"
DATA = DIGITS
ARCHITECTURE = "3 hidden layers of 256 ReLU units; 3 convolutions"
REGIME = Regime.ANOTHER
TAKES_DATA = True
TIMES = True
LESS = AtLeast(1.5, nothing=1.0)
HARDLY = StaysBelow(2.0)
NETWORKS = {"dense": "dense", "convolutional": "convolutional"}


@dataclass(frozen=True)
class Settings:
    """The sizes of batches, the networks, and how often a step is timed."""

    sizes: tuple[int, ...] = (8, 32, 128, 512)
    width: int = 256
    depth: int = 3
    channels: tuple[int, ...] = (16, 32, 32)
    repeats: int = 15


@dataclass(frozen=True)
class Trial:
    """One network."""

    network: str
    batch_norm: bool
    seed: int


GRID = Grid(Trial, network=NETWORKS, batch_norm=WITH_AND_WITHOUT)
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """The seconds of a step by size, the sizes by turns."""
    data = digits(trial.seed).train
    model = _network(trial, settings).train()
    rows = [np.resize(np.arange(len(data.labels)), size) for size in settings.sizes]  # again, where there are too few
    steps = [partial(step_of, model, data.images[each], data.labels[each]) for each in rows]
    return {"seconds": in_turns(steps, settings.repeats)}


def _network(trial: Trial, settings: Settings) -> nn.Module:
    if trial.network == "dense":
        return Dense(depth=settings.depth, width=settings.width, batch_norm=trial.batch_norm, seed=trial.seed)
    return Chain(widths=settings.channels, norm=BatchNorm2d if trial.batch_norm else None, seed=trial.seed)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Judge the times for each image, and of a step."""
    arms, sizes = GRID.arms(settings, outcomes), settings.sizes
    panels = [
        panel(
            group.words["network"],
            (line(arm["batch_norm"], sizes, 1e6 * arm.array("seconds") / np.array(sizes)) for arm in group),
        )
        for group in arms.by("network")
    ]
    title, caption = "Time of a training step for each image of the batch", "One thread of one processor."
    show = partial(figure, x_label="images in a batch", y_label="microseconds", x_scale="log", y_scale="log")
    return Conclusion(
        statements=tuple(_statements(settings, arms)),
        table=table(
            "Microseconds of a training step for each image, by the size of the batch",
            arms,
            ("network", lambda arm: arm["network"]),
            ("normalization", lambda arm: arm["batch_norm"]),
            *(
                (f"{size}", lambda arm, i=i: geometric(1e6 * _each(arm, settings)[:, i], 1))
                for i, size in enumerate(sizes)
            ),
            more=", the geometric one",
        ),
        figures=(show("time_by_size", title, panels, caption=caption),),
        caveats=(
            "This is a claim about a machine, and the times are of this one: one thread of a CPU, which computes few "
            "images side by side. A GPU has room for many more.",
            "What a step costs says nothing of how many steps it takes: with larger batches there are fewer of them in "
            "an epoch.",
        ),
    )


def _each(arm: Arm, settings: Settings) -> Numbers:
    """Seconds for each image: shape (seeds, sizes)."""
    return np.asarray(arm.array("seconds") / np.array(settings.sizes))


def _statements(settings: Settings, arms: Arms) -> Iterator[Statement]:
    sizes = settings.sizes
    for arm in arms:
        network, seconds = f"{arm['network'].capitalize()} network {arm['batch_norm']}", arm.array("seconds")
        network = network.replace(" without", " without batch norm")
        for low, high in pairwise(range(len(sizes))):
            text = f"{network}: an image takes less time in batches of {sizes[high]} than of {sizes[low]}."
            each = _each(arm, settings)
            yield judge(text, ratio(each[:, low], each[:, high], "times less time"), LESS)
        text = f"{network}: a step on {sizes[-1]} images takes at most twice as long as one on {sizes[0]}."
        longer = ratio(seconds[:, -1], seconds[:, 0], "times the time")
        yield judge(text, longer, HARDLY, "about the same for 1 and 1000 images, a GPU")
