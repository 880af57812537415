"""Are weaker photometric distortions of the training images enough with batch normalization?

Question:
    When training images are made brighter or darker, of more or less contrast, and noisy, is a network with batch
    normalization better off with less of that than one without?

Claim:
    "Reduce the photometric distortions. Because batch-normalized networks train faster and observe each training
    example fewer times, we let the trainer focus on more 'real' images by distorting them less" (Ioffe & Szegedy 2015,
    section 4.2.1). No number is published for this step alone.

What would refute it:
    With batch normalization strong distortions are as good as mild ones, or they are worth as much with it as without.

Settings:
    Three 3x3 convolutions of 16 channels with ReLU on scikit-learn's digits, blended with patches of two photographs
    so that brightness and contrast differ from image to image; a maximum over 2 x 2 behind the first, the mean over
    positions behind the last; batches of 60, 600 steps of gradient descent at the rates 0.3, 1 and 3 (the quick run has
    no 0.3), falling exponentially to a tenth. Strong distortions, of each training image anew: contrast times U(.5,
    1.5) about the image's mean, brightness plus U(-.4, .4), noise of standard deviation .2 in every pixel, then cut to
    between 0 and 1. Mild ones: half of each. Validation and test images are not distorted.

Verdict:
    Test accuracies are paired over seeds, each arm at the rate that is best on validation images; differences count
    from half a point on with an interval above 0. The best strength is picked on each seed's validation images at that
    seed's best rate, in multiples of the mild one, and counts from half a multiple on.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normwise.lab.data.splits import digits_on_photos
from normwise.lab.design import WITH_AND_WITHOUT, Arm, Arms, Grid, Training, across, average, figure, panel, table
from normwise.lab.design.curves import ends_best
from normwise.lab.intervals import Numbers, difference, mean
from normwise.lab.networks.convolutional import Chain
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Statement
from normwise.lab.training.descent import accuracy, to_a_tenth, train
from normwise.lab.verdict import AtLeast, judge
from normwise.torch import BatchNorm2d

SAYS = "Ioffe & Szegedy 2015, section 4.2.1"
TOPIC = "regularization"
GAIN = 0.5
STRENGTHS = {0: "none", 1: "mild", 2: "strong"}
"""In multiples of the mild distortions."""
CONTRAST, BRIGHTNESS, NOISE = 0.25, 0.2, 0.1
"""The mild ones: largest changes of the first two, standard deviation of the third."""


@dataclass(frozen=True)
class Settings(Training):
    """Rates and the network."""

    rates: tuple[float, ...] = (0.3, 1.0, 3.0)
    widths: tuple[int, ...] = (16, 16, 16)
    batch: int = 60


QUICK = Settings(rates=(1.0, 3.0))
FULL = Settings(rates=(0.1, 0.3, 1.0, 3.0, 10.0), steps=4000, widths=(32, 64, 64))


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
    """Train on distorted images; the accuracies after a quarter of the steps and after all."""
    data = digits_on_photos(trial.seed)
    model = Chain(widths=settings.widths, norm=BatchNorm2d if trial.batch_norm else None, seed=trial.seed)
    random = torch.Generator().manual_seed(trial.seed)
    early: list[tuple[float, float]] = []

    def now() -> tuple[float, float]:
        return accuracy(model, data.validation), accuracy(model, data.test)

    train(
        model,
        data.train,
        rate=trial.rate,
        steps=settings.steps,
        batch=settings.batch,
        seed=trial.seed,
        schedule=to_a_tenth(settings.steps),
        distort=lambda images: distorted(images, trial.strength, random),
        look=lambda _: early.append(now()),
        look_at=frozenset((settings.steps // 4,)),
    )
    end = now()
    validation, test = zip(*(early or [end]), end, strict=True)  # what diverges before is not looked at
    return {"validation": list(validation), "test": list(test)}


def distorted(images: Tensor, times: float, random: torch.Generator) -> Tensor:
    """Each image with another contrast and brightness and with noise: shape (n, pixels) in and out, within 0 and 1."""
    if not times:
        return images
    shifts = torch.rand(2, len(images), 1, generator=random) * 2 - 1
    means = images.mean(dim=1, keepdim=True)
    contrasted = means + (images - means) * (1 + times * CONTRAST * shifts[0])
    noise = torch.randn(images.shape, generator=random)
    return (contrasted + times * (BRIGHTNESS * shifts[1] + NOISE * noise)).clamp(0, 1)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the strengths, in both networks."""
    arms = GRID.arms(settings, outcomes, choose=ends_best)
    networks = {each: arms.where(batch_norm=each) for each in WITH_AND_WITHOUT}
    strengths = {each: _best_strengths(network) for each, network in networks.items()}
    lines = (
        across(WITH_AND_WITHOUT[each], network, "strength", lambda arm: arm.numbers()[:, -1])
        for each, network in networks.items()
    )

    def best_for(arm: Arm) -> str:
        own = strengths[arm.values["batch_norm"]]
        return f"{int((own == arm.values['strength']).sum())} of {len(own)}"

    return Conclusion(
        statements=_statements(arms, strengths),
        table=table(
            f"Test accuracy in % after {settings.steps // 4} and {settings.steps} steps, at the rate that ends best on "
            "validation images, and of how many seeds the strength is the best",
            arms,
            ("network", lambda arm: arm["batch_norm"]),
            ("distortions", lambda arm: arm["strength"]),
            ("best rate", lambda arm: arm.rate),
            ("after a quarter", lambda arm: average(arm.points()[:, 0], 1)),
            ("end", lambda arm: average(arm.points()[:, 1], 1)),
            ("best for", best_for),
        ),
        figures=(
            figure(
                "accuracy_by_strength",
                f"Test accuracy after {settings.steps} steps, by the strength of the distortions",
                [panel("digits on photographs", lines)],
                x_label="strength, in multiples of the mild one",
                caption="Each at the rate that ends best on validation images.",
            ),
        ),
        caveats=(
            "The paper's distortions were those of its time's ImageNet training, which it does not list; these are "
            "brightness, contrast and noise.",
            f"After {settings.steps} steps the network without batch normalization is less far than the one with it: "
            "what distortions cost or bring depends on that, as the claim's own reason says.",
            "Validation and test images come from the same photographs as the training images, so that there is no "
            "shift of lighting that distortions could prepare for.",
        ),
    )


