"""The checks, found by listing their folder: what each of them is, and running them over facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from normwise.doctor.finding import Finding, Severity, Skipped
from normwise.doctor.not_in_keras import NOT_IN_KERAS
from normwise.errors import NormwiseError, UnknownName
from normwise.facts import ModelFacts

FOLDER = Path(__file__).parent / "checks"
MEASURED = (
    "`python -m benchmarks.doctor limits` measures healthy models; docs/evidence_of_the_doctor.md says how often a "
    "check is right"
)
"""The origin of the limits."""


class Check(Protocol):
    """A module in ``doctor/checks/``, named after the bad thing that it finds.

    Attributes:
        LIMITS: a name -> the limit, its unit, and where it comes from.
        REMEDY: code that works when pasted, where ``model``, ``batches`` and the other names of the user's call to
            ``examine`` are there, and ``dataset``, what the batches are of; a comment where no code can be told.
        LEFT: where the code does not do all: what is left to the user and why. A check has it, or examining again after
            the remedy finds nothing; ``left`` reads it.
        HIDES: names of checks whose findings on the same layers merely follow from one of this.
        ON: whether it runs unless asked for by name.
        PROOF: what the report draws: ``"statistics"``, ``"updates"``, ``"dropout"``, ``"gradients"``, ``"gain"``, or
            ``"limits"``, the numbers of the finding against their limits.
    """

    __name__: str
    __doc__: str
    LIMITS: dict[str, tuple[float, str, str]]
    REMEDY: str
    HIDES: tuple[str, ...]
    ON: bool
    PROOF: str

    def check(self, facts: ModelFacts) -> Iterator[Finding | Skipped]:
        """The findings, and what could not be told."""

    def sick(self) -> ModelFacts:
        """Facts of a model that has it."""

    def healthy(self) -> ModelFacts:
        """Facts of a model like it that has not."""


def names() -> list[str]:
    """The names of all checks.

    Example:
        >>> "stale_running_statistics" in names()
        True
    """
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


@cache
def load(name: str) -> Check:
    """One check by its name.

    Raises:
        UnknownName: there is none of that name.
    """
    if name not in names():
        raise UnknownName("check", name, names(), all_of_them="normwise.doctor.names()")
    return cast("Check", import_module(f"normwise.doctor.checks.{name}"))


def left(name: str) -> str:
    """The work that the remedy of a check leaves to the user, and why; empty where examining again finds nothing."""
    return str(getattr(load(name), "LEFT", ""))


def remedy(name: str) -> str:
    """The remedy of a check's own example.

    Example:
        >>> remedy("stale_running_statistics")
        'normwise.recalibrate(model, batches)'
    """
    found = next(each for each in load(name).check(load(name).sick()) if isinstance(each, Finding))
    return found.remedy


def chosen(only: Iterable[str] | None, allow: Iterable[str] | None) -> list[str]:
    """The names of the checks that are to run.

    Args:
        only: the names of the only ones, or None for all that need not be named; a string is one name.
        allow: the names of those that are not to run, or None.

    Raises:
        UnknownName: one of them does not exist.
        NormwiseError: they are no names, or no check is left.
    """
    only, allow = ([given] if isinstance(given, str) else given for given in (only, allow))
    for what, given in (("only", only), ("allow", allow)):
        if given is not None and not isinstance(given, Iterable):
            raise NormwiseError(f"{what} takes names of checks, received {given!r}: pass a list of them.")
    allow = allow or ()
    for name in (*(only or ()), *allow):
        load(name)  # or it does not exist
    wanted = [name for name in names() if load(name).ON] if only is None else list(only)
    if not wanted:
        raise NormwiseError(f"only must name a check, received {only!r}: name one, or pass None for all.")
    if {*wanted} <= {*allow}:
        raise NormwiseError(f"allow leaves out all checks, received {len(wanted)} of {len(wanted)} names: remove some.")
    return [name for name in wanted if name not in {*allow}]


def run(wanted: Iterable[str], facts: ModelFacts) -> tuple[list[Finding], list[Skipped]]:
    """The findings of the checks, without those that merely follow from another finding, the most expensive first.

    Args:
        wanted: names of checks.
        facts: what was observed.
    """
    found: list[Finding] = []
    skipped: list[Skipped] = []
    for name in wanted:
        if facts.framework == "keras" and name in NOT_IN_KERAS:
            skipped.append(Skipped(name, NOT_IN_KERAS[name]))
            continue
        for each in load(name).check(facts):
            (found if isinstance(each, Finding) else skipped).append(each)  # type: ignore[arg-type]  # told apart here
    kept = [rest for finding in found if (rest := _without_what_follows(finding, found)) is not None]
    return sorted(kept, key=_rank), skipped


def _without_what_follows(finding: Finding, found: list[Finding]) -> Finding | None:
    """A finding without the layers that another one explains; None where it merely follows."""
    hiding = [other for other in found if finding.check in load(other.check).HIDES and _weighs(other, finding)]
    if any(_hides(other, finding) for other in hiding):
        return None
    explained = {name for other in hiding for name in other.layers}
    return replace(finding, layers=tuple(name for name in finding.layers if name not in explained))


def _weighs(one: Finding, other: Finding) -> bool:
    """True if a finding may explain another one: what costs little explains no harm."""
    return one.severity is not Severity.NOTE or other.severity is Severity.NOTE


def _hides(one: Finding, other: Finding) -> bool:
    whole = not one.layers or not other.layers or {*other.layers} <= {*one.layers}
    return whole or one.layers[0] in other.layers or other.layers[0] in one.layers


def _rank(finding: Finding) -> tuple[int, float, str]:
    order = ["error", "warning", "note"].index(finding.severity)
    return order, -(finding.cost.size if finding.cost else 0.0), finding.check
