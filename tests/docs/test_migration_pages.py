"""The pages for whoever comes from another package: their blocks run, and every name on the side of normwise exists."""

from __future__ import annotations

import contextlib
import io
import re
from functools import reduce
from pathlib import Path

import pytest

import normwise
import normwise.torch

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("coming_from_pytorch.md", "coming_from_other_packages.md")
BLOCKS = [
    pytest.param(block, id=f"{page} {number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_print_what_they_say(block: str) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block, {})
    promised = re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
    assert printed.getvalue().splitlines() == promised


@pytest.mark.parametrize("page", PAGES)
def test_every_name_of_normwise_exists(page: str) -> None:
    text = (DOCS / page).read_text("utf-8")
    names = set(re.findall(r"normwise((?:\.\w+)+)", text))
    assert len(names) >= 8
    for name in names:
        assert reduce(getattr, name.strip(".").split("."), normwise) is not None, name
    layers = {name for name in re.findall(r"\| `(?:nn\.)?(\w+Norm\w*)\(", text) if hasattr(normwise.torch, name)}
    assert "BatchNorm2d" in layers


@pytest.mark.parametrize("page", [*PAGES, "coming_from_keras.md"])
def test_a_page_says_old_call_new_call_what_changes_and_how_to_undo_it(page: str) -> None:
    """The page about several packages says so of each."""
    text = (DOCS / page).read_text("utf-8")
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:] if "other" in page else [text]
    assert len(parts) == (5 if "other" in page else 1)
    for part in parts:
        assert re.search(r"^\| with \w[^|]*\| with normwise \|$", part, re.MULTILINE), part[:40]
        assert re.search(r"^(?:## |\*\*)What changes in numbers", part, re.MULTILINE), part[:40]
        assert re.search(r"to undo it|^\| .*[Bb]ack with", part, re.IGNORECASE | re.MULTILINE), part[:40]
