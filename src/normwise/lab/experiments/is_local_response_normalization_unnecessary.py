"""Does local response normalization add anything to a convolutional network with batch normalization?

Question:
    When the channels are normalized over the batch, is anything lost by taking local response normalization out, and
    is anything lost by that without batch normalization?

Claim:
    "Remove Local Response Normalization. While Inception and other networks benefit from it, we found that with Batch
    Normalization it is not necessary" (Ioffe & Szegedy 2015, section 4.2.1). That networks benefit: a network of four
    layers on CIFAR-10 errs in 11 % with it and in 13 % without (Krizhevsky et al. 2012, section 3.3). Against the
    benefit: a CaffeNet without batch normalization has a top-1 accuracy of 47.0 % with it and of 47.1 % without
    (Mishkin et al. 2016).

What would refute it:
    With batch normalization the network is more accurate with local response normalization than without.

Settings:
    Three 3x3 convolutions of 16 channels with ReLU on scikit-learn's digits, a maximum over 2 x 2 behind the first, the
    mean over positions behind the last; batches of 60, 500 steps of gradient descent at the rates 0.3, 1, 3 and 10
    (the quick run has 1 only), falling exponentially to a tenth, the best of which is picked on validation images for
    each arm. Local response normalization, x / (1 + alpha / 5 * the sum of x^2 over 5 neighbouring channels)^.75,
    stands behind the pooling and behind the second ReLU, as in GoogLeNet; alpha is 1e-4, the published constant, or 1,
    since 1e-4 was made for inputs between 0 and 255.

Verdict:
    Test accuracy with minus without local response normalization, paired over seeds. "No difference" is reproduced when
    the whole interval lies within half a point, "more accurate" from half a point on with an interval above 0.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - A. Krizhevsky, I. Sutskever and G. E. Hinton, ImageNet Classification with Deep Convolutional Neural Networks,
      2012.
    - D. Mishkin, N. Sergievskiy and J. Matas, Systematic evaluation of CNN advances on the ImageNet, 2016,
      arXiv:1606.02228.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from normwise.lab.data.splits import digits, one_image
from normwise.lab.design import WITH_AND_WITHOUT, Arms, Grid, Training, average, by_rate, gap, table
from normwise.lab.networks.convolutional import Chain, changed_behind
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement
from normwise.lab.training.descent import accuracies, to_a_tenth, train
from normwise.lab.verdict import AtLeast, Within, judge
from normwise.torch import BatchNorm2d

SAYS = "Ioffe & Szegedy 2015, section 4.2.1"
TOPIC = "regularization"
DATA = DIGITS
ARCHITECTURE = "3 convolutions of 16 channels"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
NEIGHBOURS = 5
GAIN = 0.5
ALPHAS = {0.0: "none", 1e-4: "alpha 1e-4", 1.0: "alpha 1"}
"""Of local response normalization; 0 stands for a network that has none."""


@dataclass(frozen=True)
class Settings(Training):
    """Rates and the network."""

    rates: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0)
    steps: int = 500
    widths: tuple[int, ...] = (16, 16, 16)
    batch: int = 60


QUICK = Settings(rates=(1.0,))
FULL = Settings(rates=(0.03, 0.1, 0.3, 1.0, 3.0, 10.0), steps=3000, widths=(32, 64, 64))


@dataclass(frozen=True)
class Trial:
    """One arm at one rate."""

    batch_norm: bool
    alpha: float
    rate: float
    seed: int


GRID = Grid(Trial, batch_norm=WITH_AND_WITHOUT, alpha=ALPHAS, rate="rates")
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train, and measure the accuracies and what local response normalization changes in what passes through it."""
    data = digits(trial.seed)
    behind = partial(nn.LocalResponseNorm, NEIGHBOURS, alpha=trial.alpha) if trial.alpha else None
    norm = BatchNorm2d if trial.batch_norm else None
    model = Chain(widths=settings.widths, norm=norm, seed=trial.seed, behind=behind)
    steps, batch, schedule = settings.steps, settings.batch, to_a_tenth(settings.steps)
    train(model, data.train, rate=trial.rate, steps=steps, batch=batch, seed=trial.seed, schedule=schedule)
    return accuracies(model, data) | {"changed": changed_behind(model, data.validation.images)}


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the accuracies with and without local response normalization, in both networks."""
    arms = GRID.arms(settings, outcomes)
    title = f"Test accuracy after {settings.steps} steps, by local response normalization"
    return Conclusion(
        statements=tuple(_statements(arms)),
        table=table(
            f"Test accuracy in % after {settings.steps} steps, and by how many % of its norm local response "
            "normalization changes what passes through it",
            arms,
            ("network", lambda arm: arm["batch_norm"]),
            ("local response", lambda arm: arm["alpha"]),
            ("best rate", lambda arm: arm.rate),
            ("test", lambda arm: arm.percent(2)),
            ("changed", lambda arm: average(arm.points("changed"), 2)),
        ),
        figures=(by_rate(title, arms.by("batch_norm"), "{batch_norm}"),),
        caveats=(
            "With alpha of 1e-4 and pixels between 0 and 1 local response normalization hardly changes what passes "
            "through it (the column 'changed'), so that 'no difference' says little there; the arms with alpha of 1 "
            "are the ones in which it does something.",
            f"{one_image()}; the published gains are of one to two points.",
            "Both networks are small and trained for few steps; whether it would help larger ones is not asked.",
        ),
    )


def _statements(arms: Arms) -> Iterator[Statement]:
    strengths = [alpha for alpha in ALPHAS if alpha]
    for alpha in strengths:
        text = f"With batch normalization, local response normalization of {ALPHAS[alpha]} makes no difference."
        gain = gap(arms[True, alpha], arms[True, 0.0])
        yield judge(text, gain, Within(-GAIN, GAIN), "not necessary, Inception on ImageNet")
    for alpha in strengths:
        text = (
            f"Without batch normalization, local response normalization of {ALPHAS[alpha]} is more accurate than none."
        )
        published = "2 points, 13 % to 11 % error, four layers on CIFAR-10"
        gain = gap(arms[False, alpha], arms[False, 0.0])
        yield judge(text, gain, AtLeast(GAIN), published, "Krizhevsky et al. 2012, section 3.3")
    text = f"Without batch normalization, local response normalization of {ALPHAS[1e-4]} makes no difference."
    published = "47.0 % with, 47.1 % without, CaffeNet at 128 pixels"
    gain = gap(arms[False, 1e-4], arms[False, 0.0])
    yield judge(text, gain, Within(-GAIN, GAIN), published, "Mishkin et al. 2016")
