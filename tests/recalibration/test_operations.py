"""The work of ``recalibrate`` and ``adapt`` in any framework: the report, and writing all or nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from normwise.errors import NormwiseError
from normwise.estimators import Estimator
from normwise.estimators.ema import Ema
from normwise.estimators.pooled import Pooled
from normwise.recalibration.batches import Batches
from normwise.recalibration.operations import adapt_layers, recalibrate_sites
from normwise.recalibration.report import RecalibrateReport
from normwise.recalibration.site import Site
from tests.recalibration.numpy_model import NumpyLayer, NumpyModel

F64 = NDArray[np.float64]


def batches() -> Batches:
    rng = np.random.default_rng(0)
    return Batches([rng.normal(5, 2, (4, 1)) for _ in range(3)], called="recalibrate")


def layers(largest: float = math.inf) -> tuple[NumpyLayer, NumpyLayer, NumpyLayer]:
    return NumpyLayer("a", [0.0], [1.0]), NumpyLayer("b", [3.0], [1.0], largest), NumpyLayer("unused", [0.0], [1.0])


def recalibrated(model: NumpyModel, all_of_them: Any) -> RecalibrateReport:
    return recalibrate_sites(
        model,
        batches(),
        [Site(layer, Pooled()) for layer in all_of_them],
        {"frozen": "it is frozen"},
        upstream="inference",
        limit=0.0,
        tolerance=None,
    )


def test_every_layer_stands_in_the_report_once_and_is_written() -> None:
    a, b, unused = layers()
    report = recalibrated(NumpyModel(a, b), (unused, b, a))
    assert [*report.recalibrated] == ["b", "a"]  # in the order of the model, not of the calls
    assert report.skipped == {"frozen": "it is frozen"}
    assert report.not_reached == ("unused",)
    assert (report.batches, report.samples, report.passes, report.stopped_early) == (3, 12, 2, False)
    assert (a.updates, b.updates, unused.updates) == (3, 3, 0)
    np.testing.assert_allclose(a.mean, np.concatenate([*batches()]).mean(0), rtol=1e-13)
    np.testing.assert_allclose(b.mean, [0.0], atol=1e-13)
    assert unused.mean.tolist() == [0.0]


def test_a_layer_whose_inputs_were_never_finite_is_skipped_with_that_reason() -> None:
    a, b, unused = layers()
    model = NumpyModel(a, b)
    model.between = lambda x: x * np.nan
    report = recalibrated(model, (a, b, unused))
    assert report.skipped == {"frozen": "it is frozen", "b": "all its inputs were NaN or inf"}
    assert ([*report.recalibrated], report.not_reached) == (["a"], ("unused",))
    assert b.mean.tolist() == [3.0]


@pytest.mark.parametrize("estimator", [Pooled(), Ema(0.1)], ids=["pooled", "ema"])
def test_a_layer_that_received_single_values_is_skipped_with_that_reason(estimator: Estimator) -> None:
    a, b, unused = layers()
    single = Batches([np.ones((1, 1))], called="recalibrate")
    report = recalibrate_sites(
        NumpyModel(a, b),
        single,
        [Site(layer, estimator) for layer in (a, b, unused)],
        {},
        upstream="inference",
        limit=0.0,
        tolerance=None,
    )
    assert report.skipped == dict.fromkeys("ab", "no batch had two values per channel, which a variance needs")
    assert ([*report.recalibrated], report.not_reached) == ([], ("unused",))
    assert (a.mean.tolist(), b.mean.tolist()) == ([0.0], [3.0])
    adapted = adapt_layers(NumpyModel(a, b), single, (a, b, unused), {}, upstream="inference", prior=0.0)
    assert (adapted.skipped, adapted.not_reached) == (report.skipped, ("unused",))


def test_nothing_is_written_where_one_layer_cannot_hold_its_result() -> None:
    a, b, _ = layers(largest=-1)
    model = NumpyModel(a, b)
    with pytest.raises(NormwiseError, match=r"^b cannot hold \S+\.$"):
        recalibrated(model, (a, b))
    with pytest.raises(NormwiseError, match=r"^b cannot hold \S+\.$"):
        adapt_layers(model, batches(), (a, b), {}, upstream="inference", prior=4.0)
    assert [(layer.mean.item(), layer.var.item(), layer.updates) for layer in (a, b)] == [(0, 1, 0), (3, 1, 0)]


def test_adapt_weighs_samples_with_the_prior_and_can_be_undone() -> None:
    a, b, unused = layers()
    report = adapt_layers(NumpyModel(a, b), batches(), (a, b, unused), {}, upstream="inference", prior=4.0)
    x = np.concatenate([*batches()])
    np.testing.assert_allclose(a.mean, x.mean(0) * 12 / 16, rtol=1e-13)
    assert ([*report.adapted], report.not_reached, report.prior) == (["a", "b"], ("unused",), 4.0)
    assert (report.batches, report.samples, a.updates) == (3, 12, 0)
    report.undo()
    assert [layer.mean.tolist() for layer in (a, b)] == [[0.0], [3.0]]


def test_adapt_leaves_alone_what_is_skipped() -> None:
    a, b, _ = layers()
    model = NumpyModel(a, b)
    report = adapt_layers(model, batches(), (a, b), {"a": "not meant"}, upstream="inference", prior=0.0)
    assert (a.mean.tolist(), [*report.adapted], report.skipped) == ([0.0], ["b"], {"a": "not meant"})
    np.testing.assert_allclose(b.mean, np.concatenate([*batches()]).mean(0), rtol=1e-13)
    assert model.called == [*"ab"] * 3
