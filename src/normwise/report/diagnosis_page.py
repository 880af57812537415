"""A diagnosis as one self-contained page, for light and dark screens, phones and paper; it fetches and runs nothing."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from normwise.doctor.diagnosis import Diagnosis
from normwise.doctor.finding import MOST_NAMED
from normwise.errors import MissingExtra
from normwise.loading import write_text_whole
from normwise.report.diagnosis_plots import plots, strip
from normwise.report.templates import template


def write(diagnosis: Diagnosis, path: Path, *, title: str) -> None:
    """Write the page; an older one is replaced at once or, on an error, not touched.

    Args:
        diagnosis: the result of ``examine``.
        path: of the HTML file.
        title: the name of the model.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    write_text_whole(path, render(diagnosis, title=title))


def render(diagnosis: Diagnosis, *, title: str) -> str:
    """The page as text; see ``write``.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    if find_spec("jinja2") is None:
        raise MissingExtra("jinja2", extra="lab")
    import markupsafe

    # Only the drawings and the style sheets enter the page unescaped; what is in the drawings was escaped there.
    drawings = [
        [(markupsafe.Markup(plot.svg), plot.caption) for plot in plots(finding, diagnosis.facts)]
        for finding in diagnosis.findings
    ]
    return template("diagnosis.html", "page.css", "diagnosis.css").render(
        diagnosis=diagnosis,
        drawings=drawings,
        strip=strip(diagnosis.facts, diagnosis.findings),
        title=title,
        most_named=MOST_NAMED,
    )
