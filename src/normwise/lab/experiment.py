"""The parts of an experiment, the search for experiments, and the reading of their docstrings.

An experiment is one file in the folder ``experiments``, written on the frame in ``design``. The file name is its name
everywhere. It holds:

* a docstring: one sentence, then the sections in ``HEADINGS``;
* ``SAYS``, whose claim it is in a few words, and ``TOPIC``, one of ``results.TOPICS``;
* ``ARCHITECTURE`` and ``DATA``, what it is measured on, in a few words, and ``REGIME``, a ``results.Regime``: whether
  the claim was made there;
* ``Settings``, a frozen dataclass of plain values with defaults;
* ``Trial``, a frozen dataclass with a ``seed`` and whatever else tells one unit of work from another;
* ``trials(settings, seeds)``, which lists them;
* ``run(trial, settings)``, which does one and returns numbers by name (what JSON can hold);
* ``conclude(settings, outcomes)``, which turns all of them into a ``results.Conclusion``.

It may also hold ``QUICK`` and ``FULL``, smaller and larger ``Settings`` for ``--quick`` and ``--full``, and ``SEEDS``,
how many seeds it takes where ``SEEDS`` of this file are too few for a small effect; ``TAKES_DATA = True``, where it
gets its images from ``data`` and its networks from ``networks``, so that other images can take the digits' place;
``TESTS = True``, where each seed draws its own training and test images, so that seeds overlap, or ``SHARE``, what is
left out over what is taken, where they draw something else; ``TIMES = True``, where trials measure running times, which
no other trial may disturb; and ``NEIGHBOURING``, neighbouring ``Settings`` by name for ``--setting``, where other ones
are wanted than those that follow from the fields ``rates``, ``growth`` and ``width``.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from normwise.errors import MissingExtra, NormwiseError, UnknownName

if TYPE_CHECKING:  # outcomes need NumPy, and listing must not wait for it
    from normwise.lab.outcomes import Outcomes
    from normwise.lab.results import Conclusion

FOLDER = Path(__file__).parent / "experiments"
HEADINGS = ("Question", "Claim", "What would refute it", "Settings", "Verdict", "References")
SEEDS = 10
QUICK_SEEDS = 3
NEIGHBOURS = ("grid", "looks", "width")
"""The neighbouring settings that an experiment can have."""
LIBRARIES = ("torch", "sklearn")
"""Libraries of the experiments; looked for before an experiment is loaded, to name the extra that is missing."""


class Experiment(Protocol):
    """The names that an experiment's module has to define; see the head of this file."""

    SAYS: str
    TOPIC: str
    DATA: str
    ARCHITECTURE: str
    REGIME: Any
    Settings: Any
    Trial: Any

    def trials(self, settings: Any, seeds: Sequence[int]) -> list[Any]:
        """Every unit of work, in the order in which it is best begun."""

    def run(self, trial: Any, settings: Any) -> dict[str, Any]:
        """Do one unit of work; seeded by the trial alone."""

    def conclude(self, settings: Any, outcomes: Outcomes) -> Conclusion:
        """Statements, table and figures from everything that was measured."""


@dataclass(frozen=True)
class Description:
    """The docstring of an experiment, section by section; ``claim`` includes whose it is and where it stands."""

    name: str
    summary: str
    question: str
    claim: str
    refuted_by: str
    settings: str
    verdict: str
    references: tuple[str, ...]


def names(folder: Path = FOLDER) -> list[str]:
    """The experiments that exist, in alphabetical order.

    Args:
        folder: where to look; another one than the package's own serves tests.
    """
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def file(name: str, folder: Path = FOLDER) -> Path:
    """An experiment's file.

    Raises:
        UnknownName: no experiment is called so.
    """
    if name not in names(folder):
        raise UnknownName("experiment", name, names(folder), all_of_them="`normwise lab list`")
    return folder / f"{name}.py"


def describe(name: str, folder: Path = FOLDER) -> Description:
    """The question and the method of an experiment, read from its docstring without importing it.

    Raises:
        UnknownName: no experiment is called so.
        NormwiseError: the docstring lacks a section.
    """
    docstring = ast.get_docstring(ast.parse(file(name, folder).read_text(encoding="utf-8"))) or ""
    summary, sections = _sections(inspect.cleandoc(docstring))
    missing = [heading for heading in HEADINGS if not sections.get(heading)]
    if missing:
        wanted = ", ".join(f"'{heading}:'" for heading in missing)
        raise NormwiseError(f"the docstring of experiment {name!r} lacks {wanted}: write each as a heading with text.")
    words = {heading: " ".join(" ".join(lines).split()) for heading, lines in sections.items()}
    return Description(
        name=name,
        summary=summary,
        question=words["Question"],
        claim=words["Claim"],
        refuted_by=words["What would refute it"],
        settings=words["Settings"],
        verdict=words["Verdict"],
        references=_items(sections["References"]),
    )


