"""Does scaling the features make the valley of the loss round, so that gradient descent goes straight down?

Question:
    A linear regression on two features of very different scale: what do min-max scaling, standardization and a
    batch-norm layer in front change about the shape of its loss and about the path of gradient descent?

Claim:
    Without scaling the loss is a long valley in which the steps zigzag; with scaled features it is round and gradient
    descent goes straight to the minimum; min-max and z-score are two ways to the same end; a batch-norm layer does the
    same. This is in most textbooks. What is known of it: the rate that converges is bounded by the largest eigenvalue
    of the Hessian, and the steps grow with the ratio of the largest to the smallest, to which a mean that is not zero
    adds (LeCun et al. 1998, section 4.3). Standardization does not change how correlated features are.

What would refute it:
    The condition number falls by less than 10 times, or the steps by less than 5 times; or the batch-norm layer takes
    another path than standardized features.

Settings:
    scikit-learn's diabetes data (442 patients, features in their own units); each seed has a random half of the
    patients. The target, centred, is predicted by w1 x1 + w2 x2 from a pair of features: the logarithm of triglycerides
    and total cholesterol; and total and LDL cholesterol, which are correlated by .9. The loss is half the mean square;
    plain gradient descent on all patients from w = 0. Steps are counted until what the loss has above its own minimum
    is 1 % of what it was, at the best of 200 rates up to the largest that converges.

Verdict:
    Ratios, paired over seeds; a condition number counts as smaller from 10 times on, and steps as fewer from 5 times
    on; "as many steps" counts when the whole interval lies between .5 and 2, "straight" when the first step is at most
    10 degrees from the direction of the minimum, and is refuted from 45 degrees on. The paths of the layer and of
    standardized features count as one up to 1e-10 of the largest weight, in float64.

References:
    - Y. LeCun, L. Bottou, G. Orr and K.-R. Müller, Efficient BackProp, 1998.
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from normwise.lab.data.patients import half_of_them
from normwise.lab.design import average, table
from normwise.lab.intervals import Numbers, largest, mean, ratio
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Figure, Panel, Regime, Series, Statement, Table
from normwise.lab.training.valley import END, Valley, path_of_layer
from normwise.lab.verdict import AtLeast, AtMost, Exact, Within, judge

SAYS = "textbooks; LeCun et al. 1998, section 4.3"
TOPIC = "optimization"
DATA = "half of 442 patients with diabetes"
ARCHITECTURE = "linear regression on two features"
REGIME = Regime.OWN
SHARE = 1.0
"""Every seed leaves out as many patients as it takes."""
ROUNDER = 10.0
FASTER = 5.0
STRAIGHT, ASKEW = 10.0, 45.0
ROUNDING = 1e-10
SCALINGS = {"raw": "as they are", "min-max": "min-max", "standardized": "standardized"}
NAMES = {"s5": "log triglycerides", "s1": "total cholesterol", "s2": "LDL cholesterol"}
LEVELS = (0.1, 0.3, 0.6, 1.0)


@dataclass(frozen=True)
class Settings:
    """Pairs of features, by the names that scikit-learn gives them."""

    pairs: tuple[tuple[str, str], ...] = (("s5", "s1"), ("s1", "s2"))
    shown: int = 30
    """Steps of the paths that are drawn, and compared with the layer's."""


@dataclass(frozen=True)
class Trial:
    """One pair of features of one half of the patients."""

    first: str
    second: str
    seed: int


def trials(settings: Settings, seeds: Sequence[int]) -> list[Trial]:
    """Every pair with every seed."""
    return [Trial(first, second, seed) for first, second in settings.pairs for seed in seeds]


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """The valley of each scaling, the steps through it, and the path of the batch-norm layer."""
    x, y = half_of_them(trial.first, trial.second, trial.seed)
    found: dict[str, Any] = {"correlation": float(np.asarray(np.corrcoef(x.T))[0, 1])}
    for name in SCALINGS:
        valley = Valley.of(scaled(x, name), y)
        found[name] = valley.found(settings.shown)
    path = np.array(found["standardized"]["path"])
    layer = path_of_layer(x, y, found["standardized"]["rate"], settings.shown)
    found["layer"] = float(np.abs(layer - path).max() / np.abs(path).max())
    return {**found, **{f"{what}_{name}": found[name][what] for name in SCALINGS for what in MEASURED}}


MEASURED = ("condition", "steps", "rate", "degrees")


