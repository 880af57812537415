"""A layer whose current statistics have the weight of a number of samples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.estimators import Estimator
from normwise.moments import Moments
from normwise.recalibration.prior import held
from normwise.torch.models.recalibration.sites import Site


class SiteWithPrior(Site):
    """A layer whose current statistics have the weight of a number of samples.

    Args:
        name: of the layer in the model.
        layer: a batch norm that keeps running statistics.
        estimator: the pooled one.
        prior: how many samples the statistics that it has are worth.
    """

    def __init__(self, name: str, layer: _BatchNorm, estimator: Estimator, prior: float) -> None:
        self.prior = prior
        super().__init__(name, layer, estimator)

    def estimate(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of source and target together."""
        kept = self.statistics
        seen = Moments.from_unbiased_var(kept.mean, kept.var, kept.count)
        return held(self._before, self.prior, seen, self.samples)

    def values(self) -> list[tuple[Tensor, Tensor]]:
        """Mean and variance alone: how many batches a layer was trained with is as it was."""
        return super().values()[:2]

    def _known(self) -> Tensor:
        finite = self._before[0].isfinite() & self._before[1].isfinite()
        enough = torch.where(finite, 0 if self.prior > 0 else 1, 1)
        known: Tensor = (self.statistics.count > enough) & (self.statistics.updates > 0)
        return known