def load(name: str, folder: Path = FOLDER) -> Experiment:
    """Import an experiment.

    Raises:
        UnknownName: no experiment is called so.
        MissingExtra: a library that experiments need is not installed.
    """
    path = file(name, folder)
    if folder == FOLDER:
        for library in LIBRARIES:
            if importlib.util.find_spec(library) is None:
                raise MissingExtra(library, extra="lab")
        return cast(Experiment, importlib.import_module(f"normwise.lab.experiments.{name}"))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # a file that exists and ends in .py always has a specification and a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up there
    spec.loader.exec_module(module)
    return cast(Experiment, module)


def settings_of(experiment: Experiment, *, quick: bool = False, full: bool = False) -> Any:
    """The settings of a run; an experiment without ``QUICK`` or ``FULL`` takes its ordinary ones."""
    if quick or full:
        return getattr(experiment, "QUICK" if quick else "FULL", None) or experiment.Settings()
    return experiment.Settings()


def seeds_of(experiment: Experiment, *, quick: bool = False) -> int:
    """The number of seeds that an experiment takes where the user gives none."""
    return QUICK_SEEDS if quick else int(getattr(experiment, "SEEDS", SEEDS))


def neighbours_of(experiment: Experiment) -> dict[str, Any]:
    """The neighbouring settings, at which a verdict should be the same: another grid, other looks, another width.

    *Grid*: rates between those of the settings, and one beyond at either end. *Looks*: half as many on a logarithmic
    scale. *Width*: layers half as wide again. An experiment whose settings lack such a field lacks that neighbour.

    Example:
        >>> from normwise.lab.experiments import does_it_allow_higher_learning_rates as experiment
        >>> list(neighbours_of(experiment))
        ['grid', 'width']
    """
    own = getattr(experiment, "NEIGHBOURING", None)
    if own is not None:
        return dict(own)
    settings, found = experiment.Settings(), {}
    if len(getattr(settings, "rates", ())) > 2:
        found["grid"] = replace(settings, rates=between(settings.rates))
    if hasattr(settings, "growth"):
        found["looks"] = replace(settings, growth=settings.growth**2)
    if hasattr(settings, "width"):
        found["width"] = replace(settings, width=settings.width * 3 // 2)
    return found


def between(rates: Sequence[float]) -> tuple[float, ...]:
    """Rates between some, in the geometric mean, and one beyond at either end.

    Example:
        >>> between((0.01, 0.1, 1.0))
        (0.0032, 0.032, 0.32, 3.2)
    """
    first, last = rates[0] ** 2 / rates[1], rates[-1] ** 2 / rates[-2]
    ends = pairwise((first, *rates, last))
    return tuple(float(f"{(low * high) ** 0.5:.2g}") for low, high in ends)


def takes_data(experiment: Experiment) -> bool:
    """True if a user's images can take the digits' place in the experiment."""
    return bool(getattr(experiment, "TAKES_DATA", False))


def measures_time(experiment: Experiment) -> bool:
    """True if the trials of an experiment measure running times, and have to run one at a time with no other beside."""
    return bool(getattr(experiment, "TIMES", False))


def _sections(docstring: str) -> tuple[str, dict[str, list[str]]]:
    """The first paragraph, and the indented lines under each known heading."""
    summary: list[str] = []
    sections: dict[str, list[str]] = {}
    lines = summary
    for line in docstring.splitlines():
        heading = line.removesuffix(":")
        if line.endswith(":") and heading in HEADINGS:
            lines = sections.setdefault(heading, [])
        elif line.strip():
            lines.append(line)
    return " ".join(" ".join(summary).split()), sections


def _items(lines: list[str]) -> tuple[str, ...]:
    """One item per line, its dash removed; a line that is indented deeper than the first continues the one before."""
    margin = len(lines[0]) - len(lines[0].lstrip())
    items: list[str] = []
    for line in lines:
        if len(line) - len(line.lstrip()) > margin and items:
            items[-1] += " " + line.strip()
        else:
            items.append(line.strip().removeprefix("- "))
    return tuple(items)
