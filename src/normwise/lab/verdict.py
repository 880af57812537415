"""The rules that turn an estimate into a verdict, and the same rules in words.

A rule is chosen in an experiment's file, before the numbers are there; nothing else decides. What the verdicts mean
stands in ``results.Verdict``.
"""

from __future__ import annotations

from dataclasses import dataclass

from normwise.lab.results import Estimate, Statement, Verdict


@dataclass(frozen=True)
class AtLeast:
    """For "the effect is there, and it is at least so large".

    *Reproduced*: the interval lies wholly above ``nothing``, and the estimate is at least ``size``. *Smaller than
    required*: the interval lies wholly above ``nothing``, and the estimate is below ``size``. *Contradicted*: the
    interval lies wholly below ``nothing``. *Not visible*: it contains ``nothing``, or is NaN.

    Args:
        size: the least effect that counts, in the unit of the estimate.
        nothing: the value that stands for no effect: 0 for a difference, 1 for a ratio; not above ``size``.
    """

    size: float
    nothing: float = 0.0

    def verdict(self, effect: Estimate) -> Verdict:
        """What the rule says of an estimate."""
        if effect.low > self.nothing:
            return Verdict.REPRODUCED if effect.value >= self.size else Verdict.SMALLER
        return Verdict.CONTRADICTED if effect.high < self.nothing else Verdict.NOT_VISIBLE

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
        """What the rule says of an estimate."""
        if effect.high < self.nothing:
            return Verdict.REPRODUCED if effect.value <= self.size else Verdict.SMALLER
        return Verdict.CONTRADICTED if effect.low > self.nothing else Verdict.NOT_VISIBLE

    def words(self, unit: str) -> str:
        """The rule as a sentence."""
        return (
            f"reproduced: at most {_with(self.size, unit)}, and the 95 % interval is below {self.nothing:g}; "
            f"contradicted: the interval is above {self.nothing:g}"
        )


@dataclass(frozen=True)
class Within:
    """For "there is no difference": an interval that contains 0 proves nothing, a narrow one around 0 does.

    *Reproduced*: the whole interval lies between ``low`` and ``high``. *Contradicted*: the whole interval lies outside,
    on one side. *Not visible*: it crosses an edge, so that it is too wide to say, or is NaN.
    """

    low: float
    high: float

    def verdict(self, effect: Estimate) -> Verdict:
        """What the rule says of an estimate."""
        if effect.low > self.low and effect.high < self.high:
            return Verdict.REPRODUCED
        return Verdict.CONTRADICTED if effect.low > self.high or effect.high < self.low else Verdict.NOT_VISIBLE

    def words(self, unit: str) -> str:
        """The rule as a sentence."""
        span = f"between {self.low:.3g} and {_number(self.high, unit)}"
        return f"reproduced: the 95 % interval lies {span}; contradicted: it lies wholly outside"


@dataclass(frozen=True)
class Exact:
    """For an identity, which is to be met by every seed: its largest deviation, from ``intervals.largest``.

    *Exact*: no deviation is above ``rounding``. *Contradicted*: one is, or is NaN.

    Args:
        rounding: the largest deviation that rounding explains, in the unit of the estimate.
    """

    rounding: float

    def verdict(self, effect: Estimate) -> Verdict:
        """What the rule says of the largest deviation."""
        return Verdict.EXACT if effect.high <= self.rounding else Verdict.CONTRADICTED

    def words(self, unit: str) -> str:
        """The rule as a sentence."""
        return f"exact: no seed deviates by more than {_with(self.rounding, unit)}; contradicted: one does"


def judge(
    text: str, effect: Estimate, rule: AtLeast | AtMost | Within | Exact, published: str = "", says: str = ""
) -> Statement:
    """A statement with the verdict that the rule gives, and the rule in words beside it.

    Args:
        text: the statement in plain words.
        effect: what was measured.
        rule: chosen before the numbers are there.
        published: the published number with its setting.
        says: who says so, where it is not the experiment's ``SAYS``.
    """
    return Statement(text, effect, rule.words(effect.unit), rule.verdict(effect), published, says)


def _with(number: float, unit: str) -> str:
    return _number(number, unit.removesuffix("s") if number == 1 else unit)


def _number(number: float, unit: str) -> str:
    return f"{number:.3g}" if unit in ("", "ratio") else f"{number:.3g} {unit}"
