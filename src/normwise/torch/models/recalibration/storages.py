"""The memory of tensors, and the tensors and arrays in a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef


def memory_of(tensor: Tensor) -> StorageWeakRef | None:
    """A weak reference to a tensor's memory; None where it has none of its own.

    Example:
        >>> x = torch.ones(4)
        >>> memory_of(x).cdata == memory_of(x[1:]).cdata, memory_of(x.to_sparse())
        (True, None)
    """
    if tensor.layout is not torch.strided or tensor.is_meta or isinstance(tensor, nn.UninitializedParameter):
        return None
    try:
        return StorageWeakRef(tensor.untyped_storage())
    except (NotImplementedError, RuntimeError):  # tensors of other kinds have none
        return None


def arrays_in(batch: Any) -> Iterator[Any]:
    """Every tensor and array, in what a batch may be, at any depth."""
    if isinstance(batch, Tensor | np.ndarray):
        yield batch
    elif isinstance(batch, Mapping):
        for item in batch.values():
            yield from arrays_in(item)
    elif isinstance(batch, tuple | list):
        for item in batch:
            yield from arrays_in(item)
    elif not isinstance(batch, str | bytes) and hasattr(batch, "__dict__"):  # packed sequences, graphs
        for item in vars(batch).values():
            if isinstance(item, Tensor | np.ndarray):
                yield item
