"""One exam for every estimator, found by listing: a stream goes in, and what comes out is what its docstring says."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from normwise import estimators
from normwise.errors import NormwiseError, UnknownName
from normwise.estimators import Estimator, RunningStatistics
from normwise.kernels import reference
from normwise.moments import Moments
from tests.estimators.streams import after, stream

NAMES = estimators.names()


def make(name: str) -> Estimator:
    """The member as its own test file says it is to be examined: ``EXAMINED`` in ``test_<name>.py``."""
    spec = spec_from_file_location(f"examined_{name}", Path(__file__).with_name(f"test_{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert isinstance(module.EXAMINED, estimators.estimator_class(name))
    return module.EXAMINED


def run(name: str, batches: Iterable[Moments]) -> RunningStatistics:
    """The statistics after all batches."""
    return after(make(name), batches)


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
    """The numbers that carry on a stream after a pause are right."""
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


def test_names_lead_to_members() -> None:
    """By name with a weight, by class as an attribute, and with a hint when the name is wrong."""
    assert estimators.named("ema", weight_of_new=0.25) == estimators.Ema(weight_of_new=0.25)
    assert estimators.named("pooled") == estimators.Pooled()
    with pytest.raises(UnknownName) as unknown:
        estimators.named("poold")
    assert str(unknown.value) == (f"unknown estimator 'poold': did you mean 'pooled'? Known: {', '.join(NAMES)}.")
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
