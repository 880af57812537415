"""The batch norms of a Keras model whose statistics are to be estimated, and those that are left, with the reason."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import keras

from normwise.estimators import Estimator, named
from normwise.keras.models.freeze import chosen_of, named_layers
from normwise.keras.models.keras_layer import KerasLayer


def survey(model: Any, layers: Collection[str] | None) -> tuple[list[KerasLayer], dict[str, str]]:
    """The layers whose statistics are to be estimated, and those that are not, with the reason.

    Args:
        model: any model or layer.
        layers: the paths or names of the only ones to change, or None.

    Raises:
        UnknownName: ``layers`` names what is no batch norm of the model.
        TypeError: ``layers`` is a string.
    """
    norms = norms_of(model)
    chosen = chosen_of(norms, layers, "batch norm")
    found, skipped = [], {}
    for path, layer in norms.items():
        why = _reason_to_skip(layer, model, None if layers is None else path in chosen)
        if why is None:
            found.append(KerasLayer(path, layer))
        else:
            skipped[path] = why
    return found, skipped


def norms_of(model: Any) -> dict[str, Any]:
    """Every batch norm of a model by its path, in models inside of it and in wrappers too; of two alike, ``path (2)``.

    Example:
        >>> [*norms_of(keras.Sequential([keras.layers.BatchNormalization(name="bn")]))]
        ['bn']
    """
    return named_layers(model, (keras.layers.BatchNormalization,))


def estimator_for(norm: Any, estimator: Estimator | str) -> Estimator:
    """One that is given by name takes the weight of a new batch from the layer.

    Raises:
        UnknownName: there is no such estimator.
        NormwiseError: it needs settings that were not given.
    """
    return named(estimator, weight_of_new=1 - norm.momentum) if isinstance(estimator, str) else estimator


def _reason_to_skip(layer: Any, model: Any, asked: bool | None) -> str | None:
    if not layer.built:
        return "it has no statistics yet: no input ever came to it"
    if asked is not None:
        return None if asked else "it was not asked for"
    if layer.momentum == 1:
        return "it is frozen: its momentum is 1"
    if not layer.trainable and model.trainable_variables:
        return "it is frozen: its trainable is False while others learn"
    return None
