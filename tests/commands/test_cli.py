"""The command line: what it prints where, its exit codes, and one sentence for every mistake."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from click.testing import Result as Outcome

from normwise import __version__, lab
from normwise.cli import main
from normwise.errors import NormwiseError
from normwise.installation import extra_command
from normwise.lab.results import Conclusion, Estimate, Result, Statement, Table, Verdict, from_json
from normwise.report import page

ANSWER = Result(
    experiment="does_it_train_faster",
    question="Is it so?",
    claim="It is so.",
    refuted_by="That it is not so.",
    settings={"steps": 10},
    seeds=(0, 1),
    conclusion=Conclusion(
        statements=(
            Statement("It is so.", Estimate(2.0, 1.5, float("inf"), 2, "ratio"), "above 1", Verdict.REPRODUCED),
        ),
        table=Table("Numbers", ("network", "steps"), (("plain", "10"),)),
        figures=(),
    ),
    stamp={"torch": "2.13.0"},
    command="normwise lab run does_it_train_faster --seeds 2",
)


def call(*arguments: str) -> Outcome:
    return CliRunner().invoke(main, list(arguments), prog_name="normwise")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Runs no experiment and notes how it was asked to."""
    asked: list[dict[str, Any]] = []

    def run(names: Sequence[str], **options: Any) -> list[Result]:
        asked.append({"names": names, **options})
        progress = options["progress"]
        progress.on_plan({ANSWER.experiment: (4, 2)}, 2)
        for _ in range(2):
            progress.on_trial_done(ANSWER.experiment, "seed=1", 0.5)
        progress.on_result(ANSWER)
        return [ANSWER]

    monkeypatch.setattr(lab, "run", run)
    return asked


def test_version() -> None:
    assert call("--version").stdout == f"normwise {__version__}\n"


@pytest.mark.parametrize("command", [(), ("lab",)])
def test_a_group_alone_prints_its_help(command: tuple[str, ...]) -> None:
    alone = call(*command)
    assert alone.exit_code == 0
    assert alone.stdout == call(*command, "--help").stdout


@pytest.mark.parametrize("command", [(), ("info",), ("lab",), ("lab", "list"), ("lab", "run"), ("lab", "compare")])
def test_every_help_ends_with_an_example_and_cuts_nothing_off(command: tuple[str, ...]) -> None:
    shown = call(*command, "--help").stdout
    assert re.search(r"\n  Example: normwise \S.*\n$", shown)
    assert "..." not in shown.partition("\n")[2]


def test_info_says_versions_and_why_a_kernel_is_active() -> None:
    facts = json.loads(call("info", "--json").stdout)
    assert facts["normwise"] == __version__
    assert set(facts["libraries"]) == {"torch", "keras", "jax", "tensorflow", "numpy"}
    assert {k: v for k, v in facts["kernels"][0].items() if k != "reason"} == {"name": "reference", "active": True}
    assert all(kernel["reason"] for kernel in facts["kernels"])
    words = call("info").stdout
    assert f"numpy        {facts['libraries']['numpy']}\n" in words
    assert "  reference    active: " in words


def test_list_names_every_experiment_and_its_question() -> None:
    described = json.loads(call("lab", "list", "--json").stdout)
    assert [each["name"] for each in described] == lab.names()
    shown = " ".join(call("lab", "list").stdout.split())
    for each in described:
        assert each["name"] in shown
        assert each["question"] in shown


def test_run_prints_the_table_and_where_the_page_is(quick: list[dict[str, Any]], tmp_path: Path) -> None:
    done = call("lab", "run", "--out", str(tmp_path))
    assert done.exit_code == 0
    assert "✓ reproduced" in done.stdout
    assert "Numbers" in done.stdout
    assert done.stdout.endswith(f"The page: {tmp_path / 'index.html'}\n")
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == page.render([ANSWER])
    assert done.stderr == (
        "1 experiment, 4 trials, 2 of them kept from an earlier run\n"
        "does_it_train_faster: 1 ✓ reproduced; 1 of 1 experiments\n"
    )
    assert list(quick[0]["names"]) == []  # which stands for all
    assert (quick[0]["seeds"], quick[0]["full"], quick[0]["out"]) == (None, False, tmp_path)
    assert (quick[0]["data"], quick[0]["dask"]) == (None, None)


