"""The program that all commands belong to: it suggests names, and turns errors into sentences and exit codes."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import click

from normwise.errors import NormwiseError, UnknownName

COULD_NOT = 2  # 1 is reserved for findings of severity error
INTERRUPTED = 130


class Group(click.Group):
    """A group of commands that suggests the nearest one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command by its name.

        Raises:
            UnknownName: there is none.
        """
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise UnknownName("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


class Program(Group):
    """The whole command line, and the one place where an error becomes a sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader that has seen enough, such as ``head``, is no error."""
        try:
            done = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None
        return done

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run the command and end the process: 0 all right, 2 it could not be carried out, 130 interrupted."""
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
        except click.NoSuchOption as error:
            command = error.ctx.command if error.ctx else self
            known = [name for each in command.params for name in each.opts if name.startswith("--")]
            _fail(str(UnknownName("option", error.option_name, [*known, "--help"])))
        except click.ClickException as error:
            _fail(error.format_message())
        except (click.Abort, KeyboardInterrupt):
            click.echo("normwise: interrupted.", err=True)
            sys.exit(INTERRUPTED)
        except NormwiseError as error:
            _fail(str(error))
        except OSError as error:
            place = f"{str(error.filename)!r}: " if error.filename else ""
            _fail(f"{place}{error.strerror or error}.")
        sys.exit(code if isinstance(code, int) else 0)


def _fail(sentence: str) -> NoReturn:
    first = sentence[:1] if sentence[1:2].isupper() else sentence[:1].lower()  # MODEL is a name
    click.echo(f"normwise: {first}{sentence[1:]}", err=True)
    sys.exit(COULD_NOT)


def help_alone(ctx: click.Context) -> None:
    """What a group prints that is called without a command."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
