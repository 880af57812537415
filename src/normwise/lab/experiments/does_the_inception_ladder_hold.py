"""The ladder of figure 2, on a small network: baseline, the same with batch norm, then 5 and 30 times the rate.

Question:
    Does each rung reach the accuracy of the baseline in fewer steps than the one before and end higher, and what is
    owed to batch normalization alone?

Claim:
    Inception reaches 72.2 % after 31.0 million steps; with batch normalization and nothing else changed after 13.3
    million; at 5 times the rate after 2.1 million, which is "14 times fewer", at 30 times after 2.7 million, and ends
    at 72.2, 72.7, 73.0 and 74.8 %. At 5 times the rate the parameters of the original "reach machine infinity". With
    sigmoids it stays at chance without batch normalization and reaches 69.8 % with it (Ioffe & Szegedy 2015, section
    4.2.2, figures 2 and 3).

What would refute it:
    A rung needs more steps than the one below or ends lower, or the baseline trains at 5 times its rate.

Settings:
    Eight hidden layers of 64 ReLU units in the place of Inception, scikit-learn's digits, batches of 32, 2000 steps.
    The baseline has the rate that was best for it on validation images among seven from 0.0125 to 0.8, each twice the
    one before; it falls exponentially to a tenth, and in the rungs of 5 and 30 times 6 times faster, as in the paper's
    list; L2 is 5e-4, in these rungs 1e-4, a fifth. Dropout, the other normalization and distortions, which the paper
    also takes away there, are not in these networks to begin with. Accuracy to reach: the mean over seeds of the
    baseline's highest validation accuracy, less one point; steps are counted on test images.

Verdict:
    Steps are compared as ratios, paired over seeds, "fewer" from 1.5 on, "later" from 1.1 on; a network that does not
    get there counts with all its steps. Ends are the accuracies after the last step, "higher" from .2 points on. "Does
    not train" is reproduced when the whole interval is at 50 % or below, "trains" from 90 % on with an interval above
    50 %.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from normwise.lab.data.splits import digits
from normwise.lab.design import WITH_AND_WITHOUT, DenseTraining, Grid, Looks, by_pair
from normwise.lab.design.arms import TIE, at_an_edge, pick
from normwise.lab.design.ladder import RUNGS, Climb, diverged, rungs_of, target_of
from normwise.lab.intervals import Numbers
from normwise.lab.networks.dense import glorot, he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime
from normwise.lab.training.watching import Curves

SAYS = "Ioffe & Szegedy 2015, figures 2 and 3"
TOPIC = "optimization"
DATA = DIGITS
ARCHITECTURE = "8 hidden layers of 64 units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
PUBLISHED = {"BN-Baseline": "31.0 to 13.3 million steps", "BN-x5": "13.3 to 2.1"}


@dataclass(frozen=True)
class Settings(Looks, DenseTraining):
    """The network and its baseline."""

    rates: tuple[float, ...] = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
    steps: int = 2000
    depth: int = 8
    batch: int = 32
    decay: float = 5e-4


FULL = Settings(steps=6000)


@dataclass(frozen=True)
class Trial:
    """All rungs with or without batch normalization and of one activation, for every rate of the baseline."""

    activation: str
    batch_norm: bool
    seed: int


trials = Grid(Trial, activation={"relu": "ReLU", "sigmoid": "sigmoid"}, batch_norm=WITH_AND_WITHOUT).trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train the rungs side by side at every rate, and look at the accuracies: shape (rungs, rates, looks)."""
    data = digits(trial.seed)
    rungs = rungs_of(batch_norm=trial.batch_norm, activation=trial.activation)
    members = [(rung, rate) for rung in rungs.values() for rate in settings.rates]
    std = he if trial.activation == "relu" else glorot
    stack = settings.stack(trial.seed, trial.batch_norm, members=len(members), activation=trial.activation, std=std)
    speeds = torch.tensor([rung.speed for rung, _ in members])
    curves = Curves(stack, data)
    finite = settings.train(
        stack,
        data.train,
        trial.seed,
        rates=[rung.times * rate for rung, rate in members],
        decay=[rung.weight_decay(settings.decay) for rung, _ in members],
        schedule=lambda step: 0.1 ** (speeds * step / settings.steps),
        look=curves,
        look_at=settings.looks(),
    )
    return by_pair(curves.found() | {"finite": finite}, list(rungs), settings.rates)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the rungs in steps and in where they end."""
    baseline = outcomes.where(activation="relu", batch_norm=False).array("validation")[:, 0]
    ends_highest = baseline[..., -1].mean(axis=0)  # on validation images, at every rate
    rate = pick(ends_highest, TIE, ends_highest)
    curves, target = _of_rungs(outcomes, rate, "test"), target_of(baseline[:, rate])
    ends = {rung: values[:, -1] for rung, values in curves.items()}
    edge = at_an_edge(np.array([rate]), settings.rates)
    climb = Climb(curves, ends, target, settings.looks(), settings.rates[rate], PUBLISHED, edge)
    return Conclusion(
        statements=tuple(climb.statements()),
        table=climb.table(diverged(_of_rungs(outcomes, rate, "finite")), tried=len(settings.rates)),
        figures=(climb.figure(),),
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


def _of_rungs(outcomes: Outcomes, rate: int, name: str) -> dict[str, Numbers]:
    """The measurements of every rung at that rate of the baseline: shape (seeds, ...)."""
    found = {}
    for place, rung in RUNGS.items():
        runs = outcomes.where(batch_norm=rung.batch_norm, activation=rung.activation)
        row = list(rungs_of(batch_norm=rung.batch_norm, activation=rung.activation)).index(place)
        found[place] = np.asarray(runs.array(name)[:, row, rate])
    return found
