"""The rules that turn an estimate into a verdict, and the same rules in words.

A rule is chosen in an experiment's file; nothing else decides. What the verdicts mean stands in ``results.Verdict``.
A rule says what one estimate says; ``settling.py`` says whether that may be a verdict.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import nan

from normwise.lab.intervals import probability
from normwise.lab.results import Estimate, Regime, Statement, Verdict


@dataclass(frozen=True)
class AtLeast:
    """The rule for "the effect is there", where effects below some size are of no interest.

    *Reproduced*: the interval lies wholly above ``nothing``, and the estimate is at least ``size``. *Not as large
    as required*: the interval lies wholly above ``nothing`` and the estimate is below ``size``, or the whole interval
    is below ``size``. *Contradicted*: the interval lies wholly below ``nothing``. *Not visible*: otherwise, or NaN.

    Args:
        size: the least effect that counts, in the unit of the estimate.
        nothing: the value that stands for no effect: 0 for a difference, 1 for a ratio; not above ``size``.
    """

    size: float
    nothing: float = 0.0

    def verdict(self, effect: Estimate) -> Verdict:
        """The verdict of the rule on an estimate."""
        if effect.low > self.nothing and effect.value >= self.size:
            return Verdict.REPRODUCED
        if effect.high < self.nothing:
            return Verdict.CONTRADICTED
        return Verdict.SMALLER if effect.low > self.nothing or effect.high < self.size else Verdict.NOT_VISIBLE

    def p(self, effect: Estimate) -> float:
        """The level at which the interval would just leave out "no effect"."""
        return probability(effect, self.nothing)

    def words(self, unit: str) -> str:
        """The rule as a sentence."""
        return (
            f"reproduced: at least {_with(self.size, unit)}, and the 95 % interval is above {self.nothing:g}; "
            f"contradicted: the interval is below {self.nothing:g}"
        )


@dataclass(frozen=True)
class AtMost:
    """The mirror of ``AtLeast``: "the effect is at most so large", ``nothing`` being not below ``size``."""

    size: float
    nothing: float = 0.0

    def verdict(self, effect: Estimate) -> Verdict:
        """The verdict of the rule on an estimate."""
        turned = replace(effect, value=-effect.value, low=-effect.high, high=-effect.low)
        return AtLeast(-self.size, -self.nothing).verdict(turned)

    def p(self, effect: Estimate) -> float:
        """The level at which the interval would just leave out "no effect"."""
        return probability(effect, self.nothing)

    def words(self, unit: str) -> str:
        """The rule as a sentence."""
        return (
            f"reproduced: at most {_with(self.size, unit)}, and the 95 % interval is below {self.nothing:g}; "
            f"contradicted: the interval is above {self.nothing:g}"
        )


@dataclass(frozen=True)
class Reaches:
    """The rule for a statement that names the size itself, "at least five times": less than that refutes it.

    *Reproduced*: the whole interval is at ``size`` or above. *Contradicted*: the whole interval is below. *Not
    visible*: it contains ``size``, or is NaN.
    """

    size: float

    def verdict(self, effect: Estimate) -> Verdict:
        """The verdict of the rule on an estimate."""
        if effect.low >= self.size:
            return Verdict.REPRODUCED
        return Verdict.CONTRADICTED if effect.high < self.size else Verdict.NOT_VISIBLE

    def p(self, effect: Estimate) -> float:
        """The level at which the interval would just leave out the size."""
        return probability(effect, self.size)

    def words(self, unit: str) -> str:
        """The rule as a sentence."""
        size = _with(self.size, unit)
        return f"reproduced: the 95 % interval is at {size} or above; contradicted: it is below"


@dataclass(frozen=True)
class StaysBelow:
    """The mirror of ``Reaches``, for "at most a fifth" and "no more than half"."""

    size: float

    def verdict(self, effect: Estimate) -> Verdict:
        """The verdict of the rule on an estimate."""
        if effect.high <= self.size:
            return Verdict.REPRODUCED
        return Verdict.CONTRADICTED if effect.low > self.size else Verdict.NOT_VISIBLE

    def p(self, effect: Estimate) -> float:
        """The level at which the interval would just leave out the size."""
        return probability(effect, self.size)

    def words(self, unit: str) -> str:
        """The rule as a sentence."""
        size = _with(self.size, unit)
        return f"reproduced: the 95 % interval is at {size} or below; contradicted: it is above"


@dataclass(frozen=True)
class Within:
    """The rule for "there is no difference": an interval that contains 0 proves nothing, a narrow one around 0 does.

    *Reproduced*: the whole interval lies between ``low`` and ``high``. *Contradicted*: the whole interval lies outside,
    on one side. *Not visible*: it crosses an edge, so that it is too wide to say, or is NaN.
    """

    low: float
    high: float

    def verdict(self, effect: Estimate) -> Verdict:
        """The verdict of the rule on an estimate."""
        if effect.low > self.low and effect.high < self.high:
            return Verdict.REPRODUCED
        return Verdict.CONTRADICTED if effect.low > self.high or effect.high < self.low else Verdict.NOT_VISIBLE

    def p(self, effect: Estimate) -> float:
        """The level at which the interval would just touch the nearest edge."""
        return max(probability(effect, self.low), probability(effect, self.high))

    def words(self, unit: str) -> str:
        """The rule as a sentence."""
        span = f"between {self.low:.3g} and {_number(self.high, unit)}"
        return f"reproduced: the 95 % interval lies {span}; contradicted: it lies wholly outside"


@dataclass(frozen=True)
class Exact:
    """The rule for an identity, which every seed is to meet: its largest deviation, from ``intervals.largest``.

    *Exact*: no deviation is above ``rounding``. *Contradicted*: one is, or is NaN.

    Args:
        rounding: the largest deviation that rounding explains, in the unit of the estimate.
    """

    rounding: float

    def verdict(self, effect: Estimate) -> Verdict:
        """The verdict of the rule on the largest deviation."""
        return Verdict.EXACT if effect.high <= self.rounding else Verdict.CONTRADICTED

    def p(self, effect: Estimate) -> float:  # noqa: ARG002  # every rule has the same methods
        """NaN: an identity is met or not."""
        return nan

    def words(self, unit: str) -> str:
        """The rule as a sentence."""
        return f"exact: no seed deviates by more than {_with(self.rounding, unit)}; contradicted: one does"


Rule = AtLeast | AtMost | Reaches | StaysBelow | Within | Exact


def judge(
    text: str,
    effect: Estimate,
    rule: Rule,
    published: str = "",
    says: str = "",
    *,
    regime: Regime | None = None,
    obstacle: str = "",
) -> Statement:
    """A statement with what the rule says of the estimate, and the rule in words beside it.

    Args:
        text: the statement in plain words, which name no number that was measured.
        effect: what was measured.
        rule: what decides.
        published: the published number with its setting.
        says: who says so, where it is not the experiment's ``SAYS``.
        regime: whether it is tried where it was made, where that is not the experiment's ``REGIME``.
        obstacle: why no verdict can rest on it, where ``gap`` does not know; or empty.
    """
    effect = replace(effect, obstacle=obstacle) if obstacle else effect
    alone = replace(effect, low=effect.value, high=effect.value)
    verdict, tends = rule.verdict(effect), rule.verdict(alone)
    return Statement(text, effect, rule.words(effect.unit), verdict, published, says, regime, tends, rule.p(effect))


def _with(number: float, unit: str) -> str:
    return _number(number, unit.removesuffix("s") if number == 1 and not unit.startswith("times") else unit)


def _number(number: float, unit: str) -> str:
    return f"{number:.3g}" if unit in ("", "ratio") else f"{number:.3g} {unit}"
