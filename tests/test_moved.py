"""Modules that moved: their old names still import them, with a warning that names the new ones."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import normwise
from normwise.moved import ELSEWHERE, NAMES, SUCCESSORS

ROOT = Path(normwise.__file__).parent


@pytest.mark.parametrize("room", SUCCESSORS)
def test_every_successor_is_there_and_no_old_name_is(room: str) -> None:
    for old, new in SUCCESSORS[room].items():
        successor = ROOT / room / new.replace(".", "/")
        assert successor.with_suffix(".py").is_file() or (successor / "__init__.py").is_file(), new
        assert not (ROOT / room / f"{old}.py").exists(), old
        assert not (ROOT / room / old).exists(), old


def test_the_old_name_gives_the_very_module_and_says_where_it_is() -> None:
    """In a process of its own, because a module is imported, and its move told, once."""
    code = """
import warnings
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    from normwise.torch.fuse import fuse
import normwise.torch.models.fusion.fuse as now
assert fuse is now.fuse
assert now.__name__ == now.__spec__.name == "normwise.torch.models.fusion.fuse"
(warning,) = [each for each in told if each.category is DeprecationWarning]
print(warning.message)
print(warning.filename)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "normwise.torch.fuse has moved to normwise.torch.models.fusion.fuse and has its old name until 0.2: "
        "import it from there.",
        "<string>",
    ]


@pytest.mark.parametrize("old", ["statistics", "stack_training", "workers", "formats.mnist"])
def test_the_labs_old_names_give_what_is_in_its_rooms(old: str) -> None:
    code = f"""
import sys
import warnings
from importlib import import_module
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    found = import_module("normwise.lab.{old}")
(warning,) = [each for each in told if each.category is DeprecationWarning]
print(warning.message)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first = old.partition(".")[0]
    new = SUCCESSORS["lab"][first]
    assert done.stdout.splitlines() == [
        f"normwise.lab.{first} has moved to normwise.lab.{new} and has its old name until 0.2: import it from there."
    ]


@pytest.mark.parametrize("package", NAMES)
def test_a_package_in_a_modules_place_gives_the_modules_names(package: str) -> None:
    inside, names = NAMES[package]
    module, found = import_module(f"{package}.{inside}"), import_module(package)
    for name in names:
        message = (
            f"{package}.{name} has moved to {package}.{inside} and has its old place until 0.2: import it from there."
        )
        with pytest.warns(DeprecationWarning, match=f"^{re.escape(message)}$"):
            assert getattr(found, name) is getattr(module, name)
    with pytest.raises(AttributeError, match=f"^module '{re.escape(package)}' has no attribute 'nothing'$"):
        _ = found.nothing


def test_no_module_hides_a_name_that_its_package_still_gives() -> None:
    for package, (_, names) in NAMES.items():
        folder = ROOT.parent / package.replace(".", "/")
        assert not {path.stem for path in folder.iterdir()} & set(names)


def test_what_was_never_there_is_not_found() -> None:
    assert find_spec("normwise.torch.nothing") is None
    assert find_spec("normwise.fuse") is None
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'normwise\.torch\.nothing'"):
        __import__("normwise.torch.nothing")


def test_rooms_are_attributes() -> None:
    """Without an import of theirs before."""
    code = "import normwise; print(normwise.torch.BatchNorm1d(3), normwise.errors.__name__, normwise.lab.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("BatchNorm1d(3, ")
    assert done.stdout.endswith(" normwise.errors normwise.lab\n")


def test_modules_that_both_frameworks_share_are_there_and_their_old_files_are_not() -> None:
    for old, new in ELSEWHERE.items():
        was, now = (ROOT.parent / name.replace(".", "/") for name in (old, new))
        assert now.with_suffix(".py").is_file(), new
        assert not was.with_suffix(".py").exists(), old


@pytest.mark.parametrize(
    ("old", "name"),
    [
        ("normwise.torch.models.recalibration.prior", "SiteWithPrior"),
        ("normwise.torch.recalibration_passes", "Passes"),
        ("normwise.recalibration.share", "limit_of"),
    ],
)
def test_modules_that_both_frameworks_share_are_found_under_their_old_names(old: str, name: str) -> None:
    new = ELSEWHERE[old]
    code = f"""
import warnings
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    from {old} import {name}
import {new} as now
assert {name} is now.{name}
print([str(each.message) for each in told if each.category is DeprecationWarning])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"['{old} has moved to {new} and has its old name until 0.2: import it from there.']\n"
