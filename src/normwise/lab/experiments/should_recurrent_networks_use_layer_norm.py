"""Recurrent networks: layer normalization, or batch normalization with statistics for every step?

Question:
    In a recurrent network that reads an image row by row, or in 64 steps of a pixel, what do batch norm with one set of
    statistics for all steps, batch norm with a set for each step, layer norm and no normalization give, with batches of
    32 and of 4; and what of sequences that are longer than those of training?

Claim:
    Layer norm is for recurrent networks: it works with batches of 4, where batch norm is erratic, and needs no
    statistics per step, which batch norm has none of beyond the length of training (Ba et al. 2016). Recurrent batch
    norm with statistics per step does train well (Cooijmans et al. 2016).

What would refute it:
    With batches of 4 batch norm with statistics per step is as accurate as layer norm; or it keeps its accuracy on
    longer sequences.

Settings:
    scikit-learn's digits, 64 tanh units, batches of 32 and of 4, gradient descent at rates that fall exponentially to a
    tenth; the best of the rates 0.003, 0.0125, 0.05, 0.2, 0.8 and 3.2 for each network on validation images. Rows:
    eight steps of 8 pixels, 1500 steps of training. Pixels: 64 steps of one pixel, line by line, 800 steps of training;
    pixels are between -1 and 1 there, because at a signal of 0 the derivative of layer norm is 1 / sqrt(eps), and one
    blank pixel after the other then multiplies the gradient by that. Of larger images a step is the part of a row that
    makes the sequence about as long. Longer: four blank rows in front of the image, which were not in training; steps
    beyond the last one of training take its statistics. (With blank rows behind the image every network falls to
    chance, so that nothing could be told.)

Verdict:
    Differences of test accuracy, paired over seeds; "better" counts from 1 point on, a loss on longer sequences from 5
    points more than layer norm's on. With rows, a network that still rises by more than a point in the last third of
    its training gives no verdict. With pixels all still rise, and what is compared is how much they have learnt.

References:
    - J. Ba, J. Kiros and G. Hinton, Layer Normalization, 2016, arXiv:1607.06450.
    - T. Cooijmans, N. Ballas, C. Laurent, C. Gülçehre and A. Courville, Recurrent Batch Normalization, 2016,
      arXiv:1603.09025.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from normwise.lab.data.splits import Digits, Split, digits
from normwise.lab.design import Arms, Grid, SideBySide, by_rate, gap, obstacle, plateau, table
from normwise.lab.intervals import difference
from normwise.lab.networks.recurrent import Recurrent, parts_for, sequence_shape, sequences
from normwise.lab.networks.stack import Normalization, batch_norm
from normwise.lab.networks.variants import LayerNorms
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement
from normwise.lab.training.stacks import accuracies
from normwise.lab.verdict import AtLeast, judge

SAYS = "Ba et al. 2016"
TOPIC = "batch size and alternatives"
DATA = DIGITS
ARCHITECTURE = "recurrent, 64 tanh units, 8 or 64 steps"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
BETTER = 1.0
LOSS = 5.0
ARMS = {
    "none": "no normalization",
    "one": "batch norm, one set of statistics",
    "steps": "batch norm, a set for each step",
    "layer": "layer norm",
}
READINGS = {"rows": "a row at a step", "pixels": "64 steps"}


@dataclass(frozen=True)
class Settings(SideBySide):
    """The networks and their training."""

    batches: tuple[int, ...] = (32, 4)
    rates: tuple[float, ...] = (0.003, 0.0125, 0.05, 0.2, 0.8, 3.2)
    steps: int = 1500
    """Of training with rows."""
    pixel_steps: int = 800
    """Of training with pixels."""
    length: int = 64
    """Steps of a sequence of pixels."""
    longer: int = 4
    """Blank rows in front of the image."""

    def training(self, reading: str) -> int:
        """The steps of training."""
        return self.steps if reading == "rows" else self.pixel_steps


QUICK = Settings(batches=(32,), pixel_steps=100)
FULL = Settings(steps=3000, pixel_steps=3000)


@dataclass(frozen=True)
class Trial:
    """All rates of one arm with one size of batches, side by side."""

    reading: str
    batch: int
    arm: str
    seed: int


GRID = Grid(Trial, reading=READINGS, batch="batches", arm=ARMS, largest_first="reading")
trials = GRID.trials


def network(trial: Trial, settings: Settings, members: int) -> Recurrent:
    """The networks of an arm; all begin with the same weights."""
    norms: dict[str, Normalization | None] = {
        "none": None,
        "one": batch_norm,
        "steps": batch_norm,
        "layer": partial(LayerNorms, members),
    }
    steps, inputs = sequence_shape(parts(trial, settings))
    own = steps if trial.arm == "steps" else 1
    norm, width, seed = norms[trial.arm], settings.width, trial.seed
    return Recurrent(members, inputs=inputs, width=width, normalize=norm, seed=seed, own=own)


def parts(trial: Trial, settings: Settings) -> int:
    """The number of steps that a row of the image becomes."""
    return 1 if trial.reading == "rows" else parts_for(settings.length)


def read(trial: Trial, settings: Settings, data: Split, blank: int = 0) -> Split:
    """The images as the networks read them."""
    if trial.reading == "rows":
        return sequences(data, blank)
    found = sequences(data, blank, parts(trial, settings))
    return replace(found, images=2 * found.images - 1)


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate; measure on sequences as long as in training, and on longer ones."""
    images = digits(trial.seed)
    data = Digits(*(read(trial, settings, part) for part in (images.train, images.validation, images.test)))
    stack, steps = network(trial, settings, len(settings.rates)), settings.training(trial.reading)
    found = settings.train_to_a_plateau(stack, data, trial.seed, steps=steps, batch=trial.batch)
    return found | {"longer": accuracies(stack, read(trial, settings, images.test, settings.longer))}


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the arms at each one's best rate."""
    groups = GRID.arms(settings, outcomes).by("reading", "batch")
    lengths = [sequence_shape(parts)[0] for parts in (1, parts_for(settings.length))]
    return Conclusion(
        statements=tuple(statement for arms in groups for statement in _statements(arms)),
        table=table(
            f"Test accuracy in % after {settings.steps} steps of training with rows and {settings.pixel_steps} "
            "with pixels",
            (arm for arms in groups for arm in arms),
            ("sequence", lambda arm: arm["reading"]),
            ("batch", lambda arm: arm["batch"]),
            ("normalization", lambda arm: arm["arm"]),
            ("rate", lambda arm: arm.rate),
            ("as in training", lambda arm: arm.percent(1)),
            ("longer sequences", lambda arm: arm.percent(1, "longer")),
        ),
        figures=(by_rate("A recurrent network's test accuracy", groups, "{reading}, batches of {batch}"),),
        caveats=(
            f"A plain recurrent network, and {lengths[0]} or {lengths[1]} steps, fewer than in the papers, whose "
            "networks are LSTMs.",
            "Batch norm's scales begin at 1, as layer norm's; Cooijmans et al. begin at 0.1 and normalize W x and U h "
            "apart.",
            f"After {settings.pixel_steps} steps of training the networks that read pixels still learn: where they end "
            "is not measured.",
            "Batches of every size get as many steps: arms are compared at one size, not sizes.",
        ),
    )


