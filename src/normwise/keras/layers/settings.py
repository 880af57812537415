"""The arguments that Keras's layer does not have: what is refused, and how they are written into a layer's config."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import keras

from normwise.estimators import Estimator, estimator_class, named, names


def estimator_from(
    estimator: Estimator | str | dict[str, Any] | None, momentum: float, renorm: bool
) -> Estimator | None:
    """The estimator that an argument or an entry of a config stands for.

    Args:
        estimator: one, its name, what ``settings_of`` writes for it, or None.
        momentum: Keras's; one given by its name takes ``1 - momentum`` for its weight.
        renorm: whether the layer's statistics are those of batch renormalization, which are moved by themselves.

    Raises:
        TypeError: something else.
        ValueError: with ``renorm``.
    """
    if not isinstance(estimator, Estimator | str | dict | None):
        raise TypeError(
            f"estimator must be a name or a normwise.estimators.Estimator, received {type(estimator).__name__}: "
            "pass for example 'pooled'."
        )
    if renorm and estimator is not None:
        raise ValueError(
            f"renorm=True moves its statistics by itself, received estimator={estimator!r} too: leave one of them out."
        )
    if isinstance(estimator, str):
        return named(estimator, weight_of_new=1.0 - momentum)
    if isinstance(estimator, dict):
        return estimator_class(estimator["name"])(**estimator["settings"])
    return estimator


def settings_of(activation: Any, estimator: Estimator | None, on_tiny_batch: str) -> dict[str, Any]:
    """The entries of a config for what is not at its default, so that Keras's own layer reads one without them."""
    entries: dict[str, Any] = {}
    if activation is not None:
        entries["activation"] = keras.activations.serialize(activation)
    if estimator is not None:
        (name,) = (name for name in names() if estimator_class(name) is type(estimator))
        entries["estimator"] = {"name": name, "settings": asdict(estimator)}  # type: ignore[call-overload]  # a dataclass
    if on_tiny_batch != "error":
        entries["on_tiny_batch"] = on_tiny_batch
    return entries
