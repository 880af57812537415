"""Layer by layer: how large signals are, how far they drift in training, and which rate would suit each layer.

Question:
    How do the size of the signals, their drift during training and the best rate change with depth, and does batch
    normalization make the layers alike?

Claim:
    "Small changes to the network parameters amplify as the network becomes deeper", and the inputs of each layer change
    their distribution when the parameters below change (Ioffe & Szegedy 2015, section 1). Without batch normalization
    means and variances grow exponentially with depth (Bjorck et al. 2018, section 3, a residual network). Teaching
    material adds that layers then want different rates, and that with batch normalization one rate suits all.

What would refute it:
    Without batch normalization signals keep their size through the layers, drift no more in the upper ones, or the best
    rates of the layers differ no more than with it.

Settings:
    Ten hidden layers of 64 ReLU units with He's initial weights, and with Glorot's, which many frameworks begin with;
    scikit-learn's digits, 300 steps of gradient descent with batches of 60 and rate 0.1. Sizes are standard deviations
    of what activations receive, means over units. Drift is the standard deviation over time of the mean that a unit
    receives, over its mean standard deviation, median over units, from 30 looks. A layer's best rate is the first power
    of 2 at which a step of that layer alone lowers the loss of a batch more than half and twice the rate do, and at
    least half as far as any, before training and after it.

Verdict:
    Ratios, paired over seeds, by their geometric means. "Changes at least tenfold" is about the size at the last layer
    over that at the first. "Keeps its size" is about the same ratio, between a half and 2. "More" is reproduced from
    1.5 times on with an interval above 1; "one rate suits all" when the largest best rate is at most ten times the
    smallest.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - J. Bjorck, C. Gomes, B. Selman and K. Q. Weinberger, Understanding Batch Normalization, 2018, arXiv:1806.02375.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from normwise.lab.data.splits import batches, digits
from normwise.lab.design import WITH_AND_WITHOUT, Arm, Arms, Grid, OneNetwork, figure, geometric, line, panel, table
from normwise.lab.intervals import Numbers, ratio
from normwise.lab.networks.dense import Dense, glorot, he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Figure, Regime, Statement
from normwise.lab.training.by_layer import RATES, Received, best_rates, sizes, unevenness
from normwise.lab.training.descent import accuracy
from normwise.lab.verdict import AtLeast, Reaches, StaysBelow, Within, judge

SAYS = "Ioffe & Szegedy 2015, section 1"
TOPIC = "why it works"
DATA = DIGITS
ARCHITECTURE = "10 hidden layers of 64 ReLU units"
REGIME = Regime.OWN
TESTS = True
TAKES_DATA = True
TENFOLD = 10.0
MORE = 1.5
WEIGHTS = {"he": "He's weights", "glorot": "Glorot's weights"}
SPREADS = {"he": he, "glorot": glorot}
MOMENTS = {"before": "before training", "after": "after training"}
BJORCK = "Bjorck et al. 2018, section 3"


@dataclass(frozen=True)
class Settings(OneNetwork):
    """The network, its training, and how often it is looked at."""

    depth: int = 10
    every: int = 10
    """Steps between two looks."""


NEIGHBOURING = {"looks": Settings(every=30), "grid": Settings(rate=0.03), "width": Settings(width=96)}


@dataclass(frozen=True)
class Trial:
    """One training."""

    weights: str
    batch_norm: bool
    seed: int


GRID = Grid(Trial, weights=WEIGHTS, batch_norm=WITH_AND_WITHOUT)
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Measure every layer before training, in it and after it."""
    data, std = digits(trial.seed), SPREADS[trial.weights]
    norm = trial.batch_norm
    model = Dense(depth=settings.depth, width=settings.width, batch_norm=norm, std=std, seed=trial.seed)
    batch = next(batches(data.train, settings.batch, trial.seed))
    found: dict[str, Any] = {"sizes_before": sizes(model, batch[0]), "rates_before": best_rates(model, *batch)}
    received = Received(model, data.validation)
    looks = range(settings.every, settings.steps + 1, settings.every)
    settings.train(model, data.train, trial.seed, look=received, look_at=looks)
    found |= {"sizes_after": received.sizes(), "drift": received.drift(), "rates_after": best_rates(model, *batch)}
    return found | {"accuracy": accuracy(model, data.test)}


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare layers with each other, and the networks."""
    arms = GRID.arms(settings, outcomes)
    return Conclusion(
        statements=tuple(text for weights in WEIGHTS for text in _statements(settings, arms.where(weights=weights))),
        table=table(
            f"The last of {settings.depth} layers over the first, and the largest best rate over the smallest, "
            "geometric means",
            arms,
            ("initial weights", lambda arm: arm["weights"]),
            ("network", lambda arm: arm["batch_norm"]),
            *(
                (f"size, {words}", lambda arm, moment=moment: geometric(_change(arm, f"sizes_{moment}"), 3))
                for moment, words in MOMENTS.items()
            ),
            ("drift", lambda arm: geometric(_change(arm, "drift"), 2)),
            *(
                (f"best rates, {words}", lambda arm, moment=moment: geometric(_uneven(arm, moment), 0))
                for moment, words in MOMENTS.items()
            ),
            ("test accuracy in %", lambda arm: geometric(100 * arm.array("accuracy"), 1)),
        ),
        figures=(_figure(settings, arms),),
        caveats=(
            "A layer's best rate is that of one step along the gradient of one batch while all others stand still; "
            "what is best for a training is another number.",
            "With batch normalization a layer's output does not change with the size of its weights, so that a step of "
            "any length turns them by less than a right angle: what is too long is hard to tell from what is best.",
            "With batch normalization the size that an activation receives is its scale, by construction; what is "
            "measured there is what training makes of it.",
            f"One rate, {settings.rate:g}, for all networks, so that drift is compared at equal steps; a network that "
            "hardly learns hardly drifts.",
        ),
    )


def _change(arm: Arm, what: str) -> Numbers:
    """The last layer over the first."""
    values = arm.array(what)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(values[:, -1] / values[:, 0])


def _uneven(arm: Arm, moment: str) -> Numbers:
    return unevenness(arm.array(f"rates_{moment}"))


def _edge(moment: str, *arms: Arm) -> str:
    """The obstacle of arms in half of whose seeds a layer is best at the smallest or the largest rate; or empty."""
    for arm in arms:
        if np.isin(arm.array(f"rates_{moment}"), (RATES[0], RATES[-1])).any(axis=1).mean() >= 0.5:
            return f"the best rate of a layer lies at the edge of its grid ({', '.join(arm.words.values())})"
    return ""


def _statements(settings: Settings, arms: Arms) -> Iterator[Statement]:
    of, normalized, plain = arms.words["weights"], arms[True], arms[False]
    one = np.ones(arms.seeds)
    smaller = ratio(one, _change(plain, "sizes_before"), "times smaller")
    larger = ratio(_change(normalized, "sizes_after"), one, "times the size")
    if of == WEIGHTS["glorot"]:
        text = f"{of}, before training: without batch normalization signals become at least {TENFOLD:g} times smaller "
        text += f"over {settings.depth} layers."
        yield judge(text, smaller, Reaches(TENFOLD), says="teaching material")
    text = f"{of}, after training: with batch normalization signals keep their size over {settings.depth} layers."
    yield judge(text, larger, Within(0.5, 2.0), "means within -1.1 and 0.6 on a log scale", BJORCK)
    text = f"{of}: without batch normalization the last layer drifts more than the first."
    yield judge(text, ratio(_change(plain, "drift"), one, "times the drift"), AtLeast(MORE, nothing=1.0))
    text = f"{of}: the last layer drifts more without batch normalization than with it."
    without, with_it = (arm.array("drift")[:, -1] for arm in (plain, normalized))
    yield judge(text, ratio(without, with_it, "times the drift"), AtLeast(MORE, nothing=1.0))
    for moment, words in MOMENTS.items():
        uneven = {arm: _uneven(arms[arm], moment) for arm in (True, False)}
        text = f"{of}, {words}: the best rates of the layers differ more without batch normalization than with it."
        more = ratio(uneven[False], uneven[True], "times more")
        both, own = _edge(moment, plain, normalized), _edge(moment, normalized)
        yield judge(text, more, AtLeast(MORE, nothing=1.0), says="teaching material", obstacle=both)
        text = f"{of}, {words}: with batch normalization the best rates of the layers differ at most {TENFOLD:g} times."
        most = ratio(uneven[True], one, "times the smallest rate")
        yield judge(text, most, StaysBelow(TENFOLD), says="teaching material", obstacle=own)


def _figure(settings: Settings, arms: Arms) -> Figure:
    layers, panels = range(1, settings.depth + 1), []
    measures = {"sizes_before": "size, before", "drift": "drift", "rates_before": "best rate, before"}
    for what, words in (measures | {"rates_after": "best rate, after"}).items():
        lines = []
        for arm in arms:
            with np.errstate(divide="ignore"):  # a dead layer
                logs = np.log(np.maximum(arm.array(what), 1e-12))
            lines.append(line(f"{arm['weights']}, {arm['batch_norm']}", layers, logs, back=np.exp))
        panels.append(panel(words, lines))
    title = "Size of signals, their drift, and the best rate, layer by layer"
    caption = "Line: geometric mean over seeds; band: smallest to largest."
    return figure("by_layer", title, panels, x_label="layer", y_label="", caption=caption, y_scale="log")
