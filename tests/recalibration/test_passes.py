"""Passes through the data layer by layer, on a model in which every step can be seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from normwise.errors import NormwiseError
from normwise.estimators.pooled import Pooled
from normwise.recalibration.batches import Batches
from normwise.recalibration.one_pass import Pass
from normwise.recalibration.order import Calls
from normwise.recalibration.passes import go_through, listening
from normwise.recalibration.site import Site
from tests.recalibration.numpy_model import NumpyLayer, NumpyModel

F64 = NDArray[np.float64]


def data(batches: int = 3) -> list[F64]:
    rng = np.random.default_rng(0)
    return [rng.normal(2 + number, 1 + number, (4, 2)) for number in range(batches)]


def three_layers() -> tuple[NumpyLayer, NumpyLayer, NumpyLayer]:
    first, second, third = (NumpyLayer(name, [0.0, 1.0], [1.0, 4.0]) for name in "abc")
    return first, second, third


def source(batches: Any = None, **settings: Any) -> Batches:
    return Batches(data() if batches is None else batches, called="recalibrate", **settings)


def test_each_layer_meets_what_it_will_meet_and_a_forward_ends_at_it() -> None:
    layers = three_layers()
    model = NumpyModel(*layers)
    model.between = np.tanh
    sites = [Site(layer, Pooled()) for layer in layers]
    passes = go_through(model, source(), sites, upstream="inference", limit=0.0)
    assert model.called == [*"abc"] * 3 + [*"ab"] * 3 + [*"abc"] * 3
    assert (passes.number, model.restored) == (3, 3)
    assert [site.name for site in passes.sites] == ["a", "b", "c"]
    x = np.concatenate(data())
    for site in sites:
        mean, var = site.estimate()
        np.testing.assert_allclose(mean, x.mean(0), rtol=1e-12)
        np.testing.assert_allclose(var, x.var(0, ddof=1), rtol=1e-12)
        x = np.tanh((x - mean) / np.sqrt(var))


def test_behind_batch_statistics_one_pass_is_enough() -> None:
    layers = three_layers()
    model = NumpyModel(*layers)
    model.between = np.tanh
    sites = [Site(layer, Pooled()) for layer in layers]
    passes = go_through(model, source(), sites, upstream="batch", limit=0.0)
    assert (model.called, passes.number) == ([*"abc"] * 3, 1)
    xs = data()
    for site in sites:
        x = np.concatenate(xs)
        np.testing.assert_allclose(site.estimate()[0], x.mean(0), rtol=1e-12)
        xs = [np.tanh((x - x.mean(0)) / x.std(0)) for x in xs]


def test_the_model_is_as_before_and_nobody_listens_any_more() -> None:
    layers = three_layers()
    go_through(NumpyModel(*layers), source(), [Site(each, Pooled()) for each in layers], upstream="inference", limit=0)
    assert [layer.mean.tolist() for layer in layers] == [[0.0, 1.0]] * 3
    assert [layer.listeners for layer in layers] == [0, 0, 0]


def test_after_an_error_too() -> None:
    layers = three_layers()

    def broken() -> Any:
        yield data()[0]
        raise OSError("the disk is gone")

    sites = [Site(each, Pooled()) for each in layers]
    with pytest.raises(OSError, match=r"^the disk is gone$"):
        go_through(NumpyModel(*layers), source(broken()), sites, upstream="inference", limit=0.0)
    assert [layer.mean.tolist() for layer in layers] == [[0.0, 1.0]] * 3
    assert [layer.listeners for layer in layers] == [0, 0, 0]


@pytest.mark.parametrize("to_the_end", [True, False])
def test_one_layer_ends_the_forward_unless_it_must_not(to_the_end: bool) -> None:
    layers = three_layers()
    model = NumpyModel(*layers, to_the_end=to_the_end)
    go_through(model, source(), [Site(layers[0], Pooled())], upstream="inference", limit=0.0)
    assert model.called == ([*"abc"] if to_the_end else ["a"]) * 3


def test_a_layer_that_is_called_twice_ends_no_forward_once_that_is_known() -> None:
    first, second, _ = three_layers()
    model = NumpyModel(first, second, first, second)
    sites = [Site(first, Pooled()), Site(second, Pooled())]
    passes = go_through(model, source(), sites, upstream="inference", limit=0.0)
    assert model.called == [*"abab"] * 6
    assert [site.once for site in passes.sites] == [False, False]
    assert sites[1].samples.tolist() == [24.0, 24.0]


def test_layers_are_settled_in_the_order_of_their_calls_whatever_that_of_the_sites() -> None:
    first, second, third = three_layers()
    sites = [Site(layer, Pooled()) for layer in (third, first, second)]
    passes = go_through(NumpyModel(first, second, third), source(), sites, upstream="inference", limit=0.0)
    assert [site.name for site in passes.sites] == ["a", "b", "c"]
    assert [site.settled for site in passes.sites] == [True, True, False]


def test_a_layer_that_nothing_reaches_costs_no_pass() -> None:
    first, second, third = three_layers()
    sites = [Site(layer, Pooled()) for layer in (first, second, third)]
    passes = go_through(NumpyModel(first, second), source(), sites, upstream="inference", limit=0.0)
    assert (passes.number, [site.name for site in passes.sites]) == (2, ["a", "b"])


def test_the_passes_after_the_first_see_as_many_batches_as_that_did() -> None:
    first, second, _ = three_layers()
    rng = np.random.default_rng(1)
    many = [rng.normal(0, 1, (64, 2)) for _ in range(100)]
    model = NumpyModel(first, second)
    sites = [Site(layer, Pooled()) for layer in (first, second)]
    passes = go_through(model, source(many), sites, upstream="inference", limit=0.1)
    (one,) = passes.first
    assert one.stopped_early
    assert one.batches % 8 == 0
    assert one.batches < 100
    assert model.called == [*"ab"] * (2 * one.batches)
    assert one.standard_error <= 0.1


def test_no_batch_is_an_error_in_the_words_of_the_framework() -> None:
    layers = three_layers()
    with pytest.raises(
        NormwiseError,
        match=r"^recalibrate received no batches, so there is nothing to estimate from: pass data; an iterator that "
        r"was gone through before is empty, its list is not\.$",
    ):
        go_through(NumpyModel(*layers), source([]), [Site(layers[0], Pooled())], upstream="batch", limit=0.0)


def test_of_several_processes_each_goes_through_as_many_batches_as_it_did_at_first() -> None:
    """This is the second; the first had 7 batches, and the data of this one are long."""
    first, second, _ = three_layers()

    class OfTwo(NumpyModel):
        rank = 1

        def together(self, work: Any, gathering: Any) -> list[Pass]:
            return [Pass(batches=7, samples=28), *super().together(work, gathering)]

    model = OfTwo(first, second)
    sites = [Site(layer, Pooled()) for layer in (first, second)]
    passes = go_through(model, source(at_most=2), sites, upstream="inference", limit=0.0)
    assert [each.batches for each in passes.first] == [7, 2]
    assert model.called == [*"ab"] * 4


def test_layers_that_are_settled_are_not_listened_to() -> None:
    first, second, third = three_layers()
    sites = [Site(layer, Pooled()) for layer in (first, second, third)]
    sites[0].settle()
    with listening(sites, [sites[1]], Calls()):
        assert [layer.listeners for layer in (first, second, third)] == [0, 1, 1]
    assert [layer.listeners for layer in (first, second, third)] == [0, 0, 0]
