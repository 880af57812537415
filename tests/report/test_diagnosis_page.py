"""The page and the text of a diagnosis: what they show, that names are escaped, and what a browser says of the page."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from markupsafe import escape
from rich.console import Console

from normwise.doctor.check import load, names, run
from normwise.doctor.diagnosis import Diagnosis
from normwise.facts import ModelFacts
from normwise.report import diagnosis_page, diagnosis_plots, diagnosis_text
from tests.browser import Browser, find

EVIL = "<script>alert('layer')</script>\x07"


def diagnosed(facts: ModelFacts) -> Diagnosis:
    findings, skipped = run(names(), facts)
    return Diagnosis(tuple(findings), tuple(skipped), tuple(names()), facts)


def renamed(facts: ModelFacts) -> ModelFacts:
    layers = tuple(replace(layer, name=EVIL) for layer in facts.layers)
    return replace(facts, layers=layers, shares=dict.fromkeys([EVIL], 0.5))


@pytest.mark.parametrize("name", names())
def test_every_finding_has_its_message_numbers_plot_and_remedy_on_the_page(name: str) -> None:
    diagnosis = diagnosed(load(name).sick())
    page = diagnosis_page.render(diagnosis, title="net")
    finding = diagnosis.findings[0]
    assert finding.check.replace("_", " ").capitalize() in page
    assert str(escape(finding.remedy)) in page
    for evidence in finding.evidence:
        assert evidence in page
    drawn = diagnosis_plots.plots(finding, diagnosis.facts)
    assert all(plot.svg in page and plot.caption for plot in drawn)
    # what the check says proves it, and not the numbers in its place
    limits = diagnosis_plots.DRAWN["limits"](finding, diagnosis.facts)
    assert drawn == limits if load(name).PROOF == "limits" else drawn and drawn != limits


def test_names_from_the_model_are_escaped() -> None:
    page = diagnosis_page.render(diagnosed(renamed(load("stale_running_statistics").sick())), title=EVIL)
    assert "<script" not in page
    assert "\x07" not in page
    assert "&lt;script&gt;" in page


def test_a_healthy_model_has_a_page_too() -> None:
    page = diagnosis_page.render(diagnosed(load("stale_running_statistics").healthy()), title="net")
    assert "healthy: nothing found (1 normalization layer, 256 samples)" in page
    assert 'class="fine"' in page


def test_the_page_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    diagnosis_page.write(diagnosed(load("stale_running_statistics").sick()), path, title="net")
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_without_a_complaint_or_a_request(tmp_path: Path, width: int, dark: bool) -> None:
    path = tmp_path / "page.html"
    diagnosis_page.write(diagnosed(renamed(load("stale_running_statistics").sick())), path, title="net")
    with Browser(find()) as browser:
        shown = browser.open(path, width=width, dark=dark)
        assert shown.ask("document.documentElement.scrollWidth <= innerWidth")
        assert shown.complaints == []
        assert [each for each in shown.requests if not each.startswith(("file:", "data:"))] == []


LONG = "stage_4_of_an_encoder_that_was_made_from_a_configuration_file." * 3 + "norm"


def many_layers(facts: ModelFacts) -> ModelFacts:
    """Layers in turns with long and with hostile names, all of which are stale, and an unknown share of one."""
    (layer,) = facts.layers
    layers = tuple(replace(layer, name=f"{place}.{EVIL if place % 2 else LONG}") for place in range(12))
    shares = {each.name: 0.1 for each in layers[1:]} | {layers[0].name: float("nan")}
    return replace(facts, layers=layers, shares=shares)


@pytest.mark.parametrize("width", [390, 1280])
def test_long_and_hostile_names_of_many_layers_leave_the_page_readable(tmp_path: Path, width: int) -> None:
    path = tmp_path / "page.html"
    diagnosis = diagnosed(many_layers(load("stale_running_statistics").sick()))
    diagnosis_page.write(diagnosis, path, title=f"nets.py:{LONG}")
    with Browser(find()) as browser:
        shown = browser.open(path, width=width)
        assert shown.ask("document.documentElement.scrollWidth <= innerWidth")
        assert shown.ask("document.querySelectorAll('script, img').length") == 0
        assert (shown.complaints, shown.requests) == ([], [path.as_uri()])
        # a chip of the strip has one line, leads to the finding, and says the whole name
        chips = "[...document.querySelectorAll('.strip li')]"
        assert shown.ask(f"Math.max(...{chips}.map(chip => chip.getBoundingClientRect().height))") < 40
        assert shown.ask(f"{chips}.filter(chip => document.querySelector(chip.querySelector('a').hash)).length") == 12
        assert shown.ask(f"{chips}[2].title.startsWith('2.stage_4_of_an_encoder')")
        # four layers are named at once, the others on a click, and all on paper
        assert shown.ask("document.querySelector('details.where summary').textContent") == "and 8 more"
        units = "[...document.querySelectorAll('td.unit')].some(cell => cell.checkVisibility())"
        below = "[...document.querySelectorAll('.its-unit')].some(unit => unit.checkVisibility())"
        assert (shown.ask(units), shown.ask(below)) == (width > 480, width <= 480)
        closed = shown.ask("document.querySelector('details.where').getBoundingClientRect().height")
        browser.call("Emulation.setEmulatedMedia", {"media": "print"}, session=shown._session)
        assert shown.ask("document.querySelector('details.where').getBoundingClientRect().height") > 3 * closed


def test_a_share_that_is_no_number_is_not_drawn_and_what_was_skipped_was_not_carried_out() -> None:
    diagnosis = diagnosed(many_layers(load("stale_running_statistics").sick()))
    page = diagnosis_page.render(diagnosis, title="net")
    assert ">nan<" not in page
    skipped = {each.check for each in diagnosis.skipped}
    assert skipped
    assert f"{len(names()) - len(skipped)} of {len(names())} checks were carried out on 256 samples" in page


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    first, second = diagnosis_plots.strip(load("stale_running_statistics").sick(), [])[0], LONG
    assert (first.short, first.health, first.finding) == ("bn", "fine", 0)
    assert diagnosis_plots.shortened(second, 28) == "stage_4_of_an…tion_file.norm"
    assert len(diagnosis_plots.shortened(second, 28)) == 28


def test_the_text_has_the_verdict_the_findings_and_what_was_not_checked() -> None:
    out = io.StringIO()
    diagnosis = diagnosed(load("never_updated_statistics").sick())
    diagnosis_text.show(diagnosis, Console(file=out, width=200))
    text = out.getvalue()
    assert text.startswith(diagnosis.verdict())
    assert "error never_updated_statistics in layer 'bn'" in text
    assert "remedy: normwise.recalibrate(model, batches, layers=['bn'])" in text


@pytest.mark.parametrize("name", ["inverted_momentum", "zero_momentum", "batch_dependent_output"])
def test_a_remedy_of_several_lines_can_be_pasted_as_it_is_printed(name: str) -> None:
    diagnosis = diagnosed(load(name).sick())
    remedy = diagnosis.findings[0].remedy
    assert "\n" in remedy
    out = io.StringIO()
    diagnosis_text.show(diagnosis, Console(file=out, width=60))
    for text in (out.getvalue(), str(diagnosis)):
        assert f" remedy:\n{remedy}\n" in text


def test_the_json_is_the_same_as_the_page_says() -> None:
    diagnosis = diagnosed(load("non_finite_statistics").sick())
    found = json.loads(diagnosis.to_json())
    assert (found["schema"], found["healthy"]) == (1, False)
    assert [each["check"] for each in found["findings"]] == ["non_finite_statistics"]
    assert found["findings"][0]["severity"] == "error"
