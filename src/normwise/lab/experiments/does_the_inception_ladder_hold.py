"""The ladder of figure 2, on a small network: baseline, the same with batch norm, then 5 and 30 times the rate.

Question:
    Does each rung reach the accuracy of the baseline in fewer steps than the one before and end higher, and what is
    owed to batch normalization alone?

Claim:
    Inception reaches 72.2 % after 31.0 million steps; with batch normalization and nothing else changed after 13.3
    million; at 5 times the rate after 2.1 million, which is "14 times fewer", at 30 times after 2.7 million, and ends
    at 72.2, 72.7, 73.0 and 74.8 %. At 5 times the rate the original "reached machine infinity". With sigmoids it stays
    at chance without batch normalization and reaches 69.8 % with it (Ioffe & Szegedy 2015, figures 2 and 3).

What would refute it:
    A rung needs more steps than the one below or ends lower, or the baseline trains at 5 times its rate.

Settings:
    Eight hidden layers of 64 ReLU units in the place of Inception, scikit-learn's digits, batches of 32, 2000 steps.
    The baseline has the rate that was best for it on validation images among 0.05, 0.1 and 0.2; it falls
    exponentially to a tenth, and in the rungs of 5 and 30 times 6 times faster, as in the paper's list; L2 is 5e-4, in
    these rungs 1e-4, a fifth. Dropout, the other normalization and distortions, which the paper also takes away there,
    are not in these networks to begin with. Accuracy to reach: the mean over seeds of the baseline's highest
    validation accuracy, less one point; steps are counted on test images.

Verdict:
    Steps are compared as ratios, paired over seeds, from 1.5 on; a network that does not get there counts with all its
    steps. Ends are the mean of the last tenth of the looks. "Does not train" is reproduced when the accuracy is below
    half.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from normwise.lab.data.splits import CLASSES, digits
from normwise.lab.design import WITH_AND_WITHOUT, DenseTraining, Grid, average, by_pair, figure, line, panel, table
from normwise.lab.design.curves import in_steps, steps_to
from normwise.lab.intervals import Numbers, difference, mean, ratio
from normwise.lab.networks.dense import glorot, he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Figure, Statement, Table
from normwise.lab.training.descent import looks
from normwise.lab.training.watching import Curves
from normwise.lab.verdict import AtLeast, Within, judge

SAYS = "Ioffe & Szegedy 2015, figures 2 and 3"
TOPIC = "optimization"
TAKES_DATA = True
FASTER = 1.5
HIGHER = 0.2
LOST = 50.0
LESS = 0.01
RUNGS = {
    "baseline": (False, 1.0, 1.0),
    "baseline at x5": (False, 5.0, 6.0),
    "BN-Baseline": (True, 1.0, 1.0),
    "BN-x5": (True, 5.0, 6.0),
    "BN-x30": (True, 30.0, 6.0),
}
"""Name -> batch normalization, times the rate, times the speed of its decay."""
SIGMOIDS = {"sigmoid": (False, 5.0, 6.0), "BN-x5-Sigmoid": (True, 5.0, 6.0)}
PUBLISHED = {"BN-Baseline": "31.0 to 13.3 million steps", "BN-x5": "13.3 to 2.1", "BN-x30": "2.1 to 2.7, no fewer"}
ENDS = {"BN-Baseline": "72.2 to 72.7 %", "BN-x5": "72.7 to 73.0 %", "BN-x30": "73.0 to 74.8 %"}


@dataclass(frozen=True)
class Settings(DenseTraining):
    """The network and its baseline."""

    rates: tuple[float, ...] = (0.05, 0.1, 0.2)
    steps: int = 2000
    depth: int = 8
    batch: int = 32
    decay: float = 5e-4


FULL = Settings(rates=(0.02, 0.05, 0.1, 0.2, 0.4), steps=6000)


@dataclass(frozen=True)
class Trial:
    """All rungs with or without batch normalization and of one activation, for every rate of the baseline."""

    activation: str
    batch_norm: bool
    seed: int


trials = Grid(Trial, activation={"relu": "ReLU", "sigmoid": "sigmoid"}, batch_norm=WITH_AND_WITHOUT).trials


def _rungs(trial: Trial) -> dict[str, tuple[bool, float, float]]:
    rungs = RUNGS if trial.activation == "relu" else SIGMOIDS
    return {name: rung for name, rung in rungs.items() if rung[0] == trial.batch_norm}


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train the rungs side by side at every rate, and look at the accuracies: shape (rungs, rates, looks)."""
    data = digits(trial.seed)
    members = [(rung, rate) for rung in _rungs(trial).values() for rate in settings.rates]
    std = he if trial.activation == "relu" else glorot
    stack = settings.stack(trial.seed, trial.batch_norm, members=len(members), activation=trial.activation, std=std)
    speeds = torch.tensor([speed for (_, _, speed), _ in members])
    curves = Curves(stack, data)
    finite = settings.train(
        stack,
        data.train,
        trial.seed,
        rates=[times * rate for (_, times, _), rate in members],
        decay=[settings.decay / (5 if times > 1 else 1) for (_, times, _), _ in members],
        schedule=lambda step: 0.1 ** (speeds * step / settings.steps),
        look=curves,
        look_at=looks(settings.steps),
    )
    return by_pair(curves.found() | {"finite": finite}, list(_rungs(trial)), settings.rates)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the rungs in steps and in where they end."""
    rate = _rate(outcomes)
    curves = _curves(outcomes, rate, "test")
    target = float(_curves(outcomes, rate, "validation")["baseline"].max(axis=1).mean()) - LESS
    return Conclusion(
        statements=tuple(_statements(settings, curves, target)),
        table=_table(settings, outcomes, curves, target, rate),
        figures=(_figure(settings, curves, target),),
        caveats=(
            "The rungs of 5 and 30 times change several things at once, as in the paper; only the step from the "
            "baseline to BN-Baseline is owed to batch normalization alone.",
            "The rate of the baseline is swept coarsely and is the only one that is chosen; the rungs are multiples of "
            "it, which is the claim.",
            "A fully connected network of eight layers on small images is not Inception: it is trained to its limit in "
            "2000 steps, while the ladder was seen on a problem that took weeks.",
            "Looks are 10 % apart, so single numbers of steps are known to 10 %.",
        ),
    )


def _rate(outcomes: Outcomes) -> int:
    """The rate at which the baseline's validation accuracy is highest at the end, in the mean over seeds."""
    validation = outcomes.where(activation="relu", batch_norm=False).array("validation")
    return int(_end(validation[:, 0]).mean(axis=0).argmax())


