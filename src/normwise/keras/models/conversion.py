"""A whole model from Keras's batch normalization to ours and back: the class of its layers changes, nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
from keras import ops

from normwise.errors import NormwiseError
from normwise.keras.layers.batch_normalization import BatchNormalization
from normwise.keras.models.rebuilding import Rebuilding, Replacement, adds, keras_twin, why_not_rebuilt
from normwise.keras.steps.estimate import NAMES, widen


class Conversion(NamedTuple):
    """A record of what became of a model.

    Attributes:
        model: the model that was given.
        layers: the paths of the layers that were converted.
        left: the paths of batch normalization layers that were not, with the reason.

    Example:
        >>> from normwise.keras import Conversion
        >>> print(Conversion(None, ["model/bn"], {"model/own": "Own is a class of its own"}))
        1 of 2 batch norms converted, 1 left
          converted  model/bn
          left       model/own: Own is a class of its own
    """

    model: Any
    layers: list[str]
    left: dict[str, str]

    def __str__(self) -> str:
        total = len(self.layers) + len(self.left)
        if total == 0:
            return "nothing converted: the model has no batch norm to convert"
        lines = [f"{len(self.layers)} of {total} batch norms converted, {len(self.left)} left"]
        lines += [f"  converted  {path}" for path in self.layers]
        lines += [f"  left       {path}: {why}" for path, why in self.left.items()]
        return "\n".join(lines)


def convert(model: Any) -> Conversion:
    """Make every ``keras.layers.BatchNormalization`` of a model one of ours, in place.

    Weights, names, the graph, the optimizer's state and what ``compile`` was given stay: the layers are the same
    objects. Moving statistics in half precision become float32, as ours are. Functional, sequential and subclassed
    models, models inside models and layers inside wrappers are all reached. A layer of a class derived from Keras's is
    left.

    Args:
        model: any Keras model or layer.

    Returns:
        the model, and which of its layers were converted and which were left.

    Raises:
        TypeError: not a Keras model or layer; nothing is changed then.

    Example:
        >>> import keras
        >>> from normwise.keras import convert
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(name="bn")], name="model")
        >>> convert(model).layers
        ['model/bn']
        >>> type(model.layers[0]).__module__
        'normwise.keras.layers.batch_normalization'
    """
    theirs, left = keras.layers.BatchNormalization, {}
    found = []
    for name, layer in _batch_normalizations(model):
        if type(layer) is theirs:
            found.append((name, layer))
        elif not isinstance(layer, BatchNormalization):
            left[name] = f"{type(layer).__name__} is a class of its own, which may do something else"
    for _, layer in found:
        become_ours(layer)
    trace_again(model, [layer for _, layer in found])
    return Conversion(model, [name for name, _ in found], left)


def to_keras(model: Any) -> Conversion:
    """Make every batch normalization of ours in a model Keras's own, to ship it without normwise.

    In place, unless a layer has an activation or is given a residual. A functional or sequential model is then built
    once more, with an ``Activation`` and an ``Add`` behind the layer, as ``normwise.keras.models.swap.swap`` says; the
    model that was given is as before.

    ``on_tiny_batch`` is forgotten, and so is ``synchronized`` outside TensorFlow; both are about training. The moving
    statistics stay in float32 for as long as the model lives; a file of it is read by Keras in the layer's dtype.

    Args:
        model: any Keras model or layer.

    Returns:
        the model that has them, and which of its layers were converted and which, of classes derived from ours, were
        left.

    Raises:
        TypeError: not a Keras model or layer.
        NormwiseError: a layer has an estimator, which Keras's has not, or statistics that the layer's dtype cannot
            hold; or it has an activation in a model that cannot be built once more. Nothing is changed then.

    Example:
        >>> import keras
        >>> from normwise.keras import BatchNormalization, to_keras
        >>> model = keras.Sequential([keras.Input((4,)), BatchNormalization(name="bn")], name="model")
        >>> to_keras(model).layers
        ['model/bn']
    """
    found, left = [], {}
    for name, layer in _batch_normalizations(model):
        if type(layer) is BatchNormalization:
            found.append((name, layer))
        elif isinstance(layer, BatchNormalization):
            left[name] = (
                f"{type(layer).__name__} has no counterpart in Keras; normwise.swap(model, to='keras') puts Keras's "
                "layer in its place"
            )
    for name, layer in found:
        if layer.estimator is not None:
            raise NormwiseError(
                f"Keras's layer has no estimator, and layer {name!r} has one: use swap, which converts it and says "
                "what is different in training, or keep normwise's."
            )
        check_that_they_fit(name, layer)
    behind = [(name, layer) for name, layer in found if layer.activation is not None or adds(layer)]
    if behind:
        for name, layer in behind:
            reason = why_not_rebuilt(model, layer)
            if reason is not None:
                raise NormwiseError(
                    f"Keras's layer has no activation, and nothing can be put behind layer {name!r}, because {reason}: "
                    "build the model with the activation behind the layer, or ship it by model.export."
                )
        rebuilt = Rebuilding(model, {layer: Replacement(keras_twin(layer), layer.activation) for _, layer in found})
        return Conversion(rebuilt.model, [name for name, _ in found], left)
    for _, layer in found:
        become_keras(layer)
    trace_again(model, [layer for _, layer in found])
    return Conversion(model, [name for name, _ in found], left)


def _batch_normalizations(model: Any) -> list[tuple[str, Any]]:
    if not isinstance(model, keras.Layer):
        raise TypeError(f"a Keras model or layer is wanted, received {type(model).__name__}: pass the model.")
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    return [(layer.path or layer.name, layer) for layer in layers]


def check_that_they_fit(path: str, layer: Any) -> None:
    """Refuse statistics that would be infinite once Keras has read them from a file, in the layer's dtype."""
    for name in NAMES:
        variable = getattr(layer, name, None)
        if variable is None or not layer.built:
            continue
        finite = ops.isfinite(variable.value)
        if not bool(ops.all(ops.isfinite(ops.cast(variable.value, layer.variable_dtype)) == finite)):
            largest = float(ops.max(ops.where(finite, ops.abs(variable.value), 0)))
            raise NormwiseError(
                f"Keras's layer keeps its {name} in {layer.variable_dtype}, which cannot hold the {largest:.3g} of "
                f"layer {path!r}: build the model with dtype='mixed_{layer.variable_dtype}', or keep normwise's layer."
            )


