"""The same image in different batches: how much its output differs, by the size of the batch.

Question:
    In training mode a network with batch normalization sees an image by the mean and variance of its batch. How far
    apart are the outputs of one and the same image in different batches, how does that fall with the size of the batch,
    and is inference free of it?

Claim:
    In training "a training example is seen in conjunction with other examples in the mini-batch, and the training
    network no longer" produces "deterministic values for a given training example" (Ioffe & Szegedy 2015, section 3.4);
    in inference the output depends "only on the input, deterministically" (section 3.1). The smaller the batch, the
    larger the noise: a mean over m examples is off by a deviation over the root of m (teaching material). The
    output of a network that is left in training mode depends on the rest of the batch (Irpan 2017), and is worse in
    small batches.

What would refute it:
    In inference an output depends on the batch; in training it hardly does, or not less in larger batches.

Settings:
    scikit-learn's digits, three hidden layers of 64 ReLU units, 600 steps of gradient descent of rate 0.1 with batches
    of 60. Then batches of 2, 4, 8, 16, 32, 64 and 128 of 384 test images, drawn with repetition, 20 times as many as
    there are; in float64, and without changing the network. "Spread": the root mean square of an image's deviations
    from its own mean over the batches, over that of the images' means from each other; of the logits, and of the first
    layer's normalized values.

Verdict:
    The identity counts as exact up to 1e-12 of the deviation of the logits. "Falls with the root" counts when the slope
    of the logarithm of the spread over that of the size, from batches of 8 on, lies between -0.6 and -0.4. Differences
    of accuracy, paired over seeds, count from 1 point on.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - A. Irpan, On the Perils of Batch Norm, 2017, alexirpan.com/2017/04/26/perils-batch-norm.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from normwise.lab.data.splits import digits, first
from normwise.lab.design import Grid, OneNetwork, average, figure, line, panel
from normwise.lab.intervals import Numbers, difference, largest, mean
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement, Table
from normwise.lab.training.random_batches import in_random_batches, share_of, spread
from normwise.lab.verdict import AtLeast, Exact, Reaches, Within, judge

SAYS = "Ioffe & Szegedy 2015, sections 3.1 and 3.4"
TOPIC = "statistics at inference"
DATA = DIGITS
ARCHITECTURE = "3 hidden layers of 64 ReLU units"
REGIME = Regime.OWN
TESTS = True
TAKES_DATA = True
ROUNDING = 1e-12
CHANGES = 0.1
ROOT = Within(-0.6, -0.4)
FROM = 8
"""Smaller batches' variances are too uncertain for the root of m."""
WORSE = 1.0
WORDS = {"layer": "the first layer's normalized values", "logits": "the logits"}


@dataclass(frozen=True)
class Settings(OneNetwork):
    """The network, its training, and the batches of the test images."""

    steps: int = 600
    sizes: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128)
    images: int = 384
    times: int = 20


NEIGHBOURING = {"grid": Settings(rate=0.3), "width": Settings(width=96)}


@dataclass(frozen=True)
class Trial:
    """One trained network."""

    seed: int


trials = Grid(Trial).trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train; then look at the same images in batches of every size, in both modes."""
    data = digits(trial.seed)
    model = settings.train(settings.dense(trial.seed), data.train, trial.seed).double().eval()
    test = first(data.test, settings.images)
    images = test.images.double()
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in images])
    found: dict[str, Any] = {"alone": float((alone.argmax(dim=1) == test.labels).double().mean()), "inference": []}
    for size in settings.sizes:
        model.eval()
        same = in_random_batches(model, images, size, 1, trial.seed)["logits"][0]
        found["inference"].append(float((same - alone).abs().nan_to_num().max() / alone.std()))
        model.train()
        values = in_random_batches(model, images, size, settings.times, trial.seed)
        for name, each in values.items():
            found.setdefault(name, []).append(spread(each))
        changed = share_of(values["logits"], lambda answers: (answers != answers[0]).any())
        known = ~values["logits"][:, :, 0].isnan()
        right = (values["logits"].argmax(dim=2) == test.labels)[known].double().mean()
        found.setdefault("changed", []).append(changed)
        found.setdefault("right", []).append(float(right))
    return found


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Judge inference, the spread by size, and what answers in training mode cost."""
    lines = (line(words, settings.sizes, outcomes.array(name)) for name, words in WORDS.items())
    title = "The same image in different batches: how far apart its outputs are"
    caption = "In training mode, over the distance between different images. In inference all are 0."
    by_size = figure(
        "spread_by_size",
        title,
        [panel("64-3×64-10, ReLU, trained", lines)],
        x_label="images in a batch",
        y_label="spread",
        caption=caption,
        x_scale="log",
        y_scale="log",
    )
    return Conclusion(
        statements=tuple(_statements(settings, outcomes)),
        table=_table(settings, outcomes),
        figures=(by_size,),
        caveats=(
            "The batches are drawn at random, with all classes. In batches of few classes, or of one camera, an "
            "output depends on the rest of its batch much more.",
            "The noise of convolutional layers is smaller, because each image brings many positions to a batch.",
        ),
    )


def slope(settings: Settings, spreads: Numbers) -> Numbers:
    """The slope of the logarithm of the spread over that of the size, from ``FROM`` on: shape (seeds,)."""
    places = [place for place, size in enumerate(settings.sizes) if size >= FROM]
    at = np.log(np.array([settings.sizes[place] for place in places]))
    away = at - at.mean()
    with np.errstate(divide="ignore"):  # outputs that are all alike
        return np.asarray(np.log(spreads[:, places]) @ away / (away @ away))


def _statements(settings: Settings, outcomes: Outcomes) -> Iterator[Statement]:
    text = "In inference, an image's logits are the same alone and in batches of any size."
    yield judge(text, largest(outcomes.array("inference").max(axis=1), "deviations"), Exact(ROUNDING))
    for place in (0, len(settings.sizes) // 2, len(settings.sizes) - 1):
        text = (
            f"In training mode, with batches of {settings.sizes[place]}, the logits of an image lie at least a tenth "
            "as far apart as those of different images."
        )
        apart = mean(outcomes.array("logits")[:, place], "of the distance between images")
        yield judge(text, apart, Reaches(CHANGES))
    for name, words in WORDS.items():
        text = f"The spread of {words} falls with the root of the batch size."
        falls = mean(slope(settings, outcomes.array(name)), "as exponent of the batch size")
        yield judge(text, falls, ROOT, "-0.5 for the mean of independent values", "teaching material")
    alone = 100 * outcomes.array("alone")
    for place in (0, len(settings.sizes) - 1):
        text = f"Left in training mode, the network is less accurate in batches of {settings.sizes[place]}."
        lost = difference(alone, 100 * outcomes.array("right")[:, place], "points")
        yield judge(text, lost, AtLeast(WORSE), says="Irpan 2017")


def _table(settings: Settings, outcomes: Outcomes) -> Table:
    columns = (("logits", 1, 3), ("layer", 1, 3), ("changed", 100, 1), ("right", 100, 1))
    rows = tuple(
        (str(size), *(average(times * outcomes.array(name)[:, i], digits_) for name, times, digits_ in columns))
        for i, size in enumerate(settings.sizes)
    )
    inference = ("inference", "0", "0", "0", average(100 * outcomes.array("alone"), 1))
    caption = (
        f"{settings.images} test images, drawn {settings.times} times in batches of each size, in training mode. Mean "
        f"[95 % interval] over {len(outcomes)} seeds"
    )
    heads = ("batch", "spread of the logits", "of the first layer", "images with several answers, %", "accuracy, %")
    return Table(caption, heads, (*rows, inference))
