"""The page of the command line: `command_line.md`, from every `--help`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from docs.tour import NOTICE


def page() -> str:
    """The exit codes, and the `--help` of every command, in the order in which `--help` names them."""
    from normwise.cli import main  # only this page needs the package installed
    from normwise.commands.program import EXIT_CODES, NO_COMMANDS

    notice = NOTICE.format(source="src/normwise/cli.py and commands/")
    codes = "".join(f"| {code} | {meaning} |\n" for code, meaning in EXIT_CODES.items())
    table = (
        "\n## Exit codes\n\nA command prints an error as one sentence to standard error, and its results to standard "
        "output.\n\n"
        f"| code | meaning |\n|---|---|\n{codes}"
    )
    table += "\n## Operations without a command\n\n"
    table += "".join(f"* `{name}`: {why}\n" for name, why in NO_COMMANDS.items())
    return f"{notice}# Command line\n{table}" + "".join(sections(main, "normwise", None))


def sections(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    """A heading and the help of a command, then those of its subcommands."""
    context = click.Context(command, info_name=name, parent=parent, terminal_width=100, max_content_width=100)
    yield f"\n## {context.command_path}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for child_name in command.list_commands(context):
            child = command.get_command(context, child_name)
            if child is not None and not child.hidden:
                yield from sections(child, child_name, context)
