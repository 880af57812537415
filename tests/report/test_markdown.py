"""The page of all claims: complete, stamped, and a table whatever stands in it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from normwise.lab.results import Result, Verdict, to_json
from normwise.lab.running.store import keep
from normwise.report import markdown


def stamped(result: Result, **stamp: object) -> Result:
    machine = {"device": "Model X", "system": "Linux", "torch": "2.13.0", "date": "2026-11-21T01:00:00", "seconds": 90}
    return dataclasses.replace(result, stamp={**machine, **stamp})


def again(result: Result, *verdicts: Verdict, **changes: object) -> Result:
    """The same at other seeds, with other verdicts where some are given."""
    said = result.conclusion.statements
    if verdicts:
        said = tuple(dataclasses.replace(old, verdict=new) for old, new in zip(said, verdicts, strict=True))
    conclusion = dataclasses.replace(result.conclusion, statements=said)
    seeds = {"seeds": tuple(1000 + seed for seed in result.seeds)}
    return dataclasses.replace(result, conclusion=conclusion, **(seeds | changes))  # type: ignore[arg-type]  # of Result


def test_every_statement_is_there_with_all_that_belongs_to_it(results: list[Result]) -> None:
    shown = markdown.claims([stamped(result) for result in [*results, *(again(each) for each in results)]])
    assert (
        "| The final test accuracy is higher with batch norm. | Ioffe & Szegedy 2015, figure 1 | "
        "scikit-learn's digits, 8 x 8; 3 hidden layers of 100 sigmoid units | "
        "? not visible at this scale | 0.3 points [−0.1 to 0.7] | 0.3 points [−0.1 to 0.7] |  | "
        "about 1 point on MNIST, read off figure 1a |"
    ) in shown
    assert "| ✓ reproduced | 2 | 2 | the whole interval is on the claim's side" in shown
    assert "| ✗ contradicted | 1 | 1 |" in shown
    assert "[Do gradients survive depth?](experiments/do_gradients_survive_depth.md)" in shown
    assert "`normwise lab run do_gradients_survive_depth --seeds 5`" in shown
    assert "- Measured at initialization, before any step.\n" in shown
    assert shown.splitlines()[2].startswith(
        "Measured on scikit-learn's digits, 8 x 8; 2 kinds of networks, most of them "
    )
    assert "written down before" not in shown


def test_what_is_contradicted_has_a_list(results: list[Result]) -> None:
    found = markdown.claims([stamped(result) for result in [*results, *(again(each) for each in results)]])
    text = results[1].conclusion.statements[0].text
    number = "2.52 powers of ten [2.44 to 2.60]"
    both = f"{number}, in the second run {number}"
    assert f"## Contradicted\n\n- {text} (Yang et al. 2019, theorem 8; [Do gradients" in found
    assert f"(experiments/do_gradients_survive_depth.md)) {results[1].data}: {both}.\n" in found
    assert "## Contradicted\n\nNone so far.\n" in markdown.claims([stamped(results[0])])
    said = [dataclasses.replace(each, says="teaching material") for each in results[1].conclusion.statements]
    taught = dataclasses.replace(
        results[1], conclusion=dataclasses.replace(results[1].conclusion, statements=tuple(said))
    )
    shown = markdown.claims([stamped(each) for each in (taught, again(taught))])
    assert "## Contradicted\n\nNone so far.\n" in shown


def test_what_is_contradicted_on_two_data_sets_is_one_item_and_what_falls_is_marked(results: list[Result]) -> None:
    first = stamped(results[1])
    weak = dataclasses.replace(first.conclusion.statements[0], p=0.9)
    weak_run = dataclasses.replace(first, conclusion=dataclasses.replace(first.conclusion, statements=(weak,)))
    other = [
        dataclasses.replace(each, settings={**each.settings, "data": "mnist (abc)"}, data="MNIST")
        for each in (weak_run, again(weak_run))
    ]
    found = markdown.claims([first, stamped(again(first)), *other])
    (item,) = [line for line in found.splitlines() if line.startswith(f"- {weak.text}")]
    assert f" {first.data}: 2.52 powers of ten" in item
    assert item.endswith("[2.44 to 2.60], which falls after the correction.")
    assert "; MNIST: 2.52 powers of ten" in item
    assert item.count("which falls") == 1


def moved(result: Result, *places: int) -> Result:
    """The same, with the numbers of some statements far away."""
    said = list(result.conclusion.statements)
    for place in places:
        far = dataclasses.replace(said[place].effect, value=901.0, low=900.0, high=902.0)
        said[place] = dataclasses.replace(said[place], effect=far)
    return dataclasses.replace(result, conclusion=dataclasses.replace(result.conclusion, statements=tuple(said)))


def test_runs_whose_intervals_share_no_value_are_counted(results: list[Result]) -> None:
    first, again_ = stamped(results[0]), stamped(again(results[0]))
    pairs = len(first.conclusion.statements)
    assert f"Of {pairs} statements with an interval in both runs, 0 have two that" in markdown.claims([first, again_])
    assert f"Of {pairs} statements with an interval in both runs, 1 have two" in markdown.claims(
        [first, moved(again_, 0)]
    )
    assert "with an interval in both runs" not in markdown.claims([first])


def test_statements_that_rest_on_the_same_numbers_are_counted(results: list[Result]) -> None:
    first = stamped(results[0])
    assert "makes no difference by construction: 0." in markdown.claims([first])
    twice = moved(first, 0, 1)
    assert "makes no difference by construction: 1." in markdown.claims([twice])
    one, two = twice.conclusion.statements[:2]
    effect = dataclasses.replace(two.effect, value=-901.0, low=-902.0, high=-900.0)  # the mirror image
    said = (one, dataclasses.replace(two, effect=effect), *twice.conclusion.statements[2:])
    mirrored = dataclasses.replace(twice, conclusion=dataclasses.replace(twice.conclusion, statements=said))
    assert "makes no difference by construction: 1." in markdown.claims([mirrored])


def test_without_a_second_run_nothing_counts(results: list[Result]) -> None:
    shown = markdown.claims([stamped(result) for result in results])
    assert shown.count("· no verdict: not yet confirmed: no second run at other seeds |") == 3
    assert "| ✓ reproduced | 0 | 0 |" in shown


def test_what_the_second_run_or_a_neighbour_turns_does_not_count(results: list[Result]) -> None:
    first = results[1]
    other = again(first, Verdict.NOT_VISIBLE, Verdict.REPRODUCED)
    shown = markdown.claims([stamped(first), stamped(other)])
    assert "· no verdict: contradicted at first, then not visible at this scale |" in shown
    wide = again(first, Verdict.CONTRADICTED, Verdict.SMALLER, seeds=first.seeds, setting="width")
    tends = tuple(dataclasses.replace(each, tends=each.verdict) for each in wide.conclusion.statements)
    wide = dataclasses.replace(wide, conclusion=dataclasses.replace(wide.conclusion, statements=tends))
    shown = markdown.claims([stamped(each) for each in (first, again(first), wide)])
    assert "· no verdict: reproduced, which changes with the width |" in shown
    assert "| width: no matter |" in shown  # the very same numbers
    shown = markdown.claims([stamped(each) for each in (first, again(first), moved(wide, 0))])
    assert "| width: ✗ 901.0 powers of ten |" in shown


def test_results_of_the_first_edition_are_marked_and_have_no_verdict(results: list[Result]) -> None:
    old = [stamped(dataclasses.replace(each, edition=1)) for each in results]
    shown = markdown.claims([*old, *(again(each) for each in old)])
    assert shown.count("· no verdict: of the first edition, to be measured again |") == 4
    assert "4 of them are of the first edition, to be measured again: their numbers are from one run" in shown


def on_mnist(result: Result, **changes: object) -> Result:
    """The same on other data."""
    settings = {**result.settings, "data": "mnist-5000 (abc)"}
    return dataclasses.replace(result, data="MNIST, 5000 images", settings=settings, **changes)  # type: ignore[arg-type]  # of Result


def test_other_data_have_a_column_of_their_own(results: list[Result]) -> None:
    first = results[1]
    every = (first, again(first), on_mnist(first), on_mnist(again(first)))
    shown = markdown.claims([stamped(each) for each in every])
    title = "### [Do gradients survive depth?](experiments/do_gradients_survive_depth.md)\n"
    assert shown.count("### [Do gradients survive depth?]") == shown.count(title) == 1
    head = (
        "| claim | who says it | measured on | verdict | first run | second run | on MNIST, 5000 images | "
        "neighbouring settings | published |"
    )
    assert head in shown
    numbers = "2.52 powers of ten [2.44 to 2.60]"
    text = first.conclusion.statements[0].text
    (row,) = [line for line in shown.splitlines() if line.startswith(f"| {text}")]
    assert "| scikit-learn's digits, 8 x 8; MNIST, 5000 images; 30 layers of 256 units |" in row
    assert f"| ✗ contradicted | {numbers} | {numbers} | ✗ contradicted; {numbers}; second run {numbers} |" in row
    assert shown.splitlines()[2].startswith("Measured on scikit-learn's digits, 8 x 8; MNIST, 5000 images; ")


def test_a_statement_that_other_data_lack_or_alone_have_leaves_cells_empty(results: list[Result]) -> None:
    first = results[1]
    one, two = first.conclusion.statements
    more = on_mnist(
        dataclasses.replace(
            first,
            conclusion=dataclasses.replace(
                first.conclusion, statements=(one, dataclasses.replace(two, text="Only there."))
            ),
        )
    )
    rows = markdown.claims([stamped(first), stamped(more)]).splitlines()
    (lacking,) = [line for line in rows if line.startswith(f"| {two.text}")]
    (alone,) = [line for line in rows if line.startswith("| Only there.")]
    assert "| scikit-learn's digits, 8 x 8; 30 layers of 256 units |" in lacking
    assert "| MNIST, 5000 images; 30 layers of 256 units |  |  |  | · no verdict" in alone
    assert lacking.count("|") == alone.count("|") == 10


def test_an_experiment_that_was_run_on_other_data_alone_says_so(results: list[Result]) -> None:
    shown = markdown.claims([stamped(on_mnist(results[1]))])
    assert "(experiments/do_gradients_survive_depth.md) (MNIST, 5000 images)\n" in shown
    assert "| MNIST, 5000 images; 30 layers of 256 units |" in shown


def test_kept_runs_on_both_data_come_back_beside_each_other(results: list[Result], tmp_path: Path) -> None:
    first = stamped(results[1])
    keep([first, again(first), on_mnist(first), on_mnist(again(first))], tmp_path)
    names = {path.name.removeprefix("do_gradients_survive_depth") for path in tmp_path.iterdir()}
    assert names == {".json", ".seeds-1000.json", ".mnist-5000.json", ".mnist-5000.seeds-1000.json"}
    assert "| on MNIST, 5000 images |" in markdown.claims(markdown.kept(tmp_path))


def test_every_experiment_has_a_row_with_its_verdicts(results: list[Result]) -> None:
    shown = markdown.claims([stamped(result) for result in [*results, *(again(each) for each in results)]])
    assert (
        "| | ✓ reproduced | = exact | < not as large as required | ? not visible at this scale | ✗ contradicted | "
        "○ not seen in this regime | · no verdict |"
    ) in shown
    link = "[Do gradients survive depth?](experiments/do_gradients_survive_depth.md)"
    assert f"| {link} | 1 |  |  |  | 1 |  |  |\n" in shown


def test_the_run_is_said_once_where_all_agree_and_in_full_where_not(results: list[Result]) -> None:
    first, second = results
    shown = markdown.claims([stamped(first), stamped(second, date="2026-11-23T05:00:00", torch="2.14.0")])
    assert "- date: 2026-11-21 to 2026-11-23\n" in shown
    assert "- machine: Model X, Linux\n" in shown
    assert "- versions: torch 2.13.0; torch 2.14.0\n" in shown
    assert "- seeds: 10 (0 to 9); 5 (0 to 4)\n" in shown
    assert "- all trials together took 3 minutes, on one thread each" in shown


def test_the_correction_is_said(results: list[Result]) -> None:
    first, second = (stamped(each) for each in results)
    shown = markdown.claims([dataclasses.replace(first, share=0.334), second])
    assert "- intervals: with Nadeau and Bengio's variance in 1 of 2 runs, whose seeds draw from one set" in shown
    assert "(what is tested on over all else: 0.334)" in shown
    assert "Nadeau and Bengio's variance" not in markdown.claims([first, second])


def test_the_commit_of_the_rules_is_said(results: list[Result]) -> None:
    assert "- the rules as of commit: abc\n" in markdown.claims([stamped(each, commit="abc") for each in results])


def test_no_words_break_the_table(hostile: Result) -> None:
    shown = markdown.claims([stamped(hostile)])
    (row,) = [line for line in shown.splitlines() if line.startswith("| \\<script")]
    assert row.replace("\\|", "").count("|") == 9
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
