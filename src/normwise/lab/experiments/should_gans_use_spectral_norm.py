"""Generative adversarial networks: does spectral normalization of the discriminator train them best?

Question:
    A generator learns to draw digits against a discriminator with nothing, batch norm, layer norm or spectral norm.
    Which makes the best images, at the best settings of Adam and at aggressive ones? Should real and made images share
    a batch where the discriminator normalizes by it, and should the generator have batch norm?

Claim:
    With spectral norm, which divides each weight matrix of the discriminator by its largest singular value, known from
    one power iteration per step, images are of better or equal quality than with earlier ways to stabilize the
    training, and it is robust at high rates and high momentum (Miyato et al. 2018; an inception score of 7.42 on
    CIFAR-10 with plain convolutional networks, of 8.22 with residual ones). Batch norm belongs in the generator, where
    it prevents all images from being alike (Radford et al. 2016). Real and made images should be normalized in batches
    of their own (Chintala et al. 2016).

What would refute it:
    At the best setting of each, images are farther from the real ones with spectral norm than with another; at the high
    rate fewer classes are drawn; or a weight matrix keeps a singular value above 1.

Settings:
    scikit-learn's digits. Generator: 16 normal numbers, two hidden layers of 64 ReLU units, pixels by a sigmoid.
    Discriminator: pixels between -1 and 1, three hidden layers of 64 leaky ReLU units, normalized but the first;
    spectral norm on all weights. 1000 steps of each by turns, batches of 60 real and 60 made images, non-saturating
    loss. Adam with rate 0.001 and momentum 0.5, the usual one; rates 0.0003, 0.003, as the high one 0.01, and 0.03 with
    the same momentum; momentum 0.9. Images are looked at after 50, 100, 200, 400, 700 and 1000 steps. Distance:
    Fréchet's between the features of test images and of as many made images as there are for training, features of the
    last hidden layer of a classifier trained on the real images. A class is covered by 2 % of the images, which the
    classifier puts there with a probability of .9. With nothing, batch norm over one batch of both, and spectral norm,
    training at the usual setting goes on to 2000 and 3000 steps.

Verdict:
    Distances are compared as ratios, paired over seeds, each arm at the setting that is best on validation images,
    which bears no verdict where it is the lowest or the highest rate, and in the geometric mean over all settings.
    Better than nothing, and better after 3000 steps, counts from a ratio of 1.1 on; better or equal to another
    normalization when the whole interval lies above .9; as many classes when the interval lies above -0.5. Singular
    values are exact to .001 after 1000 power iterations, and 1 by one iteration per step when the interval of the
    largest deviation lies within .01.

References:
    - T. Miyato, T. Kataoka, M. Koyama and Y. Yoshida, Spectral Normalization for Generative Adversarial Networks, 2018,
      arXiv:1802.05957.
    - A. Radford, L. Metz and S. Chintala, Unsupervised Representation Learning with Deep Convolutional Generative
      Adversarial Networks, 2016, arXiv:1511.06434.
    - S. Chintala, E. Denton, M. Arjovsky and M. Mathieu, How to Train a GAN? Tips and tricks to make GANs work, 2016,
      github.com/soumith/ganhacks.
    - M. Heusel, H. Ramsauer, T. Unterthiner, B. Nessler and S. Hochreiter, GANs Trained by a Two Time-Scale Update Rule
      Converge to a Local Nash Equilibrium, 2017, arXiv:1706.08500.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np

from normwise.lab.data.splits import digits, in_pixels
from normwise.lab.design import average, figure, geometric, line, panel, table
from normwise.lab.intervals import Numbers, difference, largest, mean, ratio
from normwise.lab.networks.dense import Norm
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Figure, Regime, Statement, Table
from normwise.lab.training.adversarial import Discriminator, Generator
from normwise.lab.training.frechet import Examiner
from normwise.lab.training.game import bounds, measured
from normwise.lab.verdict import AtLeast, Exact, Within, judge
from normwise.torch import BatchNorm1d, LayerNorm

SAYS = "Miyato et al. 2018"
TOPIC = "batch size and alternatives"
DATA = DIGITS
ARCHITECTURE = "dense generator and discriminator, 64 units a layer"
REGIME = Regime.ANOTHER
TESTS = True
TAKES_DATA = True
BETTER = AtLeast(1.1, nothing=1.0)
NO_WORSE = AtLeast(0.9, nothing=0.9)
CLASSES_FEWER = -0.5
SIGMA = 1e-3
SIGMA_OF_ONE_ITERATION = 0.01
DISCRIMINATORS = {
    "none": "nothing",
    "mixed": "batch norm, one batch of both",
    "apart": "batch norm, a batch of each",
    "layer": "layer norm",
    "spectral": "spectral norm",
}
NORMS: dict[str, Norm] = {"mixed": BatchNorm1d, "apart": BatchNorm1d, "layer": LayerNorm}
GENERATORS = {"batch": "batch norm", "none": "nothing"}
PLAIN = ("none", "spectral")
"""The discriminators that also meet a generator without batch norm."""
PAIRS = (*((name, "batch") for name in DISCRIMINATORS), *((name, "none") for name in PLAIN))
"""Discriminators and the generators that they meet."""
LONGER = ("none", "mixed", "spectral")
"""The discriminators that go on at the first of the settings, the usual one."""
HIGH_RATE = 3
"""The place of the high rate among the settings."""
PANELS = (0, HIGH_RATE, 4)
"""The places of the settings in the figure: the usual one, the high rate, the high momentum."""


@dataclass(frozen=True)
class Settings:
    """The networks and their training."""

    adam: tuple[tuple[float, float], ...] = (
        (0.001, 0.5),
        (0.0003, 0.5),
        (0.003, 0.5),
        (0.01, 0.5),
        (0.001, 0.9),
        (0.03, 0.5),
    )
    """Rate and momentum: the usual ones, other rates up to a high one, a high momentum, and a rate beyond the best."""
    looks: tuple[int, ...] = (50, 100, 200, 400, 700, 1000)
    """The numbers of steps at the looks; the last is the number of steps."""
    longer: tuple[int, ...] = (2000, 3000)
    """The same for those that go on."""
    batch: int = 60
    width: int = 64
    noise: int = 16


FULL = Settings(looks=(50, 100, 200, 400, 700, 1000, 2000, 4000), longer=(8000, 12000))


@dataclass(frozen=True)
class Trial:
    """All settings of Adam for one pair of networks."""

    discriminator: str
    generator: str
    seed: int


def trials(settings: Settings, seeds: Sequence[int]) -> list[Trial]:  # noqa: ARG001  # every experiment has the same
    """Every discriminator with every seed; some against both generators."""
    return [Trial(*pair, seed) for pair in PAIRS for seed in seeds]


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every setting of Adam, and measure the same of real images and of ones that are none."""
    data = digits(trial.seed)
    examiner = Examiner(data, trial.seed)
    goes_on = trial.generator == "batch" and trial.discriminator in LONGER
    found: dict[str, Any] = {}
    for adam in settings.adam:
        game = measured(
            *networks(trial, settings),
            data,
            examiner,
            adam=adam,
            looks=settings.looks,
            more=settings.longer if goes_on and adam == settings.adam[0] else (),
            batch=settings.batch,
            mixed=trial.discriminator != "apart",
            seed=trial.seed,
        )
        for name, value in game.items():
            found.setdefault(name, []).append(value)
    return found | bounds(data, examiner, trial.seed)