def test_run_passes_on_what_it_was_asked(quick: list[dict[str, Any]], tmp_path: Path) -> None:
    twice = ("should_l2_be_weaker", "does_the_batch_leak", "should_l2_be_weaker")
    call("lab", "run", *twice, "--seeds", "7", "--full", "--workers", "3", "--out", str(tmp_path))
    assert list(quick[0]["names"]) == ["should_l2_be_weaker", "does_the_batch_leak"]
    call("lab", "run", "--keep", str(tmp_path / "kept"), "--out", str(tmp_path))
    kept = (tmp_path / "kept" / "does_it_train_faster.json").read_text(encoding="utf-8")
    assert from_json(kept).command == ANSWER.command
    assert (quick[0]["seeds"], quick[0]["full"], quick[0]["quick"], quick[0]["workers"]) == (7, True, False, 3)


@pytest.mark.usefixtures("quick")
def test_json_is_all_there_is_on_standard_output(tmp_path: Path) -> None:
    done = call("lab", "run", "--json", "--out", str(tmp_path))
    results = json.loads(done.stdout)
    assert [result["experiment"] for result in results] == ["does_it_train_faster"]
    assert results[0]["conclusion"]["statements"][0]["effect"]["high"] is None  # infinity is no JSON
    assert f"The page: {tmp_path / 'index.html'}\n" in done.stderr


def test_a_missing_extra_is_noticed_before_anything_runs(
    quick: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: None if name == "matplotlib" else object())
    done = call("lab", "run", "--out", str(tmp_path))
    assert done.stderr == f"normwise: matplotlib is not installed; install it with: {extra_command('lab')}\n"
    assert done.exit_code == 3
    assert quick == []


@pytest.mark.usefixtures("quick")
def test_a_page_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "index.html").mkdir()
    done = call("lab", "run", "--out", str(tmp_path))
    assert done.exit_code == 3
    assert done.stderr.splitlines()[-1] == f"normwise: '{tmp_path / 'index.html'}': Is a directory."


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (NormwiseError("It went wrong."), 3, "normwise: it went wrong.\n"),
        (KeyboardInterrupt(), 130, "interrupted before a trial was finished.\n"),
        (KeyboardInterrupt("later"), 130, "interrupted; finished trials are kept in "),
    ],
)
def test_what_stops_a_run(
    error: BaseException, code: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any, **__: Any) -> None:
        if error.args == ("later",):
            (tmp_path / "trials" / "a").mkdir(parents=True)
            (tmp_path / "trials" / "a" / "0.json").touch()
        raise error

    monkeypatch.setattr(lab, "run", run)
    done = call("lab", "run", "--out", str(tmp_path))
    assert done.exit_code == code
    assert sentence in done.stderr
    assert done.stdout == ""


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "normwise", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"normwise {__version__}\n"


def test_help_starts_quickly_because_nothing_large_is_imported() -> None:
    script = "import sys, normwise.cli\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    large = {"torch", "keras", "jax", "tensorflow", "numpy", "matplotlib", "jinja2", "sklearn", "rich"}
    assert large.isdisjoint(done.stdout.split())
    assert min(seconds(lambda: call_process("--help")) for _ in range(5)) < 0.5  # 0.2 on an idle machine


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def call_process(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "normwise", *arguments], capture_output=True, check=True)


def test_ctrl_c_keeps_what_is_finished_and_the_same_command_continues(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the experiments train with PyTorch")
    first = interrupted(tmp_path, lambda: any(tmp_path.glob("trials/*/*.json")))
    kept = len(list(tmp_path.glob("trials/*/*.json")))
    assert first.returncode == 130
    assert first.stdout == ""
    assert first.stderr.splitlines()[-1] == (
        f"normwise: interrupted; finished trials are kept in {tmp_path}, and the same command continues from there."
    )
    second = interrupted(tmp_path, lambda: len(list(tmp_path.glob("trials/*/*.json"))) > kept)
    assert f"{kept} of them kept from an earlier run" in second.stderr
    assert "Traceback" not in first.stderr + second.stderr


def interrupted(out: Path, is_time: Callable[[], bool]) -> subprocess.CompletedProcess[str]:
    """A real run that gets a Ctrl-C when it is time."""
    command = [sys.executable, "-m", "normwise", "lab", "run", "does_it_cure_vanishing_gradients", "--out", str(out)]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    while not is_time():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < until, "no trial was finished within two minutes"
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    printed, errors = running.communicate(timeout=120)
    return subprocess.CompletedProcess(command, running.returncode, printed, errors)
