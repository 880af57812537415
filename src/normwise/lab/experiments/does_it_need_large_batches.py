"""How small may the batches be that are normalized together, and do the alternatives mind?

Question:
    How much accuracy does batch normalization lose when a layer's statistics are of 64, 16, 8, 4 or 2 images, with
    everything else the same; and do batch renormalization and layer normalization lose less, where the batch itself is
    small?

Claim:
    Batch norm needs large batches: ResNet-50's error is 23.6 % with 32 images a GPU and 34.7 % with 2, group norm's
    24.1 and 24.1 (Wu & He 2018). Some of it is inference: with exact statistics 32.0 instead of 35.5 % (Wu & Johnson
    2021, table 2). Batch renormalization keeps 76.5 % with micro-batches of 4, batch norm 74.2 (Ioffe 2017).

What would refute it:
    Statistics of 2 images cost less than 2 points; or the alternatives lose as much.

Settings:
    scikit-learn's digits, three hidden layers of 64 ReLU units; the best of the rates 0.03, 0.1, 0.3 and 1 for each arm
    on validation images. Parts: 600 steps of 64 images, of which 64, 16, 8, 4 or 2 are normalized together, so that
    nothing but the statistics changes. Batches: 800 steps of 32, 4 or 2 images, with batch norm, batch renormalization
    (r up to 3, d up to 5, plain for the first 100 steps), layer norm, and none. Exact statistics are those of all
    training images in the final network.

Verdict:
    Differences of test accuracy, paired over seeds. A loss counts from 2 points on; "no worse" when the whole interval
    lies above -1 point.

References:
    - Y. Wu and K. He, Group Normalization, 2018, arXiv:1803.08494.
    - Y. Wu and J. Johnson, Rethinking "Batch" in BatchNorm, 2021, arXiv:2105.07576.
    - S. Ioffe, Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized Models, 2017,
      arXiv:1702.03275.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normwise.lab.data import digits
from normwise.lab.models import he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Figure, Panel, Series, Statement, Table
from normwise.lab.stack import Ghost, Normalization, Stack, batch_norm
from normwise.lab.stack_training import accuracies, at_best, best, train_stack
from normwise.lab.statistics import Numbers, band, cell, difference, mean
from normwise.lab.verdict import AtLeast, judge
from normwise.torch import BatchRenorm1d, LayerNorm, RenormSchedule
from normwise.torch.models.recalibration.recalibrate import recalibrate

SAYS = "Wu & He 2018; Wu & Johnson 2021, table 2"
TOPIC = "batch size and alternatives"
TAKES_DATA = True
LOSS = 2.0
WORSE = -1.0
ARMS = {"batch": "batch norm", "renorm": "batch renormalization", "layer": "layer norm", "none": "none"}


@dataclass(frozen=True)
class Settings:
    """The sizes, and the network."""

    parts: tuple[int, ...] = (64, 16, 8, 4, 2)
    batches: tuple[int, ...] = (32, 4, 2)
    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    of: int = 64
    """Images per step, where parts of them are normalized."""
    part_steps: int = 600
    batch_steps: int = 800
    depth: int = 3
    width: int = 64


FULL = Settings(
    parts=(64, 32, 16, 8, 4, 2), batches=(128, 32, 8, 4, 2), rates=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0), batch_steps=4000
)


@dataclass(frozen=True)
class Trial:
    """All rates of one arm, side by side; ``part`` is what is normalized together, ``batch`` what a step takes."""

    arm: str
    batch: int
    part: int
    seed: int


def trials(settings: Settings, seeds: Sequence[int]) -> list[Trial]:
    """Every size of part, every arm with every size of batch, with every seed."""
    parts = [Trial("parts", settings.of, part, seed) for part in settings.parts for seed in seeds]
    return parts + [Trial(arm, batch, batch, seed) for batch in settings.batches for arm in ARMS for seed in seeds]


class LayerNorms(nn.Module):
    """Layer norm of every member of a stack: over the units of one network, for each image by itself."""

    def __init__(self, members: int, channels: int) -> None:
        super().__init__()
        self.members = members
        self.normalize = LayerNorm(channels // members, elementwise_affine=False)
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (1, channels, images) in and out."""
        y: Tensor = self.normalize(x.view(self.members, -1, x.shape[2]).transpose(1, 2)).transpose(1, 2)
        return y.reshape(x.shape) * self.weight[:, None] + self.bias[:, None]


