"""``torch.nn.functional.group_norm`` with an activation, a residual and a mask, exact in every memory format."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from normwise.kernels import aten
from normwise.kernels.choose import Choice
from normwise.kernels.choose_group import choose_group
from normwise.kernels.kernel import Call
from normwise.kernels.recording import traced
from normwise.kernels.torch_activations import activate
from normwise.torch.steps.buffers import transformed
from normwise.torch.steps.call import CPU
from normwise.torch.steps.checks import check_activation, check_dense, check_residual
from normwise.torch.steps.checks_mask import check_mask
from normwise.torch.steps.normalize_samples import finished, rows_normalized

# Activations that cost next to nothing on the way. The compiled backward works the others out twice, once for the sums
# and once for the gradient, which in bfloat16 takes longer than PyTorch's operator behind the norm.
CHEAP = ("relu", "leaky_relu", "relu6", "hardswish")


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""``torch.nn.functional.group_norm`` with an activation, a residual and a mask.

    .. math:: y = f\Big(\gamma \frac{x - \mu_{ng}}{\sqrt{v_{ng} + \epsilon}} + \beta + r\Big)

    with the moments of sample n over the channels of group g and all positions (where ``mask`` is True).

    Args:
        input: (N, C, *spatial), any floating dtype.
        num_groups: G, which divides C.
        weight: :math:`\gamma`, shape (C,), or None for 1.
        bias: :math:`\beta`, shape (C,), or None for 0.
        eps: added to the variance.
        activation: for example ``"relu"``, ``"silu"``, ``"gelu"`` or, with its slope, ``"leaky_relu:0.2"``; None for
            the identity. The error about an unknown name lists all.
        residual: the shape of ``input``, added before the activation, or None.
        mask: boolean, True where a value counts: (N, *spatial), or with an axis for the channels, each axis its full
            size or 1. Where it is False the output is 0 and no gradient flows.

    Returns:
        The shape, dtype and memory format of ``input``.

    Raises:
        RuntimeError: as ``torch.nn.functional.group_norm`` does.
        ValueError: the same; an unknown activation; a residual or a mask of the wrong shape.
        TypeError: a mask that is not boolean, a residual that is not a tensor.

    References:
        Wu and He, Group normalization, 2018.

    Example:
        >>> import torch
        >>> from normwise.torch.functional import group_norm
        >>> x = torch.tensor([[1.0, 3.0, 5.0, 5.0]])
        >>> group_norm(x, 2)
        tensor([[-1.0000,  1.0000,  0.0000,  0.0000]])
    """
    check_dense(input)
    check_activation(activation)
    check_residual(residual, input)
    mask = check_mask(mask, input)
    kernel = choice_for(input, mask=mask).name
    if kernel == "aten":
        return activate(F.group_norm(input, num_groups, weight, bias, eps), activation, residual)
    if not _is_plain(input, num_groups, weight, bias):
        F.group_norm(input, num_groups, weight, bias, eps)  # torch has the words for what is wrong
    if kernel == "cpu" and mask is None and input.is_contiguous():
        fused = activation is None or activation in CHEAP
        call = Call(input, scale=weight, shift=bias, eps=eps)
        if fused:
            return CPU.forward_groups(call._replace(activation=activation, residual=residual), num_groups)
        return activate(CPU.forward_groups(call, num_groups), activation, residual)
    if kernel == "centred":
        return activate(_centred(input, num_groups, weight, bias, eps), activation, residual)
    along = (1, -1, *[1] * (input.dim() - 2))
    normalized = rows_normalized(input, input.shape[0] * num_groups, eps, mask, kernel=kernel)
    scale, shift = (None if parameter is None else parameter.view(along) for parameter in (weight, bias))
    return finished(normalized, input, scale, shift, activation, residual, mask)


def choice_for(input: Tensor, *, mask: Tensor | None) -> Choice:
    """The kernel for this call, and why."""
    compiling = torch.compiler.is_compiling()
    last = not compiling and aten.memory_format(input) is not torch.contiguous_format
    return choose_group(
        input,
        masked=mask is not None,
        channels_last=last,
        compiling=compiling,
        recorded=traced(),
        transformed=transformed(),
    )


def _centred(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Group norm by PyTorch's operator, of x about a rough mean of each group, taken for a constant.

    A constant that is taken from a whole group changes neither the output nor any derivative.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    with torch.no_grad():
        of_channels = x.mean([*range(2, x.dim())], dtype=wide) if x.dim() > 2 else x.to(wide)
        of_groups = of_channels.view(x.shape[0], groups, -1).mean(-1, keepdim=True)
        rough = of_groups.expand(-1, -1, x.shape[1] // groups).reshape(*x.shape[:2], *[1] * (x.dim() - 2))
    scale, shift = (None if parameter is None else parameter.to(wide) for parameter in (weight, bias))
    return F.group_norm(x - rough, groups, scale, shift, eps).to(x.dtype)


def _is_plain(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None) -> bool:
    """True if there is nothing about the arguments that torch might refuse."""
    if x.dim() < 2 or not x.is_floating_point() or groups < 1 or x.shape[1] % groups or x.numel() <= groups:
        return False
    given = [parameter for parameter in (weight, bias) if parameter is not None]
    return (
        all(
            parameter.shape == (x.shape[1],)
            and parameter.device == x.device
            and parameter.dtype in (x.dtype, torch.promote_types(x.dtype, torch.float32))
            for parameter in given
        )
        and len({parameter.dtype for parameter in given}) < 2
    )
