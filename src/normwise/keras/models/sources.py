"""The differences between a Keras model and the one that it was derived from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from normwise.keras.models.keras_layer import KerasLayer

Side = tuple[Any, Sequence[KerasLayer]]
"""A model and its batch norms."""


def pairs(mine: Side, theirs: Side) -> list[tuple[KerasLayer, KerasLayer]]:
    """The layers of a model with those of its source, told by their paths, or else by their order.

    Keras counts names up, so that layers of two models made alike are called differently.
    """
    names = {_inside(layer.name, theirs[0]): layer for layer in theirs[1]}
    by_name = [(layer, names[inside]) for layer in mine[1] if (inside := _inside(layer.name, mine[0])) in names]
    in_order = list(zip(mine[1], theirs[1], strict=False))
    alike = len(mine[1]) == len(theirs[1]) and all(a.channels == b.channels for a, b in in_order)
    return in_order if alike and len(by_name) < len(in_order) else by_name


def _inside(path: str, model: Any) -> str:
    return path.removeprefix(f"{model.name}/")


def weights_apart(mine: Any, theirs: Any) -> float:
    """The distance of the weights that both have, in their order where there are as many, or else by their paths."""
    sides = [{_inside(each.path, model): each for each in model.trainable_variables} for model in (mine, theirs)]
    if [v.shape for v in sides[0].values()] == [v.shape for v in sides[1].values()]:
        both = list(zip(sides[0].values(), sides[1].values(), strict=True))
    else:
        both = [(v, sides[1][path]) for path, v in sides[0].items() if path in sides[1]]
        both = [(p, q) for p, q in both if p.shape == q.shape]
    values = [[ops.convert_to_numpy(each.value).astype(np.float64) for each in pair] for pair in both]
    size = sum(float(np.square(q).sum()) for _, q in values) or 1.0
    return float((sum(float(np.square(p - q).sum()) for p, q in values) / size) ** 0.5)
