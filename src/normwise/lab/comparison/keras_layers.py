"""A Keras model with another normalization in the places of its batch norms.

The layers stay where they are in the model, whatever kind of model it is, and hand their calls on: so functional,
sequential and subclassed models, models in models and layers in wrappers are all reached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from normwise.errors import NormwiseError
from normwise.keras import BatchNormalization, GhostBatchNormalization
from normwise.lab.comparison.arms import WITH_STATISTICS, groups

LEARNED = [f"{weight}_{what}" for weight in ("beta", "gamma") for what in ("initializer", "regularizer", "constraint")]
TAKEN = ("axis", "epsilon", "center", "scale", "dtype", "trainable", *LEARNED)
"""Settings of a batch norm that the layer in its place has too."""


def batch_norms(model: Any) -> dict[str, Any]:
    """Every batch norm by its path.

    Raises:
        NormwiseError: there is none, or one does more than normalizing.
    """
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    if not norms:
        raise NormwiseError(
            "MODEL has no batch norm whose place another normalization could take: build it with "
            "keras.layers.BatchNormalization where one is to be."
        )
    found = {layer.path or layer.name: layer for layer in norms}
    for name, layer in found.items():
        if getattr(layer, "activation", None) is not None:
            raise NormwiseError(
                f"MODEL's batch norm {name} has an activation of its own: build it with the activation as a layer "
                "behind it, and join the two after the comparison."
            )
    return found


def layer_for(norm: Any, normalizer: str, batch: int) -> Any:
    """The layer that takes the place of a built batch norm; None for none."""
    config = norm.get_config()
    settings = {name: config[name] for name in TAKEN if name in config}
    axis = norm.axis if isinstance(norm.axis, int) else norm.axis[0]
    channels = norm.moving_mean.shape[0]
    if normalizer == "none":
        return None
    if normalizer in WITH_STATISTICS:
        settings["momentum"] = norm.momentum
        if normalizer == "ghost":
            return GhostBatchNormalization(virtual_batch_size=max(2, min(16, batch // 2)), **settings)
        return BatchNormalization(renorm=normalizer == "renorm", **settings)
    number = {"group": groups(channels), "layer": 1, "instance": channels}[normalizer]
    return keras.layers.GroupNormalization(number, **{**settings, "axis": axis})


class Slot:
    """The place of a batch norm, which hands its calls on to another layer.

    Args:
        norm: the batch norm, built; it keeps its place in the model.
        normalizer: what takes the place.
        batch: size of the batches of training.
    """

    def __init__(self, norm: Any, normalizer: str, batch: int) -> None:
        self._name, self._normalizer = norm.name, normalizer
        self.layer = layer_for(norm, normalizer, batch)
        self.has_statistics = normalizer in WITH_STATISTICS
        self.ahead: Callable[[Any], Any] = _same
        self.behind: Callable[[Any], Any] = _same
        self.by_batch = False
        for weight in (norm.gamma, norm.beta):
            if weight is not None:
                weight.trainable = False
        if self.layer is not None:
            norm._tracker.unlock()  # a built layer takes no other; this one only carries it for the model to find
            norm.normwise_in_this_place = self.layer
            norm._tracker.lock()
        norm.call = self._call

    def _call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        x = self.ahead(inputs)
        if self._normalizer == "instance" and len(x.shape) < 3:
            raise NormwiseError(
                f"layer {self._name!r} gets {len(x.shape)} axes, and instance norm takes moments over places: "
                "leave it out."
            )
        if self.layer is None:
            y = x
        elif self.has_statistics:
            y = self.layer(x, training=self.by_batch or training, mask=mask)
        else:
            y = self.layer(x)
        return self.behind(y)

    @property
    def statistics(self) -> list[Any]:
        """The weights that training moves and does not learn, as arrays."""
        return [keras.ops.convert_to_numpy(weight) for weight in self.layer.non_trainable_variables]

    @statistics.setter
    def statistics(self, values: list[Any]) -> None:
        for weight, value in zip(self.layer.non_trainable_variables, values, strict=True):
            weight.assign(value)


def replace(model: Any, normalizer: str, batch: int) -> dict[str, Slot]:
    """Change a built model in place: each batch norm makes room for a new layer; the slots by the norms' paths."""
    return {name: Slot(norm, normalizer, batch) for name, norm in batch_norms(model).items()}


def _same(x: Any) -> Any:
    return x
