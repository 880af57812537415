"""A layer's output and gradients as NumPy arrays, on whichever backend this process has."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
from keras import ops
from numpy.typing import NDArray

Array = NDArray[Any]
BACKEND: str = keras.backend.backend()


class Result(NamedTuple):
    """The output and its gradients; None for what was not given or is not learned."""

    y: Array
    x: Array
    residual: Array | None
    scale: Array | None
    shift: Array | None


def values(tensor: Any) -> Array:
    """A tensor or one of Keras's variables as a NumPy array."""
    found: Array = ops.convert_to_numpy(getattr(tensor, "value", tensor))
    return found


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Let JAX have float64 in the block, as the others have it anyway."""
    if BACKEND != "jax":
        yield
        return
    import jax

    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


def call(layer: Any, x: Array, dy: Array, residual: Array | None = None, **arguments: Any) -> Result:
    """Forward and backward of a built layer; its statistics move once, as in any call."""
    inputs = [ops.convert_to_tensor(value) for value in (x, residual) if value is not None]
    outputs = {"jax": _by_jax, "tensorflow": _by_tensorflow, "torch": _by_torch}[BACKEND](layer, inputs, dy, arguments)
    y, gradients = outputs
    found = [values(gradient) for gradient in gradients]
    learned = iter(found[len(inputs) :])
    return Result(
        values(y),
        found[0],
        found[1] if residual is not None else None,
        next(learned) if layer.scale else None,
        next(learned) if layer.center else None,
    )


def _arguments(inputs: list[Any]) -> dict[str, Any]:
    return {"residual": inputs[1]} if len(inputs) > 1 else {}


def _by_torch(layer: Any, inputs: list[Any], dy: Array, arguments: dict[str, Any]) -> tuple[Any, list[Any]]:
    torch: Any = sys.modules["torch"]
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    y = layer(leaves[0], **_arguments(leaves), **arguments)
    learned = [variable.value for variable in layer.trainable_variables]
    return y.detach(), list(torch.autograd.grad(y, [*leaves, *learned], torch.as_tensor(dy).to(y.dtype)))


def _by_tensorflow(layer: Any, inputs: list[Any], dy: Array, arguments: dict[str, Any]) -> tuple[Any, list[Any]]:
    import tensorflow as tf

    learned = [variable.value for variable in layer.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = layer(inputs[0], **_arguments(inputs), **arguments)
    return y, list(tape.gradient(y, [*inputs, *learned], tf.cast(dy, y.dtype)))


def _by_jax(layer: Any, inputs: list[Any], dy: Array, arguments: dict[str, Any]) -> tuple[Any, list[Any]]:
    import jax

    fixed = [variable.value for variable in layer.non_trainable_variables]

    @jax.jit  # compiled once for all, where JAX would else compile every operation
    def both(inputs: list[Any], learned: list[Any], dy: Any) -> Any:
        def stateless(inputs: list[Any], learned: list[Any]) -> Any:
            return layer.stateless_call(learned, fixed, inputs[0], **_arguments(inputs), **arguments)

        y, pull, after = jax.vjp(stateless, inputs, learned, has_aux=True)
        return y, pull(dy.astype(y.dtype)), after

    learned = [variable.value for variable in layer.trainable_variables]
    y, (of_inputs, of_learned), after = both(inputs, learned, jax.numpy.asarray(dy))
    for variable, value in zip(layer.non_trainable_variables, after, strict=True):
        variable.assign(value)
    return y, [*of_inputs, *of_learned]
