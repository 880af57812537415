"""Is a network more accurate with batch normalization before the activation or after it?

Question:
    Which order is better, and would one have seen it at a rate that both share?

Claim:
    Before: "we add the BN transform immediately before the nonlinearity", because Wx + b is "more likely to have a
    symmetric, non-sparse distribution" (Ioffe & Szegedy 2015, section 3.2). After: CaffeNet reached .474 with it before
    and .499 with it after, both without scale and shift (with them .478 and .493); GoogLeNet .603 before and .596 after
    (Mishkin et al., caffenet-benchmark, 2016); "recent code written by Christian applies relu before BN. It is still
    occasionally a topic of debate" (F. Chollet, 2016).

What would refute it:
    The other order is more accurate, or which is changes with the activation. An interval that contains 0 leaves both
    open.

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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from normwise.lab.data.splits import digits, one_image
from normwise.lab.design import Arms, DenseTraining, Grid, average, by_rate, gap, table
from normwise.lab.intervals import Numbers
from normwise.lab.networks.dense import glorot, he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement, Table
from normwise.lab.training.stacks import both
from normwise.lab.verdict import AtLeast, judge

SAYS = "Ioffe & Szegedy 2015, section 3.2"
TOPIC = "placement"
DATA = DIGITS
ARCHITECTURE = "5 hidden layers of 64 units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
WINS = 0.2
ORDERS = {False: "before the activation", True: "after it"}
PUBLISHED = {
    False: ".474 against .499, CaffeNet; .603 against .596, GoogLeNet (Mishkin et al. 2016)",
    True: ".499 against .474, CaffeNet; .596 against .603, GoogLeNet (Mishkin et al. 2016)",
}


@dataclass(frozen=True)
class Settings(DenseTraining):
    """Activations and rates."""

    activations: tuple[str, ...] = ("relu", "tanh", "sigmoid")
    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    steps: int = 1000


FULL = Settings(rates=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0), steps=3000)
SEEDS = 20


@dataclass(frozen=True)
class Trial:
    """All rates of one order and activation, side by side."""

    activation: str
    after: bool
    seed: int


GRID = Grid(Trial, activation="activations", after=ORDERS)
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate."""
    data, std = digits(trial.seed), he if trial.activation == "relu" else glorot
    stack = settings.stack(trial.seed, True, activation=trial.activation, std=std, after=trial.after)
    settings.train(stack, data.train, trial.seed)
    return both(stack, data)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the orders at each one's best rate, and at common rates."""
    activations = GRID.arms(settings, outcomes).by("activation")
    title = f"Test accuracy after {settings.steps} steps, at every rate"
    caption = "Where the lines cross, one common rate would have decided the question."
    every_rate = by_rate(title, activations, "{activation}", caption=caption)
    return Conclusion(
        statements=tuple(statement for pair in activations for statement in _statements(pair)),
        table=_table(settings, activations),
        figures=(every_rate,),
        caveats=(
            f"{one_image()}, so that differences below half a point take many seeds to see.",
            "After the activation the layers have biases besides scale and shift, 5 x 64 parameters more.",
            "Residual networks ask another question, whether the sum or the branch is normalized; this is not it.",
        ),
    )


def _statements(pair: Arms) -> Iterator[Statement]:
    activation = pair.words["activation"]
    first = activation == "relu"
    named = "ReLU" if first else activation
    text = f"With {named}, batch normalization before the activation is more accurate than after it."
    yield judge(text, gap(pair[False], pair[True]), AtLeast(WINS), PUBLISHED[False] if first else "")
    text = f"With {named}, batch normalization after the activation is more accurate than before it."
    says = "Mishkin et al. 2016, CaffeNet"
    yield judge(text, gap(pair[True], pair[False]), AtLeast(WINS), PUBLISHED[True] if first else "", says)


def _table(settings: Settings, activations: list[Arms]) -> Table:
    rows: list[tuple[str, str, Numbers, Numbers]] = []
    for pair in activations:
        before, after = pair
        words = before["activation"]
        rows.append((words, f"each its best: {before.rate} and {after.rate}", before.points(), after.points()))
        one, two = (100 * arm.array("test").T for arm in pair)
        rows += [(words, f"{rate:g} for both", one[i], two[i]) for i, rate in enumerate(settings.rates)]
    return table(
        f"Test accuracy in % after {settings.steps} steps",
        rows,
        ("activation", lambda row: row[0]),
        ("rate", lambda row: row[1]),
        (ORDERS[False], lambda row: average(row[2], 2)),
        (ORDERS[True], lambda row: average(row[3], 2)),
        ("before minus after", lambda row: average(row[2] - row[3], 2)),
        seeds=activations[0].seeds,
        tried=len(settings.rates),
    )
