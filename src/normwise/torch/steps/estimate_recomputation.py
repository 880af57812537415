"""A check whether the backward pass runs a forward pass again, as activation checkpointing does.

``torch.utils.checkpoint`` drops activations and runs the forward again when their gradients are wanted: from a saved
tensor's unpacking (``use_reentrant=False``) or from a function's backward (``use_reentrant=True``). Both happen inside
a run of the autograd engine, and the engine says on every one of its threads which run it is in; PyTorch's own
checkpointing asks for the same number. So does every other tool that recomputes (reversible networks, fairscale).

A forward of other purpose inside a backward, for example in a tensor's hook, is taken for a recomputation too: its
batch does not enter the running statistics. It is the rarer case by far, and a missed batch costs an average nothing
but one sample, where a batch that enters twice for every step is a wrong momentum.

A compiled graph holds its writes to buffers once, and none in what its backward recomputes. The one case that is not
seen is a compiled function that is called within a checkpoint: compile what holds the checkpoint instead.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from normwise.kernels.internals import running_backward
from normwise.kernels.recording import recording
from normwise.torch.steps.buffers import transformed

CALLS = 16
"""The number of calls of a layer that may lie between a forward and the same one run again."""


def recomputing() -> bool:
    """True if this forward runs inside a backward, so that its batch was seen before.

    Example:
        >>> recomputing()
        False
    """
    return not torch.compiler.is_compiling() and running_backward() != -1


class StatisticsMet:
    """The running statistics that each of the last batches met, for when its forward is run again: they have moved.

    A batch is known by its own moments, so that a layer may be called several times in between. A copy, by ``copy`` or
    ``pickle``, is empty.

    Example:
        >>> met, zero, one = StatisticsMet(), torch.zeros(1), torch.ones(1)
        >>> met.of(one, (zero, one))  # the first time, and ever where no forward is run again
        (tensor([0.]), tensor([1.]))
    """

    def __init__(self) -> None:
        self._calls: deque[tuple[Tensor, tuple[Tensor, Tensor]]] = deque(maxlen=CALLS)

    def of(self, batch_mean: Tensor, now: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and variance to be taken for this batch.

        Args:
            batch_mean: of the batch.
            now: the running mean and variance as they are.

        Returns:
            ``now``, which is remembered, in a first forward; what was remembered where it is run again. A compiled
            graph holds what its backward needs by itself.
        """
        if recording() or transformed():
            return now
        key = batch_mean.detach()
        if not recomputing():
            self._calls.append((key, (now[0].detach().clone(), now[1].detach().clone())))
            return now
        same = (then for mean, then in reversed(self._calls) if mean.shape == key.shape and torch.equal(mean, key))
        return next(same, now)

    def __reduce__(self) -> tuple[type[StatisticsMet], tuple[()]]:
        return StatisticsMet, ()
