"""Doors to other layers in a Keras model: normwise's, or Keras's own."""

# mypy: disable-error-code="empty-body"
# A door has a signature and a docstring; its decorator is the body.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normwise.surgery.door import door, lazy_import_module

if TYPE_CHECKING:
    from normwise.keras.models.conversion import Conversion

__all__ = ["convert_from_keras", "convert_to_keras"]


@door(keras=lazy_import_module("normwise.keras.models.conversion", "convert"), moved="layers")
def convert_from_keras(model: Any) -> Conversion:
    """Turn the batch norms of a Keras model into normwise's; the same as ``normwise.keras.convert``.

    Every ``keras.layers.BatchNormalization`` becomes a ``normwise.keras.BatchNormalization``; a layer of a class
    derived from Keras's is left. Weights, names, the graph, the optimizer's state and what ``compile`` was given stay:
    the layers are the same objects. Moving statistics in half precision become float32.

    Args:
        model: a ``keras.Model`` or a layer, changed in place.

    Returns:
        the model, which layers were converted, and which were left, and why.

    Raises:
        UnsuitableModel: not a Keras model.

    Warns:
        NothingChanged: there was no layer to convert.

    Example:
        >>> import keras
        >>> from normwise import convert_from_keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(name="bn")], name="model")
        >>> convert_from_keras(model).layers
        ['model/bn']
    """


@door(keras=lazy_import_module("normwise.keras.models.conversion", "to_keras"), moved="layers")
def convert_to_keras(model: Any) -> Conversion:
    """Turn normwise's batch norms in a Keras model into Keras's, to ship it; the same as ``normwise.keras.to_keras``.

    In place, unless a layer has an activation or is given a residual. A functional or sequential model is then built
    once more, with an ``Activation`` and an ``Add`` behind the layer, and the model that was given stays as it was.

    ``on_tiny_batch`` is lost, and so is ``synchronized`` outside TensorFlow; both are about training.

    Args:
        model: a ``keras.Model`` or a layer.

    Returns:
        the model that has Keras's layers; which layers were converted; and which, of classes derived from normwise's,
        were left, and why.

    Raises:
        UnsuitableModel: not a Keras model.
        NormwiseError: a layer has an estimator, which Keras's has not (``swap`` converts it), or statistics that the
            layer's dtype cannot hold; or it has an activation in a model that cannot be built once more. Nothing is
            changed then.

    Warns:
        NothingChanged: there was no layer to convert.

    Example:
        >>> import keras
        >>> from normwise import convert_to_keras
        >>> from normwise.keras import BatchNormalization
        >>> model = keras.Sequential([keras.Input((4,)), BatchNormalization(name="bn")], name="model")
        >>> convert_to_keras(model).layers
        ['model/bn']
    """
