"""Inference statistics from data: what the running statistics should have been."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Literal

from torch import nn
from torch.utils.data import DataLoader, RandomSampler, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler

from normwise.estimators import Estimator
from normwise.recalibration.batches import Batches
from normwise.recalibration.memory import check_memory
from normwise.recalibration.one_pass import limit_of
from normwise.recalibration.operations import recalibrate_sites
from normwise.recalibration.report import RecalibrateReport
from normwise.recalibration.site import Site
from normwise.torch.models.feeding import ForwardFn
from normwise.torch.models.model_checks import check_model, check_runnable
from normwise.torch.models.ranks import Ranks
from normwise.torch.models.recalibration.sites import estimator_for, survey
from normwise.torch.models.recalibration.torch_model import TorchModel, check_values
from normwise.torch.models.recalibration.torch_stepping import stepping_of


def recalibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    estimator: Estimator | str = "pooled",
    upstream: Literal["inference", "batch"] = "inference",
    forward_fn: ForwardFn | None = None,
    at_most: int | None = None,
    tolerance: float | None = None,
    layers: Collection[str] | None = None,
    distributed: Any = True,
    memory: float | None = None,
) -> RecalibrateReport:
    r"""Set the running statistics of a model's batch norms to those of data, for the weights that it has now.

    .. math:: \mu = \mathrm{E}[x], \quad \sigma^2 = \mathrm{Var}[x] \quad\text{of each layer's input } x
        \text{ over all data, as it comes in at inference}

    Everything else about the model, and the random state, is afterwards as before, byte for byte; on any error,
    everything. The model runs in inference mode, so dropout is off, and without gradients. Wrappers
    (``AveragedModel``, ``DistributedDataParallel``, ``torch.compile``) are accepted and passed by.

    Frozen layers stay frozen. A layer counts as frozen if it is in inference mode while the model itself is in training
    mode; if its momentum is 0; or if it has a weight and bias that do not learn while other parameters of the model
    do. Naming it in ``layers`` overrules that.

    Layers that whiten get the mean and covariance of their groups of channels, by the same estimators. A layer that is
    called more than once gathers all its calls. Values that are not finite enter no statistics. A
    mask that a layer of normwise is called with holds here too.

    Args:
        model: any module with ``torch.nn.BatchNorm*``, ``SyncBatchNorm`` or ``normwise.torch`` layers; changed in
            place.
        batches: a ``DataLoader`` or any iterable of batches: tensors, tuples or lists whose first items are the
            model's inputs, named tuples, mappings with the names of its parameters; they are moved to the model's
            device. ``normwise.torch.models.feeding.arguments`` has the rules. A generator is kept in memory, if it has
            to be gone through again.
        estimator: ``"pooled"``, the exact moments of all values, merged in float64; ``"cumulative"``, algorithm 2 of
            the original paper, the mean of the batches' means and of their variances times m / (m - 1), in which a
            last batch of 2 weighs like one of 64; or any other of ``normwise.estimators``. Averages with a weight of
            their own take the layer's momentum if given by name.
        upstream: what earlier layers normalize with while a layer collects its statistics. ``"inference"``: their new
            running statistics, so that each layer sees the inputs that it will see in production. Layers are settled
            in the order of their calls, by all batches in step or with a pass over the data for each, see ``memory``.
            ``"batch"``: the statistics of each batch, in one pass over the data that holds one of them.

            Measured (``normwise lab run does_recalibration_need_inference_upstream``; 5 seeds, 95 % intervals, points
            of test accuracy, ``"batch"`` minus ``"inference"``): 0.0 [0.0, 0.0] to 0.04 [0.0, 0.2] with shuffled
            batches of 128; -19.6 [-38.0, -8.4] in a network of 20 layers with batches of 4; -1.4 [-2.8, 0.4] there
            with data sorted by class; 1.1 [-0.1, 2.0] at best, with batches of 4 after training with batches of 8.
            So ``"inference"`` is what holds for any data, and ``"batch"`` what is cheaper for large shuffled batches.
        forward_fn: ``forward_fn(model, batch)``, how a batch enters the model, if the rules do not serve; it gets the
            model without its wrappers, and the batch on its device.
        at_most: use so many batches; None for all.
        tolerance: stop when the standard error of 95 % of the channels of every layer is below so many standard
            deviations, which is looked at every 8 batches. None for 0.01 where the loader is known to shuffle, and for
            0 elsewhere: the first batches of sorted data look more alike than the data are. 0 for all data.
        layers: the names of the only layers to be recalibrated; None for all that are not frozen.
        distributed: True: if ``torch.distributed`` is in use, every process brings its own share of the data, all of
            them call this, and each gets the statistics of all data. False: this process alone. Or a process group.
        memory: how much the batches may hold that go through the model side by side, in step at its layers, which
            takes one forward for each, and two more of the first: bytes; up to 1, a share of what is free on the
            model's device; None for a quarter of that. Where they need more and the device has memory of its own
            (CUDA, XPU), what waiting batches hold lies in the host's meanwhile, in up to a quarter of what is free
            there; a forward that keeps the address of a tensor over a batch norm, by DLPack for one, needs 0 then.
            Beyond that, and in the cases that the report names, the layers are done one by one, which takes half as
            many forwards as there are layers and holds one batch; the statistics are the same. 0 to do so at once.

    Returns:
        which layers were recalibrated and how far they moved, which were skipped and why, which no batch reached.

    Raises:
        UnsuitableModel: not a ``torch.nn.Module``, or one that torch.jit or torch.export made.
        TypeError: not an iterable of batches.
        NormwiseError: no batches, layers that have not seen their first input, a name or setting that does not exist,
            a memory that is no amount, statistics that do not fit the layer's dtype, or another process that failed.

    References:
        Ioffe and Szegedy, Batch normalization, 2015, algorithm 2. Wu and Johnson, Rethinking "batch" in batch
        normalization, 2021, arXiv:2105.07576, section 3 (10^3 to 10^4 samples suffice).

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 1))
        >>> data = [(3 + torch.randn(64, 2), torch.zeros(64)), (3 + torch.randn(2, 2), torch.zeros(2))]
        >>> print(recalibrate(model, data))
        1 of 1 batch norms recalibrated with 66 samples in 2 batches
          recalibrated  0: moved by 3.07 standard deviations, by 3.14 in one channel
        >>> bool(torch.allclose(model[0].running_mean, torch.cat([x for x, _ in data]).mean(0)))
        True
    """
    check_model(model, called="recalibrate")
    check_runnable(model, forward_fn, called="recalibrate")
    check_values(model, upstream, called="recalibrate")
    check_memory(memory, called="recalibrate")
    limit = limit_of(tolerance, estimator, shuffled=_shuffles(batches))
    found, skipped = survey(model, layers, covariances=True)
    sites = [Site(layer, estimator_for(layer.norm, estimator)) for layer in found]
    ranks = Ranks(distributed, called="recalibrate")
    for site in sites:
        ranks.check(site.estimator)
    network = TorchModel(model, forward_fn, ranks)
    return recalibrate_sites(
        network,
        Batches(batches, at_most=at_most, called="recalibrate"),
        sites,
        skipped,
        upstream=upstream,
        limit=limit,
        tolerance=tolerance,
        stepping=stepping_of(model, network, memory),
    )


def _shuffles(batches: object) -> bool:
    """True if it is known that every batch is drawn from all data."""
    if not isinstance(batches, DataLoader):
        return False
    sampler = getattr(batches.batch_sampler, "sampler", batches.sampler)
    return isinstance(sampler, RandomSampler | WeightedRandomSampler) or (
        isinstance(sampler, DistributedSampler) and sampler.shuffle
    )
