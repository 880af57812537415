"""In how many steps does a small sigmoid network learn digits, with and without batch normalization?

Question:
    Does a network with batch normalization reach a given test accuracy in fewer steps, and do the inputs of its
    sigmoids drift less on the way?

Claim:
    Three hidden layers of 100 sigmoid units on MNIST, binary pixels, batches of 60, initial weights "small random
    Gaussian values": with batch normalization before each sigmoid the network trains faster and ends higher, and the
    15th, 50th and 85th percentiles of the input of a typical sigmoid of the last hidden layer are more stable (Ioffe &
    Szegedy 2015, section 4.1, figure 1).

What would refute it:
    At the rate that suits each of the two best, the network without batch normalization needs less than three times as
    many steps, or its sigmoids' inputs drift no more.

Settings:
    The same network on scikit-learn's digits, 8 x 8 pixels, grey and black-and-white ("binary"), batches of 60, plain
    gradient descent at a constant rate. Accuracy to reach: .95 with grey pixels; .90 with binary ones, where 1077
    training images do not carry either network to .95. Initial standard deviation .1 (small) and .3 (kind to sigmoids),
    rates swept for each arm separately; rate and deviation are picked on validation images, steps and accuracies
    counted on test images. Drift of a unit: range of its median input over training, divided by the median width
    between its 15th and 85th percentiles; over validation images, in inference mode; the median over units is reported.

Verdict:
    Steps and drift are compared as ratios, paired over seeds (same initial weights, same order of images, same split).
    "Faster" counts from three times as many steps on; "ends higher" from half a point on. A network that does not get
    there counts with the number of steps that it was given, so that its ratio is too small rather than too large.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from normwise.lab.data.splits import CLASSES, digits
from normwise.lab.design import WITH_AND_WITHOUT, DenseTraining, Grid, average, figure, line, panel, table
from normwise.lab.design.curves import in_steps, steps_to
from normwise.lab.intervals import Numbers, difference, ratio
from normwise.lab.networks.dense import Dense, constant
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Figure, Panel, Series, Statement
from normwise.lab.training.descent import accuracy, looks, train
from normwise.lab.verdict import AtLeast, judge

SAYS = "Ioffe & Szegedy 2015, section 4.1"
TOPIC = "optimization"
TAKES_DATA = True
TARGETS = {"grey": 0.95, "binary": 0.90}
"""The accuracy to reach."""
SMALL = 0.1
"""The initial standard deviation that stands for the paper's "small random Gaussian values"."""
FASTER = 3.0
HIGHER = 0.5
PERCENTILES = (15, 50, 85)


@dataclass(frozen=True)
class Settings(DenseTraining):
    """What is swept, and how long training takes."""

    inputs: tuple[str, ...] = ("grey", "binary")
    deviations: tuple[float, ...] = (SMALL, 0.3)
    rates: tuple[float, ...] = (0.2, 1.0, 5.0)
    steps: int = 1500
    depth: int = 3
    width: int = 100


FULL = Settings(deviations=(0.01, SMALL, 0.3), rates=(0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0), steps=5000)


@dataclass(frozen=True)
class Trial:
    """One training."""

    pixels: str
    batch_norm: bool
    deviation: float
    rate: float
    seed: int


trials = Grid(
    Trial,
    pixels="inputs",
    batch_norm={False: "without", True: "with batch norm"},
    deviation="deviations",
    rate="rates",
).trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train, and look at accuracy and at the inputs of the last hidden layer's sigmoids on the way."""
    data = digits(trial.seed, binary=trial.pixels == "binary")
    model = Dense(
        depth=settings.depth,
        width=settings.width,
        activation="sigmoid",
        batch_norm=trial.batch_norm,
        std=constant(trial.deviation),
        seed=trial.seed,
    )
    inputs: list[torch.Tensor] = []
    at = looks(settings.steps)
    validation, test, percentiles = [], [], []

    def look(step: int) -> None:  # noqa: ARG001  # the steps are known: at
        hook = model.normalize[-1].register_forward_hook(lambda *seen: inputs.append(seen[-1]))
        validation.append(accuracy(model, data.validation))
        hook.remove()
        test.append(accuracy(model, data.test))
        percentiles.append(np.percentile(inputs.pop().numpy(), PERCENTILES, axis=0))

    train(
        model,
        data.train,
        rate=trial.rate,
        steps=settings.steps,
        batch=settings.batch,
        seed=trial.seed,
        look=look,
        look_at=frozenset(at),
    )
    guessing = [1 / CLASSES] * (len(at) - len(test))  # after it diverged
    drifts, unit = _drift(np.array(percentiles))
    return {
        "validation": validation + guessing,
        "test": test + guessing,
        "drift": drifts,
        "typical": [moment[:, unit] for moment in percentiles],
    }


