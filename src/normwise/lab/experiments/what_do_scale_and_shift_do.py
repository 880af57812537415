"""Scale and shift: their change in training, batch normalization without them, and whether it is ever worse.

Question:
    Scale starts at 1 and shift at 0. How soon do they move, are both needed, and does a network that could undo its
    normalization by them ever end lower than one that has none?

Claim:
    Normalizing the inputs of a sigmoid would keep them where it is nearly linear, which is why there are a scale and a
    shift for each unit, by which the layer can be undone (Ioffe & Szegedy 2015, section 3). Teaching material adds that
    it is therefore never worse than no batch normalization, and that scale and shift, which begin at 1 and 0, leave
    these values slowly, when training is well under way. "When the next layer is linear [the scale] can be disabled
    since the scaling will be done by the next layer" (documentation of Keras's layer, Chollet et al. 2015).

What would refute it:
    Without scale and shift a network of sigmoids is as accurate; with ReLU the scale is needed; scale and shift have
    moved as far after a tenth of the steps as in the end; or the network without batch normalization ends higher.

Settings:
    3 and 10 hidden layers of 64 units, ReLU with He's initial weights and sigmoid with Glorot's, scikit-learn's digits,
    batches of 60, 500 steps of gradient descent at rates 0.01, 0.03, 0.1, 0.3, 1, 3, 10 and 30, the best of which is
    picked on validation images for each arm: no batch normalization, or one with scale and shift, with the shift alone,
    or with neither.

Verdict:
    Test accuracies are compared, paired over seeds. "Higher" is reproduced from half a point on with an interval above
    0; "as accurate" when the whole interval is within half a point of 0, "never worse" when it is above -0.5 points.
    How far scale and shift moved is the root mean square over all units; after a tenth of the steps it is compared with
    the end as a ratio.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - F. Chollet et al., Keras, 2015, documentation of BatchNormalization, argument scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from normwise.lab.data.splits import digits
from normwise.lab.design import Arms, DenseTraining, Grid, average, by_rate, gap, obstacle, table
from normwise.lab.intervals import ratio
from normwise.lab.networks.dense import glorot, he
from normwise.lab.networks.stack import Stack
from normwise.lab.networks.variants import Shift
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement
from normwise.lab.training.stacks import both
from normwise.lab.verdict import AtLeast, StaysBelow, Within, judge
from normwise.torch import BatchNorm1d

SAYS = "Ioffe & Szegedy 2015, section 3"
TOPIC = "what the layer is"
DATA = DIGITS
ARCHITECTURE = "3 and 10 hidden layers of 64 units"
REGIME = Regime.OWN
TESTS = True
TAKES_DATA = True
GAIN = 0.5
EARLY = 10
"""Steps are looked at after one part of so many."""
ARMS = {"none": "none", "both": "with scale and shift", "shift": "with the shift alone", "neither": "with neither"}
MAKE: dict[str, Callable[[int], nn.Module]] = {
    "both": BatchNorm1d,
    "shift": lambda channels: nn.Sequential(BatchNorm1d(channels, affine=False), Shift(channels)),
    "neither": lambda channels: BatchNorm1d(channels, affine=False),
}
KERAS = "Chollet et al. 2015, documentation of Keras's layer"


@dataclass(frozen=True)
class Settings(DenseTraining):
    """Activations, depths and rates."""

    activations: tuple[str, ...] = ("relu", "sigmoid")
    depths: tuple[int, ...] = (3, 10)
    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    steps: int = 500


QUICK = Settings(depths=(3,), steps=300)
FULL = Settings(steps=3000)


@dataclass(frozen=True)
class Trial:
    """All rates of one network, side by side."""

    activation: str
    depth: int
    arm: str
    seed: int


GRID = Grid(Trial, activation="activations", depth="depths", arm=ARMS, largest_first="depth")
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate, and see how far scale and shift are from 1 and 0 after a tenth of the steps and at last."""
    data, std = digits(trial.seed), he if trial.activation == "relu" else glorot
    stack = settings.stack(trial.seed, MAKE.get(trial.arm), depth=trial.depth, activation=trial.activation, std=std)
    if trial.arm != "both":
        settings.train(stack, data.train, trial.seed)
        return both(stack, data)
    seen: list[tuple[list[float], list[float]]] = []
    early = max(settings.steps // EARLY, 1)
    settings.train(
        stack, data.train, trial.seed, look=lambda _: seen.append(moved(stack)), look_at=(early, settings.steps)
    )
    scale, shift = (np.transpose([each[i] for each in seen]).tolist() for i in (0, 1))
    return both(stack, data) | {"scale": scale, "shift": shift}


def moved(stack: Stack) -> tuple[list[float], list[float]]:
    """The distance of each network's scales from 1 and of its shifts from 0, root mean square over all units."""
    layers = [layer for layer in stack.normalize if isinstance(layer, BatchNorm1d)]
    scales, shifts = ([getattr(layer, name).view(stack.members, -1) for layer in layers] for name in ("weight", "bias"))
    far = (torch.cat(scales, dim=1) - 1, torch.cat(shifts, dim=1))
    scale, shift = (each.square().mean(dim=1).sqrt().tolist() for each in far)
    return scale, shift


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare test accuracies at each arm's best rate, and how far scale and shift have moved."""
    arms = GRID.arms(settings, outcomes)
    groups = arms.by("activation", "depth")
    title = f"Test accuracy after {settings.steps} steps, at every rate"
    return Conclusion(
        statements=tuple(text for group in groups for text in _statements(group)),
        table=table(
            f"Test accuracy in % after {settings.steps} steps, and how far scales are from 1 and shifts from 0 then",
            arms,
            ("activation", lambda arm: arm["activation"]),
            ("hidden layers", lambda arm: arm["depth"]),
            ("batch norm", lambda arm: arm["arm"]),
            ("best rate", lambda arm: arm.rate),
            ("test", lambda arm: arm.percent(2)),
            ("scale moved", lambda arm: _end(arm, "scale")),
            ("shift moved", lambda arm: _end(arm, "shift")),
        ),
        figures=(by_rate(title, groups, "{activation}, {depth} hidden layers"),),
        caveats=(
            "Gradient descent with one rate for all parameters; with another optimizer scale and shift move otherwise.",
            "That a layer can be undone says what the network can represent, not what training finds, which is what "
            "is measured. How deep chains can be is another experiment, do_deeper_chains_train_only_with_several.",
        ),
    )


def _end(arm: Any, what: str) -> str:
    return average(arm.numbers(what)[:, -1], 3) if arm.values["arm"] == "both" else "–"


def _statements(group: Arms) -> Iterator[Statement]:
    activation, depth = group.words["activation"], group.words["depth"]
    name = {"relu": "ReLU"}.get(activation, activation.capitalize())
    of = f"{name}, {depth} layers"
    none, full, shift, neither = (group[each] for each in ARMS)
    text = f"{of}: batch normalization with scale and shift ends no lower than none."
    yield judge(text, gap(full, none), AtLeast(-GAIN, nothing=-GAIN), says="teaching material")
    text = f"{of}: batch normalization with scale and shift ends higher than with neither."
    regime = Regime.OWN if activation == "sigmoid" else Regime.ANOTHER
    yield judge(text, gap(full, neither), AtLeast(GAIN), regime=regime)
    if activation == "relu":
        text = f"{of}: batch normalization with the shift alone is as accurate as with scale and shift."
        yield judge(text, gap(shift, full), Within(-GAIN, GAIN), says=KERAS)
    for what, start in (("scale", 1), ("shift", 0)):
        far = full.numbers(what)
        text = f"{of}: after a tenth of the steps the {what} is at most half as far from {start} as in the end."
        early = ratio(far[:, 0], far[:, -1], "of the distance in the end")
        yield judge(text, early, StaysBelow(0.5), says="teaching material", obstacle=obstacle(full))
