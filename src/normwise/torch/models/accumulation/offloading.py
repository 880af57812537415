"""The tensors that autograd keeps for the backward, in the host's memory meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef


class Kept(NamedTuple):
    """A tensor's copy in the host's memory, and where it came from."""

    copy: Tensor
    device: torch.device


class Offload:
    """Copies what is saved to the host, once for all that save it, and leaves parameters where they are.

    ``torch.autograd.graph.save_on_cpu`` copies the output of an activation twice, for the activation and for the layer
    behind it, and copies all weights with every micro-batch.

    Args:
        staying: tensors that are there anyway.

    Attributes:
        bytes: how much was copied.
    """

    def __init__(self, staying: Iterable[Tensor]) -> None:
        # A weak reference keeps the storage's identity, though not its memory, from being given to another.
        self._staying = {StorageWeakRef(tensor.untyped_storage()).cdata for tensor in staying}
        self._copies: dict[tuple[object, ...], tuple[StorageWeakRef, Kept]] = {}
        self.bytes = 0

    def pack(self, tensor: Tensor) -> Tensor | Kept:
        """Copy a tensor to the host on its way into the graph, unless it stays; return what the graph keeps."""
        if tensor.layout is not torch.strided:
            return tensor
        storage = StorageWeakRef(tensor.untyped_storage())
        if storage.cdata in self._staying:
            return tensor
        place = (storage.cdata, tensor._version, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        known = self._copies.get(place)
        if known is not None and not known[0].expired():
            return known[1]
        kept = Kept(self._copy(tensor), tensor.device)
        self._copies[place] = storage, kept
        self.bytes += tensor.numel() * tensor.element_size()
        return kept

    def _copy(self, tensor: Tensor) -> Tensor:
        copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.device.type == "cuda")
        return copy.copy_(tensor.detach(), non_blocking=True)

    def unpack(self, kept: Tensor | Kept) -> Tensor:
        """Bring a tensor back to its device when the backward wants it."""
        return kept.copy.to(kept.device, non_blocking=True) if isinstance(kept, Kept) else kept


@contextmanager
def offloaded(staying: Iterable[Tensor]) -> Iterator[Offload]:
    """Send what autograd saves in the block to the host's memory; the backward, inside or behind it, brings it back.

    Args:
        staying: tensors that are not copied, as a model's parameters.

    Example:
        >>> x = torch.ones(3, requires_grad=True)
        >>> with offloaded([x]) as there:
        ...     y = (2 * x).square().sum()
        >>> y.backward()
        >>> x.grad, there.bytes
        (tensor([8., 8., 8.]), 12)
    """
    there = Offload(staying)
    with torch.autograd.graph.saved_tensors_hooks(there.pack, there.unpack):
        yield there
    there._copies.clear()  # the graph holds what it needs
