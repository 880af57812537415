"""Inputs standardized once, or every layer normalized: what does each give, and is the first needed with the second?

Question:
    Standardized inputs make the first layer easier to train. How much of what batch normalization gives is that, and
    what do standardized inputs add to it?

Claim:
    "It has been long known that the network training converges faster if its inputs are whitened", that is transformed
    to mean 0 and variance 1 and decorrelated (LeCun et al. 1998); each layer's inputs come from the layers below, so
    that it would be an advantage to do the same for every layer (Ioffe & Szegedy 2015, section 2). Teaching material
    adds that with batch normalization inputs need not be standardized.

What would refute it:
    Standardized inputs bring a network no sooner to the target; or batch normalization in every layer brings it there
    no sooner than they alone, or ends no higher; or standardizing changes the end with batch normalization too.

Settings:
    Five hidden layers of 64 units, ReLU with He's initial weights and tanh with Glorot's, scikit-learn's digits with
    pixels between 0 and 1, as they are or with mean 0 and variance 1 for each pixel over the training images; with
    batch norm before every activation or without; batches of 60, 600 steps of gradient descent at rates 0.01, 0.03,
    0.1, 0.3, 1, 3 and 10. Each arm has the rate with which it gets to the target first, for the steps, and the one with
    which it ends best, for the end, on validation images.

Verdict:
    Steps to .95 of what the network with neither learns, in the same seed, are compared as ratios, paired over seeds;
    1.5 times fewer steps reproduce "sooner" with an interval above 1. "Higher" is reproduced from half a point on, "no
    difference" when the whole interval is within half a point of 0.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - Y. LeCun, L. Bottou, G. Orr and K.-R. Müller, Efficient BackProp, 1998, section 4.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from normwise.lab.data.changes import standardized
from normwise.lab.data.splits import digits
from normwise.lab.design import Arm, Arms, DenseTraining, Grid, Looks, by_step, gap, table
from normwise.lab.design.curves import ends_best
from normwise.lab.design.figures import Marks
from normwise.lab.design.targets import Target
from normwise.lab.intervals import Numbers, ratio
from normwise.lab.networks.dense import glorot, he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement
from normwise.lab.training.watching import Curves
from normwise.lab.verdict import AtLeast, Within, judge

SAYS = "Ioffe & Szegedy 2015, section 2"
TOPIC = "optimization"
DATA = DIGITS
ARCHITECTURE = "5 hidden layers of 64 units"
REGIME = Regime.OWN
TESTS = True
TAKES_DATA = True
SOONER = 1.5
GAIN = 0.5
ARMS = {
    "neither": "neither",
    "inputs": "standardized inputs",
    "layers": "batch norm in every layer",
    "both": "both",
}


@dataclass(frozen=True)
class Settings(Looks, DenseTraining):
    """Activations and rates."""

    activations: tuple[str, ...] = ("relu", "tanh")
    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    steps: int = 600


QUICK = Settings(steps=300)
FULL = Settings(steps=3000)


@dataclass(frozen=True)
class Trial:
    """All rates of one network, side by side."""

    activation: str
    arm: str
    seed: int


GRID = Grid(Trial, activation="activations", arm=ARMS)
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate, and look at the accuracies on the way."""
    data, std = digits(trial.seed), he if trial.activation == "relu" else glorot
    data = standardized(data) if trial.arm in ("inputs", "both") else data
    stack = settings.stack(trial.seed, trial.arm in ("layers", "both"), activation=trial.activation, std=std)
    curves = Curves(stack, data)
    settings.train(stack, data.train, trial.seed, look=curves, look_at=settings.looks())
    return curves.found()


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare steps at the fastest rate of each arm, and ends at the rate that ends best."""
    at = settings.looks()
    ending = GRID.arms(settings, outcomes, ends_best)
    targets = {
        each: Target(ending.where(activation=each)["neither"], at, whose="what the network with neither learns")
        for each in settings.activations
    }

    def target(arm: Arm) -> Target:
        return targets[arm.values["activation"]]

    def mark(group: Arms) -> Marks:
        level = target(group["neither"]).level
        return ((level, f"{level:.2f}"),)

    fastest = GRID.arms(settings, outcomes, lambda arm: target(arm).fastest(arm))
    rows = list(zip(fastest, ending, strict=True))
    words = targets[settings.activations[0]].words
    title = "Test accuracy against steps"
    caption = "Each at the rate that gets to the mark first."
    shown = by_step(title, fastest.by("activation"), "{activation}", at, caption=caption, marks=mark)
    return Conclusion(
        statements=tuple(
            text
            for each in settings.activations
            for text in _statements(each, targets[each], fastest.where(activation=each), ending.where(activation=each))
        ),
        table=table(
            f"Steps to {words} out of {settings.steps}, and test accuracies in % at the end",
            rows,
            ("activation", lambda row: row[0]["activation"]),
            ("normalized", lambda row: row[0]["arm"]),
            ("fastest rate", lambda row: row[0].rate),
            ("steps", lambda row: target(row[0]).in_steps(row[0])),
            ("got there", lambda row: target(row[0]).got_there(row[0])),
            ("rate that ends best", lambda row: row[1].rate),
            ("end", lambda row: _end(row[1])),
            seeds=len(rows[0][0]),
            more=", of the steps the geometric one",
            tried=len(settings.rates),
        ),
        figures=(shown,),
        caveats=(
            "Pixels between 0 and 1 are already scaled by their range; of pixels between 0 and 255 standardizing would "
            "give more.",
            "Pixels at the border of the images are hardly ever inked. Standardized, they are large where they are.",
            "An arm that does not get to the target counts with all steps, so that ratios to it are too small.",
            "The mark is the mean over seeds; each seed has one of its own to reach.",
        ),
    )


def _end(arm: Arm) -> str:
    return End(arm).percent(2)


class End(Arm):
    """An arm by its accuracies at the last look."""

    def __init__(self, arm: Arm) -> None:
        super().__init__(arm.values, arm.words, arm.runs, arm.rates, at=arm.best)
        self._of = arm

    def numbers(self, what: str = "test") -> Numbers:
        """The values at the last look: shape (seeds,)."""
        return self._of.numbers(what)[..., -1]

    @property
    def obstacle(self) -> str:
        """The obstacle of the arm."""
        return self._of.obstacle


def _statements(activation: str, target: Target, fastest: Arms, ending: Arms) -> Iterator[Statement]:
    of = {"relu": "ReLU"}.get(activation, activation.capitalize())
    steps = {each: target.steps(fastest[each]) for each in ARMS}
    ends = {each: End(ending[each]) for each in ARMS}

    def sooner(text: str, ours: str, theirs: str, says: str) -> Statement:
        fewer = ratio(steps[theirs], steps[ours], "times fewer steps")
        rule, edge = AtLeast(SOONER, nothing=1.0), target.obstacle(fastest[ours], fastest[theirs])
        return judge(f"{of}: {text}", fewer, rule, says=says, obstacle=edge)

    text = "standardized inputs alone bring the network to the target sooner than none."
    yield sooner(text, "inputs", "neither", "LeCun et al. 1998, section 4.3")
    text = "batch normalization in every layer brings it there sooner than standardized inputs alone."
    yield sooner(text, "layers", "inputs", "")
    text = f"{of}: batch normalization in every layer ends higher than standardized inputs alone."
    yield judge(text, gap(ends["layers"], ends["inputs"]), AtLeast(GAIN), says="teaching material")
    text = f"{of}: with batch normalization in every layer, standardized inputs make no difference to the end."
    yield judge(text, gap(ends["both"], ends["layers"]), Within(-GAIN, GAIN), says="teaching material")
