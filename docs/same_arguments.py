"""Gives the page of a class the arguments of the class that its docstring refers to, so that a reader finds them there.

`BatchNorm2d` has the arguments of `BatchNorm1d`, which its docstring says in half a sentence. Its page is the one that
most users open, and shows them.
"""

import re
from pathlib import Path

SAME = re.compile(r"[Aa]rguments as `([A-Z]\w+)`(?:, without `(\w+)`)?")
ARGUMENTS = re.compile(r"^## Args\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)


def with_arguments(pages: dict[Path, str]) -> dict[Path, str]:
    """The pages of a folder, each with its link to the page that it takes its arguments from, and with these."""
    return {path: _completed(path, text, pages) for path, text in pages.items()}


def _completed(path: Path, text: str, pages: dict[Path, str]) -> str:
    refers = SAME.search(text)
    if not refers:
        return text
    text = text.replace(refers[0], refers[0].replace(f"`{refers[1]}`", f"[`{refers[1]}`]({refers[1]}.md)"))
    other = path.with_name(f"{refers[1]}.md")
    there = ARGUMENTS.search(_completed(other, pages[other], pages))
    if not there:
        raise SystemExit(f"{path} has the arguments of {refers[1]}, whose page has none.")
    without = re.sub(rf"^- `{refers[2]}`: .*\n(?:    .*\n)*", "", there[0], flags=re.MULTILINE)
    before, heading, behind = text.partition("\n## ")
    return f"{before}\n{without.rstrip()}\n{heading}{behind}"
