"""A chain of 60 normalized layers: do the remedies for its exploding gradients work, and does it then train better?

Question:
    In a chain of 60 layers with batch normalization in each the gradient explodes towards the input. Which of these
    keeps it at its size, and does the chain then train better: a larger eps, units that are nearly linear at first, or
    shortcuts?

Claim:
    Batch normalization makes gradients explode with depth, which no variance of the initial weights prevents. Nearly
    linear units (tanh with small scales, ReLU with large shifts), an eps near 1 and shortcuts lessen the explosion and
    let deeper chains train; and after a single step of training the gradients of all layers are of much more equal
    sizes (Yang et al. 2019).

What would refute it:
    With a remedy the gradient grows no less through the layers, or the chain ends no higher than without it.

Settings:
    60 hidden layers of 64 units on scikit-learn's digits, ReLU with He's initial weights or tanh with Glorot's, batches
    of 60. Remedies: eps 1 in place of 0.00001; shifts of ReLU that begin at 3; a shortcut around each layer but the
    first, on which normalize(W relu(h)) is added; scales of tanh that begin at 0.1. Before training: the norm of the
    gradient by each layer's weights, on the first batch; growth is that of the lowest layer over that of the highest.
    1000 steps of gradient descent at rates 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3 and 10, falling exponentially to a
    tenth; the best is picked on validation images for each chain. Range: the largest norm of all layers over the
    smallest one, before training and after one step at the rate 0.1.

Verdict:
    "Grows less" is reproduced when the growth is a tenth or less of that without the remedy, and the whole interval of
    the paired ratio is on that side; "ends higher" from one point on, with an interval of the paired difference above
    0; "more equal sizes" when the range becomes tenfold smaller. A chain that still rises by more than a point in the
    last third of its training gives no verdict on accuracy.

References:
    - G. Yang, J. Pennington, V. Rao, J. Sohl-Dickstein and S. S. Schoenholz, A Mean Field Theory of Batch
      Normalization, 2019, arXiv:1902.08129.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from normwise.lab.data.splits import batches, digits
from normwise.lab.design import (
    Arm,
    Arms,
    Grid,
    SideBySide,
    average,
    by_rate,
    figure,
    gap,
    line,
    obstacle,
    panel,
    plateau,
    table,
)
from normwise.lab.intervals import Numbers, mean, transformed
from normwise.lab.networks.dense import glorot, he
from normwise.lab.networks.remedies import Shortcuts, beginning
from normwise.lab.networks.stack import Stack
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Estimate, Figure, Regime, Statement
from normwise.lab.training.by_layer import log_norms
from normwise.lab.verdict import AtLeast, judge

SAYS = "Yang et al. 2019"
TOPIC = "optimization"
DATA = DIGITS
ARCHITECTURE = "60 hidden layers of 64 units, with batch norm in each"
REGIME = Regime.OWN
TESTS = True
TAKES_DATA = True
GAIN = 1.0
TENFOLD = 10.0
ARMS = {
    "relu": "ReLU",
    "eps": "ReLU, eps 1",
    "shift": "ReLU, shifts begin at 3",
    "shortcuts": "ReLU, shortcuts",
    "tanh": "tanh",
    "scale": "tanh, scales begin at 0.1",
}
REMEDIES = {
    "eps": ("an eps of 1", "relu"),
    "shift": ("shifts that begin at 3", "relu"),
    "shortcuts": ("shortcuts", "relu"),
    "scale": ("scales that begin at 0.1", "tanh"),
}
"""Each in words, and the chain that it is held against."""
NORMALIZATIONS = {
    "relu": beginning(),
    "eps": beginning(eps=1.0),
    "shift": beginning(shift=3.0),
    "shortcuts": beginning(),
    "tanh": beginning(),
    "scale": beginning(scale=0.1),
}


@dataclass(frozen=True)
class Settings(SideBySide):
    """The chain and its rates."""

    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    steps: int = 1000
    depth: int = 60
    first: float = 0.1
    """The rate of the one step."""


QUICK = Settings(depth=30, steps=200)
FULL = Settings(steps=3000)


@dataclass(frozen=True)
class Trial:
    """All rates of one chain, side by side."""

    arm: str
    seed: int


GRID = Grid(Trial, arm=ARMS)
trials = GRID.trials


def chain(arm: str, settings: Settings, seed: int, members: int) -> Stack:
    """The networks of an arm as they are at the beginning."""
    tanh = ARMS[arm].startswith("tanh")
    return (Shortcuts if arm == "shortcuts" else Stack)(
        members,
        depth=settings.depth,
        width=settings.width,
        activation="tanh" if tanh else "relu",
        normalize=NORMALIZATIONS[arm],
        std=glorot if tanh else he,
        seed=seed,
    )


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """The gradients before training and after one step; and train at every rate."""
    data = digits(trial.seed)
    batch = next(batches(data.train, settings.batch, trial.seed))
    one = chain(trial.arm, settings, trial.seed, 1)
    found: dict[str, Any] = {"before": log_norms(one, *batch)[0]}
    settings.train(one, data.train, trial.seed, rates=(settings.first,), steps=1)
    found["after"] = log_norms(one, *batch)[0]
    stack = chain(trial.arm, settings, trial.seed, len(settings.rates))
    return found | settings.train_to_a_plateau(stack, data, trial.seed)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare every remedy with the chain that lacks it."""
    arms = GRID.arms(settings, outcomes)
    title = f"Test accuracy after {settings.steps} steps"
    accuracy = by_rate(title, [arms], f"{settings.depth} normalized layers")
    return Conclusion(
        statements=tuple(_statements(settings, arms)),
        table=table(
            "Growth of the gradient from the highest layer to the lowest before training, and largest over smallest "
            "norm of all layers before training and after one step, all in powers of ten; test accuracy in % after "
            f"{settings.steps} steps",
            arms,
            ("chain", lambda arm: arm["arm"]),
            ("growth", lambda arm: average(_growth(arm), 1)),
            ("range before", lambda arm: average(_range(arm.array("before")), 1)),
            ("after one step", lambda arm: average(_range(arm.array("after")), 1)),
            ("rate", lambda arm: arm.rate),
            ("accuracy", lambda arm: arm.percent(1)),
        ),
        figures=(_gradients(settings, arms), accuracy),
        caveats=(
            f"Everything gets {settings.steps} steps of plain gradient descent; the paper trains with a rate that "
            "grows with the batch, for epochs, and chains of another width.",
            "The paper varies how near to linear units are; here each remedy has one strength, that nobody tuned.",
            "With eps 1 the signals become smaller from layer to layer, and with them the gradient by the weights of "
            "high layers: growth is of weights' gradients, not of the signals'.",
            "Shortcuts also make another network: it may be shallow in effect.",
        ),
    )


