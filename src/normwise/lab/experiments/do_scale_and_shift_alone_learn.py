"""Can a network of frozen random weights learn by the scales and shifts of its batch norms alone?

Question:
    All weights stay as they were drawn, those of the readout too. How accurate does a network become of which only
    scale and shift are trained, by its width?

Claim:
    Much more than chance, and more with size: of ResNets on CIFAR-10 with 14, 110 and 866 layers, 48, 69.5 and 82 %,
    against 91 to 93 % where everything is trained; a third of the features are switched off (Frankle et al. 2021).

What would refute it:
    Accuracy does not rise with width, or scale and shift alone learn less at the largest than .85 of what training
    everything does.

Settings:
    scikit-learn's digits, two hidden layers of 16, 64, 256 or 1024 ReLU units, 250 steps of gradient descent with
    batches of 60; rates 0.05, 0.2, 1, 5, 20, 80 and 320, the best of which is picked on validation images. For
    comparison everything is trained. What a network learns is its accuracy at the end, less guessing. A feature counts
    as off where its scale is below .01 in absolute value, as in the paper.

Verdict:
    "Learns at least .85 of it" where the whole interval is there, of test images, paired over seeds; of the published
    accuracies, less guessing, it is .87. Switched off: 10 % of the scales or more. Rising: the difference between
    successive widths, paired over seeds, from 1 point on.

References:
    - J. Frankle, D. Schwab and A. Morcos, Training BatchNorm and Only BatchNorm: On the Expressive Power of Random
      Features in CNNs, 2021, arXiv:2003.00152.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch

from normwise.lab.data.splits import digits
from normwise.lab.design import GUESSING, Arms, Grid, Training, across, figure, gap, obstacle, panel, table
from normwise.lab.design.targets import Target
from normwise.lab.intervals import mean
from normwise.lab.networks.dense import Dense
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement
from normwise.lab.training.descent import accuracy
from normwise.lab.training.parts import thawed, train_only
from normwise.lab.verdict import AtLeast, Reaches, judge

SAYS = "Frankle et al. 2021"
TOPIC = "what the layer is"
DATA = DIGITS
ARCHITECTURE = "2 hidden layers of 16 to 1024 ReLU units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
SHARE = 0.85
WHOSE = "what training everything learns"
RISES = 1.0
OFF = 0.01
ARMS = {"only": "scale and shift only", "all": "everything"}


@dataclass(frozen=True)
class Settings(Training):
    """The widths and the training."""

    widths: tuple[int, ...] = (16, 64, 256, 1024)
    rates: tuple[float, ...] = (0.05, 0.2, 1.0, 5.0, 20.0, 80.0, 320.0)
    steps: int = 250
    depth: int = 2
    batch: int = 60


@dataclass(frozen=True)
class Trial:
    """All rates of one width and one choice of what is trained."""

    arm: str
    width: int
    seed: int


GRID = Grid(Trial, width="widths", arm=ARMS, largest_first="width")
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate."""
    data = digits(trial.seed)
    found: dict[str, Any] = {"validation": [], "test": [], "off": [], "parameters": 0}
    for rate in settings.rates:
        model = Dense(depth=settings.depth, width=trial.width, batch_norm=True, seed=trial.seed)
        parameters = thawed(model, model.normalize if trial.arm == "only" else model)
        steps, batch = settings.steps, settings.batch
        train_only(parameters, model, data.train, rate=rate, steps=steps, batch=batch, seed=trial.seed)
        found["validation"].append(accuracy(model, data.validation))
        found["test"].append(accuracy(model, data.test))
        scales = torch.cat([layer.get_parameter("weight").detach() for layer in model.normalize])
        found["parameters"] = sum(parameter.numel() for parameter in parameters)
        found["off"].append(float((scales.abs() < OFF).double().mean()))
    return found


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Judge the widest, and that accuracy rises."""
    arms = GRID.arms(settings, outcomes)
    lines = (across(each.words["arm"], each, "width", lambda arm: arm.points() / 100) for each in arms.by("arm"))
    title = "Test accuracy by width, of frozen random weights and of trained ones"
    show = partial(figure, x_label="units in a layer", caption="Each at its best rate on validation images.")
    by_width = show("accuracy_by_width", title, [panel("", lines, GUESSING)], x_scale="log")
    return Conclusion(
        statements=tuple(_statements(settings, arms)),
        table=table(
            f"Test accuracy and scales switched off, in %, after {settings.steps} steps",
            arms,
            ("units in a layer", lambda arm: arm["width"]),
            ("trained", lambda arm: arm["arm"]),
            ("parameters", lambda arm: f"{arm.array('parameters')[0]:.0f}"),
            ("rate", lambda arm: arm.rate),
            ("accuracy", lambda arm: arm.percent(1)),
            ("switched off", lambda arm: arm.percent(1, "off")),
        ),
        figures=(by_width,),
        caveats=(
            "Digits are easy: a linear readout of random features, which is not what is trained here, does well too.",
            f"{settings.steps} steps; scale and shift alone would gain more from longer training than everything does.",
        ),
    )


def _statements(settings: Settings, arms: Arms) -> Iterator[Statement]:
    widest = settings.widths[-1]
    only = arms[widest, "only"]
    target = Target(arms[widest, "all"], share=SHARE, whose=WHOSE)
    text = f"With {widest} units in a layer, scale and shift alone learn at least {target.words}."
    published = "82 of about 93 %, ResNet of 866 layers on CIFAR-10"
    learns, edge = mean(target.shares(only), "of that"), target.obstacle(only)
    yield judge(text, learns, Reaches(SHARE), published, obstacle=edge)
    text = f"With {widest} units in a layer, training everything is more accurate."
    yield judge(text, gap(arms[widest, "all"], only), AtLeast(RISES), "about 93 against 82 %")
    text = f"With {widest} units in a layer, a good part of the scales is switched off, at least a tenth."
    yield judge(text, mean(only.points("off"), "%"), Reaches(10.0), "a third", obstacle=obstacle(only))
    for narrow, wide in pairwise(settings.widths):
        text = f"With scale and shift alone, {wide} units in a layer are more accurate than {narrow}."
        published = "48, 69.5 and 82 % with 14, 110 and 866 layers"
        yield judge(text, gap(arms[wide, "only"], arms[narrow, "only"]), AtLeast(RISES), published)
