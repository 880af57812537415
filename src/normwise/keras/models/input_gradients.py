"""The gradient of a loss at what comes into the layers of a Keras model, on each backend."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from normwise.keras.models.keras_layer import KerasLayer, cover

Probe = Callable[[str, Any], Any]
Layer = tuple[str, Any, KerasLayer | None]
"""A layer's name, the layer, and what is known of it if it is a batch norm."""


def input_gradients(weighted: Mapping[str, Any], norms: list[KerasLayer], loss: Callable[[], Any]) -> dict[str, float]:
    """The root mean square of the gradient at each layer's input, in the order of their first calls.

    The batch norms normalize by the batch, as in training, whatever the model is called with; they move their
    statistics. Inputs that are no floats have no gradient.

    Args:
        weighted: layers of one model with weights, by their names.
        norms: its batch norms.
        loss: runs the model, and gives a tensor of one number.
    """
    inside = {id(layer.norm) for layer in norms}
    layers: list[Layer] = [(name, layer, None) for name, layer in weighted.items() if id(layer) not in inside]
    layers += [(layer.name, layer.norm, layer) for layer in norms]
    measure = {"torch": _on_torch, "tensorflow": _on_tensorflow, "jax": _on_jax}[keras.backend.backend()]
    found: dict[str, list[Any]] = {}
    for name, gradient in measure(layers, lambda: ops.mean(loss())):
        if gradient is not None:
            found.setdefault(name, []).append(np.square(ops.convert_to_numpy(gradient).astype(np.float64)).ravel())
    return {name: float(np.sqrt(np.concatenate(squares).mean())) for name, squares in found.items()}


def _on_torch(layers: list[Layer], loss: Callable[[], Any]) -> Iterator[tuple[str, Any]]:
    torch = sys.modules["torch"]
    names: list[str] = []
    inputs: list[Any] = []

    def probe(name: str, x: Any) -> Any:
        x = x if x.requires_grad else x.detach().clone().requires_grad_()
        names.append(name)
        inputs.append(x)
        return x

    with torch.enable_grad(), _training(layers, probe):
        value = loss()
        gradients = torch.autograd.grad(value, inputs, allow_unused=True) if inputs else ()
    yield from zip(names, gradients, strict=True)


def _on_tensorflow(layers: list[Layer], loss: Callable[[], Any]) -> Iterator[tuple[str, Any]]:
    names: list[str] = []
    inputs: list[Any] = []
    with sys.modules["tensorflow"].GradientTape(watch_accessed_variables=False) as tape:

        def probe(name: str, x: Any) -> Any:
            x = ops.convert_to_tensor(x)
            tape.watch(x)
            names.append(name)
            inputs.append(x)
            return x

        with _training(layers, probe):
            value = loss()
    yield from zip(names, tape.gradient(value, inputs) if inputs else (), strict=True)


def _on_jax(layers: list[Layer], loss: Callable[[], Any]) -> Iterator[tuple[str, Any]]:
    """The gradients by zeros that are added to the inputs: JAX differentiates by arguments only."""
    names: list[str] = []
    zeros: list[Any] = []

    def note(name: str, x: Any) -> Any:
        names.append(name)
        zeros.append(ops.zeros(x.shape, x.dtype))
        return x

    def of(added: list[Any]) -> Any:
        left = iter(added)
        with keras.StatelessScope(), _training(layers, lambda _, x: x + next(left)):
            return loss()

    with keras.StatelessScope(), _training(layers, note):
        loss()
    yield from zip(names, sys.modules["jax"].grad(of)(zeros) if zeros else (), strict=True)


@contextmanager
def _training(layers: list[Layer], probe: Probe) -> Iterator[None]:
    """Call layers in the block with what the probe makes of their inputs, batch norms in training mode."""
    with ExitStack() as ends:
        for name, layer, norm in layers:

            def around(
                below: Callable[..., Any], name: str = name, norm: KerasLayer | None = norm
            ) -> Callable[..., Any]:
                def call(*args: Any, **named: Any) -> Any:
                    x = args[0] if args else named.get("inputs")
                    if norm is None:
                        return (
                            below(*(probe(name, x), *args[1:]), **named)
                            if args and _is_float(x)
                            else below(*args, **named)
                        )
                    if norm.input_in(args, named) is None:
                        return below(*args, **named)
                    return below(probe(name, x), True, *args[2:], **_but_inputs(named))

                return call

            ends.callback(cover(layer, around))
        yield


def _is_float(x: Any) -> bool:
    return hasattr(x, "dtype") and hasattr(x, "shape") and "float" in keras.backend.standardize_dtype(x.dtype)


def _but_inputs(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if name not in ("inputs", "training")}
