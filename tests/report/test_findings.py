"""The findings stand on statements that exist, and none is shown whose verdict does not bear it."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from normwise.lab.experiment import file, names
from normwise.lab.results import EDITION, Conclusion, Estimate, Result, Statement, Table, Verdict, from_json
from normwise.lab.running.reach import PACKAGE, reached
from normwise.report import markdown, page
from normwise.report.findings import FAILS, FINDINGS, SHOWN, Finding, shown
from normwise.report.runs import gathered

KEPT = Path(__file__).parents[2] / "benchmarks/results/claims"
TEXT = "It is higher."
ADVICE = "Do it."
ONE = (Finding(ADVICE, "is_it_higher", TEXT),)
R, C, S, NONE = Verdict.REPRODUCED, Verdict.CONTRADICTED, Verdict.SMALLER, Verdict.OPEN


def made(verdict: Verdict, seed: int = 0, data: str = "", value: float = 2.0, **changes: object) -> Result:
    """A result of one statement."""
    statement = Statement(TEXT, Estimate(value, 1.9, 2.1, 10, "points"), "reproduced: some", verdict, tends=verdict)
    conclusion = Conclusion((statement,), Table("", (), ()), ())
    result = Result(
        experiment="is_it_higher",
        question="",
        claim="",
        refuted_by="",
        settings={"data": f"{data} (abc)"} if data else {},
        seeds=tuple(range(seed, seed + 10)),
        conclusion=conclusion,
        stamp={"device": "", "system": "", "date": "2026-11-21", "seconds": 1},
        command="",
        data=data or "digits",
        edition=EDITION,
    )
    return dataclasses.replace(result, **changes)  # type: ignore[arg-type]  # of Result


def seen(*results: Result, one_run: bool = False, findings: tuple[Finding, ...] = ONE) -> list[str]:
    return [each.finding.advice for each in shown(gathered(results), one_run=one_run, findings=findings)]


def constants(experiment: str) -> set[str]:
    """The texts of an experiment, and of those modules of the lab that it takes words from."""
    modules = [file(experiment)]
    modules += [
        PACKAGE / each
        for each in reached(file(experiment))
        if each.startswith(("lab/data/", "lab/design/", "lab/networks/"))
    ]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in modules if path.suffix == ".py"]
    own = {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    words = {text.strip(" ,.:;()").casefold() for text in own if isinstance(text, str)}
    return {text for text in words if len(text) > 1}


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda each: each.statement[:40])
def test_every_finding_stands_on_a_statement_of_its_experiment(finding: Finding) -> None:
    """Letter by letter in the experiment's own texts, and in its kept result where that is by the present rules."""
    assert finding.experiment in names()
    left = finding.statement.casefold()
    for text in sorted(constants(finding.experiment), key=len, reverse=True):
        left = left.replace(text, " ")
    assert not re.search(r"[a-z]{2}", left), left
    path = KEPT / f"{finding.experiment}.json"
    kept = from_json(path.read_text(encoding="utf-8")) if path.is_file() else None
    if kept is not None and kept.edition >= EDITION:
        texts = [each.text for each in kept.conclusion.statements]
        assert finding.statement in texts


def test_there_are_more_findings_than_a_page_shows_and_none_holds_a_number() -> None:
    assert len(FINDINGS) >= SHOWN + 2
    assert len({each.advice for each in FINDINGS}) == len({each.statement for each in FINDINGS}) == len(FINDINGS)
    for each in FINDINGS:
        assert each.advice.endswith(".")
        assert not re.search(r"\d", each.advice.replace("L2", ""))


def test_a_finding_takes_the_same_verdict_in_two_runs() -> None:
    assert seen(made(R), made(R, 1000)) == [ADVICE]
    assert seen(made(R)) == []  # not yet confirmed
    for other in (C, S, NONE, Verdict.NOT_VISIBLE):
        assert seen(made(R), made(other, 1000)) == []
        assert seen(made(other), made(other, 1000)) == []
    assert seen(made(R, edition=1), made(R, 1000, edition=1)) == []


def test_a_neighbouring_setting_that_turns_the_verdict_takes_the_finding_away() -> None:
    near = made(C, setting="width")
    assert seen(made(R), made(R, 1000), near) == []
    assert seen(made(R), made(R, 1000), made(R, setting="width")) == [ADVICE]


def test_a_finding_that_other_data_refute_is_not_shown() -> None:
    own = (made(R), made(R, 1000))
    assert seen(*own, made(C, data="mnist"), made(C, 1000, data="mnist")) == []
    assert seen(*own, made(R, data="mnist"), made(R, 1000, data="mnist")) == [ADVICE]
    (undecided,) = shown(gathered([*own, made(R, data="mnist")]), findings=ONE)  # no second run there
    assert not undecided.everywhere
    assert undecided.elsewhere["mnist"].statement.verdict is NONE


