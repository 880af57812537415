"""The layers that the batch norms of a Keras model's graph can be folded into, and the reason where one cannot."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import tree
from keras.src.models.functional import Functional  # keras.Model(inputs, outputs) makes one

from normwise.frameworks import with_article
from normwise.keras.layers.batch_normalization import BatchNormalization
from normwise.keras.layers.domains import PerDomainBatchNormalization
from normwise.keras.layers.ghost import GhostBatchNormalization
from normwise.keras.models.fold_weights import (
    LINEAR,
    Affine,
    Weights,
    affine_of,
    behind,
    channels_out,
    in_front,
    weights_of,
    why_not_behind,
)

KNOWN = {keras.layers.BatchNormalization, BatchNormalization, GhostBatchNormalization}


class Planned(NamedTuple):
    """A batch norm, and the layer that takes it over."""

    norm: Any
    into: Any

    @property
    def stays(self) -> str:
        """The activation that stays in the place of the batch norm; empty where there is none."""
        return "" if activation_of(self.norm) is None else str(keras.activations.serialize(self.norm.activation))


def activation_of(layer: Any) -> Any:
    """The layer's activation; None for the identity."""
    found = getattr(layer, "activation", None)
    return None if found is keras.activations.linear else found


def graph_of(model: Any) -> Any:
    """The functional model that runs, also for a sequential one; None for a model whose calls are no graph.

    A class derived from these, whose own ``call`` may do more than its graph, has none.
    """
    if "call" in vars(model) or getattr(type(model), "call", None) not in (Functional.call, keras.Sequential.call):
        return None
    graph = getattr(model, "_functional", None) if isinstance(model, keras.Sequential) else model
    return graph if hasattr(graph, "_nodes_by_depth") else None


