"""A diagnosis as one self-contained page, for light and dark screens, phones and paper; it fetches and runs nothing."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from normwise import __version__
from normwise.doctor.diagnosis import Diagnosis
from normwise.errors import MissingExtra
from normwise.loading import write_whole
from normwise.report import wording
from normwise.report.diagnosis_plots import plots, strip


def write(diagnosis: Diagnosis, path: Path, *, title: str) -> None:
    """Write the page; an older one is replaced at once or, on an error, not touched.

    Args:
        diagnosis: the result of ``examine``.
        path: of the HTML file.
        title: the name of the model.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    html = render(diagnosis, title=title)
    write_whole(path, lambda name: _write(name, html))


def _write(name: str, html: str) -> None:
    Path(name).write_text(html, encoding="utf-8")


def render(diagnosis: Diagnosis, *, title: str) -> str:
    """The page as text; see ``write``.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    if find_spec("jinja2") is None:
        raise MissingExtra("jinja2", extra="lab")
    import jinja2
    import markupsafe

    room = files("normwise.report")
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({"diagnosis.html": (room / "diagnosis.html").read_text(encoding="utf-8")}),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda thing: thing if hasattr(thing, "__html__") else wording.printable(str(thing)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = (room / "page.css").read_text(encoding="utf-8") + (room / "diagnosis.css").read_text(encoding="utf-8")
    # Only the drawings and the style sheets enter the page unescaped; what is in the drawings was escaped there.
    drawings = [
        [(markupsafe.Markup(plot.svg), plot.caption) for plot in plots(finding, diagnosis.facts)]
        for finding in diagnosis.findings
    ]
    return environment.get_template("diagnosis.html").render(
        diagnosis=diagnosis,
        drawings=drawings,
        strip=strip(diagnosis.facts, diagnosis.findings),
        title=title,
        css=markupsafe.Markup(css),
        version=__version__,
    )
