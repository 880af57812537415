"""The rest of a batch norm with an activation or a residual once its affine map is elsewhere."""

from __future__ import annotations

from torch import Tensor, nn

from normwise.kernels.torch_activations import activate
from normwise.torch.layers.left_away import activation_now
from normwise.torch.steps.checks import check_activation


class Activation(nn.Module):
    """``activation(input + residual)``, as a layer with ``activation=`` ends. Not exported: ``fold`` makes it.

    Args:
        activation: its name; None for the identity.

    Raises:
        UnknownName: an unknown activation.

    Example:
        >>> import torch
        >>> Activation("relu")(torch.tensor([-1.0, 2.0]), torch.tensor([2.0, 2.0]))
        tensor([1., 4.])
    """

    def __init__(self, activation: str | None) -> None:
        super().__init__()
        check_activation(activation)
        self.activation = activation

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Both of the same shape."""
        # A new tensor, which activations may change in place.
        y = input.clone() if residual is None else input + residual
        return activate(y, activation_now(self), None)

    def extra_repr(self) -> str:
        """The activation's name."""
        return f"{self.activation}"
