"""Does batch normalization still help when random noise makes its outputs drift more than without it?

Question:
    If batch normalization helps because it keeps the distributions of layers' inputs stable, must it not stop helping
    when noise behind it makes them unstable?

Claim:
    It does not: with noise of changing mean and variance added behind each batch normalization, a VGG on CIFAR-10
    trains about as well as without the noise and better than without batch normalization, although its inputs drift
    more; the same noise stops the network without batch normalization from training. Stable distributions are not why
    it works (Santurkar et al. 2018, section 2.1), against Ioffe & Szegedy 2015, who named it after "internal covariate
    shift".

What would refute it:
    Batch normalization with noise is slower than none, or its inputs drift less.

Settings:
    Five hidden layers of 64 ReLU units on scikit-learn's digits, batches of 60, 800 steps of gradient descent; rates
    0.01, 0.03, 0.1, 0.3, 1 and 3 for each arm. Noise as in the paper: for each step, layer and unit mu ~ U(-.5, .5) and
    sigma ~ U(1, 1.25), then for each image a factor ~ N(sigma, .1) and a term ~ U(mu - .1, mu + .1); in training only;
    and twice and 4 times as much of all of it. Drift of a unit: standard deviation over time of the mean that its
    activation receives, over its mean standard deviation, over the validation images with the noise on; the median over
    the last hidden layer.

Verdict:
    Steps to .95 of what the network without batch normalization and noise learns (its test accuracy at the end, less
    guessing, in the same seed, at the rate that ends best on validation images) are compared as ratios, paired over
    seeds, each arm at the rate that gets there first on validation images; not getting there counts as all steps.
    "Fewer steps than none" is reproduced when the ratio is at least 1 with an interval above 1, "about as many steps"
    when the whole interval lies between a half and 2, "drifts more" likewise; "stops the network from training" when
    the whole interval of the accuracy is at 50 % or below.

References:
    - S. Santurkar, D. Tsipras, A. Ilyas and A. Madry, How Does Batch Normalization Help Optimization?, 2018,
      arXiv:1805.11604.
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from torch import nn

from normwise.lab.data.splits import digits
from normwise.lab.design import Arms, DenseTraining, Grid, Looks, average, table
from normwise.lab.design.curves import accuracy_by_step, ends_best
from normwise.lab.design.targets import Target
from normwise.lab.intervals import mean, ratio
from normwise.lab.networks.stack import Normalization, batch_norm
from normwise.lab.networks.variants import Noise, noise_in_inference
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement
from normwise.lab.training.watching import Watch
from normwise.lab.verdict import AtLeast, AtMost, StaysBelow, Within, judge

SAYS = "Santurkar et al. 2018, section 2.1"
TOPIC = "why it works"
DATA = DIGITS
ARCHITECTURE = "5 hidden layers of 64 ReLU units"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
ABOUT = (0.5, 2.0)
ARMS = {
    "plain": "without",
    "batch_norm": "with batch norm",
    "noisy_batch_norm": "batch norm, then noise",
    "noisy_plain": "noise without batch norm",
    "noisy_batch_norm_2": "batch norm, then 2 times the noise",
    "noisy_batch_norm_4": "batch norm, then 4 times the noise",
}
STRONG = (2, 4)
"""Times the paper's noise."""


@dataclass(frozen=True)
class Settings(Looks, DenseTraining):
    """Rates and the network."""

    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    steps: int = 800


FULL = Settings(rates=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0), steps=3000)


@dataclass(frozen=True)
class Trial:
    """All rates of one arm, side by side."""

    arm: str
    seed: int


