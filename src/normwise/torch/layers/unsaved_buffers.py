"""Buffers that no checkpoint holds, and their values in a layer that gets all others from one.

A checkpoint of PyTorch's layer has no ``num_batches_skipped``, and of batch renormalization no ``r``. A layer that was
built on the meta device, or emptied by ``to_empty``, and then given a checkpoint would keep such a buffer without a
value: on meta, where ``.to("cpu")`` fails, or with whatever the memory held before. A class names its buffers of that
kind, and the value that each starts from, in ``_unsaved``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

# How ``to_empty`` is known inside of ``_apply``, which is all that submodules see of it.
_EMPTYING = {const for const in nn.Module.to_empty.__code__.co_consts if isinstance(const, CodeType)}


def make_real(layer: Any) -> None:
    """Give each of these buffers its first value where it is on meta and the running statistics are not."""
    mean = layer._buffers.get("running_mean")
    if mean is None or mean.is_meta:
        return
    for name, first in layer._unsaved.items():
        buffer = layer._buffers.get(name)
        if buffer is not None and buffer.is_meta:
            layer._buffers[name] = torch.full_like(buffer, first, device=mean.device)


def reset_unsaved(layer: Any) -> None:
    """Give each of these buffers its first value again, in place."""
    for name, first in layer._unsaved.items():
        buffer = layer._buffers.get(name)
        if buffer is not None:
            buffer.fill_(first)


def skipped_of(layer: Any) -> Tensor | None:
    """The counter ``num_batches_skipped`` of a layer, on the device of its statistics, or None where nobody counts."""
    skipped: Tensor | None = layer._buffers.get("num_batches_skipped")
    if skipped is not None and skipped.is_meta:
        make_real(layer)
        skipped = layer._buffers["num_batches_skipped"]
    return skipped


@contextmanager
def kept_unsaved(layer: Any, fn: Any) -> Iterator[None]:
    """Give these buffers their values behind ``_apply(fn)``, the block, also where ``fn`` makes memory without any."""
    make_real(layer)
    emptying = getattr(fn, "__code__", None) in _EMPTYING
    without = [
        name
        for name in layer._unsaved
        if (buffer := layer._buffers.get(name)) is not None and (emptying or buffer.is_meta)
    ]
    yield
    for name in without:
        buffer = layer._buffers[name]
        if not buffer.is_meta:
            buffer.fill_(layer._unsaved[name])
