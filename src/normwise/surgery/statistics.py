"""Doors to the running statistics that a model has: not updated, pooled over processes, or those of one domain."""

# mypy: disable-error-code="empty-body"
# A door has a signature and a docstring; its decorator is the body.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normwise.surgery.door import door, lazy_import_module

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import nn

    from normwise.torch.models.pooling_report import PoolReport

__all__ = ["paused_statistics", "pool_statistics", "statistics_from"]


@door(torch=lazy_import_module("normwise.torch.models.paused", "paused_statistics"))
def paused_statistics(model: nn.Module) -> AbstractContextManager[None]:
    """Pause the running statistics of a PyTorch model for a block: forward passes do not change them, in training too.

    A layer in training mode normalizes by the batch as always, with the same output and gradient, and does not update
    its statistics: for shape inference, profiling, a second forward for a loss, an evaluation of the training loss.
    Blocks may be nested. The batch norms of normwise and of PyTorch are paused; layers of other packages that write
    ``running_mean`` get back what they had.

    Args:
        model: a ``torch.nn.Module`` in any mode; it may be wrapped or compiled.

    Returns:
        a context manager.

    Raises:
        UnsuitableModel: not a PyTorch model.

    Example:
        >>> import torch
        >>> from normwise import paused_statistics
        >>> layer = torch.nn.BatchNorm1d(2)
        >>> with paused_statistics(layer):
        ...     _ = layer(torch.randn(8, 2))
        >>> layer.num_batches_tracked
        tensor(0)
    """


@door(torch=lazy_import_module("normwise.torch.models.pooling", "pool_statistics"))
def pool_statistics(model: nn.Module, process_group: Any = None) -> PoolReport:
    r"""Join the running statistics of a PyTorch model over all processes: after training, before saving it.

    .. math:: \mu = \sum_k \tfrac{n_k}{n} \mu_k, \quad
        \sigma^2 = \sum_k \tfrac{n_k}{n} \big(\sigma_k^2 + (\mu_k - \mu)^2\big)

    with :math:`n_k` for the number of values or batches that process k has seen, as the layer's estimator counts them.
    ``DistributedDataParallel`` averages gradients, not statistics: without this, those of rank 0 are saved. Train with
    ``forward_sync_buffers=False`` (``broadcast_buffers=False`` in older PyTorch). Every process must call
    it (a collective call). Everything but the running mean and variance is as before; on any error, these too.

    Args:
        model: a ``torch.nn.Module`` with normwise's or PyTorch's layers, changed in place.
        process_group: of ``torch.distributed``; None for all processes.

    Returns:
        which layers were pooled and how far they moved, in standard deviations; which were skipped and why.

    Raises:
        UnsuitableModel: not a PyTorch model, or one that torch.jit or torch.export compiled.
        NormwiseError: the processes have different layers; statistics that are not finite; a model in
            ``DistributedDataParallel`` whose buffers are synchronized in every forward; another process failed.

    Example:
        >>> import torch
        >>> from normwise import pool_statistics
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(3))
        >>> _ = model(torch.randn(8, 3))
        >>> print(pool_statistics(model))
        1 of 1 layers pooled over 1 processes
          pooled        0: moved by 0 standard deviations, by 0 in one channel
    """


@door(torch=lazy_import_module("normwise.torch.models.domain_statistics", "statistics_from"))
def statistics_from(model: nn.Module, domain: str) -> AbstractContextManager[None]:
    """Run every ``PerDomain`` layer of a PyTorch model in inference for a block, with the statistics of one domain.

    In the block, the mode of the model and the domain that the program chooses do not count; after it, they count
    again. This holds for the model in all threads.

    Args:
        model: a ``torch.nn.Module`` with at least one ``PerDomain`` layer.
        domain: the name of a domain that all of them have.

    Returns:
        a context manager.

    Raises:
        UnsuitableModel: not a PyTorch model, or one that torch.jit or torch.export compiled.
        UnknownName: a layer does not have the domain; nothing is changed then.
        NormwiseError: the model has no ``PerDomain`` layer.

    Example:
        >>> import torch
        >>> from normwise import statistics_from
        >>> from normwise.torch import PerDomain
        >>> model = torch.nn.Sequential(PerDomain(torch.nn.BatchNorm1d(1, eps=0), ["day", "night"]))
        >>> _ = model[0].of("night").running_mean.fill_(3.0)
        >>> with statistics_from(model, "night"):
        ...     print(model(torch.tensor([[4.0]])).item())
        1.0
    """
