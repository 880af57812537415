"""The layer on JAX's arrays: the compiled CPU kernels as XLA's custom calls, with derivatives of any order.

With ``jax_derivatives.py`` the only file of this room that imports jax; imported on the JAX backend, when a layer is
first called. Only training is here: by running statistics, XLA's own code is as fast, and joins what stands next to it.
"""

from __future__ import annotations

import math
import os
import warnings
from functools import cache, partial
from importlib import import_module
from typing import Any

import jax
import keras
import numpy as np
from jax import numpy as jnp

from normwise.installation import kernels_command
from normwise.keras.steps import jax_derivatives
from normwise.keras.steps.jax_derivatives import Task
from normwise.keras.steps.normalize import Normalized
from normwise.kernels.activation_numbers import ACTIVATIONS, ONE_BIT
from normwise.kernels.choose import VARIABLE, built_for_jax

_NO_BYTES = jax.ShapeDtypeStruct((0,), jnp.uint8)


def serves(x: Any, *, by_batch: bool) -> bool:
    """True if the kernels take the call.

    They do where JAX computes on the CPU and where no Keras distribution and no JAX mesh is in effect: XLA
    would gather a batch that is sharded in one place for them.
    """
    return (
        by_batch
        and os.environ.get(VARIABLE, "") in ("", "cpu")
        and jnp.issubdtype(x.dtype, jnp.floating)
        and x.dtype.itemsize > 1
        and jax.default_backend() == "cpu"
        and keras.distribution.distribution() is None
        and jax.sharding.get_abstract_mesh().empty
        and library() is not None
    )


@cache
def library() -> Any:
    """The compiled module, its handlers registered with XLA; None where it is not there or does not fit."""
    if not built_for_jax():
        return None
    try:
        found: Any = import_module("normwise.kernels._jax_kernels")
        for name, handler in found.handlers().items():
            jax.ffi.register_ffi_target(name, handler, platform="cpu")
    except Exception as error:
        warnings.warn(
            f"The compiled kernels do not fit the installed JAX {jax.__version__} ({error}); XLA's own code computes "
            f"in their place. Build them again beside this JAX: {kernels_command()}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return found


def by_batch(
    x: Any, scale: Any, shift: Any, epsilon: float, axis: int, activation: str | None, residual: Any
) -> Normalized:
    """Normalize by the batch, add the residual, and activate.

    Args:
        x: any rank from 2 on.
        scale: shape (C,), float32 or float64; or None.
        shift: the same.
        epsilon: added to the variance.
        axis: of the channels.
        activation: a name that the kernels know, or None.
        residual: the shape and the dtype of x, or None.

    Returns:
        the output and the moments, which are constants for any derivative.
    """
    axis %= x.ndim
    wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    gamma = jnp.ones(x.shape[axis], wide) if scale is None else scale
    beta = jnp.zeros(x.shape[axis], wide) if shift is None else shift
    given = (x, gamma, beta) if residual is None else (x, gamma, beta, residual)
    y, mean, var, _, _ = normalized(Task(axis, epsilon, activation), *given)
    return Normalized(y, jax.lax.stop_gradient(mean), jax.lax.stop_gradient(var))


def move(moving_mean: Any, moving_variance: Any, batch: Normalized, momentum: float) -> bool:
    """False: the estimate step is left to ``keras.ops``, as XLA compiles it."""
    _ = moving_mean, moving_variance, batch, momentum
    return False


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def normalized(task: Task, *given: Any) -> tuple[Any, ...]:
    """The output, mean and variance; and for the backward the exact moments and the bits, as bytes.

    Args:
        task: what to do.
        given: x, scale, shift, and the residual if there is one.
    """
    x, scale = given[:2]
    moments = jax.ShapeDtypeStruct(scale.shape, scale.dtype)
    bits = _NO_BYTES
    if len(given) > 3 and task.activation in ONE_BIT:
        n, c, s = (math.prod(part) for part in (x.shape[: task.axis], scale.shape, x.shape[task.axis + 1 :]))
        bits = jax.ShapeDtypeStruct((library().bytes_of_bits(n, c, s, x.dtype == jnp.float64),), jnp.uint8)
    exact = jax.ShapeDtypeStruct((16 * scale.shape[0],), jnp.uint8)
    results = (jax.ShapeDtypeStruct(x.shape, x.dtype), moments, moments, exact, bits)
    return tuple(_call("normwise_forward", results, task, *_four(given)))


@normalized.defjvp
def _normalized_jvp(
    task: Task, given: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    found = normalized(task, *given)
    _, mean, var, exact, bits = found
    tangent = jax_derivatives.tangent(task, gradients, given, (exact, bits), tangents)
    none = [np.zeros(found.shape, jax.dtypes.float0) for found in (exact, bits)]
    return found, (tangent, jnp.zeros_like(mean), jnp.zeros_like(var), *none)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def gradients(task: Task, wants: tuple[bool, ...], dy: Any, exact: Any, bits: Any, *given: Any) -> tuple[Any, ...]:
    """The gradients of all that ``normalized`` got; without elements for an x or a residual that is not wanted."""
    x, scale = given[:2]
    of_parameters = jax.ShapeDtypeStruct(scale.shape, scale.dtype)
    of_x, of_residual = (
        jax.ShapeDtypeStruct(x.shape if wanted else (0,), x.dtype) for wanted in (wants[0], len(wants) > 3 and wants[3])
    )
    # Where bits tell the slope, the residual is not read, and so not kept for it.
    read = given[:3] if bits.size else given
    results = (of_x, of_parameters, of_parameters, of_residual)
    found = _call("normwise_backward", results, task, dy, *_four(read), exact, bits)
    return tuple(found[: len(given)])


@gradients.defjvp
def _gradients_jvp(
    task: Task, wants: tuple[bool, ...], primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    def plain(dy: Any, *given: Any) -> tuple[Any, ...]:
        of_all = jax.vjp(partial(jax_derivatives.plain, task), *given)[1](dy)
        return tuple(
            each if like.shape == each.shape else each.ravel()[:0] for each, like in zip(of_all, found, strict=True)
        )

    found = gradients(task, wants, *primals)
    (dy, _, _, *given), (ddy, _, _, *moved) = primals, tangents
    return found, jax.jvp(plain, (dy, *given), (ddy, *moved))[1]


def _four(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """The four arguments, with an array without elements for a residual that is not there."""
    return given if len(given) > 3 else (*given, jnp.zeros((0,), given[0].dtype))


def _call(name: str, results: tuple[Any, ...], task: Task, *arguments: Any) -> Any:
    library()  # which registers them
    # One after the other under vmap: each call uses all threads.
    call = jax.ffi.ffi_call(name, results, vmap_method="sequential")
    number = np.int64(ACTIVATIONS[task.activation])
    return call(*arguments, axis=np.int64(task.axis), eps=np.float64(task.epsilon), activation=number)