def networks(trial: Trial, settings: Settings) -> tuple[Generator, Discriminator]:
    """The two networks of a pair; generators begin alike, and so do discriminators."""
    made_by, width = BatchNorm1d if trial.generator == "batch" else None, settings.width
    norm, spectral = NORMS.get(trial.discriminator), trial.discriminator == "spectral"
    return (
        Generator(noise=settings.noise, width=width, depth=2, norm=made_by, seed=2 * trial.seed),
        Discriminator(width=width, depth=3, norm=norm, spectral=spectral, seed=2 * trial.seed + 1),
    )


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the discriminators, and the generators, in distance and classes."""
    return Conclusion(
        statements=tuple(_statements(settings, outcomes)),
        table=_table(settings, outcomes),
        figures=(_figure(settings, outcomes),),
        caveats=(
            f"Dense networks, {settings.looks[-1]} steps and images of {in_pixels()}: the published networks are "
            "convolutional, for images of 32 x 32 and more, and get tens of thousands of steps. The distances here and "
            "Inception's are in different units, and only the order of arms can be compared.",
            "Both networks have the same rate, and the discriminator one step for each of the generator's; the "
            "published ones often give it five.",
            "Both the order of arms and whether they hold depend on when one stops: what leads early may fall apart "
            "later.",
        ),
    )


def best(arm: Outcomes) -> int:
    """The setting whose images are nearest to the validation images, in the geometric mean over seeds.

    One at which a seed diverges, whose distance is infinite, or NaN once it was in a file, is not.
    """
    away = np.log(arm.array("validation")).mean(axis=0)
    return int(np.where(np.isnan(away), np.inf, away).argmin())


def edge(settings: Settings, *arms: Outcomes) -> str:
    """The obstacle of arms whose best setting has the lowest or the highest of the rates; or empty."""
    _, usual = settings.adam[0]
    rates = [rate for rate, momentum in settings.adam if momentum == usual]
    for arm in arms:
        rate, momentum = settings.adam[best(arm)]
        if momentum == usual and rate in (min(rates), max(rates)):
            trial, _ = next(iter(arm))
            words = f"{DISCRIMINATORS[trial.discriminator]}, generator with {GENERATORS[trial.generator]}"
            return f"the best rate lies at the edge of its grid ({words})"
    return ""


def _at_best(arm: Outcomes) -> Numbers:
    return np.asarray(arm.array("test")[:, best(arm), -1])


def _over_all(arm: Outcomes) -> Numbers:
    return np.asarray(np.exp(np.log(arm.array("test")[..., -1]).mean(axis=1)))


def _longer(arm: Outcomes) -> Numbers:
    """The distances at the usual setting after the looks of all, of shape (seeds, looks); of no looks for most."""
    return np.array([outcome["longer"][0] for _, outcome in arm], dtype=np.float64)


def _statements(settings: Settings, outcomes: Outcomes) -> Iterator[Statement]:
    arms = {name: outcomes.where(discriminator=name, generator="batch") for name in DISCRIMINATORS}
    spectral = arms["spectral"]
    off, exact, above = (spectral.array(name).max(axis=1) for name in ("sigma", "sigma_converged", "slope_above_1"))
    near = "inception score 7.42 on CIFAR-10, plain convolutions; better than or equal to all others"
    text = "After many power iterations the largest singular value of every weight matrix is 1."
    yield judge(text, largest(exact, "from 1"), Exact(SIGMA), regime=Regime.OWN)
    text = "The score then changes by no more than the image does: no slope at a real or made image is above 1."
    yield judge(text, largest(above, "above 1"), Exact(SIGMA), regime=Regime.OWN)
    text = "One power iteration per step is enough: at the end of training the singular values are within 1 % of 1."
    yield judge(text, mean(off, "from 1"), Within(-SIGMA_OF_ONE_ITERATION, SIGMA_OF_ONE_ITERATION))
    for name in ("none", "mixed", "layer"):
        rule, words = (BETTER, "nearer to") if name == "none" else (NO_WORSE, "no farther from")
        than, within = f"{words} real ones than", f"with {DISCRIMINATORS[name]} in the discriminator"
        text = f"At the best setting of each, images with spectral norm are {than} {within}."
        nearer = ratio(_at_best(arms[name]), _at_best(spectral), "times smaller distance")
        yield judge(text, nearer, rule, near, obstacle=edge(settings, spectral, arms[name]))
        text = f"Over all settings, images with spectral norm are {than} {within}."
        robust = "robust at aggressive rates and momentum"
        yield judge(text, ratio(_over_all(arms[name]), _over_all(spectral), "times smaller distance"), rule, robust)
        text = f"At the high rate, spectral norm covers as many classes as there are {within}."
        classes, others = (arm.array("classes")[:, HIGH_RATE] for arm in (spectral, arms[name]))
        fewer = difference(classes, others, "classes")
        yield judge(text, fewer, AtLeast(CLASSES_FEWER, nothing=CLASSES_FEWER))
    longer = "Trained on at the usual setting, images with spectral norm"
    for name in ("none", "mixed"):
        text = f"{longer} are nearer to real ones than with {DISCRIMINATORS[name]} in the discriminator."
        yield judge(
            text, ratio(_longer(arms[name])[:, -1], _longer(spectral)[:, -1], "times smaller distance"), BETTER, near
        )
    text = "With batch norm in the discriminator, a batch of real and one of made images is better than one of both."
    yield judge(
        text,
        ratio(_at_best(arms["mixed"]), _at_best(arms["apart"]), "times smaller distance"),
        BETTER,
        says="Chintala et al. 2016",
        obstacle=edge(settings, arms["mixed"], arms["apart"]),
    )
    better = "a generator with batch norm makes better images than one without"
    for name in PLAIN:
        plain = outcomes.where(discriminator=name, generator="none")
        text = f"Against a discriminator with {DISCRIMINATORS[name]}, {better}."
        yield judge(
            text,
            ratio(_at_best(plain), _at_best(arms[name]), "times smaller distance"),
            BETTER,
            says="Radford et al. 2016",
            obstacle=edge(settings, plain, arms[name]),
        )


def _named(setting: tuple[float, float]) -> str:
    return f"rate {setting[0]:g}, momentum {setting[1]:g}"


PAIR = ("discriminator", "generator", "best setting")
MEASURED = ("distance", "classes", "over all", "high rate", "slope", "longer")


def _table(settings: Settings, outcomes: Outcomes) -> Table:
    rows = []
    for name, made_by in PAIRS:
        arm = outcomes.where(discriminator=name, generator=made_by)
        at, classes = best(arm), arm.array("classes")
        row = [DISCRIMINATORS[name], GENERATORS[made_by], _named(settings.adam[at])]
        row += [geometric(_at_best(arm), 2), average(classes[:, at], 1)]
        row += [geometric(_over_all(arm), 2), average(classes[:, HIGH_RATE], 1)]
        row += [geometric(arm.array("slope")[:, at], 2), geometric(_longer(arm)[:, -1], 2) if _longer(arm).size else ""]
        rows.append(row)
    any_arm = outcomes.where(discriminator="none", generator="batch")
    for name, words in (("real", "real training images"), ("shuffled", "pixels of different images")):
        away, classes = any_arm.array(name), any_arm.array(f"{name}_classes")
        rows.append([words, "", "", geometric(away, 2), average(classes, 1), "", "", "", ""])
    return table(
        f"Fréchet distance to test images and classes covered after {settings.looks[-1]} steps, at the best setting "
        "and in the geometric mean over all or at the high rate, the largest slope of the score at the best, and the "
        f"distance at the usual setting after {settings.longer[-1]} steps",
        rows,
        *((head, itemgetter(i)) for i, head in enumerate((*PAIR, *MEASURED))),
        seeds=len(any_arm),
        more=f", of distances and slopes the geometric one; the best of {len(settings.adam)} settings for each",
    )


def _figure(settings: Settings, outcomes: Outcomes) -> Figure:
    arms = {name: outcomes.where(discriminator=name, generator="batch") for name in DISCRIMINATORS}
    floor = float(np.exp(np.log(arms["none"].array("real")).mean()))
    panels = []
    for i in PANELS:
        lines = []
        for name, arm in arms.items():
            curves = np.hstack((arm.array("test")[:, i], *([_longer(arm)] if i == 0 else [])))
            at = (*settings.looks, *settings.longer)[: curves.shape[1]]
            lines.append(line(DISCRIMINATORS[name], at, np.log(curves), back=np.exp))
        panels.append(panel(_named(settings.adam[i]), lines, ((floor, "real"),)))
    title = "Fréchet distance of made images to test images, the generator with batch norm"
    caption = "Line: geometric mean over seeds; band: smallest to largest; mark: real training images."
    show = partial(figure, x_label="steps", y_label="distance", caption=caption)
    return show("distance_by_step", title, panels, x_scale="log", y_scale="log")
