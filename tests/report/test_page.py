"""The page as text: complete, whole or not written at all, and safe with any words in it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import NoReturn

import pytest

from normwise.errors import MissingExtra
from normwise.installation import extra_command
from normwise.lab.results import Result, Verdict
from normwise.report import page, wording


def test_everything_that_a_result_says_is_on_the_page(results: list[Result]) -> None:
    html = page.render(results)
    for result in results:
        assert wording.title(result.experiment) in html
        assert result.question in html
        assert result.refuted_by in html
        assert result.command in html
        for statement in result.conclusion.statements:
            refuted = statement.verdict is Verdict.CONTRADICTED  # which have a list of their own
            assert html.count(statement.text) == 2 + refuted  # in the summary and in its section
            assert f"</span>{statement.verdict.value}</span>" in html
            assert html.count(statement.published) >= 2 * bool(statement.published)  # in both places, beside ours
            assert f"{statement.says or result.says}</td>".replace("&", "&amp;") in html
        for text in (*result.conclusion.caveats, *result.references):
            assert text in html
        for figure in result.conclusion.figures:
            assert figure.caption in html
    assert "ratio 4.3" in html
    assert "3.6 to 5.0, n&nbsp;=&nbsp;10" in html


def test_data_and_network_stand_first_and_in_each_row(results: list[Result]) -> None:
    html = page.render(results)
    assert "Measured on scikit-learn&#39;s digits, 8 x 8.</p>" in html
    assert html.count("<b>Measured on</b> scikit-learn&#39;s digits, 8 x 8; 30 layers of 256 units") == 2


def test_a_neighbouring_setting_is_named(results: list[Result]) -> None:
    html = page.render([dataclasses.replace(results[1], setting="width")])
    assert "30 layers of 256 units; neighbouring setting: width</p>" in html


def test_the_verdicts_are_explained_and_the_contradicted_have_a_list(results: list[Result]) -> None:
    html = page.render(results)
    for meaning in wording.MEANINGS.values():
        assert meaning.replace("'", "&#39;") in html
    assert "These are the verdicts of one run" in html
    assert html.index("What does not hold") < html.index("All claims")
    assert "3 verdicts of 4 statements at 95 % each; 3 of them are left" in html


def test_a_result_of_the_first_edition_has_no_verdict(results: list[Result]) -> None:
    html = page.render([dataclasses.replace(each, edition=1) for each in results])
    assert html.count("of the first edition, to be measured again") == 2 * 4
    assert 'class="badge reproduced"' not in html.partition("<nav")[2]


def test_experiments_stand_by_topic_whatever_the_order_they_ran_in(results: list[Result]) -> None:
    assert [result.topic for result in results] == ["regularization", "optimization"]
    html = page.render(results)
    assert html.index('id="experiment-1">Do gradients survive depth?') < html.index(
        'id="experiment-2">Does it train in fewer steps?'
    )
    assert page.render(results[::-1]) == html
    assert "Experiment 1 of 2: optimization" in html


def test_the_contents_lead_to_every_experiment_and_count_its_verdicts(results: list[Result]) -> None:
    contents = re.findall(r"<nav.*?</nav>", page.render(results), flags=re.DOTALL)[0]
    assert re.findall(r"<h2>(.*?)</h2>", contents) == ["Optimization", "Regularization"]
    assert re.findall(r'href="#(.*?)">(.*?)</a>', contents) == [
        ("experiment-1", "Do gradients survive depth?"),
        ("experiment-2", "Does it train in fewer steps?"),
    ]
    told = re.findall(r'title="(\d+) (.*?)"', contents)
    assert told == [("1", "reproduced"), ("1", "contradicted"), ("1", "reproduced"), ("1", "not visible at this scale")]


def test_the_page_refers_to_nothing_outside_of_it(results: list[Result], hostile: Result) -> None:
    html = page.render([*results, hostile])
    outside = re.findall(r'<(?!/)[^<>]*\b(?:src|href|xlink:href|action)\s*=\s*"(?!#|data:,")[^"]*"', html)
    assert outside == []
    assert not re.search(r"@import|url\((?!#)|<script|<iframe|<object|<embed", html)
    assert "default-src 'none'" in html


def test_words_cannot_break_out(hostile: Result) -> None:
    html = page.render([hostile])
    assert "<script" not in html
    assert "<img" not in html
    assert "\x07" not in html
    assert "&lt;script&gt;" in html
    assert "$x_1$" in html  # and is not set as mathematics


def test_part_of_the_experiments_is_a_page_too(results: list[Result]) -> None:
    html = page.render(results[:1])
    assert "1 experiment with 2 statements" in html
    assert "Experiment 1 of 1" in html


def test_the_same_results_give_the_same_page(results: list[Result]) -> None:
    assert page.render(results) == page.render(results)


def test_without_a_result_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^there is no result to show on the page: run at least one experiment first$"
    ):
        page.write([], tmp_path / "index.html")
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made_and_nothing_else_is_left_behind(results: list[Result], tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "index.html"
    page.write(results, path)
    assert path.read_text(encoding="utf-8") == page.render(results)
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_older_page_as_it_was(
    results: list[Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index.html"
    path.write_text("older", encoding="utf-8")

    def full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left on device"):
        page.write(results, path)
    assert path.read_text(encoding="utf-8") == "older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_extra_names_its_command(
    library: str, results: list[Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: None if name == library else object())
    sentence = f"{library} is not installed; install it with: {extra_command('lab')}"
    with pytest.raises(MissingExtra, match=f"^{re.escape(sentence)}$"):
        page.render(results)
