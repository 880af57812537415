"""The gradient of a loss at what comes into the batch norms of a Keras model, on each backend."""

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


def input_gradients(layers: list[KerasLayer], loss: Callable[[], Any]) -> dict[str, float]:
    """The root mean square of the gradient at each layer's input, in the order of their first calls.

    The layers normalize by the batch, as in training, whatever the model is called with; they move their statistics.

    Args:
        layers: batch norms of one model.
        loss: runs the model, and gives a tensor of one number.
    """
    measure = {"torch": _on_torch, "tensorflow": _on_tensorflow, "jax": _on_jax}[keras.backend.backend()]
    found: dict[str, list[Any]] = {}
    for name, gradient in measure(layers, lambda: ops.mean(loss())):
        if gradient is not None:
            found.setdefault(name, []).append(np.square(ops.convert_to_numpy(gradient).astype(np.float64)).ravel())
    return {name: float(np.sqrt(np.concatenate(squares).mean())) for name, squares in found.items()}


def _on_torch(layers: list[KerasLayer], loss: Callable[[], Any]) -> Iterator[tuple[str, Any]]:
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


def _on_tensorflow(layers: list[KerasLayer], loss: Callable[[], Any]) -> Iterator[tuple[str, Any]]:
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


def _on_jax(layers: list[KerasLayer], loss: Callable[[], Any]) -> Iterator[tuple[str, Any]]:
    """By zeros that are added to the inputs: JAX differentiates by arguments only."""
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
def _training(layers: list[KerasLayer], probe: Probe) -> Iterator[None]:
    """Inside, the layers are called in training mode, with what the probe makes of their inputs."""
    with ExitStack() as ends:
        for layer in layers:

            def around(below: Callable[..., Any], layer: KerasLayer = layer) -> Callable[..., Any]:
                def call(*args: Any, **named: Any) -> Any:
                    if layer.input_in(args, named) is None:
                        return below(*args, **named)
                    return below(*_with_probe(args, named, lambda x: probe(layer.name, x)), **_but_inputs(named))

                return call

            ends.callback(cover(layer.norm, around))
        yield


def _with_probe(args: tuple[Any, ...], named: Mapping[str, Any], probe: Callable[[Any], Any]) -> tuple[Any, ...]:
    """The positional arguments: inputs, training, and what stands behind."""
    inputs = args[0] if args else named["inputs"]
    return probe(inputs), True, *args[2:]


def _but_inputs(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if name not in ("inputs", "training")}
