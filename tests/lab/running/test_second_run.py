"""Runs at other seeds and at neighbouring settings, kept beside the first, and what a run alone may conclude."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from normwise import lab
from normwise.errors import NormwiseError
from normwise.lab.experiment import FOLDER, between, neighbours_of
from normwise.lab.results import EDITION, Result, Verdict
from normwise.lab.running import stamp
from normwise.lab.running.measuring import Measuring
from normwise.lab.running.plan import Plan
from normwise.lab.running.store import Store, keep
from normwise.report import markdown
from normwise.report.runs import gathered

Make = Callable[..., Path]
NAME = "does_it_end"
WIDER = "NEIGHBOURING = {'width': Settings(rates=(0.3, 0.4))}\n"


def test_other_seeds_and_neighbouring_settings_have_files_of_their_own(make: Make, tmp_path: Path) -> None:
    folder, out, kept = make(more=WIDER), tmp_path / "out", tmp_path / "kept"
    for first_seed, setting in ((0, ""), (1000, ""), (0, "width")):
        keep(lab.run([NAME], out=out, folder=folder, workers=1, first_seed=first_seed, setting=setting), kept)
    assert sorted(path.name for path in kept.iterdir()) == [
        f"{NAME}.json",
        f"{NAME}.seeds-1000.json",
        f"{NAME}.width.json",
    ]
    (runs,) = gathered(markdown.kept(kept))
    assert (runs.first.seeds, runs.first.edition) == (tuple(range(5)), EDITION)
    assert runs.second is not None
    assert runs.second.seeds == tuple(range(1000, 1005))
    assert runs.neighbours["width"].settings["rates"] == [0.3, 0.4]
    assert runs.neighbours["width"].command == f"normwise lab run {NAME} --seeds 5 --setting width"
    (line,) = runs.lines
    assert line.second == runs.second.conclusion.statements[0]
    assert "second run" in markdown.claims(markdown.kept(kept))
    assert len(markdown.kept(kept, NAME)) == 3


def test_what_was_measured_on_other_data_is_kept_beside_the_first(make: Make, tmp_path: Path) -> None:
    (result,) = lab.run([NAME], seeds=2, out=tmp_path / "out", folder=make(), workers=1)
    other = Result(**{**vars(result), "settings": {**result.settings, "data": "mnist (0123)"}, "seeds": (1000, 1001)})
    keep([result, other], tmp_path / "kept")
    assert (tmp_path / "kept" / f"{NAME}.mnist.seeds-1000.json").exists()


def test_a_quick_run_gives_no_verdict(make: Make, tmp_path: Path) -> None:
    (result,) = lab.run([NAME], quick=True, out=tmp_path / "out", folder=make(), workers=1)
    (statement,) = result.conclusion.statements
    assert (statement.verdict, statement.why) == (
        Verdict.OPEN,
        "preliminary: 3 seeds, and a verdict takes 5",
    )
    assert (result.data, result.architecture, result.edition) == ("random numbers", "none", EDITION)


def test_a_setting_that_an_experiment_lacks_is_refused(make: Make, tmp_path: Path) -> None:
    sentence = f"experiment {NAME!r} has no neighbouring setting 'looks': run it without."
    with pytest.raises(NormwiseError, match=f"^{re.escape(sentence)}$"):
        lab.run([NAME], setting="looks", out=tmp_path / "out", folder=make())
    sentence = "the setting 'grid' is a neighbour of the ordinary one: leave quick and full out."
    with pytest.raises(NormwiseError, match=f"^{re.escape(sentence)}$"):
        Plan(quick=True, setting="grid")


@dataclass(frozen=True)
class Settings:
    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    growth: float = 1.1
    width: int = 64


def test_neighbouring_settings_follow_from_what_the_settings_have() -> None:
    given: Any = SimpleNamespace(Settings=Settings)  # all of an experiment that is asked
    found = neighbours_of(given)
    assert found["grid"].rates == (0.016, 0.055, 0.17, 0.55, 1.8)
    assert found["looks"].growth == pytest.approx(1.21)
    assert found["width"] == Settings(width=96)
    given.NEIGHBOURING = {}
    assert neighbours_of(given) == {}


@pytest.mark.parametrize("rates", [(0.1, 0.2, 0.4), (1e-3, 1e-2, 1e-1, 1.0), (0.1, 0.3, 1.0)])
def test_rates_between_lie_between_and_reach_further(rates: tuple[float, ...]) -> None:
    found = between(rates)
    assert len(found) == len(rates) + 1
    assert found[0] < rates[0] < found[1] < rates[1] < found[2]
    assert found[-2] < rates[-1] < found[-1]


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("does_it_train_faster", 0.334),  # 450 test images over 1347 others
        ("does_it_cure_vanishing_gradients", 0.0),  # before any training
        ("does_feature_scaling_round_the_valley", 1.0),  # halves
    ],
)
def test_the_correction_is_that_of_what_seeds_share(name: str, share: float, tmp_path: Path) -> None:
    folder = FOLDER
    assert Measuring(name, Plan(seeds=2), folder, Store(tmp_path))._share() == share


def test_the_stamp_has_the_commit_of_the_rules() -> None:
    found = stamp.stamp(origin="a", seconds=1.0, workers=1)["commit"]
    assert re.fullmatch(r"([0-9a-f]{40}( with changes)?)?", found)
