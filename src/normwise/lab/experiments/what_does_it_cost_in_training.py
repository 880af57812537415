"""Costs of batch norm in ResNet50, InceptionV3 and Xception: parameters, memory for the backward pass, time of a step.

Question:
    How large is the share of batch norm in the parameters of large networks, in what is kept for the backward pass, and
    in the time of a step of training?

Claim:
    Batch norm adds next to no parameters (teaching material). It adds 30 % to the computation of each iteration
    (Mishkin & Matas 2016, section 1). With activations it takes up to half of the memory of training, which computing
    them again from the output saves (Rota Bulò et al. 2018).

What would refute it:
    Scales and shifts are more than a hundredth of the parameters; without batch norm as much is kept for the backward
    pass; or a step takes as long.

Settings:
    The three networks by their published lists of layers, with this package's batch norm, and without. A step is
    forward, backward and update for 4 parts of 96 x 96 pixels of scikit-learn's photographs, one thread; the network
    with batch norm and the one without take turns, the shortest of 3 steps of each. "Kept" are the bytes of what the
    operations save for the backward pass, each once, without the parameters.

Verdict:
    Ratios with batch norm over without, geometric means over seeds: "more is kept" counts from 1.25 on, "takes longer"
    from 1.1 on. The share of parameters by its whole interval.

References:
    - D. Mishkin and J. Matas, All you need is a good init, 2016, arXiv:1511.06422.
    - S. Rota Bulò, L. Porzi and P. Kontschieder, In-Place Activated BatchNorm for Memory-Optimized Training of DNNs,
      2018, arXiv:1712.02616.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from normwise.lab.data.photographs import crops
from normwise.lab.design import Arm, Arms, Grid, average, figure, geometric, line, panel, table
from normwise.lab.intervals import Numbers, mean, ratio
from normwise.lab.networks.published import CLASSES, PUBLISHED, published
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Figure, Regime, Statement
from normwise.lab.training.cost import kept_for_backward
from normwise.lab.training.timing import in_turns, step_of
from normwise.lab.verdict import AtLeast, StaysBelow, judge
from normwise.torch import BatchNorm2d

SAYS = "teaching material"
TOPIC = "what the layer is"
DATA = "parts of scikit-learn's two photographs"
ARCHITECTURE = "ResNet50, InceptionV3, Xception"
REGIME = Regime.OWN
TIMES = True
FEW = StaysBelow(1.0)
KEPT = AtLeast(1.25, nothing=1.0)
LONGER = AtLeast(1.1, nothing=1.0)
WITH, WITHOUT = range(2)
"""The places of the two networks in what is measured."""


@dataclass(frozen=True)
class Settings:
    """The networks, the batch, and how often a step is timed."""

    networks: tuple[str, ...] = tuple(PUBLISHED)
    images: int = 4
    size: int = 96
    thin: int = 1
    repeats: int = 3


NEIGHBOURING = {"looks": Settings(images=8), "width": Settings(thin=2)}
"""Another batch; half as many channels."""


@dataclass(frozen=True)
class Trial:
    """One network, with batch norm and without."""

    network: str
    seed: int


GRID = Grid(Trial, network="networks")
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Count parameters and bytes, and time steps by turns."""
    make = partial(published, trial.network, scale="he", seed=trial.seed, thin=settings.thin)
    models = [make(norm=norm).train() for norm in (BatchNorm2d, None)]
    images = crops(settings.images, settings.size, trial.seed)
    labels = torch.randint(CLASSES, (len(images),), generator=torch.Generator().manual_seed(trial.seed))
    layers = [module for module in models[WITH].modules() if isinstance(module, BatchNorm2d)]
    own, all_of_them = (
        sum(each.numel() for part in parts for each in part.parameters()) for parts in (layers, models[:1])
    )
    return {
        "parameters": 100 * own / all_of_them,
        "bytes": [kept_for_backward(model, images, labels) for model in models],
        "seconds": in_turns([partial(step_of, model, images, labels) for model in models], settings.repeats),
    }


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Judge parameters, memory and time of each network."""
    arms = GRID.arms(settings, outcomes)
    return Conclusion(
        statements=tuple(text for arm in arms for text in _statements(arm)),
        table=table(
            f"What batch norm costs, for {settings.images} images of {settings.size} x {settings.size}",
            arms,
            ("network", lambda arm: arm["network"]),
            ("scales and shifts, % of the parameters", lambda arm: average(arm.array("parameters"), 2)),
            ("kept for the backward pass, MB", lambda arm: average(arm.array("bytes")[:, WITH] / 1e6, 0)),
            ("over without batch norm", lambda arm: geometric(_over(arm, "bytes"), 2)),
            ("a step, seconds", lambda arm: geometric(arm.array("seconds")[:, WITH], 2)),
            ("over without", lambda arm: geometric(_over(arm, "seconds"), 2)),
            more=", of seconds and ratios the geometric one",
        ),
        figures=(_figure(settings, arms),),
        caveats=(
            "Times are of this machine, one thread of a CPU, and of this package's batch norm in its eager form. On a "
            "GPU, where convolutions are faster, its share of the time is larger.",
            "Batch norms that are fused with their activation, or computed again in the backward pass, keep less.",
        ),
    )


def _over(arm: Arm, what: str) -> Numbers:
    values = arm.array(what)
    return values[:, WITH] / values[:, WITHOUT]


def _statements(arm: Arm) -> Iterator[Statement]:
    network, kept, seconds = arm["network"], arm.array("bytes"), arm.array("seconds")
    text = f"{network}: scales and shifts are at most a hundredth of the parameters."
    yield judge(text, mean(arm.array("parameters"), "% of the parameters"), FEW)
    text = f"{network}: with batch norm more is kept for the backward pass than without."
    more = ratio(kept[:, WITH], kept[:, WITHOUT], "times the bytes")
    yield judge(text, more, KEPT, "up to 50 % less with recomputation, ResNeXt, DeepLab", "Rota Bulò et al. 2018")
    text = f"{network}: with batch norm a step of training takes longer."
    longer = ratio(seconds[:, WITH], seconds[:, WITHOUT], "times the time")
    yield judge(text, longer, LONGER, "30 % more computation for each iteration", "Mishkin & Matas 2016")


def _figure(settings: Settings, arms: Arms) -> Figure:
    places = range(1, len(settings.networks) + 1)
    words = {"bytes": "kept for the backward pass", "seconds": "time of a step"}
    lines = []
    for what, label in words.items():
        lines.append(line(label, places, torch.tensor([_over(arm, what).tolist() for arm in arms]).T.numpy()))
    caption = f"In this order: {', '.join(settings.networks)}."
    title = "What a network takes with batch norm, over what it takes without"
    return figure(
        "ratios",
        title,
        [panel("with batch norm over without", lines, ((1.0, "the same"),))],
        x_label="network",
        y_label="ratio",
        caption=caption,
    )
