"""A network that predicts stock prices, years after its training: what fresh statistics repair, and what they do not.

Question:
    A network learns to predict next month's price from the last twelve. Years later prices are many times higher. Is
    its error then one of scale, that fresh statistics of its input layer repair; and does it predict anything?

Claim:
    When the distribution of the inputs drifts, as stock prices do, a model on the old scale decays until normalization
    is refreshed: so it is taught. For time series in general, statistics of each window, taken out before and put back
    after the network, were proposed by Kim et al. (2022). That there is skill in either is nowhere claimed: the table
    has it, and no verdict is given on it.

What would refute it:
    The error on the old scale does not grow, or fresh statistics do not halve it.

Settings:
    matplotlib's sample prices of five stocks and two indices, monthly from 1990 to 2022, a network for each: a layer of
    batch normalization (one location and scale for all twelve prices), 32 tanh units, one output in the layer's units.
    118 windows for training, beginning in a month of 1990 or 1991 that the seed draws, the last fifth of them for
    choosing the rate among 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1 and 0.3; 400 steps of gradient descent on all windows.
    Then month by month to the end, without further training: by the statistics of training; by statistics that follow
    the inputs (a memory of 12 months, and a prior of 0, 1 and 16 windows of training); by those of each window. Two
    more: the same network on logarithms of the ratios of successive prices, and the last price repeated.

Verdict:
    Error: the median over months of |predicted - actual| / actual, its geometric mean over stocks; ratios, paired over
    seeds; they count from 2 on. In the table, skill: 1 - (mean squared error) / (that of repeating the last price),
    both relative to the last price, mean over stocks; direction: the share of months in which up or down is right, less
    that of always saying up.

References:
    - T. Kim, J. Kim, Y. Tae, C. Park, J.-H. Choi and J. Choo, Reversible Instance Normalization for Accurate
      Time-Series Forecasting against Distribution Shift, 2022.
    - Y. Li, N. Wang, J. Shi, J. Liu and X. Hou, Revisiting Batch Normalization For Practical Domain Adaptation, 2016,
      arXiv:1603.04779.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from normwise.lab.data.stock_prices import stocks
from normwise.lab.design import SPREAD, Grid, average, figure, line, panel, table
from normwise.lab.design.arms import at_an_edge
from normwise.lab.intervals import Numbers, ratio
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Figure, Regime, Statement, Table
from normwise.lab.training.forecast import scores, walk, windows_of
from normwise.lab.verdict import AtLeast, judge

SAYS = "teaching material; for windows Kim et al. 2022"
TOPIC = "drifting data"
DATA = "monthly prices of five stocks and two indices, 1990 to 2022"
ARCHITECTURE = "1 hidden layer of 32 tanh units"
REGIME = Regime.OWN
SHARE = 2.1
"""Months behind the training over those in it: seeds share most of both."""
GROWS = 2.0
YEARS = 20
"""So many pieces of twelve months, from the first month behind the training."""
PRIORS = {"prior_0": 0.0, "prior_1": 1.0, "prior_16": 16.0}
ARMS = {
    "fixed": "statistics of training",
    **{name: f"following, prior of {prior:g}" for name, prior in PRIORS.items()},
    "window": "statistics of each window",
    "ratios": "ratios of prices",
    "last": "the last price repeated",
}


@dataclass(frozen=True)
class Settings:
    """The network, its training, and how the statistics follow."""

    window: int = 12
    training: int = 118
    steps: int = 400
    rates: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    width: int = 32
    memory: float = 12.0
    stocks: int = 7


@dataclass(frozen=True)
class Trial:
    """All stocks with one start of the training and one set of initial weights."""

    seed: int


trials = Grid(Trial).trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train a network for each stock, and walk it through the years that follow."""
    start = int(np.random.default_rng(trial.seed).integers(24))
    found: dict[str, list[Any]] = {}
    for stock in stocks()[: settings.stocks]:
        windows, target = windows_of(stock.prices[start:], settings.window)
        last = windows[:, -1]
        predicted = walk(
            windows,
            target,
            training=settings.training,
            priors=PRIORS,
            memory=settings.memory,
            rates=settings.rates,
            steps=settings.steps,
            width=settings.width,
            seed=trial.seed,
        )
        behind = slice(settings.training, None)
        actual, last = target[behind], last[behind]
        found.setdefault("places", []).append(predicted["places"])
        for arm in ARMS:
            for what, value in scores(predicted[arm], actual, last, YEARS).items():
                found.setdefault(f"{arm}_{what}", []).append(value)
    return found


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Judge the error of scale and the skill apart."""
    return Conclusion(
        statements=tuple(_statements(settings, outcomes)),
        table=_table(outcomes),
        figures=(_figure(outcomes),),
        caveats=(
            f"{settings.stocks} stocks in the same three decades: another period could have been without a trend. The "
            "interval is over starts and initial weights, corrected for that they share most months, and holds nothing "
            "of the chance of the market.",
            "The stocks are among those that still exist, and mostly among those that did well: always saying up looks "
            "better than it could have been known to be.",
            "A prior is not forgotten: with a memory of 12 months, 16 windows of training keep more than half of the "
            "weight for ever.",
        ),
    )


def _error(outcomes: Outcomes, arm: str) -> Numbers:
    """Geometric mean over stocks, one per seed."""
    return np.asarray(np.exp(np.log(outcomes.array(f"{arm}_error")).mean(axis=1)))


def _mean(outcomes: Outcomes, arm: str, what: str) -> Numbers:
    return np.asarray(outcomes.array(f"{arm}_{what}").mean(axis=1))


def _over_years(outcomes: Outcomes, arm: str) -> Numbers:
    """Geometric mean over stocks: shape (seeds, years)."""
    return np.asarray(np.exp(np.log(outcomes.array(f"{arm}_at")).mean(axis=1)))


def _statements(settings: Settings, outcomes: Outcomes) -> Iterator[Statement]:
    fixed, places = _over_years(outcomes, "fixed"), outcomes.array("places")
    plain, own = (at_an_edge(places[..., kind].ravel(), settings.rates) for kind in (0, 1))
    text = f"On the old scale the error grows: in the {YEARS}th year behind the training against the first."
    grows = ratio(fixed[:, -1], fixed[:, 0], "times the error of the first year")
    yield judge(text, grows, AtLeast(GROWS, nothing=1.0), obstacle=plain)
    for arm in (*PRIORS, "window"):
        text = f"Fresh statistics ({ARMS[arm]}) make the error smaller."
        smaller = ratio(_error(outcomes, "fixed"), _error(outcomes, arm), "times smaller error")
        edge = plain or (own if arm == "window" else "")
        yield judge(text, smaller, AtLeast(GROWS, nothing=1.0), obstacle=edge)


def _table(outcomes: Outcomes) -> Table:
    return table(
        "Median error in % of the price, skill against repeating the last price, and right directions less those of "
        "always saying up, in points; each network with the best of the same rates",
        ARMS,
        ("normalized by", lambda arm: ARMS[arm]),
        ("error", lambda arm: average(100 * _error(outcomes, arm), 1)),
        ("skill", lambda arm: average(_mean(outcomes, arm, "skill"), 2)),
        ("direction", lambda arm: average(100 * _mean(outcomes, arm, "direction"), 1) if arm != "last" else ""),
        seeds=len(outcomes),
        of="starts and initial weights",
    )


def _figure(outcomes: Outcomes) -> Figure:
    lines = (line(words, range(1, YEARS + 1), 100 * _over_years(outcomes, arm)) for arm, words in ARMS.items())
    label = "years since the training"
    title = "The error of next month's price, by years since the training"
    caption = f"The median of every year, its geometric mean over stocks. {SPREAD} Below the last price repeated "
    show = partial(figure, x_label=label, y_label="error, % of the price", y_scale="log")
    return show("error_over_years", title, [panel("", lines)], caption=f"{caption}there would be skill.")
