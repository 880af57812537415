"""`normwise doctor` and `normwise explain`: what they print, their exit codes, and wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from normwise.cli import main
from normwise.doctor.check import left, names, remedy

NETS = """
import torch
from torch import nn

def data():
    torch.manual_seed(1)
    return [torch.randn(64, 8) for _ in range(8)]

def healthy():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    for _ in range(8):
        for x in data():
            model(x)
    return model

def stale():
    model = healthy()
    model[1].running_mean += 3
    return model

def without():
    return nn.Linear(8, 2)

def raising():
    yield torch.randn(4, 8)
    raise RuntimeError("the disk is gone")

def empty():
    return []
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    (tmp_path / "nets.py").write_text(NETS, "utf-8")
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Result:
        return CliRunner().invoke(main, [*words])

    return call


def test_a_healthy_model_ends_with_0(run: object) -> None:
    result: Result = run("doctor", "nets.py:healthy", "--data", "nets.py:data")  # type: ignore[operator]  # a fixture
    assert result.exit_code == 0
    assert result.stdout.startswith("healthy: nothing found (1 normalization layer, 512 samples)")


def test_a_stale_one_ends_with_1_names_the_layer_and_writes_a_page(run: object, tmp_path: Path) -> None:
    words = "doctor", "nets.py:stale", "--data", "nets.py:data", "--html", "page.html"
    result: Result = run(*words)  # type: ignore[operator]  # a fixture
    assert result.exit_code == 1
    assert "error stale_running_statistics: 1" in result.stdout
    assert "remedy: normwise.recalibrate(model, batches)" in result.stdout
    assert "stale" in (tmp_path / "page.html").read_text("utf-8").lower()


def test_weights_and_data_are_read_as_by_the_other_commands(run: object, tmp_path: Path) -> None:
    """One of several weights in a checkpoint, and an .npz of pixels that are scaled."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    pixels = torch.randint(0, 256, (512, 8), dtype=torch.uint8)
    for _ in range(60):
        model(pixels[torch.randperm(512)[:64]] / 255)
    stale = {name: value + 3 if name == "1.running_mean" else value for name, value in model.state_dict().items()}
    torch.save({"model": stale, "ema": model.state_dict()}, tmp_path / "last.ckpt")
    np.savez(tmp_path / "rows.npz", x=pixels.numpy())
    words = "doctor", "nets.py:healthy", "--data", "rows.npz", "--scale", "1/255"
    fine: Result = run(*words, "--weights", "last.ckpt:ema")  # type: ignore[operator]  # a fixture
    assert (fine.exit_code, "stale_running_statistics" in fine.stdout) == (0, False), fine.output
    sick: Result = run(*words, "--weights", "last.ckpt:model")  # type: ignore[operator]  # a fixture
    assert (sick.exit_code, "stale_running_statistics: 1" in sick.stdout) == (1, True), sick.output


def test_json_holds_the_findings(run: object) -> None:
    result: Result = run("doctor", "nets.py:stale", "--data", "nets.py:data", "--json")  # type: ignore[operator]  # as above
    found = json.loads(result.stdout)
    assert [each["check"] for each in found["findings"]] == ["stale_running_statistics"]
    assert found["findings"][0]["layers"] == ["1"]


@pytest.mark.parametrize("words", [("--allow", "stale_running_statistics"), ("--only", "non_finite_statistics")])
def test_a_check_that_is_allowed_or_not_asked_for_does_not_run(run: object, words: tuple[str, ...]) -> None:
    result: Result = run("doctor", "nets.py:stale", "--data", "nets.py:data", *words)  # type: ignore[operator]  # as above
    assert result.exit_code == 0
    assert "stale_running_statistics" not in result.stdout


def test_a_model_without_normalization_says_so(run: object) -> None:
    result: Result = run("doctor", "nets.py:without", "--data", "nets.py:data")  # type: ignore[operator]  # as above
    assert result.exit_code == 0
    assert "the model has no batch norm that runs as a layer" in result.stdout


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("nets.py:net", "--data", "nets.py:data"), 2, "unknown name in nets.py 'net'"),
        (("nets.py:healthy", "--data", "nets.py:empty"), 2, "received no batches"),
        (("nets.py:healthy", "--data", "nets.py:raising"), 2, "the disk is gone"),
        (("nets.py:healthy", "--data", "absent.npz"), 2, "absent.npz"),
        (("nets.py:healthy", "--data", "wrong.npz"), 2, "nets.py:healthy on wrong.npz"),
        (("nets.py:healthy", "--data", "nets.py:data", "--html", "page.pdf"), 2, "page.pdf"),
        (("nets.py:healthy", "--data", "nets.py:data", "--only", "stale"), 2, "unknown check 'stale'"),
        (("nets.py:healthy", "--data", "nets.py:data", "--batch-size", "4"), 2, "--batch-size is for an .npz"),
        (("nets.py:healthy",), 2, "--data"),
    ],
)
def test_wrong_input_is_one_sentence(run: object, words: tuple[str, ...], code: int, sentence: str) -> None:
    np.savez("wrong.npz", x=np.zeros((8, 3), "float32"))
    result: Result = run("doctor", *words)  # type: ignore[operator]  # as above
    assert result.exit_code == code, result.output
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("name", names())
def test_every_check_is_explained(run: object, name: str) -> None:
    result: Result = run("explain", name)  # type: ignore[operator]  # as above
    assert result.exit_code == 0
    assert all(part in result.stdout for part in (name, "What it finds:", "Limits:", "Remedy, for layer 'bn':"))
    assert all(line in result.stdout for line in [*remedy(name).splitlines(), left(name)])
    assert "{" not in result.stdout.replace("{'bn'", "")
