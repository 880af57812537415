"""Inference statistics of a Keras model from data: what the moving statistics should have been."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

from normwise.estimators import Estimator
from normwise.keras.feeding import ForwardFn, batches_of
from normwise.keras.recalibration_passes import Passes, check_model, go_through
from normwise.keras.recalibration_sites import Site, survey
from normwise.recalibration.batches import Batches
from normwise.recalibration.report import Movement, RecalibrateReport
from normwise.recalibration.share import limit_of


def recalibrate(
    model: Any,
    batches: Any,
    *,
    estimator: Estimator | str = "pooled",
    upstream: Literal["inference", "batch"] = "inference",
    forward_fn: ForwardFn | None = None,
    at_most: int | None = None,
    tolerance: float | None = None,
    layers: Collection[str] | None = None,
    batch_size: int = 32,
) -> RecalibrateReport:
    r"""Set the moving statistics of a model's batch norms to those of data, for the weights that it has now.

    .. math:: \mu = \mathrm{E}[x], \quad \sigma^2 = \mathrm{Var}[x] \quad\text{of each layer's input } x
        \text{ over all data, as it comes in at inference}

    Everything else about the model, its metrics and optimizer, and the random state of Keras, NumPy, Python and PyTorch
    are afterwards as before, byte for byte; on any error, everything. The model runs with ``training=False``, eagerly:
    dropout is off. Functions that ``predict`` and ``fit`` compiled before stay, and use the new statistics.

    Layers are found in models inside the model and in wrappers. A layer counts as frozen if its ``trainable`` is False
    while other layers learn, or if its momentum is 1; naming it in ``layers`` overrules that. A layer that is called
    more than once gathers all its calls. Values that are not finite enter no statistics. A mask that reaches a layer
    holds here too. Of ``PerDomainBatchNormalization`` the statistics of the domain that is chosen are set.

    The moments are taken in float64, in NumPy. The moving variance is then the population's, n / (n - 1) times that of
    the values, as algorithm 2 has it.

    Args:
        model: any built model of Keras's, changed in place: ``keras.layers.BatchNormalization`` and those of
            ``normwise.keras``.
        batches: a ``tf.data.Dataset``, a ``keras.utils.PyDataset``, a PyTorch ``DataLoader``, a list or other iterable
            of batches: x, (x, y), (x, y, weights), or a mapping by the names of the inputs. Or arrays, as for ``fit``:
            x, a tuple (x, y), or a mapping. A generator is kept in memory, if it has to be gone through again.
        estimator: ``"pooled"``, the exact moments of all values; ``"cumulative"``, the mean of the batches' means and
            of their variances times m / (m - 1); or any other of ``normwise.estimators``. Averages with a weight of
            their own take the layer's ``1 - momentum`` if given by name.
        upstream: how the layers below normalize while a layer gathers. ``"inference"``: by their own new statistics,
            layer by layer in the order in which they are called, a pass over the data for each, which ends at that
            layer. ``"batch"``: by the batch, in one pass; cheaper, and close for large shuffled batches. What either is
            worth was measured, see ``normwise.torch.recalibrate``.
        forward_fn: ``forward_fn(model, batch)``, how a batch enters the model, if the rules do not serve.
        at_most: use so many batches; None for all.
        tolerance: stop when the standard error of 95 % of the channels of every layer is below so many standard
            deviations, which is looked at every 8 batches; for shuffled data only. None or 0 for all data.
        layers: the paths or names of the only layers to be recalibrated; None for all that are not frozen.
        batch_size: rows per batch of arrays.

    Returns:
        which layers were recalibrated and how far they moved, which were skipped and why, which no batch reached.

    Raises:
        TypeError: not a model of Keras's, or not an iterable of batches.
        NormwiseError: no batches, a model that is not built, a name or setting that does not exist, or statistics that
            do not fit the layer's dtype.

    References:
        Ioffe and Szegedy, Batch normalization, 2015, algorithm 2. Wu and Johnson, Rethinking "batch" in batch
        normalization, 2021, arXiv:2105.07576.

    Example:
        >>> import keras, numpy
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization(name="bn")], name="model")
        >>> print(recalibrate(model, numpy.array([[1.0, 4.0], [3.0, 8.0]])))
        1 of 1 batch norms recalibrated with 2 samples in 1 batch
          recalibrated  model/bn: moved by 1.8 standard deviations, at most 2.12
        >>> keras.ops.convert_to_numpy(model.get_layer("bn").moving_mean.value).tolist()
        [2.0, 6.0]
    """
    check_model(model, upstream, called="recalibrate")
    limit = limit_of(tolerance, estimator, shuffled=False)
    sites, skipped = survey(model, estimator, layers)
    items = batches_of(batches, batch_size, at_most=at_most, called="recalibrate")
    source = Batches(items, at_most=at_most, called="recalibrate")
    passes = go_through(model, source, sites, upstream=upstream, forward_fn=forward_fn, limit=limit)
    report = _report(sites, skipped, passes, tolerance)
    commit(passes.sites)
    return report


def _report(
    sites: Sequence[Site], skipped: dict[str, str], passes: Passes, tolerance: float | None
) -> RecalibrateReport:
    silent = [site for site in sites if not site.reached]
    share = passes.share
    return RecalibrateReport(
        {site.name: Movement.of(site.moved(), site.not_finite) for site in sites if site.reached},
        skipped | {site.name: "all its inputs were NaN or inf" for site in silent if site.not_finite},
        tuple(site.name for site in silent if not site.not_finite),
        batches=share.batches,
        samples=share.samples,
        stopped_early=share.stopped_early,
        standard_error=share.standard_error,
        passes=passes.number,
        tolerance=tolerance,
    )


def commit(sites: Sequence[Site]) -> None:
    """Everything is worked out and fits before the first variable is written."""
    values = [value for site in sites for value in site.values()]
    for variable, value in values:
        variable.assign(value)
