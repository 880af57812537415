"""Momentum as a number of batches, beside PyTorch's and Keras's conventions."""

from __future__ import annotations

import numpy as np
import pytest

from normwise.errors import NormwiseError
from normwise.estimators import RunningStatistics, weight_of_window, window_of_weight
from normwise.estimators.debiased_ema import DebiasedEma
from normwise.estimators.ema import Ema
from normwise.moments import Moments

# PyTorch's momentum, Keras's for the same average, and the window of both
CONVENTIONS = [(0.1, 0.9, 19), (0.01, 0.99, 199), (0.5, 0.5, 3), (1.0, 0.0, 1)]


@pytest.mark.parametrize(("torchs", "kerass", "batches"), CONVENTIONS)
def test_the_three_ways_to_say_it(torchs: float, kerass: float, batches: int) -> None:
    assert weight_of_window(batches) == pytest.approx(torchs)
    assert 1 - weight_of_window(batches) == pytest.approx(kerass)
    assert window_of_weight(torchs) == pytest.approx(batches)
    for cls in (Ema, DebiasedEma):
        assert cls.over(batches).weight_of_new == weight_of_window(batches)


def test_kerass_momentum_given_to_pytorch_remembers_one_batch() -> None:
    assert window_of_weight(0.99) == pytest.approx(1.02, abs=0.001)


@pytest.mark.parametrize("batches", [3, 19])
def test_the_average_is_as_noisy_as_the_plain_one_of_so_many_batches(batches: int) -> None:
    means = np.random.default_rng(0).standard_normal((300, 20000))
    statistics = RunningStatistics.start(20000)
    for mean in means:
        statistics = Ema.over(batches).update(statistics, Moments(mean, np.ones(20000), 10))
    assert statistics.mean.std() == pytest.approx(batches**-0.5, rel=0.03)


@pytest.mark.parametrize("batches", [0.5, 0, -3, float("nan")])
def test_less_than_a_batch_is_refused(batches: float) -> None:
    with pytest.raises(NormwiseError) as refused:
        Ema.over(batches)
    assert str(refused.value) == (
        f"a window needs 1 batch or more, received {batches}: state it as a number of batches."
    )


@pytest.mark.parametrize("weight", [0.0, -0.1, 1.5])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(NormwiseError) as refused:
        window_of_weight(weight)
    assert str(refused.value) == (
        f"the weight of a new batch must be more than 0 and at most 1, received {weight}: "
        "it is PyTorch's momentum, or 1 minus Keras's."
    )
