"""One layer that gathers, in NumPy's arrays and in PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from normwise.estimators.cumulative import Cumulative
from normwise.estimators.pooled import Pooled
from normwise.moments import Moments
from normwise.recalibration.site import Site, SiteWithPrior, of_finite_channels
from normwise.torch.models.recalibration.torch_layer import TorchLayer
from tests.recalibration.numpy_model import NumpyLayer

MEAN, VAR = [1.0, -1.0, 0.0], [4.0, 1.0, 0.25]


def numpy_layer(mean: Any = MEAN, var: Any = VAR) -> NumpyLayer:
    return NumpyLayer("bn", mean, var)


def torch_layer(mean: Any = MEAN, var: Any = VAR) -> TorchLayer:
    norm = torch.nn.BatchNorm1d(3, eps=0.0).double()
    for buffer, value in ((norm.running_mean, mean), (norm.running_var, var)):
        assert buffer is not None
        buffer.copy_(torch.tensor(value))
    return TorchLayer("bn", norm)


LAYERS = pytest.mark.parametrize("make", [numpy_layer, torch_layer])
Make = Callable[..., Any]


def of(make: Make, values: Any) -> Any:
    """The values as an array of this framework's."""
    found = np.asarray(values, float)
    return found if make is numpy_layer else torch.from_numpy(found.copy())


def moments(make: Make, x: Any) -> Moments:
    x = np.asarray(x, float)
    with np.errstate(invalid="ignore"):
        parts = x.mean(0), x.var(0), np.full(x.shape[1], float(len(x)))
    return Moments(*(of(make, part) for part in parts))


def two_batches() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return rng.normal(3, 2, (5, 3)), rng.normal(0, 1, (2, 3))


@LAYERS
def test_the_estimate_is_that_of_all_values(make: Make) -> None:
    site = Site(make(), Pooled())
    for batch in two_batches():
        site.take(moments(make, batch))
        site.end_of_batch()
    mean, var = site.estimate()
    together = np.concatenate(two_batches())
    np.testing.assert_allclose(mean, together.mean(0), rtol=1e-13)
    np.testing.assert_allclose(var, together.var(0, ddof=1), rtol=1e-13)
    assert site.samples.tolist() == [7.0, 7.0, 7.0]
    assert (site.name, site.once, site.not_finite) == ("bn", True, 0)


@LAYERS
def test_a_channel_that_is_not_finite_is_left_out_and_keeps_what_it_had(make: Make) -> None:
    site = Site(make(), Pooled())
    for wrong in (np.nan, np.inf):
        batch = two_batches()[0]
        batch[2, 1] = wrong
        site.take(moments(make, batch))
    mean, var = site.estimate()
    assert (float(mean[1]), float(var[1])) == (MEAN[1], VAR[1])
    assert float(mean[0]) == pytest.approx(two_batches()[0][:, 0].mean())
    assert (site.not_finite, site.reached) == (2, True)
    assert site.moved()[1] == 0


@LAYERS
def test_nothing_is_known_of_one_value_without_a_prior(make: Make) -> None:
    site = Site(make(), Pooled())
    assert not site.reached
    site.take(moments(make, [[5.0, 5.0, 5.0]]))
    assert not site.reached
    assert [part.tolist() for part in site.estimate()] == [MEAN, VAR]


@LAYERS
def test_a_prior_makes_one_value_known_where_it_is_finite_and_not_0(make: Make) -> None:
    layer = make([1.0, np.nan, 0.0], VAR)
    site, without = SiteWithPrior(layer, 1.0), SiteWithPrior(layer, 0.0)
    for each in (site, without):
        each.take(moments(make, [[5.0, 5.0, 5.0]]))
    assert (site.reached, without.reached) == (True, False)
    mean, var = site.estimate()
    assert (float(mean[0]), float(var[0])) == (
        3.0,
        6.0,
    )  # half of each; their spread, 4 / 2 + 0 / 2, and 4 between them
    assert math.isnan(mean[1])
    assert without.estimate()[0].tolist()[::2] == [1.0, 0.0]


@LAYERS
def test_an_infinite_prior_changes_nothing(make: Make) -> None:
    site = SiteWithPrior(make(), math.inf)
    for batch in two_batches():
        site.take(moments(make, batch))
    assert [part.tolist() for part in site.estimate()] == [MEAN, VAR]
    assert site.moved().tolist() == [0.0, 0.0, 0.0]


@LAYERS
def test_statistics_that_were_not_finite_have_moved_infinitely_far(make: Make) -> None:
    site = Site(make([np.nan, 1.0, 0.0], [1.0, np.inf, 0.25]), Pooled())
    site.take(moments(make, two_batches()[0]))
    far = site.moved().tolist()
    assert far[:2] == [math.inf, math.inf]
    assert 0 < far[2] < 100


