"""Is a network more accurate with batch normalization before the activation or after it?

Question:
    Which order is better, and would one have seen it at a rate that both share?

Claim:
    Before: "we add the BN transform immediately before the nonlinearity", because Wx + b is "more likely to have a
    symmetric, non-sparse distribution" (Ioffe & Szegedy 2015, section 3.2). After: CaffeNet reached .474 with it before
    and .499 with it after; GoogLeNet .603 before and .596 after (Mishkin et al., caffenet-benchmark, 2016); "recent
    code written by Christian applies relu before BN. It is still occasionally a topic of debate" (F. Chollet, 2016).

What would refute it:
    Neither order wins: the interval of the difference contains 0, or the winner changes with the activation.

Settings:
    Five hidden layers of 64 units, ReLU, tanh and sigmoid, He's initial weights for ReLU and Glorot's for the others,
    scikit-learn's digits, batches of 60, 1000 steps of gradient descent at rates 0.03, 0.1, 0.3, 1 and 3; the best is
    picked on validation images for each order and activation.

Verdict:
    Test accuracies of the two orders are compared, paired over seeds, each at its own best rate. "Before" and "after"
    are judged for each activation; one is reproduced when the difference is at least 0.2 points (one image of 450) and
    its interval excludes 0.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - D. Mishkin, N. Sergievskiy and J. Matas, Systematic evaluation of CNN advances on the ImageNet, 2016,
      arXiv:1606.02228, and the repository caffenet-benchmark.
    - F. Chollet, comment of 23 February 2016 in the Keras project's discussion 1802.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from normwise.lab.data import digits
from normwise.lab.models import glorot, he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Figure, Panel, Series, Statement, Table
from normwise.lab.stack import Stack, batch_norm
from normwise.lab.stack_training import at_best, best, both, train_stack
from normwise.lab.statistics import Numbers, band, cell, difference, mean
from normwise.lab.verdict import AtLeast, judge

SAYS = "before: Ioffe & Szegedy 2015, section 3.2"
TOPIC = "placement"
TAKES_DATA = True
WINS = 0.2
ORDERS = {False: "before the activation", True: "after it"}
PUBLISHED = {
    False: ".474 against .499, CaffeNet; .603 against .596, GoogLeNet (Mishkin et al. 2016)",
    True: ".499 against .474, CaffeNet; .596 against .603, GoogLeNet (Mishkin et al. 2016)",
}


@dataclass(frozen=True)
class Settings:
    """Activations and rates."""

    activations: tuple[str, ...] = ("relu", "tanh", "sigmoid")
    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    steps: int = 1000
    depth: int = 5
    width: int = 64
    batch: int = 60


FULL = Settings(rates=(0.01, 0.03, 0.1, 0.3, 0.5, 1.0, 2.0, 3.0), steps=3000)
SEEDS = 20


@dataclass(frozen=True)
class Trial:
    """All rates of one order and activation, side by side."""

    activation: str
    after: bool
    seed: int


def trials(settings: Settings, seeds: Sequence[int]) -> list[Trial]:
    """Both orders with every activation and every seed."""
    return [Trial(activation, after, s) for activation in settings.activations for after in ORDERS for s in seeds]


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate."""
    data = digits(trial.seed)
    stack = Stack(
        len(settings.rates),
        depth=settings.depth,
        width=settings.width,
        activation=trial.activation,
        normalize=batch_norm,
        std=he if trial.activation == "relu" else glorot,
        seed=trial.seed,
        after=trial.after,
    )
    train_stack(stack, data.train, rates=settings.rates, steps=settings.steps, batch=settings.batch, seed=trial.seed)
    return both(stack, data)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the orders at each one's best rate, and at common rates."""
    return Conclusion(
        statements=tuple(_statements(settings, outcomes)),
        table=_table(settings, outcomes),
        figures=(_figure(settings, outcomes),),
        caveats=(
            "One of the digits' 450 test images is 0.22 points, so that differences below half a point take many "
            "seeds to see.",
            "After the activation the layers have biases besides scale and shift, 5 x 64 parameters more.",
            "Residual networks ask another question, whether the sum or the branch is normalized; this is not it.",
        ),
    )


def _test(outcomes: Outcomes, activation: str, after: bool) -> Numbers:
    return 100 * at_best(outcomes.where(activation=activation, after=after))


def _statements(settings: Settings, outcomes: Outcomes) -> list[Statement]:
    found = []
    for activation in settings.activations:
        before, after = (_test(outcomes, activation, order) for order in ORDERS)
        says = "" if activation == "relu" else "the same, for another activation"
        text = f"With {activation}, batch normalization before the activation is more accurate than after it."
        published = PUBLISHED[False] if activation == "relu" else ""
        found.append(judge(text, difference(before, after, "points"), AtLeast(WINS), published, says))
        text = f"With {activation}, batch normalization after the activation is more accurate than before it."
        published = PUBLISHED[True] if activation == "relu" else ""
        gap = difference(after, before, "points")
        found.append(judge(text, gap, AtLeast(WINS), published, "Mishkin et al. 2016, CaffeNet"))
    return found


def _table(settings: Settings, outcomes: Outcomes) -> Table:
    rows = []
    for activation in settings.activations:
        arms = [outcomes.where(activation=activation, after=after) for after in ORDERS]
        rates = [f"{settings.rates[best(arm)]:g}" for arm in arms]
        before, after = (100 * at_best(arm) for arm in arms)
        cells = (cell(mean(before, "%"), 2), cell(mean(after, "%"), 2), cell(difference(before, after, "points"), 2))
        rows.append((activation, f"each its best: {rates[0]} and {rates[1]}", *cells))
        for i, rate in enumerate(settings.rates):
            one, two = (100 * arm.array("test")[:, i] for arm in arms)
            cells = (cell(mean(one, "%"), 2), cell(mean(two, "%"), 2), cell(difference(one, two, "points"), 2))
            rows.append((activation, f"{rate:g} for both", *cells))
    n = len(outcomes.where(activation=settings.activations[0], after=False))
    caption = f"Test accuracy in % after {settings.steps} steps. Mean [95 % interval] over {n} seeds"
    return Table(caption, ("activation", "rate", *ORDERS.values(), "before minus after"), tuple(rows))


def _figure(settings: Settings, outcomes: Outcomes) -> Figure:
    panels = []
    for activation in settings.activations:
        lines = []
        for after, words in ORDERS.items():
            values = outcomes.where(activation=activation, after=after).array("test")
            lines.append(Series(words, settings.rates, *(tuple(line) for line in band(values))))
        panels.append(Panel(activation, tuple(lines)))
    return Figure(
        name="accuracy_by_rate",
        title=f"Test accuracy after {settings.steps} steps, at every rate",
        caption="Where the lines cross, one common rate would have decided the question. Line: mean over seeds; band: "
        "smallest to largest.",
        x_label="learning rate",
        y_label="test accuracy",
        panels=tuple(panels),
        x_scale="log",
    )
