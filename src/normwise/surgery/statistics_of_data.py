"""Doors to statistics from data: for the present weights, for shifted data, and for data that go on drifting."""

# mypy: disable-error-code="empty-body"
# A door has a signature and a docstring; its decorator is the body.

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Literal

from normwise.recalibration.prior import PRIOR
from normwise.surgery.door import door, lazy_import_module

if TYPE_CHECKING:
    from torch import nn

    from normwise.estimators import Estimator
    from normwise.recalibration.adaptation_report import AdaptReport
    from normwise.recalibration.report import RecalibrateReport
    from normwise.torch.models.recalibration.adapting import Adaptation

__all__ = ["adapt", "adapting", "recalibrate"]


@door(
    torch=lazy_import_module("normwise.torch.models.recalibration.recalibrate", "recalibrate"),
    keras=lazy_import_module("normwise.keras.models.recalibrate", "recalibrate"),
    moved="recalibrated",
)
def recalibrate(
    model: Any,
    batches: Any,
    *,
    estimator: Estimator | str = "pooled",
    upstream: Literal["inference", "batch"] = "inference",
    forward_fn: Callable[[Any, Any], Any] | None = None,
    at_most: int | None = None,
    tolerance: float | None = None,
    layers: Collection[str] | None = None,
    distributed: Any = True,
    memory: float | None = None,
    batch_size: int = 32,
) -> RecalibrateReport:
    r"""Set the running statistics of a PyTorch or Keras model's batch norms to those of data, for its present weights.

    .. math:: \mu = \mathrm{E}[x], \quad \sigma^2 = \mathrm{Var}[x] \quad\text{of each layer's input } x
        \text{ over all data, as it comes in at inference}

    For a model whose weights were averaged, changed, pruned or quantized, and for one that was trained with small
    batches. The model runs in inference mode, without gradients. Only the statistics change: everything else about it,
    and the random state, is afterwards as before, byte for byte. After an error nothing has changed. Frozen layers keep
    their statistics.

    Args:
        model: a ``torch.nn.Module`` or a built ``keras.Model``, changed in place.
        batches: a ``DataLoader`` or any iterable of batches of the model's inputs, with or without labels; for Keras
            also arrays, a ``tf.data.Dataset`` or a ``keras.utils.PyDataset``. The batches of a generator
            are kept in memory, if the data are needed more than once.
        estimator: ``"pooled"``, the exact moments of all values; ``"cumulative"``, the mean of the batches' means and
            unbiased variances, as the original paper has it; or any other of ``normwise.estimators``.
        upstream: what earlier layers normalize with while a layer collects its statistics. ``"inference"``: their new
            running statistics, which is right for any data; ``memory`` says how many passes that takes. ``"batch"``:
            the statistics of each batch, in one pass; cheaper, and close for large shuffled batches.
        forward_fn: ``forward_fn(model, batch)``, how a batch enters the model, if the first items of a batch are not
            the model's inputs.
        at_most: largest number of batches to use; None for all.
        tolerance: stop when the standard error of 95 % of the channels of every layer is below this many
            standard deviations; for shuffled data only. 0: use all data. None: 0.01 where a PyTorch loader is known to
            shuffle, 0 elsewhere.
        layers: the names of the only layers to be recalibrated; None for all that are not frozen.
        distributed: for PyTorch models. True: if ``torch.distributed`` is in use, every process brings its own share
            of the data, all of them call this, and each gets the statistics of all data. False: this process alone. Or
            a process group.
        memory: how much memory the batches may hold while they go through the model side by side, with one forward for
            each. A number above 1 is in bytes; up to 1, it is a share of what is free on the model's device; None for
            a quarter of that. If the batches need more and the model is a PyTorch model on a GPU, what waiting batches
            hold lies in the host's memory meanwhile, in up to a quarter of what is free there. Beyond that, and in the
            cases that the report names, the layers are done one by one, which takes about half as many forwards of
            each batch as there are layers. The statistics are the same. 0: one by one from the start.
        batch_size: for Keras models. Rows per batch of arrays.

    Returns:
        which batch norms were recalibrated and how far they moved, in standard deviations; which were skipped and why;
        which no batch reached.

    Raises:
        UnsuitableModel: not a PyTorch or Keras model, or one that torch.jit or torch.export compiled.
        TypeError: not an iterable of batches; a keyword that does not exist, or not for this framework.
        NormwiseError: no batches, layers that are not built yet, a name or setting that does not exist, statistics that
            do not fit the layer's dtype, or another process that failed.

    Warns:
        NothingChanged: nothing was recalibrated, and why.

    References:
        Ioffe and Szegedy, Batch normalization, 2015, algorithm 2. Wu and Johnson, Rethinking "batch" in batch
        normalization, 2021, arXiv:2105.07576.

    Example:
        >>> import torch
        >>> from normwise import recalibrate
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(1), torch.nn.Linear(1, 1))
        >>> recalibrate(model, [torch.tensor([[1.0], [3.0]])]).samples
        2
        >>> model[0].running_mean
        tensor([2.])
    """


