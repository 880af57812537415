"""What is refused before anything is computed or changed; PyTorch's own errors stay PyTorch's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from normwise.errors import UnknownName
from normwise.kernels.torch_activations import ACTIVATIONS


def check_activation(activation: str | None) -> None:
    """Refuse an activation that does not exist, naming the nearest one."""
    if activation is not None and activation not in ACTIVATIONS:
        raise UnknownName("activation", activation, ACTIVATIONS)


def check_residual(residual: Tensor | None, input: Tensor) -> None:
    """Refuse a residual that is not a tensor of the input's shape on the input's device."""
    if residual is None:
        return
    if not isinstance(residual, Tensor):
        raise TypeError(f"residual must be a tensor, received {type(residual).__name__}: pass the tensor to be added.")
    if residual.shape != input.shape:
        raise ValueError(
            f"residual must have the shape of the input, {tuple(input.shape)}, received {tuple(residual.shape)}: "
            "expand it or project it first."
        )
    if residual.device != input.device:
        raise ValueError(
            f"residual must be on the device of the input, {input.device}, received {residual.device}: move it first."
        )


def check_mask(mask: Tensor | None, input: Tensor) -> Tensor | None:
    """The mask with 1 for the channels: (N or 1, 1, *spatial); refuse what is not boolean or does not broadcast."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        received = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a boolean tensor, received {received}: pass for example lengths > positions.")
    if mask.device != input.device:
        raise ValueError(
            f"mask must be on the device of the input, {input.device}, received {mask.device}: move it first."
        )
    wide = mask.unsqueeze(1) if mask.dim() == input.dim() - 1 else mask
    if wide.dim() != input.dim() or not all(_fits(wide.shape[axis], input, axis) for axis in range(input.dim())):
        without = (input.shape[0], *input.shape[2:])
        raise ValueError(
            f"mask must broadcast to the input without its channels, {tuple(without)}, received {tuple(mask.shape)} "
            f"for an input of {tuple(input.shape)}: one entry per position, the same for every channel."
        )
    return wide


def _fits(size: int, input: Tensor, axis: int) -> bool:
    return size == 1 or (axis != 1 and size == input.shape[axis])


def check_masked_count(mask: Tensor, input: Tensor) -> None:
    """Refuse a training batch of which the mask leaves one value per channel, as torch does without a mask.

    The number has to be read on the host, which is free on the CPU only; elsewhere such a batch leaves the running
    statistics as they are and its one value becomes beta.
    """
    unreadable = torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(mask)
    if unreadable or mask.device.type != "cpu" or mask.numel() == 0 or input.numel() == 0:
        return
    if int(mask.sum()) * (input.numel() // input.shape[1] // mask.numel()) == 1:
        raise ValueError(
            "Expected more than 1 value per channel when training, got 1 value where the mask is True "
            f"in input size {input.size()}"
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
    narrow = input.dtype in (torch.float16, torch.bfloat16)
    return (dtypes <= {input.dtype} or (narrow and dtypes == {torch.float32})) and all(
        tensor.shape == (input.shape[1],) and tensor.device == input.device for tensor in given
    )
