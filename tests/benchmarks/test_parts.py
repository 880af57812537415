"""Every benchmark is a part of one command, repeats what is too noisy, and publishes none of it."""

from __future__ import annotations

import ast
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from benchmarks import (
    accumulation,
    family,
    kept,
    keras_backends,
    onednn,
    parts,
    process_memory,
    recalibration,
    save_memory,
    step_profile,
)
from benchmarks.run import command
from benchmarks.spread import Spread, published, spread

BENCHMARKS = Path(parts.__file__).parent
CALM, BUSY = spread([1.0, 1.0, 1.1]), spread([1.0, 2.0, 3.0])
RATIOS = {"ratio", "ratios", "step", "processor_step", "processor_ratio", "time"}
WORDS = "machine too busy: the quartiles were 1.50 and 2.50"
NOT_A_PART = {
    "run.py",  # the command
    "keras_layer.py",  # one backend of keras_backends.py
}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The command sets the number of threads: as before, for the tests that follow."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def names(path: Path) -> set[str]:
    """The names that a file calls or mentions."""
    return {node.id for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Name)}


def test_whatever_takes_ratios_of_times_repeats_them_where_the_machine_is_busy() -> None:
    found = [path for path in BENCHMARKS.rglob("*.py") if path.name != "spread.py" and "ratios" in names(path)]
    assert {"rows.py", "family.py", "save_memory.py", "step_profile.py", "accumulation.py"} <= {
        path.name for path in found
    }
    assert [path.name for path in found if path.name != "pairs.py" and "calmest" not in names(path)] == []


def test_every_benchmark_that_can_be_run_is_a_part_of_the_command() -> None:
    runnable = {path.name for path in BENCHMARKS.glob("*.py") if '__name__ == "__main__"' in path.read_text("utf-8")}
    assert runnable == NOT_A_PART | {f"{module}.py" for module in parts.MODULES.values()}


@pytest.mark.parametrize("part", parts.MODULES)
def test_a_part_takes_the_options_that_the_command_hands_on(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    if part == "keras":
        pytest.importorskip("keras")
    main: Callable[[list[str]], object] = import_module(f"benchmarks.{parts.MODULES[part]}").main
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = capsys.readouterr().out
    assert ("--threads" in said) == (part in parts.THREADED)
    assert "--quick" in said
    assert "--out" in said


def test_parts_run_in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called: list[list[str]] = []

    def call(arguments: list[str]) -> int:
        called.append(arguments)
        return 1 if "benchmarks.save_memory" in arguments else 0

    monkeypatch.setattr(subprocess, "call", call)
    arguments = ["--part", "family", "--part", "save_memory", "--threads", "1", "--out", str(tmp_path)]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 1, "a target is missed"
    python, out = [sys.executable, "-m"], ["--out", str(tmp_path)]
    assert called == [
        [*python, "benchmarks.save_memory", "--threads", "1", *out],
        [*python, "benchmarks.family", *out],
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--part family --network only", "--part says what to measure, and so does --network"),
        ("--part family --part keras --only 64", "the parts family, keras do not take only"),
        ("--part nothing", "'nothing' is not one of"),
        ("--part layers --only no_such_row", "nothing is selected"),
    ],
)
def test_what_a_part_would_ignore_is_refused(arguments: str, words: str) -> None:
    result = CliRunner().invoke(command, arguments.split())
    assert result.exit_code == 2
    assert words in " ".join(result.output.replace("\u2502", "").split())


def test_a_result_keeps_its_other_rows_and_takes_the_place_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    kept.keep(path, [{"at": [1, 2], "is": 1}, {"at": [3], "is": 1}], by=("at",))
    kept.keep(path, [{"at": [1, 2], "is": 2}], by=("at",))
    assert json.loads(path.read_text("utf-8")) == {"rows": [{"at": [1, 2], "is": 2}, {"at": [3], "is": 1}]}


def test_conditions_have_the_load_and_the_hand_over_before_and_after() -> None:
    machine = kept.Conditions().after()["machine"]
    assert machine["load before"] >= 0
    assert all(each > 0 for each in machine[kept.HAND_OVER])
    assert len(machine[kept.HAND_OVER]) == 2


def row_of_save_memory(**step: Spread) -> save_memory.Row:
    found = dict.fromkeys(save_memory.VARIANTS, CALM) | step
    calm, absent = published(found)
    kept_bytes = dict.fromkeys(save_memory.VARIANTS, 1)
    every = dict.fromkeys(save_memory.VARIANTS, CALM)
    return save_memory.Row("net", "batch 2", kept_bytes, 0.5, 0.5, {}, every, calm, every, True, "", absent)


