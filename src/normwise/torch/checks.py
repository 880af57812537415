"""What is refused before anything is computed or changed; PyTorch's own errors stay PyTorch's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from normwise.errors import UnknownName
from normwise.kernels.torch_activations import ACTIVATIONS
from normwise.torch.buffers import NARROW, is_wide, readable


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
    """The mask with an axis for the channels, (N, C, *spatial) or 1 for any; refuse what does not broadcast."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        received = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a boolean tensor, received {received}: pass for example lengths > positions.")
    return _along_input("mask", mask, input, "one entry per position, or one per position and channel.")


def check_weights(mask: Tensor | None, sample_weight: Tensor | None, input: Tensor) -> Tensor | None:
    """How much each value counts: the mask where there is no more, else a floating tensor; with an axis for channels.

    Negative weights are refused where Python can see them at no cost.
    """
    mask = check_mask(mask, input)
    if sample_weight is None:
        return mask
    if not isinstance(sample_weight, Tensor) or not sample_weight.is_floating_point():
        received = sample_weight.dtype if isinstance(sample_weight, Tensor) else type(sample_weight).__name__
        raise TypeError(
            f"sample_weight must be a floating tensor, received {received}: pass how much each sample counts."
        )
    per_sample = sample_weight.dim() == 1 and input.dim() > 2 and sample_weight.shape[0] == input.shape[0]
    weights = sample_weight.view(-1, *[1] * (input.dim() - 1)) if per_sample else sample_weight
    weights = _along_input("sample_weight", weights, input, "one entry per sample, per position, or per value.")
    if readable(weights) and weights.numel() > 0 and not weights.min() >= 0:
        raise ValueError(
            f"sample_weight must be 0 or more everywhere, received {weights.min().item()}: a negative weight takes "
            "values away, which leaves no variance."
        )
    return weights if mask is None else torch.where(mask, weights, 0)


def _along_input(name: str, mask: Tensor, input: Tensor, meaning: str) -> Tensor:
    if mask.device != input.device:
        raise ValueError(
            f"{name} must be on the device of the input, {input.device}, received {mask.device}: move it first."
        )
    wide = mask.unsqueeze(1) if mask.dim() == input.dim() - 1 else mask
    if wide.dim() != input.dim() or any(
        mine not in (1, theirs) for mine, theirs in zip(wide.shape, input.shape, strict=True)
    ):
        without = (input.shape[0], *input.shape[2:])
        raise ValueError(
            f"{name} must broadcast to the input, {tuple(input.shape)}, or to it without its channels, "
            f"{tuple(without)}, received {tuple(mask.shape)}: {meaning}"
        )
    return wide


def counting_values(mask: Tensor, input: Tensor) -> Tensor:
    """How many values count at all, for all channels in shape (1,) or for each in shape (C,)."""
    over = [axis for axis in range(mask.dim()) if axis != 1]
    values = input.numel() // max(input.shape[1], 1)
    return (mask != 0).sum(over) * (values // max(mask.numel() // max(mask.shape[1], 1), 1))


def check_masked_count(mask: Tensor, input: Tensor) -> None:
    """Refuse a training batch of which the mask leaves one value in some channel, as torch does without a mask.

    The number has to be read on the host, which is free on the CPU only; elsewhere such a batch leaves the running
    statistics as they are and its one value becomes beta.
    """
    if not readable(mask) or mask.numel() == 0 or input.numel() == 0:
        return
    if bool((counting_values(mask, input) == 1).any()):
        what = "mask is True" if mask.dtype == torch.bool else "weight is not 0"
        raise ValueError(
            f"Expected more than 1 value per channel when training, got 1 value where the {what} "
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
