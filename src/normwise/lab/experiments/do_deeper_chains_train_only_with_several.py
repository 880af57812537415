"""Do ever deeper chains of layers train, without batch normalization, with one in the middle, and with one per layer?

Question:
    A chain of 10, 20, 40 or 60 layers without shortcuts: does it train only if it has several batch normalizations?

Claim:
    "Some very deep networks can only be trained if they include multiple BatchNormalization layers", such as ResNet50,
    Inception V3 and Xception (Chollet 2017, section 7.3.1; and much other teaching material). Against it: batch
    normalization makes gradients explode with depth, so that chains of more than about 50 normalized layers do not
    train whatever the batch size, and the remedies are shortcuts, or an eps near 1 (Yang et al. 2019).

What would refute it:
    The chain trains without batch normalization, or with a single one, as well as with one per layer.

Settings:
    10, 20, 40 and 60 hidden layers of 64 ReLU units, He's initial weights, scikit-learn's digits, batches of 60, 1000
    steps of gradient descent at rates 0.003, 0.01, 0.03, 0.1, 0.3, 1 and 3, falling exponentially to a tenth; the best
    is picked on validation images for each depth and arm. Layers without batch normalization have a bias.

Verdict:
    "Does not train" is reproduced when the whole interval of the test accuracy is below 20 %, twice that of guessing.
    "Higher" is reproduced from one point on, with an interval of the paired difference above 0. An arm that still rises
    by more than a point in the last third of its training gives no verdict, nor does one whose best rate is the
    smallest or the largest; except on "does not train", where an arm is above 20 %: it has trained, and neither more
    steps nor other rates take that back.

References:
    - F. Chollet, Deep Learning with Python, Manning, 2017.
    - G. Yang, J. Pennington, V. Rao, J. Sohl-Dickstein and S. S. Schoenholz, A Mean Field Theory of Batch
      Normalization, 2019, arXiv:1902.08129.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from normwise.lab.data.splits import digits
from normwise.lab.design import (
    GUESSING,
    Arm,
    Arms,
    Grid,
    SideBySide,
    across,
    figure,
    gap,
    obstacle,
    panel,
    plateau,
    table,
)
from normwise.lab.intervals import mean
from normwise.lab.networks.variants import only_in
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement
from normwise.lab.training.stacks import accuracies
from normwise.lab.verdict import AtLeast, StaysBelow, judge

SAYS = "Chollet 2017, section 7.3.1"
TOPIC = "optimization"
DATA = DIGITS
ARCHITECTURE = "10 to 60 hidden layers of 64 ReLU units, without shortcuts"
REGIME = Regime.OWN
TESTS = True
TAKES_DATA = True
GAIN = 1.0
CHANCE = 20.0
DEEP = 20
"""Layers from which on a chain is called very deep."""
TOO_DEEP = 50
ARMS = {"none": "without batch norm", "one": "one, in the middle", "every": "one per layer"}


@dataclass(frozen=True)
class Settings(SideBySide):
    """Depths and rates."""

    depths: tuple[int, ...] = (10, 20, 40, 60)
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    steps: int = 1000


QUICK = Settings(depths=(10, 40), steps=200)
FULL = Settings(depths=(5, 10, 20, 40, 60), steps=3000)


@dataclass(frozen=True)
class Trial:
    """All rates of one chain, side by side."""

    depth: int
    arm: str
    seed: int


GRID = Grid(Trial, depth="depths", arm=ARMS, largest_first="depth")
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate."""
    data = digits(trial.seed)
    layers = {"none": (), "one": (trial.depth // 2,), "every": range(trial.depth)}[trial.arm]
    normalize = only_in(layers) if layers else None
    stack = settings.stack(trial.seed, normalize, depth=trial.depth)
    return settings.train_to_a_plateau(stack, data, trial.seed) | {"train": accuracies(stack, data.train)}


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare test accuracies at each arm's best rate, depth by depth."""
    arms = GRID.arms(settings, outcomes)
    lines = (across(words, arms.where(arm=arm), "depth") for arm, words in ARMS.items())
    title = f"Test accuracy after {settings.steps} steps, by depth"
    caption = "Each at the rate that is best for it on validation images."
    panels = [panel("ReLU, without shortcuts", lines, GUESSING)]
    return Conclusion(
        statements=tuple(text for depth in settings.depths for text in _statements(depth, arms.where(depth=depth))),
        table=table(
            f"Accuracy in % after {settings.steps} steps",
            arms,
            ("hidden layers", lambda arm: arm["depth"]),
            ("batch norm", lambda arm: arm["arm"]),
            ("best rate", lambda arm: arm.rate),
            ("test", lambda arm: arm.percent(1)),
            ("training", lambda arm: arm.percent(1, "train")),
        ),
        figures=(figure("accuracy_by_depth", title, panels, x_label="hidden layers", caption=caption),),
        caveats=(
            f"Everything gets {settings.steps} steps: what is at chance then might leave it later.",
            "He's initial weights keep the size of the signals in the mean; from worse ones a chain without batch "
            "normalization has no such depth.",
            "The networks that the claim names have shortcuts or branches, with which normalization in the branches "
            "helps by making them small (De & Smith 2020); this is about chains without them.",
        ),
    )


def _statements(depth: int, arms: Arms) -> Iterator[Statement]:
    none, one, every = (arms[each] for each in ARMS)
    if depth >= DEEP:
        text = f"{depth} layers do not train without batch normalization (test accuracy near chance)."
        yield judge(text, mean(none.points(), "%"), StaysBelow(CHANCE), obstacle=_may_yet_train(none))
    if depth > TOO_DEEP:
        text = f"{depth} layers with batch normalization in each do not train (test accuracy near chance)."
        published = "deeper than about 50 layers untrainable regardless of batch size, CIFAR-10 and MNIST"
        says = "Yang et al. 2019"
        ends = mean(every.points(), "%")
        yield judge(text, ends, StaysBelow(CHANCE), published, says, obstacle=_may_yet_train(every))
    text = f"With {depth} layers, batch normalization in every layer ends higher than none."
    yield judge(
        text, gap(every, none), AtLeast(GAIN), obstacle=obstacle(every, none) or plateau.still_learns(every, none)
    )
    text = f"With {depth} layers, batch normalization in every layer ends higher than a single one in the middle."
    yield judge(text, gap(every, one), AtLeast(GAIN), obstacle=obstacle(every, one) or plateau.still_learns(every, one))


def _may_yet_train(arm: Arm) -> str:
    """The obstacle of "does not train": an arm near chance that more steps or other rates might take away from it."""
    if arm.points().mean() > CHANCE:
        return ""
    return arm.obstacle or plateau.still_learns(arm)
