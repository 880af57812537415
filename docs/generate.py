"""Writes the pages of docs/ that are generated from the code; with `--check`, says which of them are stale.

A page per experiment and per estimator comes from the member's docstring, and `command_line.md` from every `--help`.
The sources are read, not imported (all but the command line), so this needs none of the extras.
"""

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
NOTICE = "<!-- Generated from {source} by `make docs`; edit it there. -->\n\n"
SECTION = re.compile(r"^([A-Z][^:.]*):$")
FORMULA = re.compile(r"^( *)\.\. math::(.*(?:\n(?:\1 +.*)?(?=\n|\Z))*)", re.MULTILINE)
ARGUMENT = re.compile(r"^(\*{0,2}\w+)(?: \([^)]*\))?: ")
# The files of a family's folder that are not members of it.
FRAMES = {"__init__", "estimator"}


def pages(root: Path) -> dict[Path, str]:
    """Every generated page, by its path under ``root``, with the text that it should have."""
    wanted = {}
    for folder, family in (("lab/experiments", "experiments"), ("estimators", "estimators")):
        for source in members(root / "src/normwise" / folder):
            wanted[Path("docs", family, f"{source.stem}.md")] = member_page(source, root)
    if (root / "src/normwise/cli.py").exists():
        wanted[Path("docs/command_line.md")] = command_line_page()
    return wanted


def members(folder: Path) -> list[Path]:
    """The files of a family, found by listing its folder."""
    return sorted(path for path in folder.glob("*.py") if path.stem not in FRAMES and not path.stem.startswith("_"))


def member_page(source: Path, root: Path) -> str:
    """The page of an experiment (its module's docstring) or of an estimator (its only public class's)."""
    module = ast.parse(source.read_text(encoding="utf-8"))
    classes = [node for node in module.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    node: ast.Module | ast.ClassDef = module
    call = f"normwise lab run {source.stem}"
    if source.parent.name == "estimators":
        if len(classes) != 1:
            raise SystemExit(f"{source} must define one public class, the estimator, and defines {len(classes)}.")
        node = classes[0]
        call = f"normwise.estimators.{node.name}"
    docstring = ast.get_docstring(node)
    if not docstring:
        raise SystemExit(f"{source} has no docstring to make its page from.")
    title = source.stem.replace("_", " ").capitalize()
    notice = NOTICE.format(source=source.relative_to(root).as_posix())
    return f"{notice}# {title}\n\n`{call}`\n\n{markdown(docstring)}"


def markdown(docstring: str) -> str:
    """A Google-style docstring as Markdown: sections become headings, arguments lists, examples code."""
    heading, parts = "", list[str]()
    for paragraph in re.split(r"\n\n(?=\S)", docstring):
        first, _, rest = paragraph.partition("\n")
        if found := SECTION.match(first):
            heading = found[1]
            parts.append(f"## {heading}")
            paragraph = textwrap.dedent(rest)
        parts.append("\n".join(section_lines(FORMULA.sub(displayed, paragraph), heading)))
    page = "\n\n".join(parts) + "\n"
    page = re.sub(r":math:`([^`]*)`", r"$\1$", page)
    return re.sub(r"(?<!`)``(?!`)", "`", page)


def displayed(formula: re.Match[str]) -> str:
    """A formula as GitHub's Markdown displays it."""
    lines = [line.strip() for line in formula[2].splitlines() if line.strip()]
    return "\n".join(formula[1] + line for line in ["$$", *lines, "$$"])


def section_lines(body: str, heading: str) -> Iterator[str]:
    """The lines of one section, with its examples fenced and its arguments as a list."""
    in_example = False
    for line in body.splitlines():
        if line.startswith(">>>") and not in_example:
            in_example = True
            yield "```python"
        if in_example and not line:
            in_example = False
            yield "```"
        is_argument = heading in ("Args", "Attributes", "Raises") and ARGUMENT.match(line)
        yield ARGUMENT.sub(r"- `\1`: ", line) if is_argument else line
    if in_example:
        yield "```"


def command_line_page() -> str:
    """The `--help` of the command and of every subcommand, in the order in which `--help` names them."""
    from normwise.cli import main  # only this page needs the package installed

    notice = NOTICE.format(source="src/normwise/cli.py")
    return f"{notice}# Command line\n" + "".join(command_sections(main, "normwise", None))


def command_sections(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    """A heading and the help of a command, then those of its subcommands."""
    context = click.Context(command, info_name=name, parent=parent, terminal_width=100, max_content_width=100)
    yield f"\n## {context.command_path}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for child_name in command.list_commands(context):
            child = command.get_command(context, child_name)
            if child is not None and not child.hidden:
                yield from command_sections(child, child_name, context)


def troubles(root: Path, wanted: dict[Path, str]) -> list[str]:
    """One sentence for every page that is missing, stale or left over from a member that is gone."""
    found = []
    for page, text in wanted.items():
        if not (root / page).exists():
            found.append(f"{page} is missing; run `make docs`.")
        elif (root / page).read_text(encoding="utf-8") != text:
            found.append(f"{page} is stale; run `make docs`.")
    return found + [f"{page} has no source any more; run `make docs`." for page in orphans(root, wanted)]


def orphans(root: Path, wanted: dict[Path, str]) -> list[Path]:
    """The pages in the generated folders that nothing generates."""
    there = [
        page.relative_to(root)
        for family in ("experiments", "estimators")
        for page in (root / "docs" / family).glob("*.md")
    ]
    return sorted(set(there) - set(wanted))


def main(root: Path, *, check: bool) -> int:
    """Writes the pages, or only checks them; returns the exit code."""
    wanted = pages(root)
    if check:
        found = troubles(root, wanted)
        print("\n".join(found) or f"The {len(wanted)} generated pages are current.")
        return 1 if found else 0
    for page in orphans(root, wanted):
        (root / page).unlink()
        print(f"removed {page}")
    for page, text in wanted.items():
        (root / page).parent.mkdir(parents=True, exist_ok=True)
        (root / page).write_text(text, encoding="utf-8")
    print(f"wrote {len(wanted)} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main(ROOT, check="--check" in sys.argv[1:]))