def _growth(arm: Arm) -> Numbers:
    """Log10 of the gradient's norm at the lowest layer over that at the highest, before training."""
    logs = arm.array("before")
    return logs[:, 0] - logs[:, -1]


def _range(logs: Numbers) -> Numbers:
    """Log10 of the largest norm over the smallest one: shape (..., layers) to (...)."""
    return np.asarray(logs.max(axis=-1) - logs.min(axis=-1))


def _factor(logs: Numbers, unit: str) -> Estimate:
    return transformed(mean(logs, unit), lambda log: float(10.0 ** min(max(log, -300.0), 300.0)), log=True)


def _statements(settings: Settings, arms: Arms) -> Iterator[Statement]:
    for remedy, (words, base) in REMEDIES.items():
        ours, theirs = arms[remedy], arms[base]
        what = f"{settings.depth} layers of {ARMS[base]}"
        text = f"{what}: with {words} the gradient grows less towards the input, before training (without over with)."
        less = _factor(_growth(theirs) - _growth(ours), "times less growth")
        yield judge(text, less, AtLeast(TENFOLD, nothing=1.0))
        text = f"{what}: with {words} the chain ends higher."
        why = obstacle(ours, theirs) or plateau.still_learns(ours, theirs)
        yield judge(text, gap(ours, theirs), AtLeast(GAIN), obstacle=why)
    for base in ("relu", "tanh"):
        arm = arms[base]
        text = f"{settings.depth} layers of {ARMS[base]}: after one step the layers' gradients are of more equal sizes."
        even = _factor(_range(arm.array("before")) - _range(arm.array("after")), "times smaller range")
        yield judge(text, even, AtLeast(TENFOLD, nothing=1.0), "dramatically smaller range")


def _gradients(settings: Settings, arms: Arms) -> Figure:
    layers = range(1, settings.depth + 1)
    panels = []
    for base in ("relu", "tanh"):
        shown = [arms[each] for each in ARMS if each == base or REMEDIES.get(each, ("", ""))[1] == base]
        lines = (
            line(arm["arm"], layers, arm.array("before") - arm.array("before")[:, -1:], back=lambda logs: 10**logs)
            for arm in shown
        )
        panels.append(panel(ARMS[base], lines))
    return figure(
        "gradient_by_layer",
        "Size of the gradient by each layer's weights, before training",
        panels,
        x_label="layer, from the input upwards",
        y_label="norm of the gradient, topmost layer = 1",
        caption="A level line keeps its size. Line: geometric mean over seeds; band: smallest to largest.",
        y_scale="log",
    )
