"""The layer on PyTorch's tensors: normwise.torch's kernels, with Keras's layouts, and no copy of what is dense.

The only file of this room that imports torch; it is imported on the torch backend, when a layer is first called.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from normwise.errors import KernelUnavailable
from normwise.keras.steps.normalize import Normalized
from normwise.kernels import choose
from normwise.kernels.choose import VARIABLE
from normwise.kernels.kernel import Call
from normwise.torch.steps.call import kernel_for
from normwise.torch.steps.estimate import move_running
from normwise.torch.steps.estimate_recomputation import recomputing


def serves(x: Tensor, *, by_batch: bool) -> bool:
    """True if the kernels take the call: they take every tensor of floating-point numbers."""
    _ = by_batch
    return x.is_floating_point()


def refuse_asked() -> None:
    """Refuse a call that ``keras.ops`` is to compute, where the environment asks for another kernel than that.

    Raises:
        KernelUnavailable: it does.
    """
    name = choose._ASKED
    if name and name != "two_pass":
        raise KernelUnavailable(
            f"{VARIABLE}={name} asks for kernels that normwise.keras gives plain batches only, and a call with a mask, "
            "virtual batches, batch renormalization, joined replicas, epsilon=0 or one value per channel was received: "
            f"unset {VARIABLE} or set it to two_pass."
        )


def by_batch(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    epsilon: float,
    axis: int,
    activation: str | None,
    residual: Tensor | None,
) -> Normalized:
    """Normalize by the batch, add the residual, and activate.

    Args:
        x: any rank from 2 on.
        scale: shape (C,), float32, or the dtype of x; or None.
        shift: the same.
        epsilon: added to the variance, more than 0.
        axis: of the channels.
        activation: a name that the kernels know, or None.
        residual: the shape and the dtype of x, or None.
    """
    rows, beside = channels_second(x, residual, axis)
    call = Call(rows, None, None, None, scale, shift, epsilon, activation, beside)
    y, moments = kernel_for(call, by_batch=True).forward_batch(call)
    return Normalized(_back(y, x, axis), moments.mean, moments.var)


def by_fixed(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    epsilon: float,
    axis: int,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    """Normalize by running statistics of shape (C,), add the residual, and activate; arguments as ``by_batch``."""
    rows, beside = channels_second(x, residual, axis)
    call = Call(rows, None, mean, var, scale, shift, epsilon, activation, beside)
    return _back(kernel_for(call, by_batch=False).forward_running(call), x, axis)


def move(moving_mean: Any, moving_variance: Any, batch: Normalized, momentum: float) -> bool:
    """The estimate step by the compiled code; False where it cannot be done so, and nothing was.

    Args:
        moving_mean: Keras's variable.
        moving_variance: the same.
        batch: two values per channel or more.
        momentum: Keras's.
    """
    if recomputing():
        return True
    # Copies: inside a stateless call, the variable's tensor is not the variable's own.
    mean, var = moving_mean.value.detach().clone(), moving_variance.value.detach().clone()
    if move_running(mean, var, batch.mean, batch.var, 1.0, 1.0 - momentum) is None:
        return False
    moving_mean.assign(mean)
    moving_variance.assign(var)
    return True


def channels_second(x: Tensor, residual: Tensor | None, axis: int) -> tuple[Tensor, Tensor | None]:
    """The same memory as (N, C) or (N, C, *spatial).

    Where the channels come last and all is dense, the other axes become one: rows of channels, whatever the rank.
    """
    if _are_rows(x, axis):
        flat = (-1, x.shape[-1])
        return x.view(flat), None if residual is None else residual.reshape(flat)
    return x.movedim(axis, 1), None if residual is None else residual.movedim(axis, 1)


def _back(y: Tensor, like: Tensor, axis: int) -> Tensor:
    """The inverse of ``channels_second``, whose input was ``like``."""
    return y.view(like.shape) if _are_rows(like, axis) else y.movedim(1, axis)


def _are_rows(x: Tensor, axis: int) -> bool:
    return axis % x.dim() == x.dim() - 1 and x.is_contiguous()
