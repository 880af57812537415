"""The site: `make site` builds docs/*.md into build/site with Sphinx, MyST and Furo.

Sphinx checks every link between pages and ends with an error where one leads nowhere; its search works without a
server. The pages stay plain Markdown that reads well without it: what the site needs beyond them is added here.
"""

import re
import sys
import tomllib
from collections import Counter
from pathlib import Path

from docutils import nodes  # type: ignore[import-untyped]  # it has no types
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT))
from docs.site import embedded  # noqa: E402 - the line above is for it

project = "normwise"
author = "The normwise developers"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath"]
myst_disable_syntax = ["myst_line_comment", "myst_block_break", "myst_target"]  # plain Markdown knows none of these
source_suffix = {".md": "markdown"}
exclude_patterns = ["**/source/**"]
html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"normwise {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["search.js"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
smartquotes_action = "qe"  # quotes and dots; a dash in the place of -- would spoil an option that is copied
myst_heading_anchors = 3
suppress_warnings = ["misc.highlighting_failure"]  # a fragment of output among code is shown as it is

# What people search for, by the page that answers it.
SEARCHED: dict[str, list[str]] = tomllib.loads((DOCS / "site/searched.toml").read_text("utf-8"))

TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
# How often a page has this title: two rooms may have the same name, such as a callback for Keras and for Lightning.
TITLED = Counter(
    found[1]
    for file in DOCS.rglob("*.md")
    if "source" not in file.parts and (found := TITLE.search(file.read_text("utf-8")))
)

# What the navigation holds, in this order: a caption, and pages or folders of pages.
NAVIGATION = {
    "For users": [
        "coming_from_pytorch",
        "coming_from_keras",
        "coming_from_other_packages",
        "swapping_norms",
        "training_on_several_processes",
        "deployment",
        "command_line",
    ],
    "Learn": ["learn/"],
    "Layers and operations": ["layers/", "functional/", "keras_layers/", "doors/", "estimators/"],
    "Doctor": ["cases", "checks/", "testing/", "reports", "diagnosis_json", "evidence_of_the_doctor"],
    "Callbacks": ["callbacks/lightning/", "callbacks/keras/"],
    "Lab": ["claims", "experiments/", "comparing"],
    "Speed": ["speed", "speed_of_the_family", "speed_with_keras", "speed_on_gpus", "zoo"],
    "For developers": ["architecture", "recipes", "changelog", "deprecations"],
}


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _with_navigation)
    app.connect("source-read", _with_searched)
    app.connect("source-read", _with_package)
    app.connect("builder-inited", lambda app: embedded.write(Path(app.outdir)))
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))


def _formula(writer: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Write MathML, which browsers draw by themselves: Sphinx's own way loads a script from elsewhere."""
    if isinstance(node, nodes.math_block):  # a wide one scrolls by itself on a phone
        writer.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>')
    else:
        writer.body.append(convert(node.astext(), display="inline"))
    raise nodes.SkipNode


def _with_navigation(_app: Sphinx, page: str, text: list[str]) -> None:
    """Give the first page the navigation, and the first page of each folder the pages beside it."""
    folder, _, name = page.rpartition("/")
    if page == "index":
        text[0] += "".join(_toctree(entries, caption) for caption, entries in NAVIGATION.items())
    elif page == "reports":
        before, mark, end = text[0].rpartition("\nRead next: ")
        text[0] = before + "".join(embedded.frames()) + mark + end
    elif name == "index":
        others = {path.stem for path in (DOCS / folder).glob("*.md")} - {"index"}
        listed = [each for each in re.findall(r"\]\((\w+)\.md\)", text[0]) if each in others]
        nested = sorted(f"{path.parent.name}/" for path in (DOCS / folder).glob("*/index.md"))
        text[0] += _toctree([*dict.fromkeys(listed), *sorted(others - {*listed}), *nested])


def _with_searched(_app: Sphinx, page: str, text: list[str]) -> None:
    """Make what people search for main entries of the page's index, behind its text."""
    if page in SEARCHED:
        text[0] += "".join(f"\n\n```{{index}} ! {words}\n```\n" for words in SEARCHED[page])


def _with_package(_app: Sphinx, _page: str, text: list[str]) -> None:
    """Give a page whose title another page has, too, the package of its name behind the title.

    The search and the navigation show titles only.
    """
    title = TITLE.search(text[0])
    if title and TITLED[title[1]] > 1 and (call := re.search(rf"\b(normwise[\w.]*)\.{re.escape(title[1])}\(", text[0])):
        text[0] = text[0].replace(title[0], f"{title[0]} ({call[1]})", 1)


def _toctree(entries: list[str], caption: str = "") -> str:
    pages = [f"{each}index" if each.endswith("/") else each for each in entries]
    head = ["", "", "```{toctree}", ":hidden:", *([f":caption: {caption}"] if caption else []), ""]
    return "\n".join([*head, *pages, "```", ""])
