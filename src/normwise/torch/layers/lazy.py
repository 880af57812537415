"""Normalization layers that do not know their number of channels yet: from an input or from a checkpoint they learn it.

PyTorch's lazy layers learn it from an input only if nothing was loaded before, and keep ``num_features`` 0 otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _LazyNormBase
from torch.nn.parameter import is_lazy

from normwise.torch.steps.buffers import widen

# Every tensor with one number per channel, and its value before training.
_PER_CHANNEL = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}


class LazyNorm(_LazyNormBase):
    """The two ways by which a layer gets its shape; stands before the layer's other base classes."""

    # PyTorch's classes know which ranks they take.
    _check_input_dim: Callable[[Tensor], None]

    def initialize_parameters(self, input: Tensor, *_: Any, **__: Any) -> None:
        """Take the number of channels from the first input; an input of the wrong rank changes nothing.

        Args:
            input: as ``forward`` takes it, which may be given more.
        """
        self._check_input_dim(input)
        learn_features(self)
        lazy = {name: tensor for name, tensor in _per_channel(self).items() if is_lazy(tensor)}
        fresh = self.num_features == 0
        if fresh:
            # Instance norm takes inputs without a batch axis too.
            without_batch = getattr(self, "_get_no_batch_dim", None)
            self.num_features = input.shape[1 if without_batch is None else input.dim() - without_batch()]
        for name, tensor in lazy.items():
            tensor.materialize((self.num_features,))
            nn.init.constant_(tensor, _PER_CHANNEL[name])
        if fresh and lazy:
            self.reset_parameters()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Convert as PyTorch does, but take ``to_empty``, which PyTorch's refuses, and stay lazy on the meta device."""
        lazy = {name: tensor for name, tensor in _per_channel(self).items() if is_lazy(tensor)}
        for name in lazy:
            self._held(name)[name] = None
        super()._apply(fn, recurse)
        for name, tensor in lazy.items():
            now = fn(torch.empty(0, device=tensor.device, dtype=tensor.dtype))
            held = self._held(name)
            if held is self._parameters and torch._has_compatible_shallow_copy_type(tensor, now):
                tensor.data = now  # the very parameter, which an optimizer may hold already
                held[name] = tensor
            else:
                kind: Any = type(tensor)  # the stubs do not know what it takes
                held[name] = kind(device=now.device, dtype=now.dtype, requires_grad=tensor.requires_grad)
        widen(self, {})
        return self

    def _held(self, name: str) -> dict[str, Any]:
        held: dict[str, Any] = self._parameters if name in self._parameters else self._buffers
        return held

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy that is as lazy; PyTorch copies lazy parameters, and refuses to copy lazy buffers."""
        for buffer in self._buffers.values():
            if buffer is not None and is_lazy(buffer):
                made: Any = nn.UninitializedBuffer
                memo[id(buffer)] = made(device=buffer.device, dtype=buffer.dtype)
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(vars(self), memo))
        return twin

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        learn_features(self)
        if self.num_features and not self.has_uninitialized_params():
            # All that a first input could tell is known, so nothing has to wait for one.
            self._initialize_hook.remove()
            self._load_hook.remove()
            del self._initialize_hook, self._load_hook
            if self.cls_to_become is not None:
                self.__class__ = self.cls_to_become


def learn_features(layer: Any) -> None:
    """Set ``num_features`` where it is 0 and the layer's tensors say more, as after PyTorch's lazy layers."""
    if layer.num_features == 0:
        sizes = [len(tensor) for tensor in _per_channel(layer).values() if not is_lazy(tensor) and tensor.dim() == 1]
        layer.num_features = sizes[0] if sizes else 0


def _per_channel(layer: Any) -> dict[str, Any]:
    found = {name: layer._parameters.get(name, layer._buffers.get(name)) for name in _PER_CHANNEL}
    return {name: tensor for name, tensor in found.items() if tensor is not None}