def test_no_step_is_published_of_a_busy_machine() -> None:
    row = row_of_save_memory(save_memory=BUSY)
    assert WORDS in save_memory.told(row)
    assert save_memory.missed(row) == [f"step, wanted 1.15: {WORDS}"]
    assert save_memory.missed(row_of_save_memory()) == []
    assert process_memory.row("net", "fused", BUSY, BUSY)["ratio"] is None
    assert process_memory.row("net", "fused", BUSY, BUSY)["absent"] == WORDS
    assert process_memory.row("net", "fused", CALM, BUSY)["ratio"]["median"] == 1.0


def test_no_price_of_parts_is_published_of_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accumulation, "peak", lambda *_: 1.0)
    assert accumulation.row(True, "parts", BUSY)["absent"] == WORDS
    assert accumulation.row(True, "parts", CALM)["time"]["median"] == 1.0


def recalibrated(monkeypatch: pytest.MonkeyPatch, seconds: list[float]) -> recalibration.Recalibration:
    def in_turn(calls: dict[str, Any], *, rounds: int) -> tuple[dict[str, list[float]], ...]:
        times = {name: [1.0] * rounds if name == recalibration.UPDATE_BN else seconds[:rounds] for name in calls}
        return times, times

    monkeypatch.setattr(recalibration, "in_turn_by_both_clocks", in_turn)
    monkeypatch.setattr(recalibration, "resnet", lambda: torch.nn.Sequential(torch.nn.BatchNorm2d(3)))
    monkeypatch.setattr(recalibration, "BATCHES", 2)
    return recalibration.measure(samples=2, side=4, rounds=3, rounds_by_layer=2)


def test_no_time_of_recalibration_is_published_of_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = recalibrated(monkeypatch, [1.2, 1.2, 1.3])
    assert set(found.ratio) == {recalibration.IN_STEP, recalibration.BY_LAYER}
    assert recalibration.lines(found)[-1].endswith("is met")
    busy = recalibrated(monkeypatch, [1.0, 2.0, 3.0])
    assert busy.ratio == {}
    assert busy.absent[recalibration.IN_STEP] == WORDS
    assert recalibration.lines(busy)[-1].endswith("is not known, machine too busy")


def test_no_ratio_of_a_step_is_published_of_a_busy_machine() -> None:
    found = {"network": "net", "batch": 1, "layout": "first", "mode": "compiled", "seconds": {}, "ratios": {}}
    assert WORDS in "\n".join(step_profile.said({**found, "absent": {"fused": WORDS}}))


def test_onednn_says_how_long_its_changes_of_layout_take() -> None:
    layer = torch.nn.Conv2d(3, 16, 3)
    found = onednn.milliseconds(lambda: layer(torch.randn(2, 3, 8, 8)))
    assert {"convolution", "reorder"} <= set(found)
    assert all(math.isfinite(each) and each >= 0 for each in found.values())


def spreads_in(value: Any, field: str = "") -> Iterator[tuple[str, Spread]]:
    """The spreads within a result, each with the name of the field that it stands under."""
    if isinstance(value, dict) and {"median", "lower", "upper"} <= set(value):
        yield field, Spread(**value)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from spreads_in(each, name if name in RATIOS | {"seconds", "faults"} else field)
    elif isinstance(value, list):
        for each in value:
            yield from spreads_in(each, field)


@pytest.mark.parametrize(
    "name", ["recalibration", "save_memory", "compiled_memory", "process_memory", "accumulation", "step_profile"]
)
def test_no_ratio_is_kept_that_may_not_be_published(name: str) -> None:
    path = kept.RESULTS / f"{name}.json"
    if not path.exists():
        pytest.skip(f"there is no {path.name}: make bench ARGS='--part ...' writes it")
    found = [spread for field, spread in spreads_in(json.loads(path.read_text("utf-8"))) if field in RATIOS]
    assert found or name == "compiled_memory", "of that the bytes may be kept alone"
    assert [each for each in found if not each.calm] == []


def test_the_pages_are_those_of_the_results_that_are_kept() -> None:
    rows = json.loads((kept.RESULTS / "family.json").read_text("utf-8"))["rows"]
    assert family.PAGE.read_text("utf-8") == family.page(rows)
    backends = json.loads((kept.RESULTS / "keras.json").read_text("utf-8"))
    assert keras_backends.PAGE.read_text("utf-8") == keras_backends.page(backends)
