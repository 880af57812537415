"""One self-contained HTML page: no network, no script, readable in light, in dark, on paper and on a phone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from normwise.errors import MissingExtra
from normwise.lab.results import Figure, Result, Verdict
from normwise.lab.settling import FOUND
from normwise.report import columns, figures, findings, looks, runs, wording
from normwise.report.templates import template

LEADING = (
    "does_it_allow_higher_learning_rates",
    "does_it_train_faster",
    "does_it_make_initialization_less_critical",
    "do_fresh_statistics_repair_drift",
)
"""Experiments whose first figures stand on the first screen, where they are on the page."""
FIRST = 3
"""The number of figures on the first screen."""


def require() -> None:
    """Checks that a page could be written, before the minutes that the results take.

    Raises:
        MissingExtra: jinja2 or matplotlib is not installed.
    """
    for library in ("jinja2", "matplotlib"):
        if find_spec(library) is None:
            raise MissingExtra(library, extra="lab")


def write(results: Sequence[Result], path: Path) -> None:
    """Writes the page; an older one is replaced at once or, on an error, not touched.

    Args:
        results: what the experiments concluded; on the page they stand by topic.
        path: of the HTML file; folders above it are made where they are missing.

    Raises:
        ValueError: there is no result to show.
        MissingExtra: jinja2 or matplotlib is not installed.
        OSError: the file cannot be written.
    """
    html = render(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_text(html, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def render(results: Sequence[Result]) -> str:
    """The page as text; see :func:`write`."""
    if not results:
        raise ValueError("there is no result to show on the page: run at least one experiment first")
    require()
    import markupsafe

    results = [runs.current(result) for result in wording.by_topic(results)]
    # Only the drawings and the style sheet enter the page unescaped; ElementTree has escaped what is in the drawings.
    drawings = [_drawings(result, f"figure-{n + 1}", markupsafe.Markup) for n, result in enumerate(results)]
    leading = _leading(results, markupsafe.Markup)
    known = {"wording": wording, "numeric": columns.numeric, "paragraphs": paragraphs, "title": wording.title}
    said = {
        "findings": findings.shown(runs.gathered(results), one_run=True),
        "number": {result.experiment: number for number, result in enumerate(results, start=1)},
        "measured_on": list(dict.fromkeys(result.data for result in results if result.data)),
        "discovered": _discovered(results),
        "contradicted": [
            (statement, result, number)
            for number, result in enumerate(results, start=1)
            for statement in result.conclusion.statements
            if statement.verdict is Verdict.CONTRADICTED
        ],
    }
    return template("page.html", "page.css", **known).render(
        results=results, drawings=drawings, leading=leading, **said
    )


def _discovered(results: Sequence[Result]) -> str:
    """The number of verdicts that are left when all of the page are taken into account."""
    counts = [numbers for verdict, numbers in runs.count(wording.statements(results)).items() if verdict in FOUND]
    alone, together = (sum(numbers) for numbers in zip(*counts, strict=True))
    return (
        f"{alone} verdicts of {wording.plural(len(wording.statements(results)), 'statement')} at 95 % each; {together} "
        "of them are left when the rate of false ones among all is held at 5 % (Benjamini and Hochberg 1995)."
    )


def _leading(results: Sequence[Result], markup: Any) -> list[dict[str, Any]]:
    """The first panel of some figures of different experiments, for the first screen; none where there is but one."""
    having = [(number, result) for number, result in enumerate(results, start=1) if result.conclusion.figures]
    if len(having) < 2:
        return []  # its own figures stand on the first screen
    places = {name: place for place, name in enumerate(LEADING)}
    having.sort(key=lambda each: places.get(each[1].experiment, len(places)))
    drawn = []
    for number, result in having[:FIRST]:
        figure = next(iter(result.conclusion.figures))
        look = looks.styles(result.conclusion.figures)
        figure = replace(figure, panels=figure.panels[:1])
        drawn.append({"number": number, "result": result} | _drawing(figure, look, f"leading-{number}", markup))
    return drawn


def _drawings(result: Result, prefix: str, markup: Any) -> list[dict[str, Any]]:
    look = looks.styles(result.conclusion.figures)
    every = enumerate(result.conclusion.figures, start=1)
    return [_drawing(figure, look, f"{prefix}-{n}", markup) for n, figure in every]


def _drawing(figure: Figure, look: Mapping[str, looks.Style], name: str, markup: Any) -> dict[str, Any]:
    return {
        "id": name,
        "figure": figure,
        "panels": [markup(panel) for panel in figures.draw(figure, look, prefix=name)],
        "keys": [(key.label, markup(key.swatch)) for key in figures.legend(figure, look, prefix=name)],
    }


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text in which blank lines stand between them; line breaks inside one mean nothing."""
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]
