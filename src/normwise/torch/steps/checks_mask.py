"""Masks and sample weights as the layers take them, and what is refused about them."""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.torch.steps.buffers import readable


def check_mask(mask: Tensor | None, input: Tensor) -> Tensor | None:
    """The mask with an axis for the channels, (N, C, *spatial) or 1 for any; refuse what does not broadcast."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        received = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a boolean tensor, received {received}: pass for example lengths > positions.")
    return _along_input("mask", mask, input, "one entry per position, or one per position and channel.")


def check_weights(mask: Tensor | None, sample_weight: Tensor | None, input: Tensor) -> Tensor | None:
    """The weight of each value: the mask without sample weights, else a floating tensor; with an axis for channels.

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
    if not stretches_to(wide, input):
        without = (input.shape[0], *input.shape[2:])
        raise ValueError(
            f"{name} must broadcast to the input, {tuple(input.shape)}, or to it without its channels, "
            f"{tuple(without)}, received {tuple(mask.shape)}: {meaning}"
        )
    return wide


def counting_values(mask: Tensor, input: Tensor) -> Tensor:
    """The number of values that count at all, for all channels in shape (1,) or for each in shape (C,)."""
    over = [axis for axis in range(mask.dim()) if axis != 1]
    values = input.numel() // max(input.shape[1], 1)
    return (mask != 0).sum(over) * (values // max(mask.numel() // max(mask.shape[1], 1), 1))


def check_masked_count(mask: Tensor, input: Tensor) -> None:
    """Refuse a training batch in which the mask leaves one value in some channel, as torch does without a mask.

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


def stretches_to(mask: Tensor, input: Tensor) -> bool:
    """True if every axis of the mask has one entry or as many as the input."""
    # Not by `in`, by which PyTorch 2.11's compiler finds no size that is not known yet.
    sizes = zip(mask.shape, input.shape, strict=False)
    return mask.dim() == input.dim() and all(mine == 1 or mine == theirs for mine, theirs in sizes)