def _drift(percentiles: Numbers) -> tuple[float, int]:
    """Median drift over units, and the unit that has it; from shape (looks, 3, units)."""
    if len(percentiles) < 2 or not np.isfinite(percentiles).all():
        return float("nan"), 0
    low, middle, high = (percentiles[:, i] for i in range(3))
    with np.errstate(divide="ignore", invalid="ignore"):  # a dead layer below: no width, hence no drift
        drifts = (middle.max(axis=0) - middle.min(axis=0)) / np.median(high - low, axis=0)
    typical = float(np.median(drifts))
    if not np.isfinite(typical):
        return float("nan"), 0
    return typical, int(np.argmin(np.abs(drifts - typical)))


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Pick the settings of each arm on validation images, and compare the arms on test images."""
    targets = ", of ".join(f"{TARGETS[pixels]:.2f} with {pixels} pixels" for pixels in settings.inputs)
    at = looks(settings.steps)
    rows = [
        (pixels, words, deviation, _fastest(settings, outcomes.where(pixels=pixels, batch_norm=each), [deviation]))
        for pixels in settings.inputs
        for each, words in WITH_AND_WITHOUT.items()
        for deviation in settings.deviations
    ]
    return Conclusion(
        statements=tuple(text for pixels in settings.inputs for text in _statements(settings, outcomes, pixels)),
        table=table(
            f"Steps to a test accuracy of {targets}, out of {settings.steps}, each network at the rate that gets there "
            "first on validation images; accuracy after the last step",
            rows,
            ("pixels", lambda row: row[0]),
            ("network", lambda row: row[1]),
            ("initial std", lambda row: f"{row[2]:g}"),
            ("rate", lambda row: f"{next(iter(row[3]))[0].rate:g}"),
            ("steps", lambda row: in_steps(row[3].array("test"), TARGETS[row[0]], at)),
            ("got there", lambda row: _reached(row[3], TARGETS[row[0]])),
            ("test accuracy, %", lambda row: average(100 * row[3].array("test")[:, -1], 1)),
            ("drift", lambda row: average(row[3].array("drift"), 2)),
            seeds=len(rows[0][3]),
            more=", of the steps the geometric one.",
        ),
        figures=(_curves(settings, outcomes), _percentiles(settings, outcomes), _sweep(settings, outcomes)),
        caveats=(
            "The digits are small data: 1077 training images of 8 x 8 pixels against MNIST's 60,000 of 28 x 28; one of "
            "450 test images is 0.22 points, and seeds share images, so that intervals of accuracies are somewhat "
            "narrow.",
            "Looks are 10 % apart, so single numbers of steps are known to 10 %; the first crossing counts.",
            "The rates are swept in coarse steps: the best rate of an arm may lie between two of them or, where the "
            "table names the smallest or largest, beyond them.",
        ),
    )


def _fastest(settings: Settings, arm: Outcomes, deviations: Sequence[float]) -> Outcomes:
    """The trials of the deviation and rate that reach the target first on validation images, in the geometric mean."""
    at, target = looks(settings.steps), TARGETS[next(iter(arm))[0].pixels]
    sweep = [arm.where(deviation=deviation, rate=rate) for deviation in deviations for rate in settings.rates]
    mean_steps = [np.log(steps_to(target, runs.array("validation"), at)).mean() for runs in sweep]
    final = [runs.array("validation")[:, -1].mean() for runs in sweep]  # decides when none gets there
    return min(zip(mean_steps, [-x for x in final], range(len(sweep)), sweep, strict=True))[3]


def _reached(runs: Outcomes, target: float) -> str:
    return f"{int((runs.array('test').max(axis=1) >= target).sum())} of {len(runs)}"


def _highest(settings: Settings, arm: Outcomes) -> Outcomes:
    """The trials of the deviation and rate that end highest on validation images."""
    sweep = [arm.where(deviation=d, rate=rate) for d in settings.deviations for rate in settings.rates]
    return max(sweep, key=lambda runs: float(runs.array("validation")[:, -1].mean()))


def _statements(settings: Settings, outcomes: Outcomes, pixels: str) -> Iterator[Statement]:
    at, target = looks(settings.steps), TARGETS[pixels]
    arms = {each: outcomes.where(pixels=pixels, batch_norm=each) for each in WITH_AND_WITHOUT}
    figure_1a = "above .95 at 1000 to 2000 steps with, between 10,000 and 50,000 without (read off figure 1a, MNIST)"
    for deviations, words in (
        ((SMALL,), f"both with the paper's initialization (small Gaussian weights, std {SMALL:g})"),
        (settings.deviations, "each with the initialization tuned for it"),
    ):
        if not set(deviations) <= set(settings.deviations):
            continue  # a tiny setting without the small one
        steps = {
            each: steps_to(target, _fastest(settings, arm, deviations).array("test"), at) for each, arm in arms.items()
        }
        text = f"With {pixels} pixels, training to {target:.2f} takes at least {FASTER:g} times fewer steps, {words}."
        published = figure_1a if pixels == "binary" else ""
        yield judge(text, ratio(steps[False], steps[True]), AtLeast(FASTER, nothing=1.0), published)
    drift = {each: _fastest(settings, arm, settings.deviations).array("drift") for each, arm in arms.items()}
    text = f"With {pixels} pixels, the inputs of the last sigmoids drift less (drift without over drift with)."
    less = ratio(drift[False], drift[True])
    yield judge(text, less, AtLeast(1.0, nothing=1.0), "figure 1b and c, without a number")
    ends = {each: 100 * _highest(settings, arm).array("test")[:, -1] for each, arm in arms.items()}
    text = f"With {pixels} pixels, the network ends higher, each at the rate that ends highest on validation images."
    published = "about .98 with and .97 without (read off figure 1a, MNIST)"
    yield judge(text, difference(ends[True], ends[False], "points"), AtLeast(HIGHER), published)


def _curves(settings: Settings, outcomes: Outcomes) -> Figure:
    panels = []
    for pixels in settings.inputs:
        lines = []
        for each, words in WITH_AND_WITHOUT.items():
            runs = _fastest(settings, outcomes.where(pixels=pixels, batch_norm=each), settings.deviations)
            lines.append(line(words, looks(settings.steps), runs.array("test")))
        panels.append(panel(f"{pixels} pixels", lines, ((TARGETS[pixels], f"{TARGETS[pixels]:.2f}"),)))
    return figure(
        "accuracy_by_step",
        "Test accuracy against steps",
        panels,
        x_label="steps",
        caption="Each arm with the initialization and the rate tuned for it.",
        x_scale="log",
    )


def _percentiles(settings: Settings, outcomes: Outcomes) -> Figure:
    at = tuple(float(step) for step in looks(settings.steps))
    pixels = settings.inputs[-1]
    panels = []
    for each, words in WITH_AND_WITHOUT.items():
        runs = _fastest(settings, outcomes.where(pixels=pixels, batch_norm=each), settings.deviations)
        trial, outcome = next(iter(runs))
        lines = (
            Series(f"{percentile}th percentile", at[: len(values)], values)
            for percentile, values in zip(PERCENTILES, zip(*outcome["typical"], strict=True), strict=True)
        )
        panels.append(Panel(f"{words}, drift {outcome['drift']:.2f}, seed {trial.seed}", tuple(lines)))
    return Figure(
        name="percentiles_by_step",
        title="Input of one sigmoid of the last hidden layer",
        caption=f"{pixels.capitalize()} pixels, over the validation images; the unit whose drift is the median over "
        "the layer, in one run of each arm, so there is no band.",
        x_label="steps",
        y_label="input of the sigmoid",
        panels=tuple(panels),
        x_scale="log",
    )


def _sweep(settings: Settings, outcomes: Outcomes) -> Figure:
    at, panels = looks(settings.steps), []
    for pixels in settings.inputs:
        lines = []
        for each, words in WITH_AND_WITHOUT.items():
            for deviation in settings.deviations:
                runs = outcomes.where(pixels=pixels, batch_norm=each, deviation=deviation)
                curves = (runs.where(rate=rate).array("test") for rate in settings.rates)
                logs = np.stack([np.log(steps_to(TARGETS[pixels], curve, at)) for curve in curves], axis=1)
                lines.append(line(f"{words}, std {deviation:g}", settings.rates, logs, back=np.exp))
        panels.append(panel(f"{pixels} pixels, to {TARGETS[pixels]:.2f}", lines))
    return figure(
        "steps_by_rate",
        "Steps to the accuracy, at every rate",
        panels,
        x_label="learning rate",
        y_label="steps",
        caption=f"All initial weights and rates that were tried; {settings.steps} stands for: not reached. Line: "
        "geometric mean over seeds; band: smallest to largest.",
        x_scale="log",
        y_scale="log",
    )
