"""The callback that says, epoch by epoch, what the moving statistics of a model are worth."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from normwise.errors import NormwiseError
from normwise.keras.callbacks.epochs import AfterTrainingBatches
from normwise.keras.models.drift import drift_of
from normwise.keras.models.feeding import ForwardFn, batches_of
from normwise.recalibration.batches import Batches
from normwise.recalibration.drift import as_logs


class MonitorStatistics(AfterTrainingBatches):
    r"""Puts into the logs how far the moving statistics are from those of data, and how many channels are dead.

    .. math:: \text{drift} = \sqrt{\frac{1}{C} \sum_c \frac{(\mu_c - m_c)^2}{v_c + \epsilon}}, \qquad
        \text{variance\_ratio} = \exp\Big(\frac{1}{C} \sum_c \ln \frac{\sigma^2_c + \epsilon}{v_c + \epsilon}\Big)

    with the moving statistics :math:`m, v` of a layer, and :math:`\mu, \sigma^2` of what comes into it from the data in
    inference mode. Statistics that fit have a drift near 0 and a ratio near 1. A channel is dead if its output is the
    same for all values of the data: of a layer with ``activation=`` what comes out of that; of a layer whose output
    goes into one ``keras.layers.Activation`` or ``ReLU`` and nowhere else, in a functional or sequential model, what
    comes out of that; else the layer's own output, which is so where its scale or the variance is 0.

    The logs get for each layer ``<path>/drift``, ``<path>/variance_ratio`` and ``<path>/dead``, the share of its
    channels; and ``drift``, the largest of all layers, and ``dead_channels``, the share of all channels. ``History``
    has them, and every callback behind it in the list: ``CSVLogger``, ``EarlyStopping(monitor="drift", mode="min")``,
    ``TensorBoard``, which writes them as ``epoch_drift`` and so on.

    They are measured after the epoch's last training batch. Before ``RecalibrateStatistics`` in the list, it sees the
    moving averages; behind, what that made of them. The model and the random state stay as they are. It costs one
    forward over the data, run eagerly, and a copy of the model's and the optimizer's variables for as long.

    Args:
        data: arrays, a data set, or a list of batches, as for ``recalibrate``: some batches of the training data say
            what the averages miss, some of another domain how far that is. No generator: it is gone through in every
            epoch.
        layers: the paths or names of the only layers to be looked at; None for all.
        per_layer: whether the logs have each layer, or ``drift`` and ``dead_channels`` only, which leaves the progress
            bar of deep models readable.
        forward_fn: ``forward_fn(model, batch)``, how a batch enters the model, if the rules do not serve.
        at_most: use so many batches; None for all.
        batch_size: rows per batch of arrays.
        flat_below: outputs of a channel with a range of so much or less are the same.

    Raises:
        NormwiseError: an iterator for ``data``, or a range below 0.

    Example:
        >>> import keras, numpy
        >>> from normwise.keras import MonitorStatistics
        >>> x = numpy.array([[1.0, 5.0], [3.0, 5.0]], "float32")
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization(name="bn")], name="model")
        >>> model.compile(loss="mse")
        >>> history = model.fit(x, x, verbose=0, callbacks=[MonitorStatistics(x)]).history
        >>> history["dead_channels"], round(history["drift"][0], 2)
        ([0.5], 3.78)
    """

    def __init__(
        self,
        data: Any,
        *,
        layers: Collection[str] | None = None,
        per_layer: bool = True,
        forward_fn: ForwardFn | None = None,
        at_most: int | None = None,
        batch_size: int = 32,
        flat_below: float = 1e-6,
    ) -> None:
        super().__init__(data)
        if not flat_below >= 0:
            raise NormwiseError(f"flat_below is a range of outputs, 0 or more, received {flat_below!r}: pass 1e-6.")
        self.layers, self.per_layer, self.flat_below = layers, per_layer, flat_below
        self.forward_fn, self.at_most, self.batch_size = forward_fn, at_most, batch_size
        self._found: dict[str, float] = {}

    def after_training_batches(self, epoch: int) -> None:  # noqa: ARG002
        """Measure; the logs come later."""
        called = type(self).__name__
        items = batches_of(self.data, self.batch_size, at_most=self.at_most, called=called)
        found = drift_of(
            self.model,
            Batches(items, at_most=self.at_most, called=called),
            layers=self.layers,
            forward_fn=self.forward_fn,
            flat_below=self.flat_below,
        )
        self._found = as_logs(found, per_layer=self.per_layer, called=type(self).__name__)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Put the measured values into the logs that the callbacks behind this one get."""
        super().on_epoch_end(epoch, logs)
        if logs is not None:
            logs.update(self._found)
