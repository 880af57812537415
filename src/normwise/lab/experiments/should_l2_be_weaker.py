"""Does the best weight of L2 become smaller with batch normalization, and what does L2 do there at all?

Question:
    Is the L2 weight that suits a network with batch normalization a fifth of the one that suits it without, and is L2
    in front of a normalization anything else than another learning rate?

Claim:
    With batch normalization the weight of the L2 loss "is reduced by a factor of 5. We find that this improves the
    accuracy on the held-out validation data" (Ioffe & Szegedy 2015, section 4.2.1). Against it: "L2 regularization has
    no regularizing effect when combined with normalization"; it only sets the scale of the weights and with it the
    effective learning rate (van Laarhoven 2017).

What would refute it:
    With batch normalization, a fifth of the L2 that suits the network without it is no better than all of it. For the
    second part: at weights of a fixed norm L2 has an effect that no other rate has.

Settings:
    Three hidden layers of 64 ReLU units, 300 training images of scikit-learn's digits, so that there is something to
    regularize, batches of 60, 800 steps of gradient descent at rates 0.01, 0.03, 0.1, 0.3, 1, 3 and 10, L2 of 0, .0002,
    .001, .005, .025 and .125 on all weights. Rate and L2 are picked on validation images for each arm. The identity:
    100 steps in float64 whose hidden weights are scaled back to their initial norm, layer by layer, after each; once
    with L2 of .1 at the rate r = .1, once without L2 at r / (1 - .1 r), for the hidden layers; eps is 1e-30.

Verdict:
    Which L2 is best with batch normalization cannot be identified where the rate is chosen too: in front of a
    normalization only the rate over the squared weights counts, so that L2 and rate trade for each other, as the
    identity says. What can be is whether to weaken L2 helps: test accuracy with a fifth of the L2 that is best without
    batch normalization on validation images, minus that with all of it, each at its best rate, paired over seeds, from
    half a point on. What L2 does to the size of the weights is measured at one rate for both, because it depends on the
    rate, and counts from half the size on. The identity is exact when the logits differ by no more than 1e-9.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - T. van Laarhoven, L2 Regularization versus Batch and Weight Normalization, 2017, arXiv:1706.05350.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from normwise.lab.data.splits import digits, first
from normwise.lab.design import WITH_AND_WITHOUT, Arms, DenseTraining, Grid, average, by_pair, gap, obstacle, table
from normwise.lab.design.arms import TIE, at_an_edge, pick
from normwise.lab.design.figures import figure, line, panel
from normwise.lab.intervals import Numbers, largest, ratio
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Figure, Regime, Statement
from normwise.lab.training.fixed_norms import difference_to_another_rate
from normwise.lab.training.stacks import both
from normwise.lab.verdict import AtLeast, AtMost, Exact, judge

SAYS = "Ioffe & Szegedy 2015, section 4.2.1"
TOPIC = "regularization"
DATA = DIGITS
ARCHITECTURE = "3 hidden layers of 64 ReLU units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
GAIN = 0.5
SHRINKS = 0.5
ROUNDING = 1e-9


@dataclass(frozen=True)
class Settings(DenseTraining):
    """L2 weights and rates."""

    decays: tuple[float, ...] = (0.0, 0.0002, 0.001, 0.005, 0.025, 0.125)
    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    images: int = 300
    steps: int = 800
    depth: int = 3
    steps_of_identity: int = 100


FULL = Settings(rates=(0.003, *Settings.rates), steps=4000)


@dataclass(frozen=True)
class Trial:
    """All L2 weights and rates of one arm, side by side."""

    batch_norm: bool
    seed: int


GRID = Grid(Trial, batch_norm=WITH_AND_WITHOUT, inside={"decay": "decays"})
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train with every L2 at every rate; lists of shape (L2 weights, rates)."""
    data = digits(trial.seed)
    few = first(data.train, settings.images)
    decays, rates = zip(*product(settings.decays, settings.rates), strict=True)
    stack = settings.stack(trial.seed, trial.batch_norm, members=len(rates))
    settings.train(stack, few, trial.seed, rates=rates, decay=decays)
    hidden = list(stack.weights)[:-1]
    norms = torch.stack([weight.detach().flatten(1).square().sum(dim=1) for weight in hidden]).sum(dim=0).sqrt()
    depth, width, batch, steps = settings.depth, settings.width, settings.batch, settings.steps_of_identity
    size, identity = {"depth": depth, "width": width, "batch": batch, "steps": steps}, 0.0
    if trial.batch_norm:
        identity = difference_to_another_rate(few, **size, seed=trial.seed)
    found = both(stack, data) | {"norm": norms.tolist()}
    return by_pair(found, settings.decays, settings.rates) | {"identity": identity}


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the best L2 weights, what they give, and judge the identity."""
    arms = GRID.arms(settings, outcomes)
    return Conclusion(
        statements=tuple(_statements(settings, arms, outcomes)),
        table=table(
            f"Test accuracy in % after {settings.steps} steps on {settings.images} images and norm of the hidden "
            "weights, at the rate that is best on validation images for each L2",
            arms.by("decay"),
            ("L2", lambda row: row.words["decay"]),
            ("with batch norm", lambda row: row[True].percent(2)),
            ("weights with batch norm", lambda row: average(row[True].numbers("norm"), 1)),
            ("without", lambda row: row[False].percent(2)),
            ("weights without", lambda row: average(row[False].numbers("norm"), 1)),
            ("with minus without", lambda row: average(row[True].points() - row[False].points(), 2)),
        ),
        figures=(_figure(settings, arms),),
        caveats=(
            "The best L2 is known to the spacing of the grid, a factor of 5, and the accuracy hardly changes around "
            "it, so that chance picks among neighbours.",
            "Which L2 is best with batch normalization is not a question that has an answer of its own: L2 and rate "
            "trade for each other.",
            "At a fixed norm L2 is another rate. Without fixing it, L2 shrinks the weights, which raises the effective "
            "rate, rate / norm^2: the effect of L2 then depends on how long and at which rate one trains.",
            "The readout is not normalized, so that L2 on it is ordinary regularization in both networks.",
        ),
    )


def _grid(settings: Settings) -> Numbers:
    """The L2 weights; 0 counts as a fifth of the smallest."""
    grid = np.array(settings.decays)
    grid[grid == 0] = grid[grid > 0].min() / 5
    return grid


def _statements(settings: Settings, arms: Arms, outcomes: Outcomes) -> Iterator[Statement]:
    validation = {each: outcomes.where(batch_norm=each).array("validation") for each in WITH_AND_WITHOUT}

    def best(batch_norm: bool) -> int:
        """The place of the L2 weight that is best, at its best rate, in the mean over seeds; not of none."""
        scores = validation[batch_norm].mean(axis=0).max(axis=1)
        return 1 + pick(scores[1:], TIE, scores[1:])

    def edge_of(place: int, decays: Sequence[float]) -> str:
        """The obstacle of an L2 weight that is the first or the last of those tried; or empty."""
        first = settings.decays.index(decays[0])
        return at_an_edge(np.array([place - first]), decays).replace("rate", "L2 weight")

    none, strong, suits = settings.decays[0], settings.decays[-2], best(False)
    whole, fifth = (arms[True, settings.decays[place]] for place in (suits, suits - 1))
    text = (
        "With batch normalization, a fifth of the L2 weight that suits the network without it is better than all of it."
    )
    published = "a fifth, which improved validation accuracy, Inception on ImageNet"
    gain = gap(fifth, whole)
    yield judge(text, gain, AtLeast(GAIN), published, obstacle=edge_of(suits, settings.decays[1:]) or gain.obstacle)
    for each, words in ((True, "with batch norm"), (False, "without batch norm")):
        text = f"L2 makes the network {words} more accurate than no L2."
        place = best(each)
        gain = gap(arms[each, settings.decays[place]], arms[each, none])
        # Below the smallest weight lies 0, which was tried: the best one is between two others then.
        edge = edge_of(place, settings.decays) or gain.obstacle
        yield judge(text, gain, AtLeast(GAIN), says="teaching material", obstacle=edge)
    text = f"With batch normalization, L2 of {strong:g} makes the weights smaller, at the rate that is best without it."
    at, laarhoven = arms[True, none].best, "van Laarhoven 2017"
    large, small = (arms[True, decay].array("norm")[:, at] for decay in (none, strong))
    smaller, edge = ratio(small, large, "times the size"), obstacle(arms[True, none])
    yield judge(text, smaller, AtMost(SHRINKS, nothing=1.0), says=laarhoven, regime=Regime.OWN, obstacle=edge)
    text = "At weights of fixed norm in front of batch normalization, L2 is exactly another learning rate."
    identity = largest(outcomes.where(batch_norm=True).array("identity"), "logits")
    yield judge(text, identity, Exact(ROUNDING), says=laarhoven, regime=Regime.OWN)


def _figure(settings: Settings, arms: Arms) -> Figure:
    lines = (
        line(each.words["batch_norm"], _grid(settings), np.stack([arm.numbers() for arm in each], axis=1))
        for each in arms.by("batch_norm")
    )
    panels, title = [panel(f"{settings.images} training images", lines)], f"Test accuracy after {settings.steps} steps"
    caption = "Each at the rate that is best for it on validation images; no L2 stands at the left end."
    return figure("accuracy_by_l2", f"{title}, by L2", panels, x_label="L2 weight", caption=caption, x_scale="log")