@LAYERS
def test_a_batch_of_one_value_is_normalized_by_what_came_before_it(make: Make) -> None:
    layer = make()
    site = Site(layer, Pooled())
    first = two_batches()[0]
    site.take(moments(make, first))
    site.normalize_by(moments(make, [[5.0, 5.0, 5.0]]))
    np.testing.assert_allclose(layer.read()[0], first.mean(0), rtol=1e-13)
    np.testing.assert_allclose(layer.read()[1], first.var(0, ddof=1), rtol=1e-13)
    site.normalize_by(moments(make, first))
    np.testing.assert_allclose(layer.read()[1], first.var(0), rtol=1e-13)  # by the batch: the biased one
    assert not site.settled
    site.settle()
    assert site.settled
    np.testing.assert_allclose(layer.read()[1], first.var(0, ddof=1), rtol=1e-13)


@LAYERS
def test_what_is_written_is_written_when_it_is_called(make: Make) -> None:
    layer = make()
    site = Site(layer, Cumulative())
    for batch in two_batches():
        site.take(moments(make, batch))
    writes = site.writes()
    assert layer.read()[0].tolist() == MEAN
    for write in writes:
        write()
    np.testing.assert_allclose(layer.read()[0], np.mean([batch.mean(0) for batch in two_batches()], 0), rtol=1e-13)
    assert (layer.updates if make is numpy_layer else layer.norm.num_batches_tracked.item()) == 2


@LAYERS
def test_a_prior_leaves_the_counter_as_it_was(make: Make) -> None:
    layer = make()
    site = SiteWithPrior(layer, 2.0)
    site.take(moments(make, two_batches()[0]))
    for write in site.writes():
        write()
    assert layer.read()[0].tolist() != MEAN
    assert (layer.updates if make is numpy_layer else layer.norm.num_batches_tracked.item()) == 0


@LAYERS
def test_the_standard_error_is_kept_where_it_is_asked_for(make: Make) -> None:
    site = Site(make(), Pooled())
    site.take(moments(make, two_batches()[0]))
    site.end_of_batch()
    assert math.isnan(site.error())
    site.begin(watched=True)
    assert math.isnan(site.error())
    for value in (0.0, 2.0, 0.0, 2.0):
        site.take(Moments(*(of(make, [number] * 3) for number in (value, 1.0, 8.0))))
        site.end_of_batch()
    assert site.error() == pytest.approx(math.sqrt(1 / 3) / math.sqrt(64 / 31), rel=1e-12)


@LAYERS
def test_two_calls_in_one_batch_are_one_observation(make: Make) -> None:
    site, plain = (Site(make(), Pooled()) for _ in range(2))
    for each in (site, plain):
        each.begin(watched=True)
    for a in (0.0, 2.0, 3.0):
        pair = np.array([[a] * 3, [a + 1] * 3]), np.array([[a - 1] * 3, [a + 5] * 3])
        for x in pair:
            site.take(moments(make, x))
        site.end_of_batch()
        plain.take(moments(make, np.concatenate(pair)))
        plain.end_of_batch()
    assert site.error() == pytest.approx(plain.error(), rel=1e-12)
    assert (site.once, plain.once) == (False, True)


@LAYERS
def test_what_all_processes_know_takes_the_place_of_what_one_knows(make: Make) -> None:
    site, other = (Site(make(), Pooled()) for _ in range(2))
    other.take(moments(make, [[np.nan, 1.0, 2.0], [1.0, 3.0, 5.0]]), values_per_sample=2)
    other.place = 3
    site.take_over(other.gathered())
    assert (site.place, site.once, site.not_finite) == (3, True, 1)
    assert site.samples.tolist() == [0.0, 1.0, 1.0]
    assert [part.tolist() for part in site.estimate()] == [[1.0, 2.0, 3.5], [4.0, 2.0, 4.5]]
    site.begin()
    assert (site.not_finite, site.reached) == (0, False)


@LAYERS
def test_only_channels_that_are_not_finite_are_emptied(make: Make) -> None:
    batch = Moments(*(of(make, part) for part in ([1.0, 2.0, np.inf], [1.0, np.nan, 1.0], [4.0, 4.0, 4.0])))
    clean, finite = of_finite_channels(batch)
    assert finite.tolist() == [True, False, False]
    assert [part.tolist() for part in (clean.mean, clean.var, clean.count)] == [[1, 0, 0], [1, 0, 0], [4, 0, 0]]
