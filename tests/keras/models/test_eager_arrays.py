"""The arrays that a forward holds on JAX and TensorFlow, and the reasons why batches do not go in step there."""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np
import pytest

from normwise.keras.models.recalibrate import recalibrate

BACKEND = keras.backend.backend()
elsewhere = pytest.mark.skipif(BACKEND == "torch", reason="tests/torch has those of PyTorch's")


def why_not(**settings: Any) -> tuple[bool, str]:
    parts = [keras.layers.BatchNormalization(), keras.layers.Dense(2), keras.layers.BatchNormalization()]
    x = np.random.default_rng(0).normal(size=(16, 40)).astype("float32")
    report = recalibrate(keras.Sequential([keras.Input((40,)), *parts]), [x[:8], x[8:]], **settings)
    return report.in_step, report.why_not_in_step


@elsewhere
def test_arrays_that_are_alive_are_counted_and_those_of_the_batch_are_not() -> None:
    from normwise.keras.models.eager_arrays import arrays_of

    batch = {"x": [keras.ops.ones((500,))], "y": np.ones(7, np.float64)}
    arrays = arrays_of(None)
    with arrays.held(batch) as held:
        before = held()
        made = [keras.ops.ones((1000,)), keras.ops.ones((10,), dtype="float16")]
        assert held() - before == 4020
        made.pop()
        assert held() - before == 4000
        made.clear()
        assert held() == before
    assert sorted(place.bytes for place in arrays.places(batch)) == [56, 2000]
    assert len({place.address for place in arrays.places([batch, batch])}) == 2


def test_beyond_the_bound_the_layers_go_one_by_one() -> None:
    in_step, why = why_not(memory=2000)
    assert not in_step
    assert why.startswith("2 batches need 0.0 MB at a time, and memory allows 0.0 MB")


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_settings_of_this_thread_keep_batches_from_going_in_step() -> None:
    with sys.modules["jax"].default_matmul_precision("float32"):
        found = why_not()
    assert found == (False, "the call is inside of JAX settings that other threads do not have")


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
def test_a_strategy_keeps_batches_from_going_in_step() -> None:
    strategy = sys.modules["tensorflow"].distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        assert why_not() == (False, "the call is inside of a TensorFlow strategy")
