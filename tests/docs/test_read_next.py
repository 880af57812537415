"""Every page ends with what to read next, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import generate

ROOT = Path(__file__).resolve().parents[2]
WRITTEN_BY_RUNS = {"docs/zoo.md", "docs/evidence_of_the_doctor.md"}  # their templates end so: see the last test
END = re.compile(r"(Read next: |Before: |接著讀|\[所有頁面\]|上一頁|Next: |\[All pages\])")
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """The text of every page; of a generated one, as it will be written."""
    found = {
        path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
        for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        if "source" not in path.parts and path.relative_to(ROOT).as_posix() not in WRITTEN_BY_RUNS
    }
    made = {path.as_posix(): text for path, text in generate.pages(ROOT).items() if path.suffix == ".md"}
    return found | made


def test_every_page_ends_with_what_to_read_next(pages: dict[str, str]) -> None:
    assert len(pages) > 150
    ends = {name: text.rstrip().rpartition("\n\n")[2] for name, text in pages.items()}
    assert [name for name, end in ends.items() if not END.match(end) or not LINK.search(end)] == []


def test_what_is_named_there_is_a_page(pages: dict[str, str]) -> None:
    for name, text in pages.items():
        for target in LINK.findall(text.rstrip().rpartition("\n\n")[2]):
            place = ((ROOT / name).parent / target).resolve()
            assert place.exists() or place.relative_to(ROOT).as_posix() in pages, (name, target)


@pytest.mark.parametrize("template", ["zoo/page.py", "doctor/page.py", "gpu/page.py", "family.py", "keras_backends.py"])
def test_pages_that_a_run_writes_end_so_too(template: str) -> None:
    line = re.search(r'"?(Read next: [^"\n]*)', (ROOT / "benchmarks" / template).read_text("utf-8"))
    assert line is not None
    assert all((ROOT / "docs" / target).exists() for target in LINK.findall(line[1]))