def become_ours(layer: Any) -> None:
    """Make a layer that is exactly Keras's one of ours."""
    _become(layer, BatchNormalization, {"activation": None, "estimator": None, "on_tiny_batch": "error"})
    if layer.built:
        widen(layer)


def become_keras(layer: Any) -> None:
    """Make a layer of ours Keras's own; its activation and its estimator are lost."""
    _become(layer, keras.layers.BatchNormalization, {})
    for setting in ("activation", "estimator", "on_tiny_batch"):
        delattr(layer, setting)
    if keras.backend.backend() != "tensorflow":
        layer.synchronized = False


def _become(layer: Any, cls: type, settings: dict[str, Any]) -> None:
    """Change the class, and what Keras remembers of the methods of the class that it was."""
    built_by: Callable[..., Any] = layer.build
    layer.__class__ = cls
    for name, value in settings.items():
        setattr(layer, name, value)
    signature = inspect.signature(layer.call)
    layer._call_signature = signature
    layer.call_signature_parameters = list(signature.parameters)
    layer.build = built_by  # the classes build the same weights as long as there is no estimator


def trace_again(model: Any, changed: Iterable[Any]) -> None:
    """Let a model forget functions that were compiled before, which hold the layers as they were.

    Args:
        model: any model or layer.
        changed: its layers that were changed; without any, nothing is forgotten.
    """
    if not [*changed]:
        return
    for inner in model._flatten_layers():
        for function in ("train_function", "test_function", "predict_function"):
            if getattr(inner, function, None) is not None:
                setattr(inner, function, None)
