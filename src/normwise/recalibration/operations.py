"""``recalibrate`` and ``adapt`` on any model whose framework describes it: gather, report, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from normwise.recalibration.adaptation_report import AdaptReport
from normwise.recalibration.batches import Batches
from normwise.recalibration.layer import Layer
from normwise.recalibration.model import Model
from normwise.recalibration.passes import go_through
from normwise.recalibration.report import Movement, RecalibrateReport
from normwise.recalibration.site import Site, SiteWithPrior
from normwise.recalibration.stepping import Stepping


def recalibrate_sites(
    model: Model,
    source: Batches,
    sites: Sequence[Site],
    skipped: Mapping[str, str],
    *,
    upstream: str,
    limit: float,
    tolerance: float | None,
    stepping: Stepping | None = None,
) -> RecalibrateReport:
    """Set the statistics of layers to those of data, or change nothing on any error.

    Args:
        model: as its framework describes it.
        source: the batches.
        sites: the layers.
        skipped: the names of all others -> why they stay as they are.
        upstream: how the layers below one that gathers normalize.
        limit: the standard error that is small enough; 0 for all data.
        tolerance: what the caller said about it.
        stepping: what the framework says so that all batches may go in step; None for layer by layer.

    Raises:
        NormwiseError: there was no batch, or a layer's dtype cannot hold its statistics.
    """
    passes = go_through(model, source, sites, upstream=upstream, limit=limit, stepping=stepping)
    first = passes.first
    report = RecalibrateReport(
        _movements([site for site in sites if site.reached]),
        {**skipped, **_without_statistics(sites)},
        _not_reached(sites),
        batches=sum(each.batches for each in first),
        samples=sum(each.samples for each in first),
        stopped_early=any(each.stopped_early for each in first),
        standard_error=max(each.standard_error for each in first),
        passes=passes.number,
        tolerance=tolerance,
        in_step=passes.in_step,
        why_not_in_step=passes.why_not,
    )
    commit(passes.sites)
    return report


def adapt_layers(
    model: Model,
    source: Batches,
    layers: Sequence[Layer],
    skipped: Mapping[str, str],
    *,
    upstream: str,
    prior: float,
    stepping: Stepping | None = None,
) -> AdaptReport:
    """Move the statistics of layers towards those of data, or change nothing on any error.

    Args:
        model: as its framework describes it.
        source: the batches.
        layers: those that are not skipped are meant.
        skipped: the layer's name -> why it stays as it is.
        upstream: how the layers below one that gathers normalize.
        prior: how many samples the statistics that a layer has are worth.
        stepping: what the framework says so that all batches may go in step; None for layer by layer.

    Raises:
        NormwiseError: there was no batch, or a layer's dtype cannot hold its statistics.
    """
    sites = [SiteWithPrior(layer, prior) for layer in layers if layer.name not in skipped]
    passes = go_through(model, source, sites, upstream=upstream, limit=0.0, stepping=stepping)
    report = AdaptReport(
        _movements(passes.sites),
        {**skipped, **_without_statistics(sites)},
        _not_reached(sites),
        batches=sum(each.batches for each in passes.first),
        samples=sum(each.samples for each in passes.first),
        prior=prior,
    )
    for site in passes.sites:
        report.remember(site.layer.restorer())
    commit(passes.sites)
    return report


def commit(sites: Sequence[Site]) -> None:
    """Everything is worked out and fits before the first byte is written."""
    for write in [write for site in sites for write in site.writes()]:
        write()


def _movements(sites: Sequence[Site]) -> dict[str, Movement]:
    return {site.name: Movement.of(site.moved(), site.not_finite) for site in sites}


def _without_statistics(sites: Sequence[Site]) -> dict[str, str]:
    """Why layers have no new statistics though batches came to them, by their names."""
    left = [site for site in sites if not site.reached]
    few = {site.name: "no batch had two values per channel, which a variance needs" for site in left if site.called}
    return few | {site.name: "all its inputs were NaN or inf" for site in left if site.not_finite}


def _not_reached(sites: Sequence[Site]) -> tuple[str, ...]:
    return tuple(site.name for site in sites if not (site.reached or site.called or site.not_finite))
