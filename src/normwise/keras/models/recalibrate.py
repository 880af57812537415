"""Inference statistics of a Keras model from data: what the moving statistics should have been."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from normwise.estimators import Estimator
from normwise.keras.models.feeding import ForwardFn, batches_of
from normwise.keras.models.keras_model import KerasModel, check_model
from normwise.keras.models.keras_stepping import stepping_of
from normwise.keras.models.sites import estimator_for, survey
from normwise.recalibration.batches import Batches
from normwise.recalibration.memory import check_memory
from normwise.recalibration.one_pass import limit_of
from normwise.recalibration.operations import recalibrate_sites
from normwise.recalibration.report import RecalibrateReport
from normwise.recalibration.site import Site


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
    memory: float | None = None,
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
        model: any built Keras model, changed in place: ``keras.layers.BatchNormalization`` and those of
            ``normwise.keras``.
        batches: a ``tf.data.Dataset``, a ``keras.utils.PyDataset``, a PyTorch ``DataLoader``, a list or other iterable
            of batches: x, (x, y), (x, y, weights), or a mapping by the names of the inputs. Or arrays, as for ``fit``:
            x, a tuple (x, y), or a mapping. A generator is kept in memory, if it has to be gone through again.
        estimator: ``"pooled"``, the exact moments of all values; ``"cumulative"``, the mean of the batches' means and
            of their variances times m / (m - 1); or any other of ``normwise.estimators``. Averages with a weight of
            their own take the layer's ``1 - momentum`` if given by name.
        upstream: what earlier layers normalize with while a layer collects its statistics. ``"inference"``: their new
            moving statistics, so that each layer sees the inputs that it will see in production. Layers are settled in
            the order of their calls, by all batches in step or with a pass over the data for each, see ``memory``.
            ``"batch"``: the statistics of each batch, in one pass; close for large shuffled batches. Both were
            measured, see
            ``normwise.torch.models.recalibration.recalibrate``.
        forward_fn: ``forward_fn(model, batch)``, how a batch enters the model, if the rules do not serve.
        at_most: use so many batches; None for all.
        tolerance: stop when the standard error of 95 % of the channels of every layer is below so many standard
            deviations, which is looked at every 8 batches; for shuffled data only. None or 0 for all data.
        layers: the paths or names of the only layers to be recalibrated; None for all that are not frozen.
        batch_size: rows per batch of arrays.
        memory: how much the batches may hold that go through the model side by side, in step at its layers, which
            takes one forward for each, and two more of the first: bytes; up to 1, a share of what is free; None for a
            quarter of that. Where they need more, and in the cases that the report names, the layers are done one by
            one; the statistics are the same. 0 to do so at once. On TensorFlow, batches on a GPU go layer by layer,
            because nobody knows how much of its memory is free.

    Returns:
        which layers were recalibrated and how far they moved, which were skipped and why, which no batch reached.

    Raises:
        TypeError: not a Keras model, or not an iterable of batches.
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
          recalibrated  model/bn: moved by 1.8 standard deviations, by 2.12 in one channel
        >>> keras.ops.convert_to_numpy(model.get_layer("bn").moving_mean.value).tolist()
        [2.0, 6.0]
    """
    check_model(model, upstream, forward_fn, called="recalibrate")
    check_memory(memory, called="recalibrate")
    limit = limit_of(tolerance, estimator, shuffled=False)
    found, skipped = survey(model, layers)
    sites = [Site(layer, estimator_for(layer.norm, estimator)) for layer in found]
    items = batches_of(batches, batch_size, at_most=at_most, called="recalibrate")
    network = KerasModel(model, forward_fn)
    return recalibrate_sites(
        network,
        Batches(items, at_most=at_most, called="recalibrate"),
        sites,
        skipped,
        upstream=upstream,
        limit=limit,
        tolerance=tolerance,
        stepping=stepping_of(model, network, memory),
    )
