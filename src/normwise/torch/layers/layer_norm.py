"""Drop-in ``torch.nn.LayerNorm`` with fused activation, residual and mask, and derivatives of every order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normwise.torch.functional.layer_norm import layer_norm
from normwise.torch.layers.left_away import activation_now
from normwise.torch.layers.recordable import Recordable
from normwise.torch.steps.checks import check_activation


class LayerNorm(Recordable, torch.nn.LayerNorm):
    r"""Layer normalization over the last axes, a drop-in for ``torch.nn.LayerNorm``.

    .. math:: y = f\Big(\gamma \frac{x - \mu}{\sqrt{v + \epsilon}} + \beta + r\Big)

    Each place is normalized by itself, so training and inference are the same and there are no running statistics.
    PyTorch's operator does the work: it is exact, and scales and shifts in the same pass. Its third derivative is not
    right; where a graph of the gradient is wanted, it is made from plain PyTorch operations.

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
        >>> import torch
        >>> from normwise.torch import LayerNorm
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
            activation=activation_now(self),
            residual=residual,
            mask=mask,
        )

    def extra_repr(self) -> str:
        """Torch's line, and what is set beyond it."""
        activation = "" if self.activation is None else f", activation={self.activation}"
        return f"{super().extra_repr()}{activation}"
