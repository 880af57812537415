"""The words that the project does not use: none is left, and each is found where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs import words

ROOT = Path(__file__).resolve().parents[2]


def test_no_such_word_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    code = words.main(ROOT)
    assert (code, capsys.readouterr().out) == (0, "No word is used that docs/words.py has another one for.\n")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Fits it\nanew.", [(2, "anew")]),
        ("    # It fails in\n    # silence.", [(1, "in # silence")]),
        ("A layer of Keras's, and the graph of PyTorch's.", [(1, "layer of Keras's"), (1, "graph of PyTorch's")]),
        ("The layers of\n    Keras's are wrong.", [(1, "layers of Keras's")]),
        ("The layer of PyTorch's own backend, in silencers, renewed.", []),
        ("Names of the layers that are\n  meant", [(1, "that are meant")]),
    ],
)
def test_a_word_is_found_where_it_stands(text: str, found: list[tuple[int, str]]) -> None:
    assert sorted((line, word) for line, word, _ in words.troubles(text)) == sorted(found)


def test_a_place_is_named_and_other_words_are_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "docs/experiments").mkdir(parents=True)
    (tmp_path / "docs/page.md").write_text("# Title\n\nIt starts anew.\n")
    (tmp_path / "docs/experiments/page.md").write_text("It starts anew.\n")
    assert words.main(tmp_path) == 1
    assert capsys.readouterr().out == "docs/page.md:3: 'anew': write again\n"


def test_a_docstring_begins_with_a_verb_or_a_noun_phrase() -> None:
    source = '''"""Sizes."""


class Box:
    """What holds things."""

    def size(self):
        """The number of things."""

        def inner():
            """How many."""


@triton.jit
def kernel():
    """What is compiled by its text."""
'''
    assert sorted((line, word) for line, word, _ in words.questions(source)) == [(5, "What"), (11, "How")]