def _best_strengths(network: Arms) -> Numbers:
    """The strength that is best on each seed's own validation images, at its best rate; of equal ones the weakest."""
    sweep = np.array([arm.array("validation")[..., -1].max(axis=1) for arm in network])
    found: Numbers = np.array(list(STRENGTHS), dtype=np.float64)[sweep.argmax(axis=0)]
    return found


def _statements(arms: Arms, strengths: dict[bool, Numbers]) -> tuple[Statement, ...]:
    test = {(each, times): arms[each, times].points() for each in WITH_AND_WITHOUT for times in STRENGTHS}
    gains = {each: test[each, 2] - test[each, 0] for each in WITH_AND_WITHOUT}
    gain = partial(mean, unit="points")
    return (
        judge(
            "With batch normalization, mild distortions are better than strong ones.",
            gain(test[True, 1][:, -1] - test[True, 2][:, -1]),
            AtLeast(GAIN),
        ),
        judge(
            "Without batch normalization, strong distortions are better than mild ones.",
            gain(test[False, 2][:, -1] - test[False, 1][:, -1]),
            AtLeast(GAIN),
            says="what the claim implies",
        ),
        judge(
            "Strong distortions instead of none are worth more without batch normalization than with it.",
            gain(gains[False][:, -1] - gains[True][:, -1]),
            AtLeast(GAIN),
        ),
        judge(
            "The best strength is higher without batch normalization than with it.",
            difference(strengths[False], strengths[True], "times mild"),
            AtLeast(0.5),
        ),
        judge(
            "With batch normalization, strong distortions instead of none are worth more after all steps than after a "
            "quarter of them.",
            gain(gains[True][:, -1] - gains[True][:, 0]),
            AtLeast(GAIN),
            says="its reason: each image is seen fewer times",
        ),
    )