def _end(curves: Numbers) -> Numbers:
    found: Numbers = curves[..., -max(1, curves.shape[-1] // 10) :].mean(axis=-1)
    return found


def _curves(outcomes: Outcomes, rate: int, name: str) -> dict[str, Numbers]:
    """Accuracies of every rung at that rate of the baseline: shape (seeds, looks)."""
    found = {}
    for activation in ("relu", "sigmoid"):
        for arm in (False, True):
            runs = outcomes.where(activation=activation, batch_norm=arm)
            for i, rung in enumerate(_rungs(Trial(activation, arm, 0))):
                found[rung] = runs.array(name)[:, i, rate]
    return {rung: found[rung] for rung in (*RUNGS, *SIGMOIDS)}


def _statements(settings: Settings, curves: dict[str, Numbers], target: float) -> Iterator[Statement]:
    at = looks(settings.steps)
    steps = {rung: steps_to(target, values, at) for rung, values in curves.items()}
    ends = {rung: 100 * _end(values) for rung, values in curves.items()}
    ladder = ("baseline", "BN-Baseline", "BN-x5", "BN-x30")
    faster = AtLeast(FASTER, nothing=1.0)
    for below, above in pairwise(ladder[:3]):
        text = f"{above} reaches {target:.3f} in fewer steps than {below}."
        yield judge(text, ratio(steps[below], steps[above]), faster, PUBLISHED[above])
    text = f"BN-x5 reaches {target:.3f} in at least {FASTER:g} times fewer steps than the baseline."
    published = "14.8 times, 31.0 to 2.1 million steps"
    yield judge(text, ratio(steps["baseline"], steps["BN-x5"]), faster, published)
    text = f"BN-x30 reaches {target:.3f} later than BN-x5."
    published = "1.3 times, 2.7 against 2.1 million steps"
    yield judge(text, ratio(steps["BN-x30"], steps["BN-x5"]), AtLeast(1.1, nothing=1.0), published)
    for below, above in pairwise(ladder):
        text = f"{above} ends higher than {below}."
        yield judge(text, difference(ends[above], ends[below], "points"), AtLeast(HIGHER), ENDS[above])
    text = "At 5 times its rate the baseline does not train."
    yield judge(text, mean(ends["baseline at x5"], "%"), Within(0.0, LOST), "reached machine infinity")
    text = "With sigmoids the network does not train without batch normalization."
    yield judge(text, mean(ends["sigmoid"], "%"), Within(0.0, LOST), "never better than .1 %")
    text = "With sigmoids the network trains with batch normalization (BN-x5-Sigmoid)."
    yield judge(text, mean(ends["BN-x5-Sigmoid"], "%"), AtLeast(90.0, nothing=LOST), "69.8 %")


def _table(settings: Settings, outcomes: Outcomes, curves: dict[str, Numbers], target: float, rate: int) -> Table:
    at, finite = looks(settings.steps), _curves(outcomes, rate, "finite")
    return table(
        f"Steps to a test accuracy of {target:.3f} out of {settings.steps}, and test accuracies in %",
        curves,
        ("rung", lambda rung: rung),
        ("initial rate", lambda rung: f"{(RUNGS | SIGMOIDS)[rung][1] * settings.rates[rate]:g}"),
        ("steps", lambda rung: in_steps(curves[rung], target, at)),
        ("got there", lambda rung: _count(curves[rung].max(axis=1) >= target)),
        ("highest", lambda rung: average(100 * curves[rung].max(axis=1), 1)),
        ("end", lambda rung: average(100 * _end(curves[rung]), 1)),
        ("diverged", lambda rung: _count(finite[rung] == 0)),
        seeds=len(curves["baseline"]),
        more=", of the steps the geometric one",
    )


def _count(seeds: npt.NDArray[np.bool_]) -> str:
    return f"{int(seeds.sum())} of {len(seeds)}"


def _figure(settings: Settings, curves: dict[str, Numbers], target: float) -> Figure:
    marks = ((target, f"{target:.3f}"), (1 / CLASSES, "guessing"))
    panels = (
        panel(title, (line(rung, looks(settings.steps), curves[rung]) for rung in rungs), marks)
        for title, rungs in (("ReLU", RUNGS), ("sigmoid", SIGMOIDS))
    )
    return figure(
        "ladder",
        "Test accuracy against steps, rung by rung",
        panels,
        x_label="steps",
        caption="The analogue of figures 2 and 3.",
        x_scale="log",
    )
