"""Statistics of a Keras model for shifted data, held by those that it was trained with."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from typing import Any, Literal

from normwise.keras.layers.domains import PerDomainBatchNormalization
from normwise.keras.layers.domains import domain as inside_domain
from normwise.keras.models.feeding import ForwardFn, batches_of
from normwise.keras.models.keras_model import KerasModel, check_model
from normwise.keras.models.keras_stepping import stepping_of
from normwise.keras.models.sites import norms_of, survey
from normwise.recalibration.adaptation_report import AdaptReport
from normwise.recalibration.batches import Batches
from normwise.recalibration.memory import check_memory
from normwise.recalibration.operations import adapt_layers
from normwise.recalibration.prior import PRIOR, check_prior


def adapt(
    model: Any,
    batches: Any,
    *,
    prior: float = PRIOR,
    upstream: Literal["inference", "batch"] = "inference",
    forward_fn: ForwardFn | None = None,
    at_most: int | None = None,
    layers: Collection[str] | None = None,
    domain: str | None = None,
    batch_size: int = 32,
    memory: float | None = None,
) -> AdaptReport:
    r"""Move the moving statistics of a model's batch norms towards those of shifted data, without labels.

    .. math:: \mu = \frac{N_0 \mu_s + n \mu_t}{N_0 + n}, \quad
        \sigma^2 = \frac{N_0 \sigma_s^2 + n \sigma_t^2}{N_0 + n} + \frac{N_0 n}{(N_0 + n)^2} (\mu_t - \mu_s)^2

    with s for the source, the statistics that the model has, and t for the target, the moments of the data given, as
    each layer sees them in production, behind layers that are adapted already.

    A model called with ``training=True`` at test time also uses the data's statistics, but of each batch alone, and the
    prediction for a sample depends on the rest of its batch. Here the statistics are fixed afterwards. Everything else
    about the model and the random state are as before, byte for byte; on any error, everything.

    Args:
        model: any built Keras model, changed in place.
        batches: as for ``normwise.keras.models.recalibrate.recalibrate``; labels are not looked at.
        prior: :math:`N_0`, the weight of the current statistics, in samples (images, not pixels). 0 for the statistics
            of the data alone, ``math.inf`` to change nothing. 4 was measured, see
            ``normwise.torch.models.recalibration.adapt``.
        upstream: what earlier layers normalize with while a layer collects, as for ``recalibrate``.
        forward_fn: ``forward_fn(model, batch)``, how a batch enters the model, if the rules do not serve.
        at_most: use so many batches; None for all.
        layers: the paths or names of the only layers to be adapted; None for all that are not frozen.
        domain: of a model with ``PerDomainBatchNormalization`` layers, whose statistics to adapt; None for the one that
            is chosen. Those of other domains are not touched, nor are layers without domains, unless they are named in
            ``layers``.
        batch_size: rows per batch of arrays.
        memory: as for ``recalibrate``.

    Returns:
        which layers were adapted and how far they moved, which were skipped and why, which no batch reached. Its
        ``undo()`` gives the statistics before back, byte for byte; ``with adapt(...):`` does so at the end.

    Raises:
        TypeError: not a Keras model, or not an iterable of batches.
        UnknownName: no such domain or layer.
        NormwiseError: no batches, a model that is not built, a prior that is no number of samples, a domain for a model
            without any, or statistics that do not fit the layer's dtype.

    References:
        Schneider, Rusak, Eck, Bringmann, Brendel and Bethge, Improving robustness against common corruptions by
        covariate shift adaptation, 2020.

    Example:
        >>> import keras, numpy
        >>> layer = keras.layers.BatchNormalization()
        >>> model = keras.Sequential([keras.Input((1,)), layer])
        >>> with adapt(model, numpy.array([[3.0], [5.0]]), prior=2):
        ...     print(float(layer.moving_mean.value[0]), float(layer.moving_variance.value[0]))
        2.0 5.5
        >>> float(layer.moving_mean.value[0]), float(layer.moving_variance.value[0])
        (0.0, 1.0)
    """
    check_model(model, upstream, forward_fn, called="adapt")
    check_prior(prior, called="adapt")
    check_memory(memory, called="adapt")
    items = batches_of(batches, batch_size, at_most=at_most, called="adapt")
    source = Batches(items, at_most=at_most, called="adapt")
    with nullcontext() if domain is None else inside_domain(model, domain):
        found, skipped = survey(model, layers)
        without = _without_domains(model, layers)
        skipped |= {layer.name: without[layer.name] for layer in found if layer.name in without}
        network = KerasModel(model, forward_fn)
        stepping = stepping_of(model, network, memory)
        return adapt_layers(network, source, found, skipped, upstream=upstream, prior=prior, stepping=stepping)


def _without_domains(model: Any, layers: Collection[str] | None) -> dict[str, str]:
    """The layers without domains, which nobody named, of a model that has layers with them -> why they are left."""
    norms = norms_of(model)
    if not any(isinstance(layer, PerDomainBatchNormalization) for layer in norms.values()):
        return {}
    asked = layers or ()
    return {
        name: "it has no statistics per domain: name it in layers to adapt it for all of them"
        for name, layer in norms.items()
        if not isinstance(layer, PerDomainBatchNormalization) and name not in asked and layer.name not in asked
    }
