"""Training with a gradient that takes the mean and the variance of the batch for constants.

Question:
    Does training blow up when the statistics do not take part in back-propagation?

Claim:
    "The model blows up when the normalization parameters are computed outside the gradient descent step": the step
    then tries to change the bias b, normalization undoes it, the loss stays the same and "b will grow indefinitely";
    worse if the scale is normalized too (Ioffe & Szegedy 2015, section 2).

What would refute it:
    Biases and weights stay as small as with the whole gradient.

Settings:
    Three hidden layers of 64 ReLU units with batch normalization on scikit-learn's digits, batches of 60, 600 steps of
    gradient descent. "Whole": gradients pass through mean and variance; "mean held" and "both held": these are
    constants for the gradient, and recomputed at every step. Sizes: at rate 0.1, in float64, with a bias in front of
    the normalization; norms over all hidden layers, and growth is the size after all steps over that after half of
    them. Accuracies: at eight rates between 0.01 and 30, in float32, without that bias, which changes no output.

Verdict:
    The bias does not move under the whole gradient: exact up to 1e-12. "Grows on" is reproduced when the growth of the
    bias is at least 1.2 with an interval above 1; "the weights blow up" when with both held the weights end at least
    twice as large as under the whole gradient; "costs accuracy" from one point on, each arm at the rate that is best on
    validation images.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from normwise.lab.data.splits import digits, in_float64
from normwise.lab.design import Arms, DenseTraining, Grid, Looks, OneNetwork, average, by_measure, gap, table
from normwise.lab.intervals import largest, ratio
from normwise.lab.networks.dense import Dense
from normwise.lab.networks.variants import HeldBatchNorm
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement
from normwise.lab.training.stacks import both
from normwise.lab.training.watching import Sizes
from normwise.lab.verdict import AtLeast, Exact, judge
from normwise.torch import BatchNorm1d

SAYS = "Ioffe & Szegedy 2015, section 2"
TOPIC = "what the layer is"
DATA = DIGITS
ARCHITECTURE = "3 hidden layers of 64 ReLU units"
REGIME = Regime.OWN
TESTS = True
TAKES_DATA = True
STILL = 1e-12
GROWTH = 1.2
LARGER = 2.0
COST = 1.0
ARMS = {"whole": "whole gradient", "mean": "mean held", "both": "mean and variance held"}


@dataclass(frozen=True)
class Settings(Looks, OneNetwork):
    """The network, its training at one rate, and the rates at which accuracies are compared."""

    steps: int = 600
    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


FULL = Settings(steps=5000)


@dataclass(frozen=True)
class Trial:
    """One training; ``held`` says what is a constant for the gradient."""

    held: str
    seed: int


GRID = Grid(Trial, held=ARMS)
trials = GRID.trials


def network(held: str, settings: Settings, seed: int) -> Dense:
    """The same initial network for every arm, with biases in front of the normalization."""
    model = settings.dense(seed, batch_norm=False, dtype=torch.float64)
    model.normalize = nn.ModuleList(normalization(held, settings.width, torch.float64) for _ in range(settings.depth))
    return model


def normalization(held: str, channels: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The layer of an arm."""
    return BatchNorm1d(channels, dtype=dtype) if held == "whole" else HeldBatchNorm(channels, held, dtype)


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train, and look at the sizes of weights and biases on the way; then train at every rate."""
    data = digits(trial.seed)
    model = network(trial.held, settings, trial.seed)
    at = settings.looks()
    sizes = Sizes(model)
    settings.train(model, in_float64(data).train, trial.seed, look=sizes, look_at=at)
    missing = [float("inf")] * (len(at) - len(sizes.weights))  # after it diverged
    shape = {name: getattr(settings, name) for name in ("rates", "steps", "batch", "width", "depth")}
    training = DenseTraining(**shape)
    stack = training.stack(trial.seed, lambda channels: normalization(trial.held, channels))
    training.train(stack, data.train, trial.seed)
    return both(stack, data) | {"weights": sizes.weights + missing, "biases": sizes.biases + missing}


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Judge how weights and biases grow."""
    arms, at = GRID.arms(settings, outcomes), settings.looks()
    half = next(i for i, step in enumerate(at) if step >= settings.steps / 2)
    title = "Size of the biases and the weights of the hidden layers"
    what, caption = {"biases": "biases", "weights": "weights"}, "Norms over all hidden layers."
    sizes = by_measure("sizes_by_step", title, arms, at, what, x_label="steps", y_label="norm", caption=caption)
    return Conclusion(
        statements=tuple(_statements(arms, half)),
        table=table(
            f"Norms of all hidden layers' biases and weights after {at[half]} and {settings.steps} steps at rate "
            f"{settings.rate:g}, and the test accuracy in % at the best rate",
            arms,
            ("gradient", lambda arm: arm["held"]),
            ("biases, half", lambda arm: average(arm.array("biases")[:, half], 2)),
            ("biases, end", lambda arm: average(arm.array("biases")[:, -1], 2)),
            ("weights, half", lambda arm: average(arm.array("weights")[:, half], 2)),
            ("weights, end", lambda arm: average(arm.array("weights")[:, -1], 2)),
            ("best rate", lambda arm: arm.rate),
            ("test", lambda arm: arm.percent(1)),
        ),
        figures=(sizes,),
        caveats=(
            "With the mean recomputed at every step the numbers of the forward pass are right all the time; only the "
            "gradient is wrong. Holding the statistics fixed over many steps is another thing, and what freezing does.",
            "Sizes are compared at one rate, since what is claimed of them is what a given step does.",
        ),
    )


def _statements(arms: Arms, half: int) -> Iterator[Statement]:
    whole, held = arms["whole"], ((arms["mean"], "the mean"), (arms["both"], "mean and variance"))
    text = "Under the whole gradient a bias in front of batch normalization never moves."
    moved = largest(whole.array("biases").max(axis=1), "norm of all biases")
    yield judge(text, moved, Exact(STILL), says="Ioffe & Szegedy 2015, section 3.2: the bias is redundant")
    for arm, words in held:
        biases = arm.array("biases")
        end = np.where(np.isnan(biases[:, half]), 2.0, biases[:, -1])  # NaN: infinite, after it diverged
        before = np.where(np.isnan(biases[:, half]), 1.0, biases[:, half])  # which before half counts as growth
        text = f"With {words} held, the bias grows on and on (its size at the end over that at half of the steps)."
        yield judge(text, ratio(end, before, "times the size at half"), AtLeast(GROWTH, nothing=1.0))
    text = "With mean and variance held, the weights end larger than under the whole gradient."
    sizes = ratio(arms["both"].array("weights")[:, -1], whole.array("weights")[:, -1], "times the size")
    yield judge(text, sizes, AtLeast(LARGER, nothing=1.0), "the model blows up")
    for arm, words in held:
        text = f"With {words} held, the network is less accurate than under the whole gradient, each at its best rate."
        yield judge(text, gap(whole, arm), AtLeast(COST))
