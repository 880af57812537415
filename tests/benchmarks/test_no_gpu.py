"""The message of `make bench DEVICE=cuda` and `make test DEVICE=cuda` where there is no GPU: one sentence."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

import conftest
from benchmarks.gpu.__main__ import main


def test_the_benchmark_refuses_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(main, ["bench"])
    assert result.exit_code == 1
    assert result.output == (
        "Error: this measures on a GPU, and PyTorch finds none here: run it on a machine with one, with PyTorch's "
        "build for CUDA or ROCm.\n"
    )


def test_the_tests_refuse_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("NORMWISE_TEST_DEVICE", "cuda")
    with pytest.raises(pytest.exit.Exception) as refused:
        conftest.pytest_configure()
    assert refused.value.returncode == 2
    assert refused.value.msg == (
        "these tests run on a GPU, and PyTorch finds none here: leave DEVICE=cuda out, or run them where there is one."
    )
