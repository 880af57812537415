"""The page of all claims: complete, stamped, and a table whatever stands in it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from normwise.lab.results import Result, to_json
from normwise.report import markdown


def stamped(result: Result, **stamp: object) -> Result:
    machine = {"device": "Model X", "system": "Linux", "torch": "2.13.0", "date": "2026-11-21T01:00:00", "seconds": 90}
    return dataclasses.replace(result, stamp={**machine, **stamp})


def test_every_statement_is_there_with_all_that_belongs_to_it(results: list[Result]) -> None:
    shown = markdown.claims([stamped(result) for result in results])
    assert (
        "| The final test accuracy is higher with batch norm. | Ioffe & Szegedy 2015, figure 1 | "
        "? not visible at this scale | 0.3 points [−0.1 to 0.7] | about 1 point on MNIST, read off figure 1a |"
    ) in shown
    assert "- **2** ✓ reproduced\n- **1** ? not visible at this scale\n- **1** ✗ contradicted\n" in shown
    assert "[Do gradients survive depth?](experiments/do_gradients_survive_depth.md)" in shown
    assert "`normwise lab run do_gradients_survive_depth --seeds 5`" in shown


def test_every_experiment_has_a_row_with_its_verdicts(results: list[Result]) -> None:
    shown = markdown.claims([stamped(result) for result in results])
    assert (
        "| | ✓ reproduced | = exact | < smaller than required | ? not visible at this scale | ✗ contradicted |" in shown
    )
    link = "[Do gradients survive depth?](experiments/do_gradients_survive_depth.md)"
    assert f"| {link} | 1 |  |  |  | 1 |\n" in shown


def test_the_run_is_said_once_where_all_agree_and_in_full_where_not(results: list[Result]) -> None:
    first, second = results
    shown = markdown.claims([stamped(first), stamped(second, date="2026-11-23T05:00:00", torch="2.14.0")])
    assert "- date: 2026-11-21 to 2026-11-23\n" in shown
    assert "- machine: Model X, Linux\n" in shown
    assert "- versions: torch 2.13.0; torch 2.14.0\n" in shown
    assert "- seeds: 10 (0 to 9); 5 (0 to 4)\n" in shown
    assert "- all trials together took 3 minutes, on one thread each" in shown


def test_no_words_break_the_table(hostile: Result) -> None:
    shown = markdown.claims([stamped(hostile)])
    (row,) = [line for line in shown.splitlines() if line.startswith("| \\<script")]
    assert row.replace("\\|", "").count("|") == 6
    assert "<img" not in row.replace("\\<", "")


def test_kept_results_come_back_by_topic(results: list[Result], tmp_path: Path) -> None:
    for result in results:
        (tmp_path / f"{result.experiment}.json").write_text(to_json(result), encoding="utf-8")
    assert [result.topic for result in markdown.kept(tmp_path)] == ["optimization", "regularization"]
    assert markdown.kept(tmp_path / "none") == []


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.json is not a result of this version of the lab: run it again and keep"):
        markdown.kept(tmp_path)
