"""Activations of batches that wait, in the host's memory meanwhile: what a device holds is those of one forward.

A forward runs under a mode that sees every operation and remembers which storages it made. While the batch waits, these
are copied to the host and resized to nothing; before it goes on they are resized and copied back. The tensors in the
frames of the forward, views among them, stay the same objects, because it is their storages that come and go.

What another batch made and left in an attribute, such as a mask that the first forward keeps for the next ones, is
given back when an operation asks for it. What cannot be seen is an address: a forward that keeps that of a tensor over
a batch norm (in code that PyTorch's dispatcher does not see, by DLPack for one) would read what is no longer there.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode  # PyTorch's documented way to see every operation
from torch.utils._pytree import tree_leaves

from normwise.kernels.internals import storage_of
from normwise.torch.models.recalibration.storages import arrays_in, memory_of

OWN_MEMORY = frozenset({"cuda", "xpu"})
"""Devices whose memory is not the host's."""


Memories = dict[int, StorageWeakRef]
"""Storages by their identity."""


class Parked(NamedTuple):
    """A storage that has nothing in it, and its bytes."""

    storage: StorageWeakRef
    bytes: Tensor


class Parking:
    """The ``normwise.recalibration.stepping.Parking`` of PyTorch.

    Args:
        known: the model's own tensors, which stay where they are.
        bound: how many bytes the host may hold.

    Attributes:
        moved: how many bytes have gone to the host so far.
    """

    def __init__(self, known: Iterable[Tensor], bound: float) -> None:
        self.bound, self.moved = bound, 0
        self._known = _memories(known)
        self._parked: dict[int, Parked] = {}
        self._lock = threading.RLock()  # threads that are given up end side by side

    @contextmanager
    def around(self, batch: Any) -> Iterator[Callable[[Iterable[Any]], AbstractContextManager[None]]]:
        """Notice what a forward makes, as the context around it, in its thread; gives what has to be around each wait.

        Args:
            batch: what comes in, which stays where it is.

        Returns:
            a function that takes the arrays which others need during the wait, and gives a context manager.
        """
        made = _Made(self, self._known | _memories(arrays_in(batch)))
        try:
            with made:
                yield made.away
        except BaseException as error:
            # What the frames of the forward hold needs no place any more.
            traceback.clear_frames(error.__traceback__)
            raise
        finally:
            self.give_back(made.keys())

    def park(self, storages: Memories) -> None:
        """Take these to the host; those that are gone are forgotten."""
        with self._lock:
            for device in {storage.device for weak in storages.values() if (storage := storage_of(weak.cdata))}:
                if device.type != "cpu":  # other streams may be at work on them
                    torch.get_device_module(device).synchronize(device)
            for key, weak in [*storages.items()]:
                storage = storage_of(weak.cdata)
                if storage is None:
                    del storages[key]
                elif key not in self._parked and storage.nbytes() and storage.resizable():
                    self._parked[key] = Parked(weak, _on_host(storage))
                    self.moved += storage.nbytes()
                    storage.resize_(0)

    def give_back(self, keys: Iterable[int]) -> None:
        """Those of these that are parked; what nobody holds any more needs nothing."""
        with self._lock:
            for key in keys:
                parked = self._parked.get(key)
                if parked is not None:
                    storage = storage_of(parked.storage.cdata)
                    if storage is not None:
                        storage.resize_(parked.bytes.numel())
                        _flat(storage).copy_(parked.bytes)
                    del self._parked[key]

    def needs(self, arguments: Iterable[Any]) -> None:
        """Give back what an operation is about to use."""
        if self._parked:
            self.give_back(_memories(arguments))


class _Made(TorchDispatchMode):
    """Sees every operation of this thread and remembers which storages are new.

    Args:
        parking: where they go.
        known: the storages that are not to be touched.
    """

    def __init__(self, parking: Parking, known: Memories) -> None:
        super().__init__()
        self._parking, self._known = parking, known
        self._made: Memories = {}
        self._looks = True

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        _ = types
        kwargs = kwargs or {}
        if not self._looks:
            return function(*args, **kwargs)
        given = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)]
        self._parking.needs(given)
        result = function(*args, **kwargs)
        if getattr(function, "namespace", "") != "aten":
            return result  # an operator of somebody else's may return, or use later, what it keeps
        old: Memories | None = None
        for item in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if not isinstance(item, Tensor) or item.device.type not in OWN_MEMORY:
                continue
            weak = memory_of(item)
            if weak is None or weak.cdata in self._known or weak.cdata in self._made:
                continue
            old = _memories(given) if old is None else old
            if weak.cdata not in old:
                self._made[weak.cdata] = weak
        return result

    @contextmanager
    def away(self, needed: Iterable[Any]) -> Iterator[None]:
        """Move to the host for a block what was made so far, but for tensors that others need.

        Where it ends with an error, only what is used on the way out comes back before the frames are gone.
        """
        self._known |= _memories(needed)
        for key in self._known.keys() & self._made.keys():
            del self._made[key]
        with self._not_looking():
            self._parking.park(self._made)
        yield
        with self._not_looking():
            self._parking.give_back(self.keys())

    def keys(self) -> list[int]:
        """The keys of what was made."""
        return [*self._made]

    @contextmanager
    def _not_looking(self) -> Iterator[None]:
        self._looks = False
        try:
            yield
        finally:
            self._looks = True


def _memories(arrays: Iterable[Any]) -> Memories:
    """Those of the tensors among them; as long as the weak references are there, no other memory has their keys."""
    found = (memory_of(array) for array in arrays if isinstance(array, Tensor))
    return {weak.cdata: weak for weak in found if weak is not None}


def _flat(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _on_host(storage: torch.UntypedStorage) -> Tensor:
    """Its bytes, where the device can fetch them itself if there is so much of such memory."""
    host: Tensor | None = None
    if storage.device.type != "cpu":
        with suppress(RuntimeError):
            host = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=True)
    if host is None:
        host = torch.empty(storage.nbytes(), dtype=torch.uint8)
    return host.copy_(_flat(storage))
