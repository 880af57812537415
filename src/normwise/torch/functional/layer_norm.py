"""``torch.nn.functional.layer_norm`` with an activation, a residual, a mask, and derivatives of every order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from normwise.kernels.choose import Choice
from normwise.kernels.choose_group import choose_layer
from normwise.kernels.recording import traced
from normwise.kernels.torch_activations import activate
from normwise.torch.steps.any_order_layer import differentiable
from normwise.torch.steps.buffers import transformed
from normwise.torch.steps.checks import check_activation, check_dense, check_residual
from normwise.torch.steps.checks_mask import stretches_to
from normwise.torch.steps.normalize_samples import finished, rows_normalized


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""``torch.nn.functional.layer_norm`` with the activation, the residual addition and a mask.

    .. math:: y = f\Big(\gamma \frac{x - \mu}{\sqrt{v + \epsilon}} + \beta + r\Big)

    with the moments over the last axes, those of ``normalized_shape``, for every place along the others.

    Args:
        input: (..., *normalized_shape), any floating dtype.
        normalized_shape: the sizes of the axes that moments are taken over.
        weight: :math:`\gamma`, of ``normalized_shape``, or None for 1.
        bias: :math:`\beta`, of ``normalized_shape``, or None for 0.
        eps: added to the variance.
        activation: for example ``"relu"``, ``"silu"``, ``"gelu"`` or, with its slope, ``"leaky_relu:0.2"``; None for
            the identity. The error about an unknown name lists all.
        residual: the shape of ``input``, added before the activation, or None.
        mask: boolean, True where a value counts: the axes of ``input``, each its full size or 1, or all but the last,
            as the positions of sequences are. Where it is False the output is 0 and no gradient flows; a value
            inside a normalized part that counts only in part does not enter its moments.

    Returns:
        The shape and dtype of ``input``.

    Raises:
        RuntimeError: as ``torch.nn.functional.layer_norm`` does.
        ValueError: an unknown activation; a residual or a mask of the wrong shape.
        TypeError: a mask that is not boolean, a residual that is not a tensor.

    References:
        Ba, Kiros and Hinton, Layer normalization, 2016.

    Example:
        >>> import torch
        >>> from normwise.torch.functional import layer_norm
        >>> layer_norm(torch.tensor([[1.0, 3.0], [5.0, 5.0]]), (2,))
        tensor([[-1.0000,  1.0000],
                [ 0.0000,  0.0000]])
    """
    check_dense(input)
    check_activation(activation)
    check_residual(residual, input)
    mask = check_positions(mask, input)
    kernel = choice_for(input, mask=mask).name
    if kernel == "aten":
        y = differentiable(F.layer_norm(input, normalized_shape, weight, bias, eps), normalized_shape, eps)
        return activate(y, activation, residual)
    if not _is_plain(input, normalized_shape, weight, bias):
        F.layer_norm(input, normalized_shape, weight, bias, eps)  # torch has the words for what is wrong
    rows = math.prod(input.shape[: input.dim() - len(normalized_shape)])
    normalized = rows_normalized(input, rows, eps, mask, kernel=kernel)
    return finished(normalized, input, weight, bias, activation, residual, mask).contiguous()


def choice_for(input: Tensor, *, mask: Tensor | None) -> Choice:
    """The kernel for this call, and why."""
    return choose_layer(input, masked=mask is not None, recorded=traced(), transformed=transformed())


def check_positions(mask: Tensor | None, input: Tensor) -> Tensor | None:
    """The mask with all axes of the input; refuse what does not broadcast."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        received = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a boolean tensor, received {received}: pass for example lengths > positions.")
    if mask.device != input.device:
        raise ValueError(
            f"mask must be on the device of the input, {input.device}, received {mask.device}: move it first."
        )
    wide = mask.unsqueeze(-1) if mask.dim() == input.dim() - 1 else mask
    if not stretches_to(wide, input):
        raise ValueError(
            f"mask must broadcast to the input, {tuple(input.shape)}, or to it without its last axis, "
            f"{tuple(input.shape[:-1])}, received {tuple(mask.shape)}: one entry per position, or one per value."
        )
    return wide


def _is_plain(x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None) -> bool:
    """True if there is nothing about the arguments that torch might refuse."""
    given = [parameter for parameter in (weight, bias) if parameter is not None]
    return (
        x.is_floating_point()
        and 0 < len(shape) <= x.dim()
        and x.numel() > 0
        and tuple(x.shape[x.dim() - len(shape) :]) == tuple(shape)
        and all(p.shape == tuple(shape) and p.device == x.device and p.dtype is x.dtype for p in given)
    )
