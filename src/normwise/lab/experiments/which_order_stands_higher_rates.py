"""Batch norm before or after the activation: in convolutional networks, by the largest usable rate, and with tanh.

Question:
    Does batch normalization before the activation stand higher rates than after it, is it the more accurate order in
    convolutional networks as well, and does all this matter more with tanh than with ReLU?

Claim:
    "We add the BN transform immediately before the nonlinearity" (Ioffe & Szegedy 2015, section 3.2), in convolutional
    networks. After is better in CaffeNet, .499 against .474, and worse in GoogLeNet, .596 against .603 (Mishkin et al.
    2016). Teaching material says that before the activation it keeps training steady at high rates, and that it is for
    tanh and sigmoid above all, whose inputs it keeps where they are steep.

What would refute it:
    After the activation the largest usable rate is as high or higher; or neither batch normalization nor its order
    gains more with tanh than with ReLU.

Settings:
    A dense network of five hidden layers of 64 units, and a chain of three 3x3 convolutions of 8, 16 and 16 channels;
    ReLU with He's initial weights and tanh with Glorot's, scikit-learn's digits, batches of 60, 800 steps of gradient
    descent at rates 0.03, 0.1, 0.3, 1, 3, 10 and 30; the best is picked on validation images for each arm: none, batch
    norm before the activation, and after it. A rate is usable when the network learns at least .95 of what the one
    without normalization learns at its best rate, in the same seed.

Verdict:
    The largest usable rates are compared as a ratio, paired over seeds; 1.5 times reproduces "higher", with an interval
    above 1. Test accuracies are compared at the best rate of each; an order wins from 0.2 points on, and gains more
    with tanh from half a point on, with an interval above 0.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
    - D. Mishkin, N. Sergievskiy and J. Matas, Systematic evaluation of CNN advances on the ImageNet, 2016,
      arXiv:1606.02228, and the repository caffenet-benchmark.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from normwise.lab.data.splits import digits, in_pixels
from normwise.lab.design import Arm, Arms, DenseTraining, Grid, by_rate, gap, geometric, obstacle, on_both, table
from normwise.lab.design.curves import largest_usable
from normwise.lab.design.figures import Marks
from normwise.lab.design.targets import Target
from normwise.lab.intervals import Numbers, difference, ratio
from normwise.lab.networks.convolutional import Chain
from normwise.lab.networks.dense import Place, glorot, he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement
from normwise.lab.training.stacks import both
from normwise.lab.verdict import AtLeast, judge
from normwise.torch import BatchNorm2d

SAYS = "teaching material"
TOPIC = "placement"
DATA = DIGITS
ARCHITECTURE = "5 dense layers of 64 units, and 3 convolutions"
REGIME = Regime.OWN
TESTS = True
TAKES_DATA = True
HIGHER = 1.5
WINS = 0.2
MORE = 0.5
NETWORKS = {"dense": "dense", "convolutional": "convolutional"}
ORDERS = {"none": "none", "before": "before the activation", "after": "after it"}


@dataclass(frozen=True)
class Settings(DenseTraining):
    """Activations, rates and channels."""

    activations: tuple[str, ...] = ("relu", "tanh")
    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    steps: int = 800
    channels: tuple[int, ...] = (8, 16, 16)


QUICK = Settings(steps=150)
FULL = Settings(steps=3000)


@dataclass(frozen=True)
class Trial:
    """All rates of one network."""

    network: str
    activation: str
    order: str
    seed: int


GRID = Grid(Trial, network=NETWORKS, activation="activations", order=ORDERS)
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train at every rate."""
    data, std = digits(trial.seed), he if trial.activation == "relu" else glorot
    normalized, place = trial.order != "none", PLACES[trial.order]
    if trial.network == "dense":
        after = place == "after"
        stack = settings.stack(trial.seed, normalized, activation=trial.activation, std=std, after=after)
        settings.train(stack, data.train, trial.seed)
        return both(stack, data)
    norm = BatchNorm2d if normalized else None
    make = partial(
        Chain, widths=settings.channels, norm=norm, activation=trial.activation, place=place, std=std, seed=trial.seed
    )
    return settings.at_every_rate(make, data.train, trial.seed, on_both(data), batch=settings.batch)


