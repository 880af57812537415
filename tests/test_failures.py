"""Another's error in one sentence: where it was in the user's code, and what it said first."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import normwise
from normwise.failures import LONG, first_words, sentence


def error_of(text: str, folder: Path) -> BaseException:
    """The error that running a file raises."""
    path = folder / "users.py"
    path.write_text(text, encoding="utf-8")
    try:
        exec(compile(text, str(path), "exec"), {"json": json})
    except BaseException as error:
        return error
    raise AssertionError("it raises nothing")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\nx[0]", "TypeError in line 2 of users.py: 'int' object is not subscriptable"),
        ("raise ValueError('one.\\ntwo')", "ValueError in line 1 of users.py: one"),
        ("raise ValueError", "ValueError in line 1 of users.py"),
        ("raise ValueError('\\n\\n  said.  ')", "ValueError in line 1 of users.py: said"),
        ("def f():\n    f()\nf()", "RecursionError in line 2 of users.py: maximum recursion depth exceeded"),
        (
            "\njson.loads('{')",
            "JSONDecodeError in line 2 of users.py: Expecting property name enclosed in double quotes: line 1 column 2 "
            "(char 1)",
        ),
        ("f(", "SyntaxError in line 1 of users.py: '(' was never closed"),
        ("assert False", "AssertionError in line 1 of users.py"),
    ],
)
def test_the_place_is_in_the_users_code(text: str, expected: str, tmp_path: Path) -> None:
    assert sentence(error_of(text, tmp_path)) == expected


def test_without_code_of_the_users_it_is_where_it_was_raised() -> None:
    with pytest.raises(ValueError, match="Expecting property name") as caught:
        json.loads("{")
    error = caught.value
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # leave this file out
    assert sentence(error).startswith("JSONDecodeError in line ")
    assert " of decoder.py: Expecting property name" in sentence(error)


def test_long_words_and_colours_are_cut() -> None:
    assert first_words(ValueError("a" * 1000)) == "a" * LONG + "..."
    assert first_words(ValueError("\x1b[1;31mred\x1b[0m")) == "red"
    assert first_words(ValueError("Exception encountered when calling Dense.call().\n\nBad.\n\nArguments:")) == "Bad"
    assert first_words(ValueError("Exception encountered when calling Dense.call().")) == (
        "Exception encountered when calling Dense.call()"
    )


def test_the_version_of_python_makes_no_difference() -> None:
    assert sys.version_info >= (3, 11)
    assert sentence(KeyError("a")) == "KeyError: 'a'"


def test_a_layer_is_named_where_no_code_of_the_users_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expecting property name") as caught:
        json.loads("{")
    error = caught.value
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
    assert sentence(error, "layer '0' (Linear)").startswith("JSONDecodeError in layer '0' (Linear): Expecting property")
    assert sentence(error_of("assert False", tmp_path), "layer '0'") == "AssertionError in line 1 of users.py"


@pytest.mark.parametrize("kind", [KeyError, IndexError, AssertionError])
def test_an_error_of_ours_that_no_sentence_was_written_for_has_its_kind_and_place(kind: type[Exception]) -> None:
    """A bare ``failed: 'numpy'`` says nothing."""
    code = compile("raise kind('numpy')", str(Path(normwise.__file__).with_name("facts.py")), "exec")
    with pytest.raises(kind) as caught:
        exec(code, {"kind": kind})
    assert sentence(caught.value).startswith(f"{kind.__name__} in line ")


@pytest.mark.parametrize("kind", [ValueError, TypeError, RuntimeError, AttributeError])
def test_words_of_ours_stand_alone(kind: type[Exception]) -> None:
    code = compile("raise kind('expected 3 channels')", str(Path(normwise.__file__).with_name("facts.py")), "exec")
    with pytest.raises(kind) as caught:
        exec(code, {"kind": kind})
    assert sentence(caught.value) == "expected 3 channels"
