"""Tensors as batches know them that go through a model in step: their memory, and the threads that work on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import (  # PyTorch's documented way to see every operation
    TorchDispatchMode,
    is_traceable_wrapper_subclass,
)
from torch.utils._pytree import tree_leaves

from normwise.recalibration.memory import bytes_for, free_memory
from normwise.recalibration.stepping import Place
from normwise.side_by_side import EnterState
from normwise.torch.models.recalibration import parking
from normwise.torch.models.recalibration.storages import arrays_in, memory_of
from normwise.torch.models.thread_state import state_of_this_thread, stays_behind

MOST = 256
"""Batches in step."""
THREADS = 1024
"""The most threads of the system, of all batches in step: OpenMP gives each thread that computes a team of its own."""


class Tensors:
    """The part of a ``normwise.recalibration.stepping.Stepping`` that is about tensors, whatever model they belong to.

    Args:
        of_model: gives the model's own.
        memory: as the caller said, 0 excluded.

    Attributes:
        at_most: so many batches at a time.
    """

    def __init__(self, of_model: Callable[[], Iterable[Tensor]], memory: float | None) -> None:
        self._of_model, self._memory = of_model, memory
        self.at_most = min(MOST, max(1, THREADS // torch.get_num_threads()))

    def why_not(self) -> str:
        """A clause on what of the state of this thread would stay behind; empty where that is nothing."""
        return stays_behind()

    def enter_state(self) -> EnterState:
        """A function that puts another thread into the state of this one."""
        return state_of_this_thread()

    def bound(self) -> float:
        """The number of bytes that may be held at a time."""
        devices = {device for tensor in self._of_model() if (device := tensor.device).type != "meta"}
        return bytes_for(self._memory, min(_free(device) for device in devices or {torch.device("cpu")}))

    def parking(self) -> parking.Parking | None:
        """The memory besides the model's device for batches that wait; None where the device has the host's memory."""
        tensors = [*self._of_model()]
        if not any(tensor.device.type in parking.OWN_MEMORY for tensor in tensors):
            return None
        if any(is_traceable_wrapper_subclass(tensor) for tensor in tensors):
            return None  # what is in such a tensor, operations do not show
        return parking.Parking(tensors, bytes_for(None, free_memory()))

    @contextmanager
    def held(self, batch: Any) -> Iterator[Callable[[], int]]:
        """Give the block a function that counts the live bytes of what this thread made, those of a batch left out."""
        in_batch = (item for item in arrays_in(batch) if isinstance(item, Tensor))
        with _Alive([*self._of_model(), *in_batch]) as alive:
            yield alive.bytes

    def places(self, batch: Any) -> Iterator[Place]:
        """Those of all tensors and arrays in a batch."""
        for item in arrays_in(batch):
            if isinstance(item, np.ndarray):
                if item.nbytes:
                    yield Place(("host", item.ctypes.data), item.nbytes)
            elif item.layout is torch.strided and item.numel():
                yield Place((str(item.device), item.data_ptr()), item.numel() * item.element_size())


class _Alive(TorchDispatchMode):
    """Sees every operation of this thread and knows which of the results are still there.

    Args:
        known: tensors that are not counted, nor are views of them.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self._known = {weak.cdata for tensor in known if (weak := memory_of(tensor)) is not None}
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        _ = types
        result = function(*args, **(kwargs or {}))
        for item in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(item, Tensor) and (weak := memory_of(item)) is not None and weak.cdata not in self._known:
                self._made[weak.cdata] = weak, item.untyped_storage().nbytes()
        return result

    def bytes(self) -> int:
        """The number of bytes of what is still there."""
        # A weak reference keeps the storage's identity, though not its memory, from being given to another.
        self._made = {key: held for key, held in self._made.items() if not held[0].expired()}
        return sum(size for _, size in self._made.values())


def _free(device: torch.device) -> float:
    """The number of bytes that are free on a device, with those that PyTorch keeps for the next tensors."""
    known = torch.get_device_module(device) if device.type not in ("cpu", "mps") else None  # mps has the host's
    if known is None or not hasattr(known, "mem_get_info"):
        return free_memory()
    kept = known.memory_reserved(device) - known.memory_allocated(device)
    return float(known.mem_get_info(device)[0] + kept)
