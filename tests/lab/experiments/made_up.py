"""Outcomes that nobody measured: the same names and shapes as those of a tiny run, and numbers drawn at random.

Every statement of every experiment has to be reproduced, refuted and left undecided by some of them; a rule that cannot
fail says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from normwise.lab.outcomes import Outcomes

SEEDS = range(10)
ACCURACIES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.97, 1.0)
MULTIPLES = (0.0, 1e-12, 1e-3, 0.1, 0.5, 1.0, 1.0, 1.0, 2.0, 10.0, 1e3)
SHIFTS = (-3.0, -0.3, 0.0, 0.0, 0.3, 3.0)
NOISES = (0.0, 0.0, 1e-3, 0.1, 1.0)


def universes(
    experiment: Any, settings: Any, measured: Outcomes, count: int, levels: Sequence[float] = ()
) -> Iterator[Outcomes]:
    """Outcomes of ten seeds, again and again.

    Args:
        experiment: the module.
        settings: in which it was run.
        measured: by a tiny run, for the names and shapes.
        count: how many universes.
        levels: values besides the usual ones, where a statement asks for a particular one.
    """
    templates: dict[tuple[Any, ...], dict[str, Any]] = {}
    for trial, outcome in measured:
        templates.setdefault(_arm(trial), outcome)
    trials = experiment.trials(settings, SEEDS)
    for number in range(count):
        random = np.random.default_rng(number)
        yield Outcomes(trials, _outcomes(trials, templates, (*ACCURACIES, *levels), random))


def _arm(trial: Any) -> tuple[Any, ...]:
    return tuple(value for name, value in asdict(trial).items() if name != "seed")


def _outcomes(
    trials: Sequence[Any],
    templates: dict[tuple[Any, ...], dict[str, Any]],
    levels: Sequence[float],
    random: np.random.Generator,
) -> list[dict[str, Any]]:
    """One draw for all arms together, which some of the arms leave."""
    names = {name for template in templates.values() for name in template}
    common = {name: _draw(levels, random) for name in sorted(names)}
    leaves, noise = random.choice([0.0, 0.3, 0.7]), random.choice(NOISES)
    own = {
        arm: {name: _draw(levels, random) if random.random() < leaves else common[name] for name in sorted(template)}
        for arm, template in templates.items()
    }
    return [
        {name: _filled(value, own[_arm(trial)][name], noise, random) for name, value in templates[_arm(trial)].items()}
        for trial in trials
    ]


def _draw(levels: Sequence[float], random: np.random.Generator) -> tuple[Any, ...]:
    """An accuracy, a multiple, a shift, and what the seed of the places inside a list is."""
    return (
        random.choice(levels),
        random.choice(MULTIPLES),
        random.choice(SHIFTS),
        random.choice(["flat", "flat", "step", "places", "trend"]),
        int(random.integers(1 << 30)),
    )


def _filled(template: Any, draw: tuple[Any, ...], noise: float, random: np.random.Generator) -> Any:
    """The template with other numbers."""
    if isinstance(template, dict | str):
        return template
    try:
        values = np.array(template, dtype=np.float64)
    except ValueError:  # of lists of unequal lengths
        return [_filled(each, draw, noise, random) for each in template]
    if values.size == 0:
        return template
    accuracy, multiple, shift, form, seed = draw
    finite = np.where(np.isfinite(values), values, 1.0)
    if (finite >= 0).all() and (finite <= 1).all():
        found = _inside(np.full(values.shape, accuracy), form, seed, ACCURACIES)
        return np.clip(found + noise * random.normal(size=()) * (0 < accuracy < 1), 0, max(1, accuracy)).tolist()
    size, each = np.abs(finite).mean(), values.shape if seed % 2 else ()  # noise of each number, or of all together
    base = np.where(finite == 0, size, finite)
    found = base * _inside(np.full(values.shape, multiple), form, seed, MULTIPLES) + shift * size * (finite < 0).any()
    return (found * np.exp(noise * random.normal(size=each))).tolist()


def _inside(level: Any, form: str, seed: int, levels: Sequence[float]) -> Any:
    """The level everywhere, or other ones at some places of the last axis."""
    places = np.random.default_rng(seed)
    if level.ndim == 0 or form == "flat":
        return level
    last = level.shape[-1]
    if form == "step":
        return np.where(np.arange(last) >= places.integers(last), level, places.choice(levels))
    if form == "trend":
        return level * np.linspace(places.choice(levels[1:]), 1.0, last)
    return np.broadcast_to(places.choice(levels, size=level.shape), level.shape)


def picking(experiment: Any, settings: Any, measured: Outcomes, *, last: bool, learns: bool = True) -> Outcomes:
    """Outcomes in which every arm is best on validation images at the last of its rates, or at the first.

    What else was measured is other at every rate, and the same for either.

    Args:
        experiment: the module.
        settings: in which it was run.
        measured: by a tiny run, for the names and shapes.
        last: which of the rates is best.
        learns: otherwise every arm guesses on validation images, whatever the rate.
    """
    best, rest = (0.99, 0.5) if learns else (0.1, 0.1)
    templates = {_arm(trial): outcome for trial, outcome in measured}
    trials, axis = experiment.trials(settings, SEEDS), 1 if hasattr(experiment, "by_pair") else 0
    made = []
    for trial in trials:
        outcome = {}
        for name, value in templates[_arm(trial)].items():
            choosing = name.removeprefix("exact_") == "validation"
            own = getattr(trial, "rate", None)
            seen = _by_rate(value, settings.rates, own, axis)
            if choosing and seen is not value:
                seen, at = np.array(value, dtype=np.float64), len(settings.rates) - 1 if last else 0
                seen = np.where(_places(seen, settings.rates, own, axis) == at, best, rest).tolist()
            outcome[name] = seen
        made.append(outcome)
    return Outcomes(trials, made)


def _places(values: Any, rates: Sequence[float], own: float | None, axis: int) -> Any:
    """The place of each number's rate, which is on that axis unless it is given."""
    if own is not None:
        return np.full(values.shape, rates.index(own), dtype=np.float64)
    shape = [1] * values.ndim
    shape[axis] = len(rates)
    return np.broadcast_to(np.arange(len(rates), dtype=np.float64).reshape(shape), values.shape)


def _by_rate(value: Any, rates: Sequence[float], own: float | None, axis: int) -> Any:
    """The value with something that depends on the place of the rate, which is on that axis unless it is given."""
    if isinstance(value, dict | str) or value == []:
        return value
    try:
        values = np.array(value, dtype=np.float64)
    except ValueError:
        return value
    if own is None and values.shape[axis : axis + 1] != (len(rates),):
        return value
    places = _places(values, rates, own, axis)
    return (values * (1 + 0.2 * places) + 0.01 * places).tolist()
