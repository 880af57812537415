"""A functional or sequential model built once more, with other layers in the places of some of its own."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FunctionType
from typing import Any, NamedTuple

import keras
from keras.src.models.functional import Functional, functional_like_constructor  # as keras.models.clone_model asks
from keras.src.saving.serialization_lib import SafeModeScope  # layers of this process are made again, no file is read

from normwise.errors import UnsuitableModel
from normwise.frameworks import with_article
from normwise.keras.layers.batch_normalization import BatchNormalization
from normwise.keras.layers.domains import PerDomainBatchNormalization
from normwise.keras.models.learning import carry_learning

_THEIR_ARGUMENTS = {
    *inspect.signature(keras.layers.BatchNormalization.__init__).parameters,
    "name",
    "dtype",
    "trainable",
}


class Replacement(NamedTuple):
    """The layer that stands in the place of another one.

    Attributes:
        layer: not built yet.
        activation: what Keras's own layer for activations does behind it, or None.
        domain: which row of the statistics of a layer with several domains it gets, or None.
    """

    layer: Any
    activation: Any = None
    domain: int | None = None


class Rebuilding:
    """A model once more; the one that is given is as before.

    Args:
        model: that ``why_not`` has nothing against.
        replacements: the layer -> what stands for it.

    Attributes:
        model: the new one, with the weights of the other, and compiled as it was, if it was.
        added: the layer -> the names of the layers behind it.
        compiled: whether compiling was possible, where the model was compiled.
        state_kept: False where the optimizer starts again, because it knew variables that the new model has not.
    """

    def __init__(self, model: Any, replacements: dict[Any, Replacement]) -> None:
        self._replacements = {id(layer): found for layer, found in replacements.items()}
        self._clones: dict[int, Any] = {}
        self._pairs: list[tuple[Any, Any]] = []
        self._models: list[tuple[Any, Any]] = []
        self._behind: dict[tuple[int, str], Any] = {}
        self._olds: dict[int, Any] = {}
        self._variables: dict[int, Any] = {}  # the new one by the id of the old one
        self._names = {layer.name for layer in model._flatten_layers()}
        self.added: dict[Any, list[str]] = {}
        self.model = self._model(model)
        for old, new in self._pairs:
            self._copy(old, new)
            if old.built:
                carry_learning(old, new)
        for old, new in self._models:
            carry_learning(old, new)
        self.state_kept = True
        self.compiled = not getattr(model, "compiled", False) or self._compile(model)

    def clone_of(self, inner: Any) -> Any:
        """The layer of the new model that stands for a layer inside of one that is not replaced."""
        pairs = [
            pair for old, new in self._pairs for pair in zip(old._flatten_layers(), new._flatten_layers(), strict=False)
        ]
        return next(new for old, new in pairs if old is inner)

    def _model(self, model: Any) -> Any:
        made = self._made_again(model)
        self._models.append((model, made))
        return made

    def _made_again(self, model: Any) -> Any:
        if isinstance(model, keras.Sequential):
            return self._sequential(model)
        compiled, model.compiled = model.compiled, False  # what is compiled again here would be the very optimizer's
        try:
            return keras.models.clone_model(model, clone_function=self._clone, call_function=self._call)
        finally:
            model.compiled = compiled

    def _sequential(self, model: Any) -> Any:
        layers: list[Any] = []
        first = model._layers[0] if model._layers else None
        if isinstance(first, keras.layers.InputLayer):
            layers.append(keras.Input(batch_shape=first.batch_shape, dtype=first.dtype, name=first.name))
        for layer in model.layers:
            layers.append(self._clone(layer))
            found = self._replacements.get(id(layer))
            if found is not None and found.activation is not None:
                layers.append(self._activation(layer, found.activation))
        made = keras.Sequential(layers, name=model.name, trainable=model.trainable)
        if model.built and not made.built:
            made.build(model.input_shape)
        return made

    def _clone(self, layer: Any) -> Any:
        if id(layer) not in self._clones:
            found = self._replacements.get(id(layer))
            if found is not None:
                made = found.layer
                self._pairs.append((layer, made))
            elif why_not(layer) is None:
                made = self._model(layer)
            else:
                made = again(layer, layer.get_config, "swap")
                if isinstance(layer, keras.Layer):  # and no operation of keras.ops, which holds nothing
                    self._pairs.append((layer, made))
            self._clones[id(layer)] = made
            self._olds[id(made)] = layer
        return self._clones[id(layer)]

    def _call(self, made: Any, *args: Any, **named: Any) -> Any:
        layer = self._olds.get(id(made))
        found = self._replacements.get(id(layer))
        if found is None:
            return made(*args, **named)
        residual = named.pop("residual", None)
        if not isinstance(made, keras.layers.BatchNormalization):
            named.pop("mask", None)
        if isinstance(made, BatchNormalization) and residual is not None:
            named["residual"], residual = residual, None
        y = made(*args, **named)
        if residual is not None:
            y = self._layer_behind(layer, "add", lambda name: keras.layers.Add(name=name))([y, residual])
        return y if found.activation is None else self._activation(layer, found.activation)(y)

    def _activation(self, layer: Any, activation: Any) -> Any:
        dtype = layer.dtype_policy
        return self._layer_behind(
            layer, "activation", lambda name: keras.layers.Activation(activation, name=name, dtype=dtype)
        )

    def _layer_behind(self, layer: Any, what: str, make: Callable[[str], Any]) -> Any:
        if (id(layer), what) not in self._behind:
            name = f"{layer.name}_{what}"
            while name in self._names:
                name += "_"
            self._names.add(name)
            self._behind[id(layer), what] = make(name)
            self.added.setdefault(layer, []).append(name)
        return self._behind[id(layer), what]

    def _copy(self, old: Any, new: Any) -> None:
        """The weights, of a layer that is replaced those that both have."""
        found = self._replacements.get(id(old))
        if not old.built:
            return
        if found is None:
            if not new.built:
                new.build_from_config(old.get_build_config())
            for source, target in zip(old.variables, new.variables, strict=True):
                target.assign(_value_of(source))
                self._variables[id(source)] = target
            return
        if not new.built:
            new.build(_shape_of(old))
        for target in new.variables:
            source = getattr(old, target.name, None)
            if source is None:
                if target.name == "renorm_mean":  # training begins from what inference does
                    target.assign(_value_of(old.moving_mean))
                elif target.name == "renorm_stddev":
                    target.assign(keras.ops.sqrt(old.moving_variance.value + old.epsilon))
                continue
            value = _value_of(source)
            self._variables[id(source)] = target
            if found.domain is not None and value.shape != target.value.shape:
                value = value[found.domain]
            elif isinstance(new, PerDomainBatchNormalization) and value.shape != target.value.shape:
                value = keras.ops.repeat(value[None], len(new.domains), axis=0)
            target.assign(value)

    def _compile(self, model: Any) -> bool:
        """Compile the new model as the old one was, with the optimizer's state where it fits; False where it failed."""
        try:
            self.model.compile_from_config(model.get_compile_config())
            ours, theirs = self.model.optimizer, model.optimizer
            if theirs.built:
                # Those that it knows, which are others than those that learn now where layers were frozen since.
                known = [self._variables.get(id(each)) for each in theirs._trainable_variables]
                self.state_kept = all(each is not None for each in known)  # variables compare by value
                # Compiling built one for what learns now, and an optimizer is built once.
                ours = self.model.optimizer = type(theirs).from_config(theirs.get_config())
                ours.build(known if self.state_kept else self.model.trainable_variables)
                if self.state_kept:
                    for target, source in zip(ours.variables, theirs.variables, strict=True):
                        target.assign(_value_of(source))
        except Exception:  # a loss or metric of somebody's own, of which only its caller can make another
            return False
        return bool(self.model.compiled)


