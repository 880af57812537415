"""``save_memory`` on backends whose memory is not autograd's to give: one sentence, with what to do instead."""

from __future__ import annotations

import keras
import pytest

import normwise
from normwise.errors import UnsuitableModel
from tests.keras.calls import BACKEND


@pytest.mark.skipif(BACKEND == "torch", reason="it works there: test_save_memory.py")
def test_other_backends_are_told_the_alternative() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
    with pytest.raises(UnsuitableModel) as refused:
        normwise.save_memory(model)
    assert str(refused.value) == (
        f"save_memory needs a Keras model on the torch backend, received one on {BACKEND}: build its blocks within "
        "keras.RematScope, which runs their forwards again in the backward."
    )
