"""A Keras model as the doctor examines it."""

from __future__ import annotations

from typing import Any

from normwise.errors import UnsuitableModel


class KerasSubject:
    """The ``normwise.doctor.subject.Subject`` of Keras.

    Args:
        model: built.
        forward_fn: how a batch enters the model.
    """

    def __init__(self, model: Any, forward_fn: Any) -> None:
        raise UnsuitableModel("examine needs a PyTorch model.")
