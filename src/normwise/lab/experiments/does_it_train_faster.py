"""In how many steps does a small sigmoid network learn digits, with and without batch normalization?

Question:
    Does a network with batch normalization get to a test accuracy in fewer steps, and do the inputs of its sigmoids
    drift less on the way?

Claim:
    Three hidden layers of 100 sigmoid units on MNIST, binary pixels, batches of 60, initial weights "small random
    Gaussian values": with batch normalization before each sigmoid the network trains faster and ends higher, and the
    15th, 50th and 85th percentiles of the input of a typical sigmoid of the last hidden layer are more stable (Ioffe &
    Szegedy 2015, section 4.1, figure 1).

What would refute it:
    At the rate that suits each of the two best, the network without batch normalization needs less than three times as
    many steps, or its sigmoids' inputs drift no more.

Settings:
    The same network on scikit-learn's digits, 8 x 8 pixels, grey and black-and-white ("binary"), batches of 60, 1500
    steps of plain gradient descent at a constant rate. Accuracy to reach: that of guessing and .95 of what the network
    without batch normalization learns above it, at the end of training in the same seed, with the initial weights and
    the rate that end highest on validation images; of grey and of binary pixels separately. Initial standard deviation
    .03, .1 (the small one of the statements), .3, which suits sigmoids, 1 and 3, which saturate them; rates 0.025,
    0.1, 0.4, 1.6, 6.4 and 25.6; rate and deviation are picked for each arm on validation images, steps and accuracies
    counted on test images. At an edge of the grid they are no result; but .03 is no edge with batch normalization,
    where only rate / deviation^2 counts. Drift of a unit: range of its median input over training, divided by the mean
    width over time between its 15th and 85th percentiles; over validation images, in inference mode; the median over
    units is reported.

Verdict:
    Steps and drift are compared as ratios, paired over seeds (same initial weights, same order of images, same split).
    "At least three times fewer" counts where the whole interval is; "drifts less" when the interval is above 1; "ends
    higher" from half a point on. A network that does not get there counts with the number of steps that it was given,
    so that its ratio is too small rather than too large.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from normwise.lab.data.splits import digits, in_pixels, one_image, sizes
from normwise.lab.design import (
    WITH_AND_WITHOUT,
    DenseTraining,
    Grid,
    Looks,
    average,
    figure,
    line,
    obstacle,
    panel,
    table,
)
from normwise.lab.design.sweeps import Sweeps
from normwise.lab.intervals import difference, ratio
from normwise.lab.networks.dense import Dense, constant
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Figure, Panel, Regime, Series, Statement
from normwise.lab.training.descent import train
from normwise.lab.training.watching import PERCENTILES, Inputs
from normwise.lab.verdict import AtLeast, Reaches, judge

SAYS = "Ioffe & Szegedy 2015, section 4.1"
TOPIC = "optimization"
DATA = DIGITS
ARCHITECTURE = "3 hidden layers of 100 sigmoid units"
REGIME = Regime.OWN
TESTS = True
TAKES_DATA = True
SMALL = 0.1
"""The initial standard deviation that stands for the paper's "small random Gaussian values"."""
FASTER = 3.0
HIGHER = 0.5


@dataclass(frozen=True)
class Settings(Looks, DenseTraining):
    """The values that are swept, and the length of training."""

    inputs: tuple[str, ...] = ("grey", "binary")
    deviations: tuple[float, ...] = (0.03, SMALL, 0.3, 1.0, 3.0)
    rates: tuple[float, ...] = (0.025, 0.1, 0.4, 1.6, 6.4, 25.6)
    steps: int = 1500
    depth: int = 3
    width: int = 100


FULL = Settings(
    deviations=(0.01, SMALL, 0.3, 1.0, 3.0), rates=(0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6), steps=5000
)


@dataclass(frozen=True)
class Trial:
    """One training."""

    pixels: str
    batch_norm: bool
    deviation: float
    rate: float
    seed: int


