"""The measurement for GPUs runs from end to end under the interpreter, on little tensors; its numbers mean nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.gpu import bench, steps_on_gpus
from benchmarks.gpu.bench import Case, cases
from benchmarks.timing import seconds_of
from tests.kernels.triton_gpu.device import DEVICE


@pytest.mark.parametrize("adds", [False, True], ids=["", "residual"])
def test_a_layer_is_checked_and_timed(adds: bool) -> None:
    case = Case((4, 2, 3, 3), "float32", adds, adds)
    row = bench.measure(case, DEVICE, seconds_of, compile=False, rounds=3)
    assert {*row["milliseconds"]} == {bench.COPY, bench.EAGER, bench.OURS}
    assert {*row["ratios"]} == {bench.EAGER}
    assert bench.line(row).startswith(case.name)
    assert "of the floor; eager" in bench.line(row)


def test_what_does_not_agree_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ours", lambda *given: bench.plain(*given) * 1.01)
    row = bench.measure(Case((4, 2, 3, 3), "float32", False, False), DEVICE, seconds_of, compile=False)
    assert "milliseconds" not in row
    assert "REFUSED: 0.0" in bench.line(row)


def test_a_step_is_timed_in_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def small() -> nn.Module:
        layers = nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(2, 1000))

    monkeypatch.setattr(steps_on_gpus, "resnet", small)
    rows = steps_on_gpus.measure(seconds_of, device=DEVICE, batch=2, image=(3, 6, 6), compile=(False,), rounds=2)
    assert [row["step"] for row in rows][:3] == [
        "float32, channels first, PyTorch",
        "float32, channels first, fused",
        "float32, channels first, fused, triton",
    ]
    assert len(rows) == 6
    assert all("MB" in steps_on_gpus.line(row) for row in rows)


def test_all_of_resnet50_is_asked_for() -> None:
    assert len(cases()) == 2 * (12 + 4)
    assert {case.size[0] for case in cases()} == {256}
    assert torch.Size(cases()[0].size).numel() == 256 * 64 * 112 * 112