def why_not(model: Any) -> str | None:
    """Why a model cannot be built once more, or None where it can."""
    if not isinstance(model, keras.Model):
        return f"{type(model).__name__} is no model"
    if type(model) is keras.Sequential:
        return None
    if not isinstance(model, Functional):
        return f"{type(model).__name__} is a class of its own, whose call cannot be rewritten"
    plain = type(model) is Functional or type(model) is keras.Model
    if not plain or not functional_like_constructor(type(model)):
        return f"{type(model).__name__} is a class of its own, which would be lost"
    return None


def why_not_rebuilt(model: Any, layer: Any) -> str | None:
    """Why another layer cannot be put into the place of this one in a model built once more, or None where it can."""
    reason = why_not(model)
    if reason is None and not any(each is layer for each in reachable(model)):
        return "it is inside of a layer that calls it"
    return reason


def again(layer: Any, config: Callable[[], dict[str, Any]], called: str) -> Any:
    """A layer of the same class from a config, not built.

    Raises:
        UnsuitableModel: its class cannot be made from one.
    """
    try:
        with SafeModeScope(safe_mode=False), own_objects(layer):
            made = type(layer).from_config(config())
    except Exception as error:
        failed = f"{called} makes the model again from the configs of its layers, and the one of {layer.name!r}, "
        failed += with_article(type(layer).__name__)
        if lacking := re.search(r"Could not locate (class|function) '([^']+)'", str(error)):
            raise UnsuitableModel(
                f"{failed}, names the {lacking[1]} {lacking[2]!r}, which Keras does not know: put the decorator "
                f"@keras.saving.register_keras_serializable() above the definition of {lacking[2]!r}."
            ) from error
        if any(function.__name__ == "<lambda>" for function in _functions(layer).values()):
            raise UnsuitableModel(
                f"{failed}, holds a lambda, which Keras does not read: give it a function that is written with def."
            ) from error
        raise UnsuitableModel(
            f"{failed}, does not serve ({type(error).__name__}): give its class a get_config with all arguments of its "
            "constructor."
        ) from error
    put_back(layer, made)
    return made


