"""One exam for every experiment, found by listing: a tiny run whose statements, table and figures hold together."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

import pytest

from normwise.lab import names
from normwise.lab.results import Conclusion, Result, Verdict, from_json, to_json


class Ran(Protocol):
    """The result of ``conftest.run``."""

    conclusion: Conclusion
    refuted: tuple[str, ...]


Run = Callable[[str], Ran]
every = pytest.mark.parametrize("name", names())


def test_there_are_the_experiments_that_the_documentation_names() -> None:
    """Discovery by listing finds them all; an exam over nothing proves nothing."""
    assert {"does_it_train_faster", "can_it_represent_the_identity", "should_gans_use_spectral_norm"} <= set(names())
    assert len(names()) >= 39


@every
def test_exact_statements_hold_except_those_that_are_there_to_be_refuted(ran: Run, name: str) -> None:
    found = ran(name)
    exact = {each.text: each.verdict for each in found.conclusion.statements if each.rule.startswith("exact")}
    assert set(found.refuted) <= set(exact)
    for text, verdict in exact.items():
        assert verdict is (Verdict.CONTRADICTED if text in found.refuted else Verdict.EXACT), text


@every
def test_statements_are_sentences_with_a_rule_a_verdict_and_both_seeds(ran: Run, name: str) -> None:
    statements = ran(name).conclusion.statements
    assert statements
    assert len({each.text for each in statements}) == len(statements)
    for each in statements:
        assert each.text.endswith((".", ")."))
        assert re.match(r"(reproduced|exact): ", each.rule)
        assert isinstance(each.verdict, Verdict)
        assert each.effect.n == 2
        assert not each.effect.low > each.effect.value
        assert not each.effect.value > each.effect.high


@every
def test_every_row_has_a_cell_for_each_column(ran: Run, name: str) -> None:
    table = ran(name).conclusion.table
    assert table.rows
    assert table.caption.strip()
    for row in table.rows:
        assert len(row) == len(table.columns)
        assert all(isinstance(cell, str) for cell in row)


@every
def test_every_line_has_as_many_heights_as_points_and_a_whole_band_or_none(ran: Run, name: str) -> None:
    figures = ran(name).conclusion.figures
    assert len({figure.name for figure in figures}) == len(figures) > 0
    for figure in figures:
        assert re.fullmatch(r"[a-z_0-9]+", figure.name)
        assert figure.panels
        assert re.search(r"Line: .* mean over seeds|Line: mean over seeds|no band|[Cc]ontours", figure.caption)
        for series in (series for panel in figure.panels for series in panel.series):
            assert len(series.x) == len(series.y) > 0
            assert {len(series.low), len(series.high)} in ({0}, {len(series.x)})
            for low, y, high in zip(series.low, series.y, series.high, strict=False):
                assert low is None or y is None or high is None or not (low > y + 1e-9 or y > high + 1e-9)


@every
def test_a_result_comes_back_from_its_file_as_it_was(ran: Run, name: str) -> None:
    text = to_json(Result(name, "", "", "", {}, (0, 1), ran(name).conclusion, {}, ""))
    assert to_json(from_json(text)) == text
    assert ran(name).conclusion.table == from_json(text).conclusion.table
