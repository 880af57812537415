"""The page that finds a case by its symptom names every script, what it prints, and the check that it is about."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples/cases"


def rows() -> list[str]:
    page = (ROOT / "docs/cases.md").read_text("utf-8")
    return [line for line in page.splitlines() if ".py)" in line and "|" in line]


def test_every_script_with_a_text_is_on_the_page_and_the_other_way_round() -> None:
    texts = {path.stem for path in FOLDER.glob("*.txt")}
    assert len(texts) == 11
    assert {name for row in rows() for name in re.findall(r"\[(\w+)\.py\]", row)} == texts


def test_a_row_names_the_check_and_the_numbers_of_the_text() -> None:
    for row in rows():
        (name,), (check,) = re.findall(r"\[(\w+)\.py\]", row), re.findall(r"\(checks/(\w+)\.md\)", row)
        text = (FOLDER / f"{name}.txt").read_text("utf-8")
        first = next(line for line in text.splitlines() if re.match(r"  (error|warning) ", line))
        assert first.split()[1] == check
        before, after = re.findall(r"\| (\d\.\d\d), (\d\.\d\d) \|", row)[0]
        assert before in text.split("\n\n", maxsplit=1)[0]
        assert text.endswith(f"with the remedy: {after}\n")
        assert re.search(r"https://\S+", (FOLDER / f"{name}.py").read_text("utf-8"))
