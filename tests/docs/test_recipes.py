"""The recipes: what they name is there, and following one with the files that it asks for is enough."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/recipes.md").read_text("utf-8")
# What stands for another name in a recipe, and what a recipe writes.
FREE = re.compile(r"[<>{}$ *=\[\]]|^report/")
ESTIMATOR = '''"""The newest batch."""

from dataclasses import dataclass
from typing import final

from normwise.estimators.estimator import Estimator, RunningStatistics, averaged
from normwise.moments import Moments


@final
@dataclass(frozen=True)
class NewestBatch(Estimator):
    """The moments of the newest batch, and nothing of those before.

    Example:
        >>> from normwise.estimators import NewestBatch
        >>> NewestBatch()
        NewestBatch()
    """

    def update(self, statistics: RunningStatistics, batch: Moments) -> RunningStatistics:
        """The statistics after one more batch."""
        return averaged(statistics, batch, 1.0)
'''
CHECK = '''"""A layer that is called like a fruit.

What it finds:
    A name.

Why it is bad:
    It is not.

How it is measured:
    By the name.

What to do:
    Nothing.

References:
    None.
"""

from __future__ import annotations

from collections.abc import Iterator

from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Severity, Skipped
from normwise.facts import ModelFacts

LIMITS: dict[str, tuple[float, str, str]] = {}
HIDES: tuple[str, ...] = ()
ON = True
PROOF = "statistics"
REMEDY = "model"


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for each."""
    for each in facts.layers:
        if each.name == "plum":
            yield Finding("fruit_name", (each.name,), Severity.NOTE, "It is called plum.", {}, REMEDY, None)


def sick() -> ModelFacts:
    """A layer of that name."""
    return model(layer("plum"))


def healthy() -> ModelFacts:
    """A layer of another name."""
    return model(layer("bn"))
'''
TRIED = """
import torch
import normwise
from normwise import estimators
from normwise.doctor.check import names
from normwise.doctor.checks import fruit_name
from normwise.torch import BatchNorm2d

layer = BatchNorm2d(2, estimator="newest_batch")
x = torch.randn(8, 2, 3, 3)
layer(x)
torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)))
assert isinstance(layer.estimator, estimators.NewestBatch)
assert "fruit_name" in names()
assert [each.layers for each in fruit_name.check(fruit_name.sick())] == [("plum",)]
assert [*fruit_name.check(fruit_name.healthy())] == []
model = torch.nn.Sequential()
model.add_module("plum", torch.nn.BatchNorm1d(2))
found = normwise.examine(model, [torch.randn(16, 2) for _ in range(3)], only=["fruit_name"]).findings
assert [each.check for each in found] == ["fruit_name"]
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is, with the file that each of two recipes asks for."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(
        ROOT / "src/normwise", folder / "src/normwise", ignore=shutil.ignore_patterns("*.so", "cpp", "__pycache__")
    )
    (folder / "src/normwise/estimators/newest_batch.py").write_text(ESTIMATOR)
    (folder / "src/normwise/doctor/checks/fruit_name.py").write_text(CHECK)
    return folder


def run(clone: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(clone / "src")}
    done = subprocess.run(
        [sys.executable, *command], cwd=clone, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_estimator_and_a_check_are_one_file_each(clone: Path) -> None:
    run(clone, "-c", TRIED)
    assert "A layer that is called like a fruit" in " ".join(
        run(clone, "-m", "normwise", "explain", "fruit_name").split()
    )


def test_their_pages_come_by_themselves(clone: Path) -> None:
    from docs import generate

    pages = {path.as_posix(): text for path, text in generate.pages(clone).items()}
    assert "`normwise.estimators.NewestBatch`" in pages["docs/estimators/newest_batch.md"]
    assert "- [Fruit name](fruit_name.md): " in pages["docs/checks/index.md"]


def test_every_file_that_a_recipe_names_is_there() -> None:
    named = {name for name in re.findall(r"`([\w./<>*-]+/[\w./<>*-]*|[\w/]+\.py)`", PAGE) if not FREE.search(name)}
    assert len(named) > 15
    there = [path for top in ("src", "tests", "docs", "benchmarks", ".ci") for path in (ROOT / top).rglob("*")]
    ends = {"/" + path.relative_to(ROOT).as_posix() for path in there}
    gone = [name for name in named if not any(end.endswith("/" + name.rstrip("/")) for end in ends)]
    assert sorted(gone) == []
