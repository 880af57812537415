"""The batch norms of a Keras model whose statistics are to be estimated, and those that are left, with the reason."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import keras

from normwise.errors import UnknownName
from normwise.estimators import Estimator, named
from normwise.keras.models.keras_layer import KerasLayer


def survey(model: Any, layers: Collection[str] | None) -> tuple[list[KerasLayer], dict[str, str]]:
    """The layers whose statistics are to be estimated, and those that are not, with the reason.

    Args:
        model: any model or layer.
        layers: the paths or names of the only ones to change, or None.

    Raises:
        UnknownName: ``layers`` names what is no batch norm of the model.
    """
    norms = norms_of(model)
    for name in layers or ():
        if name not in norms and all(name != layer.name for layer in norms.values()):
            raise UnknownName("batch norm", name, norms)
    found, skipped = [], {}
    for path, layer in norms.items():
        why = _reason_to_skip(layer, model, None if layers is None else path in layers or layer.name in layers)
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
    found: dict[str, Any] = {}
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization) and all(layer is not each for each in found.values()):
            path, number = layer.path or layer.name, 2
            name = path
            while name in found:
                name, number = f"{path} ({number})", number + 1
            found[name] = layer
    return found


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
