"""The rules that turn an estimate into a verdict, and the same rules in words.

A rule is chosen in an experiment's file, before the numbers are there; nothing else decides.
"""

from __future__ import annotations

from dataclasses import dataclass

from normwise.lab.results import Estimate, Statement, Verdict


@dataclass(frozen=True)
class AtLeast:
    """For "the effect is there, and it is at least so large".

    *Holds*: the interval lies wholly above ``nothing``, and the estimate is at least ``size``. *Does not hold*: the
    interval lies wholly below ``size``, so that even its most favourable end is too small; an effect of the opposite
    sign is a case of this. *Undecided*: everything else, NaN included.

    Args:
        size: the least effect that counts, in the unit of the estimate.
        nothing: the value that stands for no effect: 0 for a difference, 1 for a ratio; not above ``size``.
    """

    size: float
    nothing: float = 0.0

    def verdict(self, effect: Estimate) -> Verdict:
        """What the rule says of an estimate."""
        if effect.low > self.nothing and effect.value >= self.size:
            return Verdict.HOLDS
        return Verdict.DOES_NOT_HOLD if effect.high < self.size else Verdict.UNDECIDED

    def words(self, unit: str) -> str:
        """The rule as a sentence."""
        return (
            f"holds: at least {_with(self.size, unit)}, and the 95 % interval is above {self.nothing:g}; "
            f"does not hold: the whole interval is below {_with(self.size, unit)}"
        )


@dataclass(frozen=True)
class AtMost:
    """The mirror of ``AtLeast``: "the effect is at most so large", ``nothing`` being above ``size``."""

    size: float
    nothing: float

    def verdict(self, effect: Estimate) -> Verdict:
        """What the rule says of an estimate."""
        if effect.high < self.nothing and effect.value <= self.size:
            return Verdict.HOLDS
        return Verdict.DOES_NOT_HOLD if effect.low > self.size else Verdict.UNDECIDED

    def words(self, unit: str) -> str:
        """The rule as a sentence."""
        return (
            f"holds: at most {_with(self.size, unit)}, and the 95 % interval is below {self.nothing:g}; "
            f"does not hold: the whole interval is above {_with(self.size, unit)}"
        )


@dataclass(frozen=True)
class Within:
    """For "there is no difference": an interval that contains 0 proves nothing, a narrow one around 0 does.

    *Holds*: the whole interval lies between ``low`` and ``high``. *Does not hold*: the whole interval lies outside, on
    one side. *Undecided*: it crosses an edge, or is NaN.
    """

    low: float
    high: float

    def verdict(self, effect: Estimate) -> Verdict:
        """What the rule says of an estimate."""
        if effect.low > self.low and effect.high < self.high:
            return Verdict.HOLDS
        return Verdict.DOES_NOT_HOLD if effect.low > self.high or effect.high < self.low else Verdict.UNDECIDED

    def words(self, unit: str) -> str:
        """The rule as a sentence."""
        span = f"between {self.low:.3g} and {_with(self.high, unit)}"
        return f"holds: the 95 % interval lies {span}; does not hold: it lies wholly outside"


def judge(text: str, effect: Estimate, rule: AtLeast | AtMost | Within, published: str = "") -> Statement:
    """A statement with the verdict that the rule gives, and the rule in words beside it."""
    return Statement(text, effect, rule.words(effect.unit), rule.verdict(effect), published)


def _with(number: float, unit: str) -> str:
    return f"{number:.3g}" if unit == "ratio" else f"{number:.3g} {unit}"
