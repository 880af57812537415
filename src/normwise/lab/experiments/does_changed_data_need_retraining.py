"""Data that changed: fresh statistics without labels, against further training and training from the start with labels.

Question:
    The images that a trained network meets have changed, and some new ones are there. Is it enough to take mean and
    variance from them, without labels, or must the network be trained further on them, or from the start, with labels?

Claim:
    Batch normalization may let a network generalize to new distributions "perhaps with just a recomputation of the
    population means and variances" (Ioffe & Szegedy 2015, section 5), as with shifted images from another source (Li et
    al. 2016). Teaching material says it of data that drift: refresh the statistics instead of training again; it
    repairs a change of location and scale, and no change of what the images mean.

What would refute it:
    After a change of contrast, brightness or gain, further training on the new images is better by more than a point;
    or fresh statistics are as good as further training where black and white are exchanged.

Settings:
    scikit-learn's digits, three hidden layers of 64 ReLU units, 600 steps of gradient descent with batches of 32 on 577
    images. Then 32 or 500 other images, all changed in one way, as are the validation and test images: contrast times
    .3 about grey of .5, brightness + .3, gain 2 and offset .5, noise of .5, blur, inverted; or not changed at all.
    Values beyond 0 and 1 stay, so that no pixel saturates as it would in a camera. Fresh statistics are those of the
    new images alone; training further and training from the start take 300 steps. Rates 0.01, 0.03, 0.1, 0.3, 1 and 3
    for each training, the best of which is picked on validation images, changed ones for the new images.

Verdict:
    Differences of test accuracy, paired over seeds. "No worse" counts when the whole interval lies above -1 point,
    "better" from 1 point on.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - Y. Li, N. Wang, J. Shi, J. Liu and X. Hou, Revisiting Batch Normalization For Practical Domain Adaptation, 2016,
      arXiv:1603.04779.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from normwise.lab.data.shifts import SHIFTS
from normwise.lab.data.splits import Digits, Split, digits, first, sizes
from normwise.lab.design import Arms, DenseTraining, Grid, average, figure, line, panel, table
from normwise.lab.design.arms import TIE, at_an_edge, pick
from normwise.lab.intervals import Numbers, difference
from normwise.lab.networks.stack import Stack, all_like
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Estimate, Figure, Regime, Statement
from normwise.lab.training.stacks import accuracies, both
from normwise.lab.verdict import AtLeast, judge
from normwise.torch.models.recalibration.recalibrate import recalibrate

SAYS = "teaching material; Ioffe & Szegedy 2015, section 5"
TOPIC = "drifting data"
DATA = f"{DIGITS}, changed"
ARCHITECTURE = "3 hidden layers of 64 ReLU units"
REGIME = Regime.OWN
TESTS = True
TAKES_DATA = True
WORSE = -1.0
NO_WORSE = AtLeast(WORSE, nothing=WORSE)
BETTER = AtLeast(1.0)
AFFINE = ("contrast 0.3", "brightness + 0.3", "gain 2, offset 0.5")
"""Changes of location and scale."""
OTHER = ("noise 0.5", "blur")
INVERTED = "inverted"
SHOWN = ("contrast 0.3", "noise 0.5", "blur", "inverted")
WAYS = {"further": "trained further", "start": "trained from the start"}


@dataclass(frozen=True)
class Settings(DenseTraining):
    """The network, its training, and the new images."""

    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    depth: int = 3
    batch: int = 32
    again_steps: int = 300
    images: tuple[int, ...] = (32, 500)


@dataclass(frozen=True)
class Trial:
    """One change of the images, and one way of training again."""

    shift: str
    way: str
    seed: int


GRID = Grid(
    Trial, shift={name: name for name in ("none", *AFFINE, *OTHER, INVERTED)}, way=WAYS, inside={"images": "images"}
)
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train again on the new images; where that begins with a trained network, give it fresh statistics as well."""
    old, new = _before_and_after(digits(trial.seed), trial.shift, max(settings.images))
    stack, found = settings.stack(trial.seed, True), dict[str, Any]()
    if trial.way == "further":
        settings.train(stack, old.train, trial.seed)
        scores = np.array(accuracies(stack, old.validation))
        found["place"] = pick(scores, TIE, scores)
        all_like(stack, found["place"])
        found["before"] = accuracies(stack, old.test)[0]
        found["unchanged"] = [accuracies(stack, new.test)[0]] * len(settings.images)
        found["fresh"] = [_fresh(stack, new, images) for images in settings.images]
    again = []
    for images in settings.images:
        other = copy.deepcopy(stack)
        settings.train(other, first(new.train, images), trial.seed, steps=settings.again_steps)
        again.append(both(other, new))
    return found | {name: [each[name] for each in again] for name in ("validation", "test")}


