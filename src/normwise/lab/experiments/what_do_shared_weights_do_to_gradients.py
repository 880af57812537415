"""The size of a gradient on its way through many steps of the same weights, with and without batch normalization.

Question:
    A recurrent chain applies the same matrix W again and again, so that a gradient is multiplied by W^n. Does batch
    normalization keep its size?

Claim:
    The largest eigenvalue of W decides: what is below 1 vanishes, what is above 1 explodes, as its n-th power
    (Goodfellow et al. 2016, section 10.7). Batch normalization makes the gradient that a layer passes down independent
    of the scale of its weights, and may bring the singular values of its Jacobian close to 1 (conjectured in Ioffe &
    Szegedy 2015, section 3.3), from which teaching material concludes that it keeps the size of gradients. In a
    recurrent network of tanh units a scale of 1 makes them vanish, and .1 does not (Cooijmans et al. 2016, section 4).

What would refute it:
    The gradient of a linear chain does not change by the largest eigenvalue per step; with batch normalization it
    depends on the size of W, or changes more than tenfold; or a scale of 1 is no worse than one of .1.

Settings:
    h = activate(normalize(W h)), 60 steps of 64 linear or tanh units, before any training, in float64; W is a normal
    random matrix whose largest eigenvalue is .5, .9, 1.1 or 2 in absolute value, the same at every step or another one
    at each. The first h is a random projection of 60 digits, and the gradient that of a random projection of the last
    h. Batch norm has a scale of 1 or of .1 and the statistics of its step.

Verdict:
    The change per step is fitted over the 30 steps that are farthest from the output and divided by the eigenvalue:
    reproduced between .97 and 1.03. The factor over all steps is the norm at the first h divided by that at the last;
    "keeps its size" means between 0.1 and 10. "Independent" means that four times larger weights change the factor per
    step by less than 1 %; "vanishes faster" that the factor over all steps is at least ten times smaller.

References:
    - I. Goodfellow, Y. Bengio and A. Courville, Deep Learning, MIT Press, 2016.
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - T. Cooijmans, N. Ballas, C. Laurent, C. Gülçehre and A. Courville, Recurrent Batch Normalization, 2016,
      arXiv:1603.09025.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from normwise.lab.data.splits import batches, digits
from normwise.lab.design import Arm, Arms, Grid, average, figure, line, panel
from normwise.lab.intervals import Numbers, mean, transformed
from normwise.lab.networks.recurrent import gradients_over_steps
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Estimate, Figure, Regime, Statement, Table
from normwise.lab.verdict import AtLeast, Within, judge
from normwise.torch import BatchNorm1d

SAYS = "Goodfellow et al. 2016, section 10.7"
TOPIC = "optimization"
DATA = DIGITS
ARCHITECTURE = "a recurrent chain of 64 units, before any training"
REGIME = Regime.OWN
TAKES_DATA = True
NEAR_ONE = (0.1, 10.0)
SAME = (0.99, 1.01)
PER_STEP = (0.97, 1.03)
FASTER = 10.0
NORMS = {0.0: "none", 1.0: "scale 1", 0.1: "scale .1"}
"""Of the batch normalization, by its scale."""
SHARED = {True: "the same W", False: "another W at each step"}
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"linear": nn.Identity(), "tanh": torch.tanh}
IOFFE = "Ioffe & Szegedy 2015, section 3.3"
COOIJMANS = "Cooijmans et al. 2016, section 4"


@dataclass(frozen=True)
class Settings:
    """Sizes and eigenvalues."""

    steps: int = 60
    width: int = 64
    batch: int = 60
    radii: tuple[float, ...] = (0.5, 0.9, 1.1, 2.0)


@dataclass(frozen=True)
class Trial:
    """One chain before any training."""

    activation: str
    scale: float
    shared: bool
    radius: float
    seed: int


GRID = Grid(Trial, activation={each: each for each in ACTIVATIONS}, scale=NORMS, shared=SHARED, radius="radii")
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Measure log10 of the norm of the gradient at every step, from the first h on."""
    images, _ = next(batches(digits(trial.seed).train, settings.batch, trial.seed))
    norms = gradients_over_steps(
        images.double(),
        steps=settings.steps,
        width=settings.width,
        radius=trial.radius,
        shared=trial.shared,
        activate=ACTIVATIONS[trial.activation],
        norm=partial(_batch_norm, trial.scale) if trial.scale else None,
        seed=trial.seed,
    )
    return {"log10_norm": norms}


