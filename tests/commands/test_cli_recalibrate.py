"""``normwise recalibrate``: what it reads and writes, what it says, and one sentence for every mistake."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from click.testing import Result as Outcome
from safetensors.torch import load_file
from torch import nn

from normwise.cli import main
from normwise.torch.models import loading

SOURCE = """
import torch
from torch import nn

import beside

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))

class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, pixels, weight=None):
        return self.norm(pixels)

ready = nn.BatchNorm1d(3)
plain = nn.Linear
number = 3

def fails():
    raise ValueError("no such thing.\\nand more")

def nothing():
    return None

def data():
    return beside.data()

def narrow():
    return [torch.ones(4, 2)]
"""
BESIDE = "import torch\ndef data():\n    return [(torch.arange(30.0).view(10, 3) ** k, 'label') for k in (1, 2)]\n"


def call(*arguments: str) -> Outcome:
    return CliRunner().invoke(main, ["recalibrate", *arguments], prog_name="normwise")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(SOURCE, encoding="utf-8")
    Path("beside.py").write_text(BESIDE, encoding="utf-8")
    Path("broken.py").write_text("import torch\nvalue = 1 / 0\n", encoding="utf-8")
    values = np.random.default_rng(0).normal(2, 3, (70, 3)).astype(np.float32)
    np.savez("rows.npz", images=values, labels=np.zeros(70))
    np.savez("named.npz", labels=np.zeros(70), pixels=values)
    np.savez("uneven.npz", pixels=values, weight=values[:3])
    np.savez("objects.npz", images=np.array([{}, []], dtype=object))
    before, path = {*sys.modules}, [*sys.path]
    yield tmp_path
    assert [each for each in sys.path if each != str(tmp_path)] == path  # the folder stays, for what is imported later
    sys.path[:] = path
    for name in {*sys.modules} - before & {"nets", "beside", "broken"}:
        del sys.modules[name]


def values() -> torch.Tensor:
    with np.load("rows.npz") as archive:
        return torch.from_numpy(archive["images"])


READERS: dict[str, Callable[[Any], Any]] = {
    ".pt": lambda path: torch.load(path, weights_only=True),
    ".pth": lambda path: torch.load(path, weights_only=True),
    ".safetensors": load_file,
}


@pytest.mark.parametrize("suffix", READERS)
def test_the_statistics_of_the_data_are_in_the_file(suffix: str) -> None:
    done = call("nets.py:net", "--data", "rows.npz", "--out", f"new{suffix}")
    taken = (
        "normwise: the array 'images' of 'rows.npz' is taken because it is the first, and 'labels' left out: to take "
        "another, give it the name of an input of the model ('input').\n"
    )
    assert (done.exit_code, done.stderr) == (0, taken)
    assert done.stdout.startswith("1 of 1 batch norms recalibrated with 70 samples in 2 batches\n  recalibrated  1: ")
    assert done.stdout.endswith(f"\nThe weights: {Path(f'new{suffix}').resolve()}\n")
    state = READERS[suffix](f"new{suffix}")
    model: Any = loading.load_model("nets.py:net")
    assert {*state} == {*model.state_dict()}
    torch.testing.assert_close(state["1.running_mean"], model[0](values()).detach().mean(0))
    assert torch.equal(state["3.weight"], model[3].weight)
    again: Any = loading.load_model("nets.py:net", Path(f"new{suffix}"))
    assert torch.equal(again[1].running_var, state["1.running_var"])
    assert sorted(path.name for path in Path().iterdir() if "new" in path.name) == [f"new{suffix}"]  # nothing besides


def test_the_weights_are_those_of_the_file_and_the_data_those_of_the_callable() -> None:
    model: Any = loading.load_model("nets.py:net")
    nn.init.ones_(model[0].weight)
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, "old.pt")
    done = call("nets.py:net", "--weights", "old.pt", "--data", "nets.py:data", "--out", "new.pt", "--json")
    found = json.loads(done.stdout)
    assert (found["samples"], found["batches"], found["not_reached"], found["standard_error"]) == (20, 2, [], None)
    assert [*found["recalibrated"]] == ["1"]
    state = torch.load("new.pt", weights_only=True)
    assert bool((state["0.weight"] == 1).all())


def test_settings_are_passed_on() -> None:
    settings = ("--estimator", "cumulative", "--batches", "1", "--batch-size", "10", "--upstream", "batch")
    done = call("nets:ready", "--data", "rows.npz", "--out", "new.pt", *settings)
    assert "recalibrated with 10 samples in 1 batch\n  recalibrated  (the model): " in done.stdout
    torch.testing.assert_close(torch.load("new.pt", weights_only=True)["running_mean"], values()[:10].mean(0))


def test_arrays_are_given_by_the_names_of_the_parameters() -> None:
    call("nets.py:Named", "--data", "named.npz", "--out", "new.pt")
    torch.testing.assert_close(torch.load("new.pt", weights_only=True)["norm.running_mean"], values().mean(0))


@pytest.mark.parametrize(
    ("error", "free"),
    [
        (OSError(28, "No space left on device"), 1 << 30),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), 1 << 30),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), 0),
    ],
    ids=["system", "safetensors", "torch"],
)
def test_a_file_that_is_there_is_replaced_only_by_a_whole_one(
    error: Exception, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("new.pt").write_bytes(b"old")
    Path("new.pt").chmod(0o640)

    def full(_: Any, path: Any) -> None:
        Path(path).write_bytes(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        done = call("nets.py:Named", "--data", "named.npz", "--out", "new.pt")
    sentence = (
        "normwise: 'new.pt' could not be written: no space is left on its device: free some, or name another folder.\n"
    )
    assert (done.exit_code, done.stderr) == (3, sentence)
    assert Path("new.pt").read_bytes() == b"old"
    assert not [*Path().glob(".new*")]
    assert call("nets.py:net", "--data", "rows.npz", "--out", "new.pt").exit_code == 0
    assert Path("new.pt").stat().st_mode & 0o777 == 0o640


def test_a_tolerance_that_is_not_reached_is_said_with_what_was() -> None:
    settings = ("--data", "rows.npz", "--out", "new.pt", "--batch-size", "7")
    done = call("nets.py:net", *settings, "--tolerance", "0.0001", "--json")
    found = json.loads(done.stdout)
    assert (found["tolerance"], found["tolerance_reached"], found["stopped_early"]) == (0.0001, False, False)
    assert 0.0001 < found["standard_error"] < 1
    first = call("nets.py:net", *settings, "--tolerance", "0.0001").stdout.splitlines()[0]
    assert first == (
        "1 of 1 batch norms recalibrated with 70 samples in 10 batches; the tolerance of 0.0001 was not reached: "
        f"the standard error is {found['standard_error']:.2g} standard deviations"
    )


@pytest.mark.parametrize(
    ("more", "reached", "early", "words"),
    [
        (("--tolerance", "10"), True, True, "in 8 batches, stopped early at a standard error of "),
        (("--tolerance", "10", "--batches", "7"), True, False, "with 49 samples in 7 batches\n"),
        (
            ("--tolerance", "0.5", "--batches", "1"),
            False,
            False,
            "in 1 batch; the tolerance of 0.5 was not reached: a standard error needs two batches or more\n",
        ),
        (("--tolerance", "0"), None, False, "with 70 samples in 10 batches\n"),
        ((), None, False, "with 70 samples in 10 batches\n"),
    ],
    ids=str,
)
def test_what_is_said_of_a_tolerance(more: tuple[str, ...], reached: bool | None, early: bool, words: str) -> None:
    settings = ("nets.py:net", "--data", "rows.npz", "--out", "new.pt", "--batch-size", "7", *more)
    found = json.loads(call(*settings, "--json").stdout)
    assert (found["tolerance_reached"], found["stopped_early"]) == (reached, early)
    assert words in call(*settings).stdout


def test_a_device_may_be_named() -> None:
    done = call("nets.py:net", "--data", "rows.npz", "--out", "new.pt", "--device", "cpu")
    assert done.exit_code == 0
    assert torch.load("new.pt", weights_only=True)["1.running_mean"].device.type == "cpu"


def test_its_help_ends_with_an_example() -> None:
    shown = call("--help").stdout
    assert shown.endswith("\n  Example: normwise recalibrate nets.py:net --data data.npz --out new.pt\n")
