"""Numbers and verdicts in words, the same ones on the page and in the terminal."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from normwise.lab.results import TOPICS, Estimate, Result, Statement, Verdict

SYMBOLS = {
    Verdict.REPRODUCED: "✓",
    Verdict.EXACT: "=",
    Verdict.SMALLER: "<",
    Verdict.NOT_VISIBLE: "?",
    Verdict.CONTRADICTED: "✗",
    Verdict.ELSEWHERE: "○",
    Verdict.OPEN: "·",
}
MEANINGS = {
    Verdict.REPRODUCED: "the whole interval is on the claim's side, and the effect has the size that the rule asks for",
    Verdict.EXACT: "an identity holds in every seed, up to rounding",
    Verdict.SMALLER: "the effect is smaller than the rule asks for, or there is none",
    Verdict.NOT_VISIBLE: "the interval is too wide to say: neither shown nor refuted",
    Verdict.CONTRADICTED: "the whole interval is against a published claim, in 10 seeds or more, and where it was made",
    Verdict.ELSEWHERE: "the same for a claim that was made for another kind of network, data or training",
    Verdict.OPEN: "the runs cannot decide, and the row says why",
}
"""The meaning of each verdict on a statement."""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_BEFORE = {"ratio": "ratio", "log10": "log₁₀"}  # units that are no units and read better in front
_OPPOSITES = {
    "fewer": "more",
    "less": "more",
    "more": "less",
    "smaller": "larger",
    "higher": "lower",
    "lower": "higher",
    "faster": "slower",
    "further": "nearer",
}
_NARROW_SPACE = "\u202f"
DECADES = 100.0
"""An interval whose ends are so many times apart has numbers of different sizes."""
_NAMES = {"l2": "L2", "gans": "GANs", "inception": "Inception"}
"""Words of experiments' names that are written otherwise in a sentence."""


