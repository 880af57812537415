"""The batch norms of a model whose statistics are estimated anew: which they are, and what each of them gathers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.errors import NormwiseError, UnknownName
from normwise.estimators import Estimator, RunningStatistics, estimator_class, named
from normwise.estimators.cumulative import Cumulative
from normwise.moments import Moments
from normwise.recalibration.share import Gone
from normwise.recalibration.standard_error import StandardError
from normwise.torch.layers.tracked import TrackedBatchNorm
from normwise.torch.layers.whitening import Whitening
from normwise.torch.models.feeding import unwrapped
from normwise.torch.models.model_checks import out_of_reach
from normwise.torch.models.ranks import joined
from normwise.torch.models.recalibration.site_statistics import moments, statistics_of
from normwise.torch.models.transaction import write
from normwise.torch.steps.buffers import STATISTICS

__all__ = ["Gathered", "Site", "listening", "moments", "survey"]


class Gathered(NamedTuple):
    """What one process gathered in one layer, on the CPU."""

    statistics: RunningStatistics
    samples: Tensor
    not_finite: int
    place: float
    once: bool


class Site:
    """One layer, and the statistics of what comes into it.

    Args:
        name: of the layer in the model.
        layer: a batch norm that keeps running statistics.
        estimator: how its batches become statistics.

    Attributes:
        place: where in the order of calls its first one was.
        once: whether no batch came to it twice.
        samples: how many samples the values of each channel are of; one that is masked in part counts in part.
        settled: whether its statistics are what it normalizes by.
    """

    def __init__(self, name: str, layer: _BatchNorm, estimator: Estimator) -> None:
        self.name, self.layer, self.estimator = name, layer, estimator
        self.kept = statistics_of(layer)  # _reason_to_skip has seen that there are some
        self.buffers = self.kept.buffers
        device = self.buffers[0].device
        # Where the device has no float64, these few numbers per channel are kept on the CPU.
        self.at = torch.device("cpu") if device.type == "mps" else device
        self._before = self.kept.read(self.at)
        self.not_finite = 0
        self.settled = False
        self.place = math.inf
        self.once = True
        self.begin()

    def begin(self, *, watched: bool = False) -> None:
        """Forget what was gathered; keep the standard error from now on, which costs some time, or not."""
        mean, var = self.kept.fresh(self.at)
        zeros = torch.zeros_like(mean)
        self.statistics = RunningStatistics(mean, var, zeros, zeros)
        self.samples = zeros
        self._left_out = torch.zeros((), dtype=torch.int64, device=self.at)
        self._calls: list[Moments] = []
        self._standard_error = StandardError() if watched else None

    def take(self, batch: Moments, values_per_sample: int = 1) -> None:
        """The moments of one call enter the statistics; channels that are not finite do not."""
        finite = batch.mean.isfinite() & batch.var.isfinite()
        clean = Moments(batch.mean.where(finite, 0.0), batch.var.where(finite, 0.0), batch.count * finite)
        self.statistics = self.estimator.update(self.statistics, clean)
        self.samples = self.samples + clean.count / values_per_sample
        self._left_out += ~finite.all()
        self._calls.append(clean)

    def end_of_batch(self) -> None:
        """A layer that one forward calls several times has seen one batch, whatever its calls have in common."""
        self.once &= len(self._calls) < 2
        if self._standard_error is not None and self._calls:
            self._standard_error.add(reduce(Moments.merge, self._calls))
        self._calls = []

    def error(self) -> float:
        """The standard error of all but a few channels, in standard deviations; NaN where it was not kept."""
        if self._standard_error is None or self._standard_error.batches == 0:
            return math.nan
        return self._standard_error.typical(self.statistics.var, self.layer.eps)

    def gathered(self) -> Gathered:
        """What this process knows."""
        parts = (part.cpu() for part in vars(self.statistics).values())
        return Gathered(RunningStatistics(*parts), self.samples.cpu(), int(self._left_out), self.place, self.once)

    def take_over(self, parts: Sequence[Gathered]) -> None:
        """What all processes know together."""
        together = joined(self.estimator, [part.statistics for part in parts])
        self.statistics = RunningStatistics(*(part.to(self.at) for part in vars(together).values()))
        self.samples = reduce(torch.add, [part.samples for part in parts]).to(self.at)
        self.not_finite = sum(part.not_finite for part in parts)
        self.place = min(part.place for part in parts)
        self.once = all(part.once for part in parts)

    @property
    def reached(self) -> bool:
        """Whether there are statistics: of two values in some channel, at least."""
        return bool(self._known().any())

    def moments(self, input: Tensor, mask: Tensor | None) -> Moments:
        """The moments of a batch, as the statistics are kept."""
        return self.kept.moments(input, mask, self.at)

    def estimate(self) -> tuple[Tensor, Tensor]:
        """Mean and unbiased variance; of a channel that nothing is known about, those that it had."""
        known = self._known()
        mean = torch.where(known, self.statistics.mean, self._before[0])
        return mean, torch.where(known, self.statistics.var, self._before[1])

    def settle(self) -> None:
        """Let the layer normalize by what was gathered, from now on."""
        self.settled = True
        self.normalize_by(*self.estimate())

    def normalize_by(self, mean: Tensor, var: Tensor) -> None:
        """Put these in the place of the running statistics."""
        for buffer, value in zip(self.buffers, self.kept.for_buffers(mean, var), strict=True):
            write(buffer, value)

    def moved(self) -> Tensor:
        """How far the statistics are from those at the beginning, per channel; infinite if these were not finite."""
        far = self.kept.moved(self._before, self.estimate(), self.layer.eps)
        return torch.where(far.isfinite(), far, math.inf)

    def values(self) -> list[tuple[Tensor, Tensor]]:
        """The layer's buffers, and what belongs into each.

        Raises:
            NormwiseError: a buffer's dtype cannot hold it.
        """
        found: list[tuple[Tensor, Tensor]] = list(
            zip(self.buffers, self.kept.for_buffers(*self.estimate()), strict=True)
        )
        for buffer, value in found:
            if not value.to(buffer.dtype).isfinite().all():
                raise NormwiseError(
                    f"the statistics of batch norm {self.name!r}, up to {float(value.abs().max()):.3g}, do not fit its "
                    f"buffers of {str(buffer.dtype).removeprefix('torch.')}: the model is as it was; keep these in "
                    "float32."
                )
        # What goes on from here, in training, has to know how much stands behind it.
        counters = (("num_batches_tracked", self.statistics.updates), ("running_count", self.statistics.count))
        for counter, number in counters:
            kept = getattr(self.layer, counter, None)
            if isinstance(kept, Tensor):
                found.append((kept, number if kept.dim() else number.max()))
        return found

    def way_back(self) -> Callable[[], None]:
        """What gives the layer back the mean and variance that it has now, wherever it is by then."""
        before = [(name, getattr(self.layer, name).detach().clone()) for name in STATISTICS]

        def back() -> None:
            for name, value in before:
                write(getattr(self.layer, name), value)

        return back

    def _known(self) -> Tensor:
        known: Tensor = (self.statistics.count > 1) & (self.statistics.updates > 0)
        return known


@contextmanager
def listening(sites: Sequence[Site], gathering: Sequence[Site], *, to_the_end: bool = False) -> Iterator[None]:
    """Every call of the layers that gather is gathered, and layers that are not settled normalize by the batch.

    By the batch: its own moments are put in the place of the running statistics, for one call. That is the output of
    training, without what layers do besides in training mode. A call of one value per channel has no such output and
    is normalized by what was gathered before it.

    Args:
        sites: all there are; their layers are in inference mode.
        gathering: those of them that gather. If it is one, and no batch ever comes to it twice, the forward ends
            there, with ``Gone``.
        to_the_end: that it does not.
    """

    def listen(site: Site) -> torch.utils.hooks.RemovableHandle:
        gathers = site in gathering

        def hook(layer: nn.Module, args: tuple[object, ...], named: dict[str, object]) -> None:
            x = args[0] if args else next(iter(named.values()), None)
            if not isinstance(x, Tensor) or x.dim() < 2 or x.numel() == 0 or x.shape[1] != site.buffers[0].numel():
                return  # nothing to gather, or the layer's own error
            mask = named.get("mask") if isinstance(layer, TrackedBatchNorm) else None
            batch = site.moments(x, mask if isinstance(mask, Tensor) else None)
            if gathers:
                site.take(batch, x[0, 0].numel())
                site.place = min(site.place, next(places))
            if gathers and len(gathering) == 1 and site.once and not to_the_end:
                raise Gone
            if site.settled:
                return
            several = batch.count > 1
            mean, var = site.estimate()
            site.normalize_by(torch.where(several, batch.mean, mean), torch.where(several, batch.var, var))

        return site.layer.register_forward_pre_hook(hook, with_kwargs=True)

    places = count()
    handles = [listen(site) for site in sites if site in gathering or not site.settled]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def survey(
    model: nn.Module, estimator: Estimator | str, layers: Collection[str] | None, *, covariances: bool = False
) -> tuple[list[Site], dict[str, str]]:
    """The layers whose statistics are to be estimated, and those that are not, with the reason.

    Args:
        model: any module.
        estimator: an estimator or its name.
        layers: the names of the only ones that are meant, or None.
        covariances: whether who asks can do with layers that keep a covariance.

    Raises:
        UnknownName: ``layers`` names what is no batch norm of the model.
        NormwiseError: the estimator needs settings that were not given.
    """
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    for name in layers or ():
        if name not in norms:
            raise UnknownName("batch norm", name, norms)
    sites, skipped = [], out_of_reach(model)
    for name, norm in norms.items():
        why = _reason_to_skip(norm, model, None if layers is None else name in layers, covariances)
        if why is None:
            sites.append(Site(name, norm, _estimator_for(norm, estimator)))
        else:
            skipped[name] = why
    return sites, skipped


def _reason_to_skip(norm: _BatchNorm, model: nn.Module, asked: bool | None, covariances: bool) -> str | None:
    if isinstance(norm, Whitening):
        spread = norm.running_covariance
        if spread is not None and not covariances:
            return "it whitens, and keeps a covariance: normwise.recalibrate estimates that from data"
    else:
        spread = norm.running_var
    if norm.running_mean is None or spread is None:
        return "it keeps no running statistics: every batch normalizes itself"
    if asked is not None:
        return None if asked else "it was not asked for"
    if unwrapped(model).training and not norm.training:
        return "it is frozen: in inference mode while the model is in training mode"
    if norm.momentum == 0:
        return "it is frozen: its momentum is 0"
    own = list(norm.parameters(recurse=False))
    if own and not any(each.requires_grad for each in own) and any(each.requires_grad for each in model.parameters()):
        return "it is frozen: its weight and bias do not learn while others do"
    return None


def _estimator_for(norm: _BatchNorm, estimator: Estimator | str) -> Estimator:
    """One that is given by name takes the weight of a new batch from the layer, where it has one."""
    if isinstance(estimator, Estimator):
        return estimator
    if norm.momentum is None and "weight_of_new" in estimator_class(estimator).__annotations__:
        return Cumulative()  # what torch's layer does then
    return named(estimator, weight_of_new=norm.momentum)
