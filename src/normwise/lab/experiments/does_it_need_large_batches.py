"""The smallest batches that may be normalized together, with batch norm and with its alternatives.

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
    scikit-learn's digits, three hidden layers of 64 ReLU units; the best of the rates 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3
    and 10 for each arm on validation images. Parts: 600 steps of 64 images, of which 64, 16, 8, 4 or 2 are normalized
    together, so that nothing but the statistics changes. Batches: 800 steps of 32, 4 or 2 images, with batch norm,
    batch renormalization (r up to 3, d up to 5, plain for the first 100 steps), layer norm, and none. Exact statistics
    are those of all training images in the final network.

Verdict:
    Differences of test accuracy, paired over seeds. A loss counts from 2 points on; "no worse" when the whole interval
    lies above -1 point.

References:
    - Y. Wu and K. He, Group Normalization, 2018, arXiv:1803.08494.
    - Y. Wu and J. Johnson, Rethinking "Batch" in BatchNorm, 2021, arXiv:2105.07576.
    - S. Ioffe, Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized Models, 2017,
      arXiv:1702.03275.
    - J. Ba, J. Kiros and G. Hinton, Layer Normalization, 2016, arXiv:1607.06450.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from normwise.lab.data.splits import digits
from normwise.lab.design import Arm, Rates, figure, gap, line, obstacle, panel, table
from normwise.lab.design.arms import most_accurate
from normwise.lab.intervals import difference
from normwise.lab.networks.stack import Ghost, Normalization, Stack, batch_norm
from normwise.lab.networks.variants import LayerNorms
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Figure, Regime, Series, Statement
from normwise.lab.training.stacks import accuracies, both, train_stack
from normwise.lab.verdict import AtLeast, judge
from normwise.torch import BatchRenorm1d, RenormSchedule
from normwise.torch.models.recalibration.recalibrate import recalibrate

SAYS = "Wu & He 2018; Wu & Johnson 2021, table 2"
TOPIC = "batch size and alternatives"
DATA = DIGITS
ARCHITECTURE = "3 hidden layers of 64 ReLU units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
LOSS = 2.0
WORSE = -1.0
ARMS = {"batch": "batch norm", "renorm": "batch renormalization", "layer": "layer norm", "none": "none"}
RECALIBRATED = ("parts", "batch", "renorm")
"""The arms with running statistics, which are also measured by exact ones."""


@dataclass(frozen=True)
class Settings(Rates):
    """The sizes, and the network."""

    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    parts: tuple[int, ...] = (64, 16, 8, 4, 2)
    batches: tuple[int, ...] = (32, 4, 2)
    of: int = 64
    """Images per step, where parts of them are normalized."""
    part_steps: int = 600
    batch_steps: int = 800
    depth: int = 3
    width: int = 64


FULL = Settings(parts=(64, 32, 16, 8, 4, 2), batches=(128, 32, 8, 4, 2), batch_steps=4000)


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


def normalization(trial: Trial, settings: Settings) -> Normalization | None:
    """The function that makes the normalization layers of an arm; None for the arm without any."""
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
    layer, members = normalization(trial, settings), len(settings.rates)
    stack = Stack(members, depth=settings.depth, width=settings.width, normalize=layer, seed=trial.seed)
    steps = settings.part_steps if trial.arm == "parts" else settings.batch_steps
    train_stack(stack, data.train, rates=settings.rates, steps=steps, batch=trial.batch, seed=trial.seed)
    found = both(stack, data)
    if trial.arm in RECALIBRATED:
        recalibrate(stack, [data.train.images])
        found["exact_validation"] = accuracies(stack, data.validation)
        found["exact_test"] = accuracies(stack, data.test)
    return found


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare sizes, ways of inference, and arms, each at its best rate."""

    def arm(name: str, size: int, *, exact: bool = False) -> Arm:
        runs = outcomes.where(arm=name, part=size)
        choose = partial(most_accurate, what="exact_validation") if exact else None
        return Arm({}, {"arm": name, "images": f"{size} images"}, runs, settings.rates, choose=choose)

    def exact(row: tuple[str, int]) -> str:
        return arm(*row, exact=True).percent(1, "exact_test") if row[0] in RECALIBRATED else ""

    rows = [("parts", part) for part in settings.parts]
    rows += [(name, batch) for batch in settings.batches for name in ARMS]
    return Conclusion(
        statements=tuple(_statements(settings, arm)),
        table=table(
            "Test accuracy in %",
            rows,
            ("normalization", lambda row: ARMS.get(row[0], f"batch norm, parts of {settings.of}")),
            ("images", lambda row: str(row[1])),
            ("rate", lambda row: arm(*row).rate),
            ("moving averages", lambda row: arm(*row).percent(1)),
            ("exact statistics", exact),
            seeds=len(arm(*rows[0])),
            tried=len(settings.rates),
        ),
        figures=(_figure(settings, arm),),
        caveats=(
            "Dense layers: a layer's statistics are of as many values as there are images, and of 2 values only the "
            "order is left, 1 and -1 before scale and shift. In a convolution 2 images are many more values.",
            f"Batches of every size get {settings.batch_steps} steps, so that small ones see fewer images: arms are "
            "compared at one size, sizes only in parts of a batch.",
        ),
    )