def test_advice_can_follow_from_a_claim_that_does_not_hold() -> None:
    against = (Finding(ADVICE, "is_it_higher", TEXT, FAILS),)
    assert seen(made(C), made(C, 1000), findings=against) == [ADVICE]
    assert seen(made(R), made(R, 1000), findings=against) == []
    assert seen(made(C), made(C, 1000), made(R, data="m"), made(R, 1000, data="m"), findings=against) == []


def test_another_statement_stands_beside_the_finding_whatever_its_verdict() -> None:
    tuned = Statement("Tuned.", Estimate(0.5, 0.4, 0.625, 10, "times fewer", log=True), "", S, tends=S)
    runs = [made(R), made(R, 1000)]
    for place, run in enumerate(runs):
        both = (*run.conclusion.statements, tuned)
        runs[place] = dataclasses.replace(run, conclusion=dataclasses.replace(run.conclusion, statements=both))
    (found,) = shown(gathered(runs), findings=(Finding(ADVICE, "is_it_higher", TEXT, beside=("Tuned.",)),))
    ((data, line),) = found.beside
    assert (data, line.first.text, line.statement.verdict) == ("digits", "Tuned.", S)


def test_settings_that_were_not_run_and_intervals_that_share_no_value_are_said() -> None:
    first, second = made(R, neighbours=("grid", "width")), made(R, 1000, neighbours=("grid", "width"))
    far = dataclasses.replace(second.conclusion.statements[0].effect, value=9.0, low=8.9, high=9.1)
    said = dataclasses.replace(second.conclusion.statements[0], effect=far)
    second = dataclasses.replace(second, conclusion=dataclasses.replace(second.conclusion, statements=(said,)))
    text = markdown.claims([first, second, made(R, setting="width")])
    assert (
        "9.00 points [8.90 to 9.10], which shares no value with the first | width: no matter, not tried: grid |" in text
    )


def test_those_that_hold_on_all_data_come_first_and_there_are_ten() -> None:
    many = tuple(Finding(f"Do {n}.", f"experiment_{n}", TEXT) for n in range(SHOWN + 2))
    results = [made(R, seed, experiment=each.experiment) for each in many for seed in (0, 1000)]
    results += [made(S, seed, "mnist", experiment="experiment_0") for seed in (0, 1000)]
    found = seen(*results, findings=many)
    assert found == [f"Do {n}." for n in range(1, SHOWN + 1)]
    assert seen(*results, findings=many[:3]) == ["Do 1.", "Do 2.", "Do 0."]


def test_the_page_of_claims_begins_with_data_and_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normwise.report.findings.shown.__kwdefaults__", {"one_run": False, "findings": ONE})
    mnist = [made(R, seed, "mnist", value=1.95) for seed in (0, 1000)]
    text = markdown.claims([made(R), made(R, 1000, value=2.05), *mnist])
    assert (
        f"## What this means for you\n\n1. **{ADVICE}**\n"
        f"    - {TEXT} ([Is it higher?](experiments/is_it_higher.md))\n"
        "    - digits: ✓ reproduced; 2.00 points [1.90 to 2.10]; second run 2.05 points [1.90 to 2.10]\n"
        "    - mnist: ✓ reproduced; 1.95 points [1.90 to 2.10]; second run 1.95 points [1.90 to 2.10]\n"
    ) in text
    named = [made(R, seed, architecture="2 layers of 64") for seed in (0, 1000)]
    assert "- digits; 2 layers of 64: ✓ reproduced; 2.00 points" in markdown.claims(named)
    assert text.index("Measured on") < text.index("What this means") < text.index("## The verdicts")
    assert ADVICE not in markdown.claims([made(R), made(C, 1000)])
    assert "Nothing is settled yet" in markdown.claims([made(R)])


def test_the_report_of_one_run_says_that_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normwise.report.findings.shown.__kwdefaults__", {"one_run": False, "findings": ONE})
    html = page.render([made(R)])
    assert f"<b>{ADVICE}</b>" in html
    assert "one run on digits, not yet confirmed at other seeds" in html
    for verdict in (C, S, NONE):
        assert ADVICE not in page.render([made(verdict)])


def test_the_first_screen_has_figures_then_findings_then_the_table(
    results: list[Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normwise.report.findings.shown.__kwdefaults__", {"one_run": False, "findings": ONE})
    html = page.render([*results, made(R)])
    assert html.count('<figure id="leading-') == 2  # of the two experiments that have figures
    places = [html.index(each) for each in ('id="leading-', 'id="findings"', 'id="summary"', 'id="figure-1-1"')]
    assert places == sorted(places)
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(set(ids)) == len(ids)
    assert 'id="leading-' not in page.render(results[:1])  # whose own figures are there already
