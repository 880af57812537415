"""ResNet50, InceptionV3 and Xception without batch norm: signals and gradients at initialization.

Question:
    Three widely used networks have a batch norm behind every convolution. What are the sizes of the signals and of the
    gradients, layer by layer, in their initial state with it, and what when it is taken out?

Claim:
    Batch normalization "helps with gradient propagation", and ResNet50, InceptionV3 and Xception have much of it
    (Chollet 2017, section 7.3.1); teaching material says that without it gradients vanish or explode. In residual
    networks without it, signals grow with every block (De & Smith 2020); in a network of 110 layers the logarithm of
    the channels' means went from about -1.5 to +3.5, with batch norm it stayed between -1.1 and +0.6 (Bjorck et al.
    2018). Against it: batch norm makes gradients explode at initialization in deep networks without shortcuts (Yang et
    al. 2019), of which InceptionV3 is one.

What would refute it:
    Without batch norm the sizes of signals differ no more from layer to layer than with it, or the gradient changes no
    more on its way from the last layer to the first.

Settings:
    The three networks by their published lists of layers, as many parameters as in the libraries; initial weights of
    He's scale and of Glorot's, biases 0, scales 1 and shifts 0. One batch of 8 parts of 128 x 128 pixels of
    scikit-learn's two photographs, random labels out of 1000, training mode. A layer's signal is the root mean square
    of what the convolution, or the readout, receives; its gradient the norm of the loss's gradient by that; its share
    the norm of the gradient by its weights over the norm of the weights, by which a step would change them. "Range":
    the largest over the smallest of all layers. "Change": the gradient's size at the first layer over that at the
    last one, or the inverse, whichever is above 1.

Verdict:
    Ranges and changes without batch norm over those with it, geometric means over seeds: "more" counts from 10 times
    on. "Within a factor of ten" by the whole interval of the range, in decades.

References:
    - F. Chollet, Deep Learning with Python, Manning, 2017.
    - S. De and S. Smith, Batch Normalization Biases Residual Blocks Towards the Identity Function in Deep Networks,
      2020, arXiv:2002.10444.
    - J. Bjorck, C. Gomes, B. Selman and K. Weinberger, Understanding Batch Normalization, 2018, arXiv:1806.02375.
    - G. Yang et al., A Mean Field Theory of Batch Normalization, 2019, arXiv:1902.08129.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from normwise.lab.data.photographs import crops
from normwise.lab.design import WITH_AND_WITHOUT, Arm, Arms, Grid, average, figure, line, panel, table
from normwise.lab.intervals import Numbers, mean, ratio
from normwise.lab.networks.published import CLASSES, PUBLISHED, published
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Figure, Regime, Statement
from normwise.lab.training.sizes import sizes
from normwise.lab.verdict import AtLeast, StaysBelow, judge
from normwise.torch import BatchNorm2d

SAYS = "Chollet 2017, section 7.3.1"
TOPIC = "optimization"
DATA = "parts of scikit-learn's two photographs"
ARCHITECTURE = "ResNet50, InceptionV3, Xception"
REGIME = Regime.OWN
MORE = AtLeast(10.0, nothing=1.0)
WITHIN = StaysBelow(1.0)
SCALES = {"he": "He", "glorot": "Glorot"}


@dataclass(frozen=True)
class Settings:
    """The networks and the batch."""

    networks: tuple[str, ...] = tuple(PUBLISHED)
    images: int = 8
    size: int = 128
    thin: int = 1


QUICK = Settings(images=4, size=96)
NEIGHBOURING = {"looks": Settings(images=16, size=96), "width": Settings(thin=2)}
"""Another batch; half as many channels."""


@dataclass(frozen=True)
class Trial:
    """One network in its initial state."""

    network: str
    scale: str
    batch_norm: bool
    seed: int


GRID = Grid(Trial, network="networks", scale=SCALES, batch_norm=WITH_AND_WITHOUT)
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Signals and gradients of one batch."""
    norm = BatchNorm2d if trial.batch_norm else None
    model = published(trial.network, norm=norm, scale=trial.scale, seed=trial.seed, thin=settings.thin)
    generator = torch.Generator().manual_seed(trial.seed)
    labels = torch.randint(CLASSES, (settings.images,), generator=generator)
    return sizes(model, crops(settings.images, settings.size, trial.seed), labels)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the ranges with and without batch norm."""
    arms = GRID.arms(settings, outcomes)
    return Conclusion(
        statements=tuple(text for pair in arms.by("network", "scale") for text in _statements(pair)),
        table=table(
            f"Range over all layers in decades, and loss on random labels, of which guessing has {np.log(CLASSES):.1f}",
            arms,
            ("network", lambda arm: arm["network"]),
            ("initial weights", lambda arm: arm["scale"]),
            ("normalization", lambda arm: arm["batch_norm"]),
            ("layers", lambda arm: f"{arm.array('signals').shape[1]}"),
            ("signals", lambda arm: average(decades(arm, "signals"), 1)),
            ("the last over the first", lambda arm: average(_growth(arm), 1)),
            ("gradients", lambda arm: average(decades(arm, "gradients"), 1)),
            ("change of the gradient", lambda arm: average(change(arm), 1)),
            ("shares", lambda arm: average(decades(arm, "shares"), 1)),
            ("loss", lambda arm: average(arm.array("loss"), 1)),
        ),
        figures=(
            _figure(arms, "signals", "Size of what each layer receives, at initialization", "log10 of the size"),
            _figure(arms, "gradients", "Gradients of the loss by that, at initialization", "log10 of the norm"),
            _figure(arms, "shares", "Gradients by the weights over the weights", "log10 of the share"),
        ),
        caveats=(
            "Initial states only. What a network without batch norm does in training also depends on its rate; scales "
            "of the branches that are chosen for it make up for much.",
            "Without batch norm the output is proportional to the weights of a layer, so that weights times gradients "
            "add up to the same in all layers one behind the other: the shares differ little, whatever signals do. "
            "They are shown and not judged, because nobody is known to claim anything of them.",
            "The images are small ones for these networks, and parts of but two photographs.",
            "In the order in which layers are called, branches stand one behind the other; neighbours in the figures "
            "need not follow on each other in the network.",
        ),
    )


def decades(arm: Arm, what: str) -> Numbers:
    """The range over the layers: shape (seeds,)."""
    values = arm.array(what)
    return np.asarray(values.max(axis=1) - values.min(axis=1))


def change(arm: Arm) -> Numbers:
    """The decades between the gradient at the first layer and at the last, in either direction: shape (seeds,)."""
    gradients = arm.array("gradients")
    return np.asarray(abs(gradients[:, 0] - gradients[:, -1]))


def _growth(arm: Arm) -> Numbers:
    signals = arm.array("signals")
    return np.asarray(signals[:, -1] - signals[:, 0])


def _statements(pair: Arms) -> Iterator[Statement]:
    batch_norm, without = pair[True], pair[False]
    where = f"{batch_norm['network']}, weights of {batch_norm['scale']}'s scale"
    residual = batch_norm.values["network"] in ("ResNet50", "Xception")
    with np.errstate(over="ignore"):  # ranges beyond all numbers
        ranges = ratio(10 ** decades(without, "signals"), 10 ** decades(batch_norm, "signals"), "times the range")
        changes = ratio(10 ** change(without), 10 ** change(batch_norm), "times the change")
    text = f"{where}: without batch norm what layers receive differs more in size from layer to layer."
    if residual:
        yield judge(text, ranges, MORE, says="De & Smith 2020")
    else:
        yield judge(text, ranges, MORE, says="Bjorck et al. 2018", regime=Regime.ANOTHER)
    text = f"{where}: without batch norm the gradient changes more in size from the last layer to the first."
    yield judge(text, changes, MORE)
    text = f"{where}: with batch norm what layers receive stays within a factor of ten."
    published = "-1.1 to +0.6, logarithms of channel means, ResNet of 110 layers"
    yield judge(text, mean(decades(batch_norm, "signals"), "decades"), WITHIN, published, "Bjorck et al. 2018")


def _figure(arms: Arms, what: str, title: str, y_label: str) -> Figure:
    panels = []
    for group in arms.where(scale="he").by("network"):
        layers = range(1, next(iter(group)).array(what).shape[1] + 1)
        panels.append(
            panel(group.words["network"], (line(arm["batch_norm"], layers, arm.array(what)) for arm in group))
        )
    caption = "Initial weights of He's scale, training mode, one batch."
    return figure(f"{what}_by_layer", title, panels, x_label="layer", y_label=y_label, caption=caption)
