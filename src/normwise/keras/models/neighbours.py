"""The neighbours of the batch norms in a Keras model, found by following tensors from call to call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops, tree
from keras.src.layers.convolutional.base_conv import BaseConv  # no public class stands above all of them
from keras.src.layers.convolutional.base_conv_transpose import BaseConvTranspose
from keras.src.layers.convolutional.base_depthwise_conv import BaseDepthwiseConv
from keras.src.layers.convolutional.base_separable_conv import BaseSeparableConv
from keras.src.layers.merging.base_merge import Merge
from numpy.typing import NDArray

from normwise.facts import Neighbours
from normwise.keras.models.keras_layer import KerasLayer, cover

CONVOLUTIONS = (BaseConv, BaseConvTranspose, BaseDepthwiseConv, BaseSeparableConv)
LAST = (
    keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Embedding, keras.layers.RNN,
    keras.layers.Bidirectional, keras.layers.LayerNormalization, keras.layers.MultiHeadAttention,
)  # fmt: skip
"""Layers for which the features are the last axis."""
EACH = (
    keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU, keras.layers.PReLU,
    keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.AlphaDropout, keras.layers.GaussianNoise,
    keras.layers.Identity, keras.layers.Rescaling, keras.layers.ActivityRegularization, Merge,
)  # fmt: skip
"""Layers of each element, behind which the axes mean what they did in front."""
FEW_VALUES = 32
"""Fewer values do not tell whether one tensor is a function of another."""
FEW_DIFFERENT = 12
"""Nor do fewer different ones."""
UNRELATED = 0.15
"""The mean step between neighbours, as a share of the range, of values in the order of another tensor's: for unrelated
tensors it is a third, for an activation and its input next to nothing."""


@dataclass(frozen=True)
class _Origin:
    """The origin of a tensor."""

    axis: int | None = None
    bias: bool = False
    data: bool = False
    norms: frozenset[str] = frozenset()


class _Following:
    """Knows of each tensor where it comes from, as long as only functions of each element lie between.

    Layers say what they are. What a model's own ``call`` does between them is not seen on every backend, so there the
    values tell: an activation gives equal values for equal ones, and near ones for near ones.
    """

    def __init__(self) -> None:
        self.known: list[tuple[Any, _Origin]] = []  # kept, or another tensor would get the id of one that is gone

    def put(self, tensor: Any, origin: _Origin) -> None:
        """Remember where a tensor comes from."""
        if _is_array(tensor):
            self.known.append((tensor, origin))

    def origin(self, tensor: Any) -> _Origin:
        """The origin of a tensor; an empty one where nothing is known."""
        source: _Origin
        for known, source in reversed(self.known):
            if known is tensor:
                return source
        values = _values(tensor)
        if values is None:
            return _Origin()
        alike = [(seen, source) for known, source in reversed(self.known) if (seen := _like(known, values)) is not None]
        for seen, source in alike:
            if np.array_equal(seen, values):
                return source
        for seen, source in alike:
            if function_of_each(seen, values):
                return replace(source, bias=False, data=False)
        return _Origin()


def function_of_each(x: NDArray[Any], y: NDArray[Any]) -> bool:
    """True if one array looks like a function of each element of another.

    Args:
        x: any shape.
        y: the same shape.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(8, 8))
        >>> function_of_each(x, np.tanh(x)), function_of_each(x, x.T)
        (True, False)
    """
    different, ranks = np.unique(y, return_inverse=True)
    if x.size < FEW_VALUES or len(different) < FEW_DIFFERENT:
        return False
    order = np.lexsort((ranks.ravel(), np.asarray(x).ravel()))
    largest = len(different) - 1
    steps = np.abs(np.diff(ranks.ravel()[order])).mean()
    return bool(steps < UNRELATED * largest)


def neighbours(model: Any, layers: Iterable[KerasLayer], forward: Callable[[], object]) -> dict[str, Neighbours]:
    """The neighbours of batch norms, in functional, sequential and nested models and in those of the user's own class.

    Args:
        model: any.
        layers: its batch norms.
        forward: runs the model on a few samples in inference mode.
    """
    following = _Following()
    names = {id(layer.norm): layer.name for layer in layers}
    front: dict[str, tuple[_Origin, int]] = {}
    behind: dict[str, set[int]] = {}

    def around(below: Callable[..., Any], layer: Any) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            inputs = [each for each in tree.flatten((args[:1], named.get("inputs"))) if _is_array(each)]
            if layer is model:
                for each in inputs:
                    following.put(each, _Origin(data=True))
                return below(*args, **named)
            known = id(layer) in names or isinstance(layer, (*CONVOLUTIONS, *LAST, *EACH))
            origins = [following.origin(each) for each in inputs] if known else []
            result = below(*args, **named)
            if origins:
                following.put(result, _made(layer, inputs[0], origins, result))
            return result

        def _made(layer: Any, x: Any, origins: list[_Origin], result: Any) -> _Origin:
            first, rank = origins[0], len(x.shape)
            if id(layer) in names:
                name = names[id(layer)]
                front.setdefault(name, (first, rank))
                return _Origin(first.axis, norms=frozenset({name}))
            if isinstance(layer, EACH):
                norms = frozenset().union(*(each.norms for each in origins))
                return replace(first, bias=False, data=False, norms=norms)
            for norm in first.norms:
                behind.setdefault(norm, set()).add(_features(layer, rank))
            return _Origin(_features(layer, len(getattr(result, "shape", x.shape))), bias_of(layer))

        return call

    with ExitStack() as ends:
        for layer in {id(each): each for each in model._flatten_layers()}.values():
            ends.callback(cover(layer, partial(around, layer=layer)))
        forward()
    return {name: _told(origin, behind.get(name, set())) for name, (origin, _) in front.items()}


def bias_of(layer: Any) -> bool:
    """True if a layer adds a bias and does nothing behind it.

    Example:
        >>> bias_of(keras.layers.Dense(2)), bias_of(keras.layers.Dense(2, "relu")), bias_of(keras.layers.ReLU())
        (True, False, False)
    """
    linear = isinstance(layer, (*CONVOLUTIONS, keras.layers.Dense, keras.layers.EinsumDense))
    plain = getattr(layer, "activation", None) in (None, keras.activations.linear)
    return linear and plain and (bool(getattr(layer, "use_bias", False)) or getattr(layer, "bias", None) is not None)


def weighted(model: Any) -> Mapping[str, Any]:
    """The layers that have weights of their own or hold a cell that has, by their paths; none inside of such a holder.

    Example:
        >>> [*weighted(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1), keras.layers.ReLU()], name="m"))]
        ['m/dense']
    """
    found: dict[str, Any] = {}

    def visit(layer: Any) -> None:
        holder = isinstance(layer, keras.layers.RNN | keras.layers.Wrapper)
        if (holder and layer.weights) or layer._trainable_variables:
            found.setdefault(layer.path or layer.name, layer)
        if not holder:
            for each in layer._flatten_layers(include_self=False, recursive=False):
                visit(each)

    visit(model)
    return found


def _features(layer: Any, rank: int) -> int:
    first = isinstance(layer, CONVOLUTIONS) and layer.data_format == "channels_first"
    return 1 if first else rank - 1


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and len(value.shape) > 1


def _values(tensor: Any) -> NDArray[Any] | None:
    """None for what has no values: inside a function that a backend makes of a layer's call."""
    traced = type(tensor).__name__ in ("SymbolicTensor", "KerasTensor") or "Tracer" in type(tensor).__name__
    return None if traced or not _is_array(tensor) else np.asarray(ops.convert_to_numpy(tensor))


def _like(known: Any, values: NDArray[Any]) -> NDArray[Any] | None:
    """The values of a known tensor where it has the shape of these."""
    return _values(known) if tuple(known.shape) == values.shape else None


def _told(origin: _Origin, behind: set[int]) -> Neighbours:
    axes = behind | ({origin.axis} if origin.axis is not None else set())
    return Neighbours(origin.bias, origin.data, axes.pop() if len(axes) == 1 else None)