def _statements(arms: Arms) -> Iterator[Statement]:
    rows = arms.words["reading"] == READINGS["rows"]
    of = f"atches of {arms.words['batch']}"
    of = f"B{of}" if rows else f"{arms.words['reading']}, b{of}"
    better = "is more accurate than" if rows else "learns more in as many steps than"

    def lead(ours: str, theirs: str, of_them: str, says: str = "") -> Statement:
        both = arms[ours], arms[theirs]
        why = obstacle(*both) or (plateau.still_learns(*both) if rows else "")
        return judge(f"{of}: {of_them}.", gap(*both), AtLeast(BETTER), says=says, obstacle=why)

    for arm in ("one", "steps"):
        yield lead("layer", arm, f"layer norm {better} {ARMS[arm]}")
    yield lead("layer", "none", f"layer norm {better} none")
    text = f"batch norm with statistics per step {better} with one set"
    yield lead("steps", "one", text, says="Cooijmans et al. 2016")
    steps, layer = (arms[arm].points() - arms[arm].points("longer") for arm in ("steps", "layer"))
    text = f"{of}, longer sequences: batch norm with statistics per step loses more than layer norm."
    why = obstacle(arms["steps"], arms["layer"])
    yield judge(text, difference(steps, layer, "points"), AtLeast(LOSS), obstacle=why)
