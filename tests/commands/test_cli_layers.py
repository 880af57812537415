"""``normwise swap`` and ``normwise fold``: the file has what the operation gives, and loads where it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from click.testing import Result as Outcome
from safetensors.torch import load_file
from torch import nn

import normwise
from normwise.cli import main

VALUES = np.random.default_rng(0).normal(2, 3, (70, 3)).astype(np.float32)
SOURCE = """
import torch
from torch import nn

import normwise.torch as nt

def net():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 4, bias=False), nt.BatchNorm1d(4, activation="relu"), nn.Linear(4, 2))
    for _ in range(3):
        layers(3 + torch.randn(8, 3))
    return layers

def plain():
    return nn.Linear(3, 2)

def behind():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(SOURCE, encoding="utf-8")
    np.savez("rows.npz", images=VALUES)


def call(*arguments: str) -> Outcome:
    return CliRunner().invoke(main, arguments, prog_name="normwise")


def net() -> nn.Module:
    found: dict[str, Any] = {}
    exec(SOURCE, found)
    made = found["net"]()
    assert isinstance(made, nn.Module)
    return made


def assert_same(model: nn.Module, other: nn.Module) -> None:
    """Assert that two models give the same in inference."""
    x = torch.from_numpy(VALUES)
    torch.testing.assert_close(model.eval()(x), other.eval()(x))


def test_fold_writes_weights_that_compute_the_same_in_plain_layers() -> None:
    done = call("fold", "nets.py:net", "--out", "new.safetensors", "--data", "rows.npz", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["folded"]["1"]["into"], report["folded"]["1"]["stays"], report["samples"]) == ("0", "relu", 70)
    assert report["output_error"] < 1e-5
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    plain.load_state_dict(load_file("new.safetensors"))
    assert_same(plain, net())


def test_fold_says_what_the_weights_load_into() -> None:
    done = call("fold", "nets.py:net", "--out", "new.pt", "--layers", "1")
    first, second, third, last = done.stdout.splitlines()
    assert first == "1 of 1 batch norms folded"
    assert second.startswith("  folded       1: into 0, whose largest weight is ")
    assert third == f"The weights: {Path('new.pt').resolve()}"
    assert last == "To load them, build the model with normwise.fold(net().eval(), layers=['1']).model."
    folded = normwise.fold(net().eval(), layers=["1"]).model
    folded.load_state_dict(torch.load("new.pt", weights_only=True))
    assert_same(folded, net())


def test_swap_to_torch_keeps_every_key_and_needs_no_word_about_loading() -> None:
    done = call("swap", "nets.py:net", "--to", "torch", "--out", "new.pt")
    assert done.stdout.splitlines() == [
        "1 of 1 normalization layers swapped",
        "  swapped      1: normwise BatchNorm1d -> torch BatchNorm1d: relu behind it, as 1_activation",
        f"The weights: {Path('new.pt').resolve()}",
    ]
    torch.testing.assert_close(torch.load("new.pt", weights_only=True), dict(net().state_dict()))


def test_swap_with_data_calibrates_and_says_how_far_the_output_moved() -> None:
    done = call("swap", "nets.py:net", "--to", "group", "--num-groups", "2", "--data", "rows.npz", "--out", "new.pt")
    lines = done.stdout.splitlines()
    assert lines[-3].startswith("the model's output changed by ")
    assert lines[-1] == "To load them, build the model with normwise.swap(net(), to='group', num_groups=2)."
    ours = net()
    normwise.swap(ours, "group", num_groups=2, calibrate=torch.from_numpy(VALUES).split(64))
    torch.testing.assert_close(torch.load("new.pt", weights_only=True), dict(ours.state_dict()))


def test_swap_to_domains() -> None:
    done = call("swap", "nets.py:net", "--to", "domains", "--domains", "day,night", "--out", "new.pt")
    assert done.exit_code == 0
    found = torch.load("new.pt", weights_only=True)
    assert sum("running_mean" in key for key in found) == 2


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("fold nets.py:plain", "nets.py:plain: nothing folded: the model has no batch norm; nothing was written."),
        (
            "swap nets.py:plain --to group",
            "nets.py:plain: nothing swapped: the model has no normalization layer; nothing was written.",
        ),
        ("fold nets.py:net --layers 2", "unknown batch norm '2'; known: 1."),
    ],
)
def test_what_changes_nothing_writes_nothing(line: str, sentence: str) -> None:
    done = call(*line.split(), "--out", "new.pt")
    assert (done.exit_code, done.stdout, done.stderr) == (3, "", f"normwise: {sentence}\n")
    assert not Path("new.pt").exists()


def test_the_reason_of_each_layer_is_said() -> None:
    done = call("fold", "nets.py:behind", "--out", "new.pt")
    first = "normwise: nets.py:behind: 0 of 1 batch norms folded, 1 skipped; layer '2' skipped: "
    assert done.exit_code == 3
    assert done.stderr.startswith(first)
    assert done.stderr.endswith("; nothing was written.\n")
    assert not Path("new.pt").exists()
