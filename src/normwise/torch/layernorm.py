"""Drop-in ``torch.nn.LayerNorm`` with fused activation, residual and mask, and derivatives of every order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from normwise.kernels.any_order_layer import differentiable
from normwise.kernels.choose import TRANSFORMED, Choice
from normwise.kernels.choose_group import ONE_PASS, choose_layer
from normwise.kernels.recording import recording
from normwise.kernels.torch_activations import activate
from normwise.torch.buffers import transformed
from normwise.torch.by_sample import finished, rows_normalized
from normwise.torch.checks import check_activation, check_residual
from normwise.torch.recordable import Recordable


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
        activation: a name from ``normwise.kernels.reference_activations``, or None.
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
        >>> layer_norm(torch.tensor([[1.0, 3.0], [5.0, 5.0]]), (2,))
        tensor([[-1.0000,  1.0000],
                [ 0.0000,  0.0000]])
    """
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
    recorded = recording() and not torch.compiler.is_compiling()
    choice = choose_layer(input, masked=mask is not None, recorded=recorded)
    return TRANSFORMED if choice is ONE_PASS and transformed() else choice


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
    if wide.dim() != input.dim() or any(
        mine not in (1, theirs) for mine, theirs in zip(wide.shape, input.shape, strict=True)
    ):
        raise ValueError(
            f"mask must broadcast to the input, {tuple(input.shape)}, or to it without its last axis, "
            f"{tuple(input.shape[:-1])}, received {tuple(mask.shape)}: one entry per position, or one per value."
        )
    return wide


def _is_plain(x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether nothing about the arguments is such that torch might refuse them."""
    given = [parameter for parameter in (weight, bias) if parameter is not None]
    return (
        x.is_floating_point()
        and 0 < len(shape) <= x.dim()
        and x.numel() > 0
        and tuple(x.shape[x.dim() - len(shape) :]) == tuple(shape)
        and all(p.shape == tuple(shape) and p.device == x.device and p.dtype is x.dtype for p in given)
    )


class LayerNorm(Recordable, torch.nn.LayerNorm):
    r"""Layer normalization over the last axes, a drop-in for ``torch.nn.LayerNorm``.

    .. math:: y = f\Big(\gamma \frac{x - \mu}{\sqrt{v + \epsilon}} + \beta + r\Big)

    Each place is normalized by itself, so training and inference are the same and there are no running statistics.
    PyTorch's operator does the work: it is exact, and scales and shifts in the same pass. Its third derivative is not
    right; where a graph of the gradient is wanted, it is made from elementary operations.

    Args:
        normalized_shape: the sizes of the axes that moments are taken over, or the last one's size.
        eps: :math:`\epsilon`, added to the variance.
        elementwise_affine: whether to learn :math:`\gamma` and :math:`\beta`, one per element.
        bias: whether to learn :math:`\beta`.
        device: of the parameters.
        dtype: of the parameters.
        activation: :math:`f`, for example ``"gelu"``; None for the identity.

    ``forward(input, residual=None, *, mask=None)``: the residual is added before the activation; where ``mask``, of
    the input's axes or of all but the last, is False, values do not count, the output is 0, and no gradient flows.

    Raises:
        ValueError: an unknown activation.

    References:
        Ba, Kiros and Hinton, Layer normalization, 2016.

    Example:
        >>> layer = LayerNorm(2, activation="relu")
        >>> layer.load_state_dict(torch.nn.LayerNorm(2).state_dict())
        <All keys matched successfully>
        >>> layer(torch.tensor([[1.0, 3.0], [5.0, 5.0]])).tolist()
        [[0.0, 0.9999949932098389], [0.0, 0.0]]
    """

    def __init__(
        self,
        normalized_shape: int | list[int] | torch.Size,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, bias, device, dtype)
        check_activation(activation)
        self.activation = activation

    def forward(self, input: Tensor, residual: Tensor | None = None, *, mask: Tensor | None = None) -> Tensor:
        """``activation(normalize(input) + residual)``; see ``layer_norm`` for the shapes."""
        return layer_norm(
            input,
            self.normalized_shape,
            self.weight,
            self.bias,
            self.eps,
            activation=self.activation,
            residual=residual,
            mask=mask,
        )

    def extra_repr(self) -> str:
        """Torch's line, and what is set beyond it."""
        activation = "" if self.activation is None else f", activation={self.activation}"
        return f"{super().extra_repr()}{activation}"
