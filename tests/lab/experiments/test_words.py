"""The words of every experiment's docstring name the numbers of its code: settings, and the sizes of its rules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from normwise.lab import names
from normwise.lab.experiment import describe, load
from normwise.lab.results import EDITION, from_json

every = pytest.mark.parametrize("name", names())
FOLDER = Path(__file__).parents[3] / "benchmarks/results/claims"
COUNTED = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen"),
)
WORDS = {
    **{word: float(number) for number, word in enumerate(COUNTED)},
    "half": 0.5,
    "single": 1.0,
    "once": 1.0,
    "twice": 2.0,
    "double": 2.0,
    "tenth": 0.1,
    "tenfold": 10.0,
    "fifth": 0.2,
}
MANY = 6
"""Values of a grid so long that its first, its last and their count are enough."""
SHOWN = {"growth", "shown"}
"""Fields that say what the figures show: a caveat has the distance of the looks."""
OTHERWISE = {
    ("do_fresh_statistics_help_with_stock_prices", "stocks"): "five stocks and two indices",
    ("does_holding_the_statistics_help_small_batches", "last"): "from the 480th step on",
    ("does_it_allow_higher_learning_rates", "longer"): "goes on to 4000 steps",
    ("should_convolutions_use_instance_or_group_norm", "longer"): "3000 with batches of 2",
    ("should_recurrent_networks_use_layer_norm", "batch"): "batches of 32 and of 4",
    ("what_do_scale_and_shift_do", "depth"): "3 and 10 hidden layers",
}
"""Fields whose value is a part of another number in the words, or which another field replaces; and those words."""
MADE = {"is_the_batch_variance_too_small": "within 1 %", "does_it_cure_vanishing_gradients": "within a factor of 2"}
"""Experiments with rules around a computed number; and the words that say how far around it."""


def numbers(text: str) -> set[float]:
    """The numbers in a text, in digits or in words."""
    text = re.sub(r"(?<=\d),(?=\d{3})|(?<=\d) (?=\d{3}\b)", "", text)  # 10,000 and 10 000
    digits = re.findall(r"(?<![\w.])(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?(?!\d)", text)
    return {float(each) for each in digits} | {
        WORDS[word] for word in re.findall(r"\w+", text.lower()) if word in WORDS
    }


def values(value: Any) -> list[float]:
    """The numbers in the value of a field."""
    if isinstance(value, list | tuple):
        return [number for each in value for number in values(each)]
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def lacking(found: Iterable[float], said: set[float]) -> list[float]:
    """Those of some numbers that are not said, with room for what words round: 1.43 for 1 / 0.7."""
    return [number for number in found if not any(abs(number - each) <= 0.005 * abs(number) for each in said)]


@every
def test_the_settings_in_words_name_the_numbers_of_the_code(name: str) -> None:
    experiment = load(name)
    words, settings = describe(name).settings, experiment.Settings()
    said = numbers(f"{words} {experiment.ARCHITECTURE}")
    for field in fields(settings):
        if field.name in SHOWN:
            continue
        if (name, field.name) in OTHERWISE:
            assert OTHERWISE[name, field.name] in words
            continue
        found = values(getattr(settings, field.name))
        ends = [found[0], found[-1], float(len(found))] if len(found) > MANY else found
        missing = lacking(found, said)
        assert not missing or not lacking(ends, said), (field.name, missing)


@every
def test_a_list_of_rates_in_words_has_no_rate_that_the_code_lacks(name: str) -> None:
    settings = load(name).Settings()
    own = {number for field in fields(settings) for number in values(getattr(settings, field.name))}
    for listed in re.findall(r"rates? ((?:\.?\d[\d.]*, )+\.?\d[\d.]* (?:and|or) \.?\d[\d.]*)", describe(name).settings):
        assert not lacking(numbers(listed.rstrip(".")), own), listed


@every
def test_the_verdict_in_words_names_the_sizes_of_the_rules(name: str) -> None:
    """Of the rules that a kept result was judged by, where it is by the present settings."""
    path, description, experiment = FOLDER / f"{name}.json", describe(name), load(name)
    kept = from_json(path.read_text(encoding="utf-8")) if path.is_file() else None
    if kept is None or kept.edition < EDITION or kept.settings != json.loads(json.dumps(asdict(experiment.Settings()))):
        return
    if name in MADE:
        assert MADE[name] in description.verdict
        return
    for statement in kept.conclusion.statements:
        said = numbers(f"{description.verdict} {statement.text}") | {0.0, 1.0}
        percents = {each / 100 for each in numbers(" ".join(re.findall(r"[\d.]+ %", description.verdict)))}
        said |= {1 + sign * each for each in percents for sign in (-1, 1)}
        sizes = numbers(statement.rule.replace("95 %", ""))
        assert not lacking(sizes, said), (statement.text, statement.rule)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("rates 0.03, .1 and 1e-4, ten layers", {0.03, 0.1, 1e-4, 10.0}),
        ("10,000 steps of 10 000 images, 8 x 8", {10_000.0, 8.0}),
        ("ResNet50, from .9 on.", {0.9}),
    ],
)
def test_numbers_are_found_in_digits_and_in_words(text: str, found: set[float]) -> None:
    assert numbers(text) == found
