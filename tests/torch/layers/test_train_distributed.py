"""The example that trains on several processes: the losses of one process, whatever is killed on the way."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from torch import distributed

import normwise.torch as nt
from tests.torch.processes import LONGEST, ROOT

EXAMPLE = ROOT / "examples/train_distributed.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# Five steps in an epoch, of which the last has one image, so that one of two processes has none; checkpoints are
# written after steps 2, 4 and 5.
SETTINGS = {"dtype": "float64", "epochs": 3, "batch_size": 359}
ARGUMENTS = ["--dtype", "float64", "--epochs", "3", "--batch-size", "359", "--every", "2"]


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_distributed", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(command: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    """Its words go to a file, so that it never waits for a reader."""
    outer = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    with (folder / "words").open("w") as words:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**outer, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
            stdout=words,
            stderr=subprocess.STDOUT,
            text=True,
        )


def end(process: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
    """The results of a process that has ended by itself; else torchrun is told to end its workers."""
    try:
        code = process.wait(timeout=LONGEST)
    finally:
        stop(process)
    assert code == 0, (folder / "words").read_text()
    found: dict[str, Any] = json.loads((folder / "losses.json").read_text("utf-8"))
    return found


def stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def outputs(folder: Path) -> list[str]:
    return ["--losses", str(folder / "losses.json"), "--weights", str(folder / "weights.pt")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """One process, as a user starts it, and where its files are."""
    folder = tmp_path_factory.mktemp("alone")
    command = [sys.executable, str(EXAMPLE), *ARGUMENTS, *outputs(folder)]
    return end(start(command, folder), folder), folder


def test_two_processes_have_the_losses_and_the_model_of_one(alone: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    found = end(start([*TORCHRUN, str(EXAMPLE), *ARGUMENTS, *outputs(tmp_path)], tmp_path), tmp_path)
    right, folder = alone
    assert len(right["losses"]) == SETTINGS["epochs"]
    assert found["losses"] == pytest.approx(right["losses"], rel=1e-9)
    assert found["accuracy"] == right["accuracy"] > 0.5
    one, two = (torch.load(each / "weights.pt", weights_only=True) for each in (folder, tmp_path))
    torch.testing.assert_close(two, one, rtol=1e-8, atol=1e-8)
    plain = nt.convert_from_synchronized(example().network()).model.double()
    plain.load_state_dict(two)


def test_killed_workers_change_nothing(alone: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """Rank 1 in the middle of an epoch; then rank 0 when it has written a checkpoint, but not yet given it its name.

    Each waits for its end at that place, so that nothing depends on who is faster.
    """
    checkpoint, copy = tmp_path / "digits.pt", tmp_path / "copy.pt"
    more = ["--checkpoint", str(checkpoint), *ARGUMENTS, *outputs(tmp_path)]
    process = start([*TORCHRUN, "--max-restarts", "4", "-m", __name__, str(tmp_path), *more], tmp_path)
    try:
        first = waiting(process, tmp_path, attempt=0)
        assert progress(checkpoint) == (1, 2)
        shutil.copy(checkpoint, copy)
        os.kill(first, signal.SIGKILL)
        second = waiting(process, tmp_path, attempt=1)
        assert progress(tmp_path / ".digits.pt.partial") == (2, 0)
        assert progress(checkpoint) == (1, 4)
        os.kill(second, signal.SIGKILL)
    except BaseException:
        stop(process)
        raise
    right = pytest.approx(alone[0]["losses"], rel=1e-9)
    assert end(process, tmp_path)["losses"] == right
    assert progress(checkpoint) == (3, 0)
    # What two processes began, one can end.
    command = [sys.executable, str(EXAMPLE), "--checkpoint", str(copy), *ARGUMENTS, *outputs(tmp_path)]
    assert end(start(command, tmp_path), tmp_path)["losses"] == right
    assert "epoch 1:" not in (tmp_path / "words").read_text()


def progress(path: Path) -> tuple[int, int]:
    found = torch.load(path, weights_only=True)["progress"]
    return found["epoch"], found["step"]


def waiting(process: subprocess.Popen[str], folder: Path, *, attempt: int) -> int:
    """The worker that has come to its end, in this attempt of torchrun's."""
    latest = time.monotonic() + LONGEST
    while not (folder / f"{attempt}.pid").exists():
        assert process.poll() is None, (folder / "words").read_text()
        assert time.monotonic() < latest, (folder / "words").read_text()
        time.sleep(0.05)
    return int((folder / f"{attempt}.pid").read_text())


