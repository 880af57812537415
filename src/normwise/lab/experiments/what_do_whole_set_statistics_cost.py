"""Statistics for inference: a moving average, the mean over an epoch's batches, or those of the whole set; their price.

Question:
    Ideally a layer would use mean and variance of the whole training set at inference. What does that cost in passes,
    time and memory, and are the mean over all batches of the last epoch, or a moving average, as good?

Claim:
    Statistics of the whole set are the right ones and cost too much time and memory, so that a moving average of the
    batches' takes their place, or the mean over all batches of an epoch (teaching material). To it: for a fixed model
    they can be gathered batch by batch, from 1000 to 10 000 samples, and are then the exact ones (Wu & Johnson 2021,
    section 3); moments of parts can be merged without loss (Chan et al. 1983).

What would refute it:
    The mean over an epoch is as good as exact statistics from the first epoch on; exact statistics once, at the end of
    training, cost more than a tenth of it.

Settings:
    scikit-learn's digits, three hidden layers of 64 ReLU units, gradient descent with batches of 60, which are 17 an
    epoch, at the constant rates 0.1, 0.5 and 2; test accuracy after 1, 3, 10 and 30 epochs with a moving average (0.1
    for a new batch, from mean 0 and variance 1), with the mean over the last epoch's batches, and with exact
    statistics: all training images through the network as it is. Costs: for the same network, all images batch by
    batch and layer by layer, or all at once; against a step of training (forward, backward, update). Bytes are those
    of the tensors that operations make, the most that are held at once. One thread, the shortest of 5 calls.

Verdict:
    Differences of test accuracy, paired over seeds: "less accurate" counts from 5 points on, "no worse" when the whole
    interval lies above -1 point. Ratios of time and bytes by their whole interval; "more memory" counts from twice as
    much on. That both ways give the same statistics is exact up to 1e-4 of a deviation, in float32.

References:
    - Y. Wu and J. Johnson, Rethinking "Batch" in BatchNorm, 2021, arXiv:2105.07576.
    - T. Chan, G. Golub and R. LeVeque, Algorithms for Computing the Sample Variance, The American Statistician 37,
      1983.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from normwise.lab.data.splits import digits
from normwise.lab.design import Grid, Stacks, average, figure, geometric, line, panel
from normwise.lab.intervals import Numbers, difference, largest, ratio
from normwise.lab.networks.dense import Dense
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Estimate, Figure, Regime, Statement, Table
from normwise.lab.training.cost import costs
from normwise.lab.training.every_statistics import EpochStatistics
from normwise.lab.verdict import AtLeast, Exact, Reaches, StaysBelow, judge

SAYS = "teaching material"
TOPIC = "statistics at inference"
DATA = DIGITS
ARCHITECTURE = "3 hidden layers of 64 ReLU units"
REGIME = Regime.OWN
TESTS = True
TAKES_DATA = True
TIMES = True
LESS = AtLeast(5.0)
WORSE = -1.0
NO_WORSE = AtLeast(WORSE, nothing=WORSE)
MUCH = AtLeast(2.0, nothing=1.0)
ROUNDING = 1e-4
WEIGHT = 0.1
WAYS = {
    "average": f"moving average, {WEIGHT:g} for a new batch",
    "epoch": "mean over the last epoch's batches",
    "exact": "exact, of all training images",
}


@dataclass(frozen=True)
class Settings(Stacks):
    """The network, its training, and how often costs are timed."""

    rates: tuple[float, ...] = (0.1, 0.5, 2.0)
    epochs: tuple[int, ...] = (1, 3, 10, 30)
    depth: int = 3
    repeats: int = 5


NEIGHBOURING = {"looks": Settings(epochs=(1, 2, 6, 30)), "width": Settings(width=96)}
"""Not other rates: what is compared is what happens at a rate."""


@dataclass(frozen=True)
class Trial:
    """All rates, side by side."""

    seed: int


trials = Grid(Trial).trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train, look after some epochs, and measure what the statistics of one such network cost."""
    data = digits(trial.seed)
    stack = settings.stack(trial.seed, True)
    batches = len(data.train.labels) // settings.batch
    looks = [batches * epochs for epochs in settings.epochs]
    statistics = EpochStatistics(stack, data, weight=WEIGHT, batches=batches)
    settings.train(stack, data.train, trial.seed, steps=looks[-1], look=statistics, look_at=looks)
    model = Dense(depth=settings.depth, width=settings.width, batch_norm=True, seed=trial.seed)
    found = costs(model, data.train, settings.batch, settings.repeats)
    return {**statistics.found, **found, "steps": looks[-1]}


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Judge accuracies by epoch, then costs."""
    return Conclusion(
        statements=(*_accuracies(settings, outcomes), *_costs(outcomes)),
        table=_table(settings, outcomes),
        figures=(_figure(settings, outcomes),),
        caveats=(
            "Rates stay constant. Where they fall to 0, as in most trainings, the network stands still at the end, and "
            "every average comes to the same.",
            "Times and bytes are of this package's functions, of a small dense network and one thread. Each layer "
            "takes a pass, so that a deeper network takes more.",
            "The larger the training set, the more the statistics of all of it cost; a part of it will do.",
        ),
    )


def _points(outcomes: Outcomes, way: str, look: int, rate: int) -> Numbers:
    return 100 * outcomes.array(way)[:, look, rate]


def _accuracies(settings: Settings, outcomes: Outcomes) -> Iterator[Statement]:
    for i, rate in enumerate(settings.rates):

        def gap(ours: str, theirs: str, look: int, i: int = i) -> Estimate:
            return difference(_points(outcomes, ours, look, i), _points(outcomes, theirs, look, i), "points")

        text = (
            f"Rate {rate:g}, after the first epoch: the mean over its batches is less accurate than exact statistics."
        )
        yield judge(text, gap("exact", "epoch", 0), LESS)
        last = f"Rate {rate:g}, after {settings.epochs[-1]} epochs"
        text = f"{last}: the mean over the last epoch's batches is no worse than exact statistics."
        yield judge(text, gap("epoch", "exact", -1), NO_WORSE)
        text = f"{last}: a moving average is no worse than the mean over the last epoch's batches."
        yield judge(text, gap("average", "epoch", -1), NO_WORSE)


def _costs(outcomes: Outcomes) -> Iterator[Statement]:
    merged, once = "seconds, by batches", "Wu & Johnson 2021, section 3"
    step = outcomes.array("seconds, step")
    text = "Exact statistics once, at the end, take at most a tenth of the time of training."
    whole = ratio(outcomes.array(merged), step * outcomes.array("steps"), "of the time of training")
    yield judge(text, whole, StaysBelow(0.1), says=once, regime=Regime.ANOTHER)
    text = "Exact statistics after every step would take at least ten times the time of training."
    yield judge(text, ratio(outcomes.array(merged), step, "times the time of a step"), Reaches(10.0))
    bytes_of = {name: outcomes.array(f"bytes, {name}") for name in ("by batches", "at once")}
    text = "Exact statistics of all images at once need more memory than batch by batch."
    yield judge(text, ratio(bytes_of["at once"], bytes_of["by batches"], "times the bytes"), MUCH)
    text = "Gathered batch by batch, the statistics are those of all images at once."
    deviations = largest(outcomes.array("difference"), "deviations")
    yield judge(text, deviations, Exact(ROUNDING), says="Chan et al. 1983")


def _table(settings: Settings, outcomes: Outcomes) -> Table:
    rows = [
        (
            f"accuracy in %, rate {rate:g}, {WAYS[way]}",
            *(average(_points(outcomes, way, look, i), 1) for look in range(len(settings.epochs))),
        )
        for i, rate in enumerate(settings.rates)
        for way in WAYS
    ]
    blank = ("",) * (len(settings.epochs) - 1)
    step = outcomes.array("seconds, step")
    times = ("by batches", "side by side", "at once")
    cells = {f"time of exact statistics, {name}, over that of a step": _times(outcomes, name, step) for name in times}
    for name in ("step", "by batches", "at once"):
        cells[f"bytes held at once, {name}, in 1000"] = average(outcomes.array(f"bytes, {name}") / 1e3, 0)
    for name in ("by batches", "side by side"):
        cells[f"passes over the images, {name}"] = average(outcomes.array(f"passes, {name}"), 1)
    numbers = 2 * settings.depth * settings.width
    cells["numbers that a moving average keeps"] = f"{numbers}"
    cells["numbers, where the statistics of every batch are kept"] = f"{numbers} for each batch"
    rows += [(head, cell, *blank) for head, cell in cells.items()]
    heads = tuple(f"{epochs} epoch{'s' * (epochs > 1)}" for epochs in settings.epochs)
    caption = (
        "Accuracies by the number of epochs; costs, which are in the first column, of layer by layer and batch by "
        "batch, of all batches side by side, and of all images at once. Mean, of ratios the geometric one "
        f"[95 % interval] over {len(outcomes)} seeds"
    )
    return Table(caption, ("of", *heads), tuple(rows))


def _times(outcomes: Outcomes, name: str, step: Numbers) -> str:
    return geometric(outcomes.array(f"seconds, {name}") / step, 1)


def _figure(settings: Settings, outcomes: Outcomes) -> Figure:
    panels = (
        panel(
            f"rate {rate:g}",
            (line(words, settings.epochs, outcomes.array(way)[:, :, i]) for way, words in WAYS.items()),
        )
        for i, rate in enumerate(settings.rates)
    )
    title = "Test accuracy by the number of epochs and by the statistics that are used at inference"
    caption = "All lines of a panel are of the same network."
    show = partial(figure, x_label="epochs", y_label="test accuracy", x_scale="log")
    return show("accuracy_by_epochs", title, panels, caption=caption)
