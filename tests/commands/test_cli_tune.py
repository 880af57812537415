"""`normwise tune` where there is nothing to tune for, and what it prints and keeps where there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from normwise.cli import main
from normwise.commands import tune as command
from normwise.kernels import choose_triton

torch = pytest.importorskip("torch", reason="the kernels are PyTorch's")


def call(*words: str) -> Result:
    return CliRunner().invoke(main, ["tune", *words], prog_name="normwise")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton is there, and no GPU."""
    monkeypatch.setattr(choose_triton, "importable", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("alone")
def test_without_a_gpu() -> None:
    done = call()
    assert done.exit_code == 3
    assert done.stderr == (
        "normwise: `normwise tune` times kernels on a GPU, and PyTorch finds no GPU here: run the command on a machine "
        "with a GPU and with PyTorch's build for CUDA or ROCm.\n"
    )


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose_triton, "importable", lambda: False)
    done = call()
    assert done.exit_code == 3
    assert done.stderr == (
        "normwise: `normwise tune` times the Triton kernels, and Triton is not installed; it comes with PyTorch's "
        "builds "
        "for CUDA and ROCm: install PyTorch for the GPU.\n"
    )


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("shape", ["3x", "64", "0x3", "2x3y4"])
def test_a_shape_that_is_none(shape: str) -> None:
    done = call(shape)
    assert done.exit_code == 2
    assert done.stderr == (
        f"normwise: SHAPE must be written NxC or NxCxHxW, received {shape!r}: give for example 32x64x56x56.\n"
    )


def test_what_it_chose_is_printed_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed; the extra `dev` has it on Linux")
    from normwise.kernels.triton_gpu import tuning

    asked: list[Any] = []

    def tuned(shape: str, dtype: str, *, channels_last: bool) -> tuning.Tuned:
        asked.append((shape, dtype, channels_last))
        return tuning.Tuned(f"a GPU, {shape}", tuning.CANDIDATES[1], 0.25, 0.5)

    monkeypatch.setattr(command, "_check", lambda: None)
    monkeypatch.setattr(command, "_tuned", tuned)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = call("8x4", "2x3x5x5", "--dtype", "bfloat16", "--channels-last")
    tuning.known.cache_clear()
    assert asked == [("8x4", "bfloat16", True), ("2x3x5x5", "bfloat16", True)]
    settings = "elements 2048, warps 8, programs 4, share 0, held 8192, alone 262144, launches 64"
    chosen = f"0.250 ms with {settings}; 0.500 ms with the default"
    assert done.stdout.splitlines() == [
        f"a GPU, 8x4: {chosen}",
        f"a GPU, 2x3x5x5: {chosen}",
        f"The settings: {tmp_path / 'normwise' / 'triton.json'}",
    ]
    assert {*tuning.read(tmp_path / "normwise" / "triton.json")} == {"a GPU, 8x4", "a GPU, 2x3x5x5"}
