"""What is refused before anything is computed or changed; PyTorch's own errors stay PyTorch's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from normwise.errors import UnknownName
from normwise.kernels.torch_activations import ACTIVATIONS
from normwise.torch.buffers import NARROW, is_wide


def check_activation(activation: str | None) -> None:
    """Refuse an activation that does not exist, naming the nearest one."""
    if activation is not None and activation not in ACTIVATIONS:
        raise UnknownName("activation", activation, ACTIVATIONS)


def fits(residual: Tensor, input: Tensor) -> bool:
    """Whether ``check_residual`` has nothing to say."""
    return isinstance(residual, Tensor) and residual.shape == input.shape and residual.device == input.device


def check_residual(residual: Tensor | None, input: Tensor) -> None:
    """Refuse a residual that is not a tensor of the input's shape on the input's device."""
    if residual is None or fits(residual, input):
        return
    if not isinstance(residual, Tensor):
        raise TypeError(f"residual must be a tensor, received {type(residual).__name__}: pass the tensor to be added.")
    if residual.shape != input.shape:
        raise ValueError(
            f"residual must have the shape of the input, {tuple(input.shape)}, received {tuple(residual.shape)}: "
            "expand it or project it first."
        )
    raise ValueError(
        f"residual must be on the device of the input, {input.device}, received {residual.device}: move it first."
    )


def as_torch_takes_them(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor | None, ...]:
    """The statistics and parameters with one axis, where torch takes the arguments; else torch's own error.

    Returns:
        running_mean, running_var, weight, bias.
    """
    given = (running_mean, running_var, weight, bias)
    if _is_plain(input, *given, training, momentum, eps):
        return given
    # Torch has the words for what is wrong; should nothing be, only copies of the statistics have moved.
    copies = [statistic.clone() if isinstance(statistic, Tensor) else statistic for statistic in given[:2]]
    F.batch_norm(input, copies[0], copies[1], weight, bias, training, momentum, eps)
    return tuple(None if values is None else values.reshape(-1) for values in given)


def _is_plain(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> bool:
    """Whether nothing about the arguments is such that torch might refuse them."""
    if input.dim() < 2 or not input.is_floating_point() or not isinstance(momentum, int | float):
        return False
    if (running_mean is None) != (running_var is None) or (running_mean is None and not training):
        return False
    if eps < 0 or (training and (eps == 0 or input.numel() == input.shape[1])):
        return False
    given = [tensor for tensor in (weight, bias, running_mean, running_var) if tensor is not None]
    if not all(isinstance(tensor, Tensor) for tensor in given):
        return False
    dtypes = {tensor.dtype for tensor in given}
    narrow = input.dtype in NARROW
    return (dtypes <= {input.dtype} or (narrow and dtypes == {torch.float32})) and all(
        tensor.shape == (input.shape[1],) and tensor.device == input.device for tensor in given
    )


def parameters_for(
    input: Tensor, running_mean: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias of the input's half precision in float32 where the statistics are, which torch wants to agree."""
    if not isinstance(running_mean, Tensor) or running_mean.dtype is not torch.float32 or is_wide(input):
        return weight, bias
    return tuple(  # type: ignore[return-value]  # two in, two out
        tensor.float() if isinstance(tensor, Tensor) and tensor.dtype is input.dtype else tensor
        for tensor in (weight, bias)
    )
