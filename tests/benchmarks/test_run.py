"""The whole way: a tiny run, its files, and what it says of the targets."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import normwise
from benchmarks import figures, memory, networks, peers, report, rows, steps, targets
from benchmarks import spread as spreads
from benchmarks.cases import Case
from benchmarks.rows import Row
from benchmarks.run import command
from benchmarks.shapes import RESNET50_LAYERS, TINY
from benchmarks.spread import spread


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """The run sets the number of threads and the pool: both as before, for the tests that follow."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    memory.treat("default")


def row(shape: int, ours: float, eager: float, *, copy: float = 1.0, phase: str = "forward") -> Row:
    case = Case(RESNET50_LAYERS[shape], "float32", "first", "bn+relu", phase, "reused")
    ratios = {peers.EAGER: spread([eager / 2, eager, eager, eager * 2]), peers.COPY: spread([copy])}
    errors = {"0": {peers.OURS: (1e-7, 1e-8), peers.EAGER: (1e-6, 1e-6)}}
    return Row(case, "cpu", "", milliseconds=spread([ours]), ratios=ratios, accuracy=errors)


def test_a_tiny_run_writes_its_numbers_and_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreads, "WIDEST", math.inf)
    options = "--network no --memory default --memory fresh --threads 1 --repeats 2 --seconds 0 --pass forward"
    result = CliRunner().invoke(command, [*options.split(), "--only", TINY[0].name, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    numbers, page = sorted(tmp_path.iterdir(), key=lambda path: path.suffix, reverse=True)
    assert numbers.stem == page.stem
    assert numbers.stem.removesuffix("-busy").endswith("-1-threads-part")

    said = json.loads(numbers.read_text("utf-8"))
    assert said["machine"]["torch"] == torch.__version__
    assert said["machine"]["threads"] == 1
    assert len(said["rows"]) == 2 * 2 * 2 * 3  # memory, dtypes, layouts, operations
    first = said["rows"][0]
    assert first["kernel"] in {"aten", "cpu", "two_pass"}
    assert first["ratios"][peers.EAGER]["pairs"] == 2
    assert 0 < first["ratios"][peers.EAGER]["low"] <= first["ratios"][peers.EAGER]["median"]
    assert set(first["accuracy"]["0"]) == {peers.OURS, peers.EAGER}
    assert {row["case"]["memory"] for row in said["rows"]} <= set(said["memory"])

    HTMLParser().feed(page.read_text("utf-8"))
    assert "How fast is it" in page.read_text("utf-8")


def test_a_page_draws_ratios_and_bandwidth_and_stands_alone() -> None:
    rows = (row(0, 10, 6), row(1, 2, 3), row(2, 9, 0.5))
    run = report.Run({}, {}, rows, (), tuple(targets.means(rows)), tuple(targets.judge(rows, ())))
    page = report.page(run)
    assert page.count("<figure") == len(figures.all_of(rows)) == 2
    assert page.count("<svg") >= 2
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "missed" in page


def test_a_target_is_met_by_the_weighted_mean_or_missed() -> None:
    rows = [row(0, 10, 8.0, copy=0.5), row(1, 2, 4.0)]  # one layer and six
    first = targets.judge(rows, ())[0]
    assert first.text == "bn+relu forward, float32, channels first, reused: over PyTorch eager"
    assert first.measured == f"{(8 * 4**6) ** (1 / 7):.2f}"
    assert first.met is False
    assert first.note == "on 2 of 12 shapes only"


def test_what_falls_short_is_named() -> None:
    by_text = {target.text: target for target in targets.judge([row(0, 10, 0.9, copy=0.5), row(1, 2, 4.0)], ())}
    worst = by_text["every row: over PyTorch eager"]
    assert worst.met is False
    assert [offender[:5] for offender in worst.offenders] == ["0.90:"]
    (copied,) = (target for text, target in by_text.items() if "plain copy" in text)
    assert (copied.measured, copied.met) == ("2.00", False)


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert {target.met for target in targets.judge([], ())} == {None}


def test_a_step_that_was_skipped_says_why_and_meets_nothing() -> None:
    step = steps.Step("ResNet-50, batch 2", skipped="REFUSED: apart")
    assert [target.met for target in targets.judge([], [step])[-2:]] == [None, None]
    assert "REFUSED: apart" in report.page(report.Run({}, {}, (), (step,), (), ()))


def test_memory_that_is_kept_cannot_be_made_fresh_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory._process, "heap_keeps", True)
    with pytest.raises(memory.NoTreatment, match="before 'reused'"):
        memory.treat("fresh")
    monkeypatch.undo()


def test_keras_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda _: None)
    with pytest.raises(peers.NoPeer, match=r"^Keras is not installed$"):
        peers.keras_on_torch()


