"""``normwise adapt``: the statistics in the file are those of ``adapt``, and nothing is written without any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from click.testing import Result as Outcome
from torch import nn

from normwise.cli import main
from normwise.torch.models.recalibration.adapt import adapt

VALUES = np.random.default_rng(0).normal(2, 3, (70, 3)).astype(np.float32)
SOURCE = (
    "from torch import nn\n\ndef net():\n    return nn.BatchNorm1d(3)\n\ndef plain():\n    return nn.Linear(3, 2)\n"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(SOURCE, encoding="utf-8")
    np.savez("rows.npz", images=VALUES)


def call(*arguments: str) -> Outcome:
    return CliRunner().invoke(main, ["adapt", *arguments], prog_name="normwise")


@pytest.mark.parametrize("settings", [{}, {"prior": 50.0}, {"prior": 0.0}], ids=str)
def test_the_file_has_what_adapt_gives(settings: dict[str, Any]) -> None:
    more = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    done = call("nets.py:net", "--data", "rows.npz", "--out", "new.pt", *more, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    layer = nn.BatchNorm1d(3)
    report = adapt(layer, torch.from_numpy(VALUES).split(64), **settings)
    torch.testing.assert_close(torch.load("new.pt", weights_only=True), dict(layer.state_dict()))
    assert json.loads(done.stdout) == json.loads(report.to_json())


def test_it_says_what_was_done() -> None:
    done = call("nets.py:net", "--data", "rows.npz", "--out", "new.pt", "--batches", "1", "--batch-size", "10")
    first, second, third = done.stdout.splitlines()
    assert first == "1 of 1 batch norms adapted to 10 samples in 1 batch, with a prior of 4"
    assert second.startswith("  adapted       (the model): moved by ")
    assert third == f"The weights: {Path('new.pt').resolve()}"


def test_an_infinite_prior_keeps_the_statistics() -> None:
    done = call("nets.py:net", "--data", "rows.npz", "--out", "new.pt", "--prior", "inf")
    assert done.stdout.startswith("1 of 1 batch norms adapted to 70 samples in 2 batches, with a prior of inf\n")
    assert torch.load("new.pt", weights_only=True)["running_mean"].tolist() == [0.0, 0.0, 0.0]


def test_without_a_batch_norm_nothing_is_written() -> None:
    done = call("nets.py:plain", "--data", "rows.npz", "--out", "new.pt")
    sentence = "normwise: nets.py:plain: nothing adapted: the model has no batch norm; nothing was written.\n"
    assert (done.exit_code, done.stdout, done.stderr) == (3, "", sentence)
    assert not Path("new.pt").exists()


def test_its_help_ends_with_an_example() -> None:
    shown = call("--help").stdout
    assert shown.endswith("\n  Example: normwise adapt nets.py:net --data shifted.npz --out adapted.pt\n")