def work(folder: Path) -> None:
    """Be a worker: the example, with a place to be killed at."""
    module, rank, attempt = example(), int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    summed, replace = module.summed, Path.replace
    calls = 0

    def wait_in(call: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            (folder / "pid").write_text(str(os.getpid()))
            replace(folder / "pid", folder / f"{attempt}.pid")
            while True:
                signal.pause()

    def sum_or_wait(value: torch.Tensor) -> Any:
        wait_in(5)
        return summed(value)

    def replace_or_wait(self: Path, target: Path) -> Path:
        wait_in(2)
        return replace(self, target)

    if (rank, attempt) == (1, 0):
        vars(module)["summed"] = sum_or_wait  # rank 0 has written what came before: steps are taken together
    elif (rank, attempt) == (0, 1):
        Path.replace = replace_or_wait  # type: ignore[assignment,method-assign]  # in this process only
    module.main(sys.argv[2:])


def complaint(path: Path, settings: dict[str, Any]) -> str:
    module = example()
    training = module.Training(module.network(), settings, steps=5)
    with pytest.raises(click.ClickException) as error:
        training.read(path)
    return error.value.message


def test_a_damaged_checkpoint(tmp_path: Path) -> None:
    module, path = example(), tmp_path / "digits.pt"
    module.Training(module.network(), SETTINGS, steps=5).write(path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no checkpoint"):
        path.write_bytes(damaged)
        assert complaint(path, SETTINGS) == (
            f"{path} is damaged, or no checkpoint at all: move it away, or give another with --checkpoint."
        )


def test_a_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for foreign in (torch.zeros(3), {"weight": torch.zeros(3)}):
        torch.save(foreign, path)
        assert complaint(path, SETTINGS) == (
            f"{path} is no checkpoint of this script: move it away, or give another with --checkpoint."
        )


def test_a_checkpoint_of_another_run(tmp_path: Path) -> None:
    module, path = example(), tmp_path / "digits.pt"
    module.Training(module.network(), SETTINGS, steps=5).write(path)
    assert module.Training(module.network(), SETTINGS, steps=5).read(path)["settings"] == SETTINGS
    assert complaint(path, {**SETTINGS, "epochs": 4}) == (
        f"{path} belongs to a run with --batch-size 359 --dtype float64 --epochs 3: "
        "repeat them, or give another file with --checkpoint."
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_all_processes_end_when_rank_0_cannot_read(rank: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(distributed, "broadcast_object_list", sent.extend)
    (tmp_path / "digits.pt").write_bytes(b"no checkpoint")
    module = example()
    training = module.Training(module.network(), SETTINGS, steps=5)
    with pytest.raises(click.ClickException if rank == 0 else click.exceptions.Exit):
        training.resume(tmp_path / "digits.pt")
    assert sent == [None]


def test_wrong_arguments(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for arguments, words in [
        (["--losses", str(missing / "x.json")], f"there is no folder {str(missing)!r} for 'x.json': make it first."),
        (["--batch-size", "1"], "Invalid value for '--batch-size': 1 is not in the range x>=2."),
    ]:
        result = CliRunner().invoke(example().main, arguments)
        assert (result.exit_code, result.stderr.splitlines()[-1]) == (2, f"Error: {words}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what holds where there is no GPU")
def test_nccl_without_a_gpu() -> None:
    result = CliRunner().invoke(example().main, ["--backend", "nccl"])
    words = "--backend nccl needs a GPU, and PyTorch sees none: use --backend gloo."
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (2, f"Error: {words}")


if __name__ == "__main__":
    work(Path(sys.argv[1]))
