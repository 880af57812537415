"""The command from its words to its files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from normwise.cli import main
from normwise.lab.comparison.rows import Rows

NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
"""


@pytest.fixture
def words(tmp_path: Path, rows: Rows) -> list[str]:
    """The command on a small model and the digits."""
    np.savez(tmp_path / "data.npz", x=rows.inputs, y=rows.targets)
    (tmp_path / "net_to_compare.py").write_text(NET, encoding="utf-8")
    place = f"{tmp_path}/net_to_compare.py:net"
    return ["lab", "compare", place, "--data", f"{tmp_path}/data.npz", "--out", f"{tmp_path}/out", "--rates", "0.1"]


def test_it_prints_one_recommendation_with_its_evidence_and_writes_both(words: list[str], tmp_path: Path) -> None:
    words += ["--normalizers", "none,batch", "--as-built", "--budget", "6s"]
    done = CliRunner().invoke(main, words, prog_name="normwise")
    assert done.exit_code == 0, done.output
    kept = json.loads((tmp_path / "out/comparison.json").read_text(encoding="utf-8"))
    lines = done.stdout.splitlines()
    assert lines[0] == kept["recommendation"]
    assert "running averages of training: " in done.stdout
    assert {arm["normalizer"] for arm, _ in kept["rounds"][0]["scores"]} == {"none", "batch"}
    again = CliRunner().invoke(main, [*words, "--json"], prog_name="normwise")
    assert json.loads(again.stdout)["recommendation"] == kept["recommendation"]
    assert json.loads(again.stdout)["kept"] == len([*tmp_path.glob("out/trials/comparison/*.json")])


def test_a_killed_process_leaves_its_trials_and_ctrl_c_says_so(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "normwise", *words, "--budget", "10m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        until = time.monotonic() + 120
        while len([*tmp_path.glob("out/trials/comparison/*.json")]) < 8:
            assert time.monotonic() < until
            assert running.poll() is None
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=120)
    assert running.returncode == 130
    assert said.endswith(
        f"interrupted; finished trials are kept in {tmp_path}/out, and the same command continues from there.\n"
    )


@pytest.mark.parametrize(
    ("code", "more", "sentence"),
    [
        (2, ("--budget", "soon"), "--budget must be a time above 0, written as 90s, 30m or 2h, received 'soon'."),
        (2, ("--rates", "a,b"), "--rates must be numbers with commas between them, received 'a,b'."),
        (2, ("--normalizers", "batsh"), "unknown normalizer 'batsh': did you mean 'batch'?"),
        (2, ("--batch-sizes", "1"), "a batch must have 2 rows or more, received 1: pass for example 32."),
        (3, ("--budget", "0.1s"), "a budget of 0.1 s is too small for "),
        (3, ("--out", "/dev/null/no"), "'/dev/null' is a file: give the path of a folder."),
        (3, ("--data", "missing.npz"), "there is no file 'missing.npz': give the path of the data."),
    ],
)
def test_mistakes_are_one_sentence(code: int, more: tuple[str, ...], sentence: str, words: list[str]) -> None:
    done = CliRunner().invoke(main, [*words, *more])
    assert done.stderr.splitlines()[-1].startswith(f"normwise: {sentence}")
    assert done.exit_code == code
