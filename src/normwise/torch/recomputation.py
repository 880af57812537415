"""Whether a forward pass is run again by the backward pass, as activation checkpointing does.

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

import torch


def recomputing() -> bool:
    """Whether this forward runs inside a backward, so that its batch was seen before.

    Example:
        >>> recomputing()
        False
    """
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