@pytest.mark.parametrize("arguments", [["--help"], ["--only", "no such row", "--network", "no"]])
def test_the_command_explains_itself(arguments: list[str]) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == (0 if arguments == ["--help"] else 2)
    assert ("--quick" if arguments == ["--help"] else "nothing is selected") in result.output


def test_a_network_is_timed_before_and_after_it_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreads, "WIDEST", math.inf)
    small = networks.Network("small", lambda: networks.resnet((1, 0, 0, 0)), (3, 32, 32), 2)
    step = steps.measure(steps.Setting(small, "last", "bfloat16"), compiled=False, rounds=2, seconds=0)
    assert step.skipped == ""
    assert step.ratios[steps.FUSED].pairs == 2
    assert step.done == "4 of 5 batch norms fused, 1 swapped, 0 left"
    assert set(step.ratios) == {steps.FUSED, steps.BARE}


def test_networks_that_do_not_agree_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: torch.nn.Module) -> str:
        model[0].weight.data.zero_()  # type: ignore[index]  # its first layer is a convolution
        return "fused"

    monkeypatch.setattr(normwise, "fuse", broken)
    small = networks.Network("small", lambda: networks.resnet((1, 0, 0, 0)), (3, 32, 32), 2)
    step = steps.measure(steps.Setting(small, "first", "float32"), compiled=False, rounds=2, seconds=0)
    assert step.skipped.startswith("REFUSED: loss and gradients of fused are")
    assert step.ratios == {}


def test_a_row_too_noisy_to_mean_anything_is_measured_again_and_then_not_published(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[int] = []

    def in_turn(calls: dict[str, object], **_: object) -> tuple[dict[str, list[float]], dict[str, int]]:
        runs.append(len(calls))
        theirs = {peers.EAGER: [1.0, 1.0, 2.0, 2.0], peers.COPY: [0.5, 0.5, 0.5, 0.5]}
        return {peers.OURS: [1.0] * 4, **theirs}, dict.fromkeys(calls, 1)

    monkeypatch.setattr(rows, "in_turn", in_turn)
    case = Case(TINY[0], "float32", "first", "bn", "forward", "default")
    found = rows.measure(case, (peers.EAGER, peers.COPY), rounds=4, seconds=0)
    assert len(runs) == 3
    assert {*found.ratios} == {peers.COPY}
    assert found.absent == {peers.EAGER: "machine too busy: the quartiles were 1.00 and 2.00"}
    assert "machine too busy" in report.page(report.Run({}, {}, (found,), (), (), ()))
    assert targets.means([found]) == []


def test_numbers_of_a_busy_machine_say_so() -> None:
    assert report.BUSY in report.page(report.Run({}, {"calm": False}, (), (), (), ()))
    about = {"processor": "Some (R) Chip", "threads": 2}
    assert report.stem("2030-01-02T03", about, complete=True, calm=True) == "2030-01-02-some-r-chip-2-threads"
    assert report.stem("2030-01-02T03", about, complete=False, calm=False).endswith("-2-threads-part-busy")
