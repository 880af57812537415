"""Every door has its page: what becomes of the operations on whole models."""

from pathlib import Path

import pytest

import normwise
from tests.docs.test_generate import generate

ROOT = Path(__file__).resolve().parents[2]
END = (
    "\nRead next: [all operations](../doors/index.md), [your symptom](../cases.md), "
    "[the command line](../command_line.md).\n"
)
DOORS = '''"""A file of doors."""

__all__ = ["thaw", "freeze"]

def freeze(model: Any, *, layers: Collection[str] | None = None) -> None:
    """Freezes ``all`` that
    there is.

    Args:
        model: any.
        layers: their names.

    Warns:
        NothingChanged: nothing was there.
    """

def thaw(
    model: Any, first: Callable[[Any, Any], Any], second: tuple[int, ...] = (1, 2), *, word: str = "and so on"
) -> list[str]:
    """Thaws."""
'''


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "src/normwise/surgery"
    folder.mkdir(parents=True)
    for name, text in (("__init__", '"""Doors."""\n'), ("door", '"""No door."""\n'), ("cold", DOORS)):
        (folder / f"{name}.py").write_text(text)
    return tmp_path


def test_a_doors_page_is_its_signature_and_its_docstring_and_the_index_lists_it(clone: Path) -> None:
    pages = generate.pages(clone)
    assert sorted(map(str, pages)) == ["docs/doors/freeze.md", "docs/doors/index.md", "docs/doors/thaw.md"]
    assert pages[Path("docs/doors/freeze.md")] == (
        "<!-- Generated from src/normwise/surgery/cold.py by `make docs`; edit it there. -->\n\n# freeze\n\n"
        "```text\nnormwise.freeze(model: Any, *, layers: Collection[str] | None = None) -> None\n```\n\n"
        "Freezes `all` that\nthere is.\n\n## Args\n\n- `model`: any.\n- `layers`: their names.\n\n"
        "## Warns\n\n- `NothingChanged`: nothing was there.\n" + END
    )
    assert pages[Path("docs/doors/thaw.md")].split("# thaw\n\n")[1] == (
        "```text\nnormwise.thaw(\n    model: Any,\n    first: Callable[[Any, Any], Any],\n"
        "    second: tuple[int, ...] = (1, 2),\n    *,\n    word: str = 'and so on',\n) -> list[str]\n```\n\nThaws.\n"
        + END
    )
    assert pages[Path("docs/doors/index.md")] == (
        "<!-- Generated from src/normwise/__init__.py by `make docs`; edit it there. -->\n\n"
        "# Operations on whole models\n\nYou import these names from `normwise`.\n\n"
        "- [freeze](freeze.md): Freezes `all` that there is.\n- [thaw](thaw.md): Thaws.\n"
        "\nRead next: [your symptom](../cases.md), [the command line](../command_line.md).\n"
    )


def test_a_door_without_a_docstring_is_refused(clone: Path) -> None:
    source = clone / "src/normwise/surgery/cold.py"
    source.write_text(DOORS.replace('    """Thaws."""', "    return []"))
    with pytest.raises(SystemExit) as error:
        generate.pages(clone)
    assert str(error.value) == f"thaw in {source} has no docstring to make its page from."


def test_every_door_has_a_page_and_no_other() -> None:
    assert sorted(page.stem for page in (ROOT / "docs/doors").glob("*.md")) == sorted([*normwise.__all__, "index"])
