"""The page "Comparing normalizations on your own model" and its examples hold."""

from __future__ import annotations

import re
from pathlib import Path

from normwise.lab.comparison import reading
from normwise.lab.comparison.arms import NORMALIZERS
from normwise.lab.comparison.found import Decision
from normwise.lab.comparison.torch_trainer import TorchTrainer

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/comparing.md").read_text("utf-8")


def test_the_page_shows_both_examples_as_they_are() -> None:
    for name in ("compare_torch", "compare_keras"):
        example = (ROOT / f"examples/{name}.py").read_text("utf-8")
        assert f"```python\n{example}```" in PAGE
        assert f"normwise lab compare examples/{name}.py:net --data examples/{name}.py:rows" in PAGE


def test_the_page_names_what_is_tried() -> None:
    assert ", ".join(NORMALIZERS) in PAGE


def test_what_the_page_prints_is_said_of_the_example() -> None:
    make, identity = reading.model(f"{ROOT}/examples/compare_torch.py:net")
    rows = reading.load(f"{ROOT}/examples/compare_torch.py:rows")
    trainer = TorchTrainer(make, rows, identity)
    assert trainer.where == ("as built", "after")
    assert trainer.remarks[0] in PAGE
    assert f"on {len(rows.split(0)[2])} test rows; the 95 % intervals are for other seeds and other rows." in PAGE


def test_the_page_has_every_decision_and_what_was_printed_is_one_of_them() -> None:
    for decision in Decision:
        assert f"\n| {decision.value} | " in PAGE
    printed = re.findall(r"```text\n(.*)\n", PAGE)
    assert [line.split()[0] for line in printed] == ["Equivalent", "Undecided:", "Take"]
    # the margin, chance and what it takes are said in the words of the command
    for line in (
        "Differences within 1 point count as none (--margin).",
        "Chance level: always answering the most common",
    ):
        assert PAGE.count(line) == 2
    assert re.search(
        r"; to decide it needs about [\d.]+ times the budget: --budget \d+m --seeds \d+; in any", printed[1]
    )
