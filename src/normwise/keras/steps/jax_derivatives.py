"""Derivatives of what a custom call computes, for JAX: forward mode, vmap and higher orders by plain JAX operations.

The tangent of a layer's output is a primitive of its own, linear in the tangents of what was given. Reverse mode
transposes it, and the kernels' backward is its transpose. All else that JAX may ask of it follows from ``plain``, the
same layer on ``keras.ops``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from keras import ops

from normwise.keras.steps.activate import IN_KERNELS
from normwise.keras.steps.gather import gather
from normwise.keras.steps.normalize import activate, normalize

_BY_NAME = {name: activation for activation, name in IN_KERNELS.items()}
_KEPT = 2  # the exact moments and the bits, between what was given and its tangents


class Task(NamedTuple):
    """The settings of a call: the channels' axis, not negative, epsilon, and the activation's name in the kernels."""

    axis: int
    epsilon: float
    activation: str | None


def plain(task: Task, x: Any, scale: Any, shift: Any, residual: Any = None) -> Any:
    """The layer on ``keras.ops``; the output in the dtype of x."""
    batch = gather(ops.cast(x, scale.dtype), None, task.axis)
    y = normalize(batch, scale, shift, task.epsilon, task.axis)
    return ops.cast(activate(y, None if task.activation is None else _BY_NAME[task.activation], residual), x.dtype)


def tangent(
    task: Task,
    gradients: Callable[..., tuple[Any, ...]],
    given: tuple[Any, ...],
    kept: tuple[Any, Any],
    tangents: tuple[Any, ...],
) -> Any:
    """The output's tangent.

    Args:
        task: what the layer does.
        gradients: its backward: of the task, which gradients are wanted, the output's gradient, what was kept and what
            was given.
        given: x, scale, shift, and the residual if there is one.
        kept: by the forward, for the backward.
        tangents: of what was given.
    """
    return _tangent_p.bind(*given, *kept, *tangents, task=task, gradients=gradients)


def _tangent(*operands: Any, task: Task, gradients: Any) -> Any:
    """The derivative of the output along the tangents, by plain JAX operations."""
    _ = gradients
    given, _, tangents = _parts(operands)
    return jax.jvp(partial(plain, task), given, tangents)[1]


def _transposed(of_tangent: Any, *operands: Any, task: Task, gradients: Any) -> list[Any]:
    given, kept, tangents = _parts(operands)
    wants = tuple(ad.is_undefined_primal(each) for each in tangents)
    nothing = [None] * (len(given) + _KEPT)
    if type(of_tangent) is ad.Zero:
        return nothing + [None] * len(given)
    found = gradients(task, wants, of_tangent, *kept, *given)
    return nothing + [each if wanted else None for each, wanted in zip(found, wants, strict=True)]


def _jvp(operands: Any, moved: Any, *, task: Task, gradients: Any) -> tuple[Any, Any]:
    one = partial(_tangent, task=task, gradients=gradients)
    moved = tuple(ad.instantiate_zeros(each) for each in moved)
    return _tangent_p.bind(*operands, task=task, gradients=gradients), jax.jvp(one, tuple(operands), moved)[1]


def _batched(operands: Any, axes: Any, *, task: Task, gradients: Any) -> tuple[Any, int]:
    one = partial(_tangent, task=task, gradients=gradients)
    return jax.vmap(one, in_axes=tuple(axes))(*operands), 0


def _parts(operands: Any) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
    """The given operands, the kept ones, and the tangents."""
    number = (len(operands) - _KEPT) // 2
    return tuple(operands[:number]), tuple(operands[number : number + _KEPT]), tuple(operands[number + _KEPT :])


_tangent_p = Primitive("normwise_tangent")
_tangent_p.def_impl(jax.jit(_tangent, static_argnames=("task", "gradients")))
_tangent_p.def_abstract_eval(lambda x, *_, **__: x)
mlir.register_lowering(_tangent_p, mlir.lower_fun(_tangent, multiple_results=False))
ad.primitive_transposes[_tangent_p] = _transposed
ad.primitive_jvps[_tangent_p] = _jvp
batching.primitive_batchers[_tangent_p] = _batched
