"""The measurement for GPUs runs from end to end under the interpreter, on little tensors; its numbers mean nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.gpu import bench, steps_on_gpus, summary
from benchmarks.gpu.bench import Case, cases
from benchmarks.gpu.steps_on_gpus import Asked
from benchmarks.timing import seconds_of
from tests.kernels.triton_gpu.device import DEVICE

SETTINGS = (("float32", False), ("bfloat16", True))
LITTLE = [Case((4, 2, 3, 3), dtype, last, adds, 1 + adds) for dtype, last in SETTINGS for adds in (False, True)]


def small() -> nn.Module:
    layers = nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(2, 1000))


@pytest.fixture(autouse=True)
def _nothing_is_too_noisy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every ratio published: of so little, none is calm."""
    monkeypatch.setattr("benchmarks.spread.WIDEST", float("inf"))


STEPS = Asked(small, 2, (3, 6, 6), (False,), 2)


def ran(folder: Path, **how: Any) -> dict[str, Any]:
    """The results file of a run."""
    settings: dict[str, Any] = {"asked": LITTLE, "steps": STEPS, "minutes": (5.0, 5.0), **how}
    path = bench.run(folder, device=DEVICE, clock=seconds_of, compile=False, rounds=2, **settings)
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


@pytest.mark.parametrize("adds", [False, True], ids=["", "residual"])
def test_a_layer_is_checked_and_timed(adds: bool) -> None:
    case = Case((4, 2, 3, 3), "float32", adds, adds)
    row = bench.measure(case, DEVICE, seconds_of, compile=False, rounds=2)
    assert {*row["milliseconds"]} == {summary.COPY, summary.EAGER, summary.NATIVE, summary.OURS}
    assert {*row["ratios"]} == {summary.EAGER, summary.NATIVE}
    assert row["bytes"] == 4 * 4 * 2 * 3 * 3
    assert bench.line(row).startswith(case.name)
    assert "of the floor; eager" in bench.line(row)


def test_the_native_peer_has_no_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    plain = bench.plain

    def watched(*given: Any) -> Any:
        seen.append(torch.backends.cudnn.enabled)
        return plain(*given)

    monkeypatch.setattr(bench, "plain", watched)
    given = bench.inputs(LITTLE[0], DEVICE)
    bench.native(*given[:4])
    bench.plain(*given[:4])
    assert seen == [False, True]


def test_what_does_not_agree_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ours", lambda *given: bench.plain(*given) * 1.01)
    row = bench.measure(Case((4, 2, 3, 3), "float32", False, False), DEVICE, seconds_of, compile=False)
    assert "milliseconds" not in row
    assert "REFUSED: 0.0" in bench.line(row)


def test_a_run_has_every_row_and_a_short_table_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ran(tmp_path)
    assert [row["case"] for row in found["layers"]] == [case.name for case in LITTLE]
    assert [row["step"] for row in found["steps"]] == [
        f"{dtype}, channels {order}, {way}"
        for dtype, order in (("float32", "first"), ("bfloat16", "last"))
        for way in ("PyTorch", "fused, triton", "fused")
    ]
    assert all("MB" in steps_on_gpus.line(row) for row in found["steps"])
    assert found["left out"] == []
    printed = capsys.readouterr().out
    table = printed.rpartition("\n\n")[2].splitlines()
    assert len(table) + 1 <= summary.LINES  # with the path, which the command prints
    for setting, line in zip(summary.TARGETS, table, strict=False):
        assert line.startswith(f"{setting}, 1 shapes: ")
        assert "times eager, cuDNN (target " in line
        assert line.endswith(" times eager, native")
    assert [*tmp_path.glob("*.part")] == []


def test_what_is_too_noisy_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.spread.WIDEST", 0.0)
    row = bench.measure(LITTLE[0], DEVICE, seconds_of, compile=False, rounds=2)
    assert row["ratios"] == {}
    assert row["absent"][summary.EAGER].startswith("machine too busy")


def test_the_file_is_there_after_each_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed in its third row has the first two."""
    measure = bench.measure

    def killed(case: Case, *given: Any, **how: Any) -> dict[str, Any]:
        if case is LITTLE[2]:
            raise KeyboardInterrupt
        return measure(case, *given, **how)

    monkeypatch.setattr(bench, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        ran(tmp_path)
    (path,) = tmp_path.iterdir()
    assert [row["case"] for row in json.loads(path.read_text("utf-8"))["layers"]] == [case.name for case in LITTLE[:2]]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), RuntimeError("out of resource\nmore")])
def test_a_row_that_fails_is_one_row(
    error: RuntimeError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = bench.measure

    def failing(case: Case, *given: Any, **how: Any) -> dict[str, Any]:
        if case is LITTLE[0]:
            raise error
        return measure(case, *given, **how)

    monkeypatch.setattr(bench, "measure", failing)
    found = ran(tmp_path, asked=LITTLE[:2], minutes=(5.0, -1.0))
    why = steps_on_gpus.NO_ROOM if isinstance(error, torch.OutOfMemoryError) else "out of resource"
    assert found["layers"][0]["refused"] == why
    assert ["refused" in row for row in found["layers"]] == [True, False]
    assert f"REFUSED: {LITTLE[0].name}" in capsys.readouterr().out


def test_a_step_that_finds_no_room_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = steps_on_gpus._tried

    def failing(asked: Asked, setting: Any, name: str, *given: Any) -> Any:
        if name == "fused":
            raise torch.OutOfMemoryError
        return tried(asked, setting, name, *given)

    monkeypatch.setattr(steps_on_gpus, "_tried", failing)
    found = ran(tmp_path, asked=[])
    assert ["refused" in row for row in found["steps"]] == [False, False, True] * 2


def test_when_the_time_is_up_the_rest_is_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ran(tmp_path, minutes=(-1.0, -1.0))
    assert found["left out"][: len(LITTLE)] == [case.name for case in LITTLE]
    assert len(found["left out"]) == len(LITTLE) + 6
    assert (found["layers"], found["steps"]) == ([], [])
    printed = capsys.readouterr().out
    assert "The time was up before: 2@3, float32, channels first, relu; " in printed
    assert "step, float32: not measured" in printed


def test_all_of_resnet50_is_asked_for_the_most_frequent_first() -> None:
    assert len(cases()) == 2 * (12 + 4)
    assert {case.size[0] for case in cases()} == {256}
    assert [case.layers for case in cases()] == sorted((case.layers for case in cases()), reverse=True)
    assert {case.setting for case in cases()} == {*summary.TARGETS}
    assert sum(case.layers for case in cases() if case.setting == "float32, channels first, relu") == 53


def test_the_whole_takes_less_than_ten_minutes() -> None:
    """With a minute for the row that is being measured when each of the two times is up."""
    assert bench.LAYERS_TAKE + bench.STEPS_TAKE + 2 <= 10
