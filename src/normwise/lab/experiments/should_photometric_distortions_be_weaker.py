"""Are weaker photometric distortions of the training images enough with batch normalization?

Question:
    When training images are made brighter or darker, of more or less contrast, and noisy, is a network with batch
    normalization better off with less of that than one without?

Claim:
    "Reduce the photometric distortions. Because batch-normalized networks train faster and observe each training
    example fewer times, we let the trainer focus on more 'real' images by distorting them less" (Ioffe & Szegedy 2015,
    section 4.2.1). No number is published for this step alone.

What would refute it:
    With batch normalization strong distortions are as good as mild ones, or they are worth as much with it as without,
    once each network is trained to a plateau.

Settings:
    Three 3x3 convolutions of 16 channels with ReLU on scikit-learn's digits, blended with patches of two photographs so
    that brightness and contrast differ from image to image; a maximum over 2 x 2 behind the first, the mean over
    positions behind the last; batches of 60, 2000 steps of gradient descent at the rates 0.3, 1, 3 and 10 (the
    quick run has 600 steps at 1 and 3), falling exponentially to a tenth. Strong distortions, of each training image
    again: contrast times U(.5, 1.5) about the image's mean, brightness plus U(-.4, .4), noise of standard deviation .2
    in every pixel, then cut to between 0 and 1. Mild ones: half of each. Validation and test images are not distorted.

Verdict:
    Test accuracies are paired over seeds, each arm at the rate that is best on validation images; differences count
    from half a point on with an interval above 0. The best strength is picked on each seed's validation images at that
    seed's best rate, in multiples of the mild one, and counts from half a multiple on.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from normwise.lab.data.changes import distort
from normwise.lab.data.splits import digits_on_photos
from normwise.lab.design import (
    WITH_AND_WITHOUT,
    Arm,
    Arms,
    Grid,
    Training,
    across,
    average,
    figure,
    obstacle,
    panel,
    plateau,
    table,
)
from normwise.lab.design.curves import ends_best, how_many
from normwise.lab.intervals import Numbers, difference, mean
from normwise.lab.networks.convolutional import Chain
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement
from normwise.lab.training.descent import accuracies, to_a_tenth, train
from normwise.lab.verdict import AtLeast, judge
from normwise.torch import BatchNorm2d

SAYS = "Ioffe & Szegedy 2015, section 4.2.1"
TOPIC = "regularization"
DATA = f"{DIGITS} on photographs"
ARCHITECTURE = "3 convolutions of 16 channels"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
GAIN = 0.5
STRENGTHS = {0: "none", 1: "mild", 2: "strong"}
"""In multiples of the mild distortions."""


@dataclass(frozen=True)
class Settings(Training):
    """Rates and the network."""

    rates: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0)
    steps: int = 2000
    widths: tuple[int, ...] = (16, 16, 16)
    batch: int = 60


QUICK = Settings(rates=(1.0, 3.0), steps=600)
FULL = Settings(steps=10_000, widths=(32, 64, 64))


@dataclass(frozen=True)
class Trial:
    """One arm with distortions of one strength, at one rate."""

    batch_norm: bool
    strength: int
    rate: float
    seed: int


GRID = Grid(Trial, batch_norm=WITH_AND_WITHOUT, strength=STRENGTHS, rate="rates")
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train on distorted images; the accuracies after a quarter, two thirds and all of the steps."""
    data = digits_on_photos(trial.seed)
    model = Chain(widths=settings.widths, norm=BatchNorm2d if trial.batch_norm else None, seed=trial.seed)
    random = torch.Generator().manual_seed(trial.seed)
    early: list[dict[str, float]] = []
    train(
        model,
        data.train,
        rate=trial.rate,
        steps=settings.steps,
        batch=settings.batch,
        seed=trial.seed,
        schedule=to_a_tenth(settings.steps),
        distort=lambda images: distort(images, trial.strength, random),
        look=lambda _: early.append(accuracies(model, data)),
        look_at=(settings.steps // 4, plateau.two_thirds(settings.steps)),
    )
    end = accuracies(model, data)
    early += [end] * (2 - len(early))  # what diverges before is not looked at
    return {name: [*(each[name] for each in early), end[name]] for name in end}


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the strengths, in both networks."""
    arms = GRID.arms(settings, outcomes, choose=ends_best)
    networks = {each: arms.where(batch_norm=each) for each in WITH_AND_WITHOUT}
    strengths = {each: _best_strengths(network) for each, network in networks.items()}
    lines = (
        across(WITH_AND_WITHOUT[each], network, "strength", lambda arm: arm.numbers()[:, -1])
        for each, network in networks.items()
    )

    title = f"Test accuracy after {settings.steps} steps, by the strength of the distortions"
    panels, label = [panel("digits on photographs", lines)], "strength, in multiples of the mild one"
    caption = "Each at the rate that ends best on validation images."
    by_strength = figure("accuracy_by_strength", title, panels, x_label=label, caption=caption)

    def best_for(arm: Arm) -> str:
        own = strengths[arm.values["batch_norm"]]
        return how_many(own == arm.values["strength"])

    return Conclusion(
        statements=tuple(_statements(arms, strengths)),
        table=table(
            f"Test accuracy in % after {settings.steps // 4} and {settings.steps} steps, at the rate that ends best on "
            "validation images, and of how many seeds the strength is the best",
            arms,
            ("network", lambda arm: arm["batch_norm"]),
            ("distortions", lambda arm: arm["strength"]),
            ("best rate", lambda arm: arm.rate),
            ("after a quarter", lambda arm: average(arm.points()[:, 0], 1)),
            ("end", lambda arm: average(arm.points()[:, -1], 1)),
            ("best for", best_for),
        ),
        figures=(by_strength,),
        caveats=(
            "The paper's distortions were those of its time's ImageNet training, which it does not list; these are "
            "brightness, contrast and noise.",
            "What distortions cost or bring depends on how far a network is, as the claim's own reason says; a "
            f"training in whose last third an arm still rises by more than {plateau.PLATEAU:g} point gives no verdict.",
            "Validation and test images come from the same photographs as the training images, so that there is no "
            "shift of lighting that distortions could prepare for.",
        ),
    )


def _best_strengths(network: Arms) -> Numbers:
    """The strength that is best on each seed's own validation images, at its best rate; of equal ones the weakest."""
    sweep = np.array([arm.array("validation")[..., -1].max(axis=1) for arm in network])
    return np.asarray(np.array(list(STRENGTHS), dtype=np.float64)[sweep.argmax(axis=0)])


def unfinished(*arms: Arm) -> str:
    """The obstacle of arms that still learn; or the usual one."""
    for arm in arms:
        seen = arm.numbers("validation")
        why = plateau.unfinished(seen[:, -2], seen[:, -1], arm.words.values())
        if why:
            return why
    return obstacle(*arms)


def _statements(arms: Arms, strengths: dict[bool, Numbers]) -> Iterator[Statement]:
    test = {(each, times): arms[each, times].points() for each in WITH_AND_WITHOUT for times in STRENGTHS}
    gains = {each: test[each, 2] - test[each, 0] for each in WITH_AND_WITHOUT}
    gain, rule = partial(mean, unit="points"), AtLeast(GAIN)
    text = "With batch normalization, mild distortions are better than strong ones."
    better = gain(test[True, 1][:, -1] - test[True, 2][:, -1])
    yield judge(text, better, rule, obstacle=unfinished(arms[True, 1], arms[True, 2]))
    text = "Strong distortions instead of none are worth more without batch normalization than with it."
    more, why = gain(gains[False][:, -1] - gains[True][:, -1]), unfinished(*arms)
    yield judge(text, more, rule, obstacle=why)
    text = "The best strength is higher without batch normalization than with it."
    higher = difference(strengths[False], strengths[True], "times mild")
    yield judge(text, higher, AtLeast(0.5), obstacle=why)
