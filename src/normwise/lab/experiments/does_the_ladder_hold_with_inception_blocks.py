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

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from normwise.lab.data.splits import CLASSES, batches, digits
from normwise.lab.design import Arm, Arms, Grid, Training, average, figure, line, panel, table
from normwise.lab.design.curves import ends_best, in_steps, steps_to
from normwise.lab.intervals import difference, mean, ratio
from normwise.lab.networks.convolutional import Convolutional
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Statement
from normwise.lab.training.descent import accuracy, looks
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
class Settings(Training):
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


GRID = Grid(Trial, rung={rung: rung for rung in RUNGS}, rate="rates")
trials = GRID.trials


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
    each_its_own = GRID.arms(settings, outcomes, choose=ends_best)
    rate = each_its_own["baseline"].best  # the others take multiples of it
    arms, at = GRID.arms(settings, outcomes, choose=lambda _: rate), looks(settings.steps)
    target = float(arms["baseline"].numbers("validation").max(axis=1).mean()) - LESS
    marks = ((target, f"{target:.3f}"), (1 / CLASSES, "guessing"))
    panels = (
        panel(
            title, (line(arm["rung"], at, arm.numbers()) for arm in arms if _rung(arm).activation == activation), marks
        )
        for title, activation in (("ReLU", "relu"), ("sigmoid", "sigmoid"))
    )
    return Conclusion(
        statements=tuple(_statements(arms, at, target)),
        table=table(
            f"Steps to a test accuracy of {target:.3f} out of {settings.steps}, and test accuracies in %",
            arms,
            ("rung", lambda arm: arm["rung"]),
            ("initial rate", lambda arm: f"{_rung(arm).times * settings.rates[rate]:g}"),
            ("steps", lambda arm: in_steps(arm.numbers(), target, at)),
            ("got there", lambda arm: f"{int((arm.numbers().max(axis=1) >= target).sum())} of {len(arm)}"),
            ("highest", lambda arm: average(arm.points().max(axis=1), 1)),
            ("end", lambda arm: average(arm.points()[:, -1], 1)),
            more=", of the steps the geometric one",
        ),
        figures=(
            figure(
                "ladder",
                "Test accuracy against steps, rung by rung",
                panels,
                x_label="steps",
                caption="The analogue of figures 2 and 3.",
                x_scale="log",
            ),
        ),
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


def _rung(arm: Arm) -> Rung:
    return RUNGS[arm.values["rung"]]


def _statements(arms: Arms, at: list[int], target: float) -> Iterator[Statement]:
    steps = {rung: steps_to(target, arms[rung].numbers(), at) for rung in RUNGS}
    ends = {rung: arms[rung].points()[:, -1] for rung in RUNGS}
    faster = AtLeast(FASTER, nothing=1.0)
    for below, above in pairwise(LADDER[:3]):
        text = f"{above} reaches {target:.3f} in fewer steps than {below}."
        yield judge(text, ratio(steps[below], steps[above]), faster, STEPS[above])
    text = f"BN-x5 reaches {target:.3f} in at least {FASTER:g} times fewer steps than the baseline."
    published = "14.8 times, 31.0 to 2.1 million steps"
    yield judge(text, ratio(steps["baseline"], steps["BN-x5"]), faster, published)
    text = f"BN-x30 reaches {target:.3f} later than BN-x5."
    published = "1.3 times, 2.7 against 2.1 million steps"
    yield judge(text, ratio(steps["BN-x30"], steps["BN-x5"]), AtLeast(1.1, nothing=1.0), published)
    for below, above in pairwise(LADDER):
        text = f"{above} ends higher than {below}."
        yield judge(text, difference(ends[above], ends[below], "points"), AtLeast(HIGHER), ENDS[above])
    text = "At 5 times its rate the baseline does not train."
    yield judge(text, mean(ends["baseline at x5"], "%"), Within(0.0, LOST), "reached machine infinity")
    text = "With sigmoids the network does not train without batch normalization."
    yield judge(text, mean(ends["sigmoid"], "%"), Within(0.0, LOST), "never better than .1 %")
    text = "With sigmoids the network trains with batch normalization (BN-x5-Sigmoid)."
    yield judge(text, mean(ends["BN-x5-Sigmoid"], "%"), AtLeast(90.0, nothing=LOST), "69.8 %")
