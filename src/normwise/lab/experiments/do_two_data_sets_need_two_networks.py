"""Two data sets: a network for each, or one network whose layers keep statistics for each.

Question:
    Where two data sets have the same classes and look different, is one network with statistics of its own for each
    as good as two networks, at the same size of each and at the same number of parameters altogether?

Claim:
    "A single neural network can learn simultaneously several very different visual domains ... as well as, or better
    than, a number of specialized networks", which "requires to carefully normalize the information in the network, by
    using domain-specific scaling factors" (Bilen & Vedaldi 2017, abstract). With statistics of its own for each data
    set a network is at 78.7 %, with mixed batches and one set of statistics at 78.2 % (Irpan 2017; medians of five
    seeds on one of two data sets that the text does not name, read off the figures).

What would refute it:
    Two networks are more accurate by more than a point; or one network is as good without statistics for each data set.

Settings:
    scikit-learn's digits, and the same digits on patches of photographs; of each, 100 and 1077 training images. Three
    hidden layers of 64 ReLU units, or for each of two small networks as many as half the parameters are enough for.
    800 steps of gradient descent with 30 images of each data set, the same ones for all arms. Rates 0.03, 0.1, 0.3, 1,
    3 and 10 for each arm, the best of which is picked on validation images of both data sets, and is the same for both
    networks of an arm. Accuracy is the mean of the two data sets'.

Verdict:
    Differences of test accuracy, paired over seeds. "No worse" counts when the whole interval lies above -1 point;
    better than two networks of half the parameters counts from 1 point on, all else from half a point on.

References:
    - H. Bilen and A. Vedaldi, Universal representations: The missing link between faces, text, planktons, and cat
      breeds, 2017, arXiv:1701.07275.
    - A. Irpan, On the Perils of Batch Norm, 2017, alexirpan.com/2017/04/26/perils-batch-norm.html.
    - W.-G. Chang, T. You, S. Seo, S. Kwak and B. Han, Domain-Specific Batch Normalization for Unsupervised Domain
      Adaptation, 2019, arXiv:1906.03950.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from normwise.lab.data.splits import CLASSES, Digits, digits, digits_on_photos, first, pixels
from normwise.lab.design import Arms, Grid, Training, by_measure, gap, table
from normwise.lab.networks.stack import Normalization, Stack, batch_norm
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement
from normwise.lab.training.domains import accuracies_apart, accuracies_on_all, train_apart, train_on_all
from normwise.lab.verdict import AtLeast, judge
from normwise.torch import PerDomain

SAYS = "Bilen & Vedaldi 2017"
TOPIC = "statistics at inference"
DATA = f"{DIGITS}, plain and on photographs"
ARCHITECTURE = "3 hidden layers of 64 ReLU units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
WORSE = -1.0
NO_WORSE = AtLeast(WORSE, nothing=WORSE)
BETTER = AtLeast(1.0)
SOME = AtLeast(0.5)
DOMAINS = ("plain", "photos")
ARMS = {
    "two": "two networks",
    "halves": "two networks of half the parameters",
    "mixed": "one network, one batch of both",
    "statistics": "one network, statistics for each",
    "everything": "one network, statistics, scale and shift for each",
}


@dataclass(frozen=True)
class Settings(Training):
    """The networks and their training."""

    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    steps: int = 800
    images: tuple[int, ...] = (100, 1077)
    depth: int = 3
    width: int = 64
    each: int = 30

    def stack(self, seed: int, normalize: Normalization, width: int) -> Stack:
        """A network for each rate."""
        return Stack(len(self.rates), depth=self.depth, width=width, normalize=normalize, seed=seed)


@dataclass(frozen=True)
class Trial:
    """All rates of one arm, side by side."""

    images: int
    arm: str
    seed: int


GRID = Grid(Trial, images="images", arm=ARMS)
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train on both data sets, and measure on each."""
    whole = dict(zip(DOMAINS, (digits(trial.seed), digits_on_photos(trial.seed)), strict=True))
    data = {name: Digits(first(each.train, trial.images), each.validation, each.test) for name, each in whole.items()}
    sets = {name: each.train for name, each in data.items()}
    rates, steps, each = settings.rates, settings.steps, settings.each
    if trial.arm in ("two", "halves"):
        width = settings.width if trial.arm == "two" else half(settings.width, settings.depth)
        stacks = {name: settings.stack(trial.seed, batch_norm, width) for name in DOMAINS}
        train_apart(stacks, sets, rates=rates, steps=steps, each=each, seed=trial.seed)
        return accuracies_apart(stacks, data)
    stack = settings.stack(trial.seed, lambda channels: normalization(trial.arm, channels), settings.width)
    train_on_all(stack, sets, rates=rates, steps=steps, each=each, mixed=trial.arm == "mixed", seed=trial.seed)
    return accuracies_on_all(stack, data)


def normalization(arm: str, channels: int) -> nn.Module:
    """The layer of an arm, for a stack."""
    layer = batch_norm(channels)
    return layer if arm == "mixed" else PerDomain(layer, DOMAINS, own_affine=arm == "everything")


def parameters(width: int, depth: int) -> int:
    """The number of parameters of a network with batch norm."""
    return pixels() * width + (depth - 1) * width**2 + 2 * depth * width + CLASSES * (width + 1)


def half(width: int, depth: int) -> int:
    """The largest width of a network that has half the parameters of one of this width."""
    return max(each for each in range(1, width) if 2 * parameters(each, depth) <= parameters(width, depth))


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare one network with two, at each arm's best rate."""
    arms = GRID.arms(settings, outcomes)
    most = arms.where(images=settings.images[-1])
    sets = {"test": "mean of both", "plain": "digits", "photos": "digits on photographs"}
    title = f"One network or two: test accuracy at every rate, {settings.images[-1]} images of each data set"
    by_rate = by_measure("accuracy_by_rate", title, most, settings.rates, sets, x_label="learning rate", x_scale="log")
    return Conclusion(
        statements=tuple(text for images in settings.images for text in _statements(images, arms.where(images=images))),
        table=table(
            f"Test accuracy in % after {settings.steps} steps",
            arms,
            ("images of each", lambda arm: arm["images"]),
            ("arm", lambda arm: arm["arm"]),
            ("rate", lambda arm: arm.rate),
            ("both", lambda arm: arm.percent(1)),
            ("digits", lambda arm: arm.percent(1, "plain")),
            ("digits on photographs", lambda arm: arm.percent(1, "photos")),
        ),
        figures=(by_rate,),
        caveats=(
            "The two data sets are the same images, with and without a background: nearer to each other than two "
            "data sets of different origin, and of one set of classes.",
            "Both networks of an arm are trained at one rate, as one network is; each could have its own.",
            "One network takes as many steps as each of the two, with twice as many images in each.",
        ),
    )


def _statements(images: int, arms: Arms) -> Iterator[Statement]:
    own, at = arms["statistics"], f"{images} images of each: one network with statistics for each data set"
    text = f"{at} is no worse than two networks."
    yield judge(text, gap(own, arms["two"]), NO_WORSE, "as well as, or better, ten data sets, residual networks")
    text = f"{at} is more accurate than two networks of half the parameters."
    yield judge(text, gap(own, arms["halves"]), BETTER)
    text = f"{at} is more accurate than one with a batch of both and one set of statistics."
    yield judge(text, gap(own, arms["mixed"]), SOME, "78.7 against 78.2 %, median of five seeds", "Irpan 2017")
    text = f"{at} is more accurate if it has a scale and a shift for each of them as well."
    yield judge(text, gap(arms["everything"], own), SOME)
