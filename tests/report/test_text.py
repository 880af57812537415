"""The results as terminal text: all of it, at any width, and without colour where none is wanted."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from normwise.lab.results import Result
from normwise.report import text


def printed(results: list[Result], width: int = 80, **options: bool) -> str:
    out = io.StringIO()
    text.show(results, Console(file=out, width=width, **options))  # type: ignore[arg-type]  # only switches are given
    return out.getvalue()


def test_statements_verdicts_effects_and_tables_are_there(results: list[Result]) -> None:
    shown = printed(results, width=200)
    for result in results:
        assert result.experiment in shown
        assert result.conclusion.table.caption in shown
        for statement in result.conclusion.statements:
            assert statement.text in shown
    assert "✓ reproduced" in shown
    assert "ratio 4.3" in shown
    assert "−0.1 to 0.7, n = 10" in shown
    assert shown.rstrip().endswith(
        "4 statements: 2 ✓ reproduced, 0 = exact, 0 < not as large as required, 1 ? not visible at this scale, "
        "1 ✗ contradicted, 0 ○ not seen in this regime, 0 · no verdict\n"
        "These are the verdicts of one run. A verdict counts if a run with other seeds (--first-seed 1000) gives the "
        "same."
    )
    assert "scikit-learn's digits, 8 x 8; 30 layers of 256 units" in shown


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int, results: list[Result]) -> None:
    assert max(map(len, printed(results, width).splitlines())) <= width


def test_numbers_stay_whole_where_there_is_room(results: list[Result]) -> None:
    assert "2 600 ± 210" in printed(results)


def test_colour_only_where_it_is_wanted(results: list[Result]) -> None:
    assert "\x1b[" not in printed(results)
    assert "\x1b[32m" in printed(results, force_terminal=True)
    assert "\x1b[32m" not in printed(results, force_terminal=True, no_color=True)


def test_brackets_are_no_markup_and_control_characters_are_dropped(hostile: Result) -> None:
    shown = printed([hostile], width=300)
    assert 'document.title = "taken"' in shown
    assert "\x07" not in shown


def test_without_a_result_there_is_nothing_to_show() -> None:
    with pytest.raises(ValueError, match=r"^there is no result to show: run at least one experiment first$"):
        printed([])