@door(
    torch=lazy_import_module("normwise.torch.models.recalibration.adapt", "adapt"),
    keras=lazy_import_module("normwise.keras.models.adapt", "adapt"),
    moved="adapted",
)
def adapt(
    model: Any,
    batches: Any,
    *,
    prior: float = PRIOR,
    upstream: Literal["inference", "batch"] = "inference",
    forward_fn: Callable[[Any, Any], Any] | None = None,
    at_most: int | None = None,
    layers: Collection[str] | None = None,
    domain: str | None = None,
    distributed: Any = True,
    memory: float | None = None,
    batch_size: int = 32,
) -> AdaptReport:
    r"""Move the running statistics of a PyTorch or Keras model's batch norms towards those of shifted data, and back.

    .. math:: \mu = \frac{N_0 \mu_s + n \mu_t}{N_0 + n}, \quad
        \sigma^2 = \frac{N_0 \sigma_s^2 + n \sigma_t^2}{N_0 + n} + \frac{N_0 n}{(N_0 + n)^2} (\mu_t - \mu_s)^2

    with s for the source, the statistics that the model has, and t for the target, the moments of the n samples given,
    as each layer sees them in production, behind layers that are adapted already. No labels are needed. Only the
    statistics change: everything else about the model, and the random state, is as before, byte for byte. After an
    error nothing has changed.

    Args:
        model: a ``torch.nn.Module`` or a built ``keras.Model``, changed in place.
        batches: as for ``recalibrate``; labels are not used.
        prior: :math:`N_0`, the weight of the current statistics, in samples (images, not pixels). 0 for the statistics
            of the data alone, ``math.inf`` to change nothing.
        upstream: what earlier layers normalize with while a layer collects, as for ``recalibrate``.
        forward_fn: ``forward_fn(model, batch)``, how a batch enters the model, as for ``recalibrate``.
        at_most: largest number of batches to use; None for all.
        layers: the names of the only layers to be adapted; None for all that are not frozen.
        domain: for a model with statistics per domain: the domain to adapt; None for the one that is chosen.
        distributed: for PyTorch models, as for ``recalibrate``.
        memory: as for ``recalibrate``.
        batch_size: for Keras models. Rows per batch of arrays.

    Returns:
        which batch norms were adapted and how far they moved, in standard deviations; which were skipped and why; which
        no batch reached. Its ``undo()`` restores the earlier statistics; ``with adapt(...):`` does so at the end.

    Raises:
        UnsuitableModel: not a PyTorch or Keras model, or one that torch.jit or torch.export compiled.
        TypeError: not an iterable of batches; a keyword that does not exist, or not for this framework.
        UnknownName: no such domain or layer.
        NormwiseError: no batches, layers that are not built yet, a prior that is no number of samples, a domain for a
            model without any, statistics that do not fit the layer's dtype, or another process that failed.

    Warns:
        NothingChanged: nothing was adapted, and why.

    References:
        Schneider, Rusak, Eck, Bringmann, Brendel and Bethge, Improving robustness against common corruptions by
        covariate shift adaptation, 2020.

    Example:
        >>> import torch
        >>> from normwise import adapt
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(1), torch.nn.Linear(1, 1))
        >>> with adapt(model, [torch.tensor([[1.0], [3.0]])], prior=2):
        ...     print(model[0].running_mean)
        tensor([1.])
        >>> model[0].running_mean
        tensor([0.])
    """


@door(torch=lazy_import_module("normwise.torch.models.recalibration.adapting", "adapting"))
def adapting(
    model: nn.Module, *, prior: float = PRIOR, memory: float = math.inf, layers: Collection[str] | None = None
) -> Adaptation:
    r"""Adapt the batch norms of a PyTorch model to every batch of a block, before they normalize it.

    .. math:: n \leftarrow n e^{-b/m} + b, \quad \mu = \frac{N_0 \mu_0 + n \mu_1}{N_0 + n}, \quad
        v = \frac{N_0 v_0 + n v_1}{N_0 + n} + \frac{N_0 n}{(N_0 + n)^2} (\mu_1 - \mu_0)^2

    for a batch of b samples. :math:`\mu_1, v_1` are the moments of the samples so far, in which a sample that came m
    samples earlier has the weight 1/e. For data that go on drifting, or come one by one. The prior keeps its weight:
    when the data are as before again, the statistics return.

    Args:
        model: a ``torch.nn.Module`` in inference mode; at the end of the block it is as before, unless ``keep`` was
            called.
        prior: :math:`N_0`, the weight of the current statistics, in samples.
        memory: m, in samples; infinity to forget nothing.
        layers: the names of the only layers to be adapted; None for all that are not frozen.

    Returns:
        a context manager with ``keep``, ``reset`` and ``report``.

    Raises:
        UnsuitableModel: not a PyTorch model, or one that torch.jit or torch.export compiled.
        NormwiseError: a prior or memory that is no number of samples; also raised later, by the call of a layer that
            is in training mode.
        UnknownName: there is no such layer.

    Example:
        >>> import torch
        >>> from normwise import adapting
        >>> layer = torch.nn.BatchNorm1d(1).eval()
        >>> with adapting(layer, prior=2):
        ...     _ = layer(torch.tensor([[1.0], [3.0]]))
        ...     print(layer.running_mean)
        tensor([1.])
    """
