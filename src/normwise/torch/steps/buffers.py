"""The tensors that running statistics are kept in: how they are looked at, written, and kept in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from normwise.errors import StatisticsCaptured
from normwise.kernels.internals import innermost_transform, listening_modes
from normwise.kernels.recording import recording

STATISTICS = ("running_mean", "running_var")
NARROW = (torch.float16, torch.bfloat16)


def transformed() -> bool:
    """True if ``torch.func`` (vmap, grad, jvp, ...) is transforming what runs now."""
    return not torch.compiler.is_compiling() and innermost_transform() is not None


def readable(tensor: Tensor) -> bool:
    """True if Python may look at values at no cost: a plain tensor on the CPU that nothing is recording or mapping."""
    return (
        not recording()
        and type(tensor) is Tensor
        and tensor.is_cpu
        and listening_modes() == 0
        and innermost_transform() is None
    )


def changeable(buffer: Tensor) -> Tensor:
    """The buffer to be written to.

    Autograd of an earlier forward may have seen it, but needs no value of it: PyTorch's own operator changes it behind
    autograd's back too. A recorder does not see what is written to ``data``.
    """
    return buffer if recording() or transformed() else buffer.data


def is_wide(tensor: Tensor) -> bool:
    """True if an average of many batches may be kept in this dtype.

    A step of an average that is smaller than half a unit of the stored number is lost: in bfloat16, with 8 bits, a mean
    of 3.0 is left at 2.0 by a momentum of 0.01.
    """
    return tensor.dtype not in NARROW


def widen(module: Any, originals: dict[str, Tensor]) -> None:
    """Statistics in half precision become float32: the originals where these are wide, else the narrow ones' values.

    Args:
        module: a layer with the buffers ``STATISTICS``.
        originals: these buffers as they were before the module was converted.
    """
    for name in STATISTICS:
        buffer = module._buffers.get(name)
        if buffer is None or is_wide(buffer):
            continue
        source = originals.get(name)
        source = buffer if source is None or not is_wide(source) or source.is_meta != buffer.is_meta else source
        if is_lazy(buffer):
            made: Any = torch.nn.UninitializedBuffer
            module._buffers[name] = made(device=buffer.device, dtype=torch.float32)
        else:
            module._buffers[name] = source.detach().to(device=buffer.device, dtype=torch.float32)


def store(buffer: Tensor, value: Tensor) -> None:
    """Give a buffer new values, in place.

    Raises:
        StatisticsCaptured: ``torch.func`` transforms the call and does not know the buffer.
    """
    try:
        changeable(buffer).copy_(value)
    except RuntimeError as error:
        if not transformed():
            raise
        raise StatisticsCaptured(
            "running statistics cannot change in place inside of torch.func (vmap, grad, jvp, ...), received a call in "
            "training mode that would: use normwise.torch.batch_norm_with_state, put normwise.paused_statistics around "
            "it, or pass the buffers in by torch.func.functional_call."
        ) from error


def store_if_known(buffer: Tensor, value: Tensor) -> None:
    """Store what no checkpoint holds; where ``torch.func`` does not know the buffer, leave it as it is.

    What is passed to ``torch.func.functional_call`` is often a ``state_dict``.
    """
    try:
        store(buffer, value)
    except StatisticsCaptured:
        return
