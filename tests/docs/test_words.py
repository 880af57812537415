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

MOST = 2
"""How many things a box holds."""
print(MOST)
"""What is no docstring, because it stands behind no value."""


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
    assert sorted((line, word) for line, word, _ in words.beginnings(source)) == [(4, "How"), (10, "What"), (16, "How")]


@pytest.mark.parametrize("first", sorted(words.PREPOSITIONS))
def test_a_docstring_begins_with_no_preposition_but_in_a_test(first: str) -> None:
    source = f'''"""{first} the box."""

MOST: int = 2
"""{first}, or so.

{first} it.
"""


class Box:
    """
    {first} the shelf."""

    name: str
    """The name. {first} the box."""

    @property
    async def size(self):
        r"""{first}: the box."""
        return "{first}"


def test_a_box_holds_things():
    """{first} a shelf."""


@triton.jit
def kernel():
    """{first} each program."""
'''
    assert sorted((line, word) for line, word, _ in words.beginnings(source)) == [
        (1, first),
        (4, first),
        (11, first),
        (19, first),
    ]


def test_the_docstring_is_named_in_the_folders_of_the_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("src/normwise/a.py", "src/normwise/lab/experiments/b.py", "benchmarks/c.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('def name() -> str:\n    """Of the layer."""\n')
    assert words.main(tmp_path) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{place}:2: 'Of': write a docstring that begins with a verb or a noun phrase"
        for place in ("benchmarks/c.py", "src/normwise/a.py")
    ]
