"""The results that are kept, held against the experiments as they are now."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from normwise.lab import names
from normwise.lab.experiment import load
from normwise.lab.results import EDITION, Result, from_json

FOLDER = Path(__file__).parents[3] / "benchmarks/results/claims"
TOO_FAR = {
    "20 blocks: with neither, the network is worse": "at smaller rates 400 steps move its weights less and less",
}
"""Statements whose best rate lies beyond any grid that could be tried, by their beginnings, and why that is so."""


def kept(name: str) -> list[Result]:
    """The results on the experiment's own data and at its present settings; none of older ones."""
    settings = json.loads(json.dumps(asdict(load(name).Settings())))
    files = [*FOLDER.glob(f"{name}.json"), *FOLDER.glob(f"{name}.*.json")]
    found = [from_json(path.read_text(encoding="utf-8")) for path in files]
    return [each for each in found if each.edition == EDITION and each.settings == settings]


def test_some_results_are_of_the_present_settings() -> None:
    """A check of no results proves nothing."""
    assert sum(bool(kept(name)) for name in names()) >= 5


@pytest.mark.parametrize("name", names())
def test_the_numbers_are_of_the_settings_that_the_experiments_page_names(name: str) -> None:
    path = FOLDER / f"{name}.json"
    if path.is_file() and from_json(path.read_text(encoding="utf-8")).edition == EDITION:
        assert kept(name)


@pytest.mark.parametrize("name", names())
def test_no_kept_result_hangs_on_the_edge_of_a_grid(name: str) -> None:
    """Such a grid is to be extended, and the experiment to be run again."""
    for result in kept(name):
        for each in result.conclusion.statements:
            edge = "edge of its grid" in each.effect.obstacle
            assert not edge or any(each.text.startswith(begin) for begin in TOO_FAR), (each.text, each.effect.obstacle)
