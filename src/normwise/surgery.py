"""Operations on a whole model, whatever framework it is of: each names the layers it touched and is a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normwise.frameworks import framework_of

if TYPE_CHECKING:
    from normwise.torch.fuse import FuseReport


def fuse(model: Any) -> FuseReport:
    """Let the batch norms of a PyTorch model do the activation and the residual addition that follow them.

    Args:
        model: a ``torch.nn.Module``, changed in place; ``normwise.torch.fuse.fuse`` says what stays.

    Returns:
        which batch norms were fused, which were only swapped for normwise's own, and which were left, and why.

    Raises:
        TypeError: not a PyTorch model.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.SiLU())
        >>> fuse(model).fused
        {'1': 'silu'}
    """
    framework = framework_of(model)
    if framework == "torch":
        from normwise.torch.fuse import fuse as fuse_torch

        return fuse_torch(model)
    received = f"a Keras model ({type(model).__name__})" if framework == "keras" else type(model).__name__
    raise TypeError(f"fuse needs a PyTorch model (torch.nn.Module), received {received}: pass the model itself.")
