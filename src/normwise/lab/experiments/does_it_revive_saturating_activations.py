"""Do deep networks of sigmoids learn, with and without batch normalization?

Question:
    To what depth can networks of sigmoid, tanh and ReLU units be trained in a given number of steps, and what does
    batch normalization change?

Claim:
    Batch normalization makes it possible to train with saturating nonlinearities: Inception with sigmoids reached
    69.8 % of top-1 accuracy with it, and stayed at chance, .1 %, without (Ioffe & Szegedy 2015, section 4.2.2). On
    CaffeNet with batch normalization sigmoid reached .475, tanh .448 and ReLU .499 (Mishkin et al., 2016).

What would refute it:
    A sigmoid network of at least five layers learns without batch normalization, or does not learn with it what
    networks learn without.

Settings:
    3, 5 and 10 hidden layers of 64 sigmoid, tanh or ReLU units, Glorot's initial weights, scikit-learn's digits,
    batches of 60, 600 steps of gradient descent; rates 0.03, 0.1, 0.3, 1, 3 and 10 for each arm, the best of which is
    picked on validation images. What a network learns is its test accuracy at the end, less guessing.

Verdict:
    "At chance" is reproduced when the whole interval of the test accuracy is below 20 %, twice that of guessing.
    "Learns" is reproduced when the whole interval is at .95 or more of what the best network without batch
    normalization learns in the same seed, of whatever activation and depth is best on validation images. How accurate
    as many ReLU layers are is in the table.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - D. Mishkin, N. Sergievskiy and J. Matas, Systematic evaluation of CNN advances on the ImageNet, 2016,
      arXiv:1606.02228, and the repository caffenet-benchmark.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from normwise.lab.data.splits import digits
from normwise.lab.design import GUESSING, WITH_AND_WITHOUT, Arm, Arms, Grid, SideBySide, across, figure, panel, table
from normwise.lab.design.targets import Target
from normwise.lab.intervals import mean
from normwise.lab.networks.dense import glorot
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement
from normwise.lab.training.stacks import both
from normwise.lab.verdict import Reaches, StaysBelow, judge

SAYS = "Ioffe & Szegedy 2015, section 4.2.2"
TOPIC = "optimization"
DATA = DIGITS
ARCHITECTURE = "3 to 10 hidden layers of 64 units"
REGIME = Regime.OWN
TESTS = True
TAKES_DATA = True
WHOSE = "what the best network without it learns"
CHANCE = 20.0
DEEP = 5


@dataclass(frozen=True)
class Settings(SideBySide):
    """Depths, activations and rates."""

    depths: tuple[int, ...] = (3, 5, 10)
    activations: tuple[str, ...] = ("sigmoid", "tanh", "relu")
    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


FULL = Settings(depths=(3, 5, 10, 20), rates=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0), steps=3000)


@dataclass(frozen=True)
class Trial:
    """All rates of one network, side by side."""

    depth: int
    activation: str
    batch_norm: bool
    seed: int


GRID = Grid(Trial, depth="depths", activation="activations", batch_norm=WITH_AND_WITHOUT, largest_first="depth")
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate."""
    data = digits(trial.seed)
    stack = settings.stack(trial.seed, trial.batch_norm, depth=trial.depth, activation=trial.activation, std=glorot)
    settings.train(stack, data.train, trial.seed)
    return both(stack, data)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare accuracies at each arm's best rate."""
    arms = GRID.arms(settings, outcomes)
    kinds = [(activation, depth) for activation in settings.activations for depth in settings.depths]
    panels = []
    for activation in settings.activations:
        pair = {words: arms.where(activation=activation, batch_norm=arm) for arm, words in WITH_AND_WITHOUT.items()}
        panels.append(panel(activation, (across(words, arm, "depth") for words, arm in pair.items()), GUESSING))
    title = f"Test accuracy after {settings.steps} steps, by depth"
    caption = "Each at the rate that is best for it on validation images."
    by_depth = figure("accuracy_by_depth", title, panels, x_label="hidden layers", caption=caption)
    return Conclusion(
        statements=tuple(_statements(settings, arms)),
        table=table(
            f"Test accuracy in % after {settings.steps} steps, at the rate that is best on validation images",
            [arms.where(activation=activation, depth=depth) for activation, depth in kinds],
            ("activation", lambda row: row.words["activation"]),
            ("hidden layers", lambda row: row.words["depth"]),
            (WITH_AND_WITHOUT[True], lambda row: row[True].percent(1)),
            ("rate", lambda row: row[True].rate),
            (WITH_AND_WITHOUT[False], lambda row: row[False].percent(1)),
            ("rate", lambda row: row[False].rate),
        ),
        figures=(by_depth,),
        caveats=(
            f"Everything gets {settings.steps} steps; a network at chance might leave it with more of them, or from "
            "other initial weights: for sigmoids Glorot's are four times too small to keep the size of signals.",
            "Only a few rates are tried; the best may lie beyond the largest.",
        ),
    )


def _best(arms: Iterable[Arm]) -> Arm:
    return max(arms, key=lambda arm: float(arm.numbers("validation").mean()))


def _statements(settings: Settings, arms: Arms) -> Iterator[Statement]:
    target = Target(_best(arms.where(batch_norm=False)), whose=WHOSE)
    for depth in settings.depths:
        if depth < DEEP or "sigmoid" not in settings.activations:
            continue
        without, with_it = (arms[depth, "sigmoid", arm] for arm in (False, True))
        begins = "from Glorot's initial weights"
        text = f"A network of {depth} sigmoid layers stays near chance without batch normalization, {begins}."
        published = "at chance, .1 %, Inception on ImageNet"
        yield judge(text, mean(without.points(), "%"), StaysBelow(CHANCE), published, obstacle=without.obstacle)
        text = f"A network of {depth} sigmoid layers learns with batch normalization at least {target.words}."
        published = "69.8 %, Inception on ImageNet; with ReLU and without batch normalization 72.2 %"
        learns, edge = mean(target.shares(with_it), "of that"), target.obstacle(with_it)
        yield judge(text, learns, Reaches(target.share), published, obstacle=edge)
