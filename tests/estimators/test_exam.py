"""One exam for every estimator, found by listing: a stream goes in, and what comes out is what its docstring says."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from normwise import estimators
from normwise.errors import NormwiseError, UnknownName
from normwise.estimators import Estimator, RunningStatistics
from normwise.kernels import reference
from normwise.moments import Moments

# One representative of every member; a new member must be added here or take no settings.
SETTINGS: dict[str, dict[str, Any]] = {
    "ema": {"weight_of_new": 0.1},
    "debiased_ema": {"weight_of_new": 0.1},
    "window": {"start": 3, "stop": 9},
}
NAMES = estimators.names()


def make(name: str) -> Estimator:
    """The member with its settings of this exam."""
    return estimators.estimator_class(name)(**SETTINGS.get(name, {}))


def stream(sizes: list[int], *, drift: float = 0.0, seed: int = 0) -> Iterator[tuple[np.ndarray, Moments]]:
    """Batches of 3 channels whose mean moves by ``drift`` per batch."""
    rng = np.random.default_rng(seed)
    for step, size in enumerate(sizes):
        values = rng.normal([0.0, 5.0, -100.0], [1.0, 0.1, 30.0], (size, 3)) + drift * step
        yield values, reference.moments(values)


def run(name: str, batches: list[Moments]) -> RunningStatistics:
    """The statistics after all batches."""
    statistics = RunningStatistics.start(3)
    for batch in batches:
        statistics = make(name).update(statistics, batch)
    return statistics


def test_there_are_the_members_that_the_documentation_names() -> None:
    """Discovery by listing finds them all; an exam over nothing proves nothing."""
    assert set(NAMES) >= {"ema", "debiased_ema", "cumulative", "pooled", "window"}


@pytest.mark.parametrize("name", NAMES)
def test_says_what_it_assumes_and_where_it_is_biased(name: str) -> None:
    """The headings that every member's docstring has."""
    text = inspect.getdoc(estimators.estimator_class(name)) or ""
    for heading in ("Assumes:", "Bias:", "References:", "Example:"):
        assert heading in text


@pytest.mark.parametrize("name", NAMES)
def test_equal_batches_are_their_own_statistics(name: str) -> None:
    """After many equal batches the mean is theirs and the variance their unbiased one."""
    values = np.random.default_rng(3).normal(2.0, 3.0, (8, 3))
    statistics = run(name, [reference.moments(values)] * 400)
    np.testing.assert_allclose(statistics.mean, values.mean(0), rtol=1e-12)
    # Pooled knows 3200 values, of which 8 differ: its n/(n-1) is nearly 1.
    correction = {0, 1} if name != "pooled" else {0}
    assert any(np.allclose(statistics.var, values.var(0, ddof=ddof), rtol=1e-3) for ddof in correction)


