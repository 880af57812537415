"""PyTorch's functions of normalization, in PyTorch's names, with the activation, the residual addition and a mask."""

from normwise.torch.functional.batch_norm import batch_norm
from normwise.torch.functional.group_norm import group_norm
from normwise.torch.functional.instance_norm import instance_norm
from normwise.torch.functional.layer_norm import layer_norm

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm"]
