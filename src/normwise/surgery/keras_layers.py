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
    """Make normwise layers of the ``keras.layers.BatchNormalization`` of a Keras model; ``normwise.keras.convert``.

    Weights, names, the graph, the optimizer's state and what ``compile`` was given stay: the layers are the same
    objects. Moving statistics in half precision become float32. A layer of a class derived from Keras's is left.

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
    """Make Keras layers of the normwise batch norms in a Keras model, to ship it; ``normwise.keras.to_keras``.

    ``on_tiny_batch`` is forgotten, and so is ``synchronized`` outside TensorFlow; both are about training.

    Args:
        model: a ``keras.Model`` or a layer, changed in place.

    Returns:
        the model, which layers were converted, and which, of classes derived from normwise's, were left, and why.

    Raises:
        UnsuitableModel: not a Keras model.
        NormwiseError: a layer has an activation or an estimator, which Keras's has not, or statistics that the layer's
            dtype cannot hold. Nothing is changed then.

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