@pytest.mark.parametrize("name", NAMES)
def test_is_unbiased_on_shuffled_data(name: str) -> None:
    """Averaged over 400 streams, mean and variance are the population's within four standard errors."""
    found = [run(name, [batch for _, batch in stream([8] * 60, seed=seed)]) for seed in range(400)]
    for truth, values in (([0.0, 5.0, -100.0], [f.mean for f in found]), ([1.0, 0.01, 900.0], [f.var for f in found])):
        errors = np.array(values) - truth
        if name == "ema":  # its documented pull towards the start, (1 - w)^60
            errors -= 0.9**60 * (np.array([0.0, 0.0, 0.0] if truth[0] == 0.0 else [1.0, 1.0, 1.0]) - truth)
        standard_error = errors.std(0) / np.sqrt(len(errors))
        assert (np.abs(errors.mean(0)) < 4 * standard_error).all(), (name, errors.mean(0) / standard_error)


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "pooled"])
def test_a_batch_without_a_variance_changes_nothing(name: str, count: int) -> None:
    """Fewer than two values per channel: mean, variance and counters stay to the last bit."""
    before = run(name, [batch for _, batch in stream([8] * 5)])
    after = make(name).update(before, Moments(np.full(3, 7.0), np.zeros(3), count))
    np.testing.assert_array_equal(after.mean, before.mean)
    np.testing.assert_array_equal(after.var, before.var)
    assert (after.updates, after.count) == (before.updates, before.count)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_first_batch_leaves_the_start(name: str) -> None:
    """Mean 0, variance 1, nothing counted."""
    after = make(name).update(RunningStatistics.start(3), Moments(np.zeros(3), np.zeros(3), 0))
    np.testing.assert_array_equal(after.mean, np.zeros(3))
    np.testing.assert_array_equal(after.var, np.ones(3))
    assert (after.updates, after.count) == (0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_counts_batches_and_values(name: str) -> None:
    """What carries on a stream after a pause is right."""
    statistics = run(name, [batch for _, batch in stream([8, 4, 2])])
    assert (statistics.updates, statistics.count) == (3, 14)


@pytest.mark.parametrize("name", NAMES)
def test_leaves_its_input_alone(name: str) -> None:
    """An update returns new statistics; the old ones, and the batch, are as they were."""
    start, (_, batch) = RunningStatistics.start(3), next(stream([8]))
    kept = [np.copy(a) for a in (start.mean, start.var, batch.mean, batch.var)]
    make(name).update(start, batch)
    for now, before in zip((start.mean, start.var, batch.mean, batch.var), kept, strict=True):
        np.testing.assert_array_equal(now, before)


@pytest.mark.parametrize("name", NAMES)
def test_uses_operators_only(name: str) -> None:
    """So that the same code serves arrays and tensors in a compiled graph: no numpy, no branch on values."""
    tree = ast.parse(inspect.getsource(estimators.estimator_class(name).update).lstrip())
    assert not any(isinstance(node, ast.If | ast.IfExp | ast.While) for node in ast.walk(tree))
    assert "np." not in ast.unparse(tree)


def test_ema_is_the_closed_form() -> None:
    """(1 - w)^k of the start, and w (1 - w)^(k - j) of batch j."""
    batches = [batch for _, batch in stream([8] * 12, drift=1.0)]
    weights = np.array([0.1 * 0.9 ** (11 - j) for j in range(12)])
    statistics = run("ema", batches)
    np.testing.assert_allclose(statistics.mean, weights @ np.array([b.mean for b in batches]), rtol=1e-12)
    expected = 0.9**12 + weights @ np.array([b.population_var() for b in batches])
    np.testing.assert_allclose(statistics.var, expected, rtol=1e-12)


def test_debiased_ema_is_the_weighted_average_at_every_step() -> None:
    """The same weights, divided by their sum: no trace of the start."""
    batches = [batch for _, batch in stream([8] * 12, drift=1.0)]
    for k in (1, 2, 12):
        weights = np.array([0.9 ** (k - 1 - j) for j in range(k)])
        expected = weights @ np.array([b.mean for b in batches[:k]]) / weights.sum()
        np.testing.assert_allclose(run("debiased_ema", batches[:k]).mean, expected, rtol=1e-12)


def test_cumulative_is_algorithm_2() -> None:
    """E[x] = E_B[mu_B], Var[x] = m/(m-1) E_B[v_B] for batches of one size m."""
    batches = [batch for _, batch in stream([8] * 20)]
    statistics = run("cumulative", batches)
    np.testing.assert_allclose(statistics.mean, np.mean([b.mean for b in batches], axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics.var, 8 / 7 * np.mean([b.var for b in batches], axis=0), rtol=1e-12)


@pytest.mark.parametrize("sizes", [[64, 64, 2], [1, 5, 1], [8] * 10], ids=str)
@pytest.mark.parametrize("drift", [0.0, 10.0], ids=["shuffled", "sorted"])
def test_pooled_is_one_big_batch(sizes: list[int], drift: float) -> None:
    """Ragged, sorted, in any order: mean and unbiased variance of everything seen."""
    seen = list(stream(sizes, drift=drift))
    everything = np.concatenate([values for values, _ in seen])
    for order in (seen, seen[::-1]):
        statistics = run("pooled", [batch for _, batch in order])
        np.testing.assert_allclose(statistics.mean, everything.mean(0), rtol=1e-12)
        np.testing.assert_allclose(statistics.var, everything.var(0, ddof=1), rtol=1e-11)


def test_window_drops_the_early_and_the_late_batches() -> None:
    """Batches 3 to 8 of 15 count; before the window opens it is the average so far; after it nothing moves."""
    batches = [batch for _, batch in stream([8] * 15, drift=1.0)]
    means = np.array([b.mean for b in batches])
    np.testing.assert_allclose(run("window", batches[:2]).mean, means[:2].mean(0), rtol=1e-12)
    np.testing.assert_allclose(run("window", batches[:4]).mean, means[3], rtol=1e-12)
    np.testing.assert_allclose(run("window", batches).mean, means[3:9].mean(0), rtol=1e-12)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 3), (4, 2)])
def test_window_refuses_bounds_that_hold_nothing(start: int, stop: int) -> None:
    """With what was received and what to do."""
    with pytest.raises(NormwiseError) as error:
        estimators.estimator_class("window")(start=start, stop=stop)  # type: ignore[call-arg]  # Estimator has none
    assert str(error.value) == (
        f"a window needs 0 <= start < stop, received start={start} and stop={stop}: "
        "state both as numbers of batches, counted from 0."
    )


def test_names_lead_to_members() -> None:
    """By name with a weight, by class as an attribute, and with a hint when the name is wrong."""
    assert estimators.named("ema", weight_of_new=0.25) == estimators.Ema(weight_of_new=0.25)
    assert estimators.named("pooled") == estimators.Pooled()
    with pytest.raises(UnknownName) as unknown:
        estimators.named("poold")
    assert str(unknown.value) == (
        "unknown estimator 'poold': did you mean 'pooled'? Known: cumulative, debiased_ema, ema, pooled, window."
    )
    with pytest.raises(NormwiseError) as missing:
        estimators.named("window")
    assert str(missing.value) == (
        "estimator 'window' has settings, received only its name: pass normwise.estimators.Window(start=..., stop=...)."
    )
    with pytest.raises(NormwiseError) as weightless:
        estimators.named("ema")
    assert str(weightless.value) == (
        "estimator 'ema' needs the weight of a new batch, received None: state it (momentum in PyTorch)."
    )
    with pytest.raises(AttributeError):
        estimators.Nothing  # noqa: B018  # the access is the test
