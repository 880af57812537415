"""The running statistics that several processes gathered, each from its own batches, made one in all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from normwise.errors import NormwiseError
from normwise.estimators.cumulative import Cumulative
from normwise.moments import Moments
from normwise.recalibration.report import Movement
from normwise.recalibration.standard_error import distance
from normwise.torch.layers.tracked import TrackedBatchNorm
from normwise.torch.models.model_checks import check_model, has_forward, out_of_reach
from normwise.torch.models.pooling_report import PoolReport
from normwise.torch.models.ranks import Ranks
from normwise.torch.models.transaction import transaction, write


def pool_statistics(model: nn.Module, process_group: Any = None) -> PoolReport:
    r"""Give every process the running statistics of all of them: after training in parallel, before the model is saved.

    .. math:: \mu = \sum_k \tfrac{n_k}{n} \mu_k, \quad
        \sigma^2 = \sum_k \tfrac{n_k}{n} \big(\sigma_k^2 + (\mu_k - \mu)^2\big)

    ``DistributedDataParallel`` averages gradients, not statistics: what is saved are those of rank 0, as if the other
    processes had seen nothing. Where they see other data, a model by these is another model. Train with
    ``forward_sync_buffers=False`` (``broadcast_buffers=False`` in older PyTorch), or rank 0's overwrite the others in
    every forward, and call this in every process.

    :math:`n_k` is the number of values where the estimator keeps it (``"pooled"``), which makes the result exact; the
    number of batches where all batches count the same (``"cumulative"``, ``momentum=None``); and the same for every
    process that has trained at all elsewhere, because a moving average is worth its window, however long it ran.

    Counters stay each process's own, so that pooling again later, after every epoch for example, counts nothing twice;
    variances are then known to one part in :math:`n_k` only.
    Everything but the running mean and variance is as before; on any error, these too. It is a collective call.

    Args:
        model: with normwise's or torch's layers.
        process_group: of ``torch.distributed``; None for all processes.

    Returns:
        which layers were pooled and how far they moved, which were skipped and why. With one process, none moves.

    Raises:
        UnsuitableModel: not a ``torch.nn.Module``, or one that torch.jit or torch.export made.
        NormwiseError: the processes have different layers; statistics that are not finite; a model in
            ``DistributedDataParallel`` with ``forward_sync_buffers=True``; another process failed.

    References:
        Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from normwise.torch import pool_statistics
        >>> model = nn.Sequential(nn.BatchNorm1d(3))
        >>> _ = model(torch.randn(8, 3))
        >>> print(pool_statistics(model))
        1 of 1 layers pooled over 1 processes
          pooled        0: moved by 0 standard deviations, by 0 in one channel
    """
    check_model(model, called="pool_statistics")
    ranks = Ranks(True if process_group is None else process_group, called="pool_statistics")
    skipped = dict[str, str]()

    def own() -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        _check_broadcast(model)
        return {name: _statistics(name, layer) for name, layer in _layers(model, skipped).items()}

    parts = ranks.exchange(own)
    _check_alike(parts)
    layers = _layers(model, {})
    pooled = dict[str, Movement]()
    with transaction(model):
        for name, layer in layers.items():
            joined = _joined([part[name] for part in parts], counted=getattr(layer, "running_count", None) is not None)
            if joined is None:
                skipped[name] = "no process has trained it yet"
                continue
            before = layer.running_mean.double().cpu(), layer.running_var.double().cpu()
            write(layer.running_mean, joined[0])
            write(layer.running_var, joined[1])
            pooled[name] = _movement(before, joined, layer.eps)
    return PoolReport(pooled, skipped, len(parts))


def _layers(model: nn.Module, skipped: dict[str, str]) -> dict[str, Any]:
    """Those that can be pooled; why the others cannot goes into ``skipped``."""
    found = {}
    skipped |= out_of_reach(model)
    for name, layer in model.named_modules():
        code = isinstance(layer, torch.jit.ScriptModule) or not has_forward(layer)
        mean = None if code else layer._buffers.get("running_mean")
        if mean is None:
            continue
        if is_lazy(mean):
            skipped[name] = "it has not seen an input yet"
        elif layer._buffers.get("running_covariance") is not None:
            skipped[name] = "it whitens, and keeps a covariance: recalibrate gathers that, or estimator='pooled' does"
        elif not isinstance(layer, _NormBase) or layer.running_var is None:
            skipped[name] = f"it is a {type(layer).__name__}, neither a torch nor a normwise layer"
        else:
            found[name] = layer
    return found


def _statistics(name: str, layer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, unbiased variance and weight, shape (C,), in float64 on the host."""
    mean, var = layer.running_mean.double().cpu(), layer.running_var.double().cpu()
    if not bool((mean.isfinite() & var.isfinite()).all()):
        raise NormwiseError(f"the running statistics of {name!r} are not finite: recalibrate the model instead.")
    return mean, var, _weight(layer).double().cpu().expand_as(mean)


def _weight(layer: Any) -> Tensor:
    count = getattr(layer, "running_count", None)
    if count is not None:
        weight: Tensor = count
        return weight
    batches = layer.num_batches_tracked
    if batches is None or isinstance(layer, _InstanceNorm):  # torch's instance norms never count
        return torch.ones(())
    cumulative = (
        isinstance(layer._estimator(), Cumulative) if isinstance(layer, TrackedBatchNorm) else layer.momentum is None
    )
    return batches if cumulative else batches > 0  # type: ignore[no-any-return]  # a tensor, as the buffer is


def _joined(parts: list[tuple[Tensor, Tensor, Tensor]], *, counted: bool) -> tuple[Tensor, Tensor] | None:
    """The mean and the unbiased variance of all; None where nobody has anything."""
    means, variances, weights = (torch.stack(column) for column in zip(*parts, strict=True))
    if counted:
        whole = Moments.from_unbiased_var(means, variances, weights).merged()
        var = whole.unbiased_var()
    else:  # each variance is an estimate of a population's already, and its weight no number of values
        whole = Moments(means, variances, weights).merged()
        var = whole.var
    known = (whole.count > 0) & var.isfinite()  # else every mask has left the channel out so far
    if not bool(known.any()):
        return None
    return torch.where(known, whole.mean, means[0]), torch.where(known, var, variances[0])


def _movement(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], eps: float) -> Movement:
    far = distance(*before, *after, eps)
    return Movement(float(far.square().mean().sqrt()), float(far.max()))


def _check_broadcast(model: nn.Module) -> None:
    for module in model.modules():
        wrapped = isinstance(module, DistributedDataParallel) and module.broadcast_buffers
        if wrapped and distributed.get_world_size() > 1:
            raise NormwiseError(
                "this DistributedDataParallel has forward_sync_buffers=True, with which rank 0's statistics overwrite "
                "all others in every forward, so there is nothing left to pool: wrap the model with "
                "forward_sync_buffers=False (broadcast_buffers=False in older PyTorch), or train with "
                "convert_to_synchronized."
            )


def _check_alike(parts: list[dict[str, tuple[Tensor, Tensor, Tensor]]]) -> None:
    first = {name: tuple(statistics[0].shape) for name, statistics in parts[0].items()}
    for rank, part in enumerate(parts):
        other = {name: tuple(statistics[0].shape) for name, statistics in part.items()}
        if other != first:
            names = sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name))
            raise NormwiseError(
                f"rank {rank} has other layers with running statistics than rank 0, for example {names[0]!r}: "
                "pool the statistics of one and the same model."
            )