GRID = Grid(Trial, arm=ARMS)
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate, and look at accuracies and at what the last hidden activation receives."""
    data = digits(trial.seed)
    stack = settings.stack(trial.seed, normalization(trial.arm, trial.seed))
    watch = Watch(stack, data, lambda: noise_in_inference(stack))
    settings.train(stack, data.train, trial.seed, look=watch, look_at=settings.looks())
    return watch.found()


def normalization(arm: str, seed: int) -> Normalization | None:
    """The function that makes the layers of an arm, each with noise of its own; None for the plain network."""
    noises = count(10_000 * (seed + 1))  # which no weights begin with
    strength = next((float(times) for times in STRONG if arm.endswith(f"_{times}")), 1.0)

    def normalize(channels: int) -> nn.Module:
        inner = batch_norm(channels) if "batch_norm" in arm else nn.Identity()
        return Noise(inner, channels, next(noises), strength) if "noisy" in arm else inner

    return None if arm == "plain" else normalize


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the arms in steps and in drift."""
    at = settings.looks()
    target = Target(GRID.arms(settings, outcomes, choose=ends_best)["plain"], at)
    arms = GRID.arms(settings, outcomes, choose=target.fastest)
    return Conclusion(
        statements=tuple(_statements(arms, target)),
        table=table(
            f"Steps to {target.words} out of {settings.steps}, test accuracy in % at the end, drift in standard "
            "deviations",
            arms,
            ("network", lambda arm: arm["arm"]),
            ("rate", lambda arm: arm.rate),
            ("steps", target.in_steps),
            ("got there", target.got_there),
            ("end", lambda arm: average(arm.points()[:, -1], 1)),
            ("drift", lambda arm: average(arm.numbers("drift"), 2)),
            more=", of the steps the geometric one",
        ),
        figures=(accuracy_by_step(arms, at, network=f"{settings.depth}×{settings.width}, ReLU", target=target.level),),
        caveats=(
            "That noise behind batch normalization does not stop it from helping shows that stability of the inputs is "
            "not necessary for the gain; it does not show that it never contributes.",
            "In inference there is no noise, so that the running statistics of the layers above are those of other "
            "inputs; part of what strong noise costs is this, and not slower learning.",
            "The noise is put behind the normalization and in front of the activation; without batch normalization it "
            "has the same size in other units, since the inputs there have no fixed scale.",
            "The mark is the mean over seeds; each seed has one of its own to reach.",
            "Looks are 10 % apart, so single numbers of steps are known to 10 %.",
        ),
    )


def _statements(arms: Arms, target: Target) -> Iterator[Statement]:
    steps = {arm: target.steps(arms[arm]) for arm in ARMS}
    drift = {arm: arms[arm].numbers("drift") for arm in ARMS}
    noisy, normal, plain = (steps[arm] for arm in ("noisy_batch_norm", "batch_norm", "plain"))
    more = AtLeast(1.0, nothing=1.0)
    text = f"To {target.words}, batch normalization with noise takes fewer steps than none."
    edge = target.obstacle(arms["plain"], arms["noisy_batch_norm"])
    yield judge(
        text, ratio(plain, noisy, "times fewer steps"), more, "faster, VGG on CIFAR-10, figure 2", obstacle=edge
    )
    text = f"To {target.words}, batch normalization with noise takes about as many steps as without it."
    both = target.obstacle(arms["noisy_batch_norm"], arms["batch_norm"])
    yield judge(
        text, ratio(noisy, normal, "times the steps"), Within(*ABOUT), "almost as fast, VGG, figure 2", obstacle=both
    )
    text = "With the noise behind batch normalization, inputs drift more than without batch normalization."
    yield judge(
        text, ratio(drift["noisy_batch_norm"], drift["plain"], "times the drift"), more, "more, figure 2", obstacle=edge
    )
    text = "With batch normalization and no noise, inputs drift less than without batch normalization."
    less = ratio(drift["batch_norm"], drift["plain"], "times the drift")
    edge, says = target.obstacle(arms["batch_norm"], arms["plain"]), "Ioffe & Szegedy 2015, section 3"
    yield judge(text, less, AtMost(1.0, nothing=1.0), says=says, regime=Regime.OWN, obstacle=edge)
    text = "Without batch normalization, the same noise stops the network from training."
    end, edge = mean(arms["noisy_plain"].points()[:, -1], "%"), target.obstacle() or arms["noisy_plain"].obstacle
    yield judge(text, end, StaysBelow(50.0), "stops training, appendix", obstacle=edge)
