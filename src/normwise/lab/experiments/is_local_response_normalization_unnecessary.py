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
    mean over positions behind the last; batches of 60, 500 steps of gradient descent at the rates 0.1, 0.3 and 1 (the
    quick run has 1 only), falling exponentially to a tenth, the best of which is picked on validation images for each
    arm. Local response normalization, x / (1 + alpha / 5 * the sum of x^2 over 5 neighbouring channels)^.75, stands
    behind the pooling and behind the second ReLU, as in GoogLeNet; alpha is 1e-4, the published constant, or 1, since
    1e-4 was made for inputs between 0 and 255.

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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normwise.lab.convolutional import Chain
from normwise.lab.data import Split, digits
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Estimate, Figure, Panel, Series, Statement, Table
from normwise.lab.statistics import Numbers, band, cell, difference, mean
from normwise.lab.training import accuracy, to_a_tenth, train
from normwise.lab.verdict import AtLeast, Within, judge
from normwise.torch import BatchNorm2d

SAYS = "Ioffe & Szegedy 2015, section 4.2.1"
TOPIC = "regularization"
TAKES_DATA = True
NEIGHBOURS = 5
GAIN = 0.5
ARMS = {True: "with batch norm", False: "without"}
ALPHAS = {0.0: "none", 1e-4: "alpha 1e-4", 1.0: "alpha 1"}
"""Of local response normalization; 0 stands for a network that has none."""


@dataclass(frozen=True)
class Settings:
    """Rates and the network."""

    rates: tuple[float, ...] = (0.1, 0.3, 1.0)
    steps: int = 500
    widths: tuple[int, ...] = (16, 16, 16)
    batch: int = 60


QUICK = Settings(rates=(1.0,))
FULL = Settings(rates=(0.03, 0.1, 0.3, 1.0, 3.0), steps=3000, widths=(32, 64, 64))


@dataclass(frozen=True)
class Trial:
    """One arm at one rate."""

    batch_norm: bool
    alpha: float
    rate: float
    seed: int


def trials(settings: Settings, seeds: Sequence[int]) -> list[Trial]:
    """Both arms with each local response normalization at every rate, with every seed."""
    return [
        Trial(arm, alpha, rate, seed) for arm in ARMS for alpha in ALPHAS for rate in settings.rates for seed in seeds
    ]


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train, and measure the accuracies and what local response normalization changes in what passes through it."""
    data = digits(trial.seed)
    behind: Callable[[], nn.Module] | None = None
    if trial.alpha:
        behind = partial(nn.LocalResponseNorm, NEIGHBOURS, alpha=trial.alpha)
    model = Chain(
        widths=settings.widths, norm=BatchNorm2d if trial.batch_norm else None, seed=trial.seed, behind=behind
    )
    train(
        model,
        data.train,
        rate=trial.rate,
        steps=settings.steps,
        batch=settings.batch,
        seed=trial.seed,
        schedule=to_a_tenth(settings.steps),
    )
    return {
        "validation": accuracy(model, data.validation),
        "test": accuracy(model, data.test),
        "changed": changed(model, data.validation),
    }


def changed(model: Chain, data: Split) -> float:
    """The distance between what comes out of the layers behind the activations and what goes in, over the latter."""
    shares: list[float] = []

    def compare(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        shares.append(float((out - given[0]).norm() / given[0].norm()))

    hooks = [layer.register_forward_hook(compare) for layer in model.behind]
    model.eval()
    with torch.no_grad():
        model(data.images)
    for hook in hooks:
        hook.remove()
    return sum(shares) / len(shares)


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the accuracies with and without local response normalization, in both networks."""
    return Conclusion(
        statements=tuple(_statements(settings, outcomes)),
        table=_table(settings, outcomes),
        figures=(_figure(settings, outcomes),),
        caveats=(
            "With alpha of 1e-4 and pixels between 0 and 1 local response normalization hardly changes what passes "
            "through it (the column 'changed'), so that 'no difference' says little there; the arms with alpha of 1 "
            "are the ones in which it does something.",
            "A difference of half a point is about two of the digits' 450 test images; the published gains are of one "
            "to two points.",
            "Both networks are small and trained for few steps; whether it would help larger ones is not asked.",
        ),
    )


def _best(settings: Settings, outcomes: Outcomes, batch_norm: bool, alpha: float) -> Outcomes:
    """The runs of an arm at the rate that is best on validation images, in the mean over seeds."""
    arm = outcomes.where(batch_norm=batch_norm, alpha=alpha)
    return max(
        (arm.where(rate=rate) for rate in settings.rates), key=lambda runs: float(runs.array("validation").mean())
    )


def _statements(settings: Settings, outcomes: Outcomes) -> list[Statement]:
    def gain(batch_norm: bool, alpha: float) -> Estimate:
        ours, theirs = (_test(_best(settings, outcomes, batch_norm, each)) for each in (alpha, 0.0))
        return difference(ours, theirs, "points")

    strengths = [alpha for alpha in ALPHAS if alpha]
    found = []
    for alpha in strengths:
        text = f"With batch normalization, local response normalization of {ALPHAS[alpha]} makes no difference."
        found.append(judge(text, gain(True, alpha), Within(-GAIN, GAIN), "not necessary, Inception on ImageNet"))
    for alpha in strengths:
        text = (
            f"Without batch normalization, local response normalization of {ALPHAS[alpha]} is more accurate than none."
        )
        published = "2 points, 13 % to 11 % error, four layers on CIFAR-10"
        found.append(judge(text, gain(False, alpha), AtLeast(GAIN), published, "Krizhevsky et al. 2012, section 3.3"))
    text = f"Without batch normalization, local response normalization of {ALPHAS[1e-4]} makes no difference."
    published = "47.0 % with, 47.1 % without, CaffeNet at 128 pixels"
    found.append(judge(text, gain(False, 1e-4), Within(-GAIN, GAIN), published, "Mishkin et al. 2016"))
    return found


def _test(runs: Outcomes) -> Numbers:
    return 100 * runs.array("test")


def _table(settings: Settings, outcomes: Outcomes) -> Table:
    rows = []
    for arm, network in ARMS.items():
        for alpha, words in ALPHAS.items():
            runs = _best(settings, outcomes, arm, alpha)
            rate = next(trial.rate for trial, _ in runs)
            changes = cell(mean(100 * runs.array("changed"), "%"), 2)
            rows.append((network, words, f"{rate:g}", cell(mean(_test(runs), "%"), 2), changes))
    n = len(outcomes.where(batch_norm=True, alpha=0.0, rate=settings.rates[0]))
    caption = (
        f"Test accuracy in % after {settings.steps} steps, and by how many % of its norm local response normalization "
        f"changes what passes through it. Mean [95 % interval] over {n} seeds"
    )
    return Table(caption, ("network", "local response", "best rate", "test", "changed"), tuple(rows))


def _figure(settings: Settings, outcomes: Outcomes) -> Figure:
    panels = []
    for arm, network in ARMS.items():
        lines = []
        for alpha, words in ALPHAS.items():
            runs = outcomes.where(batch_norm=arm, alpha=alpha)
            values = np.stack([runs.where(rate=rate).array("test") for rate in settings.rates], axis=1)
            lines.append(Series(words, settings.rates, *(tuple(line) for line in band(values))))
        panels.append(Panel(network, tuple(lines)))
    return Figure(
        name="accuracy_by_rate",
        title=f"Test accuracy after {settings.steps} steps, by local response normalization",
        caption="Line: mean over seeds; band: smallest to largest.",
        x_label="learning rate",
        y_label="test accuracy",
        panels=tuple(panels),
        x_scale="log",
    )
