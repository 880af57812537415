"""The callback that examines a model while Lightning trains it."""

from __future__ import annotations

from typing import Any

from normwise.callbacks.alarm import UNKNOWN, check_settings, numbers_in, warn_of
from normwise.callbacks.lightning.epochs import AfterTrainingBatches, log
from normwise.doctor.diagnosis import Diagnosis
from normwise.doctor.examination import examine


class Examine(AfterTrainingBatches):
    """Examines the model every so many epochs and at the end, before the validation, and warns of what it finds.

    The logger gets ``normalization_errors`` and ``normalization_warnings``, how many findings of each kind there were
    the last time, NaN before it; so do ``EarlyStopping`` and ``ModelCheckpoint``. The model and the random state stay
    as they are. Behind ``RecalibrateStatistics`` in the list, it sees what that made of the statistics.

    Args:
        data: a ``DataLoader``, or a list of batches, with targets for ``loss`` and ``metric``.
        every: how many epochs are between two examinations.
        **settings: of ``normwise.doctor.examine``: ``loss``, ``metric``, ``only``, ``allow``, ``source_model``,
            ``forward_fn`` (for a ``LightningModule`` without ``forward``), ``at_most``.

    Attributes:
        diagnosis: the last one, or None.

    Raises:
        NormwiseError: an iterator for ``data``, no whole number of epochs, or a ``train_step``.
        UnknownName: no such check.

    Warns:
        UnhealthyModel: there is an error or a warning; the message is the diagnosis.

    Example:
        >>> import torch
        >>> from normwise.callbacks.lightning import Examine
        >>> callback = Examine([torch.randn(8, 4)], every=5, allow=["stale_running_statistics"])
        >>> callback.every, callback.diagnosis is None
        (5, True)
    """

    diagnosis: Diagnosis | None

    def __init__(self, data: Any, *, every: int = 1, **settings: Any) -> None:
        super().__init__(data, every=every)
        check_settings(settings, every)
        self.settings = settings
        self.diagnosis = None
        self._numbers = dict(UNKNOWN)

    def after_training_batches(self, trainer: Any, model: Any) -> None:
        """Examine; the logs come later."""
        self.diagnosis = examine(model, self.data, **self.settings)
        self._numbers = numbers_in(self.diagnosis)
        if trainer.is_global_zero:
            warn_of(self.diagnosis, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """The numbers, into the logs."""
        super().on_train_epoch_end(trainer, pl_module)
        log(pl_module, self._numbers)
