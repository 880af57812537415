"""Batch norms before or behind an activation in a Keras model, and the moves to the other side of the activation.

Sequential and functional models say which layer follows which; what a subclassed model's ``call`` does cannot be told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from normwise.lab.comparison.arms import AS_BUILT
from normwise.lab.comparison.keras_layers import Slot, batch_norms

ACTIVATIONS = {
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu",
    "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softplus", "softsign",
    "squareplus", "tanh", "tanh_shrink",
}  # fmt: skip
"""Names of those that work value by value; softmax and the like do not."""
LAYERS = (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)
NO_NEIGHBOUR = "no activation stands right beside it"


@dataclass(frozen=True)
class Place:
    """The place of a batch norm.

    Args:
        where: ``"before"`` or ``"after"`` the activation; None if that cannot be told or changed.
        why: it cannot.
        move: to the other side, given what took the norm's place.
    """

    where: str | None
    why: str = ""
    move: Callable[[Slot], None] | None = None


def places(model: Any) -> dict[str, Place]:
    """Every batch norm's place, by its path."""
    neighbours: dict[int, tuple[Any, Any]] = {}
    for part in model._flatten_layers():
        if isinstance(part, keras.Sequential):
            _in_order(part, neighbours)
        elif isinstance(part, keras.Model) and hasattr(part, "_nodes_by_depth"):
            _in_graph(part, neighbours)
    found = {}
    for name, norm in batch_norms(model).items():
        if id(norm) not in neighbours:
            found[name] = Place(None, "it is called more than once, or by a subclassed model or a wrapper")
        else:
            found[name] = _place(*neighbours[id(norm)])
    return found


def choices(found: dict[str, Place]) -> tuple[str, ...]:
    """The choices to compare: the model as it was built, and each side to which a batch norm can be moved."""
    sides = {"before": "after", "after": "before"}
    others = {sides[place.where] for place in found.values() if place.where is not None}
    return (AS_BUILT, *sorted(others))


def moves(model: Any, where: str) -> list[tuple[str, Callable[[Slot], None]]]:
    """The paths of the batch norms that are to be moved there, each with what does it."""
    if where == AS_BUILT:
        return []
    return [(name, each.move) for name, each in places(model).items() if each.move is not None and each.where != where]


def _in_order(model: Any, neighbours: dict[int, tuple[Any, Any]]) -> None:
    layers = [None, *model.layers, None]
    for at, layer in enumerate(layers):
        if isinstance(layer, keras.layers.BatchNormalization):
            neighbours[id(layer)] = (layers[at - 1], layers[at + 1])


def _in_graph(model: Any, neighbours: dict[int, tuple[Any, Any]]) -> None:
    nodes = [node for depth in model._nodes_by_depth.values() for node in depth]
    users: dict[int, list[Any]] = {}
    calls: dict[int, int] = {}
    outputs = {id(tensor) for tensor in model.outputs}
    for node in nodes:
        calls[id(node.operation)] = calls.get(id(node.operation), 0) + 1
        for parent in node.parent_nodes:
            users.setdefault(id(parent), []).append(node)

    def alone(node: Any) -> bool:
        """True if only one other operation takes the output of this node, and its operation has no other call."""
        seen = any(id(tensor) in outputs for tensor in node.output_tensors)
        return len(users.get(id(node), [])) == 1 and calls[id(node.operation)] == 1 and not seen

    for node in nodes:
        norm = node.operation
        if isinstance(norm, keras.layers.BatchNormalization) and calls[id(norm)] == 1:
            source = node.parent_nodes[0] if len(node.parent_nodes) == 1 else None
            behind = source.operation if source is not None and alone(source) else None
            after = users.get(id(node), [])
            ahead = after[0].operation if alone(node) and calls[id(after[0].operation)] == 1 else None
            neighbours[id(norm)] = (behind, ahead)


def _place(behind: Any, ahead: Any) -> Place:
    layer_behind, layer_ahead = _activates(behind), _activates(ahead)
    inside = not layer_behind and _named(getattr(behind, "activation", None))
    if (layer_behind or inside) and layer_ahead:
        return Place(None, "an activation stands on each side of it")
    if layer_ahead:
        return Place("before", "", lambda slot: _take(ahead, slot, "ahead"))
    if layer_behind:
        return Place("after", "", lambda slot: _take(behind, slot, "behind"))
    if inside:
        return Place("after", "", lambda slot: _take_inside(behind, slot))
    return Place(None, NO_NEIGHBOUR)


def _activates(layer: Any) -> bool:
    if isinstance(layer, keras.layers.Activation):
        return _named(layer.activation)
    return type(layer) in LAYERS


def _named(function: Any) -> bool:
    """True if this is one of Keras's functions that work value by value."""
    name = getattr(function, "__name__", "")
    return name in ACTIVATIONS and function is getattr(keras.activations, name, None)


def _take(activation: Any, slot: Slot, side: str) -> None:
    """Let the slot do the activation, on the other side of the normalization, and the layer nothing."""
    setattr(slot, side, activation.call)
    activation.call = lambda inputs, *_, **__: inputs


def _take_inside(layer: Any, slot: Slot) -> None:
    slot.behind = layer.activation
    layer.activation = keras.activations.linear
