"""A plain call as a graph of ``torch.compile`` holds it: PyTorch's operator, in one function with few names.

Before each call of a graph, the compiler compares what its code looked up with what is there now: a function in another
file takes three comparisons, a module two, an attribute one. For a small tensor the comparisons of the general way cost
as much as the arithmetic. Nothing is decided here that ``steps/call.py`` would decide otherwise, and what is computed
is that of ``normalize_and_update_by_aten`` and ``take_finite``. What is not plain gets None, and goes the general way.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import batch_norm

from normwise.kernels import choose
from normwise.kernels.torch_activations import ACTIVATIONS
from normwise.torch.steps.checks import residual_matches


def normalize_in_graph(
    x: Tensor,
    residual: Tensor | None,
    parameters: dict[str, Any],
    buffers: dict[str, Any],
    eps: float,
    momentum: float | None,
    training: bool,
    activation: str | None,
) -> Tensor | None:
    """The output, in training with the batch in the running statistics; None if the call is not plain.

    Plain is a call with statistics that are kept and an activation without a setting; in training, of a tensor that is
    small or whose size is not known yet.

    Args:
        x: (N, C, *spatial).
        residual: added before the activation, or None.
        parameters: of the layer, by name.
        buffers: of the layer, by name.
        eps: added to the variance.
        momentum: weight of the new batch.
        training: whether to normalize by the batch.
        activation: a name, or None.

    The caller knows that ``torch.compile`` or ``torch.export`` records the call.

    Raises:
        KeyError: something else stands in the place of a parameter or a buffer, a parametrization for example.
    """
    running_mean, running_var = buffers["running_mean"], buffers["running_var"]
    scale, shift = parameters["weight"], parameters["bias"]
    if choose._ASKED or running_mean is None or running_var is None or x.is_nested:
        return None
    dtype = running_mean.dtype
    if x.dtype is not dtype and not (
        (scale is None or scale.dtype is dtype) and (shift is None or shift.dtype is dtype)
    ):
        return None  # narrow parameters are cast
    function = None if activation is None else ACTIVATIONS.get(activation)
    if (function is None and activation is not None) or (residual is not None and not residual_matches(residual, x)):
        return None
    if not training:
        y = batch_norm(x, running_mean, running_var, scale, shift, eps=eps)
        y = y if residual is None else y.add_(residual)
        return y if function is None else function(y)
    updates, skipped = buffers["num_batches_tracked"], buffers["num_batches_skipped"]
    if (
        momentum is None
        or running_mean.requires_grad
        or running_var.requires_grad
        or (skipped is not None and skipped.is_meta)
        or _is_large(x)
        or x.numel() == 0
    ):
        return None
    mean, var = running_mean.clone(), running_var.clone()
    y = batch_norm(x, mean, var, scale, shift, True, momentum, eps)
    entered = mean.isfinite() & var.isfinite()
    running_mean.copy_(mean.where(entered, running_mean))
    running_var.copy_(var.where(entered, running_var))
    if updates is not None or skipped is not None:
        number = entered.long().sum()  # one for both counters; exporters know no sum of truth values
        if updates is not None:
            updates.add_(number > 0)
        if skipped is not None:
            skipped.add_(number < entered.numel())
    y = y if residual is None else y.add_(residual)
    return y if function is None else function(y)


def _is_large(x: Tensor) -> bool:
    """False for a small tensor, and for a size that is not known yet."""
    from torch.fx.experimental.symbolic_shapes import guard_or_false  # only where something compiles

    return guard_or_false(x.numel() >= choose.SMALL_IN_GRAPH)