def normalization(trial: Trial, settings: Settings) -> Normalization | None:
    """What makes the layers of an arm."""
    members, steps = len(settings.rates), settings.batch_steps
    schedule = RenormSchedule(warm_up=steps // 8, r_full=steps // 2, d_full=steps // 3)
    makes: dict[str, Normalization | None] = {
        "parts": lambda channels: Ghost(channels, trial.part),
        "batch": batch_norm,
        "renorm": lambda channels: BatchRenorm1d(channels, momentum=0.05, schedule=schedule),
        "layer": lambda channels: LayerNorms(members, channels),
        "none": None,
    }
    return makes[trial.arm]


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate; measure by moving averages and by exact statistics."""
    data = digits(trial.seed)
    stack = Stack(
        len(settings.rates),
        depth=settings.depth,
        width=settings.width,
        activation="relu",
        normalize=normalization(trial, settings),
        std=he,
        seed=trial.seed,
    )
    steps = settings.part_steps if trial.arm == "parts" else settings.batch_steps
    train_stack(stack, data.train, rates=settings.rates, steps=steps, batch=trial.batch, seed=trial.seed)
    found = {"validation": accuracies(stack, data.validation), "test": accuracies(stack, data.test)}
    if trial.arm in ("parts", "batch", "renorm"):
        recalibrate(stack, [data.train.images])
        found["exact_validation"] = accuracies(stack, data.validation)
        found["exact_test"] = accuracies(stack, data.test)
    return found


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare sizes, ways of inference, and arms, each at its best rate."""
    return Conclusion(
        statements=tuple(_statements(settings, outcomes)),
        table=_table(settings, outcomes),
        figures=_figures(settings, outcomes),
        caveats=(
            "Dense layers: a layer's statistics are of as many values as there are images, and of 2 values only the "
            "order is left, 1 and -1 before scale and shift. In a convolution 2 images are many more values.",
            f"Batches of every size get {settings.batch_steps} steps, so that small ones see fewer images: arms are "
            "compared at one size, sizes only in parts of a batch.",
        ),
    )


def _points(outcomes: Outcomes, arm: str, part: int, *, exact: bool = False) -> Numbers:
    found = outcomes.where(arm=arm, part=part)
    if not exact:
        return 100 * at_best(found)
    return 100 * found.array("exact_test")[:, best(found, "exact_validation")]


def _statements(settings: Settings, outcomes: Outcomes) -> list[Statement]:
    found = []
    whole = _points(outcomes, "parts", settings.parts[0])
    resnet = {2: "34.7 against 23.6 % error with 2 against 32, ResNet-50", 4: "27.3 against 23.6 %"}
    for part in settings.parts[1:]:
        text = f"Statistics of {part} of {settings.of} images instead of all cost accuracy."
        gap = difference(whole, _points(outcomes, "parts", part), "points")
        found.append(judge(text, gap, AtLeast(LOSS), resnet.get(part, "")))
    part = settings.parts[-1]
    text = f"Exact statistics at inference give back some of what statistics of {part} images cost."
    gap = difference(_points(outcomes, "parts", part, exact=True), _points(outcomes, "parts", part), "points")
    found.append(judge(text, gap, AtLeast(1.0), "32.0 instead of 35.5 % error, ResNet-50"))
    smallest = settings.batches[-1]
    published = {
        "renorm": "76.5 against 74.2 % with micro-batches of 4, Inception",
        "layer": "group norm: 24.1 against 34.7 %",
    }
    for arm in ("renorm", "layer", "none"):
        words = "no normalization" if arm == "none" else ARMS[arm]
        text = f"With batches of {smallest}, {words} is better than batch norm."
        gap = difference(_points(outcomes, arm, smallest), _points(outcomes, "batch", smallest), "points")
        found.append(judge(text, gap, AtLeast(LOSS), published.get(arm, "")))
    largest = settings.batches[0]
    for arm in ("renorm", "layer"):
        text = f"With batches of {largest}, batch norm is no worse than {ARMS[arm]}."
        gap = difference(_points(outcomes, "batch", largest), _points(outcomes, arm, largest), "points")
        found.append(judge(text, gap, AtLeast(WORSE, nothing=WORSE)))
    return found


def _table(settings: Settings, outcomes: Outcomes) -> Table:
    rows = []
    keys = [("parts", part) for part in settings.parts]
    keys += [(arm, batch) for batch in settings.batches for arm in ARMS]
    for arm, part in keys:
        found = outcomes.where(arm=arm, part=part)
        known = "exact_test" in next(iter(found))[1]
        rows.append(
            (
                f"batch norm, parts of {settings.of}" if arm == "parts" else ARMS[arm],
                str(part),
                f"{settings.rates[best(found)]:g}",
                cell(mean(_points(outcomes, arm, part), "%"), 1),
                cell(mean(_points(outcomes, arm, part, exact=True), "%"), 1) if known else "",
            )
        )
    n = len(outcomes.where(arm="parts", part=settings.parts[0]))
    caption = f"Test accuracy in %. Mean [95 % interval] over {n} seeds"
    return Table(caption, ("normalization", "images", "rate", "moving averages", "exact statistics"), tuple(rows))


def _figures(settings: Settings, outcomes: Outcomes) -> tuple[Figure, ...]:
    def line(label: str, arm: str, sizes: tuple[int, ...], *, exact: bool = False) -> Series:
        values = torch.tensor([(_points(outcomes, arm, size, exact=exact) / 100).tolist() for size in sizes]).T.numpy()
        return Series(label, tuple(float(size) for size in sizes), *(tuple(part) for part in band(values)))

    panels = (
        Panel(
            f"parts of a batch of {settings.of}",
            (
                line("batch norm", "parts", settings.parts),
                line("batch norm, exact statistics", "parts", settings.parts, exact=True),
            ),
        ),
        Panel("whole batches", tuple(line(words, arm, settings.batches) for arm, words in ARMS.items())),
    )
    return (
        Figure(
            name="accuracy_by_size",
            title="Test accuracy by how many images are normalized together",
            caption="Each at its best rate on validation images. On the right smaller batches see fewer images. Line: "
            "mean over seeds; band: smallest to largest.",
            x_label="images",
            y_label="test accuracy",
            panels=panels,
            x_scale="log",
        ),
    )
