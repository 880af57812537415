"""Every experiment that says that it takes a user's images is held to it, with files of each data set."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from normwise.lab.data import images, splits
from normwise.lab.experiment import FOLDER, load, names, takes_data
from tests.lab.data.formats.conftest import write_cifar10, write_mnist, write_rows, write_svhn

TAKING = [name for name in names() if takes_data(load(name))]
WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "mnist": ("mnist", write_mnist),
    "mnist, nobody split it": ("mnist", write_rows),
    "svhn": ("svhn", write_svhn),
    "cifar10": ("cifar10", write_cifar10),
}
FEWER: dict[str, dict[str, tuple[float, ...]]] = {
    "how_strong_should_the_prior_of_adapt_be": {"samples": (8,), "priors": (4,)},
    "do_fresh_statistics_repair_drift": {"images": (32,)},
}
"""Fewer values of what an experiment does many times over."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder with a few images of each data set."""
    folders = {kind: tmp_path_factory.mktemp(WRITERS[kind][0]) for kind in WRITERS}
    for kind, (_, write) in WRITERS.items():
        write(folders[kind])
    return folders


@pytest.fixture(autouse=True)
def _digits_again() -> Iterator[None]:
    images.read.cache_clear()
    yield
    splits.use(None)


def tiny(name: str) -> Any:
    """The settings that the experiment's own tests run it with, of fewer steps."""
    settings = importlib.import_module(f"tests.lab.experiments.test_{name}").SETTINGS
    steps = {field.name: 12 for field in fields(settings) if field.name.endswith("steps")}
    return replace(settings, **steps, **FEWER.get(name, {}))


def count(value: Any) -> int:
    """The number of values that an outcome holds, in lists of any lengths."""
    return sum(count(each) for each in value) if isinstance(value, list | tuple) else np.size(value)


def no_digits() -> None:
    raise AssertionError("the digits were taken in the place of the user's images")


def test_all_take_a_users_images_but_those_that_are_about_no_images_or_need_large_ones() -> None:
    assert set(names()) - set(TAKING) == {
        "do_fresh_statistics_help_with_stock_prices",
        "does_feature_scaling_round_the_valley",
        "does_it_steady_a_deep_linear_network",
        "what_does_it_cost_in_training",
        "what_happens_to_large_networks_without_it",
    }


@pytest.mark.parametrize("name", TAKING)
def test_what_limits_its_numbers_names_no_property_of_the_digits(name: str) -> None:
    """Such a sentence would stand on pages about other images."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text("utf-8"))
    (caveats,) = (node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "caveats")
    words = [str(node.value) for node in ast.walk(caveats) if isinstance(node, ast.Constant)]
    assert words
    assert not re.search(r"\bdigits\b|\b8 x 8\b|\b(450|270|1077|1797)\b", " ".join(words))


def test_counts_in_sentences_are_those_of_the_data(tmp_path: Path) -> None:
    assert splits.sizes() == (1077, 270, 450)
    assert splits.in_pixels() == "8 x 8"
    write_cifar10(tmp_path)
    splits.use(images.source("cifar10", tmp_path))
    data = splits.digits(0)
    train, validation, test = splits.sizes()
    assert (train, validation, test) == (len(data.train.rows), len(data.validation.rows), len(data.test.rows))
    assert splits.in_pixels() == "32 x 32"
    assert splits.one_image() == f"One of {test} test images is {100 / test:.2g} points"


@pytest.mark.parametrize("name", TAKING)
def test_an_experiment_runs_on_each_data_set_and_never_takes_the_digits(
    name: str, sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, settings = load(name), tiny(name)
    trial = experiment.trials(settings, (0,))[0]
    monkeypatch.setattr(splits, "_digits", no_digits)
    taken: list[str] = []
    read = splits._bytes

    def noted(source: images.Source) -> tuple[torch.Tensor, torch.Tensor]:
        taken.append(source.name)
        return read(source)

    monkeypatch.setattr(splits, "_bytes", noted)
    for kind, folder in sources.items():
        splits.use(images.source(WRITERS[kind][0], folder))
        found = experiment.run(trial, settings)
        assert set(taken) == {WRITERS[kind][0]}
        assert all(count(value) > 0 for value in found.values())
        taken.clear()
