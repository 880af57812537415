"""A callback that acts once per epoch: after its last training batch, and before its validation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from normwise.errors import NormwiseError


class AfterTrainingBatches(keras.callbacks.Callback):
    """Calls ``after_training_batches(epoch)`` in every epoch of ``fit``, before the validation if there is one.

    Keras calls ``on_epoch_end`` after the validation, which is too late for what the validation should see. Where it
    begins, and at the end of an epoch without one, the model's variables are current on every backend, and what is
    written to them holds: on JAX, ``fit`` and ``evaluate`` take their state from there again.

    Args:
        data: what is gone through in every epoch.

    Raises:
        NormwiseError: an iterator, which can be gone through once.
    """

    def __init__(self, data: Any) -> None:
        super().__init__()
        if isinstance(data, Iterator):
            raise NormwiseError(
                f"{type(self).__name__} goes through its data in every epoch, received {type(data).__name__}, "
                "which can be gone through once: pass arrays, a data set, or list(...) of it."
            )
        self.data = data
        self._epoch: int | None = None

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        """Rehearse with one batch, so that a mistake in data or settings costs no epochs."""
        if self.model.built:  # else Keras builds it at the first batch
            self.rehearse()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """An epoch in which the callback has not acted yet."""
        self._epoch = epoch

    def on_test_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        """The validation of an epoch, or an ``evaluate`` outside ``fit``, in which the callback does nothing."""
        self._act()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """There was no validation, or it was acted on."""
        self._act()

    def rehearse(self) -> None:
        """Do what epochs end with, and leave the model as it is."""

    def after_training_batches(self, epoch: int) -> None:
        """The action of the callback, which each subclass defines."""
        raise NotImplementedError

    def _act(self) -> None:
        epoch, self._epoch = self._epoch, None
        if epoch is not None:
            self.after_training_batches(epoch)
