"""Sums over all replicas that train together, with their gradients: what synchronized statistics need."""

from __future__ import annotations

import sys
from typing import Any

import keras


def synchronizing() -> bool:
    """True if there is another replica to synchronize with.

    On the TensorFlow backend that is inside a ``tf.distribute`` replica, on the torch backend in a process group of
    ``torch.distributed``. On the JAX backend arrays are global: a sum over a batch that ``keras.distribution`` has
    sharded is over all of it, and nothing has to be done.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        distributed = sys.modules["torch"].distributed
        return bool(distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1)
    return backend == "tensorflow" and _replica() is not None


def sum_of_replicas(values: list[Any]) -> list[Any]:
    """The sums over all replicas; a gradient of one is the sum of what all replicas have for it.

    Args:
        values: tensors, of the same shapes everywhere.
    """
    if keras.backend.backend() == "torch":
        import torch.distributed.nn.functional as collective

        return [collective.all_reduce(value) for value in values]
    replica = _replica()
    assert replica is not None
    summed = replica.all_reduce("SUM", values)
    return list(summed)


def _replica() -> Any:
    replica = sys.modules["tensorflow"].distribute.get_replica_context()
    return replica if replica is not None and replica.num_replicas_in_sync > 1 else None
