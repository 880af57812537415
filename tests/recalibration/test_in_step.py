"""Batches in step, on a model in which every step can be seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from normwise.estimators.ema import Ema
from normwise.recalibration.batches import Batches
from normwise.recalibration.memory import bytes_for, free_memory
from normwise.recalibration.passes import Passes, go_through
from normwise.recalibration.report import RecalibrateReport
from normwise.recalibration.site import Site
from normwise.recalibration.stepping import Place
from normwise.side_by_side import EnterState
from tests.recalibration.numpy_model import NumpyLayer, NumpyModel
from tests.recalibration.test_passes import data, three_layers


class NumpyStepping:
    """NumPy alone has no state of a thread, and draws no random numbers."""

    def __init__(self, model: NumpyModel, bound: float = 1e9, why: str = "") -> None:
        self.at_most, self._bound, self._why = 100, bound, why
        self._start = [layer.restorer() for layer in model.layers]
        self.restored = 0

    def why_not(self) -> str:
        return self._why

    def enter_state(self) -> EnterState:
        return lambda _: None

    def bound(self) -> float:
        return self._bound

    def parking(self) -> None:
        pass

    @contextmanager
    def held(self, batch: Any) -> Iterator[Callable[[], int]]:
        yield lambda: 3 * batch.nbytes

    def places(self, batch: Any) -> Iterator[Place]:
        yield Place(batch.ctypes.data, batch.nbytes)

    def random_state(self) -> int:
        return 0

    def restore(self) -> None:
        self.restored += 1
        for restore in self._start:
            restore()


def gone_through(model: NumpyModel, stepping: NumpyStepping | None, **settings: Any) -> tuple[Passes, list[Any]]:
    """The passes and the statistics, by an estimator that knows the order of the batches."""
    sites = [Site(layer, Ema(0.3)) for layer in dict.fromkeys(model.layers)]
    source = Batches(data(), called="recalibrate")
    settings.setdefault("upstream", "inference")
    passes = go_through(model, source, sites, stepping=stepping, limit=0.0, **settings)
    return passes, [value.tolist() for site in sites for value in site.estimate()]


def network(*layers: NumpyLayer) -> NumpyModel:
    model = NumpyModel(*layers)
    model.between = np.tanh
    return model


def test_each_batch_goes_through_once_and_the_first_one_before_and_after() -> None:
    model = network(*three_layers())
    stepping = NumpyStepping(model)
    passes, found = gone_through(model, stepping)
    # The first batch alone; each of three up to the first layer, on to the second, to the third; the first one again.
    assert model.called == [*"abc"] + ["a"] * 3 + ["b"] * 3 + ["c"] * 3 + [*"abc"]
    assert (passes.in_step, passes.number, passes.why_not, stepping.restored) == (True, 1, "", 1)
    assert [site.name for site in passes.sites] == ["a", "b", "c"]
    assert [(each.batches, each.samples) for each in passes.first] == [(3, 12)]
    assert found == gone_through(network(*three_layers()), None)[1]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"bound": 4 * 3 * 64 - 1}, "3 batches need 0.0 MB at a time, and memory allows 0.0 MB"),
        ({"why": "it is Sunday"}, "it is Sunday"),
    ],
)
def test_where_it_cannot_be_it_is_layer_by_layer(settings: dict[str, Any], why: str) -> None:
    model = network(*three_layers())
    passes, found = gone_through(model, NumpyStepping(model, **settings))
    assert (passes.in_step, passes.number, passes.why_not) == (False, 3, why)
    assert found == gone_through(network(*three_layers()), None)[1]


def test_what_just_fits_goes_in_step() -> None:
    model = network(*three_layers())
    assert gone_through(model, NumpyStepping(model, bound=4 * 3 * 64))[0].in_step


def test_a_layer_that_is_called_twice_is_settled_by_both_calls() -> None:
    def twice() -> NumpyModel:
        first, second, _ = three_layers()
        return network(first, second, first)

    model = twice()
    passes, found = gone_through(model, NumpyStepping(model))
    assert (passes.in_step, passes.number) == (False, 2)
    assert passes.why_not == "a batch comes to a layer more than once"
    assert found == gone_through(twice(), None)[1]


def test_one_layer_or_statistics_of_each_batch_need_no_steps() -> None:
    model = network(three_layers()[0])
    passes, _ = gone_through(model, NumpyStepping(model))
    assert (passes.in_step, passes.why_not, passes.number) == (False, "", 1)
    model = network(*three_layers())
    passes, _ = gone_through(model, NumpyStepping(model), upstream="batch")
    assert (passes.in_step, passes.why_not, passes.number) == (False, "", 1)


def test_a_share_of_the_memory_that_is_free() -> None:
    assert (bytes_for(1.0, 50), bytes_for(2, 50), bytes_for(None, 40)) == (50, 2, 10)
    assert free_memory() > 2**20


def test_the_report_says_where_more_memory_would_help() -> None:
    why = "9 batches need 3.0 GB at a time, and memory allows 1.0 GB"
    report = RecalibrateReport({}, {"bn": "it is frozen"}, (), 9, 9, passes=7, why_not_in_step=why)
    assert str(report).splitlines()[-1] == f"  layer by layer, in 7 passes: {why}"
    other = RecalibrateReport({}, {"bn": "it is frozen"}, (), 9, 9, why_not_in_step="batches share their memory")
    assert len(str(other).splitlines()) == 2
