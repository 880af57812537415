"""The site: `make site` builds docs/*.md into build/site with Sphinx, MyST and Furo.

Sphinx checks every link between pages and ends with an error where one leads nowhere; its search works without a
server. The pages stay plain Markdown that reads well without it: what the site needs beyond them is added here.
"""

import re
import tomllib
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

project = "normwise"
author = "The normwise developers"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["site/README*", "**/source/**"]
html_theme = "furo"
html_title = f"normwise {version}"
html_static_path: list[str] = []
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"sidebar_hide_name": False}
myst_heading_anchors = 3
suppress_warnings = ["misc.highlighting_failure"]  # a fragment of output among code is shown as it is

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
    "Layers and operations": ["layers/", "keras_layers/", "doors/", "estimators/"],
    "Doctor": ["cases", "checks/", "diagnosis_json", "evidence_of_the_doctor"],
    "Lab": ["claims", "experiments/", "comparing"],
    "Speed": ["speed", "speed_of_the_family", "speed_with_keras", "zoo"],
    "For developers": ["architecture", "recipes", "deprecations"],
}


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _with_navigation)


def _with_navigation(_app: Sphinx, page: str, text: list[str]) -> None:
    """Give the first page the navigation, and the first page of each folder the pages beside it."""
    folder, _, name = page.rpartition("/")
    if page == "index":
        text[0] += "".join(_toctree(entries, caption) for caption, entries in NAVIGATION.items())
    elif name == "index":
        linked = re.findall(r"\]\((\w+)\.md\)", text[0])  # what a reader shall read in an order is linked in that order
        pages = {path.stem for path in (DOCS / folder).glob("*.md") if path.stem != "index"}
        others = [name for name in dict.fromkeys(linked) if name in pages]
        others += sorted(pages - set(others))
        nested = sorted(path.parent.name for path in (DOCS / folder).glob("*/index.md"))
        text[0] += _toctree([*others, *(f"{each}/" for each in nested)])


def _toctree(entries: list[str], caption: str = "") -> str:
    pages = [f"{each}index" if each.endswith("/") else each for each in entries]
    head = ["", "", "```{toctree}", ":hidden:", *([f":caption: {caption}"] if caption else []), ""]
    return "\n".join([*head, *pages, "```", ""])
