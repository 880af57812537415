"""The result of a check: a finding with the numbers that prove it, or why it could not be carried out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

MOST_NAMED = 4
"""The number of layers that a headline names."""


class Severity(StrEnum):
    """The severity of a finding: an error makes results wrong, a warning puts them at risk, a note costs little."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Number:
    """A measured number with its unit and the limit that it was held to.

    Args:
        value: what was measured.
        unit: for example ``"standard deviations"``; empty for a plain number.
        limit: the limit, or None where there is none.

    Example:
        >>> print(Number(3.07, "standard deviations", 0.25))
        3.07 standard deviations (limit 0.25)
    """

    value: float
    unit: str = ""
    limit: float | None = None

    def __str__(self) -> str:
        limit = "" if self.limit is None else f" (limit {self.limit:g})"
        return f"{self.value:.3g} {self.unit}".rstrip() + limit


@dataclass(frozen=True)
class Cost:
    """The cost of a finding: a number of the user's as it is, and with the remedy.

    Args:
        of: ``"loss"`` or ``"metric"``.
        now: as the model is.
        remedied: with the remedy.
    """

    of: str
    now: float
    remedied: float

    @property
    def size(self) -> float:
        """The difference that the remedy makes, as a share of the larger of both."""
        return abs(self.now - self.remedied) / (max(abs(self.now), abs(self.remedied)) or 1.0)

    def __str__(self) -> str:
        return f"{self.of} {self.now:.4g}, with the remedy {self.remedied:.4g}"


def named(layers: Sequence[str]) -> str:
    """Layers by their names, of many the first few; the model, where it is the only layer.

    Example:
        >>> named(["bn1"]), named(["a", "b", "c", "d", "e"])
        ("layer 'bn1'", "layers 'a', 'b', 'c', 'd' and 1 more")
    """
    if [*layers] == [""]:
        return "the model"
    first = ", ".join(map(repr, layers[:MOST_NAMED]))
    more = f" and {len(layers) - MOST_NAMED} more" if len(layers) > MOST_NAMED else ""
    return f"layer{'s' * (len(layers) > 1)} {first}{more}"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        check: the name of the check, which is the bad thing's.
        layers: paths in the model, the guilty one first; empty where it is the model or the data.
        severity: how bad.
        message: one plain sentence.
        evidence: a name -> the number, its unit and limit.
        remedy: code that works when pasted, a statement in a line; or a comment, where no code can be told.
        cost: of it, where it can be measured.
    """

    check: str
    layers: tuple[str, ...]
    severity: Severity
    message: str
    evidence: Mapping[str, Number] = field(default_factory=dict)
    remedy: str = ""
    cost: Cost | None = None

    @property
    def headline(self) -> str:
        """The check and where it is: of many layers the first few are named.

        Example:
            >>> from normwise.doctor import Finding, Severity
            >>> Finding("stale_running_statistics", ("0", "3"), Severity.ERROR, "They are stale.").headline
            "stale_running_statistics in layers '0', '3'"
        """
        if not self.layers:
            return self.check
        return f"{self.check} in {named(self.layers)}"


@dataclass(frozen=True)
class Skipped:
    """A check that could not be carried out, or a part of one.

    Args:
        check: its name.
        reason: one clause.
        part: what of the check was not carried out, after its name; empty for all of it.
    """

    check: str
    reason: str
    part: str = ""

    @property
    def what(self) -> str:
        """The check, and its part where the rest was carried out.

        Example:
            >>> from normwise.doctor import Skipped
            >>> Skipped("stale_running_statistics", "no loss was given", "in the model as a whole").what
            'stale_running_statistics in the model as a whole'
        """
        return f"{self.check} {self.part}".rstrip()
