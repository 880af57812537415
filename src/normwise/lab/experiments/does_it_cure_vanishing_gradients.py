"""The size of the gradient 30 layers below, with and without batch normalization, before any training.

Question:
    A gradient that each layer multiplies by 0.9 arrives 30 layers below as 0.9^30 = 0.04 of what it was. Does batch
    normalization keep it at its size?

Claim:
    Batch normalization prevents small changes of the parameters from being amplified or dying out through the layers,
    makes the back-propagated gradient independent of the scale of the weights, and may keep the singular values of the
    layers' Jacobians near 1 (Ioffe & Szegedy 2015, section 3.3). Against it: a network with batch normalization has
    exploding gradients at initialization. With ReLU, the squared norm grows per layer towards the input by a factor
    that falls with the batch size B to pi / (pi - 1) = 1.467 (Yang et al. 2019, theorem 8).

What would refute it:
    With batch normalization the norm changes more than tenfold over 30 layers, or depends on the scale of the initial
    weights.

Settings:
    31 dense layers of 256 units on one batch of 60 digits, in float64, before any training; sigmoid, tanh and ReLU;
    initial weights of Glorot's scale (sigmoid, tanh) or He's (ReLU), times 0.5, 0.9, 1 and 2. Measured is the norm
    of dL/dz for the output z of each linear layer; the factor is the norm at the lowest layer divided by that 30
    layers above.

Verdict:
    Each statement has its rule beside it, applied to the geometric mean of the factor over seeds and its interval.
    "Keeps its size" means between 0.1 and 10 times over 30 layers; "vanishes" counts from 1e-10 on; 0.9^30 is met
    within a factor of 2. "Independent of the scale" means that weights four times as large change the factor by less
    than 10 %. "At the rate of theorem 8" means that the logarithm of the growth per layer, fitted over the layers 5 to
    25, is within 10 % of the theorem's. The factor over all layers also holds what the layers at both ends do, so that
    it is not the theorem's growth to the 30th power.

References:
    - K. He, X. Zhang, S. Ren and J. Sun, Delving Deep into Rectifiers, 2015, arXiv:1502.01852.
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - G. Yang, J. Pennington, V. Rao, J. Sohl-Dickstein and S. S. Schoenholz, A Mean Field Theory of Batch
      Normalization, 2019, arXiv:1902.08129.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from normwise.lab.data.splits import batches, digits
from normwise.lab.design import Arm, Arms, Grid, average, figure, line, panel
from normwise.lab.intervals import Numbers, mean, transformed
from normwise.lab.networks.dense import Dense, glorot, he
from normwise.lab.networks.gradients import log_norms, theorem_8
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Estimate, Figure, Regime, Series, Statement, Table
from normwise.lab.verdict import AtMost, Reaches, Within, judge

SAYS = "Ioffe & Szegedy 2015, section 3.3; against it Yang et al. 2019"
TOPIC = "optimization"
DATA = DIGITS
ARCHITECTURE = "31 dense layers of 256 units, before any training"
REGIME = Regime.OWN
TAKES_DATA = True
FAIR = 0.9
"""The factor per layer of the usual example; ReLU layers of He's scale times this have it in the mean."""
GONE = 1e-10
NEAR_ONE = (0.1, 10.0)
SAME = (0.9, 1.1)
PAPER = "Ioffe & Szegedy 2015, section 3.3"


@dataclass(frozen=True)
class Settings:
    """The values that are varied, and the sizes of the networks."""

    layers: int = 30
    width: int = 256
    batch: int = 60
    activations: tuple[str, ...] = ("sigmoid", "tanh", "relu")
    scales: tuple[float, ...] = (0.5, 0.9, 1.0, 2.0)


FULL = Settings(width=512, scales=(0.5, 0.9, 1.0, 1.1, 2.0))


@dataclass(frozen=True)
class Trial:
    """One network at initialization."""

    activation: str
    batch_norm: bool
    scale: float
    seed: int


GRID = Grid(Trial, activation="activations", batch_norm={False: "without", True: "with"}, scale="scales")
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Measure log10 of the norm of dL/dz at every layer, from the input upwards."""
    spread = he if trial.activation == "relu" else glorot
    model = Dense(
        depth=settings.layers + 1,
        width=settings.width,
        activation=trial.activation,
        batch_norm=trial.batch_norm,
        std=lambda fan_in: trial.scale * spread(fan_in),
        seed=trial.seed,
        dtype=torch.float64,  # 0.125^30 squared is no float32
    )
    images, labels = next(batches(digits(trial.seed).train, settings.batch, trial.seed))
    return {"log10_norm": log_norms(model, images.double(), labels)}


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Judge the factors over all layers, and show the norms layer by layer."""
    arms = GRID.arms(settings, outcomes)
    return Conclusion(
        statements=tuple(_statements(settings, arms)),
        table=_table(settings, arms),
        figures=_figures(settings, arms),
        caveats=(
            "At initialization only: after the first steps of training the sizes change (Yang et al. report that the "
            "gradients even out), and a gradient of a good size is not yet a network that learns well.",
            "The norms are those of the gradient of the linear layers' outputs, summed over the batch; those of the "
            "weights' gradients also depend on the size of the signals.",
            "The example of 0.9 per layer says what multiplication does, not what a particular network does: without "
            "batch normalization the factor is whatever activation and initial scale make it.",
        ),
    )


def _log_factor(arm: Arm) -> Numbers:
    norms = arm.array("log10_norm")
    return norms[:, 0] - norms[:, -1]


