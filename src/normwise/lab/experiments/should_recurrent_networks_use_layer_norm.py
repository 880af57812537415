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
    the rates 0.05, 0.2 and 0.8 for each arm on validation images. Longer: four blank rows in front of
    the image, which were not in training; steps beyond the eighth take its statistics. (With blank rows behind the
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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normwise.lab.data import Split, digits
from normwise.lab.models import Norm
from normwise.lab.outcomes import Outcomes
from normwise.lab.recurrent import Recurrent
from normwise.lab.results import Conclusion, Figure, Panel, Series, Statement, Table
from normwise.lab.stack_training import at_best, best
from normwise.lab.statistics import Numbers, band, cell, difference, mean
from normwise.lab.training import accuracy, train
from normwise.lab.verdict import AtLeast, judge
from normwise.torch import BatchNorm1d, LayerNorm

SAYS = "Ba et al. 2016"
TOPIC = "batch size and alternatives"
BETTER = 1.0
WORSE = -1.0
LOSS = 5.0
ROWS = 8
ARMS = {
    "none": "no normalization",
    "one": "batch norm, one set of statistics",
    "steps": "batch norm, a set for each step",
    "layer": "layer norm",
}


@dataclass(frozen=True)
class Settings:
    """The network and its training."""

    batches: tuple[int, ...] = (32, 4)
    rates: tuple[float, ...] = (0.05, 0.2, 0.8)
    steps: int = 500
    width: int = 64
    longer: int = 4
    """Blank rows in front of the image."""


FULL = Settings(rates=(0.01, 0.03, 0.1, 0.3, 1.0), steps=3000)


@dataclass(frozen=True)
class Trial:
    """All rates of one arm with one size of batches."""

    arm: str
    batch: int
    seed: int


def trials(settings: Settings, seeds: Sequence[int]) -> list[Trial]:
    """Every arm with every size and seed."""
    return [Trial(arm, batch, seed) for arm in ARMS for batch in settings.batches for seed in seeds]


def network(arm: str, width: int, seed: int) -> Recurrent:
    """The network of an arm; all begin with the same weights."""
    norms: dict[str, Norm | None] = {"none": None, "one": BatchNorm1d, "steps": BatchNorm1d, "layer": LayerNorm}
    return Recurrent(inputs=8, width=width, norm=norms[arm], seed=seed, own=ROWS if arm == "steps" else 1)


def sequences(data: Split, blank: int = 0) -> Split:
    """Images as sequences of rows, and some blank ones in front: shape (n, rows, 8)."""
    rows: Tensor = data.images.view(-1, ROWS, 8)
    return Split(torch.cat((rows.new_zeros(len(rows), blank, 8), rows), dim=1), data.labels, data.rows)


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate; measure on sequences as long as in training, and on longer ones."""
    data = digits(trial.seed)
    found: dict[str, Any] = {"validation": [], "test": [], "longer": []}
    for rate in settings.rates:
        model = network(trial.arm, settings.width, trial.seed)
        train(model, sequences(data.train), rate=rate, steps=settings.steps, batch=trial.batch, seed=trial.seed)
        found["validation"].append(accuracy(model, sequences(data.validation)))
        found["test"].append(accuracy(model, sequences(data.test)))
        found["longer"].append(accuracy(model, sequences(data.test, settings.longer)))
    return found


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the arms at each one's best rate."""
    return Conclusion(
        statements=tuple(_statements(settings, outcomes)),
        table=_table(settings, outcomes),
        figures=(_figure(settings, outcomes),),
        caveats=(
            f"A plain recurrent network and {ROWS} steps, far fewer than in the papers, whose networks are LSTMs; "
            "with so few steps gradients do not vanish without normalization either.",
            f"Batches of every size get {settings.steps} steps: arms are compared at one size, not sizes.",
        ),
    )


def _points(outcomes: Outcomes, arm: str, batch: int, what: str = "test") -> Numbers:
    return 100 * at_best(outcomes.where(arm=arm, batch=batch), what)


def _statements(settings: Settings, outcomes: Outcomes) -> list[Statement]:
    found = []
    for batch in settings.batches:
        layer, none = (_points(outcomes, arm, batch) for arm in ("layer", "none"))
        for arm in ("one", "steps"):
            text = f"Batches of {batch}: layer norm is more accurate than {ARMS[arm]}."
            gap = difference(layer, _points(outcomes, arm, batch), "points")
            found.append(judge(text, gap, AtLeast(BETTER)))
        text = f"Batches of {batch}: layer norm is more accurate than none."
        found.append(judge(text, difference(layer, none, "points"), AtLeast(BETTER)))
        text = f"Batches of {batch}: batch norm with statistics per step is more accurate than with one set."
        gap = difference(_points(outcomes, "steps", batch), _points(outcomes, "one", batch), "points")
        found.append(judge(text, gap, AtLeast(BETTER), says="Cooijmans et al. 2016"))
        lost = {arm: _points(outcomes, arm, batch) - _points(outcomes, arm, batch, "longer") for arm in ARMS}
        text = f"Batches of {batch}, longer sequences: batch norm with statistics per step loses more than layer norm."
        found.append(judge(text, difference(lost["steps"], lost["layer"], "points"), AtLeast(LOSS)))
    return found


def _table(settings: Settings, outcomes: Outcomes) -> Table:
    rows = []
    for batch in settings.batches:
        for arm, words in ARMS.items():
            rate = settings.rates[best(outcomes.where(arm=arm, batch=batch))]
            cells = (cell(mean(_points(outcomes, arm, batch, what), "%"), 1) for what in ("test", "longer"))
            rows.append((str(batch), words, f"{rate:g}", *cells))
    n = len(outcomes.where(arm="none", batch=settings.batches[0]))
    caption = f"Test accuracy in % after {settings.steps} steps. Mean [95 % interval] over {n} seeds"
    return Table(caption, ("batch", "normalization", "rate", "as in training", "longer sequences"), tuple(rows))


def _figure(settings: Settings, outcomes: Outcomes) -> Figure:
    panels = []
    for batch in settings.batches:
        lines = []
        for arm, words in ARMS.items():
            spread = (tuple(line) for line in band(outcomes.where(arm=arm, batch=batch).array("test")))
            lines.append(Series(words, settings.rates, *spread))
        panels.append(Panel(f"batches of {batch}", tuple(lines)))
    return Figure(
        name="accuracy_by_rate",
        title=f"A recurrent network's test accuracy after {settings.steps} steps",
        caption="Line: mean over seeds; band: smallest to largest.",
        x_label="learning rate",
        y_label="test accuracy",
        panels=tuple(panels),
        x_scale="log",
    )
