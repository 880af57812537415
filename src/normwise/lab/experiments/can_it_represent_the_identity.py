"""Can a batch-normalized layer undo its own normalization, so that it loses nothing that a plain one can do?

Question:
    With scale sqrt(Var) and shift E, does batch normalization give back its input: for the same batch, for the next
    batch, and in a whole trained network in inference mode?

Claim:
    "By setting gamma = sqrt(Var[x]) and beta = E[x] we could recover the original activations, if that were the optimal
    thing to do" (Ioffe & Szegedy 2015, section 3). To it: exact only with gamma = sqrt(Var + eps), and only as long as
    the statistics stay what they were.

What would refute it:
    The output differs from the input by more than rounding, 1e-12 standard deviations in float64.

Settings:
    A network without batch normalization, three hidden layers of 64 ReLU units, trained for 200 steps of rate 0.1 with
    batches of 60 of scikit-learn's digits; then batch normalization with eps = 1e-5 is put before each activation, in
    float64, and its scale and shift are set by the formula. Deviations are in units of the input's standard deviation
    (root mean square over images and units of the first layer), or the largest difference between logits. The next
    batch, for the table, is one of 8, 30, 60, 120 or 240 images.

Verdict:
    Identities count as exact up to 1e-12 for a layer and 1e-10 for the logits of the network. What is left without eps
    in the formula, and for the next batch, is in the table; nobody claims that it is nothing.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from normwise.lab.data.splits import batches, digits
from normwise.lab.design import Grid, OneNetwork, average, figure, line, panel
from normwise.lab.intervals import Numbers, largest
from normwise.lab.networks.rewriting import deviation, identity_for, with_identities
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Figure, Regime, Series, Statement, Table
from normwise.lab.verdict import Exact, judge

SAYS = "Ioffe & Szegedy 2015, section 3"
TOPIC = "what the layer is"
DATA = DIGITS
ARCHITECTURE = "3 hidden layers of 64 ReLU units"
REGIME = Regime.OWN
TESTS = True
TAKES_DATA = True
LAYER = 1e-12
NETWORK = 1e-10


@dataclass(frozen=True)
class Settings(OneNetwork):
    """The network, and the batches for which the identity is tried."""

    steps: int = 200
    sizes: tuple[int, ...] = (8, 30, 60, 120, 240)


@dataclass(frozen=True)
class Trial:
    """One trained network."""

    seed: int


trials = Grid(Trial).trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train without batch normalization, put it in as the identity, and see what changes."""
    data = digits(trial.seed)
    plain = settings.train(settings.dense(trial.seed, batch_norm=False), data.train, trial.seed).double().eval()
    first = plain.linear[0]
    next_batch = []
    for size in settings.sizes:
        two = islice(batches(data.train, size, trial.seed), 2)
        this, after = (first(images.double()).detach() for images, _ in two)
        next_batch.append(deviation(identity_for(this, eps_inside=True), after))
    inputs = first(next(batches(data.train, settings.batch, trial.seed))[0].double()).detach()
    with torch.no_grad():
        normalized = with_identities(plain, data.train.images.double())
        test = data.test.images.double()
        logits = float((normalized(test) - plain(test)).abs().max())
    same, off = (deviation(identity_for(inputs, eps_inside=each), inputs) for each in (True, False))
    return {"same_batch": same, "without_eps": off, "next_batch": next_batch, "logits": logits}


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Judge the identities, and show how far the next batch is from them."""
    next_batch = outcomes.array("next_batch")
    rows = [
        ("the same batch, scale sqrt(Var + eps)", f"{outcomes.array('same_batch').max():.1e}"),
        ("the same batch, scale sqrt(Var)", f"{outcomes.array('without_eps').max():.1e}"),
        *((f"the next batch of {size}", average(next_batch[:, i], 3)) for i, size in enumerate(settings.sizes)),
        ("logits of the network, inference", f"{outcomes.array('logits').max():.1e}"),
    ]
    return Conclusion(
        statements=tuple(_statements(outcomes)),
        table=Table(
            "Deviation from the identity, in standard deviations (of the logits: as they are): the largest of "
            f"{len(outcomes)} seeds, for the next batch mean [95 % interval]",
            ("for", "deviation"),
            tuple(rows),
        ),
        figures=(_figure(settings, next_batch),),
        caveats=(
            "That the identity can be represented does not say that training finds it, and while training the "
            "statistics are of another batch at every step, so that scale and shift would have to follow them.",
            "A unit that is the same for all images has no variance, and eps alone decides what becomes of it.",
        ),
    )


def _statements(outcomes: Outcomes) -> Iterator[Statement]:
    text = "With scale sqrt(Var + eps) and shift E of a batch, batch normalization gives the batch back."
    yield judge(text, largest(outcomes.array("same_batch"), "standard deviations"), Exact(LAYER))
    text = "A trained network has the same logits in inference mode when batch normalization is put in as identity."
    says = "Santurkar et al. 2018, observation 4.3: all minima of the plain network survive"
    yield judge(text, largest(outcomes.array("logits"), "logits"), Exact(NETWORK), says=says)


def _figure(settings: Settings, values: Numbers) -> Figure:
    sizes = np.array(settings.sizes, dtype=np.float64)
    noise = values.mean(axis=0)[0] * np.sqrt(sizes[0] / sizes)
    falling = Series("falling with the root of the batch size", tuple(sizes.tolist()), tuple(noise.tolist()))
    lines = (line("the next batch", sizes, values), falling)
    caption = "Scale and shift undo the statistics of one batch; the next has others."
    show = partial(figure, x_label="images per batch", y_label="deviation, standard deviations", caption=caption)
    panels = [panel("first hidden layer, trained", lines)]
    title = "An identity for one batch, met by the next"
    return show("deviation_by_batch_size", title, panels, x_scale="log", y_scale="log")
