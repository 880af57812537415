"""The distance of the variance of a small batch from that of the data, and what the factor m/(m-1) corrects.

Question:
    Algorithm 2 takes m/(m-1) times the mean variance of the mini-batches for inference. Is that the variance of the
    data, how wrong is it without the factor, and what if a batch is not drawn at random?

Claim:
    Normalize by the statistics of the batch in training and by those of the population in inference, with Var[x] =
    m/(m-1) E[var of a batch] (Ioffe & Szegedy 2015, algorithm 2, line 10). To it: this is right for batches of
    independent samples only; the joint variance, within the batches and between them, is right for all (Wu & Johnson
    2021, section 3).

What would refute it:
    With the factor, the mean variance over many random batches is more than 1 % off.

Settings:
    The outputs of 64 random linear units for all 1797 digits are the population, so that its variance is known exactly.
    200,000 samples are drawn from it with replacement, in batches of 2, 4, 8 and 32; then again in batches of 32 that
    each hold one class. The variance is the mean over batches, divided by the population's, averaged over the units.

Verdict:
    Each ratio is reproduced when its whole interval over seeds lies within 1 % of what the claim says. "Loses the
    variance between batches" counts from 10 % on, which leaves at most .9 of it.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - Y. Wu and J. Johnson, Rethinking "Batch" in BatchNorm, 2021, arXiv:2105.07576.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from normwise.lab.data.splits import digits, pixels
from normwise.lab.design import average, figure, line, panel, table
from normwise.lab.intervals import Numbers, mean
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Estimate, Regime, Statement
from normwise.lab.training.batch_moments import moments_of_batches
from normwise.lab.verdict import AtMost, Within, judge
from normwise.moments import Moments

SAYS = "Ioffe & Szegedy 2015, algorithm 2"
TOPIC = "what the layer is"
DATA = DIGITS
ARCHITECTURE = "one random linear layer of 64 units"
REGIME = Regime.OWN
TAKES_DATA = True
CLOSE = 0.01
LOST = 0.9
KINDS = {"random": "drawn at random", "class": "one class in each batch"}
MEASURES = {
    "biased": "mean of the batches' variances",
    "corrected": "the same times m/(m-1)",
    "joint": "joint variance, within and between",
}


@dataclass(frozen=True)
class Settings:
    """The batch sizes, and how much is drawn."""

    sizes: tuple[int, ...] = (2, 4, 8, 32)
    size_of_class_batches: int = 32
    samples: int = 200_000
    units: int = 64


@dataclass(frozen=True)
class Trial:
    """Batches of one size, made in one way."""

    kind: str
    size: int
    seed: int


def trials(settings: Settings, seeds: Sequence[int]) -> list[Trial]:
    """Random batches of every size and batches of one class of one size, with every seed."""
    return [Trial(kind, size, seed) for kind, size in _batches_of(settings) for seed in seeds]


def _batches_of(settings: Settings) -> list[tuple[str, int]]:
    """The ways in which batches are made, each with a size."""
    return [*(("random", size) for size in settings.sizes), ("class", settings.size_of_class_batches)]


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Average the variances of many batches, and divide by the variance of all."""
    random = np.random.default_rng(trial.seed)
    data = digits(trial.seed)
    parts = (data.train, data.validation, data.test)
    images = np.concatenate([part.images.double().numpy() for part in parts])
    labels = np.concatenate([part.labels.numpy() for part in parts])
    outputs = images @ random.normal(0.0, pixels() ** -0.5, (pixels(), settings.units))
    count = settings.samples // trial.size
    by_class = labels if trial.kind == "class" else None
    means, variances = moments_of_batches(outputs, trial.size, count, random, by_class)
    biased = variances.mean(axis=0)
    joint = Moments(means, variances, np.full((len(means), 1), float(trial.size))).merged()
    truth = outputs.var(axis=0)
    return {
        "biased": float((biased / truth).mean()),
        "corrected": float((biased * trial.size / (trial.size - 1) / truth).mean()),
        "joint": float((joint.unbiased_var() / truth).mean()),
    }


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Hold the ratios against (m-1)/m and 1."""

    def ratios(measure: str, kind: str, size: int) -> Numbers:
        return outcomes.where(kind=kind, size=size).array(measure)

    lines = (
        line(words, settings.sizes, np.stack([ratios(each, "random", size) for size in settings.sizes], axis=1))
        for each, words in MEASURES.items()
    )
    caption = "Batches drawn at random. Line: mean over seeds; band: smallest to largest, narrower than the line."
    panels = [panel("64 random units on digits", lines, ((1.0, "the population's"),))]
    show = partial(figure, x_label="images per batch, m", y_label="estimated over true variance", caption=caption)
    title = "Variance from batches over that of the population"
    by_size = show("variance_by_batch_size", title, panels, x_scale="log")
    return Conclusion(
        statements=tuple(_statements(settings, ratios)),
        table=table(
            "Estimated variance over the population's",
            _batches_of(settings),
            ("batches", lambda row: KINDS[row[0]]),
            ("m", lambda row: str(row[1])),
            *((words, lambda row, each=each: average(ratios(each, *row), 3)) for each, words in MEASURES.items()),
            seeds=len(outcomes.where(kind="class")),
        ),
        figures=(by_size,),
        caveats=(
            "The factor makes the mean of the variance right. The standard deviation, by which a layer divides, is "
            "still a little too small in the mean over small batches, because a root is concave.",
            "In a layer for images m counts all values of a channel, positions included; these are not independent, "
            "so that for them the factor is a smaller matter than it looks here.",
        ),
    )


def _statements(settings: Settings, ratios: Callable[[str, str, int], Numbers]) -> Iterator[Statement]:
    def found(measure: str, kind: str, size: int) -> Estimate:
        return mean(ratios(measure, kind, size), "of the variance")

    the_same = Within(1 - CLOSE, 1 + CLOSE)
    for size in settings.sizes:
        expected = (size - 1) / size
        text = f"The variance of a batch of {size} is (m-1)/m = {expected:.3g} of the population's in the mean."
        rule = Within(expected * (1 - CLOSE), expected * (1 + CLOSE))
        yield judge(text, found("biased", "random", size), rule)
    small, size = min(settings.sizes), settings.size_of_class_batches
    text = f"Times m/(m-1) it is the population's variance, at batches of {small}."
    yield judge(text, found("corrected", "random", small), the_same)
    text = f"With one class in each batch of {size}, algorithm 2 loses the variance between the batches."
    says = "Wu & Johnson 2021"
    yield judge(text, found("corrected", "class", size), AtMost(LOST, nothing=1.0), says=says)
    text = f"With one class in each batch of {size}, the joint variance is the population's."
    yield judge(text, found("joint", "class", size), the_same, says=says)
