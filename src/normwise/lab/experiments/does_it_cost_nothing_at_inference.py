"""Is a trained batch normalization one linear map, which the layer in front of it can take over?

Question:
    Does a network give the same logits when each batch normalization is folded into the linear layer in front of it,
    and what does the layer do in training to a batch of one example?

Claim:
    In inference y = gamma / sqrt(Var + eps) x + (beta - gamma E / sqrt(Var + eps)), "simply a linear transform applied
    to each activation" (Ioffe & Szegedy 2015, section 3.1 and algorithm 2, line 11), so that it can be composed with
    the layer in front of it. In training mode a batch of one example is beta, whatever the example (Irpan, On the
    Perils of Batch Norm, 2017).

What would refute it:
    The folded network's logits differ by more than rounding, or its accuracy at all.

Settings:
    Three hidden layers of 64 ReLU units with batch normalization, trained for 300 steps of rate 0.1 with batches of 60
    of scikit-learn's digits; folded by the formula, in float64 and in float32. The time is that of inference for 1, 10,
    100 and 450 images, one thread, the median of 50 calls; the statement is about 450. The batch of one is a test
    image's input to the first normalization, by the formula in float64.

Verdict:
    The identities are exact up to 1e-10 in float64 and 1e-4 in float32, relative to the largest logit; the batch of one
    up to 0. The accuracy is exact when no test image changes its class. "Saves time" is reproduced when the ratio is at
    least 1.05 with an interval above 1.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - A. Irpan, On the Perils of Batch Norm, 2017, alexirpan.com/2017/04/26/perils-batch-norm.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normwise.kernels import reference
from normwise.lab.data.splits import digits, sizes
from normwise.lab.design import Grid, OneNetwork, average, figure, line, panel
from normwise.lab.intervals import cell, largest, ratio
from normwise.lab.networks.dense import Dense
from normwise.lab.networks.rewriting import folded
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Figure, Regime, Statement, Table
from normwise.lab.training.timing import median_seconds
from normwise.lab.verdict import AtLeast, Exact, judge
from normwise.torch import BatchNorm1d

SAYS = "Ioffe & Szegedy 2015, section 3.1"
TOPIC = "what the layer is"
DATA = DIGITS
ARCHITECTURE = "3 hidden layers of 64 ReLU units"
REGIME = Regime.OWN
TAKES_DATA = True
TIMES = True
DOUBLE = 1e-10
SINGLE = 1e-4
SAVES = 1.05
PRECISIONS = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True)
class Settings(OneNetwork):
    """The network, and how often it is timed."""

    sizes: tuple[int, ...] = (1, 10, 100, 450)
    repeats: int = 50


@dataclass(frozen=True)
class Trial:
    """One trained network."""

    seed: int


trials = Grid(Trial).trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train, fold, and compare logits, classes and times."""
    data = digits(trial.seed)
    model = settings.train(settings.dense(trial.seed), data.train, trial.seed).eval()
    plain = folded(model)
    found: dict[str, Any] = {}
    with torch.no_grad():
        found["seconds"] = [
            [median_seconds(partial(each, data.test.images[:size]), settings.repeats) for size in settings.sizes]
            for each in (model, deepcopy(plain).float())
        ]
        for name, dtype in PRECISIONS.items():
            one, two = (deepcopy(each).to(dtype)(data.test.images.to(dtype)) for each in (model, plain))
            found[name] = float((one - two).abs().max() / one.abs().max())
            found[f"changed_{name}"] = int((one.argmax(dim=1) != two.argmax(dim=1)).sum())
    return found | {"batch_of_one": _batch_of_one(model, data.test.images[:1])}


def _batch_of_one(model: Dense, image: Tensor) -> float:
    """Largest difference to the shift of what the first normalization makes of one image in training mode."""
    layer = model.normalize[0]
    assert isinstance(layer, BatchNorm1d)
    with torch.no_grad():
        x = model.linear[0](image.to(model.readout.weight.dtype)).double()
    scale, shift = (each.detach().double().numpy() for each in (layer.weight, layer.bias))
    y, _ = reference.forward_batch(x.numpy(), scale, shift, layer.eps)
    return float(np.abs(y - shift).max())


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Judge the identities and the time."""
    return Conclusion(
        statements=tuple(_statements(settings, outcomes)),
        table=_table(settings, outcomes),
        figures=(_figure(settings, outcomes),),
        caveats=(
            "In float32 the two round differently; which of them is nearer to the truth is chance.",
            "What folding saves depends on how much of a network's time is normalization: little for dense layers of "
            "many units, much for convolutions with few channels. Times are of this machine.",
            "A batch norm behind the activation, or behind a sum, has no linear layer in front of it to fold into.",
        ),
    )


def _statements(settings: Settings, outcomes: Outcomes) -> Iterator[Statement]:
    seconds, last, relative = outcomes.array("seconds"), len(settings.sizes) - 1, "of the largest logit"
    text = "In float64 the folded network has the same logits."
    yield judge(text, largest(outcomes.array("float64"), relative), Exact(DOUBLE))
    text = "In float32 the folded network has the same logits up to its rounding."
    yield judge(text, largest(outcomes.array("float32"), relative), Exact(SINGLE))
    text = "In float32 no test image changes its class by folding."
    yield judge(text, largest(outcomes.array("changed_float32"), "images"), Exact(0.0))
    text = f"The folded network is faster for {settings.sizes[last]} images."
    faster = ratio(seconds[:, 0, last], seconds[:, 1, last], "times faster")
    yield judge(text, faster, AtLeast(SAVES, nothing=1.0))
    text = "In training mode a batch of one example becomes the shift, whatever the example."
    yield judge(text, largest(outcomes.array("batch_of_one"), "difference"), Exact(0.0), says="Irpan 2017")


def _table(settings: Settings, outcomes: Outcomes) -> Table:
    rows = [
        (f"logits, {name}", f"{outcomes.array(name).max():.1e} of the largest logit at most") for name in PRECISIONS
    ]
    rows += [
        (
            f"classes of {sizes()[2]} test images, {name}",
            f"{outcomes.array(f'changed_{name}').max():.0f} changed at most",
        )
        for name in PRECISIONS
    ]
    seconds = outcomes.array("seconds")
    for i, size in enumerate(settings.sizes):
        times = cell(ratio(seconds[:, 0, i], seconds[:, 1, i]), 2)
        rows.append((f"time for {size} images, with normalization over folded", times))
    both = average(1e6 * seconds[:, 1, -1], 0)
    rows.append((f"time for {settings.sizes[-1]} images, folded, microseconds", both))
    caption = (
        "The folded network against the normalized one: the largest, or the mean [95 % interval], over "
        f"{len(outcomes)} seeds"
    )
    return Table(caption, ("of", "found"), tuple(rows))


def _figure(settings: Settings, outcomes: Outcomes) -> Figure:
    seconds = 1e6 * outcomes.array("seconds")
    lines = (line(words, settings.sizes, seconds[:, i]) for i, words in enumerate(("with batch norm", "folded")))
    panels = [panel("64-3×64-10, ReLU", lines)]
    title, caption = "Time of inference, before and after folding", "Three hidden layers of 64 units, one thread."
    show = partial(figure, x_label="images", y_label="microseconds", x_scale="log", y_scale="log")
    return show("time_by_images", title, panels, caption=caption)
