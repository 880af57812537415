"""Standard streams as a shell may leave them, in a process of its own: one sentence, and the right exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from normwise import lab
from normwise.cli import main
from normwise.commands import keras_backend
from normwise.frameworks import installed_version
from normwise.report import page

NORMWISE = [sys.executable, "-m", "normwise"]
CLOSED = "normwise: standard output is closed: redirect it to a file, or to /dev/null.\n"
FULL = "normwise: standard output could not be written: No space left on device.\n"


def shell(line: str, **variables: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a line for the shell, in which ``normwise`` is the command."""
    command = line.replace("normwise", '"$PYTHON" -m normwise', 1)
    environment = {**os.environ, "PYTHON": sys.executable, **variables}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", ["--version", "--help", "lab list"])
def test_closed_standard_output(command: str) -> None:
    assert shell(f"normwise {command} >&-") == (3, "", CLOSED)


def test_a_closed_output_is_said_before_work_begins(tmp_path: Path) -> None:
    line = f"normwise recalibrate nots.py:net --data rows.npz --out {tmp_path}/new.pt >&-"
    assert shell(line) == (3, "", CLOSED)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has such a device")
@pytest.mark.parametrize("command", ["--version", "--help", "lab list", "lab list --json"])
def test_a_full_disk(command: str) -> None:
    assert shell(f"normwise {command} >/dev/full") == (3, "", FULL)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2>/dev/null"])
def test_the_exit_code_says_it_where_standard_error_cannot(redirection: str) -> None:
    assert shell(f"normwise inf {redirection}") == (2, "", "")


def test_closed_standard_error_and_input_do_no_harm() -> None:
    code, printed, _ = shell("normwise lab list --json <&- 2>&-")
    assert (code, len(json.loads(printed))) == (0, len(lab.names()))


def test_with_all_streams_closed_there_is_still_an_exit_code() -> None:
    assert shell("normwise lab list <&- >&- 2>&-") == (3, "", "")


@pytest.mark.parametrize("command", ["--help", "lab list", "lab list --json"])
def test_a_reader_that_has_seen_enough_is_no_error(command: str) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run([*NORMWISE, *command.split()], stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writes)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pipe_that_is_not_standard_output_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that to a worker: a run that broke off must not look like one that was read to its end."""

    def run(*_: object, **__: object) -> None:
        reads, writes = os.pipe()
        os.close(reads)
        try:
            os.write(writes, b"x")
        finally:
            os.close(writes)

    monkeypatch.setattr(lab, "run", run)
    monkeypatch.setattr(page, "require", lambda: None)
    done = CliRunner().invoke(main, ["lab", "run"], prog_name="normwise")
    assert (done.exit_code, done.stdout, done.stderr) == (3, "", "normwise: broken pipe.\n")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_a_run_goes_on_where_nobody_reads_how_far_it_is(redirection: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the experiments need PyTorch")
    out = tmp_path / "report"
    code, printed, _ = shell(f"normwise lab run can_it_represent_the_identity --quick --out {out} {redirection}")
    assert code == 0
    assert printed.endswith(f"The page: {out}/index.html\n")
    assert (out / "index.html").exists()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_json_in_every_encoding(encoding: str) -> None:
    done = subprocess.run(
        [*NORMWISE, "lab", "list", "--json"],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    found = json.loads(done.stdout.decode(encoding))
    questions = {each["name"]: each["question"] for each in found}
    assert questions == {name: lab.describe(name).question for name in lab.names()}
    assert done.stderr == b""


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "20"},
        {"COLUMNS": "wide"},
    ],
    ids=str,
)
def test_terminals_and_locales(variables: dict[str, str]) -> None:
    for command in ("lab list", "recalibrate --help"):
        code, printed, errors = shell(f"normwise {command}", **variables)
        assert (code, errors) == (0, "")
        assert printed


@pytest.mark.parametrize(
    ("variables", "line", "sentence"),
    [
        ({"NORMWISE_KERNEL": "aton"}, "info", "unknown kernel 'aton' in NORMWISE_KERNEL: did you mean 'aten'? Known: "
                                              "aten, cpu, triton, two_pass."),
        ({"NORMWISE_KERNEL": "gpu"}, "info --why 32x64", "unknown kernel 'gpu' in NORMWISE_KERNEL: did you mean 'cpu'? "
                                                         "Known: aten, cpu, triton, two_pass."),
        ({"KERAS_BACKEND": "typo"}, "recalibrate a.keras --data a.npz --out b.keras", "unknown backend "
         "'typo' in KERAS_BACKEND; known: jax, tensorflow, torch."),
        ({"KERAS_BACKEND": "Torch"}, "adapt a.keras --data a.npz --out b.keras", "unknown backend "
         "'Torch' in KERAS_BACKEND: did you mean 'torch'? Known: jax, tensorflow, torch."),
    ],
)  # fmt: skip
def test_a_setting_in_the_environment_that_is_wrong(
    variables: dict[str, str], line: str, sentence: str, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="the kernels are PyTorch's")
    make_archives(tmp_path)
    assert shell(f"cd {tmp_path} && normwise {line}", **variables) == (3, "", f"normwise: {sentence}\n")


@pytest.mark.parametrize("backend", keras_backend.NOT_SERVED)
@pytest.mark.parametrize(
    "line",
    ["recalibrate a.keras --data a.npz --out b.keras", "fold a.keras --out b.keras", "doctor a.keras --data a.npz"],
)
def test_a_backend_that_is_not_served(backend: str, line: str, tmp_path: Path) -> None:
    """It is refused before Keras fails with words about something else."""
    if installed_version("keras") is None:
        pytest.skip("the backend is Keras's")
    make_archives(tmp_path)
    code, printed, errors = shell(f"cd {tmp_path} && normwise {line}", KERAS_BACKEND=backend)
    first = f"normwise: normwise works on Keras's backends jax, tensorflow and torch, received {backend} "
    assert (code, printed) == (2 if "doctor" in line else 3, "")
    assert errors.startswith(f"{first}(KERAS_BACKEND): ")


def make_archives(folder: Path) -> None:
    """A ``.keras`` file and an ``.npz`` that are right as far as can be told without Keras."""
    import zipfile

    import numpy as np

    with zipfile.ZipFile(folder / "a.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", "")
    np.savez(folder / "a.npz", np.zeros((4, 3)))


def test_only_the_news_of_libraries_is_kept_from_standard_error() -> None:
    script = (
        "import os, sys\nfrom normwise.commands import keras_backend\n"
        "with keras_backend.quiet():\n"
        "    os.write(2, b'WARNING: All log messages before absl::InitializeLog() are written to STDERR\\n')\n"
        "    os.write(2, b'I0000 00:00:1 1 port.cc:153] oneDNN is on.\\nW0000 00:00:1 1 a.cc:1] slow\\n')\n"
        "    os.write(2, b'To enable the following instructions: AVX2, rebuild TensorFlow.\\n')\n"
        "    os.write(2, b'E0000 00:00:1 1 a.cc:1] broken\\n')\n"
        "    print('a warning of Python', file=sys.stderr)\n"
        "print('afterwards', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "E0000 00:00:1 1 a.cc:1] broken\na warning of Python\nafterwards\n"