def _before_and_after(data: Digits, shift: str, images: int) -> tuple[Digits, Digits]:
    """The images before the change, and changed ones: others for training, the same ones for validation and test."""
    rows = slice(-images, None)
    train = Split(data.train.images[rows], data.train.labels[rows], data.train.rows[rows])
    parts = (replace(part, images=SHIFTS[shift](part.images)) for part in (train, data.validation, data.test))
    return Digits(first(data.train, len(data.train.labels) - images), data.validation, data.test), Digits(*parts)


def _fresh(stack: Stack, data: Digits, images: int) -> float:
    """The test accuracy with the statistics of some of the new images."""
    other = copy.deepcopy(stack)
    recalibrate(other, [data.train.images[:images]])
    return accuracies(other, data.test)[0]


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Hold fresh statistics against training, change by change."""
    arms = GRID.arms(settings, outcomes)
    begun = outcomes.where(way="further")
    edge = at_an_edge(begun.array("place"), settings.rates)
    return Conclusion(
        statements=tuple(_statements(settings, arms, edge)),
        table=table(
            "Test accuracy in % on changed images, and of the network before they changed, which is "
            f"{average(100 * begun.where(shift='none').array('before'), 1)}",
            (pair for shift in arms.by("shift") for pair in shift.by("images")),
            ("change", lambda pair: pair.words["shift"]),
            ("new images", lambda pair: pair.words["images"]),
            ("unchanged network", lambda pair: average(_points(pair["further"], "unchanged"), 1)),
            ("fresh statistics", lambda pair: average(_points(pair["further"], "fresh"), 1)),
            ("trained further", lambda pair: pair["further"].percent(1)),
            ("rate", lambda pair: pair["further"].rate),
            ("trained from the start", lambda pair: pair["start"].percent(1)),
            ("its rate", lambda pair: pair["start"].rate),
        ),
        figures=(_figure(settings, arms),),
        caveats=(
            f"Training again takes labels, also those of {sizes()[1]} changed validation images by which its rate is "
            "picked. "
            "Fresh statistics take none.",
            "New images are more images: how much further training gains from that is in the rows without a change.",
            "All classes are as often among the new images as among the old ones.",
        ),
    )


def _points(arm: Any, what: str) -> Numbers:
    return np.asarray(100 * arm.array(what))


def _against(arms: Arms, shift: str, images: int, way: str) -> Estimate:
    """Points by which fresh statistics are better than training again."""
    fresh = _points(arms[shift, "further", images], "fresh")
    return difference(fresh, arms[shift, way, images].points(), "points")


def _statements(settings: Settings, arms: Arms, edge: str) -> Iterator[Statement]:
    few, many = settings.images[0], settings.images[-1]

    def hindered(shift: str, images: int, way: str) -> str:
        return edge or arms[shift, way, images].obstacle

    for shift in (*AFFINE, *OTHER):
        text = f"{shift}, {few} images: fresh statistics are no worse than training further on them."
        yield judge(text, _against(arms, shift, few, "further"), NO_WORSE, obstacle=hindered(shift, few, "further"))
    for shift in AFFINE:
        for way, words in WAYS.items():
            text = f"{shift}, {many} images: fresh statistics are no worse than a network that is {words} on them."
            yield judge(text, _against(arms, shift, many, way), NO_WORSE, obstacle=hindered(shift, many, way))
    for shift in (*OTHER, INVERTED):
        text = f"{shift}, {many} images: training further on them is better than fresh statistics."
        fresh, arm = _points(arms[shift, "further", many], "fresh"), arms[shift, "further", many]
        gains = difference(arm.points(), fresh, "points")
        yield judge(text, gains, BETTER, says="teaching material", obstacle=hindered(shift, many, "further"))
    text = f"{INVERTED}, {many} images: training from the start on them is better than fresh statistics."
    gains = difference(
        arms[INVERTED, "start", many].points(), _points(arms[INVERTED, "further", many], "fresh"), "points"
    )
    yield judge(text, gains, BETTER, says="teaching material", obstacle=hindered(INVERTED, many, "start"))


def _figure(settings: Settings, arms: Arms) -> Figure:
    panels = []
    for shift in SHOWN:
        found = arms.where(shift=shift)
        lines = [
            line(words, settings.images, np.stack([found["further", n].array(what) for n in settings.images], axis=1))
            for what, words in (("unchanged", "unchanged network"), ("fresh", "fresh statistics"))
        ]
        lines += [
            line(words, settings.images, np.stack([found[way, n].numbers() for n in settings.images], axis=1))
            for way, words in WAYS.items()
        ]
        panels.append(panel(shift, lines))
    title = "Test accuracy on changed images, by how many of them there are"
    caption = "Fresh statistics take no labels, training takes them."
    show = partial(figure, x_label="new images", y_label="test accuracy", x_scale="log")
    return show("accuracy_by_images", title, panels, caption=caption)
