"""A Lightning callback that acts once per epoch: after its last training batch, and before its validation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as lightning
import torch

from normwise.errors import NormwiseError
from normwise.recalibration.asked import check_every


class AfterTrainingBatches(lightning.Callback):
    """Calls ``after_training_batches(trainer, model)`` in every so many epochs of ``fit``, and in the last.

    Lightning validates inside of an epoch, perhaps more than once; what counts is the validation behind the last batch.
    Validations run in PyTorch's inference mode, which is off while the callback acts.

    Args:
        data: what is gone through.
        every: how many epochs are between two times.

    Raises:
        NormwiseError: an iterator, which can be gone through once, or no whole number of epochs.
    """

    def __init__(self, data: Any, *, every: int = 1) -> None:
        super().__init__()
        if isinstance(data, Iterator):
            raise NormwiseError(
                f"{type(self).__name__} goes through its data more than once, received {type(data).__name__}, "
                "which can be gone through once: pass a DataLoader, or list(...) of it."
            )
        check_every(every)
        self.data, self.every = data, every
        self._due = False

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """An epoch in which the callback has not acted yet."""
        self._due = True

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """The validation of an epoch, of a part of one, or one before the training or outside of it."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.is_last_batch:
            self._act(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """There was no validation, or it was acted on."""
        self._act(trainer, pl_module)

    def after_training_batches(self, trainer: Any, model: Any) -> None:
        """The action of the callback, which each subclass defines."""
        raise NotImplementedError

    def _act(self, trainer: Any, model: Any) -> None:
        due, self._due = self._due, False
        epoch = trainer.current_epoch
        if due and ((epoch + 1) % self.every == 0 or epoch + 1 == trainer.max_epochs):
            with torch.inference_mode(mode=False), torch.no_grad():
                self.after_training_batches(trainer, model)


def log(model: Any, numbers: dict[str, float]) -> None:
    """Log numbers to the logger in use; of several processes, the largest.

    Args:
        model: a ``LightningModule``.
        numbers: by their names.
    """
    values = {name: torch.tensor(number, dtype=torch.float32) for name, number in numbers.items()}
    model.log_dict(values, on_step=False, on_epoch=True, batch_size=1, reduce_fx="max", sync_dist=True)
