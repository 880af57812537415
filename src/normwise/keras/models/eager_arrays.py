"""Arrays of JAX and TensorFlow as batches know them that go through a model in step, where both run eagerly."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from normwise.recalibration.memory import bytes_for, free_memory
from normwise.recalibration.stepping import Place
from normwise.side_by_side import EnterState

MOST = 256
"""Batches in step."""


class EagerArrays:
    """The part of a ``normwise.recalibration.stepping.Stepping`` about arrays; a base for each of the two backends.

    Args:
        memory: as the caller said, 0 excluded.
    """

    at_most = MOST
    called = ""

    def __init__(self, memory: float | None) -> None:
        self._memory = memory

    def why_not(self) -> str:
        """A clause on settings of this thread that other threads do not have; empty where there are none."""
        found: list[object] = []
        other = threading.Thread(target=lambda: found.append(self.state()))
        other.start()
        other.join()
        if found != [self.state()]:
            return f"the call is inside of {self.called} settings that other threads do not have"
        return ""

    def enter_state(self) -> EnterState:
        """Nothing has to be done: ``why_not`` was asked."""
        return lambda _: None

    def bound(self) -> float:
        """The number of bytes that may be held at a time."""
        return bytes_for(self._memory, self.free())

    def parking(self) -> None:
        """Neither JAX nor TensorFlow lets an array's memory go while somebody holds the array."""

    def held(self, batch: Any) -> Any:
        """Give the block a function that counts the live bytes of what was made since, those of a batch left out."""
        raise NotImplementedError

    def state(self) -> object:
        """The state that the backend keeps for each thread, to be compared."""
        raise NotImplementedError

    def free(self) -> float:
        """The number of bytes that are free where the arrays lie."""
        return free_memory()

    def places(self, batch: Any) -> Iterator[Place]:
        """Those of all arrays in a batch; one of the backend's own never changes, so that it is a place of its own."""
        for item in _arrays_in(batch):
            if isinstance(item, np.ndarray):
                if item.nbytes:
                    yield Place(("host", item.ctypes.data), item.nbytes)
            else:
                yield Place(("backend", id(item)), _bytes_of(item))


class JaxArrays(EagerArrays):
    """The arrays of JAX, which knows every array that is alive."""

    called = "JAX"

    def why_not(self) -> str:
        """The clause of the base, or one on a device that does not say how much memory is free."""
        if self._on_devices() and None in self._statistics():
            return "a device does not say how much memory is free"
        return super().why_not()

    def state(self) -> object:
        """Every JAX setting, as this thread reads it."""
        jax = sys.modules["jax"]
        return [(name, str(getattr(jax.config, name, None))) for name in sorted(jax.config.values)]

    def free(self) -> float:
        """The number of free bytes on the fullest device, or in the host's memory."""
        if not self._on_devices():
            return free_memory()
        return min(float(each["bytes_limit"] - each["bytes_in_use"]) for each in self._statistics() if each)

    @contextmanager
    def held(self, batch: Any) -> Iterator[Callable[[], int]]:
        """Give the block the base's function: it counts the arrays that are alive and were not when the block began."""
        live: Callable[[], list[Any]] = sys.modules["jax"].live_arrays
        before = [*live(), *_arrays_in(batch)]  # kept, so that no other array gets the number of one of them
        known = {id(each) for each in before}
        yield lambda: sum(_bytes_of(each) for each in live() if id(each) not in known)
        before.clear()

    def _on_devices(self) -> bool:
        return any(device.platform != "cpu" for device in sys.modules["jax"].local_devices())

    def _statistics(self) -> list[Any]:
        found = [device.memory_stats() for device in sys.modules["jax"].local_devices()]
        return [each if each and "bytes_limit" in each and "bytes_in_use" in each else None for each in found]


class TensorFlowArrays(EagerArrays):
    """The tensors of TensorFlow; Python's garbage collector knows every one that was made since it last ran."""

    called = "TensorFlow"

    def why_not(self) -> str:
        """The clause of the base, or one on a graph, a strategy or a GPU: TensorFlow reports no free memory of GPUs."""
        tf = sys.modules["tensorflow"]
        if not tf.executing_eagerly():
            return "the call is inside of a TensorFlow graph"
        if tf.distribute.has_strategy():
            return "the call is inside of a TensorFlow strategy"
        if tf.config.list_logical_devices("GPU"):
            return "TensorFlow does not say how much memory of a GPU is free"
        return super().why_not()

    def state(self) -> object:
        """The device of a new tensor, whether operations run eagerly, and whether they wait for one another."""
        tf = sys.modules["tensorflow"]
        return tf.constant(0).device, tf.executing_eagerly(), tf.config.experimental.get_synchronous_execution()

    @contextmanager
    def held(self, batch: Any) -> Iterator[Callable[[], int]]:
        """Give the block the base's function: with the collector off, what is made is in its youngest generation."""
        kind, ran = sys.modules["tensorflow"].Tensor, gc.isenabled()
        known = {id(item) for item in _arrays_in(batch)}
        gc.collect()
        gc.disable()
        try:
            yield lambda: sum(
                _bytes_of(each)
                for each in gc.get_objects(generation=0)
                if isinstance(each, kind) and id(each) not in known and hasattr(each, "numpy")
            )
        finally:
            if ran:
                gc.enable()


def arrays_of(memory: float | None) -> EagerArrays:
    """Those of the backend.

    Args:
        memory: as the caller said, 0 excluded.
    """
    return {"jax": JaxArrays, "tensorflow": TensorFlowArrays}[keras.backend.backend()](memory)


def _arrays_in(batch: Any) -> Iterator[Any]:
    """Every array, in what a batch may be, at any depth."""
    if isinstance(batch, Mapping):
        for item in batch.values():
            yield from _arrays_in(item)
    elif isinstance(batch, tuple | list):
        for item in batch:
            yield from _arrays_in(item)
    elif isinstance(batch, np.ndarray) or keras.ops.is_tensor(batch):
        yield batch


def _bytes_of(tensor: Any) -> int:
    size = getattr(tensor.dtype, "size", None) or tensor.dtype.itemsize
    return int(np.prod(tuple(tensor.shape), dtype=np.int64)) * int(size)
