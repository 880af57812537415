"""The shape of the source: sizes, names, docstrings, and who may bring in a framework."""

import ast
import re
import statistics
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src/normwise"
FRAMEWORKS = {"torch", "keras", "tensorflow", "jax"}
EXTRAS = FRAMEWORKS | {"sklearn", "scipy", "matplotlib", "jinja2"}

# What must be importable without a framework, and what with the base install alone.
FRAMEWORKLESS = ["moments", "facts", "estimators", "kernels.reference", "report", "lab.results", "doctor.checks"]
BASE_ONLY = ["", "errors", "frameworks", "moments", "facts", "estimators", "kernels.reference", "lab.results", "cli"]

# Folders of tests that are of no room of the source: what many rooms are tried with, and what is beside the source.
ROOMLESS = {"torch/tools", "benchmarks", "benchmarks/zoo", "docs", "on_a_device"}

FAMILIES = {"lab/experiments"}  # found by listing, so that nobody reads the folder
CROWDED = 30

NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "core", "helpers", "helper", "base", "misc"}
CAP = 400
MEDIAN = 120


def python_files(*folders: str) -> list[Path]:
    """The project's own Python files in these folders."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def relative(paths: list[Path]) -> list[str]:
    """The paths as a person would write them."""
    return [path.relative_to(ROOT).as_posix() for path in paths]


def lines(path: Path) -> int:
    """The number of lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def exists(module: str) -> bool:
    """True if normwise has this module, by the look of its folder."""
    path = SOURCE.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def modules_that_exist(names: list[str]) -> list[str]:
    """The full names of those modules that are there."""
    return [f"normwise.{name}".rstrip(".") for name in names if not name or exists(name)]


def members(family: str, frames: tuple[str, ...]) -> list[str]:
    """The names of a family's members."""
    return sorted(path.stem for path in (SOURCE / family).glob("*.py") if path.stem not in ("__init__", *frames))


ESTIMATORS = members("estimators", frames=("estimator",))
EXPERIMENTS = members("lab/experiments", frames=())


def test_no_python_file_is_longer_than_the_cap() -> None:
    files = python_files("src", "tests", "docs", "benchmarks", "examples")
    assert {str(path.relative_to(ROOT)): lines(path) for path in files if lines(path) > CAP} == {}


def test_half_of_the_source_files_are_short() -> None:
    assert statistics.median(lines(path) for path in python_files("src")) <= MEDIAN


def test_every_file_says_by_its_name_what_it_holds() -> None:
    paths = [path.relative_to(ROOT) for path in python_files("src", "tests", "docs", "benchmarks", "examples")]
    assert paths
    assert [str(path) for path in paths if NAMES_THAT_SAY_NOTHING & {*path.parts, path.stem}] == []


def test_no_folder_of_the_source_is_crowded() -> None:
    folders = Counter(path.parent.relative_to(SOURCE).as_posix() for path in python_files("src/normwise"))
    assert {folder: count for folder, count in folders.items() if count > CROWDED and folder not in FAMILIES} == {}


def test_tests_stand_in_folders_named_as_the_rooms_that_they_test() -> None:
    folders = {path.parent.relative_to(ROOT / "tests").as_posix() for path in python_files("tests")} - ROOMLESS
    assert "torch/layers" in folders
    assert sorted(folder for folder in folders if not (SOURCE / folder).is_dir()) == []


def test_every_source_file_starts_with_a_docstring() -> None:
    files = python_files("src")
    assert files
    assert relative([path for path in files if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]) == []


def test_every_folder_of_the_source_is_a_package() -> None:
    folders = {path.parent for path in python_files("src/normwise")}
    assert relative(sorted(folder for folder in folders if not (folder / "__init__.py").exists())) == []


def asserts_something(function: ast.AST) -> bool:
    """True if a test could fail by its own judgement: assert, raises, warns, or a function that says it checks."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("raises", "warns") or name.startswith(("check_", "assert_")):
                return True
    return False


def test_every_test_asserts_something() -> None:
    found = [
        (path, node)
        for path in python_files("tests")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert found
    assert [f"{path.relative_to(ROOT)}: {node.name}" for path, node in found if not asserts_something(node)] == []


def imported_by(module: str, libraries: set[str]) -> list[str]:
    """The libraries among these that a fresh process has after importing the module."""
    program = f"import sys, {module}; print(*sorted({libraries!r} & set(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout.split()


@pytest.mark.parametrize("module", modules_that_exist(FRAMEWORKLESS))
def test_importing_a_room_without_framework_brings_in_none(module: str) -> None:
    assert imported_by(module, FRAMEWORKS) == []


@pytest.mark.parametrize("module", modules_that_exist(BASE_ONLY))
def test_the_base_install_is_enough_for(module: str) -> None:
    assert imported_by(module, EXTRAS) == []


def test_the_fresh_process_sees_a_framework_when_there_is_one() -> None:
    assert imported_by("torch", FRAMEWORKS) == ["torch"]


def contract(name: str) -> dict[str, list[str]]:
    """One of pyproject.toml's import contracts, by its id."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (found,) = [found for found in contracts if found["id"] == name]
    assert isinstance(found, dict)
    return found


def test_every_room_of_the_import_law_exists_or_is_marked_as_yet_to_come() -> None:
    rooms = [room for layer in contract("down")["layers"] for room in re.split(r" [|:] ", layer)]
    there = [room for room in rooms if exists(room.strip("()"))]
    assert there
    assert [room for room in rooms if room.startswith("(") == exists(room.strip("()"))] == []


def test_no_framework_reaches_the_rooms_without_one() -> None:
    assert {*modules_that_exist(FRAMEWORKLESS)} <= {*contract("frameworkless")["source_modules"]}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_itself_its_test_and_its_page(name: str) -> None:
    assert (ROOT / f"tests/lab/experiments/test_{name}.py").exists()
    assert (ROOT / f"docs/experiments/{name}.md").exists()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_is_itself_its_test_and_its_page(name: str) -> None:
    assert (ROOT / f"tests/estimators/test_{name}.py").exists()
    assert (ROOT / f"docs/estimators/{name}.md").exists()