def put_back(old: Any, new: Any) -> None:
    """Give a layer made from the config of another one, and the layers inside it, the very functions of the other.

    Of a function of the user's that is named as one of Keras's, a config has the name only, and Keras takes its own.

    Args:
        old: the layer that is there.
        new: made from its config.
    """
    both = isinstance(old, keras.Layer) and isinstance(new, keras.Layer)
    pairs = zip(old._flatten_layers(), new._flatten_layers(), strict=False) if both else [(old, new)]
    for one, other in pairs:
        for name, function in _functions(one).items():
            if getattr(getattr(other, name, None), "__name__", None) == function.__name__:
                setattr(other, name, function)


def own_objects(layer: Any) -> AbstractContextManager[Any]:
    """A context in which Keras finds the functions and classes of the user's that a layer, or one inside it, holds.

    Keras writes them into a config by name, and finds them by name only where they are registered.

    Args:
        layer: of the model that is there; where two things in it have one name, Keras finds neither.
    """
    found: dict[str, Any] = {}
    layers = layer._flatten_layers() if isinstance(layer, keras.Layer) else [layer]
    for each in layers:
        kinds = {type(value) for value in [each, *vars(each).values()] if hasattr(value, "get_config")}
        named = [(keras.saving.get_registered_name(kind), kind) for kind in kinds if not _of_keras(kind)]
        named += [(function.__name__, function) for function in _functions(each).values()]
        for name, thing in named:
            found[name] = thing if found.get(name, thing) is thing else None
    known = {name: thing for name, thing in found.items() if thing is not None}
    scope: AbstractContextManager[Any] = keras.saving.custom_object_scope(known)
    return scope


def _functions(layer: Any) -> dict[str, Any]:
    """The attributes of a layer that are functions of the user's; Keras keeps methods of its own in a layer too."""
    return {
        name: value
        for name, value in vars(layer).items()
        if isinstance(value, FunctionType) and not hasattr(type(layer), name) and not _of_keras(value)
    }


def _of_keras(thing: Any) -> bool:
    return thing.__module__.partition(".")[0] in ("keras", "normwise")


def keras_twin(layer: Any) -> Any:
    """Keras's own batch normalization with the settings of one of ours, not built."""
    config = {name: value for name, value in layer.get_config().items() if name in _THEIR_ARGUMENTS}
    if keras.backend.backend() != "tensorflow":
        config["synchronized"] = False
    return keras.layers.BatchNormalization.from_config(config)


def reachable(model: Any) -> list[Any]:
    """The layers that a model which can be built once more calls itself, and those of models inside of it."""
    found: dict[int, Any] = {}
    for layer in model.layers:
        inner = reachable(layer) if why_not(layer) is None else [layer]
        found |= {id(each): each for each in inner}
    return [*found.values()]


def adds(layer: Any) -> bool:
    """True if a layer is called with a residual anywhere in a graph."""
    return any(node.arguments.kwargs.get("residual") is not None for node in layer._inbound_nodes)


def _value_of(variable: Any) -> Any:
    """A copy: on JAX, training gives the memory of the variable itself away."""
    value = variable.value
    return keras.ops.copy(value.detach() if hasattr(value, "detach") else value)


def _shape_of(layer: Any) -> tuple[int | None, ...]:
    """An input shape that a batch normalization which is built can be built for."""
    axes = layer.input_spec.ndim
    shape: list[int | None] = [None] * axes
    shape[layer.axis % axes] = int(layer.moving_mean.shape[-1])
    return tuple(shape)