def _batch_norm(scale: float, features: int) -> nn.Module:
    layer = BatchNorm1d(features)
    nn.init.constant_(layer.weight, scale)
    return layer


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Judge the change per step and over all steps."""
    arms = GRID.arms(settings, outcomes)
    return Conclusion(
        statements=tuple(_statements(settings, arms)),
        table=_table(settings, arms),
        figures=(_figure(settings, arms),),
        caveats=(
            "At the beginning only: training changes W and the scales.",
            "Nothing enters the chain after the first h. The networks of Cooijmans et al. have inputs at every step, "
            "which is another regime.",
            "With eps = 1e-5 inside of the root, four times larger weights are not quite the same to the layer, and a "
            "chain of tanh units with a scale of 1 magnifies small differences.",
            "The chain with another W at each step is a plain deep network; it stands in the table for comparison.",
        ),
    )


def _log_factor(arm: Arm) -> Numbers:
    norms = arm.array("log10_norm")
    return norms[:, 0] - norms[:, -1]


def _factor(logs: Numbers, unit: str = "times the gradient") -> Estimate:
    """The geometric mean of the factors, from their log10."""
    return transformed(mean(logs, unit), lambda log: float(10.0 ** min(log, 308.0)), log=True)


def _per_step(arm: Arm, radius: float) -> Estimate:
    """The factor on the gradient per step, far from the output, over the eigenvalue."""
    norms = arm.array("log10_norm")
    far = norms.shape[1] // 2 + 1
    logs = -np.polyfit(np.arange(far), norms[:, :far].T, 1)[0] - np.log10(radius)
    return _factor(logs, "of the largest eigenvalue")


def _statements(settings: Settings, arms: Arms) -> Iterator[Statement]:
    smallest, largest, n = min(settings.radii), max(settings.radii), settings.steps
    for radius in settings.radii:
        text = f"Linear, the same W, no normalization: with a largest eigenvalue of {radius:g} each step changes the "
        text += "gradient by that factor."
        published = f"{radius:g}^{n} = {radius**n:.2g}"
        yield judge(text, _per_step(arms["linear", 0.0, True, radius], radius), Within(*PER_STEP), published)
    for name in ACTIVATIONS:
        of = f"{name.capitalize()}, the same W, batch normalization"
        change = np.abs(_log_factor(arms[name, 1.0, True, largest]) - _log_factor(arms[name, 1.0, True, smallest])) / n
        text = f"{of}: {largest / smallest:g} times larger weights do not change what a step makes of the gradient."
        yield judge(text, _factor(change, "times another factor per step"), Within(*SAME), says=IOFFE)
        text = f"{of}: the gradient keeps its size over {n} steps."
        kept = _factor(_log_factor(arms[name, 1.0, True, smallest]))
        yield judge(text, kept, Within(*NEAR_ONE), says=f"conjectured in {IOFFE}")
    weak, full = (_log_factor(arms["tanh", scale, True, smallest]) for scale in (0.1, 1.0))
    text = f"Tanh, the same W: the gradient vanishes faster over {n} steps with a scale of 1 than with one of .1."
    smaller = _factor(weak - full, "times smaller")
    yield judge(text, smaller, AtLeast(FASTER, nothing=1.0), says=COOIJMANS, regime=Regime.ANOTHER)
    text = f"Tanh, the same W, batch normalization with a scale of .1: the gradient keeps its size over {n} steps."
    yield judge(text, _factor(weak), Within(*NEAR_ONE), says=COOIJMANS, regime=Regime.ANOTHER)


def _table(settings: Settings, arms: Arms) -> Table:
    rows = [
        (
            *(row.words[axis] for axis in ("activation", "scale", "shared")),
            *(average(_log_factor(arm), 1) for arm in row),
        )
        for row in arms.by("activation", "scale", "shared")
    ]
    caption = (
        f"Gradient at the first of {settings.steps} steps over that at the last, in powers of ten, by the largest "
        f"eigenvalue of W: mean [95 % interval] over {arms.seeds} seeds; 0 means that it keeps its size"
    )
    columns = ("activation", "batch norm", "weights", *(f"{radius:g}" for radius in settings.radii))
    return Table(caption, columns, tuple(rows))


def _figure(settings: Settings, arms: Arms) -> Figure:
    panels = []
    for name in ACTIVATIONS:
        lines = []
        for scale, words in NORMS.items():
            for radius in settings.radii if scale == 0 else settings.radii[:1]:
                norms = arms[name, scale, True, radius].array("log10_norm")
                label = f"{words}, eigenvalue {radius:g}" if scale == 0 else f"batch norm, {words}"
                steps = range(norms.shape[1])
                lines.append(line(label, steps, norms - norms[:, -1:], back=lambda logs: 10**logs))
        panels.append(panel(name, lines))
    title, caption = "Size of the gradient, step by step, with the same W", "The gradient comes from the right."
    show = partial(figure, x_label="step", y_label="gradient over that at the last step", y_scale="log")
    return show("gradient_by_step", title, panels, caption=f"{caption} Line: geometric mean over seeds; band: all.")
