"""The templates of the pages, in which everything is escaped but what is marked, and the style sheets."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from normwise import __version__
from normwise.report import wording

if TYPE_CHECKING:
    import jinja2

ROOM = files("normwise.report")


def template(name: str, *sheets: str, **known: Any) -> jinja2.Template:
    """A template of this room, that knows the version and ``css``, the text of style sheets.

    Args:
        name: of the file.
        sheets: the names of the style sheets, in order.
        **known: what it knows besides.
    """
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.DictLoader({name: (ROOM / name).read_text(encoding="utf-8")}),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda thing: thing if hasattr(thing, "__html__") else wording.printable(str(thing)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = "".join((ROOM / sheet).read_text(encoding="utf-8") for sheet in sheets)
    environment.globals.update(css=markupsafe.Markup(css), version=__version__, **known)
    environment.filters["groupby_topic"] = wording.topics
    return environment.get_template(name)
