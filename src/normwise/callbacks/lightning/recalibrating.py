"""The callback that recalibrates while Lightning trains a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.callbacks.lightning.epochs import AfterTrainingBatches
from normwise.recalibration.report import RecalibrateReport
from normwise.surgery import recalibrate


class RecalibrateStatistics(AfterTrainingBatches):
    r"""Sets the running statistics to those of data, every so many epochs and at the end, before the validation.

    .. math:: \mu = \mathrm{E}[x], \quad \sigma^2 = \mathrm{Var}[x] \quad\text{of each layer's input } x
        \text{ over all data, as it comes in at inference}

    What validates, stops or saves in that epoch sees the new statistics. The weights and the losses of training are
    what they are without it, as training uses batch statistics. "The end" is the last epoch; if training stopped
    before, it is after that, once the statistics are not those of the last recalibration.

    Args:
        data: a ``DataLoader``, or a list of batches, as ``normwise.recalibrate`` takes them.
        every: how many epochs are between two recalibrations.
        **settings: of ``recalibrate``: ``estimator``, ``upstream``, ``forward_fn`` (for a ``LightningModule`` without
            ``forward``), ``at_most``, ``tolerance``, ``layers``, ``distributed``.

    Attributes:
        report: what the last recalibration did, or None.

    Raises:
        NormwiseError: an iterator for ``data``, or no whole number of epochs.

    References:
        Ioffe and Szegedy, Batch normalization, 2015, algorithm 2. Wu and Johnson, Rethinking "batch" in batch
        normalization, 2021, arXiv:2105.07576.

    Example:
        >>> import torch
        >>> from normwise.callbacks.lightning import RecalibrateStatistics
        >>> RecalibrateStatistics([torch.randn(8, 4)], every=5, estimator="cumulative").every
        5
    """

    report: RecalibrateReport | None

    def __init__(self, data: Any, *, every: int = 1, **settings: Any) -> None:
        super().__init__(data, every=every)
        self.settings = settings
        self.report = None
        self._after: list[Tensor] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Forget the recalibration of an earlier ``fit``."""
        self._after = None

    def after_training_batches(self, trainer: Any, model: Any) -> None:  # noqa: ARG002
        """Recalibrate."""
        self.report = recalibrate(model, self.data, **self.settings)
        self._after = _statistics(model)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Recalibrate, if something trained or restored the model since."""
        now = _statistics(pl_module)
        if self._after is None or not all(map(_same, now, self._after)):
            self.after_training_batches(trainer, pl_module)


def _statistics(model: Any) -> list[Tensor]:
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [buffer.detach().clone() for norm in norms for buffer in norm.buffers(recurse=False)]


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.to(one.device).nan_to_num())
