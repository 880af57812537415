"""The results of the examinations of a corpus: found or not, in which layer, and what was said without cause."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Z = 1.959964
"""The normal quantile of a two-sided interval of 95 %."""


@dataclass(frozen=True)
class Examined:
    """One examination.

    Args:
        name: of the operator, or of the state of a healthy model.
        check: that has to find it; empty for a healthy model.
        kind: of the model.
        seed: of the model.
        said: each error and warning: check, layers, severity.
        guilty: layers of which one has to be first; empty where it is the whole model.
        also: checks that are true of it, too.
        harm: what the fault costs, as a text.
        seconds: that the examination took.
        problem: an exception that ended it, or empty.
        data: the data set.
    """

    name: str
    check: str
    kind: str
    seed: int
    said: tuple[tuple[str, tuple[str, ...], str], ...]
    guilty: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    harm: str = ""
    seconds: float = 0.0
    problem: str = ""
    data: str = "digits"

    @property
    def found(self) -> bool:
        """True if the right check said it."""
        return any(check == self.check for check, _, _ in self.said)

    @property
    def right_layer(self) -> bool | None:
        """True if a guilty layer is first in what was found; None where nothing was found or it is the whole model."""
        if not self.found or not self.guilty:
            return None
        layers = next(layers for check, layers, _ in self.said if check == self.check)
        return bool(layers) and any(layers[0] == name or layers[0].endswith(f".{name}") for name in self.guilty)

    def without_cause(self) -> list[str]:
        """The checks that raised an error or warning which is not true of this model."""
        return [check for check, _, _ in self.said if check != self.check and check not in self.also]


@dataclass(frozen=True)
class Share:
    """A share, so many of so many, with the Wilson interval.

    Example:
        >>> print(Share(9, 10))
        0.90 (0.60 to 0.98)
    """

    hits: int
    of: int

    @property
    def value(self) -> float:
        """NaN of none."""
        return self.hits / self.of if self.of else math.nan

    def interval(self) -> tuple[float, float]:
        """Wilson's, of 95 %; everything where there was none."""
        if not self.of:
            return 0.0, 1.0
        n, p = self.of, self.hits / self.of
        middle, about = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n * n))
        low, high = (middle - about) / (1 + Z**2 / n), (middle + about) / (1 + Z**2 / n)
        return max(0.0, low), min(1.0, high)

    def __str__(self) -> str:
        if not self.of:
            return "–"
        low, high = self.interval()
        return f"{self.value:.2f} ({low:.2f} to {high:.2f})"


@dataclass(frozen=True)
class Score:
    """The score of a check.

    Args:
        check: its name, or what the line is of.
        cases: faults that it has to find.
        dropped: faults that did no harm and count for nothing.
        recall: found of the cases.
        precision: true errors and warnings of all that it raised, on sick and on healthy models.
        layer: the right one first, of those found that have a guilty layer.
        seconds: of an examination of its cases, the mean.
    """

    check: str
    cases: int
    dropped: int
    recall: Share
    precision: Share
    layer: Share
    seconds: float


def score(check: str, cases: Iterable[Examined], healthy: Iterable[Examined], dropped: int) -> Score:
    """The score of one check, or of all with an empty name.

    Args:
        check: its name; empty for all together.
        cases: sick models, of all checks.
        healthy: healthy ones.
        dropped: how many faults did no harm.
    """
    cases = list(cases)
    mine = [each for each in cases if check in {"", each.check}]
    true = sum(each.found for each in mine)
    false = sum(
        name in {check, *([name] if not check else [])} for each in [*cases, *healthy] for name in each.without_cause()
    )
    layers = [right for each in mine if (right := each.right_layer) is not None]
    return Score(
        check or "all", len(mine), dropped, Share(true, len(mine)), Share(true, true + false),
        Share(sum(layers), len(layers)), _mean([each.seconds for each in mine]),
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
