"""Ctrl-C at any moment: one line, and the exit code that the shell gives such a program."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MODULES = (
    "normwise.cli",
    "click",
    "importlib.metadata",
    "normwise.commands.streams",
    "normwise.lab",
    "numpy",
)
# Python has most of these in memory when it starts, under other names.
QUICK = {
    *("normwise", "normwise.__main__", "importlib", "importlib._bootstrap", "importlib._bootstrap_external"),
    *("warnings", "_warnings", "normwise.moved"),
}
# A finder that is asked first raises as Ctrl-C would while the module is being imported.
SCRIPT = """
import sys

class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise {error}

sys.meta_path.insert(0, CtrlC())
sys.argv[1:] = {arguments!r}
from normwise.__main__ import main
main()
"""


def interrupted_at(
    module: str, error: str = "KeyboardInterrupt", arguments: tuple[str, ...] = ("lab", "run", "typo")
) -> subprocess.CompletedProcess[str]:
    """A command in whose imports Ctrl-C comes."""
    script = SCRIPT.format(module=module, error=error, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", MODULES)
def test_ctrl_c_while_a_module_is_imported(module: str) -> None:
    if module == "numpy":  # which that command imports for a data set only
        done = interrupted_at(module, arguments=("lab", "run", "--data", "mnits", "--data-dir", "."))
    elif module == "normwise.lab":
        done = interrupted_at(module)
    else:
        done = interrupted_at(module, arguments=("lab", "list"))
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "normwise: interrupted.")


def test_an_error_that_ctrl_c_became_within_a_library_is_ctrl_c() -> None:
    error = "ImportError('numpy could not be imported') from KeyboardInterrupt()"
    done = interrupted_at("numpy", error, ("lab", "run", "--data", "mnits", "--data-dir", "."))
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "normwise: interrupted.")


def test_ctrl_c_that_python_would_only_print() -> None:
    script = (
        "import sys\nsys.argv[1:] = ['lab', 'list']\nfrom normwise import __main__\n"
        "class Late:\n    def __del__(self):\n        raise KeyboardInterrupt\n"
        "import normwise.cli\nnormwise.cli.main = lambda **_: Late()\n__main__.main()\nprint('went on')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "normwise: interrupted.\n")


def test_nothing_that_takes_time_is_imported_before_ctrl_c_is_heard() -> None:
    script = "import sys\nbefore = {*sys.modules}\nimport normwise.__main__\nprint(*sorted({*sys.modules} - before))"
    done = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{script}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert set(done.stdout.split()) <= QUICK


def test_a_keras_file_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    """Before Keras is imported, which takes ten times as long."""
    line = [sys.executable, "-m", "normwise", "recalibrate", "no.keras", "--data", "rows.npz", "--out", "new.keras"]
    took = []
    for _ in range(5):
        began = time.perf_counter()
        done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)
        took.append(time.perf_counter() - began)
        expected = "normwise: there is no file 'no.keras': give the path of the model.\n"
        assert (done.returncode, done.stdout, done.stderr) == (3, "", expected)
    assert min(took) < 2


def test_ctrl_c_while_the_users_code_runs(tmp_path: Path) -> None:
    """A real signal; what was begun leaves nothing behind."""
    pytest.importorskip("torch", reason="the model is PyTorch's")
    began = tmp_path / "began"
    (tmp_path / "nets.py").write_text(
        "import pathlib, time\nfrom torch import nn\n\ndef net():\n    return nn.BatchNorm1d(3)\n\n"
        "def data():\n    pathlib.Path('began').touch()\n    time.sleep(120)\n",
        encoding="utf-8",
    )
    line = [sys.executable, "-m", "normwise", "recalibrate", "nets.py:net", "--data", "nets.py:data", "--out", "new.pt"]
    running = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    until = time.monotonic() + 120
    while not began.exists():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < until, "the data were not asked for within two minutes"
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    printed, errors = running.communicate(timeout=60)
    # Python may end by the signal itself, which a shell counts as 130 too.
    assert running.returncode in (130, -signal.SIGINT)
    assert (printed, errors.strip()) == ("", "normwise: interrupted.")
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"nets.py", "began"}
