"""The callback that recalibrates while a model trains."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from normwise.errors import NothingChanged
from normwise.keras.callbacks.epochs import AfterTrainingBatches
from normwise.keras.models.recalibrate import recalibrate
from normwise.keras.models.sites import norms_of
from normwise.keras.models.transaction import unchanged
from normwise.recalibration.asked import check_every
from normwise.recalibration.report import RecalibrateReport


class RecalibrateStatistics(AfterTrainingBatches):
    r"""Sets the moving statistics to those of data, every so many epochs and at the end, before the validation.

    .. math:: \mu = \mathrm{E}[x], \quad \sigma^2 = \mathrm{Var}[x] \quad\text{of each layer's input } x
        \text{ over all data, as it comes in at inference}

    What validates, stops or saves in that epoch sees the new statistics: ``val_loss``, ``EarlyStopping``,
    ``ModelCheckpoint``. The weights and the losses of training are what they are without it, as training
    uses batch statistics.

    "The end" is the last epoch; if training stopped before, it is after that, once the statistics are not those of the
    last recalibration. Its place in the list of callbacks is behind ``EarlyStopping``, so that the weights that this
    restores are recalibrated too, and, without validation data, before ``ModelCheckpoint``.

    Args:
        data: as ``recalibrate`` takes them: arrays, a data set, a list of batches. No generator: it is gone through
            more than once.
        every: how many epochs are between two recalibrations.
        **settings: of ``recalibrate``: ``estimator``, ``upstream``, ``forward_fn``, ``at_most``, ``tolerance``,
            ``layers``, ``batch_size``.

    Attributes:
        report: what the last recalibration did, or None.

    Raises:
        NormwiseError: an iterator for ``data``, or no whole number of epochs. Data and settings that do not fit the
            model raise before the first epoch, what ``recalibrate`` raises.

    Warns:
        NothingChanged: nothing was recalibrated, and why: the model has no batch norm, or its inputs were not finite.

    References:
        Ioffe and Szegedy, Batch normalization, 2015, algorithm 2. Wu and Johnson, Rethinking "batch" in batch
        normalization, 2021, arXiv:2105.07576.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from keras import ops
        >>> from normwise.keras import RecalibrateStatistics
        >>> x = np.array([[1.0], [3.0]], "float32")
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization(name="bn")], name="model")
        >>> model.compile(loss="mse")
        >>> callback = RecalibrateStatistics(x)
        >>> _ = model.fit(x, x, epochs=2, verbose=0, callbacks=[callback])
        >>> ops.convert_to_numpy(model.get_layer("bn").moving_mean.value).tolist()
        [2.0]
        >>> callback.report.passes
        1
    """

    report: RecalibrateReport | None

    def __init__(self, data: Any, *, every: int = 1, **settings: Any) -> None:
        super().__init__(data)
        check_every(every)
        self.every, self.settings = every, settings
        self.report = None
        self._after: list[NDArray[Any]] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget the recalibration of an earlier ``fit``."""
        super().on_train_begin(logs)
        self._after = None

    def rehearse(self) -> None:
        """Recalibrate with one batch, and undo it."""
        with unchanged(self.model):
            _warn_of_nothing(recalibrate(self.model, self.data, **{"at_most": 1, **self.settings}))

    def after_training_batches(self, epoch: int) -> None:
        """Recalibrate, if it is the epoch for it."""
        if (epoch + 1) % self.every == 0 or epoch + 1 == (self.params or {}).get("epochs"):
            self._recalibrate()

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002
        """Recalibrate, if something trained or restored the model since."""
        now = _statistics(self.model)
        if self._after is None or not all(map(_same, now, self._after)):
            self._recalibrate()

    def _recalibrate(self) -> None:
        self.report = recalibrate(self.model, self.data, **self.settings)
        _warn_of_nothing(self.report)
        self._after = _statistics(self.model)


def _warn_of_nothing(report: RecalibrateReport) -> None:
    if not report.recalibrated:
        warnings.warn(f"RecalibrateStatistics: {report}", NothingChanged, stacklevel=1)  # one line, once


def _statistics(model: Any) -> list[NDArray[Any]]:
    variables = [v for layer in norms_of(model).values() for v in (layer.moving_mean, layer.moving_variance)]
    return [ops.convert_to_numpy(variable.value).copy() for variable in variables]


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return np.array_equal(one, other, equal_nan=True)