def _statements(settings: Settings, arm: Callable[..., Arm]) -> Iterator[Statement]:
    whole, last = settings.parts[0], settings.parts[-1]
    resnet = {2: "34.7 against 23.6 % error with 2 against 32, ResNet-50", 4: "27.3 against 23.6 %"}
    for part in settings.parts[1:]:
        text = f"Statistics of {part} of {settings.of} images instead of all cost accuracy."
        yield judge(text, gap(arm("parts", whole), arm("parts", part)), AtLeast(LOSS), resnet.get(part, ""))
    text = f"Exact statistics at inference give back some of what statistics of {last} images cost."
    exact, averages = arm("parts", last, exact=True), arm("parts", last)
    back, edge = difference(exact.points("exact_test"), averages.points(), "points"), obstacle(exact, averages)
    yield judge(text, back, AtLeast(1.0), "32.0 instead of 35.5 % error, ResNet-50", obstacle=edge)
    largest, smallest = settings.batches[0], settings.batches[-1]
    inception = "76.5 against 74.2 % with micro-batches of 4, Inception"
    better = {
        "renorm": (inception, "Ioffe 2017"),
        "layer": ("at 4 images about 1.5 % error against 1.7 to 2.5 % (read off the figure, MNIST)", "Ba et al. 2016"),
        "none": ("41.1 against 30.7 AP at one image a GPU, Mask R-CNN", "Wu & Johnson 2021, table 3"),
    }
    for name, (published, says) in better.items():
        words = "no normalization" if name == "none" else ARMS[name]
        text = f"With batches of {smallest}, {words} is better than batch norm."
        lead = gap(arm(name, smallest), arm("batch", smallest))
        yield judge(text, lead, AtLeast(LOSS), published, says)
    as_good = {
        "renorm": ("78.3 against 78.5 %, Inception", "Ioffe 2017"),
        "layer": ("23.6 against 25.3 % error, ResNet-50", "Wu & He 2018"),
    }
    for name, (published, says) in as_good.items():
        text = f"With batches of {largest}, batch norm is no worse than {ARMS[name]}."
        lead = gap(arm("batch", largest), arm(name, largest))
        yield judge(text, lead, AtLeast(WORSE, nothing=WORSE), published, says)


def _figure(settings: Settings, arm: Callable[..., Arm]) -> Figure:
    def by_size(label: str, name: str, sizes: Sequence[int], *, exact: bool = False) -> Series:
        points = [arm(name, size, exact=exact).points("exact_test" if exact else "test") for size in sizes]
        single: Any = (np.array(points) / 100).astype(np.float32).T  # as these lines have always been
        return line(label, sizes, single)

    part = ("parts", settings.parts)
    parts = by_size("batch norm", *part), by_size("batch norm, exact statistics", *part, exact=True)
    whole = (by_size(words, name, settings.batches) for name, words in ARMS.items())
    panels = panel(f"parts of a batch of {settings.of}", parts), panel("whole batches", whole)
    title = "Test accuracy by how many images are normalized together"
    caption = "Each at its best rate on validation images. On the right smaller batches see fewer images."
    return figure("accuracy_by_size", title, panels, x_label="images", caption=caption, x_scale="log")