PLACES: dict[str, Place] = {"none": "before", "before": "before", "after": "after"}


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the orders by their largest usable rates and at each one's best rate."""
    arms = GRID.arms(settings, outcomes)
    groups = arms.by("network", "activation")
    targets = {_kind(group["none"]): Target(group["none"]) for group in groups}
    title = f"Test accuracy after {settings.steps} steps, at every rate"

    def mark(group: Arms) -> Marks:
        level = Target(group["none"]).level
        return ((level, f"usable: {level:.2f}"),)

    statements = [text for group in groups for text in _statements(group)]
    if len(settings.activations) > 1:
        statements += [text for network in arms.by("network") for text in _more_with_tanh(network)]
    return Conclusion(
        statements=tuple(statements),
        table=table(
            f"Test accuracy in % after {settings.steps} steps, and the largest usable rate (geometric mean)",
            arms,
            ("network", lambda arm: arm["network"]),
            ("activation", lambda arm: arm["activation"]),
            ("batch norm", lambda arm: arm["order"]),
            ("best rate", lambda arm: arm.rate),
            ("test", lambda arm: arm.percent(2)),
            ("largest usable rate", lambda arm: geometric(_largest(arm, targets[_kind(arm)]), 2)),
        ),
        figures=(by_rate(title, groups, "{network}, {activation}", marks=mark),),
        caveats=(
            "Only the rates of the figure are tried, so that a ratio is known no better than their spacing; where the "
            "highest of all is usable, the true ratio is another one.",
            f"Three convolutions on images of {in_pixels()} are a small network; CaffeNet and GoogLeNet are not.",
            f"Everything gets {settings.steps} steps, and low rates may be late rather than bad.",
            "The mark is the mean over seeds; each seed has one of its own.",
        ),
    )


def _kind(arm: Arm) -> tuple[str, str]:
    return arm.values["network"], arm.values["activation"]


def _largest(arm: Arm, target: Target) -> Numbers:
    return largest_usable(target.at_every_rate(arm), arm.rates, target.share)


def _statements(group: Arms) -> Iterator[Statement]:
    activation = {"relu": "ReLU"}.get(group.words["activation"], group.words["activation"])
    of = f"{group.words['network'].capitalize()}, {activation}"
    before, after, target = group["before"], group["after"], Target(group["none"])
    text = f"{of}: batch normalization before the activation stands higher rates than after it."
    higher = ratio(_largest(before, target), _largest(after, target), "times higher rate")
    yield judge(text, higher, AtLeast(HIGHER, nothing=1.0), obstacle=target.obstacle())
    if group.words["network"] == "dense":
        return  # which order is more accurate there is the question of before_or_after_the_activation
    text = f"{of}: batch normalization before the activation is more accurate than after it."
    published, says = ".603 against .596, GoogLeNet; .474 against .499, CaffeNet", "Ioffe & Szegedy 2015, section 3.2"
    yield judge(text, gap(before, after), AtLeast(WINS), published, says, regime=Regime.ANOTHER)
    text = f"{of}: batch normalization after the activation is more accurate than before it."
    published, says = ".499 against .474, CaffeNet; .596 against .603, GoogLeNet", "Mishkin et al. 2016, CaffeNet"
    yield judge(text, gap(after, before), AtLeast(WINS), published, says, regime=Regime.ANOTHER)


def _more_with_tanh(network: Arms) -> Iterator[Statement]:
    of, edge = network.words["network"].capitalize(), obstacle(*network)

    def more(ours: str, theirs: str) -> tuple[Numbers, Numbers]:
        gains = (network[each, ours].points() - network[each, theirs].points() for each in ("tanh", "relu"))
        tanh, relu = gains
        return tanh, relu

    text = f"{of}: batch normalization before the activation gains more over none with tanh than with ReLU."
    yield judge(text, difference(*more("before", "none"), "points"), AtLeast(MORE), obstacle=edge)
    text = f"{of}: before the activation gains more over after it with tanh than with ReLU."
    yield judge(text, difference(*more("before", "after"), "points"), AtLeast(MORE), obstacle=edge)
    text = (
        f"{of}: batch normalization before the activation raises the largest usable rate more with tanh than with ReLU."
    )
    raised = [ratio_of(network, each) for each in ("tanh", "relu")]
    edge = next(filter(None, (Target(network[each, "none"]).obstacle() for each in ("tanh", "relu"))), "")
    yield judge(text, ratio(raised[0], raised[1], "times more"), AtLeast(HIGHER, nothing=1.0), obstacle=edge)


def ratio_of(network: Arms, activation: str) -> Numbers:
    """The factor by which batch normalization before the activation multiplies the largest usable rate."""
    target = Target(network[activation, "none"])
    return _largest(network[activation, "before"], target) / _largest(network[activation, "none"], target)