def scaled(x: Numbers, scaling: str) -> Numbers:
    """The features as they are, between 0 and 1, or with mean 0 and variance 1."""
    if scaling == "raw":
        return x
    low, high = x.min(axis=0), x.max(axis=0)
    return np.asarray((x - low) / (high - low) if scaling == "min-max" else (x - x.mean(axis=0)) / x.std(axis=0))


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Compare the scalings for every pair."""
    arms = {pair: outcomes.where(first=pair[0], second=pair[1]) for pair in settings.pairs}
    return Conclusion(
        statements=tuple(statement for pair, arm in arms.items() for statement in _statements(pair, arm)),
        table=_table(arms),
        figures=tuple(_figure(pair, arm, settings.shown) for pair, arm in arms.items()),
        caveats=(
            "What is compared is how the minimum is reached, not which: without an intercept, features that are not "
            "centred have another one, with a higher loss.",
            "Two weights, all patients in every step. In a deep network the layer goes on standardizing its inputs "
            "while the weights below change; whether that helps there is what the other experiments are about.",
        ),
    )


def _words(pair: tuple[str, str]) -> str:
    return " and ".join(NAMES.get(name, name) for name in pair)


def _statements(pair: tuple[str, str], arm: Outcomes) -> Iterator[Statement]:
    steps, condition = ({name: arm.array(f"{what}_{name}") for name in SCALINGS} for what in ("steps", "condition"))
    words = _words(pair)
    words = words[0].upper() + words[1:]
    for name in ("standardized", "min-max"):
        text = f"{words}, {name}: the condition number of the Hessian falls."
        yield judge(
            text,
            ratio(condition["raw"], condition[name], "times smaller condition number"),
            AtLeast(ROUNDER, nothing=1.0),
        )
        text = f"{words}, {name}: fewer steps are needed."
        yield judge(text, ratio(steps["raw"], steps[name], "times fewer steps"), AtLeast(FASTER, nothing=1.0))
    text = f"{words}: min-max needs as many steps as standardization."
    yield judge(
        text, ratio(steps["min-max"], steps["standardized"], "times the steps"), Within(0.5, 2.0), says="textbooks"
    )
    text = f"{words}, standardized: the first step goes straight towards the minimum."
    degrees = mean(arm.array("degrees_standardized"), "degrees")
    yield judge(text, degrees, AtMost(STRAIGHT, nothing=ASKEW), says="textbooks")
    text = f"{words}: a batch-norm layer in front takes the path of standardized features."
    yield judge(text, largest(arm.array("layer"), "of the largest weight"), Exact(ROUNDING))


def _table(arms: dict[tuple[str, str], Outcomes]) -> Table:
    return table(
        f"The Hessian's condition number, the best rate, the steps to {100 * END:g} % of the loss above the minimum, "
        "and the angle in degrees between the first step and the way there",
        [(pair, arm, name) for pair, arm in arms.items() for name in SCALINGS],
        ("features", lambda row: f"{_words(row[0])} (correlation {row[1].array('correlation').mean():.2f})"),
        ("scaled", lambda row: SCALINGS[row[2]]),
        ("condition number", lambda row: average(row[1].array(f"condition_{row[2]}"), 1)),
        ("best rate", lambda row: f"{row[1].array(f'rate_{row[2]}').mean():.2g}"),
        ("steps", lambda row: average(row[1].array(f"steps_{row[2]}"), 0)),
        ("first step askew", lambda row: average(row[1].array(f"degrees_{row[2]}"), 1)),
        seeds=len(next(iter(arms.values()))),
        of="halves of the patients",
    )


def _figure(pair: tuple[str, str], arm: Outcomes, shown: int) -> Figure:
    panels = []
    for name, words in SCALINGS.items():
        found = next(iter(arm))[1][name]  # of the first seed
        valley = Valley(np.array(found["hessian"]), np.array(found["minimum"]))
        far = float(np.linalg.norm(valley.minimum))
        contours = (valley.contour(level, far) for level in LEVELS)
        lines = [Series("equal loss", tuple(across.tolist()), tuple(up)) for across, up in contours]
        path = (np.array(found["path"]) - valley.minimum) / far
        lines.append(Series("gradient descent", tuple(path[:, 0].tolist()), tuple(path[:, 1].tolist())))
        panels.append(Panel(f"{words}: {found['steps']} steps", tuple(lines)))
    return Figure(
        name=f"path_{pair[0]}_{pair[1]}",
        title=f"The path down the valley: {_words(pair)}",
        caption=f"One half of the patients; the first {shown} steps at the best rate. The minimum is in the "
        "middle, one unit is the distance to it at the start. Contours: "
        + ", ".join(f"{level:g}" for level in LEVELS)
        + " times the loss at the start.",
        x_label="weight of the first feature, from the minimum",
        y_label="weight of the second feature, from the minimum",
        panels=tuple(panels),
    )
