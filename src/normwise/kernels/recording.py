"""The check for a recorder, under which no choice may depend on what is true of this one call only.

A recorder keeps operations and not the ``if`` around them: what Python found out about sizes, values, the grad mode or
the processor is then true for ever. So where something records, PyTorch's own operators are used, at every size, and
nothing looks at values or writes past autograd. Recorders are ``torch.compile`` and ``torch.export``,
``torch.jit.trace`` with the ONNX exporter on it, and ``make_fx``. ``torch.func`` (functionalize too) is asked for
separately, by ``torch.steps.buffers.transformed``: what runs inside a transform may also run without a recorder.
"""

from __future__ import annotations

import torch

from normwise.kernels.internals import BEFORE_DISPATCH, PROXY, dispatch_mode, is_key_included, jit_trace


def recording() -> bool:
    """True if operations are recorded, to be run later with other inputs.

    Example:
        >>> recording()
        False
        >>> from torch.fx.experimental.proxy_tensor import make_fx
        >>> found = []
        >>> _ = make_fx(lambda x: found.append(recording()) or x + 1)(torch.ones(1))
        >>> found
        [True]
    """
    return (
        torch.compiler.is_compiling()  # first: the compiler sees no further
        or jit_trace() is not None
        or dispatch_mode(PROXY) is not None
        or is_key_included(BEFORE_DISPATCH)
    )


def traced() -> bool:
    """True if a recorder other than ``torch.compile`` and ``torch.export`` is at work, which keeps no code of ours.

    Example:
        >>> traced()
        False
    """
    return not torch.compiler.is_compiling() and recording()
