"""The page about the family's speed: everyone is in it, in both phases, and a ratio is ours over theirs."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks import family, timing
from benchmarks import spread as spreads
from benchmarks.spread import ratios


def test_a_cell_is_the_median_of_pairs_with_its_quartiles_or_says_why_not() -> None:
    assert family.cell(ratios([2.0, 2.0, 6.6], [1.0, 1.0, 3.0])) == "2.00 (2.00 to 2.10)"
    assert family.cell(ratios([2.0, 4.0, 9.0], [1.0, 1.0, 3.0])) == "machine too busy"


@pytest.mark.parametrize("phase", family.PHASES)
@pytest.mark.parametrize("layout", family.LAYOUTS)
def test_training_has_gradients_and_inference_has_none(phase: str, layout: str) -> None:
    calls = family.calls((8, 4, 6, 6), layout, phase)
    assert len(calls) == 7
    for name, call in calls.items():
        found = call()
        if phase == "inference":
            assert isinstance(found, torch.Tensor), name
            assert not found.requires_grad
        else:
            assert isinstance(found, tuple), name
            assert [tuple(each.shape) for each in found] == [(8, 4, 6, 6), (4,), (4,)]


def test_the_page_has_a_row_for_everyone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "SHAPES", ((8, 4, 6, 6),))
    monkeypatch.setattr(timing, "BLOCK", 1e-9)
    monkeypatch.setattr(spreads, "WIDEST", math.inf)
    page = family.page(family.measure(rounds=3))
    for name in family.calls((8, 4, 6, 6), "first", "inference"):
        assert sum(line.startswith(f"| {name} ") for line in page.splitlines()) == len(family.PHASES), name
    assert "medians of 3 pairs" in page
    assert "| (8, 4, 6, 6), channels first | (8, 4, 6, 6), channels last |" in page


def test_the_table_of_whitening_has_a_row_for_each_layer_shape_and_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(family, "SHAPES", ((8, 4, 6, 6),))
    monkeypatch.setattr(family, "FEATURES", (9, 4))
    monkeypatch.setattr(family, "GROUPS", (2, 4))
    monkeypatch.setattr(family, "ROUNDS", 3)
    monkeypatch.setattr(timing, "BLOCK", 1e-9)
    monkeypatch.setattr(spreads, "WIDEST", math.inf)
    rows = family.whitening_rows()
    assert [row.split(" | ")[:3] for row in rows[:3]] == [
        ["| (8, 4, 6, 6)", "2", "ZCA"],
        ["| (8, 4, 6, 6)", "2", "iterative"],
        ["| (8, 4, 6, 6)", "4", "ZCA"],
    ]
    assert [row.count(" to ") for row in rows] == [4] * 8
    assert capsys.readouterr().out.splitlines() == rows
