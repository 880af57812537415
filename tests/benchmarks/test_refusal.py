"""No time is reported for a call that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from benchmarks import agreement, peers, rows
from benchmarks.cases import OPERATIONS, PASSES, Case, inputs
from benchmarks.run import command
from benchmarks.shapes import FEATURES, TINY
from normwise.torch import BatchNorm1d, BatchNorm2d


def case(operation: str = "bn+relu", phase: str = "forward", dtype: str = "float32") -> Case:
    return Case(TINY[0], dtype, "first", operation, phase, "default")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("phase", PASSES)
def test_what_is_right_is_not_refused(operation: str, phase: str, dtype: str) -> None:
    one = case(operation, phase, dtype)
    assert agreement.disagreement(one, inputs(one)) == ""


def let_outputs_be(change: Callable[[torch.Tensor], torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Put layers whose outputs are wrong in the place of normwise's."""

    class Wrong1d(BatchNorm1d):
        def forward(self, *arguments: Any, **keywords: Any) -> torch.Tensor:
            return change(super().forward(*arguments, **keywords))

    class Wrong2d(BatchNorm2d):
        def forward(self, *arguments: Any, **keywords: Any) -> torch.Tensor:
            return change(super().forward(*arguments, **keywords))

    monkeypatch.setattr(peers, "BatchNorm1d", Wrong1d)
    monkeypatch.setattr(peers, "BatchNorm2d", Wrong2d)


def test_a_wrong_output_is_refused_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    let_outputs_be(lambda y: y * 1.0001, monkeypatch)
    monkeypatch.setattr(rows, "in_turn", lambda *_, **__: pytest.fail("it was timed"))
    row = rows.measure(case(), [peers.EAGER], rounds=1, seconds=0)
    assert row.refused.startswith("y is off by ")
    assert row.milliseconds is None
    assert row.ratios == {}


def test_a_wrong_gradient_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(BatchNorm2d):
        def forward(self, input: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
            input.register_hook(lambda g: g * 1.001)
            return super().forward(input, *arguments, **keywords)

    monkeypatch.setattr(peers, "BatchNorm2d", Wrong)
    one = case("bn+add+relu", "forward+backward")
    i = inputs(one, seed=1)
    i = type(i)(**{**vars(i), "x": i.x.detach().mul(1).requires_grad_()})
    assert agreement.disagreement(one, i).startswith("dx is off by ")


def test_a_nan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    let_outputs_be(lambda y: y * float("nan"), monkeypatch)
    assert agreement.disagreement(case(), inputs(case())) == "y is off by inf times what rounding explains"


def test_a_run_with_a_refusal_ends_with_1_and_says_which(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    let_outputs_be(lambda y: y + 1, monkeypatch)
    options = "--network no --memory default --dtype float32 --op bn --pass forward --threads 1 --repeats 1"
    result = CliRunner().invoke(command, [*options.split(), "--only", FEATURES[2].name, "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "REFUSED" in result.output
    assert "y is off by" in result.output


def test_few_channels_of_a_large_layer_are_judged_and_all_of_a_small_one() -> None:
    assert agreement.judged_channels((4, 8, 10, 10)) == list(range(8))
    assert agreement.judged_channels((32, 64, 112, 112)) == [0, 63]
    assert agreement.judged_channels((32, 2048, 7, 7))[-1] == 2047
