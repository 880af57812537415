"""Does the noise of batch statistics regularize, and does it make dropout superfluous?

Question:
    On data that a network can memorize, does normalizing by smaller parts of the batch give a better test accuracy, and
    is batch normalization then as good as dropout?

Claim:
    "A training example is seen in conjunction with other examples in the mini-batch [...] we found this effect to be
    advantageous to the generalization of the network. Whereas Dropout [...] is typically used to reduce overfitting, in
    a batch-normalized network we found that it can be either removed or reduced in strength" (Ioffe & Szegedy 2015,
    section 3.4). To it: the error of ResNet-50 on ImageNet is smallest when 64 images are normalized together, 23.2 %
    against 23.7 % for 1024 (read off figure 6, Wu & Johnson 2021); with batch normalization CaffeNet is best at a
    dropout of .2, .527, against .513 without and .499 at .5 (Mishkin et al., caffenet-benchmark, 2016).

What would refute it:
    Normalizing the whole batch at once is as accurate as normalizing parts of it, or batch normalization without
    dropout is more than half a point less accurate than a plain network with dropout of .5.

Settings:
    Two hidden layers of 100 ReLU units on scikit-learn's digits. "Few": 100 training images, the whole set in each
    step, so that there is no other noise. "Noisy": 600 training images of which 30 % have a random label, 120 per step,
    which is where overfitting costs most. Normalized together are all 120 or 100 images, or a 4th, a 10th or a 20th of
    them (ghost batches), at equal batches of the gradient. 600 steps at rates 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3 and 10,
    of which each arm, of one size of parts and one strength of dropout (0, .1, .3, .5), has its own on validation
    images; so that every arm has as many to choose from. The noise is also looked at with the same rate for both arms,
    from 0.01 to 1.

Verdict:
    Test accuracies are compared, paired over seeds. "Regularizes" is reproduced when a tenth of the batch is at least
    half a point above the whole batch with an interval above 0; and, at every rate that is the same for both, when the
    smallest part is, and has a training accuracy that is lower by as much. "Replaces dropout" is reproduced when the
    whole interval of batch normalization without dropout minus the plain network with dropout of .5 is above -0.5
    points. Batch normalization there is of a tenth of the 100 images, because of all of them it has no noise, which is
    what is claimed to do it, and of the 120 of 600 that a step takes.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - Y. Wu and J. Johnson, Rethinking "Batch" in BatchNorm, 2021, arXiv:2105.07576.
    - E. Hoffer, I. Hubara and D. Soudry, Train longer, generalize better, 2017, arXiv:1705.08741.
    - D. Mishkin, N. Sergievskiy and J. Matas, Systematic evaluation of CNN advances on the ImageNet, 2016,
      arXiv:1606.02228, and the repository caffenet-benchmark.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from normwise.lab.data.splits import digits, first, some_wrong
from normwise.lab.design import Arm, Training, across, by_pair, figure, gap, panel, table
from normwise.lab.networks.stack import Ghost, Stack
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Figure, Regime, Statement
from normwise.lab.training.stacks import accuracies, both, train_stack
from normwise.lab.verdict import AtLeast, AtMost, judge

SAYS = "Ioffe & Szegedy 2015, section 3.4"
TOPIC = "regularization"
DATA = DIGITS
ARCHITECTURE = "2 hidden layers of 100 ReLU units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
GAIN = 0.5
PARTS = 10
"""In how many parts the batch is normalized where one number of them stands for all."""
PLAIN = 0
"""Stands for: nothing is normalized, where the size of a part is due."""
TASKS = {"few": "100 images", "noisy": "600 images, 30 % of the labels random"}
IMAGES = {"few": 100, "noisy": 600}
BATCH = {"few": 100, "noisy": 120}
WRONG = {"few": 0.0, "noisy": 0.3}


@dataclass(frozen=True)
class Settings(Training):
    """Parts, dropout and rates."""

    tasks: tuple[str, ...] = ("few", "noisy")
    parts: tuple[int, ...] = (1, 4, 10, 20)
    dropouts: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5)
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    equal: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
    """The rates of those at which both of two arms are looked at."""
    width: int = 100


FULL = Settings(parts=(1, 2, 4, 10, 20), rates=(0.001, *Settings.rates), steps=3000)


@dataclass(frozen=True)
class Trial:
    """All rates and dropouts of one way to normalize, side by side; ``part`` images are normalized together."""

    task: str
    part: int
    seed: int


def trials(settings: Settings, seeds: Sequence[int]) -> list[Trial]:
    """Trials without normalization and with every part size, on every task, with every seed."""
    return [
        Trial(task, part, seed)
        for task in settings.tasks
        for part in (PLAIN, *(BATCH[task] // parts for parts in settings.parts))
        for seed in seeds
    ]


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train with every dropout and rate; lists of shape (dropouts, rates).

    Dropout goes with the plain network and with the whole batch, not with its parts.
    """
    data = digits(trial.seed)
    chosen = some_wrong(first(data.train, IMAGES[trial.task]), WRONG[trial.task], trial.seed)
    dropouts = settings.dropouts if trial.part in (PLAIN, BATCH[trial.task]) else (0.0,)
    each, rates = zip(*product(dropouts, settings.rates), strict=True)
    normalize = (lambda channels: Ghost(channels, trial.part)) if trial.part else None
    stack = Stack(len(rates), depth=2, width=settings.width, normalize=normalize, seed=trial.seed, dropout=each)
    train_stack(stack, chosen, rates=rates, steps=settings.steps, batch=BATCH[trial.task], seed=trial.seed)
    return by_pair(both(stack, data) | {"train": accuracies(stack, chosen)}, dropouts, settings.rates)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare part sizes, and batch normalization with dropout."""
    rows = []
    for task in settings.tasks:
        kinds = [(PLAIN, "none", settings.dropouts), (BATCH[task], f"batch norm, all {BATCH[task]}", settings.dropouts)]
        kinds += [(size, f"batch norm, parts of {size}", (0.0,)) for size in _sizes(settings, task)[1:]]
        for part, words, dropouts in kinds:
            rows += [(TASKS[task], words, each, _arm(settings, outcomes, task, part, each)) for each in dropouts]
    return Conclusion(
        statements=tuple(text for task in settings.tasks for text in _statements(settings, outcomes, task)),
        table=table(
            f"Accuracy in % after {settings.steps} steps, at the rate that is best on validation images",
            rows,
            ("trained on", lambda row: row[0]),
            ("normalization", lambda row: row[1]),
            ("dropout", lambda row: f"{row[2]:g}"),
            ("test", lambda row: row[3].percent(1)),
            ("training", lambda row: row[3].percent(1, "train")),
            seeds=len(rows[0][3]),
            tried=len(settings.rates),
        ),
        figures=(_by_part(settings, outcomes), _by_dropout(settings, outcomes)),
        caveats=(
            "Normalization is by the mean and variance of parts at equal batches of the gradient, so that only the "
            "noise of the statistics differs; in practice a smaller batch brings both.",
            "Running statistics are an average over the last steps; for tiny parts they are estimates of another "
            "variance than the one that was trained with, which the test accuracy pays for.",
            "With random labels a low rate is itself a remedy, since the network is then stopped early; every arm has "
            "the same rates to choose from, and what it learnt by heart is the training accuracy of the table.",
            "Validation images choose the rate; they are more than the images of the smaller task "
            "that are trained on, as in most studies of small data.",
        ),
    )


def _sizes(settings: Settings, task: str) -> list[int]:
    """The sizes of the parts, in the order of the settings: the whole batch first."""
    return [BATCH[task] // parts for parts in settings.parts]


def _arm(
    settings: Settings, outcomes: Outcomes, task: str, part: int, dropout: float = 0.0, at: int | None = None
) -> Arm:
    place, values = settings.dropouts.index(dropout), {"part": part, "dropout": dropout}
    words = {name: f"{name} {value:g}" for name, value in values.items()}
    return Arm(values, words, outcomes.where(task=task, part=part), settings.rates, (place,), at=at)


def _statements(settings: Settings, outcomes: Outcomes, task: str) -> Iterator[Statement]:
    all_, where = BATCH[task], f"{TASKS[task]}: "
    some, least = all_ // PARTS, min(_sizes(settings, task))
    ghost, whole, plain = (_arm(settings, outcomes, task, part) for part in (some, all_, PLAIN))
    text = f"{where}normalizing parts of {some} images is more accurate than normalizing all {all_} at once."
    published = "0.5 points, 64 against 1024 images, ResNet-50 on ImageNet (read off figure 6)"
    yield judge(text, gap(ghost, whole), AtLeast(GAIN), published, "Wu & Johnson 2021, figure 6")
    for rate in (each for each in settings.equal if each in settings.rates):
        place = settings.rates.index(rate)
        few, many = (_arm(settings, outcomes, task, part, at=place) for part in (least, all_))
        text = (
            f"{where}at the rate {rate:g} for both, parts of {least} images are more accurate than all {all_} at once."
        )
        yield judge(text, gap(few, many), AtLeast(GAIN))
        text = f"{where}at the rate {rate:g} for both, parts of {least} images have the lower training accuracy."
        lower, says = gap(few, many, "train"), "Wu & Johnson 2021, figure 6"
        yield judge(text, lower, AtMost(-GAIN), "16.5 % error against 8.4 %, 2 images against 1024", says)
    usual, size = {"few": (ghost, some), "noisy": (whole, all_)}[task]
    it = f"{where}batch normalization of {size} images together, without dropout,"
    yield judge(f"{it} is more accurate than nothing.", gap(usual, plain), AtLeast(GAIN))
    if 0.5 in settings.dropouts:
        text = f"{it} is as good as dropout of 0.5 without it, or better."
        lead = gap(usual, _arm(settings, outcomes, task, PLAIN, 0.5))
        yield judge(text, lead, AtLeast(-GAIN, nothing=-GAIN))
    for dropout in (each for each in settings.dropouts if 0 < each < 0.5):
        text = f"{where}with all {all_} images normalized at once, dropout of {dropout:g} still helps."
        published, says = "1.4 points, .527 at .2 against .513, CaffeNet", "Mishkin et al. 2016"
        helps = gap(_arm(settings, outcomes, task, all_, dropout), whole)
        yield judge(text, helps, AtLeast(GAIN), published, says)


def _by_part(settings: Settings, outcomes: Outcomes) -> Figure:
    panels = []
    for task in settings.tasks:
        arms = [_arm(settings, outcomes, task, size) for size in sorted(_sizes(settings, task))]
        test = across("test", arms, "part", lambda arm: arm.points() / 100)
        training = across("training", arms, "part", lambda arm: arm.points("train") / 100)
        plain = float(_arm(settings, outcomes, task, PLAIN).points().mean()) / 100
        panels.append(panel(TASKS[task], (test, training), ((plain, "test, not normalized"),)))
    title, label = "Accuracy by how many images are normalized together", "images normalized together"
    caption = "The batch of the gradient is the same everywhere."
    return figure("accuracy_by_part", title, panels, x_label=label, y_label="accuracy", caption=caption, x_scale="log")


def _by_dropout(settings: Settings, outcomes: Outcomes) -> Figure:
    panels = []
    for task in settings.tasks:
        lines = []
        for part, words in ((PLAIN, "without"), (BATCH[task], "with batch norm")):
            arms = [_arm(settings, outcomes, task, part, dropout) for dropout in settings.dropouts]
            lines.append(across(words, arms, "dropout", lambda arm: arm.points() / 100))
        panels.append(panel(TASKS[task], lines))
    title = "Test accuracy by the share of units that are left out"
    caption = "Each at the rate that is best for it on validation images."
    return figure("accuracy_by_dropout", title, panels, x_label="dropout", caption=caption)
