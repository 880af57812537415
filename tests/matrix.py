"""Install one wheel where it has to work, and try it there: what ``make matrix`` does.

Each place is a virtual environment of its own under ``build/matrix``, into which the wheel goes as a user installs it;
nothing is imported from ``src``. Oldest means the lower bounds that pyproject.toml promises, newest whatever the index
has today, which brings gigabytes of CUDA with PyTorch.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build/matrix"
TOOLS = ["pytest>=9", "pytest-xdist>=3.8", "hypothesis>=6.100"]
KERNELS = ["tests/kernels", "tests/torch/steps"]
KERAS = ["tests/keras/layers/test_agreement.py"]
# What the command line says in a place without any extra, and its exit code.
BARE = {
    "info": (0, "PyTorch is not installed"),
    "explain stale_running_statistics": (0, "recalibrate"),
    "doctor tests/cases.py:nothing --data tests/cases.py:nothing": (2, "pip install"),
    "lab run --quick": (3, "pip install"),
}


@dataclass(frozen=True)
class Place:
    """A place where the wheel is tried.

    Args:
        name: of its folder too.
        python: the interpreter.
        extras: of the wheel.
        pins: what else pip is told.
        tests: the tests that run there; none for the bare install, whose command line is called.
        keras: the tests that run on Keras's torch backend.
    """

    name: str
    python: str
    extras: str = ""
    pins: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    keras: tuple[str, ...] = ()


def lower_bounds() -> tuple[str, ...]:
    """``name==bound.*`` for each dependency of the base and of the extras for PyTorch and Keras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = [
        re.fullmatch(r"([\w.-]+)>=([\d.]+)", each)
        for each in (*project["dependencies"], *extras["torch"], *extras["keras"])
    ]
    return tuple(sorted({f"{found[1]}=={found[2]}.*" for found in named if found}))


def newest_python() -> str:
    """The newest on the PATH that runs, or this one: a version manager puts programs there that only say what to do."""
    found = (shutil.which(f"python3.{minor}") for minor in range(30, 10, -1))
    return next((path for path in found if path and runs(path)), sys.executable)


def runs(python: str) -> bool:
    return subprocess.run([python, "-c", "import venv, ensurepip"], capture_output=True, check=False).returncode == 0


def places(python: str) -> list[Place]:
    everything = {"tests": tuple(KERNELS), "keras": tuple(KERAS)}
    return [
        Place("bare", sys.executable),
        Place("oldest", sys.executable, "torch,keras", lower_bounds(), **everything),
        Place("newest", python, "torch,keras", (), **everything),
    ]


def installed(place: Place, wheel: Path) -> Path:
    """The place's interpreter, with the wheel installed again."""
    folder = BUILD / place.name
    python = folder / "bin/python"
    if not python.exists():
        subprocess.run([place.python, "-m", "venv", "--clear", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    target = f"{wheel}[{place.extras}]" if place.extras else str(wheel)
    subprocess.run([*pip, target, *place.pins, *(TOOLS if place.tests else [])], check=True)
    subprocess.run([*pip, "--force-reinstall", "--no-deps", str(wheel)], check=True)
    where = answer(python, "import normwise; print(normwise.__file__)")
    if not Path(where).is_relative_to(folder):
        raise SystemExit(f"make matrix: {place.name} imports normwise from {where} and not from the wheel")
    return python


def answer(python: Path, program: str) -> str:
    run = subprocess.run([str(python), "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    return run.stdout.strip()


def called(python: Path) -> list[str]:
    """The calls of the bare command line that do not do what they should."""
    wrong = []
    for arguments, (code, words) in BARE.items():
        command = [str(python.with_name("normwise")), *arguments.split()]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if run.returncode != code or words not in run.stdout + run.stderr or "Traceback" in run.stderr:
            wrong.append(f"normwise {arguments}: exit code {run.returncode}\n{run.stdout[-500:]}{run.stderr[-500:]}")
    return wrong


def tested(python: Path, place: Place) -> list[str]:
    """The sessions of pytest that failed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [str(python), "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider", "-c", "pyproject.toml"]
    kernels = "from normwise.kernels import cpu; print(cpu.instruction_set() if cpu.library else '')"
    wrong = [] if answer(python, kernels) else ["the compiled kernels of the wheel are not there"]
    sessions = [(place.tests, environment), (place.keras, {**environment, "KERAS_BACKEND": "torch"})]
    for tests, variables in sessions:
        if subprocess.run([*command, *tests], cwd=ROOT, env=variables, check=False).returncode:
            wrong.append(f"pytest {' '.join(tests)}")
    return wrong


def versions(python: Path) -> str:
    program = (
        "import sys, importlib.metadata as m\n"
        "there = [d.name for d in m.distributions()]\n"
        "found = [n + ' ' + m.version(n) for n in ('torch', 'keras', 'numpy') if n in there]\n"
        "print('Python', sys.version.split()[0], *found)"
    )
    return answer(python, program)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help="instead of the one in dist/")
    parser.add_argument("--python", default=newest_python(), help="of the newest place (%(default)s)")
    parser.add_argument(
        "--only", choices=["bare", "oldest", "newest"], action="append", help="of the places (repeatable)"
    )
    options = parser.parse_args()
    wheels = [options.wheel] if options.wheel else sorted((ROOT / "dist").glob("normwise-*.whl"))
    if len(wheels) != 1:
        raise SystemExit(
            "make matrix: dist/ holds no wheel, or more than one: run `make wheel`, or name one by --wheel"
        )
    failed = False
    said = []
    for place in places(options.python):
        if options.only and place.name not in options.only:
            continue
        print(f"{place.name}: installing", flush=True)
        python = installed(place, wheels[0].resolve())
        wrong = tested(python, place) if place.tests else called(python)
        failed = failed or bool(wrong)
        said.append("\n  ".join([f"{place.name}: {versions(python)}: {'passed' if not wrong else 'FAILED'}", *wrong]))
    print("\n".join(said))
    sys.exit(failed)


if __name__ == "__main__":
    main()