class Plan:
    """The changes that ``fold`` would make; nothing is changed.

    Args:
        model: functional or sequential, built.
        names: of its layers, by id.

    Attributes:
        folded: the batch norms, each with the layer that takes it over.
        changed: the layers that take something over, by id, with their new weights.
    """

    def __init__(self, model: Any, names: dict[int, str]) -> None:
        self.folded: list[Planned] = []
        self.changed: dict[int, Weights] = {}
        self._names = names
        self._calls: dict[int, list[Any]] = {}
        self._maker: dict[int, Any] = {}
        self._users: dict[int, list[Any]] = {}
        self._outputs: Counter[int] = Counter()
        self._visit(graph_of(model))
        self._owners: dict[int, list[Any]] = {}
        for layer in {id(each): each for each in model._flatten_layers()}.values():
            for variable in (*layer._trainable_variables, *layer._non_trainable_variables):
                self._owners.setdefault(id(variable), []).append(layer)

    def _visit(self, graph: Any) -> None:
        inside = []
        for node in (node for nodes in graph._nodes_by_depth.values() for node in nodes):
            self._calls.setdefault(id(node.operation), []).append(node)
            for tensor in node.output_tensors:
                self._maker[id(tensor)] = node
            for tensor in () if node.is_input else node.input_tensors:
                self._users.setdefault(id(tensor), []).append(node)
            inside.append(node.operation)
        self._outputs.update(id(tensor) for tensor in tree.flatten(graph.outputs))
        for operation in {id(each): each for each in inside}.values():
            if isinstance(operation, keras.Model) and graph_of(operation) is not None:
                self._visit(graph_of(operation))

    def add(self, norm: Any) -> str | None:
        """Plan to fold the batch norm; the reason where that cannot be."""
        why = self._against_norm(norm) or self._against(norm)
        if why is not None:
            return why
        node = self._calls[id(norm)][0]
        affine = affine_of(norm, self._now(norm))
        before = self._front(node)
        first = before if isinstance(before, str) else self._into_front(norm, before.operation, affine)
        if first is None or activation_of(norm) is not None:
            return first
        after = self._behind(node)
        if isinstance(after, str):
            return f"{first}, and {after}" if isinstance(before, str) else first
        second = self._into_behind(norm, after.operation, affine)
        return None if second is None else f"{first}, and {second}"

    def _front(self, node: Any) -> Any:
        while True:
            tensor = node.input_tensors[0]
            node = self._maker[id(tensor)]
            what = "the input of the model" if node.is_input else with_article(type(node.operation).__name__)
            if len(self._users[id(tensor)]) + self._outputs[id(tensor)] > 1:
                return f"the output of {what} in front of it is used in more than one place"
            if not self._passes(node.operation):
                break
        if isinstance(node.operation, (*LINEAR, keras.layers.BatchNormalization)):
            return node
        return f"no convolution, dense layer or batch norm is in front of it, but {what}"

    def _behind(self, node: Any) -> Any:
        while True:
            tensor = node.output_tensors[0]
            users = self._users.get(id(tensor), [])
            if len(users) + self._outputs[id(tensor)] > 1:
                return "its own output is used in more than one place"
            if not users:
                return "nothing is behind it"
            node = users[0]
            if not self._passes(node.operation):
                break
        if isinstance(node.operation, LINEAR):
            return node
        return f"what is behind it is {with_article(type(node.operation).__name__)}"

    def _into_front(self, norm: Any, layer: Any, affine: Affine) -> str | None:
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        why = self._against_norm(layer) if is_norm else self._against_linear(layer)
        if why is None and activation_of(layer) is not None:
            why = "it has an activation between the two"
        why = why or self._against(layer) or self._against_axes(layer, norm)
        if why is None and channels_out(layer) != len(affine.scale):
            why = f"it has {channels_out(layer)} channels and the batch norm {len(affine.scale)}"
        if why is not None:
            return f"{self._names[id(layer)]} in front of it cannot take it: {why}"
        return self._take(norm, layer, behind(layer, self._now(layer), affine))

    def _into_behind(self, norm: Any, layer: Any, affine: Affine) -> str | None:
        why = self._against_linear(layer) or self._against(layer) or self._against_axes(layer, norm)
        why = why or why_not_behind(layer, affine)
        if why is not None:
            return f"{self._names[id(layer)]} behind it cannot take it: {why}"
        return self._take(norm, layer, in_front(layer, self._now(layer), affine))

    def _take(self, norm: Any, layer: Any, changed: Weights) -> str | None:
        for value in changed.values():
            with np.errstate(over="ignore"):
                fits = np.isfinite(keras.ops.convert_to_numpy(keras.ops.cast(value, layer.variable_dtype))).all()
            if not fits:
                kind = layer.variable_dtype
                return f"{self._names[id(layer)]} cannot take it: its new weights would not be finite in {kind}"
        self.changed[id(layer)] = changed
        self.folded.append(Planned(norm, layer))
        return None

    def _passes(self, operation: Any) -> bool:
        folded = any(operation is each.norm for each in self.folded) and activation_of(operation) is None
        return type(operation) in (keras.layers.Identity, keras.layers.Dropout) or folded

    def _now(self, layer: Any) -> Weights:
        return self.changed[id(layer)] if id(layer) in self.changed else weights_of(layer)

    def _against(self, layer: Any) -> str | None:
        calls = self._calls.get(id(layer), [])
        if not calls:
            return "it is in a wrapper or a layer of its own class, whose calls are no graph"
        if len(calls) > 1:
            return "it is called more than once"
        if "call" in vars(layer):
            return "its call was replaced on the instance"
        arguments = calls[0].arguments
        more = {
            name for name, value in arguments.kwargs.items() if value is not None and name not in ("mask", "training")
        }
        if len(calls[0].input_tensors) > 1 and not (len(calls[0].input_tensors) == 2 and "mask" in arguments.kwargs):
            return "it is called with more than its input"
        if more or len(arguments.args) > 1:
            return "it is called with more than its input"
        if arguments.kwargs.get("training"):
            return "it is called with training=True: it normalizes by the batch"
        for variable in (*layer._trainable_variables, *layer._non_trainable_variables):
            others = [each for each in self._owners.get(id(variable), []) if each is not layer]
            if others:
                return f"it shares a variable with {self._names[id(others[0])]}"
        return None

    def _against_norm(self, norm: Any) -> str | None:
        if isinstance(norm, PerDomainBatchNormalization):
            return "it keeps statistics for each domain, and one layer would be of one only"
        if type(norm) not in KNOWN:
            return f"it is {with_article(type(norm).__name__)}, which may do something else than a batch norm does"
        return None if norm.built else "it is not built: no input ever came to it"

    def _against_linear(self, layer: Any) -> str | None:
        if type(layer) not in LINEAR:
            return (
                f"it is {with_article(type(layer).__name__)}, which may do something else than what it is derived from"
            )
        if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
            return "its kernel is quantized or has a LoRA part"
        return None

    def _against_axes(self, layer: Any, norm: Any) -> str | None:
        axes = len(self._calls[id(norm)][0].input_tensors[0].shape)
        last = getattr(layer, "data_format", "channels_last") == "channels_last"
        wanted = axes - 1 if last else 1
        if isinstance(layer, keras.layers.BatchNormalization):
            wanted = layer.axis % axes
        if norm.axis % axes == wanted:
            return None
        return f"its channels are on axis {wanted} and those of the batch norm on axis {norm.axis % axes}"