def _factor(logs: Numbers, unit: str = "times the gradient") -> Estimate:
    """The geometric mean of the factors, from their log10."""
    return transformed(mean(logs, unit), lambda log: float(10.0 ** min(log, 308.0)), log=True)


def _statements(settings: Settings, arms: Arms) -> Iterator[Statement]:
    smallest, largest, n = min(settings.scales), max(settings.scales), settings.layers
    without = "Without batch normalization,"
    if "relu" in settings.activations and FAIR in settings.scales:
        text = f"{without} ReLU layers of {FAIR} times He's scale leave {FAIR}^{n} of the gradient."
        factor, rule = _factor(_log_factor(arms["relu", False, FAIR])), Within(FAIR**n / 2, FAIR**n * 2)
        yield judge(text, factor, rule, f"{FAIR}^{n} = {FAIR**n:.3g}", "teaching material")
    if "relu" in settings.activations:
        text = f"{without} ReLU layers of He's scale keep the gradient's size over {n} layers."
        yield judge(text, _factor(_log_factor(arms["relu", False, 1.0])), Within(*NEAR_ONE), says="He et al. 2015")
    if "sigmoid" in settings.activations:
        text = f"{without} the gradient of a sigmoid network vanishes over {n} layers."
        yield judge(
            text, _factor(_log_factor(arms["sigmoid", False, 1.0])), AtMost(GONE, nothing=1.0), says="textbooks"
        )

    def changes(batch_norm: bool) -> list[Numbers]:
        """The changes of the factor by larger weights, for each activation."""
        pairs = ([arms[each, batch_norm, scale] for scale in (largest, smallest)] for each in settings.activations)
        return [np.abs(_log_factor(large) - _log_factor(small)) for large, small in pairs]

    times = f"{largest / smallest:g} times larger weights"
    text = f"{without} {times} change the factor over {n} layers at least tenfold (least affected activation)."
    yield judge(text, _factor(np.min(changes(False), axis=0), "times another factor"), Reaches(10.0))
    text = f"With batch normalization, {times} do not change the factor over {n} layers (most affected activation)."
    yield judge(text, _factor(np.max(changes(True), axis=0), "times another factor"), Within(*SAME), says=PAPER)
    for activation in settings.activations:
        name = {"relu": "ReLU"}.get(activation, activation)
        text = f"With batch normalization and {name}, the gradient keeps its size over {n} layers."
        factor = _factor(_log_factor(arms[activation, True, 1.0]))
        yield judge(text, factor, Within(*NEAR_ONE), says=f"conjectured in {PAPER}")
    if "relu" in settings.activations:
        grows = "the gradient grows towards the input at the rate of theorem 8"
        text = f"With batch normalization and ReLU, {grows} (measured over predicted log growth per layer)."
        theorem = math.log10(theorem_8(settings.batch)) / 2
        over = transformed(_growth(settings, arms["relu", True, 1.0]), lambda slope: slope / theorem)
        published = f"norm times {10**theorem:.4f} per layer at batches of {settings.batch}"
        yield judge(text, over, Within(0.9, 1.1), published, says="Yang et al. 2019, theorem 8")


def _growth(settings: Settings, arm: Arm) -> Estimate:
    """Log10 of the growth of the norm per layer towards the input, fitted where both ends are out of sight."""
    layers = np.arange(settings.layers + 1)
    middle = slice(settings.layers // 6, settings.layers - settings.layers // 6 + 1)
    return mean(-np.polyfit(layers[middle], arm.array("log10_norm")[:, middle].T, 1)[0], "of the predicted growth")


def _table(settings: Settings, arms: Arms) -> Table:
    rows = [
        (row.words["activation"], row.words["batch_norm"], *(average(_log_factor(arm), 2) for arm in row))
        for row in arms.by("activation", "batch_norm")
    ]
    caption = (
        f"Gradient at the lowest layer over that {settings.layers} layers above, in powers of ten, by the scale of the "
        f"initial weights: mean [95 % interval] over {arms.seeds} seeds; 0 means that it keeps its size"
    )
    return Table(caption, ("activation", "batch norm", *(f"× {scale:g}" for scale in settings.scales)), tuple(rows))


def _figures(settings: Settings, arms: Arms) -> tuple[Figure, Figure]:
    scales = sorted({min(settings.scales), 1.0, max(settings.scales)})
    both, close = [], []
    for activation in settings.activations:
        without, normalized = ([_line(arms[activation, each, scale]) for scale in scales] for each in (False, True))
        if activation == "relu":
            growth, layers = math.sqrt(theorem_8(settings.batch)), normalized[0].x
            predicted = tuple(growth ** (settings.layers - layer) for layer in layers)
            normalized.append(Series("theorem 8", layers, predicted))
        both.append(panel(activation, (*without, normalized[scales.index(1.0)])))
        close.append(panel(activation, normalized))
    spread = "Line: geometric mean over seeds; band: smallest to largest."
    show = partial(figure, x_label="layer, from the input upwards", y_label="norm of dL/dz, topmost layer = 1")
    level = f"A level line keeps its size. {spread}"
    rising = f"The lines of all scales lie on each other, and rise towards the input. {spread}"
    name, title = "gradient_by_layer", "Size of the gradient, layer by layer, before training"
    closer = "The same with batch normalization, seen closer"
    return (
        show(name, title, both, caption=level, y_scale="log"),
        show(f"{name}_with_batch_norm", closer, close, caption=rising, y_scale="log"),
    )


def _line(arm: Arm) -> Series:
    norms = arm.array("log10_norm")
    label = f"{arm['batch_norm']}, weights × {arm['scale']}"
    return line(label, range(norms.shape[1]), norms - norms[:, -1:], back=lambda logs: 10**logs)