NETWORKS = {False: "without", True: "with batch norm"}
trials = Grid(Trial, pixels="inputs", batch_norm=NETWORKS, deviation="deviations", rate="rates").trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train, and look at accuracy and at the inputs of the last hidden layer's sigmoids on the way."""
    data, at = digits(trial.seed, binary=trial.pixels == "binary"), settings.looks()
    depth, width, std = settings.depth, settings.width, constant(trial.deviation)
    model = Dense(depth=depth, width=width, activation="sigmoid", batch_norm=trial.batch_norm, std=std, seed=trial.seed)
    seen, steps, batch = Inputs(model, data), settings.steps, settings.batch
    train(model, data.train, rate=trial.rate, steps=steps, batch=batch, seed=trial.seed, look=seen, look_at=at)
    return seen.found(len(at))


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Pick the settings of each arm on validation images, and compare the arms on test images."""
    at, every = settings.looks(), dict[str, Sweeps]()
    for pixels in settings.inputs:
        runs = {each: outcomes.where(pixels=pixels, batch_norm=each) for each in WITH_AND_WITHOUT}
        every[pixels] = Sweeps(runs, settings.deviations, settings.rates, at)
    rows = [
        (pixels, words, deviation, arms.fastest(each, [deviation]))
        for pixels, arms in every.items()
        for each, words in WITH_AND_WITHOUT.items()
        for deviation in settings.deviations
    ]
    return Conclusion(
        statements=tuple(text for pixels, arms in every.items() for text in _statements(pixels, arms)),
        table=table(
            f"Steps to {every[settings.inputs[0]].target.words}, out of {settings.steps}, each network at the rate "
            "that gets there first on validation images; accuracy after the last step",
            rows,
            ("pixels", lambda row: row[0]),
            ("network", lambda row: row[1]),
            ("initial std", lambda row: f"{row[2]:g}"),
            ("rate", lambda row: row[3].rate),
            ("steps", lambda row: every[row[0]].target.in_steps(row[3])),
            ("got there", lambda row: every[row[0]].target.got_there(row[3])),
            ("test accuracy, %", lambda row: average(row[3].points()[:, -1], 1)),
            ("drift", lambda row: average(row[3].numbers("drift"), 2)),
            seeds=len(rows[0][3]),
            more=", of the steps the geometric one",
            tried=len(settings.rates),
        ),
        figures=(_curves(every), _percentiles(*list(every.items())[-1]), _sweep(every, settings.steps)),
        caveats=(
            f"These are small data: {sizes()[0]} training images of {in_pixels()} pixels against MNIST's 60,000 "
            f"of 28 x 28. {one_image()}. Seeds share images, for which the intervals allow.",
            "The accuracies in the figures are means over seeds; each seed has one of its own to reach.",
            "Looks are 10 % apart, so single numbers of steps are known to 10 %; the first crossing counts.",
            "The rates are swept in coarse steps: the best rate of an arm may lie between two of them.",
        ),
    )


def _statements(pixels: str, arms: Sweeps) -> Iterator[Statement]:
    every = arms.deviations
    figure_1a = "above .95 at 1000 to 2000 steps with, between 10,000 and 50,000 without (read off figure 1a, MNIST)"
    small = f"both with the paper's initialization (small Gaussian weights, std {SMALL:g})"
    for deviations, words in (((SMALL,), small), (every, "each with the initialization tuned for it")):
        if set(deviations) <= set(every):  # a tiny setting may be without the small one
            first = {each: arms.fastest(each, deviations) for each in WITH_AND_WITHOUT}
            text = (
                f"With {pixels} pixels, training to {arms.target.words} takes at least {FASTER:g} times fewer steps, "
            )
            published = figure_1a if pixels == "binary" else ""
            faster, edge = (
                ratio(arms.target.steps(first[False]), arms.target.steps(first[True]), "times fewer steps"),
                arms.target.obstacle(*first.values()),
            )
            yield judge(f"{text}{words}.", faster, Reaches(FASTER), published, obstacle=edge)
    best = {each: arms.fastest(each) for each in WITH_AND_WITHOUT}
    text = f"With {pixels} pixels, the inputs of the last sigmoids drift less (drift without over drift with)."
    less, edge = (
        ratio(best[False].numbers("drift"), best[True].numbers("drift"), "times less drift"),
        arms.target.obstacle(*best.values()),
    )
    yield judge(text, less, AtLeast(1.0, nothing=1.0), "figure 1b and c, without a number", obstacle=edge)
    highest = {each: arms.highest(each) for each in WITH_AND_WITHOUT}
    with_it, without = (highest[each].points()[:, -1] for each in (True, False))
    higher = difference(with_it, without, "points")
    text = f"With {pixels} pixels, the network ends higher, each at the rate that ends highest on validation images."
    published = "about .98 with and .97 without (read off figure 1a, MNIST)"
    yield judge(text, higher, AtLeast(HIGHER), published, obstacle=obstacle(*highest.values()))


def _curves(every: Mapping[str, Sweeps]) -> Figure:
    panels = []
    for pixels, arms in every.items():
        lines = (line(words, arms.at, arms.fastest(each).numbers()) for each, words in WITH_AND_WITHOUT.items())
        panels.append(panel(f"{pixels} pixels", lines, ((arms.target.level, f"{arms.target.level:.2f}"),)))
    title, caption = "Test accuracy against steps", "Each arm with the initialization and the rate tuned for it."
    return figure("accuracy_by_step", title, panels, x_label="steps", caption=caption, x_scale="log")


def _percentiles(pixels: str, arms: Sweeps) -> Figure:
    at = tuple(float(step) for step in arms.at)
    panels = []
    for each, words in WITH_AND_WITHOUT.items():
        trial, outcome = next(iter(arms.fastest(each).runs))
        curves = zip(PERCENTILES, zip(*outcome["typical"], strict=True), strict=True)
        lines = tuple(Series(f"{which}th percentile", at[: len(values)], values) for which, values in curves)
        panels.append(Panel(f"{words}, drift {outcome['drift']:.2f}, seed {trial.seed}", lines))
    return Figure(
        name="percentiles_by_step",
        title="Input of one sigmoid of the last hidden layer",
        caption=f"{pixels.capitalize()} pixels, over the validation images; the unit whose drift is the median "
        "over the layer, in one run of each arm, so there is no band.",
        x_label="steps",
        y_label="input of the sigmoid",
        panels=tuple(panels),
        x_scale="log",
    )


def _sweep(every: Mapping[str, Sweeps], most: int) -> Figure:
    panels = []
    for pixels, arms in every.items():
        lines = []
        for each, words in WITH_AND_WITHOUT.items():
            for deviation in arms.deviations:
                logs = np.log(arms.target.steps_at_every_rate(arms.of(each, deviation)))
                lines.append(line(f"{words}, std {deviation:g}", arms.rates, logs, back=np.exp))
        panels.append(panel(f"{pixels} pixels, to {arms.target.level:.2f}", lines))
    title = "Steps to the accuracy, at every rate"
    caption = (
        f"All initial weights and rates that were tried; {most} stands for: not reached. Line: geometric mean over "
        "seeds; band: smallest to largest."
    )
    show = partial(figure, x_label="learning rate", y_label="steps", caption=caption)
    return show("steps_by_rate", title, panels, x_scale="log", y_scale="log")
