"""The callback that examines a Keras model while it trains."""

from __future__ import annotations

from typing import Any

from normwise.callbacks.alarm import UNKNOWN, check_settings, numbers_in, warn_of
from normwise.doctor.diagnosis import Diagnosis
from normwise.doctor.examination import examine
from normwise.keras.callbacks.epochs import AfterTrainingBatches


class Examine(AfterTrainingBatches):
    """Examines the model every so many epochs and at the end, before the validation, and warns of what it finds.

    The logs get ``normalization_errors`` and ``normalization_warnings``, how many findings of each kind there were the
    last time, NaN before it. ``History`` has them, and every callback behind it in the list: ``CSVLogger``,
    ``TensorBoard``, ``EarlyStopping(monitor="normalization_errors", mode="min")``. The model, its optimizer and
    metrics, and the random state stay as they are.

    It sees the moving averages as they are at its place in the list; behind ``RecalibrateStatistics``, what that made
    of them.

    Args:
        data: arrays, a data set, or a list of batches, with targets for ``loss`` and ``metric``. No generator: it is
            gone through more than once.
        every: how many epochs are between two examinations.
        **settings: of ``normwise.doctor.examine``: ``loss``, ``metric``, ``only``, ``allow``, ``source_model``,
            ``forward_fn``, ``at_most``.

    Attributes:
        diagnosis: the last one, or None.

    Raises:
        NormwiseError: an iterator for ``data``, no whole number of epochs, or a ``train_step``. Data and settings that
            do not fit the model raise before the first epoch, what ``examine`` raises.
        UnknownName: no such check.

    Warns:
        UnhealthyModel: there is an error or a warning; the message is the diagnosis.

    Example:
        >>> import keras, numpy
        >>> from normwise.callbacks.keras import Examine
        >>> x = numpy.arange(8.0, dtype="float32")[:, None]
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)])
        >>> model.compile(loss="mse")
        >>> history = model.fit(x, x, batch_size=8, verbose=0, callbacks=[Examine(x, only=["non_finite_statistics"])])
        >>> history.history["normalization_errors"]
        [0.0]
    """

    diagnosis: Diagnosis | None

    def __init__(self, data: Any, *, every: int = 1, **settings: Any) -> None:
        super().__init__(data)
        check_settings(settings, every)
        self.every, self.settings = every, settings
        self.diagnosis = None
        self._numbers = dict(UNKNOWN)

    def rehearse(self) -> None:
        """Examine one batch, and say nothing of it."""
        examine(self.model, self.data, **{"at_most": 1, **self.settings})

    def after_training_batches(self, epoch: int) -> None:
        """Examine, if it is the epoch for it; the logs come later."""
        if (epoch + 1) % self.every == 0 or epoch + 1 == (self.params or {}).get("epochs"):
            self.diagnosis = examine(self.model, self.data, **self.settings)
            self._numbers = numbers_in(self.diagnosis)
            warn_of(self.diagnosis, epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """The numbers, into the logs that the callbacks behind this one get."""
        super().on_epoch_end(epoch, logs)
        if logs is not None:
            logs.update(self._numbers)