def power_of_ten(exponent: int) -> str:
    """``10`` with the exponent in superscript digits.

    Example:
        >>> power_of_ten(-7)
        '10⁻⁷'
    """
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def number(value: float, decimals: int) -> str:
    """A number with a real minus sign, in scientific notation where that many decimals would not show it.

    Example:
        >>> number(-1.5, 2), number(0.00000013, 9), number(float("nan"), 1)
        ('−1.50', '1.3×10⁻⁷', '–')
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value and not 1e-3 <= abs(value) < 1e6 and abs(value) >= 10.0 ** -(decimals + 1):
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}×{power_of_ten(int(exponent))}".replace("-", "−")
    text = f"{value:,.{decimals}f}" if abs(value) >= 1e4 else f"{value:.{decimals}f}"
    if not text.strip("-0."):
        text = text.lstrip("-")  # a rounded −0.0 says nothing that 0.0 does not
    return text.replace(",", _NARROW_SPACE).replace("-", "−")


def decimals_for(estimate: Estimate) -> int:
    """The number of decimals that the interval deserves, enough that an end that is not zero does not look like it."""
    half = (estimate.high - estimate.low) / 2
    if not (math.isfinite(half) and half > 0):
        size = abs(estimate.value)
        return 0 if not math.isfinite(size) or size == 0 else max(0, 2 - math.floor(math.log10(size)))
    decimals = max(0, -math.floor(math.log10(half / 3)))
    if estimate.low * estimate.high > 0:
        smallest = min(abs(estimate.low), abs(estimate.high))
        decimals = max(decimals, -math.floor(math.log10(smallest)))
    return decimals


def value(estimate: Estimate) -> str:
    """The estimate with its unit; of a ratio below 1, the inverse with the opposite word.

    Example:
        >>> value(Estimate(2.345, 2.1, 2.6, 10, "points")), value(Estimate(4.27, 3.61, 5.02, 10, "ratio"))
        ('2.35 points', 'ratio 4.3')
        >>> value(Estimate(0.5, 0.4, 0.625, 10, "times fewer steps", log=True))
        '2.0 times more steps'
    """
    estimate = _turned(estimate)
    shown = _among(estimate, estimate.value)
    if estimate.unit in _BEFORE:
        return f"{_BEFORE[estimate.unit]} {shown}"
    return f"{shown} {estimate.unit}".rstrip()


def interval(estimate: Estimate) -> str:
    """The 95 % interval; one without width says what it comes from, as it is no proof that the number is exact.

    Example:
        >>> interval(Estimate(2.345, 2.1, 2.6, 10, "points"))
        '2.10 to 2.60'
        >>> interval(Estimate(0.0072, 2.9e-7, 183.07, 5, "times the size"))
        '2.9×10⁻⁷ to 183'
        >>> interval(Estimate(10.0, 10.0, 10.0, 5, "ratio"))
        'the same in every seed'
        >>> interval(Estimate(0.5, 0.4, 0.625, 10, "times fewer steps", log=True))
        '1.6 to 2.5'
    """
    if math.isclose(estimate.low, estimate.high, rel_tol=1e-9):
        return "the same in every seed"
    estimate = _turned(estimate)
    return f"{_among(estimate, estimate.low)} to {_among(estimate, estimate.high)}"


def _turned(estimate: Estimate) -> Estimate:
    """A ratio that is 1 or more: "2 times more steps" in the place of "0.5 times fewer steps"."""
    word, _, rest = estimate.unit.removeprefix("times ").partition(" ")
    if not (estimate.log and 0 < estimate.value < 1 and estimate.low > 0 and word in _OPPOSITES):
        return estimate
    opposite = "fewer" if word == "more" and rest.endswith("s") else _OPPOSITES[word]
    low, high = 1 / estimate.high, 1 / estimate.low
    return replace(estimate, value=1 / estimate.value, low=low, high=high, unit=f"times {opposite} {rest}".rstrip())


def _among(estimate: Estimate, shown: float) -> str:
    """A number of an estimate, with the decimals of all; with two digits of its own where they are decades apart."""
    apart = estimate.low > 0 and estimate.high >= DECADES * estimate.low and math.isfinite(shown)
    return number(shown, max(0, 1 - math.floor(math.log10(shown))) if apart else decimals_for(estimate))


def minus(text: str) -> str:
    """A text whose negative numbers have a real minus sign.

    Example:
        >>> minus("-1.5 [-2, -1], see 1-3")
        '−1.5 [−2, −1], see 1-3'
    """
    return re.sub(r"(?<![\w.)\]])-(?=\.?\d)", "−", text)


def statements(results: Iterable[Result]) -> list[Statement]:
    """All statements of all experiments, in their order."""
    return [statement for result in results for statement in result.conclusion.statements]


def count(results: Iterable[Result]) -> dict[Verdict, int]:
    """The number of statements with each verdict; verdicts that nothing got are listed with 0."""
    found = Counter(statement.verdict for statement in statements(results))
    return {verdict: found[verdict] for verdict in Verdict}


def by_topic(results: Iterable[Result]) -> list[Result]:
    """The results in the order of their topics, within one as they came; a topic of its own comes last."""
    places = {topic: place for place, topic in enumerate(TOPICS)}
    return sorted(results, key=lambda result: places.get(result.topic, len(TOPICS)))


def topics(results: Sequence[Result]) -> list[tuple[str, list[tuple[int, Result]]]]:
    """The results under their topics, each with its number from 1 on; they stand by topic already."""
    return [
        (topic, list(members))
        for topic, members in groupby(enumerate(results, start=1), key=lambda numbered: numbered[1].topic)
    ]


def who(statement: Statement, result: Result) -> str:
    """Who says so."""
    return statement.says or result.says


def plural(amount: int, noun: str) -> str:
    """``1 seed``, ``5 seeds``."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"


def title(name: str) -> str:
    """The name of an experiment, which is its question: ``should_l2_be_weaker`` becomes ``Should L2 be weaker?``."""
    words = " ".join(_NAMES.get(word, word) for word in name.split("_"))
    return words[:1].upper() + words[1:] + "?"


def seeds(numbers: Sequence[int]) -> str:
    """The seeds, shortened where they are a range.

    Example:
        >>> seeds((0, 1, 2, 3)), seeds((3, 5))
        ('0 to 3', '3, 5')
    """
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def setting(thing: Any) -> str:
    """A value of the settings or of the stamp in words.

    Example:
        >>> setting({"torch": "2.13.0", "rates": (0.1, 1.0)})
        'torch 2.13.0, rates 0.1, 1'
    """
    if isinstance(thing, bool):
        return "yes" if thing else "no"
    if thing is None:
        return "none"
    if isinstance(thing, float):
        return f"{thing:g}".replace("e-0", "e-").replace("e+0", "e+")
    if isinstance(thing, Mapping):
        return ", ".join(f"{key} {setting(item)}" for key, item in thing.items())
    if isinstance(thing, (list, tuple, set, frozenset)):
        return ", ".join(setting(item) for item in thing)
    return str(thing)


def printable(text: str) -> str:
    """The text without control characters, which no SVG, page or terminal should be given."""
    return "".join(letter for letter in text if unicodedata.category(letter) not in {"Cc", "Cs"} or letter == "\n")
