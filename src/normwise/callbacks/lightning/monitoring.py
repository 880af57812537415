"""The callback that says, epoch by epoch, what the running statistics of a model are worth."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from normwise.callbacks.lightning.epochs import AfterTrainingBatches, log
from normwise.errors import NormwiseError
from normwise.recalibration.batches import Batches
from normwise.recalibration.drift import as_logs
from normwise.torch.models.drift import drift_of


class MonitorStatistics(AfterTrainingBatches):
    r"""Logs how far the running statistics are from those of data, and how many channels are dead.

    .. math:: \text{drift} = \sqrt{\frac{1}{C} \sum_c \frac{(\mu_c - m_c)^2}{v_c + \epsilon}}, \qquad
        \text{variance\_ratio} = \exp\Big(\frac{1}{C} \sum_c \ln \frac{\sigma^2_c + \epsilon}{v_c + \epsilon}\Big)

    with the running statistics :math:`m, v` of a layer, and :math:`\mu, \sigma^2` of what comes into it from the data
    in inference mode. Statistics that fit have a drift near 0 and a ratio near 1. A channel is dead if the layer's
    output is the same for all values of the data.

    The logger gets ``drift``, the largest of all layers, and ``dead_channels``, the share of all channels; and for each
    layer ``<name>/drift``, ``<name>/variance_ratio`` and ``<name>/dead``, the share of its channels. They are measured
    after the epoch's last training batch; the model and the random state stay as they are. It costs one forward over
    the data. Layers that whiten are left out.

    Args:
        data: a ``DataLoader``, or a list of batches: some of the training data say what the averages miss, some of
            another domain how far that is.
        every: how many epochs are between two measurements.
        layers: the names of the only layers to be looked at; None for all.
        per_layer: whether the logs have each layer, or ``drift`` and ``dead_channels`` only.
        forward_fn: ``forward_fn(model, batch)``, how a batch enters the model, if the rules do not serve.
        at_most: use so many batches; None for all.
        flat_below: outputs of a channel with a range of so much or less are the same.

    Raises:
        NormwiseError: an iterator for ``data``, no whole number of epochs, or a range below 0.

    Example:
        >>> import torch
        >>> from normwise.callbacks.lightning import MonitorStatistics
        >>> MonitorStatistics([torch.randn(8, 4)], per_layer=False).every
        1
    """

    def __init__(
        self,
        data: Any,
        *,
        every: int = 1,
        layers: Collection[str] | None = None,
        per_layer: bool = True,
        forward_fn: Callable[[Any, Any], Any] | None = None,
        at_most: int | None = None,
        flat_below: float = 1e-6,
    ) -> None:
        super().__init__(data, every=every)
        if not flat_below >= 0:
            raise NormwiseError(f"flat_below is a range of outputs, 0 or more, received {flat_below!r}: pass 1e-6.")
        self.layers, self.per_layer, self.flat_below = layers, per_layer, flat_below
        self.forward_fn, self.at_most = forward_fn, at_most
        self._found: dict[str, float] = {}

    def after_training_batches(self, trainer: Any, model: Any) -> None:  # noqa: ARG002
        """Measure; the logs come later."""
        found = drift_of(
            model,
            Batches(self.data, at_most=self.at_most, called=type(self).__name__),
            layers=self.layers,
            forward_fn=self.forward_fn,
            flat_below=self.flat_below,
        )
        self._found = as_logs(found, per_layer=self.per_layer, called=type(self).__name__)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Put the measured values into the logs."""
        super().on_train_epoch_end(trainer, pl_module)
        log(pl_module, self._found)
