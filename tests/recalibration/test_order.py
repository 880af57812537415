"""The order in which layers are settled: of all batches, and not of the first one."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from normwise.estimators.pooled import Pooled
from normwise.moments import Moments
from normwise.recalibration.order import Calls, in_order
from normwise.recalibration.site import Site
from tests.recalibration.numpy_model import NumpyLayer


def order_of(*batches: str, sites: str = "abcdef") -> str:
    """The order for batches that pass the layers with these letters."""
    known = {name: Site(NumpyLayer(name, [0.0], [1.0]), Pooled()) for name in sites}
    calls = Calls()
    for batch in batches:
        calls.begin_batch()
        for name in batch:
            known[name].take(Moments(np.zeros(1), np.ones(1), np.array([2.0])))
            calls.add(known[name])
    return "".join(site.name for site in in_order([*known.values()]))


@pytest.mark.parametrize(
    ("batches", "order"),
    [
        (["abc", "abc"], "abc"),
        (["bc", "abc"], "abc"),  # the first batch skips the layer before
        (["ac", "abc"], "abc"),  # or one in between
        (["c", "ac", "ab", "bc"], "abc"),  # no batch passes all
        (["cab", "c"], "cab"),  # whatever the order of the sites
        (["abab", "abcb"], "abc"),  # of several calls in one batch the first counts
        (["b", "a"], "ba"),  # two that no batch passes both: by their first call
        (["ab", "ba", "bac"], "abc"),  # batches disagree: by their first call
    ],
)
def test_each_layer_comes_after_all_that_any_batch_passes_before_it(batches: list[str], order: str) -> None:
    assert order_of(*batches) == order


def test_whatever_part_of_the_layers_each_batch_passes() -> None:
    draw = random.Random(0)
    for _ in range(100):
        batches = ["".join(name for name in "abcdef" if draw.random() < 0.6) for _ in range(5)]
        order = order_of(*batches, sites="fdbeca")
        assert set(order) == set("".join(batches))
        for batch in batches:
            for before, after in itertools.pairwise(batch):
                assert order.index(before) < order.index(after), (batches, order)
