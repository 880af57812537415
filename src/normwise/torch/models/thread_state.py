"""The state that PyTorch and normwise keep for each thread, given by the caller's thread to one that works for it."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch.utils._device import DeviceContext  # what ``with torch.device(...)`` enters

from normwise.kernels.internals import function_mode, function_modes, listening_modes, saved_tensors_hooks, transforms
from normwise.side_by_side import EnterState
from normwise.torch.layers.domain import CHOSEN, domain


def state_of_this_thread() -> EnterState:
    """A function that puts another thread into the state of this one.

    That is: gradients or not, inference mode, autocast, hooks of saved tensors, the default device, the current stream
    and its device, and the domain that was chosen.
    """
    learning, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    hooks = saved_tensors_hooks(False)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    kinds = {"cpu"} if accelerator is None else {"cpu", accelerator.type}
    casts = [
        (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), torch.is_autocast_cache_enabled())
        for kind in kinds
    ]
    device = torch.get_default_device()
    streams = [] if accelerator is None else [torch.accelerator.current_stream()]
    chosen = CHOSEN.domain

    def enter(stack: ExitStack) -> None:
        for stream in streams:
            stack.enter_context(stream)  # its device with it
        if device is not None and device.type != "cpu":
            stack.enter_context(device)
        stack.enter_context(torch.inference_mode(inference))
        stack.enter_context(torch.set_grad_enabled(learning))
        for kind, dtype, enabled, cached in casts:
            stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=cached))
        if hooks is not None:
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(*hooks))
        if chosen is not None:
            stack.enter_context(domain(chosen))

    return enter


def stays_behind() -> str:
    """The part of this thread's state that no other thread can be given, in words; an empty string where there is none.

    Example:
        >>> stays_behind()
        ''
    """
    if transforms():
        return "a transform of torch.func is going on in this thread"
    modes = [function_mode(number) for number in range(function_modes())]
    if listening_modes() or not all(isinstance(mode, DeviceContext) for mode in modes):
        return "a mode of this thread listens to every operation"
    return ""
