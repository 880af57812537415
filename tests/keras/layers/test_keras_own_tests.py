"""Keras's own tests for its layer, from the installed package and unchanged, run on our class."""

from types import SimpleNamespace
from typing import Any

import keras
import pytest
from keras.src.layers.normalization import batch_normalization_test as upstream

from normwise.keras import BatchNormalization

# Keras runs its tests without warnings as errors, and they cause some: of NumPy about Keras's variables, of `fit`.
pytestmark = pytest.mark.filterwarnings("ignore")

# What the tests look up as `layers.BatchNormalization` when they run is ours; all other layers are Keras's.
upstream.layers = SimpleNamespace(**{**vars(keras.layers), "BatchNormalization": BatchNormalization})


class BatchNormalizationTest(upstream.BatchNormalizationTest):
    """Collected here; every test is Keras's."""


def test_the_tests_are_there_and_see_our_class() -> None:
    names = [name for name in dir(BatchNormalizationTest) if name.startswith("test_")]
    assert len(names) >= 20
    layers: Any = upstream.layers
    assert layers.BatchNormalization is BatchNormalization
