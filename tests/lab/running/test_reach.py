"""A digest changes with whatever an experiment reaches by import, and with nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from normwise.lab.experiment import FOLDER, names
from normwise.lab.running import reach

EXPERIMENT = "does_it_need_large_batches"  # takes layers, recalibration, networks and data


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package's sources that a test may change."""
    copy = tmp_path / "normwise"
    shutil.copytree(reach.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    return copy


Digest = Callable[[], str]


@pytest.fixture
def digest(package: Path) -> Digest:
    return lambda: reach.digest(package / f"lab/experiments/{EXPERIMENT}.py", package)


def append(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


@pytest.mark.parametrize(
    "name",
    [
        f"lab/experiments/{EXPERIMENT}.py",
        "torch/layers/batch_renorm.py",
        "torch/functional/layer_norm.py",
        "torch/models/recalibration/recalibrate.py",
        "torch/steps/normalize_tiny.py",
        "kernels/choose.py",
        "estimators/pooled.py",  # by a name that is put together
        "recalibration/report.py",
        "moments.py",
        "lab/networks/stack.py",
        "lab/verdict.py",
        "lab/data/formats/mnist.py",
        "lab/__init__.py",  # on the way to what the experiment imports
        "__init__.py",
    ],
)
def test_a_change_of_what_is_reached_changes_the_digest(package: Path, digest: Digest, name: str) -> None:
    before = digest()
    append(package / name, "\nCHANGED = 1\n")
    assert digest() != before


@pytest.mark.parametrize("name", ["kernels.cpp", "walk.h", "torch_shim.cpp"])
def test_a_change_of_the_compiled_sources_changes_the_digest(package: Path, digest: Digest, name: str) -> None:
    before = digest()
    append(package / "kernels/cpp" / name, " ")
    assert digest() != before


@pytest.mark.parametrize(
    "name",
    [
        "lab/experiments/does_it_train_faster.py",
        "lab/networks/recurrent.py",
        "lab/experiment.py",
        "lab/running/session.py",
        "lab/running/progress.py",
        "lab/comparison/halving.py",
        "report/page.py",
        "commands/statistics.py",
        "keras/layers/batch_normalization.py",
        "surgery/layers.py",
        "cli.py",
    ],
)
def test_a_change_of_anything_else_does_not(package: Path, digest: Digest, name: str) -> None:
    before = digest()
    assert (package / name).is_file()
    append(package / name, "\nCHANGED = 1\n")
    assert digest() == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("torch/layers/batch_renorm.py", "\nclass ", "\n\n# A comment.\n\n\nclass "),
        ("torch/layers/batch_renorm.py", '"""', '"""In other words: '),
        ("lab/networks/stack.py", "        super().__init__()\n", "        super().__init__()  # as always\n\n"),
        (f"lab/experiments/{EXPERIMENT}.py", "\nQuestion:\n", "\nQuestion:\n    To ask in other words.\n"),
    ],
)
def test_comments_docstrings_and_layout_do_not(package: Path, digest: Digest, name: str, old: str, new: str) -> None:
    before, text = digest(), (package / name).read_text("utf-8")
    (package / name).write_text(text.replace(old, new, 1), "utf-8")
    assert digest() == before


@pytest.mark.parametrize(
    "text",
    [
        "def later():\n    from normwise.kernels import brand_new\n",
        "def later():\n    import normwise.kernels.brand_new as new\n",
        "def later():\n    from normwise.kernels.brand_new import anything\n",
        "import importlib\n\ndef later():\n    importlib.import_module('normwise.kernels.brand_new')\n",
        "from importlib import import_module\nnew = import_module(f'normwise.kernels.{1 + 1}')\n",
        "def later():\n    import normwise.kernels.brand_new\n",
    ],
)
def test_a_new_file_counts_however_it_is_imported(package: Path, digest: Digest, text: str) -> None:
    append(package / "kernels/brand_new.py", "NUMBER = 1\n")
    before = digest()
    append(package / "torch/functional/layer_norm.py", text)
    after = digest()
    append(package / "kernels/brand_new.py", "NUMBER = 2\n")
    assert len({before, after, digest()}) == 3


def test_what_type_checkers_alone_see_is_not_reached(package: Path, digest: Digest) -> None:
    before = digest()
    append(package / "torch/functional/layer_norm.py", "if TYPE_CHECKING:\n    from normwise.keras import layers\n")
    assert digest() == before
    assert "keras/__init__.py" not in reach.reached(package / f"lab/experiments/{EXPERIMENT}.py", package)


def test_what_lies_behind_a_door_is_reached_by_those_who_ask_for_it(tmp_path: Path, package: Path) -> None:
    found = {}
    for i, text in enumerate(("from normwise import __version__, lab", "from normwise.lab import run", "import numpy")):
        file = tmp_path / f"{i}.py"
        file.write_text(text, "utf-8")
        found[text] = reach.reached(file, package)
    asked = found["from normwise import __version__, lab"]  # whichever name it is, it may be a door
    assert {"surgery/layers.py", "torch/models/fusion/fuse.py", "keras/models/adapt.py"} <= set(asked)
    assert "lab/running/session.py" in found["from normwise.lab import run"]
    assert found["import numpy"] == []


def test_a_file_from_elsewhere_is_digested_with_what_it_reaches(tmp_path: Path, package: Path) -> None:
    file = tmp_path / "is_it_so.py"
    file.write_text("from normwise.moments import Moments\n", "utf-8")
    assert reach.reached(file, package) == ["__init__.py", "moments.py", "moved.py"]
    before = reach.digest(file, package)
    append(package / "torch/layers/batch_renorm.py", "\nCHANGED = 1\n")
    assert reach.digest(file, package) == before
    append(package / "moments.py", "\nCHANGED = 1\n")
    changed = reach.digest(file, package)
    append(file, "x = 1\n")
    assert len({before, changed, reach.digest(file, package)}) == 3


def test_no_experiment_reaches_another_or_what_runs_them() -> None:
    for name in names():
        found = reach.reached(FOLDER / f"{name}.py")
        assert {"lab/results.py", "lab/experiments/__init__.py"} <= set(found)
        assert not [each for each in found if "/experiments/" in each and "__init__" not in each]
        runners = {"lab/running/session.py", "lab/running/store.py", "lab/running/workers.py"}
        assert not {*runners, "surgery/__init__.py"} & set(found)


def test_an_imported_experiment_has_imported_no_more_than_is_reached() -> None:
    """The law: what Python imports for an experiment, the digest knows of."""
    code = (
        "import sys; from pathlib import Path; from normwise.lab.experiments import {0};"
        "print(*[m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'normwise' and m.__file__])"
    )
    for name in (EXPERIMENT, "should_gans_use_spectral_norm", "can_it_represent_the_identity"):
        output = subprocess.run([sys.executable, "-c", code.format(name)], capture_output=True, text=True, check=True)
        files = {Path(each).relative_to(reach.PACKAGE) for each in output.stdout.split() if each.endswith(".py")}
        imported = {each.as_posix() for each in files} - {f"lab/experiments/{name}.py"}
        assert len(imported) > 50
        assert imported <= set(reach.reached(FOLDER / f"{name}.py"))


def test_the_digests_of_all_experiments_parse_no_file_twice() -> None:
    reach._parsed.cache_clear()
    for _ in range(2):
        for name in names():
            reach.digest(FOLDER / f"{name}.py")
    files = [*reach.PACKAGE.rglob("*.py")]
    assert len(names()) < reach._parsed.cache_info().misses <= len(files)
