"""The ladder of figure 2 again, on a convolutional network of two Inception blocks.

Question:
    Does the ladder from the baseline over batch normalization to 5 and 30 times the rate look the same on a small
    network built like the one that it was published for?

Claim:
    Inception reaches 72.2 % after 31.0 million steps; with batch normalization and nothing else changed after 13.3
    million; at 5 times the rate after 2.1 million, at 30 times after 2.7 million, and ends at 72.2, 72.7, 73.0 and
    74.8 %. At 5 times the rate the original "reached machine infinity"; with sigmoids it stays at chance without batch
    normalization and reaches 69.8 % with it (Ioffe & Szegedy 2015, figures 2 and 3).

What would refute it:
    A rung needs more steps than the one below or ends lower, or the baseline trains at 5 times its rate.

Settings:
    A 3x3 convolution and two Inception blocks of branches of 8 channels, a maximum over 2 x 2 between them, on
    scikit-learn's digits of 8 x 8 pixels, batches of 32, 500 steps. The baseline has the better of the rates 0.1 and
    0.2 on validation images (the quick run has 0.2 only), falling exponentially to a tenth, and 6 times faster in the
    rungs of 5 and 30 times; L2 is 5e-4 on the filters, in these rungs a fifth. Accuracy to reach: the mean over seeds
    of the baseline's highest validation accuracy, less one point; steps are counted on test images.

Verdict:
    Steps are compared as ratios, paired over seeds, from 1.5 on; a network that does not get there counts with all its
    steps. Ends are the accuracies after the last step. "Does not train" is reproduced when the accuracy is below half.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from normwise.lab.convolutional import Convolutional
from normwise.lab.curves import steps_to
from normwise.lab.data import CLASSES, batches, digits
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Figure, Panel, Series, Statement, Table
from normwise.lab.statistics import Numbers, band, cell, difference, mean, ratio
from normwise.lab.training import accuracy, looks
from normwise.lab.verdict import AtLeast, Within, judge
from normwise.torch import BatchNorm2d

SAYS = "Ioffe & Szegedy 2015, figures 2 and 3"
TOPIC = "optimization"
TAKES_DATA = True
FASTER = 1.5
HIGHER = 0.2
LOST = 50.0
LESS = 0.01


@dataclass(frozen=True)
class Rung:
    """What is changed against the baseline; the decay of the rate is 6 times as fast where the rate is higher."""

    batch_norm: bool
    times: float
    activation: str = "relu"


RUNGS = {
    "baseline": Rung(False, 1.0),
    "baseline at x5": Rung(False, 5.0),
    "BN-Baseline": Rung(True, 1.0),
    "BN-x5": Rung(True, 5.0),
    "BN-x30": Rung(True, 30.0),
    "sigmoid": Rung(False, 5.0, "sigmoid"),
    "BN-x5-Sigmoid": Rung(True, 5.0, "sigmoid"),
}
LADDER = ("baseline", "BN-Baseline", "BN-x5", "BN-x30")
STEPS = {"BN-Baseline": "31.0 to 13.3 million steps", "BN-x5": "13.3 to 2.1 million steps"}
ENDS = {"BN-Baseline": "72.2 to 72.7 %", "BN-x5": "72.7 to 73.0 %", "BN-x30": "73.0 to 74.8 %"}


@dataclass(frozen=True)
class Settings:
    """The network and its baseline."""

    rates: tuple[float, ...] = (0.1, 0.2)
    steps: int = 500
    width: int = 8
    batch: int = 32
    decay: float = 5e-4


QUICK = Settings(rates=(0.2,))
FULL = Settings(rates=(0.05, 0.1, 0.2, 0.4), steps=3000)


@dataclass(frozen=True)
class Trial:
    """One rung at one rate of the baseline."""

    rung: str
    rate: float
    seed: int


def trials(settings: Settings, seeds: Sequence[int]) -> list[Trial]:
    """Every rung at every rate of the baseline, with every seed."""
    return [Trial(rung, rate, seed) for rung in RUNGS for rate in settings.rates for seed in seeds]


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train the rung, and look at the accuracies."""
    data, rung = digits(trial.seed), RUNGS[trial.rung]
    model = Convolutional(
        width=settings.width,
        activation=rung.activation,
        norm=BatchNorm2d if rung.batch_norm else None,
        seed=trial.seed,
    )
    parameters = list(model.parameters())
    higher = rung.times > 1
    at = looks(settings.steps)
    validation, test = [], []
    source = islice(batches(data.train, settings.batch, trial.seed), settings.steps)
    for step, (images, labels) in enumerate(source, start=1):
        model.train()
        gradients = torch.autograd.grad(cross_entropy(model(images), labels), parameters)
        rate = trial.rate * rung.times * 0.1 ** ((6 if higher else 1) * (step - 1) / settings.steps)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if parameter.dim() > 1:  # filters and the readout, not biases, scales and shifts
                    parameter.mul_(1 - rate * settings.decay / (5 if higher else 1))
                parameter.sub_(gradient, alpha=rate)
        if step in at:
            validation.append(accuracy(model, data.validation))
            test.append(accuracy(model, data.test))
    return {"validation": validation, "test": test}


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the rungs in steps and in where they end."""
    rate = max(
        settings.rates,
        key=lambda each: float(outcomes.where(rung="baseline", rate=each).array("validation")[:, -1].mean()),
    )
    target = float(outcomes.where(rung="baseline", rate=rate).array("validation").max(axis=1).mean()) - LESS
    curves = {rung: outcomes.where(rung=rung, rate=rate).array("test") for rung in RUNGS}
    return Conclusion(
        statements=tuple(_statements(settings, curves, target)),
        table=_table(settings, curves, target, rate),
        figures=(_figure(settings, curves, target),),
        caveats=(
            "The rungs of 5 and 30 times change several things at once, as in the paper; only the step from the "
            "baseline to BN-Baseline is owed to batch normalization alone.",
            f"{settings.steps} steps are too few for the baseline to end where it could; the paper's 31 million were "
            "enough. The ladder in steps is therefore to a target that a better trained baseline would exceed.",
            "A network of 13 convolutions, and of the digits 1077 training images; the published one had 13.6 million "
            "parameters and ImageNet.",
            "Looks are 10 % apart, so single numbers of steps are known to 10 %.",
        ),
    )


def _statements(settings: Settings, curves: dict[str, Numbers], target: float) -> list[Statement]:
    at = looks(settings.steps)
    steps = {rung: steps_to(target, values, at) for rung, values in curves.items()}
    ends = {rung: 100 * values[:, -1] for rung, values in curves.items()}
    found = []
    for below, above in pairwise(LADDER[:3]):
        text = f"{above} reaches {target:.3f} in fewer steps than {below}."
        found.append(judge(text, ratio(steps[below], steps[above]), AtLeast(FASTER, nothing=1.0), STEPS[above]))
    text = f"BN-x5 reaches {target:.3f} in at least {FASTER:g} times fewer steps than the baseline."
    published = "14.8 times, 31.0 to 2.1 million steps"
    found.append(judge(text, ratio(steps["baseline"], steps["BN-x5"]), AtLeast(FASTER, nothing=1.0), published))
    text = f"BN-x30 reaches {target:.3f} later than BN-x5."
    rule = AtLeast(1.1, nothing=1.0)
    found.append(judge(text, ratio(steps["BN-x30"], steps["BN-x5"]), rule, "1.3 times, 2.7 against 2.1 million steps"))
    for below, above in pairwise(LADDER):
        text = f"{above} ends higher than {below}."
        found.append(judge(text, difference(ends[above], ends[below], "points"), AtLeast(HIGHER), ENDS[above]))
    text = "At 5 times its rate the baseline does not train."
    found.append(judge(text, mean(ends["baseline at x5"], "%"), Within(0.0, LOST), "reached machine infinity"))
    text = "With sigmoids the network does not train without batch normalization."
    found.append(judge(text, mean(ends["sigmoid"], "%"), Within(0.0, LOST), "never better than .1 %"))
    text = "With sigmoids the network trains with batch normalization (BN-x5-Sigmoid)."
    found.append(judge(text, mean(ends["BN-x5-Sigmoid"], "%"), AtLeast(90.0, nothing=LOST), "69.8 %"))
    return found


def _table(settings: Settings, curves: dict[str, Numbers], target: float, rate: float) -> Table:
    at, rows = looks(settings.steps), []
    for name, rung in RUNGS.items():
        values = curves[name]
        steps = steps_to(target, values, at)
        rows.append(
            (
                name,
                f"{rung.times * rate:g}",
                cell(ratio(steps, np.ones(len(steps))), 0),
                f"{int((values.max(axis=1) >= target).sum())} of {len(steps)}",
                cell(mean(100 * values.max(axis=1), "%"), 1),
                cell(mean(100 * values[:, -1], "%"), 1),
            )
        )
    caption = (
        f"Steps to a test accuracy of {target:.3f} out of {settings.steps}, and test accuracies in %. Mean [95 % "
        f"interval] over {len(curves['baseline'])} seeds, of the steps the geometric one"
    )
    return Table(caption, ("rung", "initial rate", "steps", "got there", "highest", "end"), tuple(rows))


def _figure(settings: Settings, curves: dict[str, Numbers], target: float) -> Figure:
    at = tuple(float(step) for step in looks(settings.steps))
    marks = ((target, f"{target:.3f}"), (1 / CLASSES, "guessing"))
    panels = []
    for title, activation in (("ReLU", "relu"), ("sigmoid", "sigmoid")):
        lines = (
            Series(rung, at, *(tuple(line) for line in band(values)))
            for rung, values in curves.items()
            if RUNGS[rung].activation == activation
        )
        panels.append(Panel(title, tuple(lines), marks))
    return Figure(
        name="ladder",
        title="Test accuracy against steps, rung by rung",
        caption="The analogue of figures 2 and 3. Line: mean over seeds; band: smallest to largest.",
        x_label="steps",
        y_label="test accuracy",
        panels=tuple(panels),
        x_scale="log",
    )
