"""The ``--help`` of every command: each option's default, in plain words, with an example that is right."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner

from normwise.cli import main
from normwise.commands.program import EXIT_CODES
from normwise.commands.values import Whole
from normwise.recalibration.prior import PRIOR


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that call it."""
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from commands(child, (*path, name))


ALL = dict(commands(main))
OPTIONS = {
    (*path, option.opts[-1]): option
    for path, command in ALL.items()
    for option in command.params
    if isinstance(option, click.Option)
}
PYTHON = re.compile(r"\b(None|True|False|math\.inf|callable|iterables?|kwargs|dict|TEXT|INTEGER|RANGE)\b")


def test_all_commands_are_looked_at() -> None:
    assert {" ".join(path) for path in ALL} == {
        *("", "adapt", "doctor", "explain", "fold", "info", "lab", "recalibrate", "swap", "tune"),
        *("lab compare", "lab list", "lab run"),
    }
    assert len(OPTIONS) > 40


@pytest.mark.parametrize("words", OPTIONS, ids=" ".join)
def test_every_option_that_takes_a_value_says_its_default(words: tuple[str, ...]) -> None:
    option = OPTIONS[words]
    assert option.help
    if option.required or (option.is_flag and not option.secondary_opts):  # a flag is off unless it is given
        assert "Default" not in option.help
    elif option.show_default:
        assert option.default is not None
    else:
        assert re.search(r"\. Default: \S", option.help), option.help


@pytest.mark.parametrize("words", OPTIONS, ids=" ".join)
def test_every_number_is_judged_while_the_command_line_is_read(words: tuple[str, ...]) -> None:
    """Click's own numbers take what cannot be, such as -1 seeds, and refuse the rest in words of its own."""
    assert not isinstance(OPTIONS[words].type, click.types.IntParamType | click.types.FloatParamType)


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_no_word_of_pythons_stands_in_a_help(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(main, [*path, "--help"], prog_name="normwise").stdout
    assert PYTHON.findall(shown) == []


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_the_example_is_a_command_line_that_is_right(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """It parses; that its files are not there is no fault of it."""
    parsed = list[str]()
    for words, command in ALL.items():
        if not isinstance(command, click.Group):
            monkeypatch.setattr(command, "callback", lambda *_, words=words, **__: parsed.append(" ".join(words)))
    example = (ALL[path].epilog or "").removeprefix("Example: normwise ")
    done = CliRunner().invoke(main, shlex.split(example), prog_name="normwise")
    assert (done.exit_code, done.stderr) == (0, "")
    assert parsed[0].startswith(" ".join(path))


def test_the_defaults_that_are_said_in_words_are_those_of_the_code() -> None:
    def default(*words: str) -> str:
        return str(OPTIONS[words].help).partition("Default: ")[2]

    from normwise.lab.comparison.finals import FEWEST_SEEDS
    from normwise.lab.experiment import SEEDS

    assert isinstance(fewest := OPTIONS["lab", "compare", "--seeds"].type, Whole)
    assert fewest.least == FEWEST_SEEDS
    assert default("adapt", "--prior") == f"{PRIOR:g}"
    assert default("lab", "run", "--seeds").startswith(f"{SEEDS},")


def test_names_that_a_help_lists_are_all_there_are() -> None:
    from normwise import estimators
    from normwise.lab.data import images
    from normwise.recalibration.one_pass import UPSTREAM
    from normwise.swap_settings import KINDS

    listed: dict[tuple[str, ...], Any] = {
        ("recalibrate", "--estimator"): [name for name in estimators.names() if name != "window"],
        ("recalibrate", "--upstream"): UPSTREAM,
        ("lab", "run", "--data"): images.names(),
        ("swap", "--to"): ["torch", "keras", "normwise", *KINDS],
    }
    for words, names in listed.items():
        assert all(name in str(OPTIONS[words].help) for name in names), words


def test_the_exit_codes_are_documented() -> None:
    assert [*EXIT_CODES] == [0, 1, 2, 3, 130]
