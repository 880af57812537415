"""One self-contained HTML page: no network, no script, readable in light, in dark, on paper and on a phone."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from normwise.errors import MissingExtra
from normwise.lab.results import Result, Verdict
from normwise.lab.settling import FOUND
from normwise.report import columns, figures, looks, runs, wording
from normwise.report.templates import template


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
    known = {"wording": wording, "numeric": columns.numeric, "paragraphs": paragraphs, "title": wording.title}
    said = {
        "measured_on": list(dict.fromkeys(result.data for result in results if result.data)),
        "discovered": _discovered(results),
        "contradicted": [
            (statement, result, number)
            for number, result in enumerate(results, start=1)
            for statement in result.conclusion.statements
            if statement.verdict is Verdict.CONTRADICTED
        ],
    }
    return template("page.html", "page.css", **known).render(results=results, drawings=drawings, **said)


def _discovered(results: Sequence[Result]) -> str:
    """How many of the verdicts are left when all of the page are taken into account."""
    counts = [numbers for verdict, numbers in runs.count(wording.statements(results)).items() if verdict in FOUND]
    alone, together = (sum(numbers) for numbers in zip(*counts, strict=True))
    return (
        f"{alone} verdicts of {wording.plural(len(wording.statements(results)), 'statement')} at 95 % each; {together} "
        "of them are left when the rate of false ones among all is held at 5 % (Benjamini and Hochberg 1995)."
    )


def _drawings(result: Result, prefix: str, markup: Any) -> list[dict[str, Any]]:
    look = looks.styles(result.conclusion.figures)
    drawn = []
    for n, figure in enumerate(result.conclusion.figures):
        name = f"{prefix}-{n + 1}"
        drawn.append(
            {
                "id": name,
                "figure": figure,
                "panels": [markup(panel) for panel in figures.draw(figure, look, prefix=name)],
                "keys": [(key.label, markup(key.swatch)) for key in figures.legend(figure, look, prefix=name)],
            }
        )
    return drawn


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text in which blank lines stand between them; line breaks inside one mean nothing."""
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]
