"""Recurrent networks: layer normalization, or batch normalization with statistics for every step?

Question:
    In a recurrent network that reads an image row by row, what do batch norm with one set of statistics for all steps,
    batch norm with a set for each step, layer norm and no normalization give, with batches of 32 and of 4; and what of
    sequences that are longer than those of training?

Claim:
    Layer norm is for recurrent networks: it works with batches of 4, where batch norm is erratic, and needs no
    statistics per step, which batch norm has none of beyond the length of training (Ba et al. 2016). Recurrent batch
    norm with statistics per step does train well (Cooijmans et al. 2016).

What would refute it:
    With batches of 4 batch norm with statistics per step is as accurate as layer norm; or it keeps its accuracy on
    longer sequences.

Settings:
    scikit-learn's digits, eight steps of a row of 8 pixels; 64 tanh units; 500 steps of gradient descent; the best of
    the rates 0.003, 0.0125, 0.05, 0.2, 0.8 and 3.2 for each arm on validation images. Longer: four blank rows in front
    of the image, which were not in training; steps beyond the eighth take its statistics. (With blank rows behind the
    image every network falls to chance, so that nothing could be told.)

Verdict:
    Differences of test accuracy, paired over seeds; "better" counts from 1 point on, "no worse" when the whole interval
    lies above -1 point, a loss on longer sequences from 5 points more than layer norm's on.

References:
    - J. Ba, J. Kiros and G. Hinton, Layer Normalization, 2016, arXiv:1607.06450.
    - T. Cooijmans, N. Ballas, C. Laurent, C. Gülçehre and A. Courville, Recurrent Batch Normalization, 2016,
      arXiv:1603.09025.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from normwise.lab.data.splits import Digits, digits
from normwise.lab.design import Arms, Grid, Training, by_rate, gap, obstacle, on_both, table
from normwise.lab.intervals import difference
from normwise.lab.networks.dense import Norm
from normwise.lab.networks.recurrent import Recurrent, sequence_shape, sequences
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement
from normwise.lab.training.descent import accuracy
from normwise.lab.verdict import AtLeast, judge
from normwise.torch import BatchNorm1d, LayerNorm

SAYS = "Ba et al. 2016"
TOPIC = "batch size and alternatives"
DATA = DIGITS
ARCHITECTURE = "recurrent, 64 tanh units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
BETTER = 1.0
WORSE = -1.0
LOSS = 5.0
ARMS = {
    "none": "no normalization",
    "one": "batch norm, one set of statistics",
    "steps": "batch norm, a set for each step",
    "layer": "layer norm",
}


@dataclass(frozen=True)
class Settings(Training):
    """The network and its training."""

    batches: tuple[int, ...] = (32, 4)
    rates: tuple[float, ...] = (0.003, 0.0125, 0.05, 0.2, 0.8, 3.2)
    steps: int = 500
    width: int = 64
    longer: int = 4
    """Blank rows in front of the image."""


FULL = Settings(steps=3000)


@dataclass(frozen=True)
class Trial:
    """All rates of one arm with one size of batches."""

    arm: str
    batch: int
    seed: int


GRID = Grid(Trial, arm=ARMS, batch="batches")
trials = GRID.trials


def network(arm: str, width: int, seed: int) -> Recurrent:
    """The network of an arm; all begin with the same weights."""
    norms: dict[str, Norm | None] = {"none": None, "one": BatchNorm1d, "steps": BatchNorm1d, "layer": LayerNorm}
    steps, inputs = sequence_shape()
    return Recurrent(inputs=inputs, width=width, norm=norms[arm], seed=seed, own=steps if arm == "steps" else 1)


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate; measure on sequences as long as in training, and on longer ones."""
    data = digits(trial.seed)
    parts = (sequences(part) for part in (data.train, data.validation, data.test))
    rows, longer = Digits(*parts), sequences(data.test, settings.longer)
    measures = on_both(rows) | {"longer": lambda model: accuracy(model, longer)}
    make = partial(network, trial.arm, settings.width, trial.seed)
    return settings.at_every_rate(make, rows.train, trial.seed, measures, batch=trial.batch)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the arms at each one's best rate."""
    sizes = GRID.arms(settings, outcomes).by("batch")
    title = f"A recurrent network's test accuracy after {settings.steps} steps"
    return Conclusion(
        statements=tuple(statement for arms in sizes for statement in _statements(arms)),
        table=table(
            f"Test accuracy in % after {settings.steps} steps",
            (arm for arms in sizes for arm in arms),
            ("batch", lambda arm: arm["batch"]),
            ("normalization", lambda arm: arm["arm"]),
            ("rate", lambda arm: arm.rate),
            ("as in training", lambda arm: arm.percent(1)),
            ("longer sequences", lambda arm: arm.percent(1, "longer")),
        ),
        figures=(by_rate(title, sizes, "batches of {batch}"),),
        caveats=(
            f"A plain recurrent network and {sequence_shape()[0]} steps, far fewer than in the papers, whose networks "
            "are LSTMs; with so few steps gradients do not vanish without normalization either.",
            f"Batches of every size get {settings.steps} steps: arms are compared at one size, not sizes.",
        ),
    )


def _statements(arms: Arms) -> Iterator[Statement]:
    of = f"Batches of {arms.words['batch']}"
    for arm in ("one", "steps"):
        text = f"{of}: layer norm is more accurate than {ARMS[arm]}."
        yield judge(text, gap(arms["layer"], arms[arm]), AtLeast(BETTER))
    text = f"{of}: layer norm is more accurate than none."
    yield judge(text, gap(arms["layer"], arms["none"]), AtLeast(BETTER))
    text = f"{of}: batch norm with statistics per step is more accurate than with one set."
    yield judge(text, gap(arms["steps"], arms["one"]), AtLeast(BETTER), says="Cooijmans et al. 2016")
    steps, layer = (arms[arm].points() - arms[arm].points("longer") for arm in ("steps", "layer"))
    text = f"{of}, longer sequences: batch norm with statistics per step loses more than layer norm."
    more, edge = difference(steps, layer, "points"), obstacle(arms["steps"], arms["layer"])
    yield judge(text, more, AtLeast(LOSS), obstacle=edge)
